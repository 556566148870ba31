//! What was lowered, so that a change costs what it changes.
//!
//! Objects are counted by what refers to them: chains by rules and map entries, sets and maps by rules. What the frame's chains
//! refer to holds everything else; what nothing refers to any more goes.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::ir::{Direction, Family, PeerSetId, Peers, Pipeline, PipelineId, PolicyKind};

use super::left::Left;
use super::pipeline::Place;
use super::version::Versions;
use super::{Dispatch, is_frame};
use crate::script::{Chain, Elements, Name, Stamp, Table, Targets, Verdict};

/// A table, and where each part of it comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lowering {
    pub(crate) table: Table,
    /// The generation that passes, if open connections are judged again.
    pub(crate) stamp: Option<Stamp>,
    /// The generation that connections get: the same, or one from before while packets may be under way that were judged then.
    pub(crate) written: Option<Stamp>,
    /// Where denied flows are reported to, and how many a second.
    pub(super) reports: Option<(u16, u32)>,
    /// Pairs of two addresses of one pod, which chains name by their content.
    pub(super) own: BTreeMap<Family, Elements>,
    /// Sets that stand under other names.
    pub(super) versions: Versions,
    /// What each pipeline became; `None` allows everything. Names a chain that may be gone.
    pub(super) entries: BTreeMap<(PipelineId, Family, Place), Option<Verdict>>,
    /// Where the packets of each address go.
    pub(super) dispatch: BTreeMap<(Place, Family), BTreeMap<IpAddr, Verdict>>,
    /// Under which names; what is not here is named anew.
    pub(super) dispatched: BTreeMap<(Place, Family), Dispatch>,
    /// What each pipeline asks about, and how many pipelines ask about each peer set.
    facts: BTreeMap<PipelineId, Facts>,
    pub(super) uses: BTreeMap<PeerSetId, Uses>,
    /// The peer sets whose members each set of addresses holds, and the sets that hold each peer set's.
    pub(super) parts: BTreeMap<Name, Vec<PeerSetId>>,
    pub(super) holders: BTreeMap<PeerSetId, Vec<Name>>,
    references: BTreeMap<Name, usize>,
    pub(super) log: Log,
    /// What went, but is in the kernel still.
    pub(crate) left: Left,
}

/// What came and went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) created: BTreeSet<Object>,
    pub(crate) removed: BTreeSet<Object>,
    /// What came has the name of something that was left, and is not the same.
    pub(crate) clashing: BTreeSet<Object>,
}

/// An object by kind and name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Object {
    Chain(Name),
    Map(Name),
    Set(Name),
}

/// The peer sets that a pipeline asks about.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Facts {
    /// In its NetworkPolicy tier.
    united: BTreeSet<PeerSetId>,
    /// In the tiers where order decides.
    ordered: BTreeSet<PeerSetId>,
    /// By more than one rule.
    repeated: BTreeSet<PeerSetId>,
    is_ingress: bool,
}

/// How many pipelines ask about a peer set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Uses {
    /// Of ingress, in the NetworkPolicy tier.
    pub(super) ingress: u32,
    /// Of egress, in the NetworkPolicy tier.
    pub(super) egress: u32,
    /// In the tiers where order decides.
    pub(super) ordered: u32,
    /// By more than one rule.
    pub(super) repeated: u32,
}

impl From<&Pipeline> for Facts {
    fn from(pipeline: &Pipeline) -> Self {
        let is_ingress = pipeline.direction == Direction::Ingress;
        let mut facts = Self { is_ingress, ..Self::default() };
        for (block, rule) in pipeline.rules() {
            let Peers::Set(id) = rule.peers else { continue };
            if facts.united.contains(&id) || facts.ordered.contains(&id) {
                facts.repeated.insert(id);
            }
            match block.policy().kind {
                PolicyKind::NetworkPolicy => facts.united.insert(id),
                PolicyKind::ClusterNetworkPolicy => facts.ordered.insert(id),
            };
        }
        facts
    }
}

