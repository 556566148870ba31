//! Small numbers, given out and taken back.

use alloc::collections::BTreeSet;

/// Gives out the smallest number that is free, from 1.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    used: u32,
    free: BTreeSet<u32>,
}

impl Numbers {
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.used = self.used.saturating_add(1);
            self.used
        })
    }

    /// Takes a number back that nothing means any more.
    pub(super) fn free(&mut self, number: u32) {
        self.free.insert(number);
    }

    /// Returns the largest number that was ever given out.
    #[cfg(feature = "apply")]
    pub(super) const fn largest(&self) -> u32 {
        self.used
    }
}
