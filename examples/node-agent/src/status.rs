//! How the agent is, for whoever asks over HTTP.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use netpol_core::model::Kind;

use crate::metrics::Metrics;

/// A loop that has not turned for so long is stuck.
const STUCK: Duration = Duration::from_secs(90);

/// A change that waits for so long is a fault.
const LATE: Duration = Duration::from_secs(10);

/// What the loop and the HTTP server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) metrics: Metrics,
    status: Mutex<Status>,
}

#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// When the loop last turned.
    pub(crate) beat: Instant,
    pub(crate) is_synced: bool,
    /// What the last attempt to enforce failed with.
    pub(crate) failure: Option<String>,
    /// When the first change was heard that is not enforced yet.
    pub(crate) oldest: Option<Instant>,
    /// Kinds that cannot be followed now. Their last known state is enforced.
    pub(crate) failing: BTreeMap<Kind, String>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        let status = Status {
            beat: Instant::now(),
            is_synced: false,
            failure: None,
            oldest: None,
            failing: BTreeMap::new(),
        };
        Arc::new(Self { metrics: Metrics::new(), status: Mutex::new(status) })
    }

    pub(crate) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status {
    /// Whether the loop turns. An API server that is away must not restart every agent.
    pub(crate) fn is_alive(&self) -> bool {
        self.beat.elapsed() < STUCK
    }

    /// Why the node's rules are not what they should be; empty if they are.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if !self.is_synced {
            complaints.push("not everything was listed yet".to_owned());
        }
        complaints.extend(self.failure.clone());
        if let Some(age) = self.oldest.map(|oldest| oldest.elapsed()).filter(|age| *age > LATE) {
            complaints.push(format!("a change waits since {} s", age.as_secs()));
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{LATE, STUCK, Shared};

    #[test]
    fn a_loop_that_no_longer_turns_is_not_alive_and_a_change_that_waits_is_complained_about() {
        let shared = Shared::new();
        let mut status = shared.status();
        status.is_synced = true;
        assert!(status.is_alive() && status.complaints().is_empty());
        let Some(long_ago) = Instant::now().checked_sub(STUCK) else { return };
        status.beat = long_ago;
        assert!(!status.is_alive());
        status.oldest = Instant::now().checked_sub(LATE / 2);
        assert!(status.complaints().is_empty());
        status.oldest = Some(long_ago);
        assert_eq!(status.complaints(), ["a change waits since 90 s"]);
    }
}
