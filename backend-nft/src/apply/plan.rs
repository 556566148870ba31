//! The difference between what is there and what is wanted, as three transactions.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::lower::{Versions, unversioned, versioned};
use crate::netlink::{Holding, Operation};
use crate::script::{Elements, Name, Table, Targets};

/// What has to be done, in order.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    /// Everything new except base chains, which would see packets at once.
    pub(super) create: Vec<Operation<'a>>,
    /// New base chains, and new contents of what is in use.
    pub(super) switch: Vec<Operation<'a>>,
    /// What is not wanted any more.
    pub(super) delete: Vec<Operation<'a>>,
}

/// So many sets, or members of sets, are declared and filled together: what goes into a transaction of convenient length, so that
/// the kernel finds them where it looks first.
const TOGETHER: usize = 1000;
/// What a set costs, in members.
const DECLARATION: usize = 5;
/// Up to this many members a set is rather made anew than edited together with anything else.
const COPIED: usize = 4096;

/// Returns the versions under which sets must be made anew; `None` where what is in use can be edited.
///
/// A packet keeps the rules it started with, but reads sets as they are at each look-up. One address that comes or goes
/// in one set is one look-up of any packet. Several edits at once could show a packet a mixture that was never meant:
/// such sets get new names, and the rules switch to them whole.
pub(super) fn new_versions(
    there: &Table,
    wanted: &Table,
    mut versions: Versions,
) -> Option<Versions> {
    let mut edits = 0;
    let mut again = Vec::new();
    let mut is_full = false;
    for (name, members) in &wanted.sets {
        let Some(present) = there.sets.get(name) else { continue };
        if !members.is_exact_addresses() || present == members {
            continue;
        }
        if there.rooms.get(name).is_some_and(|room| !fits(members, *room)) {
            is_full = true;
            again.push((name, members));
            continue;
        }
        edits += present.without(members).len() + members.without(present).len();
        if members.len() <= COPIED {
            again.push((name, members));
        }
    }
    let same_rules = there.chains == wanted.chains && there.maps == wanted.maps;
    if edits <= 1 && same_rules && !is_full {
        again.clear();
    }
    let mut is_renamed = !again.is_empty();
    for (name, members) in again {
        let plain = unversioned(name);
        // The old name counts too: an edited set may come back to the members it was named by.
        let content = alloc::format!("{name} {members}");
        versions.names.insert(plain.into(), versioned(plain, &content));
    }
    for (name, targets) in &wanted.maps {
        if targets.is_interval() || there.maps.get(name).is_none_or(|present| present == targets) {
            continue;
        }
        let plain = unversioned(name);
        versions.names.insert(plain.into(), versioned(plain, &alloc::format!("{name} {targets}")));
        is_renamed = true;
    }
    is_renamed.then_some(versions)
}

/// Returns whether members fit into a set that was declared for so many.
fn fits(members: &Elements, room: u32) -> bool {
    usize::try_from(room).is_ok_and(|room| members.len() <= room)
}

impl<'a> Plan<'a> {
    /// Plans the way from one table to another.
    pub(super) fn between(there: &'a Table, wanted: &'a Table) -> Self {
        let mut plan = Self::default();
        let (mut created, mut together): (Vec<Operation<'a>>, _) = (Vec::new(), 0);
        for (name, elements) in &wanted.sets {
            match there.sets.get(name) {
                None => {
                    let room = wanted.room(name, elements);
                    plan.create.push(Operation::NewSet(name, elements, room));
                    created.push(Operation::AddMembers(name, Cow::Borrowed(elements)));
                    together += elements.len() + DECLARATION;
                    if together > TOGETHER {
                        plan.create.append(&mut created);
                        together = 0;
                    }
                }
                Some(present) => plan.members(name, present, elements),
            }
        }
        plan.create.append(&mut created);
        for (name, targets) in &wanted.maps {
            match there.maps.get(name) {
                None => {
                    plan.create.push(Operation::NewMap(name, targets));
                    created.push(Operation::AddEntries(name, Cow::Borrowed(targets)));
                }
                Some(present) => plan.entries(name, present, targets),
            }
        }
        for (name, chain) in &wanted.chains {
            match there.chains.get(name) {
                None if chain.hook.is_some() => {
                    plan.switch.push(Operation::NewChain(name, chain.hook));
                    plan.switch.push(Operation::AddRules(name, &chain.rules));
                }
                None => {
                    plan.create.push(Operation::NewChain(name, None));
                    created.push(Operation::AddRules(name, &chain.rules));
                }
                Some(present) if present == chain => {}
                Some(_) => {
                    plan.switch.push(Operation::Flush(name));
                    plan.switch.push(Operation::AddRules(name, &chain.rules));
                }
            }
        }
        // Chains first: rules and entries refer to them.
        plan.create.append(&mut created);
        plan.delete.extend(Self::leftovers(there, wanted));
        plan
    }

    /// Returns what takes back the first so many operations of `create`.
    pub(super) fn undo(&self, begun: usize) -> Vec<Operation<'a>> {
        let mut operations = Vec::new();
        for operation in self.create.iter().take(begun) {
            match operation {
                Operation::NewSet(name, ..) | Operation::NewMap(name, _) => {
                    operations.push(Operation::DeleteSet(name));
                }
                Operation::NewChain(name, _) => {
                    operations.extend([Operation::Flush(name), Operation::DeleteChain(name)]);
                }
                Operation::NewTable(_)
                | Operation::DeleteTable
                | Operation::AddMembers(..)
                | Operation::DeleteMembers(..)
                | Operation::AddEntries(..)
                | Operation::DeleteEntries(..)
                | Operation::Empty(_)
                | Operation::DeleteSet(_)
                | Operation::AddRules(..)
                | Operation::Flush(_)
                | Operation::DeleteChain(_) => {}
            }
        }
        deletion(&operations)
    }

