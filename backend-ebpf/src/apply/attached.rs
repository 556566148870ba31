//! The hooks of one network namespace, and the ruleset they lead to.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use netpol_core::backend::SyncError;

use super::btf::Kernel;
use super::conntrack;
use super::error::LoadError;
use super::loaded::{Checked, Loaded};
use super::pins::Pins;
use super::program::{NETFILTER, SLOT};
use super::sys::{self, Map, NetfilterHook, Shape};
use crate::Established;
use crate::image::MapImage;

/// The slot: `BPF_MAP_TYPE_PROG_ARRAY` of one program.
const SLOT_SHAPE: Shape = Shape { kind: 3, key: 4, value: 4, flags: 0 };
/// The number of the slot among the maps of the program's source.
const SLOT_NUMBER: u8 = 6;
/// The slot's pin.
const SLOT_PIN: &str = "slot";

/// Where nftables' `filter` is: after connection tracking and destination NAT, before source NAT.
const PRIORITY: i32 = 0;

/// The hooks: family (`NFPROTO_…`), hook (`NF_INET_…`), and what they and their pins are called.
const HOOKS: [(u32, u32, &str); 4] =
    [(2, 2, "forward-4"), (10, 2, "forward-6"), (2, 1, "local-in-4"), (10, 1, "local-in-6")];

/// The hooks of one network namespace. Without pins they are gone when this is.
#[derive(Debug)]
pub(super) struct Attached {
    /// Dropped before the slot, so that no hook ever finds it empty.
    links: Vec<OwnedFd>,
    slot: Map,
    checked: Checked,
    /// The number of the latest ruleset.
    generation: u64,
    loaded: Loaded,
}

impl Attached {
    /// Hooks an image into the namespace of the calling thread, or takes over the hooks that its pins hold.
    pub(super) fn new(
        kernel: &Kernel,
        image: &MapImage,
        established: Established,
        pins: Option<&Pins>,
    ) -> Result<Self, SyncError> {
        conntrack::on().map_err(|error| match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP) => SyncError::Missing {
                what: "connection tracking".into(),
                hint: "the kernel needs nf_tables and nf_conntrack".into(),
            },
            _ => SyncError::refused("table inet netpol-ebpf", error),
        })?;
        let checked = Checked::create()?;
        let loaded = Loaded::load_as(kernel, image, &checked, number(1, established))?;
        if let Some((slot, links)) = pins.map_or(Ok(None), adopt)? {
            let adopted = Self { links, slot, checked, generation: 1, loaded };
            adopted.point(&adopted.loaded)?;
            return Ok(adopted);
        }
        let slot = Map::create("np_slot", SLOT_SHAPE, 1).map_err(slot_refused)?;
        let program = SLOT.load(kernel, &[(SLOT_NUMBER, slot.descriptor())], 0)?;
        let mut attached = Self { links: Vec::new(), slot, checked, generation: 1, loaded };
        attached.point(&attached.loaded)?;
        for (family, hook, name) in HOOKS {
            let at = NetfilterHook { family, hook, priority: PRIORITY };
            let link = sys::hook(program.as_fd(), NETFILTER, at);
            attached.links.push(link.map_err(|error| match error.raw_os_error() {
                Some(libc::EBUSY) => SyncError::refused(
                    format!("hook {name}: another program has priority {PRIORITY}"),
                    error,
                ),
                _ => SyncError::refused(format!("hook {name}"), error),
            })?);
        }
        if let Some(pins) = pins {
            attached.pin(pins).map_err(|error| SyncError::refused("the pins", error))?;
        }
        Ok(attached)
    }

    fn pin(&self, pins: &Pins) -> io::Result<()> {
        // What is there is of no use: not all of it was.
        pins.clear()?;
        pins.put(SLOT_PIN, self.slot.descriptor())?;
        HOOKS
            .iter()
            .zip(&self.links)
            .try_for_each(|((_, _, name), link)| pins.put(name, link.as_fd()))
    }

    /// Leads the hooks to another image, in one step.
    pub(super) fn switch(
        &mut self,
        kernel: &Kernel,
        image: &MapImage,
        established: Established,
    ) -> Result<(), LoadError> {
        let generation = self.generation.wrapping_add(1);
        let loaded =
            Loaded::load_as(kernel, image, &self.checked, number(generation, established))?;
        self.point(&loaded)?;
        self.generation = generation;
        self.loaded = loaded;
        Ok(())
    }

    fn point(&self, loaded: &Loaded) -> Result<(), LoadError> {
        let program = loaded.program().as_raw_fd();
        let pointed = self.slot.update(&0_u32.to_ne_bytes(), &program.to_ne_bytes());
        pointed.map_err(|source| LoadError::Map { map: "slot", rows: 1, source })
    }

    /// Returns the names of the maps whose rows are not those of the image.
    pub(super) fn differences(&self, image: &MapImage) -> io::Result<Vec<&'static str>> {
        self.loaded.differences(image)
    }

    /// Takes the hooks off, whoever else holds them.
    pub(super) fn detach(self) -> io::Result<()> {
        detach(&self.links)
    }
}

/// The number that the program gets: none where it is not to look at open connections.
const fn number(generation: u64, established: Established) -> u64 {
    match established {
        Established::Keep => 0,
        Established::Recheck => generation,
    }
}

fn slot_refused(source: io::Error) -> LoadError {
    LoadError::Map { map: "slot", rows: 1, source }
}

/// Opens the slot and the hooks that pins hold; none unless all are there.
fn adopt(pins: &Pins) -> Result<Option<(Map, Vec<OwnedFd>)>, SyncError> {
    let get =
        |name| pins.get(name).map_err(|error| SyncError::refused(format!("pin {name}"), error));
    let Some(slot) = get(SLOT_PIN)? else { return Ok(None) };
    let mut links = Vec::new();
    for (_, _, name) in HOOKS {
        let Some(link) = get(name)? else { return Ok(None) };
        links.push(link);
    }
    Ok(Some((Map::from_descriptor(slot, SLOT_SHAPE), links)))
}

fn detach(links: &[OwnedFd]) -> io::Result<()> {
    links.iter().try_for_each(|link| sys::unhook(link.as_fd()))
}

/// Takes off the hooks that pins hold, and the pins away.
pub(super) fn remove_pinned(pins: &Pins) -> io::Result<()> {
    for (_, _, name) in HOOKS {
        if let Some(link) = pins.get(name)? {
            sys::unhook(link.as_fd())?;
        }
    }
    pins.clear()
}
