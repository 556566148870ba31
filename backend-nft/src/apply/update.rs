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
        let (generation, ratified) = self.carry_out(generation, fault, &changes, &known)?;
        if changes.generation.is_some() && !ratified {
            let since = self.closed.map_or_else(Instant::now, |(since, _)| since);
            self.closed = Some((since, Instant::now()));
        }
        if ratified {
            self.closed = None;
        }
        self.known = Some((generation, known));
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

    /// Carries changes out. Returns the generation that was made, and whether connections get the one of the rules.
    fn carry_out(
        &mut self,
        mut generation: u32,
        mut fault: Fault,
        changes: &Changes,
        known: &Lowering,
    ) -> Result<(u32, bool), Failure> {
        // Should it fail half way, nothing is known any more, and a sync waits for packets in any case.
        let mut unsettled = self.unsettled();
        let ratification = known.ratification();
        let steps = Steps::new(changes, &known.table, ratification.as_ref(), &mut unsettled);
        self.noted(unsettled);
        for (number, step) in steps.list.iter().enumerate() {
            let Step::Commit(operations) = step else {
                wait_for_packets();
                continue;
            };
            let mut transactions = Transactions::new(&self.socket, Some(generation), fault);
            let mut done = transactions.commit(operations);
            if matches!(done, Err(Failure::Outdated)) {
                // Others wrote meanwhile. If it was nothing of ours, what is known still holds.
                let fault = transactions.fault;
                if let Some(generation) = self.since_unchanged()? {
                    transactions = Transactions::new(&self.socket, Some(generation), fault);
                    done = transactions.commit(operations);
                } else {
                    transactions = Transactions::new(&self.socket, None, fault);
                }
            }
            if let Err(failure) = done {
                if number > 0 && !steps.undo.is_empty() && !transactions.is_ended() {
                    // What was created is out of use, unless the change got half way; then this fails, and the next look finds it.
                    let _ = transactions.undo(&steps.undo);
                }
                return Err(failure.measured(&known.table));
            }
            fault = transactions.fault;
            generation = transactions.generation.unwrap_or(generation);
        }
        if let Some((when, _)) = &mut self.unsettled {
            *when = Instant::now();
        }
        Ok((generation, steps.ratifies))
    }

    /// Returns what packets that are under way may have seen otherwise than it is.
    fn unsettled(&mut self) -> Unsettled {
        let (when, unsettled) = self.unsettled.take().unzip();
        unsettled
            .filter(|_| when.is_some_and(|when: Instant| when.elapsed() < SETTLED))
            .unwrap_or_default()
    }

    /// Remembers what packets that are under way now may have seen otherwise than it is.
    pub(super) fn noted(&mut self, unsettled: Unsettled) {
        self.unsettled = Some((Instant::now(), unsettled));
    }
}
