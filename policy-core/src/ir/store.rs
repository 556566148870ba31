//! Content-addressed things: found by id in one step, listed in the order of ids.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::hash::Hash;

use hashbrown::HashMap;

/// Shared values by id.
///
/// A digest has no neighbours, so that looking up and putting in cost a tree a walk through memory that nothing else
/// reads. Order is wanted only where all are listed, and is made there.
#[derive(Clone, Debug)]
pub(super) struct Store<Id, T> {
    by_id: HashMap<Id, Arc<T>>,
}

impl<Id: Copy + Eq + Hash + Ord, T> Store<Id, T> {
    pub(super) fn new(values: BTreeMap<Id, Arc<T>>) -> Self {
        Self { by_id: values.into_iter().collect() }
    }

    pub(super) fn get(&self, id: Id) -> Option<&Arc<T>> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Arc<T>> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn insert(&mut self, id: Id, value: Arc<T>) {
        self.by_id.insert(id, value);
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<Arc<T>> {
        self.by_id.remove(&id)
    }

    /// Returns all, by id. Sorts them: not for every event.
    pub(super) fn sorted(&self) -> vec::IntoIter<(Id, &Arc<T>)> {
        let mut all: Vec<(Id, &Arc<T>)> =
            self.by_id.iter().map(|(id, value)| (*id, value)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter()
    }

    /// Returns all values in no order: for what adds up or looks for one.
    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<T>> {
        self.by_id.values()
    }
}

impl<Id: Eq + Hash, T: PartialEq> PartialEq for Store<Id, T> {
    fn eq(&self, other: &Self) -> bool {
        self.by_id == other.by_id
    }
}
