//! The hooks of one network namespace, and the ruleset they lead to.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use netpol_core::backend::SyncError;

use super::btf::Kernel;
use super::conntrack;
use super::loaded::Loaded;
use super::program::{NETFILTER, SLOT};
use super::sys::{self, Map, NetfilterHook, Shape};
use crate::image::MapImage;

/// The slot: `BPF_MAP_TYPE_PROG_ARRAY` of one program.
const SLOT_SHAPE: Shape = Shape { kind: 3, key: 4, value: 4, flags: 0 };
/// The number of the slot among the maps of the program's source.
const SLOT_NUMBER: u8 = 6;

/// Where nftables' `filter` is: after connection tracking and destination NAT, before source NAT.
const PRIORITY: i32 = 0;

/// The hooks: family (`NFPROTO_…`), hook (`NF_INET_…`), and what they are called.
const HOOKS: [(u32, u32, &str); 4] = [
    (2, 2, "the IPv4 hook at FORWARD"),
    (10, 2, "the IPv6 hook at FORWARD"),
    (2, 1, "the IPv4 hook at LOCAL_IN"),
    (10, 1, "the IPv6 hook at LOCAL_IN"),
];

/// The hooks of one network namespace. They are gone when this is.
#[derive(Debug)]
pub(super) struct Attached {
    /// Dropped before the slot, so that no hook ever finds it empty.
    links: Vec<OwnedFd>,
    slot: Map,
    loaded: Loaded,
}

impl Attached {
    /// Hooks a ruleset into the namespace of the calling thread.
    pub(super) fn new(kernel: &Kernel, loaded: Loaded) -> Result<Self, SyncError> {
        conntrack::on().map_err(|error| match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL) => SyncError::Missing {
                what: "connection tracking".into(),
                hint: "the kernel needs nf_tables and nf_conntrack".into(),
            },
            _ => SyncError::refused("table inet netpol-ebpf", error),
        })?;
        let refused = |error: io::Error| SyncError::refused("the slot of the hooks", error);
        let slot = Map::create("np_slot", SLOT_SHAPE, 1).map_err(refused)?;
        let program = SLOT.load(kernel, &[(SLOT_NUMBER, slot.descriptor())])?;
        let mut attached = Self { links: Vec::new(), slot, loaded };
        attached.point()?;
        for (family, hook, name) in HOOKS {
            let at = NetfilterHook { family, hook, priority: PRIORITY };
            let link = sys::hook(program.as_fd(), NETFILTER, at);
            attached.links.push(link.map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => SyncError::refused(
                    format!("{name}: another program has priority {PRIORITY}"),
                    error,
                ),
                _ => SyncError::refused(name, error),
            })?);
        }
        Ok(attached)
    }

    /// Leads the hooks to another ruleset, in one step.
    pub(super) fn switch(&mut self, loaded: Loaded) -> Result<(), SyncError> {
        let before = core::mem::replace(&mut self.loaded, loaded);
        self.point().inspect_err(|_| self.loaded = before)
    }

    fn point(&self) -> Result<(), SyncError> {
        let program = self.loaded.program().as_raw_fd();
        self.slot
            .update(&0_u32.to_ne_bytes(), &program.to_ne_bytes())
            .map_err(|error| SyncError::refused("the slot of the hooks", error))
    }

    /// Returns the names of the maps whose rows are not those of the image.
    pub(super) fn differences(&self, image: &MapImage) -> io::Result<Vec<&'static str>> {
        self.loaded.differences(image)
    }
}
