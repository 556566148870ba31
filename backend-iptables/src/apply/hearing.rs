//! Whether others may have changed what is ours, asked so cheaply that it can be asked often.
//!
//! Nobody tells of changes to sets or to the old tables, so numbers are compared that nearly every change moves: of rules,
//! nf_tables' generation, or the size of the old table; of sets, their names and how many members they have. What these do
//! not show is found after a while.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::time::Duration;
use std::io;
use std::time::Instant;

use netpol_core::backend::SyncError;
use netpol_core::ir::Family;

use super::variant::Variant;
use crate::netlink::{Ipset, Socket, generation, legacy_table};
use crate::restore::PREFIX;

/// Everything is looked at after so long, whatever the numbers say.
const UNHEARD: Duration = Duration::from_secs(15);
/// Sets are asked for at most this often: there are many of them.
const SETS: Duration = Duration::from_millis(200);

/// What was said when we last looked or wrote; `None` where that is not known, and whatever is there is taken for ours.
#[derive(Debug)]
pub(super) struct Hearing {
    socket: Option<Socket>,
    rules: Option<Rules>,
    sets: Option<BTreeMap<String, Option<u32>>>,
    asked_for_sets: Instant,
    looked: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rules {
    Generation(u32),
    Sizes([[u8; 84]; 2]),
}

impl Hearing {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { socket: None, rules: None, sets: None, asked_for_sets: now, looked: now }
    }

    /// Everything is looked at now.
    pub(super) fn looks(&mut self, variant: Variant, ipset: &Ipset) {
        (self.rules, self.sets) = (self.rules(variant).ok(), ipset.sizes(PREFIX).ok());
        self.looked = Instant::now();
    }

    /// We have written: what is there now is ours.
    pub(super) fn wrote(&mut self, variant: Variant) {
        (self.rules, self.sets) = (self.rules(variant).ok(), None);
    }

    /// We have destroyed sets that were of no use any more.
    pub(super) fn destroyed<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        for name in names {
            self.sets.as_mut().and_then(|sets| sets.remove(name));
        }
    }

    pub(super) fn may_have_drifted(
        &mut self,
        variant: Variant,
        ipset: &Ipset,
    ) -> Result<bool, SyncError> {
        if self.looked.elapsed() > UNHEARD {
            return Ok(true);
        }
        let unheard = |error| SyncError::refused("the numbers of the rules", error);
        let rules = self.rules(variant).map_err(unheard)?;
        if *self.rules.get_or_insert(rules) != rules {
            return Ok(true);
        }
        if self.sets.is_some() && self.asked_for_sets.elapsed() < SETS {
            return Ok(false);
        }
        let sets = ipset.sizes(PREFIX).map_err(|error| error.about("the sets `NETPOL-*`"))?;
        self.asked_for_sets = Instant::now();
        Ok(self.sets.get_or_insert_with(|| sets.clone()) != &sets)
    }

    fn rules(&mut self, variant: Variant) -> io::Result<Rules> {
        Ok(match variant {
            Variant::Legacy => Rules::Sizes([legacy_table(Family::V4)?, legacy_table(Family::V6)?]),
            Variant::Nft => {
                let socket = match self.socket.take() {
                    Some(socket) => socket,
                    None => Socket::open()?,
                };
                let generation = generation(&socket)?;
                // A socket that failed is not asked again: its answer may still come.
                self.socket = Some(socket);
                Rules::Generation(generation)
            }
        })
    }
}
