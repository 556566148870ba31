//! From labels to the selectors they can satisfy, and from labels to the objects that carry them.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};

use super::labels::{Demand, Label, Matcher, Symbol, Symbols};
use super::slab::{Id, NONE};
use crate::model::Operator;

/// Where a selector is looked for: a namespace's number, or [`EVERYWHERE`].
pub(super) type Place = Id;

/// Every namespace.
pub(super) const EVERYWHERE: Place = NONE;

/// Selectors under the one of their demands that the fewest objects are likely to meet: under each value of an In, under
/// the key of an Exists, or, where a selector only excludes, under nothing at all. Labels lead to every selector they can
/// satisfy and to few others.
#[derive(Clone, Debug, Default)]
pub(super) struct SelectorIndex {
    lists: HashMap<Key, List>,
    /// How many lists there are of a label key: most keys of most objects are asked for by nobody.
    keys: HashMap<Symbol, u32>,
}

/// Most lists have one entry, which then needs no memory of its own.
#[derive(Clone, Debug)]
enum List {
    One(Id),
    Many(Vec<Id>),
}

impl List {
    fn entries(&self) -> &[Id] {
        match self {
            Self::One(only) => core::slice::from_ref(only),
            Self::Many(many) => many,
        }
    }

    fn push(&mut self, id: Id) {
        match self {
            Self::One(only) => *self = Self::Many(alloc::vec![*only, id]),
            Self::Many(many) => many.push(id),
        }
    }

    /// Takes an entry away. Returns whether it was the last.
    fn remove(&mut self, id: Id) -> bool {
        match self {
            Self::One(only) => *only == id,
            Self::Many(many) => {
                if let Some(at) = many.iter().position(|other| *other == id) {
                    many.swap_remove(at);
                }
                many.is_empty()
            }
        }
    }

    const fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(many) => many.capacity() * size_of::<Id>(),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key {
    place: Place,
    /// [`NONE`] for selectors that only exclude.
    key: Symbol,
    /// [`NONE`] for Exists.
    value: Symbol,
}

/// Which demand of a selector it is filed under; beyond the last one: under nothing.
pub(super) type Anchor = usize;

impl SelectorIndex {
    /// Chooses the demand to file a selector under.
    pub(super) fn anchor(&self, place: Place, matcher: &Matcher) -> Anchor {
        let demands = matcher.demands();
        let rank = |demand: &Demand| match demand.operator {
            Operator::In => {
                let filed = |value: &Symbol| {
                    let key = Key { place, key: demand.key, value: *value };
                    self.lists.get(&key).map_or(0, |list| list.entries().len())
                };
                Some((demand.values.len(), demand.values.iter().map(filed).sum::<usize>()))
            }
            Operator::Exists => Some((usize::MAX, 0)),
            Operator::NotIn | Operator::DoesNotExist => None,
        };
        demands
            .iter()
            .enumerate()
            .filter_map(|(anchor, demand)| Some((rank(demand)?, anchor)))
            .min()
            .map_or(demands.len(), |(_, anchor)| anchor)
    }

    pub(super) fn file(&mut self, place: Place, matcher: &Matcher, anchor: Anchor, id: Id) {
        each_key(place, matcher, anchor, |key| match self.lists.entry(key) {
            Entry::Occupied(mut list) => list.get_mut().push(id),
            Entry::Vacant(place) => {
                place.insert(List::One(id));
                *self.keys.entry(key.key).or_default() += 1;
            }
        });
    }

    pub(super) fn unfile(&mut self, place: Place, matcher: &Matcher, anchor: Anchor, id: Id) {
        each_key(place, matcher, anchor, |key| {
            if !self.lists.get_mut(&key).is_some_and(|list| list.remove(id)) {
                return;
            }
            self.lists.remove(&key);
            if let Some(count) = self.keys.get_mut(&key.key) {
                *count -= 1;
                if *count == 0 {
                    self.keys.remove(&key.key);
                }
            }
        });
    }

