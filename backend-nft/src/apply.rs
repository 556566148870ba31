//! Makes the kernel's table equal to the program: make before break, in three transactions.
//!
//! 1. Create what is new and fill it: nothing refers to it yet.
//! 2. Switch: the frame and the members of what is in use, all at once.
//! 3. Delete what nothing refers to any more; behind an update, later and for many updates at once.
//!
//! One transaction would not do: a set of ranges that is created together with the rule that looks it up is empty for the
//! packets of that moment, and a packet on its way reads new maps with old chains. Each transaction names the generation
//! it was planned for; if anybody changed nftables in between, the kernel refuses it and we look again.

mod clearing;
mod drift;
mod ownership;
mod plan;
mod settling;
mod steps;
mod sync;
mod tell;
mod transaction;
mod under_way;
mod update;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use std::path::PathBuf;
use std::time::Instant;
use std::{fs, io};

use netpol_core::backend::{Counter, Dataplane, Denials, Drift, Established, SyncError, Updated};
use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;

use crate::lower::Lowering;
use crate::netlink::{Failure, Holder, Holding, Listener, Operation, Socket, can_own, holder};
use crate::script::{Chain, Counted, Name};
use crate::{NftOptions, Ownership};
use clearing::Leftover;
use ownership::{cannot_own, owned};
use settling::Settling;
use tell::Denying;
use transaction::{Fault, Transactions};
use under_way::Unsettled;

/// The base chain that lets pass what was judged before.
const BASE: &str = "forward";
/// How long, and how often at the least, we look again when others change nftables at the same time.
///
/// A look is a few questions for each set, and is lost if anybody's transaction falls between the two halves of an answer: of
/// a program that writes in a loop some hit one look in two, and nearly all where the machine is so busy that we are stopped in
/// the middle. So a number alone is no bound for how long it takes to get through.
const PATIENCE: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 16;
/// How often names are given anew until none is taken by another content.
const ROUNDS: usize = 4;
/// From this attempt on we write even if others wrote something since we looked: they are too many to wait for, and most
/// probably busy with tables of their own.
const IMPATIENT: u32 = 4;

/// The table `inet netpol` of the network namespace that the calling thread is in.
///
/// It remembers one namespace, so that syncing that one again costs the difference only.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NftDataplane {
    options: NftOptions,
    connection: Option<Connection>,
    /// What goes wrong on purpose.
    fault: Fault,
}

impl NftDataplane {
    /// Returns a dataplane. Nothing is touched before the first call.
    #[must_use]
    pub fn new() -> Self {
        Self::with_options(NftOptions::default())
    }

    /// Returns a dataplane as an embedder chooses. Nothing is touched before the first call.
    #[must_use]
    pub const fn with_options(options: NftOptions) -> Self {
        Self { options, connection: None, fault: Fault::None }
    }

    /// Says what becomes of open connections that a later ruleset denies.
    #[must_use]
    pub fn with_established(self, established: Established) -> Self {
        Self { options: NftOptions { established, ..self.options }, ..self }
    }

    /// Says whether others may change the table.
    #[must_use]
    pub fn with_ownership(self, ownership: Ownership) -> Self {
        Self { options: NftOptions { ownership, ..self.options }, ..self }
    }

