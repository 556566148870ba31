//! What a delta changes, as transactions in an order that is safe for packets under way.

use alloc::borrow::Cow;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::plan::deletion;
use super::under_way::{Seen, Switched, Unsettled};
use crate::lower::{Changes, DISPATCH, Edit, Left, Object, Order, Redirect};
use crate::netlink::Operation;
use crate::script::Table;

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
    /// What takes back what was made, if one of the steps behind those of so many fails, and none of it is in use.
    undo: Vec<(usize, Vec<Operation<'a>>)>,
}

impl<'a> Steps<'a> {
    /// Plans what leads to a table. What the change leaves behind is not its business.
    pub(super) fn new(changes: &'a Changes, table: &'a Table, unsettled: &mut Unsettled) -> Self {
        let mut steps = Self::default();
        if !changes.in_the_way.is_empty() {
            steps.wait(unsettled);
            steps.commit(removal(changes.in_the_way.iter()), &Seen::default(), unsettled);
        }
        let joins_last = changes.order == Order::FrameThenJoins;
        let mut joins = if joins_last { &[][..] } else { &changes.joins };
        let is_ordered = changes.is_ordered;
        // An address that joins one set and leaves another is looked for in both.
        if moves(joins, &changes.leaves) {
            let first = Seen { joins, is_ordered, ..Seen::default() };
            steps.commit(edits(joins), &first, unsettled);
            joins = &[];
        }
        let rules = !changes.frame.is_empty();
        let redirects = !changes.redirects.is_empty();
        let mut visible = steps.make(changes, table, unsettled);
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
        let switch = match (rules, redirects) {
            (true, _) => Switched::ByRules(&changes.bindings),
            (false, true) => Switched::ByEntries(&changes.bindings),
            (false, false) => Switched::Nobody,
        };
        let seen = Seen { switch, joins, leaves: &changes.leaves, is_ordered };
        steps.commit(visible, &seen, unsettled);
        if joins_last {
            let joins = &changes.joins[..];
            let seen = Seen { joins, is_ordered, ..Seen::default() };
            steps.commit(edits(joins), &seen, unsettled);
        }
        steps
    }

    /// Makes what is new, or leaves it to the step that uses it, in the operations that it returns.
    ///
    /// Rules may be read a moment before they are in force by packets that began before the last transaction. Everything they
    /// lead to must be there by then, chains in both editions: their second one comes with the transaction behind.
    fn make(
        &mut self,
        changes: &'a Changes,
        table: &'a Table,
        unsettled: &mut Unsettled,
    ) -> Vec<Operation<'a>> {
        let rules = !changes.frame.is_empty();
        let created = &changes.log.created;
        let pairs = changes.pairs.iter().map(Edit::add);
        let is_late = created.iter().any(|object| is_late(object, table));
        if rules && changes.redirects.is_empty() && !is_late && !unsettled.any() {
            let mut all = creation(created.iter(), table);
            all.extend(pairs);
            return all;
        }
        let maps = created.iter().filter(|object| is_of_frame(object));
        let rest = created.iter().filter(|object| !is_of_frame(object));
        let has_chains = rest.clone().any(|object| matches!(object, Object::Chain(_)));
        let made = creation(rest.clone(), table);
        if !made.is_empty() {
            self.commit(made, &Seen::default(), unsettled);
            self.undo.push((self.list.len(), removal(rest)));
        }
        let behind = self.list.len();
        self.commit(
            creation(maps, table).into_iter().chain(pairs).collect(),
            &Seen::default(),
            unsettled,
        );
        if !created.is_empty() {
            self.undo.push((self.list.len(), removal(created.iter())));
        }
        if rules && has_chains && behind == self.list.len() {
            self.wait(unsettled);
        }
        Vec::new()
    }

    /// Returns what takes back what was made, where the step of a number fails.
    pub(super) fn undo(&self, number: usize) -> Option<&[Operation<'a>]> {
        let made = self.undo.iter().rev().find(|(behind, _)| *behind <= number);
        made.map(|(_, operations)| operations.as_slice())
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
        if unsettled.any() {
            self.list.push(Step::Wait);
            unsettled.settle();
        }
    }
}

/// Returns what deletes what was left.
pub(super) fn clearance(left: &Left) -> Vec<Operation<'_>> {
    let chains = left.chains.keys();
    let mut operations: Vec<_> = chains.clone().map(Operation::Flush).collect();
    operations.extend(left.maps.keys().map(Operation::Empty));
    operations.extend(left.maps.keys().chain(left.sets.keys()).map(Operation::DeleteSet));
    operations.extend(chains.map(Operation::DeleteChain));
    let pairs = left.pairs.iter();
    operations.extend(pairs.map(|(set, pairs)| Operation::DeleteMembers(set, pairs.clone())));
    operations
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

/// Returns whether only rules of the frame refer to an object, which leads to everything else.
fn is_of_frame(object: &Object) -> bool {
    matches!(object, Object::Map(name) if name.starts_with(DISPATCH))
}

/// What nothing refers to yet.
fn creation<'a>(created: impl Iterator<Item = &'a Object>, table: &'a Table) -> Vec<Operation<'a>> {
    let (mut declared, mut filled) = (Vec::new(), Vec::new());
    for object in created {
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
