//! The kernel's side: which ruleset the hooks of a network namespace look into.
//!
//! ```text
//!   FORWARD, LOCAL_IN  (links, IPv4 and IPv6) ──▶ slot ──▶ judge, with one set of maps
//! ```
//!
//! A change is written into the maps in force, to count from the next version on; then the version is raised, in one step.
//! Where that cannot be, the new ruleset is loaded beside the one in force, with maps of its own; then the slot is pointed
//! to it, in one step. So every packet meets one ruleset or the other, never a part of both, and what fails before that
//! step changes nothing.

mod attached;
mod btf;
mod conntrack;
mod denied;
mod error;
mod hosts;
mod live;
mod loaded;
mod mapped;
mod namespace;
mod pins;
mod program;
mod rows;
mod sys;
mod table;
mod tc;

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use std::io;
use std::path::PathBuf;

use netpol_core::backend::{Counter, Dataplane, Denials, Drift, SyncError, Updated};
use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;

use crate::{Ebpf, Established, MapImage};
use attached::{Attached, Manner, remove_pinned};
pub use btf::{Kernel, KernelError};
pub use error::LoadError;
use live::Live;
pub use loaded::Loaded;
use pins::Pins;
use tc::AtInterfaces;
pub use tc::{
    Attach, ByPeer, ByRoute, Interface, InterfaceError, Interfaces, Service, Side, Surroundings,
    Tc, Times,
};

/// How a change of the ruleset gets into the kernel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Updates {
    /// The whole ruleset is loaded beside the one in force, in maps of its own, and then switched to.
    Beside,
    /// Rows are written into the maps in force, and one version switches them all. Costs what changes. So does
    /// [`sync`](Dataplane::sync), besides a look at everything, where the maps hold what they should.
    #[default]
    InPlace,
}

/// Where packets are judged.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum FrontEnd {
    /// Where the kernel forwards: behind connection tracking and destination NAT, before source NAT.
    #[default]
    Netfilter,
    /// At the interfaces of pods, with a table of connections of our own. Must be told what the node translates
    /// ([`Tc::services`]). See the limits in the crate's documentation.
    Tc(Tc),
}

/// The hooks of network namespaces: [`sync`](Dataplane::sync) and [`remove`](Dataplane::remove) speak of the one that
/// the calling thread is in, and one value can hold several.
///
/// What it puts into the kernel lasts as long as it does, or, with [`pinned`](Self::pinned), until it is removed.
#[derive(Debug, Default)]
pub struct EbpfDataplane {
    backend: Ebpf,
    established: Established,
    updates: Updates,
    front_end: FrontEnd,
    pins: Option<PathBuf>,
    kernel: Option<Kernel>,
    namespaces: BTreeMap<Namespace, Attached>,
    interfaces: BTreeMap<Namespace, AtInterfaces>,
}

/// The inode of a network namespace. Our hooks keep it alive, so the number means no other one meanwhile.
type Namespace = u64;

