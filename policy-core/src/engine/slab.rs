//! Values under small numbers that are used again.

use alloc::vec::Vec;

/// A number of a slab's value.
pub(super) type Id = u32;

/// No value.
pub(super) const NONE: Id = Id::MAX;

/// How many values lie side by side. Growing takes room for so many more and moves none of those that are there: a list
/// in one piece would be copied to memory that is touched for the first time whenever it doubles, and half of it is empty.
const CHUNK: usize = 512;

#[derive(Clone, Debug)]
pub(super) struct Slab<T> {
    /// All full but the last.
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<Id>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> Id {
        if let Some(id) = self.free.pop()
            && let Some(entry) = self.entry(id)
        {
            *entry = Some(value);
            return id;
        }
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => {
                last.push(Some(value));
                number(full + last.len() - 1)
            }
            before => {
                // The first one grows with what there is: many clusters are small.
                let room = before.map_or(1, |_| CHUNK);
                let mut chunk = Vec::with_capacity(room);
                chunk.push(Some(value));
                self.chunks.push(chunk);
                number((self.chunks.len() - 1) * CHUNK)
            }
        }
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        let value = self.entry(id)?.take()?;
        self.free.push(id);
        Some(value)
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        let id = id as usize;
        self.chunks.get(id / CHUNK)?.get(id % CHUNK)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        self.entry(id)?.as_mut()
    }

    fn entry(&mut self, id: Id) -> Option<&mut Option<T>> {
        let id = id as usize;
        self.chunks.get_mut(id / CHUNK)?.get_mut(id % CHUNK)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        let entries = self.chunks.iter().flatten();
        (0..).zip(entries).filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let entries: usize = self.chunks.iter().map(Vec::capacity).sum();
        entries * size_of::<Option<T>>()
            + self.chunks.capacity() * size_of::<Vec<Option<T>>>()
            + self.free.capacity() * size_of::<Id>()
    }
}

/// 2³² values do not fit into memory, so this never saturates.
fn number(index: usize) -> Id {
    Id::try_from(index).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, Slab};

    #[test]
    fn numbers_lead_to_their_values_across_chunks_and_are_used_again() {
        let mut slab = Slab::default();
        for value in 0..3 * CHUNK {
            assert_eq!(slab.insert(value) as usize, value);
        }
        assert_eq!(slab.remove(700), Some(700));
        assert_eq!((slab.remove(700), slab.get(700)), (None, None));
        assert_eq!(slab.iter().count(), 3 * CHUNK - 1);
        assert!(slab.iter().all(|(id, value)| id as usize == *value));
        assert_eq!(slab.insert(9), 700);
        assert_eq!(slab.get_mut(700), Some(&mut 9));
        assert_eq!(slab.get(u32::try_from(3 * CHUNK).unwrap()), None);
    }
}
