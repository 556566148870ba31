//! What a change leaves for later: objects out of use are deleted, and connections get the generation that passes, when no packet
//! is under way any more that began before.

use core::time::Duration;
use std::time::Instant;

use super::steps::clearance;
use super::transaction::{Fault, Transactions};
use super::under_way::Seen;
use super::{Connection, replacement};
use crate::lower::Lowering;
use crate::netlink::{Failure, Operation};

/// Where one change follows another without such a pause, it is cleared away only so often.
const PAUSE: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(1);
/// So many objects and members are not kept for later.
const MUCH: usize = 4096;

/// What was left for later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leftover {
    /// When something was left first and last.
    since: Instant,
    last: Instant,
    /// The number of the last transaction that left something.
    number: u64,
}

/// Whether packets are waited for, if there are some.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Clearing {
    /// They are.
    Now,
    /// What must wait, or is left in the midst of changes, stays for the next time.
    InPause,
}

impl Connection {
    /// Notes that a change left something.
    pub(super) fn leave(&mut self) {
        let last = Instant::now();
        let since = self.leftover.map_or(last, |leftover| leftover.since);
        self.leftover = Some(Leftover { since, last, number: self.unsettled.last() });
    }

    /// Clears away what changes left, should it have become old or much.
    pub(super) fn clear_in_time(&mut self) {
        let Some(leftover) = self.leftover else { return };
        let weight = self.known.as_ref().map_or(0, |(_, known)| known.left.weight());
        if leftover.since.elapsed() > LONG || weight > MUCH {
            self.clear(Clearing::Now);
        }
    }

    /// Clears away what changes left.
    pub(super) fn clear(&mut self, clearing: Clearing) {
        let Some(leftover) = self.leftover else { return };
        let is_pause = leftover.last.elapsed() > PAUSE || leftover.since.elapsed() > LONG;
        if clearing == Clearing::InPause && !is_pause {
            return;
        }
        self.unsettled.settle_until(self.settling.settled());
        if !self.unsettled.is_settled(leftover.number) {
            if clearing == Clearing::InPause {
                return;
            }
            self.settling.wait();
            self.unsettled.settle();
        }
        let Some((generation, mut known)) = self.known.take() else {
            // Whoever looks finds it.
            self.leftover = None;
            return;
        };
        let mut cleared = self.clear_away(generation, &known);
        if matches!(cleared, Err(Failure::Outdated))
            && let Ok(Some(generation)) = self.since_unchanged()
        {
            cleared = self.clear_away(generation, &known);
        }
        match cleared {
            Ok(generation) => {
                known.forget_left();
                known.ratify();
                self.leftover = None;
                self.known = Some((generation, known));
            }
            // Others wrote: if it was something of ours, the next change finds out.
            Err(Failure::Outdated) => self.known = Some((generation, known)),
            // A look will tell.
            Err(_) => self.leftover = None,
        }
    }

    /// Deletes what was left, and has connections get the generation that passes. Returns the generation that was made.
    fn clear_away(&mut self, generation: u32, known: &Lowering) -> Result<u32, Failure> {
        let ratification = known.ratification();
        let mut operations: Vec<Operation<'_>> = clearance(&known.left);
        operations.extend(ratification.iter().flat_map(|(name, chain)| replacement(name, chain)));
        if operations.is_empty() {
            return Ok(generation);
        }
        let mut transactions = Transactions::new(&self.socket, Some(generation), Fault::None);
        let cleared = transactions.commit(&operations);
        self.unsettled.note(&Seen::default());
        self.settling.passed(self.unsettled.last());
        cleared.map(|()| transactions.generation.unwrap_or(generation))
    }
}