    /// Returns whether the kernel knows tables that are owned and outlive their owner, as [`Ownership::Required`] asks for. Leaves
    /// no trace.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn can_own_table(&mut self) -> Result<bool, SyncError> {
        let mut can = false;
        self.insist(|connection, _| {
            can = can_own(&connection.socket)?;
            Ok(())
        })?;
        Ok(can)
    }

    /// Returns whether the table is there and nobody but this value can change it: what [`Ownership::Preferred`] came to.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn owns_table(&mut self) -> Result<bool, SyncError> {
        let mut owns = false;
        self.insist(|connection, _| {
            owns = holder(&connection.socket)? == Some(Holder::Us);
            Ok(())
        })?;
        Ok(owns)
    }

    /// Returns the generation of the namespace's nftables, which every change of anybody's raises: where it stands
    /// still, nothing was written.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn generation(&mut self) -> Result<u32, SyncError> {
        let mut generation = 0;
        self.insist(|connection, _| {
            generation = connection.socket.generation()?;
            Ok(())
        })?;
        Ok(generation)
    }

    /// Has the kernel refuse a message of the next call, counted from 0.
    #[cfg(feature = "kernel-tests")]
    #[doc(hidden)]
    pub const fn refuse(&mut self, message: usize) {
        self.fault = Fault::Refuse(message);
    }

    /// Has the kernel refuse a message of the next call, and whatever that tries then.
    #[cfg(feature = "kernel-tests")]
    #[doc(hidden)]
    pub const fn refuse_from(&mut self, message: usize) {
        self.fault = Fault::RefuseFrom(message);
    }

    /// Has the next sync end before a transaction, counted from 0, as if the process was killed.
    #[cfg(feature = "kernel-tests")]
    #[doc(hidden)]
    pub const fn end_before(&mut self, transaction: usize) {
        self.fault = Fault::End(transaction);
    }

    /// Repeats an attempt until nobody else's change comes in between.
    fn insist(
        &mut self,
        mut attempt: impl FnMut(&mut Connection, u32) -> Result<(), Failure>,
    ) -> Result<(), SyncError> {
        let begun = Instant::now();
        let mut number = 0;
        while number < ATTEMPTS || begun.elapsed() < PATIENCE {
            let kept = self.connection.take().filter(Connection::is_here);
            let ownership = self.options.ownership;
            let open = || Connection::open(ownership);
            let mut connection = kept.map_or_else(open, Ok).map_err(in_socket)?;
            match attempt(&mut connection, number) {
                Ok(()) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(Failure::Outdated | Failure::Gone) => {
                    // The socket may own the table: it is given up only where it is of no use any more.
                    self.connection = Some(connection).filter(|kept| kept.socket.drain());
                    number += 1;
                }
                Err(Failure::Socket(error)) => return Err(in_socket(error)),
                Err(Failure::Owned(socket)) => return Err(owned(socket)),
                Err(Failure::CannotOwn) => return Err(cannot_own()),
                Err(Failure::Refused { object, source, .. }) => {
                    // What was known went with the attempt; the socket is as good as before, and who listens goes on.
                    self.connection = Some(connection);
                    return Err(SyncError::refused(object, source));
                }
            }
        }
        Err(SyncError::refused("table inet netpol", Busy(number)))
    }
}

impl Dataplane for NftDataplane {
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        let mut fault = core::mem::take(&mut self.fault);
        let style = self.options.style();
        self.insist(|connection, number| {
            connection.lead_to(ruleset, style, number, core::mem::take(&mut fault))
        })
    }

    fn update(&mut self, ruleset: &Ruleset, delta: &Delta) -> Result<Updated, SyncError> {
        if let Some(connection) = self.connection.as_mut().filter(|connection| connection.is_here())
        {
            let fault = core::mem::take(&mut self.fault);
            match connection.update(ruleset, delta, fault) {
                Ok(true) => return Ok(Updated::ByDelta),
                // Whatever it was: a look will tell, and a sync says what it cannot do.
                Ok(false) => self.fault = fault,
                Err(failure) => {
                    self.fault = fault.again();
                    if matches!(failure, Failure::Socket(_)) {
                        self.connection = None;
                    }
                }
            }
        }
        self.sync(ruleset).map(|()| Updated::BySync)
    }

    fn verify(&mut self, ruleset: &Ruleset) -> Result<Vec<Drift>, SyncError> {
        let (mut found, style) = (Vec::new(), self.options.style());
        self.insist(|connection, _| {
            found = connection.compare(ruleset, style)?;
            Ok(())
        })?;
        Ok(found)
    }

    fn may_have_drifted(&mut self) -> Result<bool, SyncError> {
        let mut drifted = true;
        self.insist(|connection, _| {
            drifted = connection.has_drifted()?;
            Ok(())
        })?;
        Ok(drifted)
    }

    fn counters(&mut self) -> Result<Vec<Counter>, SyncError> {
        let mut counters = None;
        if let Some(connection) = self.connection.as_mut().filter(|connection| connection.is_here())
        {
            counters = match connection.count() {
                Err(Failure::Gone | Failure::Outdated) => connection.count(),
                counted => counted,
            }
            .map_err(|failure| match failure {
                Failure::Socket(error) => in_socket(error),
                Failure::Refused { object, source, .. } => SyncError::refused(object, source),
                Failure::Owned(socket) => owned(socket),
                Failure::CannotOwn => cannot_own(),
                Failure::Outdated | Failure::Gone => {
                    SyncError::refused("table inet netpol", Busy(2))
                }
            })?;
        }
        counters.ok_or_else(|| SyncError::Missing {
            what: "the ruleset that is counted".into(),
            hint: "sync first; a table of a predecessor does not say what its rules stand for"
                .into(),
        })
    }

    fn denials(&mut self) -> Result<Denials, SyncError> {
        let Some(group) = self.options.log_group else { return Ok(Denials::default()) };
        // A connection that is dropped would take unread reports with it, so nothing is repeated.
        if self.connection.as_ref().is_none_or(|connection| !connection.is_here()) {
            let connection = Connection::open(self.options.ownership).map_err(in_socket)?;
            self.connection = Some(connection);
        }
        let connection = self.connection.as_mut().map(|connection| connection.denied(group));
        match connection {
            None => Ok(Denials::default()),
            Some(Ok(denials)) => Ok(denials),
            Some(Err(Failure::Socket(error))) => Err(in_log(group, error)),
            Some(Err(_)) => Err(SyncError::refused("netfilter's log", Busy(1))),
        }
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        self.insist(|connection, _| {
            connection.look();
            connection.known = None;
            if let Some(Holder::Another(socket)) = holder(&connection.socket)? {
                return Err(Failure::Owned(socket));
            }
            // Adding first makes it hold also where there is none.
            let new = Operation::NewTable(Holding::Shared);
            Transactions::new(&connection.socket, None, Fault::None)
                .commit(&[new, Operation::DeleteTable])
        })
    }
}

