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
    /// By the order of [`HOOKS`]. Dropped before the slot, so that no hook ever finds it empty.
    links: [Option<OwnedFd>; HOOKS.len()],
    /// The program that they run.
    program: OwnedFd,
    slot: Map,
    checked: Checked,
    /// The number of the latest ruleset.
    generation: u64,
    established: Established,
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
        let pinned = |name| match pins {
            None => Ok(None),
            Some(pins) => pins.get(name).map_err(|error| pin_refused(name, error)),
        };
        // Whoever held the pins may have died at any point: what is there is taken over, what is missing is made.
        let (slot, is_new) = match pinned(SLOT_PIN)? {
            Some(descriptor) => (Map::from_descriptor(descriptor, SLOT_SHAPE), false),
            None => (Map::create("np_slot", SLOT_SHAPE, 1).map_err(slot_refused)?, true),
        };
        let program = SLOT.load(kernel, &[(SLOT_NUMBER, slot.descriptor())], 0)?;
        let [forward_4, forward_6, local_in_4, local_in_6] = HOOKS.map(|(_, _, name)| pinned(name));
        let links = [forward_4?, forward_6?, local_in_4?, local_in_6?];
        let mut attached =
            Self { links, program, slot, checked, generation: 1, established, loaded };
        attached.point(&attached.loaded)?;
        if let Some(pins) = pins.filter(|_| is_new) {
            let pinned = pins.put(SLOT_PIN, attached.slot.descriptor());
            pinned.map_err(|error| pin_refused(SLOT_PIN, error))?;
        }
        attached.hook(pins)?;
        Ok(attached)
    }

    /// Hooks the program in where it is not.
    ///
    /// The kernel takes one program for a hook and priority. So a refusal says that the one we hold a link to is still
    /// there, and success that it was not: somebody had taken it off.
    fn hook(&mut self, pins: Option<&Pins>) -> Result<(), SyncError> {
        for (held, (family, hook, name)) in self.links.iter_mut().zip(HOOKS) {
            let at = NetfilterHook { family, hook, priority: PRIORITY };
            let link = match sys::hook(self.program.as_fd(), NETFILTER, at) {
                Ok(link) => link,
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    if held.is_some() {
                        continue;
                    }
                    let what = format!("hook {name}: another program has priority {PRIORITY}");
                    return Err(SyncError::refused(what, error));
                }
                Err(error) => return Err(SyncError::refused(format!("hook {name}"), error)),
            };
            if let Some(pins) = pins {
                pins.take(name)
                    .and_then(|()| pins.put(name, link.as_fd()))
                    .map_err(|error| pin_refused(name, error))?;
            }
            *held = Some(link);
        }
        Ok(())
    }

    /// Leads the hooks to another image, in one step, and sees to it that they are there.
    pub(super) fn switch(
        &mut self,
        kernel: &Kernel,
        image: &MapImage,
        established: Established,
        pins: Option<&Pins>,
    ) -> Result<(), SyncError> {
        // Where the maps cannot be read, they are as good as damaged.
        if established == self.established && self.loaded.holds(image).unwrap_or(false) {
            self.point(&self.loaded)?;
        } else {
            let generation = self.generation.wrapping_add(1);
            let number = number(generation, established);
            let loaded = Loaded::load_as(kernel, image, &self.checked, number)?;
            self.point(&loaded)?;
            self.generation = generation;
            self.established = established;
            self.loaded = loaded;
        }
        self.hook(pins)
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
        self.links.iter().flatten().try_for_each(|link| sys::unhook(link.as_fd()))
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

fn pin_refused(name: &str, source: io::Error) -> SyncError {
    SyncError::refused(format!("pin {name}"), source)
}

/// Takes off the hooks that pins hold, and the pins away.
pub(super) fn remove_pinned(pins: &Pins) -> io::Result<()> {
    for (_, _, name) in HOOKS {
        if let Some(link) = pins.get(name)? {
            sys::unhook(link.as_fd())?;
        }
        // The slot is last: hooks without it would drop everything.
        pins.take(name)?;
    }
    pins.take(SLOT_PIN)?;
    pins.close()
}
