//! Equal values under one number, for as long as somebody holds it.

use core::borrow::Borrow;
use core::hash::{BuildHasher as _, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::slab::{Id, Slab};

#[derive(Clone, Debug)]
pub(super) struct Interner<T> {
    entries: Slab<Entry<T>>,
    /// With the hash of each value, so that growing does not look at the values again.
    table: HashTable<(ShortHash, Id)>,
    hasher: DefaultHashBuilder,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    value: T,
    holders: u32,
}

/// Half a hash, kept beside what it is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortHash(u32);

impl ShortHash {
    pub(super) fn of<Q: Hash + ?Sized>(hasher: &DefaultHashBuilder, key: &Q) -> Self {
        Self(u32::try_from(hasher.hash_one(key) >> 32).unwrap_or_default())
    }

    /// Returns the hash as a table wants it: it looks at the lowest and at the highest bits.
    pub(super) fn spread(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
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
        self.find_hashed(ShortHash::of(&self.hasher, key), key)
    }

    fn find_hashed<Q: Eq + ?Sized>(&self, hash: ShortHash, key: &Q) -> Option<Id>
    where
        T: Borrow<Q>,
    {
        let same = |(other, id): &(ShortHash, Id)| {
            other.0 == hash.0 && self.get(*id).is_some_and(|value| value.borrow() == key)
        };
        self.table.find(hash.spread(), same).map(|(_, id)| *id)
    }

    /// Holds a value. `make` is asked where nobody holds an equal one yet, and must make one equal to `key`.
    pub(super) fn acquire<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, make: impl FnOnce() -> T) -> Id
    where
        T: Borrow<Q>,
    {
        let hash = ShortHash::of(&self.hasher, key);
        if let Some(id) = self.find_hashed(hash, key) {
            self.retain(id);
            return id;
        }
        self.insert_hashed(hash, make())
    }

    /// Holds a value that nobody holds yet.
    pub(super) fn insert<Q: Eq + Hash + ?Sized>(&mut self, value: T) -> Id
    where
        T: Borrow<Q>,
    {
        self.insert_hashed(ShortHash::of(&self.hasher, value.borrow()), value)
    }

    fn insert_hashed(&mut self, hash: ShortHash, value: T) -> Id {
        let id = self.entries.insert(Entry { value, holders: 1 });
        self.table.insert_unique(hash.spread(), (hash, id), |(hash, _)| hash.spread());
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
        let hash = ShortHash::of(&self.hasher, entry.value.borrow());
        if let Ok(found) = self.table.find_entry(hash.spread(), |(_, other)| *other == id) {
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