impl EbpfDataplane {
    /// Returns a dataplane. Nothing is touched before the first [`sync`](Dataplane::sync).
    #[must_use]
    pub const fn new(backend: Ebpf) -> Self {
        Self {
            backend,
            established: Established::Recheck,
            updates: Updates::InPlace,
            front_end: FrontEnd::Netfilter,
            pins: None,
            kernel: None,
            namespaces: BTreeMap::new(),
            interfaces: BTreeMap::new(),
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

    /// Says how [`update`](Dataplane::update) makes a change.
    #[must_use]
    pub const fn with_updates(mut self, updates: Updates) -> Self {
        self.updates = updates;
        self
    }

    /// Says where packets are judged. To be said before the first [`sync`](Dataplane::sync): what another front end put into
    /// the kernel stays until it is removed by a dataplane with that one.
    #[must_use]
    pub fn with_front_end(mut self, front_end: FrontEnd) -> Self {
        self.front_end = front_end;
        self
    }

    /// Says what is translated on the node, from the next [`sync`](Dataplane::sync) or [`update`](Dataplane::update) on.
    /// Only the front end at interfaces needs to know.
    pub fn set_services(&mut self, services: Vec<Service>) {
        if let FrontEnd::Tc(tc) = &mut self.front_end {
            tc.services = services;
        }
    }

    fn pins(&self, inode: Namespace) -> Option<Pins> {
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
    /// If nothing of ours is there, or a map cannot be read.
    pub fn differences(&self, ruleset: &Ruleset) -> Result<Vec<&'static str>, SyncError> {
        let live = self.live()?;
        let mut names = live.differences().map_err(unreadable)?;
        if !live.is_of(ruleset) {
            names.push("ruleset");
        }
        Ok(names)
    }

    /// Returns the contents of the maps of the calling thread's namespace, as they should be.
    ///
    /// # Errors
    /// If nothing of ours is there.
    pub fn image(&self) -> Result<&MapImage, SyncError> {
        Ok(self.live()?.image())
    }

    fn live(&self) -> Result<&Live, SyncError> {
        let namespace = namespace()?;
        match self.front_end {
            FrontEnd::Netfilter => self.namespaces.get(&namespace).map(Attached::live),
            FrontEnd::Tc(_) => self.interfaces.get(&namespace).map(AtInterfaces::live),
        }
        .ok_or_else(nothing_here)
    }

    fn sync_at_interfaces(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        let namespace = namespace()?;
        let pins = self.pins(namespace);
        let FrontEnd::Tc(tc) = &self.front_end else { return Err(nothing_here()) };
        let manner = tc::Manner {
            tc,
            limits: self.backend.limits,
            established: self.established,
            updates: self.updates,
        };
        match self.interfaces.entry(namespace) {
            Entry::Occupied(mut attached) => {
                attached.get_mut().switch(manner, ruleset, pins.as_ref())
            }
            Entry::Vacant(place) => {
                place.insert(AtInterfaces::new(manner, ruleset, pins.as_ref())?).complain()
            }
        }
    }

    fn here_mut(&mut self) -> Result<&mut Attached, SyncError> {
        self.namespaces.get_mut(&namespace()?).ok_or_else(nothing_here)
    }
}

fn nothing_here() -> SyncError {
    SyncError::Missing {
        what: "a ruleset in this network namespace".into(),
        hint: "sync one first".into(),
    }
}

fn unreadable(error: io::Error) -> SyncError {
    SyncError::refused("a look at the maps", error)
}

fn namespace() -> Result<Namespace, SyncError> {
    namespace::network_namespace()
        .map_err(|error| SyncError::refused("the network namespace", error))
}

impl Dataplane for EbpfDataplane {
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        if let FrontEnd::Tc(_) = self.front_end {
            return self.sync_at_interfaces(ruleset);
        }
        let namespace = namespace()?;
        let manner = Manner {
            kernel: self.kernel()?,
            limits: self.backend.limits,
            established: self.established,
            updates: self.updates,
        };
        let pins = self.pins(namespace);
        match self.namespaces.get_mut(&namespace) {
            Some(attached) => attached.switch(manner, ruleset, pins.as_ref()),
            None => {
                let attached = Attached::new(manner, ruleset, pins.as_ref())?;
                self.namespaces.insert(namespace, attached);
                Ok(())
            }
        }
    }

    /// Changes rows of the maps in force, and switches to them in one step. What they have no room for is loaded beside
    /// them.
    fn update(&mut self, ruleset: &Ruleset, delta: &Delta) -> Result<Updated, SyncError> {
        let namespace = namespace()?;
        let pins = self.pins(namespace);
        let is_made = self.updates == Updates::InPlace
            && match &self.front_end {
                FrontEnd::Netfilter => self
                    .namespaces
                    .get_mut(&namespace)
                    .is_some_and(|attached| attached.update(delta).is_ok()),
                FrontEnd::Tc(tc) => self
                    .interfaces
                    .get_mut(&namespace)
                    .is_some_and(|attached| attached.update(tc, delta, pins.as_ref())),
            };
        if is_made {
            return Ok(Updated::ByDelta);
        }
        self.sync(ruleset).map(|()| Updated::BySync)
    }

    fn verify(&mut self, ruleset: &Ruleset) -> Result<Vec<Drift>, SyncError> {
        if let FrontEnd::Tc(tc) = &self.front_end {
            let attached = self.interfaces.get_mut(&namespace()?).ok_or_else(nothing_here)?;
            return attached.verify(tc, ruleset).map_err(unreadable);
        }
        self.here_mut()?.verify(ruleset).map_err(unreadable)
    }

    /// The kernel tells of no change to maps. So this looks at the hooks, the slot, the table and the version, some
    /// microseconds' work, and says yes every five minutes for the rows' sake.
    fn may_have_drifted(&mut self) -> Result<bool, SyncError> {
        let namespace = namespace()?;
        match self.front_end {
            FrontEnd::Netfilter => self.namespaces.get(&namespace).map(Attached::may_have_drifted),
            FrontEnd::Tc(_) => self.interfaces.get(&namespace).map(AtInterfaces::may_have_drifted),
        }
        .unwrap_or(Ok(true))
        .map_err(unreadable)
    }

    fn counters(&mut self) -> Result<Vec<Counter>, SyncError> {
        self.live()?.counters().map_err(unreadable)
    }

    fn denials(&mut self) -> Result<Denials, SyncError> {
        if let FrontEnd::Tc(_) = self.front_end {
            let attached = self.interfaces.get_mut(&namespace()?).ok_or_else(nothing_here)?;
            return attached.denials().map_err(unreadable);
        }
        self.here_mut()?.denials().map_err(unreadable)
    }

    fn atoms(&self) -> Option<usize> {
        let rows = self.image().ok()?.rows();
        // A policy's default is a decision too.
        Some(rows.policies + rows.words + rows.ports)
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        let namespace = namespace()?;
        let hooks = |error| SyncError::refused("the hooks", error);
        if let FrontEnd::Tc(_) = self.front_end {
            let programs = |error| SyncError::refused("the programs at interfaces", error);
            if let Some(attached) = self.interfaces.remove(&namespace) {
                attached.detach().map_err(programs)?;
            }
            return match self.pins(namespace) {
                Some(pins) => tc::remove_pinned(&pins).map_err(programs),
                None => Ok(()),
            };
        }
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
