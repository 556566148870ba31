//! One network namespace, held by nothing but an open file: when the process ends, however it ends, it is gone.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;

use super::sys;

/// A network namespace of the lab.
#[derive(Debug)]
pub(super) struct Namespace {
    handle: OwnedFd,
}

impl Namespace {
    /// Makes a namespace with loopback still down.
    pub(super) fn create() -> io::Result<Self> {
        on_own_thread(|| {
            sys::unshare_network()?;
            Ok(Self { handle: File::open("/proc/thread-self/ns/net")?.into() })
        })
    }

    /// The open file of the namespace, for netlink messages that name it.
    pub(super) const fn handle(&self) -> &OwnedFd {
        &self.handle
    }

    /// Runs work on a thread of its own inside the namespace; sockets made and processes started there belong to it.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Moves the calling thread here for good. Only for threads that end with their work.
    pub(super) fn enter(&self) -> io::Result<()> {
        sys::enter_network(self.handle.as_fd())
    }
}

/// Writes a setting under `/proc/sys/net` of the calling thread's namespace.
pub(super) fn set(setting: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{setting}"), value)
        .map_err(|error| io::Error::new(error.kind(), format!("/proc/sys/net/{setting}: {error}")))
}

/// Runs work on a thread of its own, so that the caller's thread never changes its namespace.
pub(super) fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, work)?.join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
