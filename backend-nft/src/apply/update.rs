//! A delta carried out step by step.

use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;

use super::Connection;
use super::clearing::Clearing;
use super::steps::{Step, Steps};
use super::transaction::{Fault, Transactions};
use crate::lower::{Changes, Indivisible, Lowering};
use crate::netlink::{Failure, Operation, wait_for_packets};

/// So often packets are waited for, as others write at the same time, before a switch of rules. Who writes without a pause
/// shall not keep a change from its way.
const PATIENCE: u32 = 2;

impl Connection {
    /// Carries out a delta that leads to `ruleset`. Returns whether it could be done so; if it fails, nothing is known any more.
    pub(super) fn update(
        &mut self,
        ruleset: &Ruleset,
        delta: &Delta,
        fault: Fault,
    ) -> Result<bool, Failure> {
        if self.is_late() {
            self.clear(Clearing::Now);
            if self.is_late() {
                return Ok(false);
            }
            // Nobody gets the other one any more.
            self.settling.wait();
        }
        let Some((generation, mut known)) = self.known.take() else { return Ok(false) };
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
        let generation = self.carry_out(generation, fault, &changes, &known)?;
        if known.ratification().is_some() || !known.left.is_empty() {
            self.leave();
        }
        self.known = Some((generation, known));
        self.clear_in_time();
        Ok(true)
    }

    /// Returns whether connections still get a generation of the half of all that the next one leaves.
    fn is_late(&self) -> bool {
        let known = self.known.as_ref().map(|(_, known)| known);
        known.is_some_and(|known| known.is_about_to_cross() && known.ratification().is_some())
    }

    /// Carries changes out. Returns the generation that was made.
    fn carry_out(
        &mut self,
        mut generation: u32,
        mut fault: Fault,
        changes: &Changes,
        known: &Lowering,
    ) -> Result<u32, Failure> {
        self.unsettled.settle_until(self.settling.settled());
        let mut number = self.unsettled.last();
        let steps = Steps::new(changes, &known.table, &mut self.unsettled);
        for (index, step) in steps.list.iter().enumerate() {
            let Step::Commit(operations) = step else {
                self.settling.wait();
                continue;
            };
            let mut transactions = Transactions::new(&self.socket, Some(generation), fault);
            let mut done = transactions.commit(operations);
            let switches = operations.iter().any(|step| matches!(step, Operation::Flush(_)));
            for attempt in 0..=PATIENCE {
                if !matches!(done, Err(Failure::Outdated)) {
                    break;
                }
                // Others wrote meanwhile. If it was nothing of ours, what is known still holds.
                let fault = transactions.fault;
                let Some(generation) = self.since_unchanged()? else {
                    transactions = Transactions::new(&self.socket, None, fault);
                    break;
                };
                // Theirs is a transaction before a switch of rules, too.
                if switches && attempt < PATIENCE {
                    wait_for_packets();
                }
                transactions = Transactions::new(&self.socket, Some(generation), fault);
                done = transactions.commit(operations);
            }
            number += 1;
            fault = transactions.fault;
            generation = transactions.generation.unwrap_or(generation);
            let ended = transactions.is_ended();
            if let Err(failure) = done {
                if let Some(undo) = steps.undo(index).filter(|_| !ended) {
                    // What was created is out of use, unless the change got half way; then this fails, and the next look finds it.
                    let _ = Transactions::new(&self.socket, None, Fault::None).commit(undo);
                }
                // Should it fail half way, nothing is known any more, and a sync waits for packets in any case.
                self.settling.passed(self.unsettled.last());
                return Err(failure.measured(&known.table));
            }
            self.settling.passed(number);
        }
        Ok(generation)
    }
}
