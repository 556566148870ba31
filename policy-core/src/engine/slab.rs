//! Values under small numbers that are used again.

use alloc::vec::Vec;

/// A number of a slab's value.
pub(super) type Id = u32;

/// No value.
pub(super) const NONE: Id = Id::MAX;

#[derive(Clone, Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<Id>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> Id {
        if let Some(id) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(id as usize)
        {
            *entry = Some(value);
            return id;
        }
        // 2³² values do not fit into memory, so this never saturates.
        let id = Id::try_from(self.entries.len()).unwrap_or(NONE);
        self.entries.push(Some(value));
        id
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        let value = self.entries.get_mut(id as usize)?.take()?;
        self.free.push(id);
        Some(value)
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        self.entries.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        self.entries.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        (0..).zip(&self.entries).filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    pub(super) const fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Option<T>>() + self.free.capacity() * size_of::<Id>()
    }
}
