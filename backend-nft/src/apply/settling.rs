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

#[cfg(all(test, feature = "kernel-tests"))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "test support")]

    use core::time::Duration;
    use std::io::Write as _;
    use std::net::UdpSocket;
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::Instant;

    use netpol_conformance::netlab::in_fresh_network;

    use super::Settling;

    /// Rules that hold a packet to port 9 up: so many of them jump to so many that jump to so many.
    const EACH: usize = 250;

    fn hold_packets_up() {
        let many = |rule: &str| format!("{rule}\n").repeat(EACH);
        let table = format!(
            "table inet slow {{\nchain two {{\n{}}}\nchain one {{\n{}}}\n\
             chain out {{\ntype filter hook output priority 0\n{}}}\n}}",
            many("meta mark 77 drop"),
            many("jump two"),
            many("udp dport 9 jump one")
        );
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    }

    #[test]
    fn nothing_is_settled_before_a_packet_that_is_held_up_is_through() {
        in_fresh_network(|| {
            hold_packets_up();
            for waits_itself in [true, false] {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let sends = thread::spawn(move || {
                    let begun = Instant::now();
                    socket.send_to(b"x", "127.0.0.1:9").unwrap();
                    (begun, Instant::now())
                });
                thread::sleep(Duration::from_millis(20));
                let mut settling = Settling::default();
                let asked = Instant::now();
                settling.passed(1);
                if waits_itself {
                    settling.wait();
                } else {
                    while settling.settled() < 1 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                let settled = Instant::now();
                let (begun, through) = sends.join().unwrap();
                assert!(begun < asked && asked < through, "the packet was not under way");
                // It was through before its sender could say so.
                assert!(
                    settled + Duration::from_millis(50) > through,
                    "{:?} early",
                    through - settled
                );
            }
        });
    }
}
