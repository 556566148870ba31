//! A delta carried out step by step.

use std::time::Instant;

use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;

use super::steps::{Step, Steps};
use super::transaction::{Fault, Transactions};
use super::under_way::{Seen, Unsettled};
use super::{Connection, SETTLED, replacement};
use crate::lower::{Changes, Indivisible, Lowering};
use crate::netlink::{Failure, wait_for_packets};

impl Connection {
    /// Carries out a delta that leads to `ruleset`. Returns whether it could be done so; if it fails, nothing is known any more.
    pub(super) fn update(
        &mut self,
        ruleset: &Ruleset,
        delta: &Delta,
        fault: Fault,
    ) -> Result<bool, Failure> {
        let Some((mut generation, mut known)) = self.known.take() else { return Ok(false) };
        if known.is_about_to_cross() && known.ratification().is_some() {
            wait_for_packets();
            generation = self.ratify(generation, &mut known)?;
            // Nobody gets the other one any more.
            wait_for_packets();
        }
        let before = known.stamp;
        let changes = match known.update(ruleset, delta) {
            Ok(changes) => changes,
            Err(Indivisible) => {
                // Nothing was touched, so that a sync need not look.
                self.known = Some((generation, known));
                return Ok(false);
            }
        };
        self.make_room(before, known.stamp)?;
        let mut made = self.carry_out(generation, fault, &changes, &known);
        if matches!(made, Err((Failure::Outdated, true))) {
            // Others wrote before we did anything. If it was nothing of ours, what is known still holds.
            if let Some(generation) = self.since_unchanged()? {
                made = self.carry_out(generation, fault, &changes, &known);
            }
        }
        let (generation, ratified) = made.map_err(|(failure, _)| failure)?;
        if ratified {
            known.ratify();
        }
        if changes.generation.is_some() && !ratified {
            let since = self.closed.map_or_else(Instant::now, |(since, _)| since);
            self.closed = Some((since, Instant::now()));
        }
        if ratified {
            self.closed = None;
        }
        self.known = generation.map(|generation| (generation, known));
        // Where there is always something that closes, connections get what passes now and then all the same.
        if self.closed.is_some_and(|(since, _)| since.elapsed() > SETTLED) {
            self.settle_generation(true);
        }
        Ok(true)
    }

    /// Has connections get the generation that passes, if they do not, and if it is time for it or packets are to be waited for.
    pub(super) fn settle_generation(&mut self, waits: bool) {
        let Some((_, last)) = self.closed else { return };
        let is_time = last.elapsed() > SETTLED;
        if !is_time && !waits {
            return;
        }
        let Some((generation, mut known)) = self.known.take() else { return };
        if !is_time {
            wait_for_packets();
        }
        let mut made = self.ratify(generation, &mut known);
        if matches!(made, Err(Failure::Outdated))
            && let Ok(Some(generation)) = self.since_unchanged()
        {
            made = self.ratify(generation, &mut known);
        }
        // If it cannot be now, a connection costs as much as a new one until it can.
        self.known = Some((made.unwrap_or(generation), known));
    }

    /// Has connections get the generation that passes. Returns the generation that was made.
    fn ratify(&mut self, generation: u32, known: &mut Lowering) -> Result<u32, Failure> {
        let Some((name, chain)) = known.ratification() else { return Ok(generation) };
        let mut transactions = Transactions::new(&self.socket, Some(generation), Fault::None);
        transactions.commit(&replacement(&name, &chain))?;
        let generation = transactions.generation.unwrap_or(generation);
        known.ratify();
        self.closed = None;
        let mut unsettled = self.unsettled();
        unsettled.note(&Seen::default());
        self.noted(unsettled);
        Ok(generation)
    }

    /// Carries changes out. Returns the generation that was made, and whether connections get the one of the rules; with a
    /// failure, whether nothing was done.
    fn carry_out(
        &mut self,
        generation: u32,
        fault: Fault,
        changes: &Changes,
        known: &Lowering,
    ) -> Result<(Option<u32>, bool), (Failure, bool)> {
        let mut unsettled = self.unsettled();
        let ratification = known.ratification();
        let steps =
            Steps::new(changes, &known.table, ratification.as_ref(), &mut unsettled);
        let mut transactions = Transactions::new(&self.socket, Some(generation), fault);
        let done = take(&mut transactions, &steps);
        // Should it have failed half way, there is more that packets may have seen: nothing is known then, and a sync waits.
        let made = transactions.generation;
        self.noted(unsettled);
        match done {
            Ok(()) => Ok((made, steps.ratifies)),
            Err(failure) => Err((failure.measured(&known.table), made == Some(generation))),
        }
    }

    /// Returns what packets that are under way may have seen otherwise than it is.
    fn unsettled(&mut self) -> Unsettled {
        let (when, unsettled) = self.unsettled.take().unzip();
        unsettled.filter(|_| when.is_some_and(|when: Instant| when.elapsed() < SETTLED)).unwrap_or_default()
    }

    /// Remembers what packets that are under way now may have seen otherwise than it is.
    pub(super) fn noted(&mut self, unsettled: Unsettled) {
        self.unsettled = Some((Instant::now(), unsettled));
    }
}

/// Takes the steps.
fn take(transactions: &mut Transactions<'_>, steps: &Steps<'_>) -> Result<(), Failure> {
    for (number, step) in steps.list.iter().enumerate() {
        let done = match step {
            Step::Commit(operations) => transactions.commit(operations),
            Step::Wait => {
                wait_for_packets();
                Ok(())
            }
        };
        if done.is_err() && number > 0 && !steps.undo.is_empty() && !transactions.is_ended() {
            // What was created is out of use, unless the change got half way; then this fails, and the next look finds it.
            let _ = transactions.undo(&steps.undo);
        }
        done?;
    }
    Ok(())
}
