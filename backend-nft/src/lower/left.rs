//! What changes leave in the kernel: objects that nothing refers to any more, and pairs of addresses that are of one pod no
//! more. Packets under way may still ask for them, so they go later, many at once; what comes back meanwhile as it was need
//! not be made.

use alloc::collections::BTreeMap;
#[cfg(feature = "apply")]
use alloc::collections::BTreeSet;
#[cfg(feature = "apply")]
use alloc::vec::Vec;

#[cfg(feature = "apply")]
use super::state::Object;
use crate::script::{Chain, Elements, Name, Targets};

/// What was left, by name. Nobody edits it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Left {
    pub(crate) sets: BTreeMap<Name, Elements>,
    pub(crate) maps: BTreeMap<Name, Targets>,
    pub(crate) chains: BTreeMap<Name, Chain>,
    /// For how many members sets were declared.
    pub(crate) rooms: BTreeMap<Name, u32>,
    /// Members of sets that stay.
    #[cfg(feature = "apply")]
    pub(crate) pairs: Vec<(Name, Elements)>,
}

#[cfg(feature = "apply")]
impl Left {
    /// Returns whether nothing was left.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
            && self.maps.is_empty()
            && self.chains.is_empty()
            && self.pairs.is_empty()
    }

    /// Returns how many objects and members there are.
    pub(crate) fn weight(&self) -> usize {
        let members = self.sets.values().map(Elements::len).sum::<usize>();
        let entries = self.maps.values().map(Targets::len).sum::<usize>();
        self.sets.len() + self.maps.len() + self.chains.len() + members + entries
    }

    /// Returns all objects.
    pub(super) fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let sets = self.sets.keys().cloned().map(Object::Set);
        let maps = self.maps.keys().cloned().map(Object::Map);
        sets.chain(maps).chain(self.chains.keys().cloned().map(Object::Chain))
    }

    /// Forgets all objects but these.
    pub(super) fn keep(&mut self, objects: &BTreeSet<Object>) {
        self.sets.retain(|name, _| objects.contains(&Object::Set(name.clone())));
        self.rooms.retain(|name, _| objects.contains(&Object::Set(name.clone())));
        self.maps.retain(|name, _| objects.contains(&Object::Map(name.clone())));
        self.chains.retain(|name, _| objects.contains(&Object::Chain(name.clone())));
    }

    /// Pairs join a set. Returns those that are not there still.
    pub(super) fn join(&mut self, set: &Name, mut joins: Elements) -> Elements {
        for (_, pairs) in self.pairs.iter_mut().filter(|(name, _)| name == set) {
            let go = pairs.without(&joins);
            joins = joins.without(pairs);
            *pairs = go;
        }
        self.pairs.retain(|(_, pairs)| !pairs.is_empty());
        joins
    }
}
