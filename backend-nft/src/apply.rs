//! Makes the kernel's table equal to the program: make before break, in three transactions.
//!
//! 1. Create what is new and fill it: nothing refers to it yet.
//! 2. Switch: the frame and the members of what is in use, all at once.
//! 3. Delete what nothing refers to any more.
//!
//! One transaction would not do: a set of ranges that is created together with the rule that looks it up is empty for the
//! packets of that moment, and a packet on its way reads new maps with old chains. Each transaction names the generation
//! it was planned for; if anybody changed nftables in between, the kernel refuses it and we look again.

mod plan;

use std::io;

use netpol_core::backend::{Backend as _, Dataplane, SyncError};
use netpol_core::ir::Ruleset;

use crate::Nft;
use crate::netlink::{Batch, Failure, Observed, Operation, Socket, observe};
use crate::script::Table;
use plan::Plan;

/// How often we look again when others change nftables at the same time.
const ATTEMPTS: u32 = 16;
/// From this attempt on we write even if others wrote something since we looked: they are too many to wait for, and most
/// probably busy with tables of their own.
const IMPATIENT: u32 = 4;

/// The table `inet netpol` of a network namespace: the one that the calling thread is in at the first call.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NftDataplane {
    socket: Option<Socket>,
    /// What was last seen or made, and the generation at which it was so.
    known: Option<(u32, Table)>,
}

impl NftDataplane {
    /// Returns a dataplane. Nothing is touched before the first call.
    #[must_use]
    pub const fn new() -> Self {
        Self { socket: None, known: None }
    }

    fn socket(&mut self) -> Result<&Socket, SyncError> {
        if self.socket.is_none() {
            self.socket = Some(Socket::open().map_err(in_socket)?);
        }
        self.socket.as_ref().ok_or_else(|| in_socket(io::ErrorKind::NotConnected.into()))
    }

    /// Leads the kernel to the table, once.
    fn attempt(&mut self, number: u32, wanted: &Table) -> Result<(), Failure> {
        let known = self.known.take();
        let Some(socket) = &self.socket else { return Err(Failure::Outdated) };
        let generation = socket.generation()?;
        let observed = match known {
            Some((then, table)) if then == generation => {
                Observed { exists: true, foreign: false, table }
            }
            Some(_) | None => observe(socket, wanted)?,
        };
        let guard = (number < IMPATIENT).then_some(generation);
        let guard = Self::lead(socket, guard, &observed, wanted)?;
        self.known = guard.map(|generation| (generation, wanted.clone()));
        Ok(())
    }

    /// Applies the difference; returns the generation after it.
    fn lead(
        socket: &Socket,
        mut generation: Option<u32>,
        observed: &Observed,
        wanted: &Table,
    ) -> Result<Option<u32>, Failure> {
        if observed.foreign {
            // Something of ours has another type than we gave it: a foreign hand, or another version of us. It cannot
            // be changed in place, and its name is taken. One transaction replaces the table; the policy of base
            // chains is accept, so that not even then a drop is lost.
            return commit(socket, generation, &Plan::whole(wanted));
        }
        let mut plan = Plan::between(&observed.table, wanted);
        if !observed.exists {
            plan.create.insert(0, Operation::NewTable);
        }
        generation = commit(socket, generation, &plan.create)?;
        generation = match commit(socket, generation, &plan.switch) {
            Ok(generation) => generation,
            Err(failure) => {
                // What was created is out of use. Should this fail too, the next look finds and deletes it.
                let _ = commit(socket, None, &plan.undo);
                return Err(failure);
            }
        };
        commit(socket, generation, &plan.delete)
    }

    /// Returns the generation of the namespace's nftables, which every change of anybody's raises: where it stands
    /// still, nothing was written.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn generation(&mut self) -> Result<u32, SyncError> {
        let mut generation = 0;
        self.insist(|dataplane, _| {
            let Some(socket) = &dataplane.socket else { return Err(Failure::Outdated) };
            generation = socket.generation()?;
            Ok(())
        })?;
        Ok(generation)
    }

    fn insist(
        &mut self,
        mut attempt: impl FnMut(&mut Self, u32) -> Result<(), Failure>,
    ) -> Result<(), SyncError> {
        self.socket()?;
        for number in 0..ATTEMPTS {
            match attempt(self, number) {
                Ok(()) => return Ok(()),
                Err(Failure::Outdated) => {
                    // Answers that were lost may still be on their way: they belong to the old socket.
                    self.socket = None;
                    self.socket()?;
                }
                Err(Failure::Socket(error)) => {
                    self.socket = None;
                    return Err(in_socket(error));
                }
                Err(Failure::Refused { object, source }) => {
                    return Err(SyncError::refused(object, source));
                }
            }
        }
        Err(SyncError::refused("table inet netpol", Busy))
    }
}

impl Dataplane for NftDataplane {
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        let script = Nft::default().lower(ruleset)?;
        self.insist(|dataplane, number| dataplane.attempt(number, script.table()))
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        self.known = None;
        self.insist(|dataplane, _| {
            let Some(socket) = &dataplane.socket else { return Err(Failure::Outdated) };
            // Adding first makes it hold also where there is none.
            commit(socket, None, &[Operation::NewTable, Operation::DeleteTable]).map(drop)
        })
    }
}

/// Somebody changes nftables faster than we can look.
#[derive(Debug, thiserror::Error)]
#[error("nftables changed {ATTEMPTS} times in a row while it was looked at")]
struct Busy;

/// Applies operations as one transaction, if there are any; returns the generation after it.
fn commit(
    socket: &Socket,
    generation: Option<u32>,
    operations: &[Operation<'_>],
) -> Result<Option<u32>, Failure> {
    if operations.is_empty() {
        return Ok(generation);
    }
    let mut batch = Batch::new(generation);
    operations.iter().for_each(|operation| batch.push(operation));
    if batch.is_empty() {
        return Ok(generation);
    }
    batch.commit(socket)?;
    // The kernel counts up, and leaves zero out.
    Ok(generation.map(|generation| generation.checked_add(1).unwrap_or(1)))
}

fn not_permitted() -> SyncError {
    SyncError::Missing {
        what: "the privilege to change nftables".into(),
        hint: "run as root or with CAP_NET_ADMIN in the network namespace".into(),
    }
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
