//! What a delta changes, as transactions in an order that is safe for packets under way.

use alloc::borrow::Cow;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::plan::deletion;
use super::under_way::{Seen, Unsettled};
use crate::lower::{Changes, Edit, Object, Order, Redirect};
use crate::netlink::Operation;
use crate::script::{Chain, Name, Table};

/// A step of a change.
#[derive(Clone, Debug)]
pub(super) enum Step<'a> {
    /// A transaction.
    Commit(Vec<Operation<'a>>),
    /// Packets that began before are waited for.
    Wait,
}

/// The steps of a change.
#[derive(Debug, Default)]
pub(super) struct Steps<'a> {
    pub(super) list: Vec<Step<'a>>,
    /// What takes the first one back, if that only made what is new.
    pub(super) undo: Vec<Operation<'a>>,
    /// Connections get the generation that passes.
    pub(super) ratifies: bool,
}

impl<'a> Steps<'a> {
    /// Plans what leads to a table. `ratification` is the chain by which connections get the generation that passes.
    pub(super) fn new(
        changes: &'a Changes,
        table: &'a Table,
        ratification: Option<&'a (Name, Chain)>,
        unsettled: &mut Unsettled,
    ) -> Self {
        let mut steps = Self::default();
        let rules = !changes.frame.is_empty();
        let redirects = !changes.redirects.is_empty();
        let joins_last = changes.order == Order::FrameThenJoins;
        let mut joins = if joins_last { &[][..] } else { &changes.joins };
        let is_ordered = changes.is_ordered;
        // An address that joins one set and leaves another is looked for in both.
        if moves(joins, &changes.leaves) {
            let first = Seen { joins, is_ordered, ..Seen::default() };
            steps.commit(edits(joins), &first, unsettled);
            joins = &[];
        }
        let mut visible = Vec::new();
        let created = creation(changes, table);
        // Rules that switch name nothing that packets of before know. But what holds ranges is filled a moment late.
        if rules && !redirects && !changes.log.created.iter().any(|object| is_late(object, table)) {
            visible = created;
        } else {
            let is_empty = created.is_empty();
            steps.commit(created, &Seen::default(), unsettled);
            if !is_empty {
                steps.undo = removal(&changes.log.created);
            }
        }
        let pairs = |of: fn(&Edit) -> bool| changes.pairs.iter().filter(move |edit| of(edit));
        visible.extend(pairs(|edit| !edit.joins.is_empty()).map(Edit::add));
        for Redirect { map, gone, new } in &changes.redirects {
            visible.push(Operation::DeleteEntries(map, gone.clone()));
            visible.push(Operation::AddEntries(map, Cow::Borrowed(new)));
        }
        for name in &changes.frame {
            let Some(chain) = table.chains.get(name) else { continue };
            visible.extend([Operation::Flush(name), Operation::AddRules(name, &chain.rules)]);
        }
        visible.extend(edits(&changes.leaves));
        visible.extend(edits(joins));
        if let Some(edit) = &changes.generation {
            visible.extend([edit.delete(), edit.add()]);
        }
        let leaves = &changes.leaves;
        let seen = Seen { rules, redirects, joins, leaves, is_ordered };
        steps.commit(visible, &seen, unsettled);

        let mut last = Vec::new();
        let joins = if joins_last { &changes.joins[..] } else { &[] };
        last.extend(edits(joins));
        last.extend(pairs(|edit| !edit.leaves.is_empty()).map(Edit::delete));
        last.extend(removal(&changes.log.removed));
        if rules || redirects || !last.is_empty() {
            steps.wait(unsettled);
            if let Some((name, chain)) = ratification {
                last.extend([Operation::Flush(name), Operation::AddRules(name, &chain.rules)]);
                steps.ratifies = true;
            }
            let seen = Seen { joins, is_ordered, ..Seen::default() };
            steps.commit(last, &seen, unsettled);
        }
        steps
    }

    /// Adds a transaction, behind a wait where that must be.
    fn commit(
        &mut self,
        operations: Vec<Operation<'a>>,
        seen: &Seen<'_>,
        unsettled: &mut Unsettled,
    ) {
        if operations.is_empty() {
            return;
        }
        if unsettled.hinders(seen) {
            self.wait(unsettled);
        }
        unsettled.note(seen);
        self.list.push(Step::Commit(operations));
    }

    fn wait(&mut self, unsettled: &mut Unsettled) {
        self.list.push(Step::Wait);
        unsettled.settle();
    }
}

/// Returns whether an address both joins and leaves.
fn moves(joins: &[Edit], leaves: &[Edit]) -> bool {
    let joining: BTreeSet<IpAddr> = joins.iter().flat_map(|edit| edit.joins.addresses()).collect();
    leaves.iter().flat_map(|edit| edit.leaves.addresses()).any(|address| joining.contains(&address))
}

/// Returns whether packets find an object empty in the moment in which it is made.
fn is_late(object: &Object, table: &Table) -> bool {
    match object {
        Object::Chain(_) => false,
        Object::Map(name) => table.maps.get(name).is_some_and(|map| map.is_interval()),
        Object::Set(name) => table.sets.get(name).is_some_and(|set| set.is_interval()),
    }
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

fn edits(edits: &[Edit]) -> Vec<Operation<'_>> {
    let leaves = edits.iter().filter(|edit| !edit.leaves.is_empty()).map(Edit::delete);
    leaves.chain(edits.iter().filter(|edit| !edit.joins.is_empty()).map(Edit::add)).collect()
}

impl Edit {
    fn add(&self) -> Operation<'_> {
        Operation::AddMembers(&self.set, Cow::Borrowed(&self.joins))
    }

    fn delete(&self) -> Operation<'_> {
        Operation::DeleteMembers(&self.set, self.leaves.clone())
    }
}

#[cfg(test)]
mod tests;
