//! Membership vectors, each kept once under a small number.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

/// Numbers membership vectors (ascending set indexes) and counts who uses each.
///
/// Number 0 is the empty vector and always in use. A number that nobody uses rests under its vector until
/// [`Interner::recycle`]; only then may it name another vector.
///
/// INVARIANT (one number): a vector stands in `numbers` exactly if its entry is in use or rests, under that entry's
/// number; upheld by `acquire` and `recycle`.
#[derive(Clone, Debug)]
pub(super) struct Interner {
    entries: Vec<Entry>,
    /// Look-up only, never iterated, so that order cannot leak.
    numbers: HashMap<Arc<[u32]>, u32>,
    resting: BTreeSet<u32>,
    free: BTreeSet<u32>,
    /// Numbers that came into use or went out of it since the last [`Interner::turned`], with what they were before.
    touched: BTreeMap<u32, bool>,
}

#[derive(Clone, Debug)]
struct Entry {
    vector: Arc<[u32]>,
    uses: usize,
}

impl Interner {
    pub(super) fn new() -> Self {
        let vector: Arc<[u32]> = Arc::default();
        Self {
            numbers: HashMap::from_iter([(vector.clone(), 0)]),
            entries: alloc::vec![Entry { vector, uses: 1 }],
            resting: BTreeSet::new(),
            free: BTreeSet::new(),
            touched: BTreeMap::new(),
        }
    }

    /// Returns the number of a vector, used once more.
    pub(super) fn acquire(&mut self, vector: &[u32]) -> u32 {
        if let Some(number) = self.numbers.get(vector).copied() {
            self.retain(number);
            return number;
        }
        let vector: Arc<[u32]> = vector.into();
        let entry = Entry { vector: vector.clone(), uses: 1 };
        let next = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let number = self.free.pop_first().unwrap_or(next);
        match self.entries.get_mut(index(number)) {
            Some(slot) => *slot = entry,
            None => self.entries.push(entry),
        }
        self.numbers.insert(vector, number);
        self.touched.entry(number).or_insert(false);
        number
    }

    /// Uses a number once more.
    pub(super) fn retain(&mut self, number: u32) {
        let Some(entry) = self.entries.get_mut(index(number)) else { return };
        entry.uses += 1;
        if entry.uses == 1 {
            self.resting.remove(&number);
            self.touched.entry(number).or_insert(false);
        }
    }

    /// Uses a number once less.
    pub(super) fn release(&mut self, number: u32) {
        let Some(entry) = self.entries.get_mut(index(number)) else { return };
        debug_assert!(entry.uses > 0, "number {number} is not in use");
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses == 0 {
            self.resting.insert(number);
            self.touched.entry(number).or_insert(true);
        }
    }

    /// Returns the vector of a number; empty for one that was never given.
    pub(super) fn vector(&self, number: u32) -> &[u32] {
        self.entries.get(index(number)).map_or(&[], |entry| entry.vector.as_ref())
    }

    /// Returns whether a number is in use.
    pub(super) fn is_used(&self, number: u32) -> bool {
        self.entries.get(index(number)).is_some_and(|entry| entry.uses > 0)
    }

    /// Returns the numbers in use, ascending.
    pub(super) fn used(&self) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).zip(&self.entries).filter(|(_, entry)| entry.uses > 0).map(|(number, _)| number)
    }

    /// Returns how many numbers are in use.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.resting.len() - self.free.len()
    }

    /// Returns the numbers that came into use and those that went out of it since the last call, ascending.
    pub(super) fn turned(&mut self) -> (Vec<u32>, Vec<u32>) {
        let (mut born, mut died) = (Vec::new(), Vec::new());
        for (number, was_used) in core::mem::take(&mut self.touched) {
            match (was_used, self.is_used(number)) {
                (false, true) => born.push(number),
                (true, false) => died.push(number),
                (true, true) | (false, false) => {}
            }
        }
        (born, died)
    }

    /// Lets resting numbers name other vectors.
    pub(super) fn recycle(&mut self) {
        for number in core::mem::take(&mut self.resting) {
            if let Some(entry) = self.entries.get_mut(index(number)) {
                self.numbers.remove(&entry.vector);
                entry.vector = Arc::default();
                self.free.insert(number);
            }
        }
    }
}

pub(super) const fn index(number: u32) -> usize {
    number as usize
}

/// Returns the members of either vector.
pub(super) fn union(left: &[u32], right: &[u32]) -> Vec<u32> {
    if left.is_empty() || right.is_empty() {
        return [left, right].concat();
    }
    let mut both = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.iter().copied().peekable(), right.iter().copied().peekable());
    while let (Some(&one), Some(&other)) = (left.peek(), right.peek()) {
        both.push(one.min(other));
        if one <= other {
            left.next();
        }
        if other <= one {
            right.next();
        }
    }
    both.extend(left);
    both.extend(right);
    both
}

/// Returns the vector with one more member; `None` if it is one already.
pub(super) fn with(vector: &[u32], member: u32) -> Option<Vec<u32>> {
    let place = vector.binary_search(&member).err()?;
    let mut vector = vector.to_vec();
    vector.insert(place, member);
    Some(vector)
}

/// Returns the vector with one member less; `None` if it is not one.
pub(super) fn without(vector: &[u32], member: u32) -> Option<Vec<u32>> {
    let place = vector.binary_search(&member).ok()?;
    let mut vector = vector.to_vec();
    vector.remove(place);
    Some(vector)
}
