//! The kernel's side: which ruleset the hooks of a network namespace look into.
//!
//! ```text
//!   FORWARD, LOCAL_IN  (links, IPv4 and IPv6) ──▶ slot ──▶ judge, with the maps of one ruleset
//! ```
//!
//! A new ruleset is loaded beside the one in force, with maps of its own; then the slot is pointed to it, in one step. So
//! every packet meets one ruleset or the other, never a part of both, and what fails before that step changes nothing.

mod attached;
mod btf;
mod conntrack;
mod error;
mod loaded;
mod pins;
mod program;
mod sys;

use alloc::collections::BTreeMap;
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::path::PathBuf;

use netpol_core::backend::{Backend as _, Dataplane, SyncError};
use netpol_core::ir::Ruleset;

use crate::{Ebpf, Established};
use attached::{Attached, remove_pinned};
pub use btf::{Kernel, KernelError};
pub use error::LoadError;
pub use loaded::Loaded;
use pins::Pins;

/// The hooks of network namespaces: [`sync`](Dataplane::sync) and [`remove`](Dataplane::remove) speak of the one that
/// the calling thread is in, and one value can hold several.
///
/// What it puts into the kernel lasts as long as it does, or, with [`pinned`](Self::pinned), until it is removed.
#[derive(Debug, Default)]
pub struct EbpfDataplane {
    backend: Ebpf,
    established: Established,
    pins: Option<PathBuf>,
    kernel: Option<Kernel>,
    namespaces: BTreeMap<Namespace, Attached>,
}

/// Device and inode of a network namespace. Our hooks keep it alive, so the numbers mean no other one meanwhile.
type Namespace = (u64, u64);

impl EbpfDataplane {
    /// Returns a dataplane. Nothing is touched before the first [`sync`](Dataplane::sync).
    #[must_use]
    pub const fn new(backend: Ebpf) -> Self {
        Self {
            backend,
            established: Established::Recheck,
            pins: None,
            kernel: None,
            namespaces: BTreeMap::new(),
        }
    }

    /// Has enforcement outlive this value and this process: hooks are pinned below `directory`, in a BPF file system,
    /// and taken over by the next one that is given the same directory.
    #[must_use]
    pub fn pinned(mut self, directory: impl Into<PathBuf>) -> Self {
        self.pins = Some(directory.into());
        self
    }

    /// Gives what [`Kernel::probe`] found, so that the first [`sync`](Dataplane::sync) need not ask.
    #[must_use]
    pub const fn with_kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = Some(kernel);
        self
    }

    /// Says what becomes of open connections that a later ruleset denies.
    #[must_use]
    pub const fn with_established(mut self, established: Established) -> Self {
        self.established = established;
        self
    }

    fn pins(&self, (_, inode): Namespace) -> Option<Pins> {
        self.pins.as_ref().map(|directory| Pins::new(directory, inode))
    }

    fn kernel(&mut self) -> Result<Kernel, LoadError> {
        match self.kernel {
            Some(kernel) => Ok(kernel),
            None => Ok(*self.kernel.insert(Kernel::probe()?)),
        }
    }

    /// Returns the names of the maps of the calling thread's namespace that do not hold what `ruleset` lowers to.
    ///
    /// # Errors
    /// If it does not lower, nothing of ours is there, or a map cannot be read.
    pub fn differences(&self, ruleset: &Ruleset) -> Result<Vec<&'static str>, SyncError> {
        let image = self.backend.lower(ruleset)?;
        let attached = self.namespaces.get(&namespace()?).ok_or_else(|| SyncError::Missing {
            what: "a ruleset in this network namespace".into(),
            hint: "sync one first".into(),
        })?;
        attached
            .differences(&image)
            .map_err(|error| SyncError::refused("a look at the maps", error))
    }
}

fn namespace() -> Result<Namespace, SyncError> {
    let identity = std::fs::metadata("/proc/thread-self/ns/net");
    let identity = identity.map_err(|error| SyncError::refused("the network namespace", error))?;
    Ok((identity.st_dev(), identity.st_ino()))
}

impl Dataplane for EbpfDataplane {
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        let image = self.backend.lower(ruleset)?;
        let namespace = namespace()?;
        let kernel = self.kernel()?;
        let pins = self.pins(namespace);
        match self.namespaces.get_mut(&namespace) {
            Some(attached) => attached.switch(&kernel, &image, self.established, pins.as_ref()),
            None => {
                let attached = Attached::new(&kernel, &image, self.established, pins.as_ref())?;
                self.namespaces.insert(namespace, attached);
                Ok(())
            }
        }
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        let namespace = namespace()?;
        let hooks = |error| SyncError::refused("the hooks", error);
        if let Some(attached) = self.namespaces.remove(&namespace) {
            attached.detach().map_err(hooks)?;
        }
        if let Some(pins) = self.pins(namespace) {
            remove_pinned(&pins).map_err(hooks)?;
        }
        match conntrack::off() {
            // No nftables in this kernel: nothing of ours can be in it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT)) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| SyncError::refused("table inet netpol-ebpf", error)),
        }
    }
}
