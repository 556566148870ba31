//! Whose table it is: found there, made or taken over.

use netpol_core::backend::SyncError;

use super::Connection;
use crate::Ownership;
use crate::netlink::{Failure, Holder, Holding, Observed, can_own};

/// What is to be done with the table itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Claim {
    /// Nothing.
    Keep,
    /// It is made where there is none.
    Make(Holding),
    /// It is taken over as it is.
    Take(Holding),
    /// It is made anew, in place of the one that is there.
    Replace(Holding),
}

impl Connection {
    /// Returns what is to be done with the table that was found.
    pub(super) fn claim(&mut self, observed: &Observed) -> Result<Claim, Failure> {
        let holder = observed.holder;
        if let Some(Holder::Another(socket)) = holder {
            return Err(Failure::Owned(socket));
        }
        let unheld = holder == Some(Holder::Anybody);
        let replaced = observed.foreign || (self.ownership == Ownership::Required && unheld);
        let made = replaced || holder.is_none();
        let holding = match self.ownership {
            Ownership::Shared => Holding::Shared,
            Ownership::Preferred if unheld && !made => Holding::Shared,
            Ownership::Preferred | Ownership::Required => {
                match (self.can_own(holder)?, self.ownership) {
                    (true, _) => Holding::Owned,
                    (false, Ownership::Required) => return Err(Failure::CannotOwn),
                    (false, Ownership::Preferred | Ownership::Shared) => Holding::Shared,
                }
            }
        };
        let taken = holding == Holding::Owned && holder == Some(Holder::Nobody);
        Ok(match (replaced, made, taken) {
            (true, _, _) => Claim::Replace(holding),
            (false, true, _) => Claim::Make(holding),
            (false, false, true) => Claim::Take(holding),
            (false, false, false) => Claim::Keep,
        })
    }

    /// Returns whether the kernel knows tables that are owned.
    fn can_own(&mut self, holder: Option<Holder>) -> Result<bool, Failure> {
        if matches!(holder, Some(Holder::Us | Holder::Nobody)) {
            return Ok(true); // There is one.
        }
        let can = match self.can_own {
            Some(can) => can,
            None => can_own(&self.socket)?,
        };
        self.can_own = Some(can);
        Ok(can)
    }
}

impl Claim {
    /// Returns who may change the table behind it.
    pub(super) const fn holder(self, before: Option<Holder>) -> Option<Holder> {
        match self {
            Self::Keep => before,
            Self::Make(holding) | Self::Take(holding) | Self::Replace(holding) => match holding {
                Holding::Owned => Some(Holder::Us),
                Holding::Shared => Some(Holder::Anybody),
            },
        }
    }
}

/// Another socket's table is not touched.
#[derive(Debug, thiserror::Error)]
#[error(
    "netlink socket {socket} of another process owns it, and nobody else can change it until that ends"
)]
struct Owned {
    socket: u32,
}

pub(super) fn owned(socket: u32) -> SyncError {
    SyncError::refused("table inet netpol", Owned { socket })
}

pub(super) fn cannot_own() -> SyncError {
    SyncError::Missing {
        what: "a table that is owned and outlives its owner (the flags owner and persist)".into(),
        hint: "use Linux 6.9 or newer, or let others change the table (`Ownership::Preferred` or `Shared`)".into(),
    }
}