    /// Returns whether packets see anything of it.
    pub(super) const fn is_seen(&self) -> bool {
        !self.switch.is_empty()
    }

    /// Plans a table in one transaction, in place of whatever has its name.
    pub(super) fn whole(wanted: &'a Table, holding: Holding) -> Vec<Operation<'a>> {
        static EMPTY: Table = Table {
            sets: BTreeMap::new(),
            maps: BTreeMap::new(),
            chains: BTreeMap::new(),
            rooms: BTreeMap::new(),
        };
        let plan = Plan::between(&EMPTY, wanted);
        let shared = Operation::NewTable(Holding::Shared); // Deleting holds also where there is none.
        [shared, Operation::DeleteTable, Operation::NewTable(holding)]
            .into_iter()
            .chain(plan.create)
            .chain(plan.switch)
            .collect()
    }

    fn members(&mut self, name: &'a Name, present: &Elements, wanted: &'a Elements) {
        if present == wanted {
            return;
        }
        if wanted.is_interval() {
            // Only damage leads here, as ranges are content. They are never edited.
            self.switch.push(Operation::Empty(name));
            self.switch.push(Operation::AddMembers(name, Cow::Borrowed(wanted)));
            return;
        }
        let (gone, new) = (present.without(wanted), wanted.without(present));
        if !gone.is_empty() {
            // Packets under the rules of before still ask whether two addresses are of one pod.
            let late = matches!(wanted, Elements::V4Pairs(_) | Elements::V6Pairs(_));
            let step = if late { &mut self.delete } else { &mut self.switch };
            step.push(Operation::DeleteMembers(name, gone));
        }
        if !new.is_empty() {
            self.switch.push(Operation::AddMembers(name, Cow::Owned(new)));
        }
    }

    fn entries(&mut self, name: &'a Name, present: &Targets, wanted: &'a Targets) {
        if present == wanted {
            return;
        }
        if wanted.is_interval() {
            self.switch.push(Operation::Empty(name));
            self.switch.push(Operation::AddEntries(name, Cow::Borrowed(wanted)));
            return;
        }
        let (gone, new) = (present.without(wanted), wanted.without(present));
        if !gone.is_empty() {
            self.switch.push(Operation::DeleteEntries(name, gone));
        }
        if !new.is_empty() {
            self.switch.push(Operation::AddEntries(name, Cow::Owned(new)));
        }
    }

    fn leftovers(there: &'a Table, wanted: &Table) -> Vec<Operation<'a>> {
        let mut operations = Vec::new();
        for name in there.sets.keys().filter(|name| !wanted.sets.contains_key(*name)) {
            operations.push(Operation::DeleteSet(name));
        }
        for name in there.maps.keys().filter(|name| !wanted.maps.contains_key(*name)) {
            // What an entry goes to cannot be deleted before the entry.
            operations.push(Operation::Empty(name));
            operations.push(Operation::DeleteSet(name));
        }
        for name in there.chains.keys().filter(|name| !wanted.chains.contains_key(*name)) {
            operations.push(Operation::Flush(name));
            operations.push(Operation::DeleteChain(name));
        }
        deletion(&operations)
    }
}

/// Orders deletions: references before what they refer to.
pub(super) fn deletion<'a>(operations: &[Operation<'a>]) -> Vec<Operation<'a>> {
    let mut ordered = operations.to_vec();
    ordered.sort_by_key(|operation| match operation {
        Operation::Flush(_) => 0,
        Operation::Empty(_) => 1,
        Operation::DeleteChain(_) => 3,
        Operation::DeleteSet(_) => 2,
        Operation::NewTable(_)
        | Operation::DeleteTable
        | Operation::NewSet(..)
        | Operation::NewMap(..)
        | Operation::AddMembers(..)
        | Operation::DeleteMembers(..)
        | Operation::AddEntries(..)
        | Operation::DeleteEntries(..)
        | Operation::NewChain(..)
        | Operation::AddRules(..) => 4,
    });
    ordered
}
