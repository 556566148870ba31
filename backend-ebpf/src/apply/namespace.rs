//! Which network namespace the calling thread is in.

use core::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use super::sys;

/// Returns the inode of the network namespace that the calling thread is in.
///
/// Asked at every change. The way to the thread's directory is most of its cost, so the directory stays open.
pub(super) fn network_namespace() -> io::Result<u64> {
    thread_local! {
        /// Of the process that opened it: one that was forked would see its parent's.
        static DIRECTORY: RefCell<Option<(u32, OwnedFd)>> = const { RefCell::new(None) };
    }
    DIRECTORY.with_borrow_mut(|directory| {
        let process = std::process::id();
        if directory.as_ref().is_none_or(|(opener, _)| *opener != process) {
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let mut options = File::options();
            let opened = options.read(true).custom_flags(flags).open("/proc/thread-self/ns")?;
            *directory = Some((process, opened.into()));
        }
        let (_, directory) = directory.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut text = [0_u8; 32];
        let length = sys::read_link(directory.as_fd(), c"net", &mut text)?;
        let text = text.get(..length).and_then(|text| core::str::from_utf8(text).ok());
        // `net:[4026531840]`
        text.and_then(|text| text.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    })
}