impl Facts {
    /// Changes how many pipelines ask, by one.
    fn count(&self, uses: &mut BTreeMap<PeerSetId, Uses>, change: fn(u32) -> u32) {
        for id in self.united.union(&self.ordered) {
            let entry = uses.entry(*id).or_default();
            if self.ordered.contains(id) {
                entry.ordered = change(entry.ordered);
            } else if self.is_ingress {
                entry.ingress = change(entry.ingress);
            } else {
                entry.egress = change(entry.egress);
            }
            if self.repeated.contains(id) {
                entry.repeated = change(entry.repeated);
            }
            if entry.ordered + entry.ingress + entry.egress == 0 {
                uses.remove(id);
            }
        }
    }
}

impl Lowering {
    /// Remembers what a pipeline asks about.
    pub(super) fn learn(&mut self, id: PipelineId, pipeline: &Pipeline) {
        self.forget(id);
        let facts = Facts::from(pipeline);
        facts.count(&mut self.uses, |count| count.saturating_add(1));
        self.facts.insert(id, facts);
    }

    /// Returns the pipelines that ask about any of the sets, and has them lowered again.
    #[cfg(feature = "apply")]
    pub(super) fn forget_entries_of(&mut self, sets: &BTreeSet<PeerSetId>) -> BTreeSet<PipelineId> {
        let asks = |facts: &Facts| {
            sets.iter().any(|set| facts.united.contains(set) || facts.ordered.contains(set))
        };
        let ids: BTreeSet<PipelineId> =
            self.facts.iter().filter(|(_, facts)| asks(facts)).map(|(id, _)| *id).collect();
        self.entries.retain(|(id, ..), _| !ids.contains(id));
        ids
    }

    /// Returns all pipelines, and has them lowered again.
    #[cfg(feature = "apply")]
    pub(super) fn forget_entries(&mut self) -> BTreeSet<PipelineId> {
        self.entries.clear();
        self.facts.keys().copied().collect()
    }

    /// Forgets a pipeline that is gone.
    pub(super) fn forget(&mut self, id: PipelineId) {
        if let Some(facts) = self.facts.remove(&id) {
            facts.count(&mut self.uses, |count| count.saturating_sub(1));
        }
        for family in [Family::V4, Family::V6] {
            for place in Place::ALL {
                self.entries.remove(&(id, family, place));
            }
        }
    }
}

impl Lowering {
    /// Adds a chain, unless it is there.
    pub(super) fn put_chain(&mut self, name: &Name, chain: Chain) {
        if !self.table.chains.contains_key(name) {
            let left = self.left.chains.remove(name);
            self.log.create(Object::Chain(name.clone()), left.as_ref(), &chain);
            self.refer(chain.rules.iter().flat_map(|rule| rule.references()).cloned());
            self.table.chains.insert(name.clone(), chain);
        }
    }

    /// Adds a map, unless it is there.
    pub(super) fn put_map(&mut self, name: &Name, targets: Targets) {
        if !self.table.maps.contains_key(name) {
            let left = self.left.maps.remove(name);
            self.log.create(Object::Map(name.clone()), left.as_ref(), &targets);
            self.refer(targets.verdicts().filter_map(Verdict::chain).cloned());
            self.table.maps.insert(name.clone(), targets);
        }
    }

    /// Adds a set, unless it is there.
    pub(super) fn put_set(&mut self, name: &Name, elements: impl FnOnce() -> Elements) {
        if !self.table.sets.contains_key(name) {
            let (left, elements) = (self.left.sets.remove(name), elements());
            let room = self.left.rooms.remove(name);
            if left.as_ref() == Some(&elements)
                && let Some(room) = room
            {
                self.table.rooms.insert(name.clone(), room);
            }
            self.log.create(Object::Set(name.clone()), left.as_ref(), &elements);
            self.table.sets.insert(name.clone(), elements);
        }
    }

    /// Leads addresses of a map to other chains.
    #[cfg(feature = "apply")]
    pub(super) fn redirect(&mut self, name: &Name, gone: &Targets, new: &Targets) {
        self.refer(new.verdicts().filter_map(Verdict::chain).cloned());
        if let Some(map) = self.table.maps.get_mut(name) {
            map.overwrite(new);
        }
        self.release(gone.verdicts().filter_map(Verdict::chain).cloned().collect());
    }

    fn refer(&mut self, names: impl Iterator<Item = Name>) {
        for name in names {
            *self.references.entry(name).or_default() += 1;
        }
    }

