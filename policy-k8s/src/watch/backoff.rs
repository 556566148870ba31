//! The pause between attempts.
//!
//! It is kept outside the attempts: only a watch that makes progress resets it, not the mere beginning of a new list, or
//! a list that always fails would be asked for about once a second by every node, for ever.

use core::hash::{BuildHasher as _, Hasher as _};
use core::time::Duration;
use std::hash::RandomState;

#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the next pause: doubled each time, and cut by up to a half at random, so that nodes do not ask in step.
    pub(super) fn next(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures.min(20)).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        jittered(self.first.saturating_mul(factor).min(self.longest))
    }
}

/// Cuts a pause by up to a half.
pub(super) fn jittered(pause: Duration) -> Duration {
    let chance = u32::from(RandomState::new().build_hasher().finish().to_le_bytes()[0]);
    pause / 2 + pause * chance / 510
}

#[cfg(test)]
mod tests {
    use super::Backoff;
    use core::time::Duration;

    #[test]
    fn pauses_double_to_the_longest_and_start_anew_after_progress() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for full in [100, 200, 400, 800, 1000, 1000] {
            let (pause, full) = (backoff.next(), Duration::from_millis(full));
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }
}
