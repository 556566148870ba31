//! Names in a BPF file system, which keep hooks and slot alive without us.

use alloc::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::sys;

/// The directory of one network namespace.
#[derive(Clone, Debug)]
pub(super) struct Pins(PathBuf);

impl Pins {
    /// The pins of the namespace with this inode, in a directory of ours.
    pub(super) fn new(directory: &Path, inode: u64) -> Self {
        Self(directory.join(inode.to_string()))
    }

    /// Gives an object a name.
    pub(super) fn put(&self, name: &str, object: BorrowedFd<'_>) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        sys::pin(object, &self.path(name)?)
    }

    /// Opens an object; none if there is no such name.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        match sys::get(&self.path(name)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Takes a name away; one that is not there is no error.
    pub(super) fn take(&self, name: &str) -> io::Result<()> {
        gone(fs::remove_file(self.0.join(name)))
    }

    /// Returns the names there are.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string()));
        names.filter_map(|name| name.map(Result::ok).transpose()).collect()
    }

    /// Takes the directory away, once it is empty.
    pub(super) fn close(&self) -> io::Result<()> {
        gone(fs::remove_dir(&self.0))
    }

    fn path(&self, name: &str) -> io::Result<CString> {
        CString::new(self.0.join(name).as_os_str().as_bytes()).map_err(io::Error::other)
    }
}

fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