    /// Puts a chain of the frame in place of what has its name. Returns whether that was another.
    pub(super) fn put_frame(&mut self, name: &Name, chain: Chain) -> bool {
        if self.table.chains.get(name) == Some(&chain) {
            return false;
        }
        self.refer(chain.rules.iter().flat_map(|rule| rule.references()).cloned());
        let before = self.table.chains.insert(name.clone(), chain);
        let before = before.iter().flat_map(|chain| &chain.rules);
        let released: Vec<Name> = before.flat_map(|rule| rule.references()).cloned().collect();
        self.release(released);
        true
    }

    /// Takes references back, and what nothing refers to any more out.
    fn release(&mut self, names: Vec<Name>) {
        let mut stack = names;
        while let Some(name) = stack.pop() {
            let Some(count) = self.references.get_mut(&name) else { continue };
            *count = count.saturating_sub(1);
            if *count > 0 {
                continue;
            }
            self.references.remove(&name);
            if is_frame(&name) {
                continue;
            }
            if let Some(chain) = self.table.chains.remove(&name) {
                stack.extend(chain.rules.iter().flat_map(|rule| rule.references()).cloned());
                if self.log.remove(Object::Chain(name.clone())) {
                    self.left.chains.insert(name, chain);
                }
            } else if let Some(map) = self.table.maps.remove(&name) {
                stack.extend(map.verdicts().filter_map(Verdict::chain).cloned());
                self.versions.names.retain(|_, version| *version != name);
                if self.log.remove(Object::Map(name.clone())) {
                    self.left.maps.insert(name, map);
                }
            } else if let Some(set) = self.table.sets.remove(&name) {
                let room = self.table.rooms.get(&name).copied();
                self.forget_parts(&name);
                if self.log.remove(Object::Set(name.clone())) {
                    self.left.rooms.extend(room.map(|room| (name.clone(), room)));
                    self.left.sets.insert(name, set);
                }
            }
        }
    }

    /// Returns whether the same is remembered, as far as it can be told.
    #[cfg(all(test, feature = "apply"))]
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let sorted =
            |holders: &BTreeMap<PeerSetId, Vec<Name>>| -> BTreeMap<PeerSetId, BTreeSet<Name>> {
                holders.iter().map(|(id, names)| (*id, names.iter().cloned().collect())).collect()
            };
        self.references == other.references
            && self.parts == other.parts
            && sorted(&self.holders) == sorted(&other.holders)
            && self.dispatch == other.dispatch
            && self.dispatched == other.dispatched
            && self.uses == other.uses
            && self.facts == other.facts
    }

    fn forget_parts(&mut self, name: &Name) {
        for id in self.parts.remove(name).unwrap_or_default() {
            if let Some(holders) = self.holders.get_mut(&id) {
                holders.retain(|holder| holder != name);
                if holders.is_empty() {
                    self.holders.remove(&id);
                }
            }
        }
        self.versions.names.retain(|_, version| version != name);
        self.versions.rooms.remove(name);
        self.table.rooms.remove(name);
    }

    /// Remembers whose members a set of addresses holds.
    pub(super) fn remember_parts(&mut self, name: &Name, ids: impl Iterator<Item = PeerSetId>) {
        if self.parts.contains_key(name) {
            return;
        }
        let ids: Vec<PeerSetId> = ids.collect();
        for id in &ids {
            self.holders.entry(*id).or_default().push(name.clone());
        }
        self.parts.insert(name.clone(), ids);
    }
}

impl Log {
    /// Something comes; of its name something may have been left.
    fn create<T: PartialEq>(&mut self, object: Object, left: Option<&T>, new: &T) {
        self.removed.remove(&object);
        match left {
            // What went and comes again as it was is there still.
            Some(left) if left == new => {}
            Some(_) => {
                self.clashing.insert(object.clone());
                self.created.insert(object);
            }
            None => drop(self.created.insert(object)),
        }
    }

    /// Something goes. Returns whether it was there before the change.
    fn remove(&mut self, object: Object) -> bool {
        let was_there = !self.created.remove(&object);
        if was_there {
            self.removed.insert(object);
        }
        was_there
    }
}
