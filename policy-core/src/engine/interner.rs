//! Equal values under one number, for as long as somebody holds it.

use core::borrow::Borrow;
use core::hash::{BuildHasher as _, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::slab::{Id, Slab};

#[derive(Clone, Debug)]
pub(super) struct Interner<T> {
    entries: Slab<Entry<T>>,
    table: HashTable<Id>,
    hasher: DefaultHashBuilder,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    value: T,
    holders: u32,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self {
            entries: Slab::default(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<T> Interner<T> {
    /// Returns the number of a value if it is held.
    pub(super) fn find<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<Id>
    where
        T: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let same = |id: &Id| self.get(*id).is_some_and(|value| value.borrow() == key);
        self.table.find(hash, same).copied()
    }

    /// Holds a value. `make` is asked where nobody holds an equal one yet, and must make one equal to `key`.
    pub(super) fn acquire<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, make: impl FnOnce() -> T) -> Id
    where
        T: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let Self { entries, table, .. } = self;
        let same = |id: &Id| entries.get(*id).is_some_and(|entry| entry.value.borrow() == key);
        if let Some(id) = table.find(hash, same).copied() {
            if let Some(entry) = entries.get_mut(id) {
                entry.holders += 1;
            }
            return id;
        }
        self.insert::<Q>(make())
    }

    /// Holds a value that nobody holds yet.
    pub(super) fn insert<Q: Eq + Hash + ?Sized>(&mut self, value: T) -> Id
    where
        T: Borrow<Q>,
    {
        let Self { entries, table, hasher } = self;
        let hash = hasher.hash_one(value.borrow());
        let id = entries.insert(Entry { value, holders: 1 });
        table.insert_unique(hash, id, |id| {
            entries.get(*id).map_or(0, |entry| hasher.hash_one(entry.value.borrow()))
        });
        id
    }

    /// Holds a value once more.
    pub(super) fn retain(&mut self, id: Id) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.holders += 1;
        }
    }

    /// Lets go of a value; returns it if nobody else holds it.
    pub(super) fn release<Q: Eq + Hash + ?Sized>(&mut self, id: Id) -> Option<T>
    where
        T: Borrow<Q>,
    {
        let entry = self.entries.get_mut(id)?;
        entry.holders -= 1;
        if entry.holders > 0 {
            return None;
        }
        let hash = self.hasher.hash_one(entry.value.borrow());
        if let Ok(found) = self.table.find_entry(hash, |other| *other == id) {
            found.remove();
        }
        self.entries.remove(id).map(|entry| entry.value)
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        self.entries.get(id).map(|entry| &entry.value)
    }

    /// Returns a value to change what is not part of its key.
    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        self.entries.get_mut(id).map(|entry| &mut entry.value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.entries.iter().map(|(id, entry)| (id, &entry.value))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.entries.heap_bytes() + self.table.allocation_size()
    }
}
