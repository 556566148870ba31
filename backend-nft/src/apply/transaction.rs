//! Transactions one behind the other, each bound to the generation the last one made.

use alloc::string::String;
#[cfg(feature = "kernel-tests")]
use std::io;

use crate::netlink::{Batch, Failure, Operation, Socket};

/// What goes wrong on purpose, for tests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The kernel refuses the message of this number, counted over all transactions from 0.
    #[cfg(feature = "kernel-tests")]
    Refuse(usize),
    /// The same, and from then on the first message of every transaction.
    #[cfg(feature = "kernel-tests")]
    RefuseFrom(usize),
    /// The process ends before the transaction of this number, counted from 0.
    #[cfg(feature = "kernel-tests")]
    End(usize),
}

impl Fault {
    /// Returns what goes wrong in another attempt, behind one in which this did.
    pub(super) const fn again(self) -> Self {
        match self {
            Self::None => Self::None,
            #[cfg(feature = "kernel-tests")]
            Self::RefuseFrom(_) => Self::RefuseFrom(0),
            #[cfg(feature = "kernel-tests")]
            Self::Refuse(_) | Self::End(_) => Self::None,
        }
    }
}

/// A transaction of so many bytes is long enough where several do as well. The kernel is quickest with those that stay in its
/// processor's caches, and none needs a longer buffer than every socket has.
const LONG: usize = 64_000;
/// Behind so many, others are twice as long: at the end of each the kernel goes through all chains.
const MANY: u32 = 16;

/// How rules and entries of maps are added of which packets see nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Additions {
    /// In one transaction, to a table in force: the kernel goes through all its rules for each that adds some.
    AtOnce,
    /// In pieces, to one that is not in force yet.
    InPieces,
}

/// Where a sequence of transactions stands.
#[derive(Debug)]
pub(super) struct Transactions<'a> {
    socket: &'a Socket,
    /// The generation that must not have moved; `None` writes in any case.
    pub(super) generation: Option<u32>,
    pub(super) fault: Fault,
}

impl<'a> Transactions<'a> {
    pub(super) const fn new(socket: &'a Socket, generation: Option<u32>, fault: Fault) -> Self {
        Self { socket, generation, fault }
    }

    /// Applies operations as one transaction, if there are any.
    pub(super) fn commit(&mut self, operations: &[Operation<'_>]) -> Result<(), Failure> {
        let mut batch = Batch::new(self.generation);
        for operation in operations {
            batch.push(operation);
        }
        self.apply(batch)
    }

    /// Applies operations of which packets see nothing as transactions of a convenient length.
    ///
    /// # Errors
    /// Also says how many of the operations were begun in transactions that were applied.
    pub(super) fn fill(
        &mut self,
        operations: &[Operation<'_>],
        additions: Additions,
    ) -> Result<(), (usize, Failure)> {
        let (mut batch, mut begun) = (Batch::new(self.generation), 0);
        let (mut long, mut applied) = (LONG, 0);
        for (number, operation) in operations.iter().enumerate() {
            let mut messages = operation.messages();
            let is_whole = additions == Additions::AtOnce && operation.adds_verdicts();
            while messages.push_next(&mut batch) {
                if batch.bytes() >= long && !is_whole {
                    self.apply(batch).map_err(|failure| (begun, failure))?;
                    begun = number + 1;
                    batch = Batch::new(self.generation);
                    applied += 1;
                    if applied % MANY == 0 {
                        long = self.socket.long_enough(long * 2);
                    }
                }
            }
        }
        self.apply(batch).map_err(|failure| (begun, failure))
    }

    fn apply(&mut self, mut batch: Batch) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        let spoilt = self.fail(&mut batch)?;
        let applied = batch.commit(self.socket);
        if let (Some(spoilt), Err(Failure::Refused { object, .. })) = (&spoilt, &applied) {
            // INVARIANT (names): what is refused is named, whichever message it is.
            debug_assert_eq!(spoilt, object);
        }
        applied?;
        // The kernel counts up, and leaves zero out.
        self.generation = self.generation.map(|number| number.checked_add(1).unwrap_or(1));
        Ok(())
    }

    /// Takes back what a transaction created, whatever others did.
    pub(super) fn undo(&self, operations: &[Operation<'_>]) -> Result<(), Failure> {
        Transactions::new(self.socket, None, Fault::None).commit(operations)
    }

    /// Goes wrong, if this is where it should. Returns the object that will be refused.
    #[cfg(not(feature = "kernel-tests"))]
    const fn fail(&self, _: &mut Batch) -> Result<Option<String>, Failure> {
        match self.fault {
            Fault::None => Ok(None),
        }
    }

    /// Goes wrong, if this is where it should. Returns the object that will be refused.
    #[cfg(feature = "kernel-tests")]
    fn fail(&mut self, batch: &mut Batch) -> Result<Option<String>, Failure> {
        match self.fault {
            Fault::None => Ok(None),
            Fault::Refuse(number) if number < batch.len() => {
                self.fault = Fault::None;
                Ok(Some(batch.spoil(number)))
            }
            Fault::RefuseFrom(number) if number < batch.len() => {
                self.fault = Fault::RefuseFrom(0);
                Ok(Some(batch.spoil(number)))
            }
            Fault::Refuse(number) => {
                self.fault = Fault::Refuse(number - batch.len());
                Ok(None)
            }
            Fault::RefuseFrom(number) => {
                self.fault = Fault::RefuseFrom(number - batch.len());
                Ok(None)
            }
            Fault::End(0) => Err(Failure::Socket(io::ErrorKind::BrokenPipe.into())),
            Fault::End(number) => {
                self.fault = Fault::End(number - 1);
                Ok(None)
            }
        }
    }

    /// Returns whether the process is made to end here, without tidying up.
    pub(super) const fn is_ended(&self) -> bool {
        match self.fault {
            Fault::None => false,
            #[cfg(feature = "kernel-tests")]
            Fault::Refuse(_) | Fault::RefuseFrom(_) => false,
            #[cfg(feature = "kernel-tests")]
            Fault::End(_) => true,
        }
    }
}