    /// Calls `found` for every selector filed in the places that the labels may satisfy, each once.
    pub(super) fn candidates(&self, places: &[Place], labels: &[Label], mut found: impl FnMut(Id)) {
        if self.lists.is_empty() {
            return;
        }
        let mut look = |key, value| {
            for place in places {
                let list = self.lists.get(&Key { place: *place, key, value });
                let entries = list.map(List::entries).unwrap_or_default();
                entries.iter().for_each(|id| found(*id));
            }
        };
        if self.keys.contains_key(&NONE) {
            look(NONE, NONE);
        }
        for (key, value) in labels.iter().filter(|(key, _)| self.keys.contains_key(key)) {
            look(*key, *value);
            look(*key, NONE);
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let lists = self.lists.values().map(List::heap_bytes);
        self.lists.allocation_size() + self.keys.allocation_size() + lists.sum::<usize>()
    }
}

fn each_key(place: Place, matcher: &Matcher, anchor: Anchor, mut found: impl FnMut(Key)) {
    match matcher.demands().get(anchor) {
        Some(Demand { key, operator: Operator::In, values }) => {
            values.iter().for_each(|value| found(Key { place, key: *key, value: *value }));
        }
        Some(Demand { key, .. }) => found(Key { place, key: *key, value: NONE }),
        None => found(Key { place, key: NONE, value: NONE }),
    }
}

/// Objects by label, for the keys that selectors have asked for by value.
///
/// A key stays indexed once it is: there are no more keys than objects carry.
#[derive(Clone, Debug, Default)]
pub(super) struct Postings {
    keys: HashSet<Symbol>,
    lists: HashMap<Label, Posting>,
}

/// Most values of most keys are carried by one object.
#[derive(Clone, Debug)]
enum Posting {
    One(Id),
    Many(BTreeSet<Id>),
}

impl Posting {
    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(ids) => ids.len(),
        }
    }
}

impl Postings {
    /// Sees to it that a key is indexed. `all` lists every object with its labels.
    pub(super) fn index<'a>(
        &mut self,
        symbols: &mut Symbols,
        key: Symbol,
        all: impl Iterator<Item = (Id, &'a [Label])>,
    ) {
        if !self.keys.insert(key) {
            return;
        }
        symbols.retain(key); // The symbol must not come to mean another key.
        for (id, labels) in all {
            for label in labels.iter().filter(|(other, _)| *other == key) {
                self.add(*label, id);
            }
        }
    }

    pub(super) fn is_indexed(&self, key: Symbol) -> bool {
        self.keys.contains(&key)
    }

    pub(super) fn insert(&mut self, id: Id, labels: &[Label]) {
        if self.keys.is_empty() {
            return;
        }
        for label in labels {
            if self.keys.contains(&label.0) {
                self.add(*label, id);
            }
        }
    }

    pub(super) fn remove(&mut self, id: Id, labels: &[Label]) {
        for label in labels {
            if !self.keys.contains(&label.0) {
                continue;
            }
            let empty = match self.lists.get_mut(label) {
                None => false,
                Some(Posting::One(only)) => *only == id,
                Some(Posting::Many(ids)) => {
                    ids.remove(&id);
                    ids.is_empty()
                }
            };
            if empty {
                self.lists.remove(label);
            }
        }
    }

    fn add(&mut self, label: Label, id: Id) {
        match self.lists.get_mut(&label) {
            None => {
                self.lists.insert(label, Posting::One(id));
            }
            Some(Posting::Many(ids)) => {
                ids.insert(id);
            }
            Some(posting @ Posting::One(_)) => {
                if let Posting::One(only) = posting {
                    *posting = Posting::Many(BTreeSet::from([*only, id]));
                }
            }
        }
    }

    /// Returns how many objects meet an In demand.
    pub(super) fn count(&self, demand: &Demand) -> usize {
        let list = |value: &Symbol| self.lists.get(&(demand.key, *value)).map_or(0, Posting::len);
        demand.values.iter().map(list).sum()
    }

    /// Calls `found` for every object that meets an In demand, each once.
    pub(super) fn carriers(&self, demand: &Demand, mut found: impl FnMut(Id)) {
        for value in &demand.values {
            match self.lists.get(&(demand.key, *value)) {
                None => {}
                Some(Posting::One(id)) => found(*id),
                Some(Posting::Many(ids)) => ids.iter().for_each(|id| found(*id)),
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let lists = self.lists.values().map(|posting| match posting {
            Posting::One(_) => 0,
            Posting::Many(ids) => super::memory::btree_bytes::<Id>(ids.len()),
        });
        self.keys.allocation_size() + self.lists.allocation_size() + lists.sum::<usize>()
    }
}
