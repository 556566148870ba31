//! Transactions one behind the other, each bound to the generation the last one made.

#[cfg(feature = "kernel-tests")]
use std::io;

use crate::netlink::{Batch, Failure, Operation, Socket};

/// What goes wrong on purpose, for tests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The kernel refuses the operation of this number, counted over all transactions from 0.
    #[cfg(feature = "kernel-tests")]
    Refuse(usize),
    /// The process ends before the transaction of this number, counted from 0.
    #[cfg(feature = "kernel-tests")]
    End(usize),
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
            self.refuse(&mut batch);
            batch.push(operation);
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.end()?;
        batch.commit(self.socket)?;
        // The kernel counts up, and leaves zero out.
        self.generation = self.generation.map(|number| number.checked_add(1).unwrap_or(1));
        Ok(())
    }

    /// Takes back what a transaction created, whatever others did.
    pub(super) fn undo(&self, operations: &[Operation<'_>]) -> Result<(), Failure> {
        Transactions::new(self.socket, None, Fault::None).commit(operations)
    }

    #[cfg(not(feature = "kernel-tests"))]
    const fn refuse(&self, _: &mut Batch) {}

    #[cfg(not(feature = "kernel-tests"))]
    fn end(&self) -> Result<(), Failure> {
        match self.fault {
            Fault::None => Ok(()),
        }
    }

    #[cfg(feature = "kernel-tests")]
    fn refuse(&mut self, batch: &mut Batch) {
        match self.fault {
            Fault::None | Fault::End(_) => {}
            Fault::Refuse(0) => {
                batch.push(&Operation::DeleteChain(&"no-such-chain".into()));
                self.fault = Fault::None;
            }
            Fault::Refuse(number) => self.fault = Fault::Refuse(number - 1),
        }
    }

    #[cfg(feature = "kernel-tests")]
    fn end(&mut self) -> Result<(), Failure> {
        match self.fault {
            Fault::None | Fault::Refuse(_) => Ok(()),
            Fault::End(0) => Err(Failure::Socket(io::ErrorKind::BrokenPipe.into())),
            Fault::End(number) => {
                self.fault = Fault::End(number - 1);
                Ok(())
            }
        }
    }

    /// Returns whether the process is made to end here, without tidying up.
    pub(super) const fn is_ended(&self) -> bool {
        match self.fault {
            Fault::None => false,
            #[cfg(feature = "kernel-tests")]
            Fault::Refuse(_) => false,
            #[cfg(feature = "kernel-tests")]
            Fault::End(_) => true,
        }
    }
}
