//! Waits for packets beside the work: behind each transaction a thread does, so that there is seldom anything left to wait for.

use alloc::sync::Arc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::netlink::wait_for_packets;

/// The transactions of one connection, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Settling {
    shared: Arc<Shared>,
    /// Whether the thread runs; it begins with the first transaction.
    has_thread: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The last transaction in force.
    last: u64,
    /// Packets are being waited for that began before this one.
    waited: u64,
    /// No packet is under way any more that did.
    settled: u64,
    is_over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A number is as good as it was, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for packets until the end.
    fn run(&self) {
        let mut state = self.state();
        while !state.is_over {
            if state.last == state.settled {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let number = state.last;
            state.waited = number;
            drop(state);
            wait_for_packets();
            state = self.state();
            state.settled = state.settled.max(number);
            self.changed.notify_all();
        }
    }
}

impl Settling {
    /// A transaction is in force.
    pub(super) fn passed(&mut self, number: u64) {
        if !self.has_thread {
            let shared = self.shared.clone();
            let thread = thread::Builder::new().name("netpol-settling".into());
            // Without a thread, who must wait does so itself.
            self.has_thread = thread.spawn(move || shared.run()).is_ok();
        }
        self.shared.state().last = number;
        self.shared.changed.notify_all();
    }

    /// Returns the number of the last transaction of which no packet is under way that began before it.
    pub(super) fn settled(&self) -> u64 {
        self.shared.state().settled
    }

    /// Waits until no packet is under way that began before the last transaction.
    pub(super) fn wait(&self) {
        let mut state = self.shared.state();
        let number = state.last;
        // Somebody waits for just that already.
        while state.settled < number && state.waited >= number && self.has_thread {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.settled >= number {
            return;
        }
        drop(state);
        wait_for_packets();
        let mut state = self.shared.state();
        state.settled = state.settled.max(number);
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.changed.notify_all();
    }
}