/// A socket to one network namespace, and what is known of it.
#[derive(Debug)]
struct Connection {
    namespace: Option<Namespace>,
    socket: Socket,
    ownership: Ownership,
    /// Whether the kernel knows tables that are owned, if it was asked.
    can_own: Option<bool>,
    /// What was last made, and the generation at which it was so.
    known: Option<(u32, Lowering)>,
    /// Who may change what is known.
    holder: Option<Holder>,
    /// Hears of others' changes, once somebody asked.
    listener: Option<Listener>,
    /// Hears of denied flows, once somebody asked.
    denying: Option<Denying>,
    /// What reports begin with, and what that stands for.
    causes: BTreeMap<String, Arc<Counted>>,
    /// Somebody else changed what is ours, or may have, since we last looked.
    drifted: bool,
    /// What packets under way may have seen otherwise than it is, and who waits for them.
    unsettled: Unsettled,
    settling: Settling,
    /// What changes left for later.
    leftover: Option<Leftover>,
}

/// A network namespace by its inode, as the system writes it: unique as long as it lives, and a socket keeps it alive.
type Namespace = PathBuf;

/// Returns the network namespace of the calling thread, if the system tells. Reading the link costs half of following it.
fn here() -> Option<Namespace> {
    fs::read_link("/proc/thread-self/ns/net").ok()
}

impl Connection {
    fn open(ownership: Ownership) -> io::Result<Self> {
        let (namespace, socket) = (here(), Socket::open()?);
        Ok(Self {
            namespace,
            socket,
            ownership,
            can_own: None,
            known: None,
            holder: None,
            listener: None,
            denying: None,
            causes: BTreeMap::new(),
            drifted: true,
            unsettled: Unsettled::default(),
            settling: Settling::default(),
            leftover: None,
        })
    }

    /// Returns whether the calling thread is certainly in the connection's namespace.
    fn is_here(&self) -> bool {
        self.namespace.is_some() && self.namespace == here()
    }
}

/// Somebody changes nftables faster than we can look.
#[derive(Debug, thiserror::Error)]
#[error("nftables changed {0} times in a row while it was looked at")]
struct Busy(u32);

/// Puts other rules into a chain.
fn replacement<'a>(name: &'a Name, chain: &'a Chain) -> [Operation<'a>; 2] {
    [Operation::Flush(name), Operation::AddRules(name, &chain.rules)]
}

fn not_permitted() -> SyncError {
    SyncError::Missing {
        what: "the privilege to change nftables".into(),
        hint: "run as root or with CAP_NET_ADMIN in the network namespace".into(),
    }
}

fn in_log(group: u16, error: io::Error) -> SyncError {
    if error.kind() == io::ErrorKind::ResourceBusy || error.raw_os_error() == Some(libc::EBUSY) {
        return SyncError::Missing {
            what: alloc::format!("group {group} of netfilter's log"),
            hint: "another program listens to it; choose another group".into(),
        };
    }
    in_socket(error)
}

fn in_socket(error: io::Error) -> SyncError {
    let kind = error.kind();
    if kind == io::ErrorKind::PermissionDenied {
        not_permitted()
    } else if kind == io::ErrorKind::Unsupported {
        SyncError::Missing {
            what: "nf_tables in the kernel".into(),
            hint: "load the module nf_tables, or use a kernel with CONFIG_NF_TABLES_INET".into(),
        }
    } else {
        SyncError::refused("the netlink socket", error)
    }
}
