//! A delta as transactions: what is new, then what packets see in an order that is safe, then what is left over.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;

use super::Connection;
use super::plan::deletion;
use super::transaction::{Fault, Transactions};
use crate::lower::{Changes, Edit, Indivisible, Object, Order, Redirect};
use crate::netlink::{Failure, Operation};
use crate::script::Table;

impl Connection {
    /// Carries out a delta that leads to `ruleset`. Returns whether it could be done so; if it fails, nothing is known any more.
    pub(super) fn update(
        &mut self,
        ruleset: &Ruleset,
        delta: &Delta,
        fault: Fault,
    ) -> Result<bool, Failure> {
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
        let mut made = self.carry_out(generation, fault, &changes, &known.table);
        if matches!(made, Err((Failure::Outdated, true))) {
            // Others wrote before we did anything. If it was nothing of ours, what is known still holds.
            if let Some(generation) = self.since_unchanged()? {
                made = self.carry_out(generation, fault, &changes, &known.table);
            }
        }
        let generation = made.map_err(|(failure, _)| failure)?;
        self.known = generation.map(|generation| (generation, known));
        Ok(true)
    }

    /// Carries changes out. Returns the generation that was made; with a failure, whether nothing was done.
    fn carry_out(
        &self,
        generation: u32,
        fault: Fault,
        changes: &Changes,
        table: &Table,
    ) -> Result<Option<u32>, (Failure, bool)> {
        let mut transactions = Transactions::new(&self.socket, Some(generation), fault);
        match carry_out(&mut transactions, changes, table) {
            Ok(()) => Ok(transactions.generation),
            Err(failure) => {
                Err((failure.measured(table), transactions.generation == Some(generation)))
            }
        }
    }
}

fn carry_out(
    transactions: &mut Transactions<'_>,
    changes: &Changes,
    table: &Table,
) -> Result<(), Failure> {
    transactions.commit(&creation(changes, table))?;
    if let Err(failure) = switch(transactions, changes, table) {
        if !transactions.is_ended() {
            // What was created is out of use, unless the switch got half way; then this fails, and the next look finds it.
            let _ = transactions.undo(&removal(&changes.log.created));
        }
        return Err(failure);
    }
    Ok(())
}

/// What nothing refers to yet.
fn creation<'a>(changes: &'a Changes, table: &'a Table) -> Vec<Operation<'a>> {
    let (mut declared, mut filled) = (Vec::new(), Vec::new());
    for object in &changes.log.created {
        match object {
            Object::Chain(name) => {
                let Some(chain) = table.chains.get(name) else { continue };
                declared.push(Operation::NewChain(name, None));
                filled.push(Operation::AddRules(name, &chain.rules));
            }
            Object::Map(name) => {
                let Some(targets) = table.maps.get(name) else { continue };
                declared.push(Operation::NewMap(name, targets));
                filled.push(Operation::AddEntries(name, Cow::Borrowed(targets)));
            }
            Object::Set(name) => {
                let Some(elements) = table.sets.get(name) else { continue };
                let room = table.room(name, elements);
                declared.push(Operation::NewSet(name, elements, room));
                filled.push(Operation::AddMembers(name, Cow::Borrowed(elements)));
            }
        }
    }
    declared.append(&mut filled);
    declared
}

fn removal<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Vec<Operation<'a>> {
    let mut operations = Vec::new();
    for object in objects {
        match object {
            Object::Chain(name) => {
                operations.extend([Operation::Flush(name), Operation::DeleteChain(name)]);
            }
            Object::Map(name) => {
                operations.extend([Operation::Empty(name), Operation::DeleteSet(name)]);
            }
            Object::Set(name) => operations.push(Operation::DeleteSet(name)),
        }
    }
    deletion(&operations)
}

/// What packets see, and then what they do not see any more.
fn switch(
    transactions: &mut Transactions<'_>,
    changes: &Changes,
    table: &Table,
) -> Result<(), Failure> {
    let mut frame: Vec<Operation<'_>> = Vec::new();
    for Redirect { map, gone, new } in &changes.redirects {
        frame.push(Operation::DeleteEntries(map, gone.clone()));
        frame.push(Operation::AddEntries(map, Cow::Borrowed(new)));
    }
    changes.pairs.iter().for_each(|edit| edit.push(&mut frame));
    for name in &changes.frame {
        let Some(chain) = table.chains.get(name) else { continue };
        frame.extend([Operation::Flush(name), Operation::AddRules(name, &chain.rules)]);
    }
    let (mut joins, mut leaves) = (Vec::new(), Vec::new());
    changes.joins.iter().for_each(|edit| edit.push(&mut joins));
    changes.leaves.iter().for_each(|edit| edit.push(&mut leaves));
    let removed = removal(&changes.log.removed);
    let steps = match changes.order {
        // The generation is of the frame, and goes with what closes.
        Order::JoinsThenLeaves => [joins, [leaves, frame].concat(), removed],
        Order::FrameThenJoins => [frame, [joins, removed].concat(), Vec::new()],
        Order::LeavesThenFrame => [leaves, frame, removed],
    };
    steps.iter().try_for_each(|step| transactions.commit(step))
}

impl Edit {
    fn push<'a>(&'a self, operations: &mut Vec<Operation<'a>>) {
        if !self.leaves.is_empty() {
            operations.push(Operation::DeleteMembers(&self.set, self.leaves.clone()));
        }
        if !self.joins.is_empty() {
            operations.push(Operation::AddMembers(&self.set, Cow::Borrowed(&self.joins)));
        }
    }
}
