//! Who may change the table.

use super::batch::{Batch, Failure};
use super::message::{CREATE, Kind};
use super::object::Operation;
use super::socket::Socket;
use crate::script::TABLE;

/// `NFT_TABLE_F_DORMANT`, `NFT_TABLE_F_OWNER`, `NFT_TABLE_F_PERSIST`.
const DORMANT: u32 = 1;
const OWNER: u32 = 2;
const PERSIST: u32 = 4;
/// Nobody's: it is made for a transaction that fails.
const PROBE: &str = "netpol-probe";

/// Who may change a table that is made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Holding {
    /// Anybody.
    #[default]
    Shared,
    /// The socket that makes it, as long as there is one. It outlives that.
    Owned,
}

/// Who may change a table that is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Holder {
    /// Anybody, for ever.
    Anybody,
    /// Anybody, until somebody takes it over.
    Nobody,
    /// This socket.
    Us,
    /// The socket of this number.
    Another(u32),
}

/// What is known of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Flags {
    pub(super) holder: Holder,
    /// Its base chains see no packets.
    pub(super) is_dormant: bool,
}

impl Batch {
    pub(super) fn new_table(&mut self, name: &str, holding: Holding) {
        self.message(Kind::NewTable, CREATE, ("table", None), |writer| {
            writer.text(1, name);
            match holding {
                Holding::Shared => {}
                Holding::Owned => writer.number(2, OWNER | PERSIST),
            }
        });
    }
}

/// Returns what our table is; `None` where there is none.
pub(super) fn flags(socket: &Socket) -> Result<Option<Flags>, Failure> {
    let us = socket.port().map_err(Failure::Socket)?;
    let answer = socket.ask(
        Kind::GetTable,
        |writer| writer.text(1, TABLE),
        |message| (message.attributes().number(2).unwrap_or(0), message.attributes().number(7)),
    )?;
    let Some((flags, owner)) = answer else { return Ok(None) };
    let holder = match owner {
        Some(owner) if owner == us => Holder::Us,
        Some(owner) => Holder::Another(owner),
        None if flags & PERSIST != 0 => Holder::Nobody,
        None => Holder::Anybody,
    };
    Ok(Some(Flags { holder, is_dormant: flags & DORMANT != 0 }))
}

/// Returns who may change our table; `None` where there is none.
pub(crate) fn holder(socket: &Socket) -> Result<Option<Holder>, Failure> {
    Ok(flags(socket)?.map(|flags| flags.holder))
}

/// Returns whether the kernel knows tables that are owned and outlive their owner: asked by a transaction that cannot succeed.
pub(crate) fn can_own(socket: &Socket) -> Result<bool, Failure> {
    let mut batch = Batch::new(None);
    batch.new_table(PROBE, Holding::Owned);
    batch.push(&Operation::DeleteChain(&"no-such-chain".into()));
    match batch.commit(socket) {
        Err(Failure::Refused { source, .. }) => match source.error.raw_os_error() {
            Some(libc::ENOENT) => Ok(true),
            Some(libc::EOPNOTSUPP | libc::EINVAL) => Ok(false),
            Some(_) | None => Err(Failure::Socket(source.error)),
        },
        Err(failure) => Err(failure),
        // Somebody made a chain of that name, and it is gone.
        Ok(()) => Err(Failure::Outdated),
    }
}
