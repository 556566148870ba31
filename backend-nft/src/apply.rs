//! Makes the kernel's table equal to the program: make before break, in three transactions.
//!
//! 1. Create what is new and fill it: nothing refers to it yet.
//! 2. Switch: the frame and the members of what is in use, all at once.
//! 3. Delete what nothing refers to any more.
//!
//! One transaction would not do: a set of ranges that is created together with the rule that looks it up is empty for the
//! packets of that moment, and a packet on its way reads new maps with old chains.

mod listing;
mod nft;
mod plan;

use netpol_core::backend::{Backend as _, Dataplane, SyncError};
use netpol_core::ir::Ruleset;

use crate::Nft;
use crate::script::TABLE;
use listing::Listing;
use plan::Plan;

/// The table `inet netpol` of the network namespace that the calling thread is in.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NftDataplane {}

impl NftDataplane {
    /// Returns the dataplane of the calling thread's network namespace. Nothing is touched before the first
    /// [`sync`](Dataplane::sync).
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }

    /// Switches from what is there, however it came there.
    fn switch(plan: &Plan<'_>) -> Result<(), SyncError> {
        for transaction in plan.transactions() {
            nft::load(&transaction)?;
        }
        Ok(())
    }
}

impl Dataplane for NftDataplane {
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        let script = Nft::default().lower(ruleset)?;
        let wanted = Listing::parse(&alloc::format!("{script}"));
        let there = nft::list_table()?.as_deref().map(Listing::parse).unwrap_or_default();
        let plan = Plan::new(script.table(), &wanted, &there);
        if plan.is_in_place() {
            return Self::switch(&plan);
        }
        // Something of ours has another type than we gave it: a foreign hand, or another version of us. It cannot be
        // changed in place, and its name is taken. One transaction replaces the table; the policy of base chains is
        // accept, so that not even then a drop is lost.
        nft::load(&alloc::format!("table inet {TABLE}\ndelete table inet {TABLE}\n{script}"))
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        // Adding first makes it hold also where there is none.
        nft::load(&alloc::format!("table inet {TABLE}\ndelete table inet {TABLE}\n"))
    }
}
