//! The hooks of one network namespace, and the ruleset they lead to.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Instant;

use netpol_core::backend::{Denials, Difference, Drift, SyncError};
use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;

use super::Updates;
use super::btf::Kernel;
use super::conntrack;
use super::error::LoadError;
use super::live::{Live, Unfit};
use super::loaded::{Checked, Loaded, Place};
use super::pins::Pins;
use super::program::{NETFILTER, SLOT};
use super::sys::{self, Map, NetfilterHook, Shape};
use crate::Established;
use crate::lower::Limits;

/// The slot: `BPF_MAP_TYPE_PROG_ARRAY` of one program.
pub(super) const SLOT_SHAPE: Shape = Shape { kind: 3, key: 4, value: 4, flags: 0 };
/// The number of the slot among the maps of the program's source.
pub(super) const SLOT_NUMBER: u8 = 11;
/// The slot's pin.
pub(super) const SLOT_PIN: &str = "slot";

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
    live: Live,
    /// Denied packets of sets of maps that are gone.
    denials: Denials,
    /// When all of it was last looked at or written.
    looked: Instant,
}

/// How all of it is to be: for every namespace alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) kernel: Kernel,
    pub(super) limits: Limits,
    pub(super) established: Established,
    pub(super) updates: Updates,
}

/// After so long, rows may have been changed by others: the kernel does not tell of that.
pub(super) const UNHEARD: Duration = Duration::from_secs(300);

/// How many denied packets of rulesets that are gone are kept for whoever asks.
pub(super) const MOST_DENIALS: usize = 1024;

impl Attached {
    /// Hooks a ruleset into the namespace of the calling thread, or takes over the hooks that its pins hold.
    pub(super) fn new(
        manner: Manner,
        ruleset: &Ruleset,
        pins: Option<&Pins>,
    ) -> Result<Self, SyncError> {
        conntrack::on().map_err(|error| match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP) => SyncError::Missing {
                what: "connection tracking".into(),
                hint: "the kernel needs nf_tables and nf_conntrack".into(),
            },
            _ => tracking_refused(error),
        })?;
        let Manner { kernel, limits, established, .. } = manner;
        let checked = Checked::create()?;
        let live =
            Live::load(Place::Netfilter(&kernel, &checked), ruleset, limits, (1, established))?;
        let pinned = |name| match pins {
            None => Ok(None),
            Some(pins) => pins.get(name).map_err(|error| pin_refused(name, error)),
        };
        // Whoever held the pins may have died at any point: what is there is taken over, what is missing is made.
        let (slot, is_new) = match pinned(SLOT_PIN)? {
            Some(descriptor) => (Map::from_descriptor(descriptor, SLOT_SHAPE), false),
            None => (Map::create("np_slot", SLOT_SHAPE, 1).map_err(slot_refused)?, true),
        };
        let program = SLOT.load(NETFILTER, Some(&kernel), &[(SLOT_NUMBER, slot.descriptor())])?;
        let [forward_4, forward_6, local_in_4, local_in_6] = HOOKS.map(|(_, _, name)| pinned(name));
        let links = [forward_4?, forward_6?, local_in_4?, local_in_6?];
        let (denials, looked) = (Denials::default(), Instant::now());
        let mut attached = Self { links, program, slot, checked, live, denials, looked };
        attached.point(attached.live.loaded())?;
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
                Err(error) => return Err(hook_refused(name, error)),
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

    /// Leads the hooks to another ruleset, in one step, and sees to it that they are there.
    pub(super) fn switch(
        &mut self,
        manner: Manner,
        ruleset: &Ruleset,
        pins: Option<&Pins>,
    ) -> Result<(), SyncError> {
        let Manner { kernel, limits, established, updates } = manner;
        if !conntrack::is_on().unwrap_or(false) {
            conntrack::on().map_err(tracking_refused)?;
        }
        let in_place = updates == Updates::InPlace || self.live.is_of(ruleset);
        if in_place && self.live.reach(ruleset, established).is_ok() {
            self.point(self.live.loaded())?;
        } else {
            let version = self.live.version().wrapping_add(1);
            let version = (version, established);
            let place = Place::Netfilter(&kernel, &self.checked);
            let live = Live::load(place, ruleset, limits, version)?;
            self.point(live.loaded())?;
            let mut before = core::mem::replace(&mut self.live, live);
            // What the old ruleset denied is told all the same, if it can be.
            let _ = before.denials(&mut self.denials);
            if let Some(more) = self.denials.flows.len().checked_sub(MOST_DENIALS) {
                self.denials.flows.truncate(MOST_DENIALS);
                self.denials.lost += u64::try_from(more).unwrap_or(u64::MAX);
            }
        }
        self.looked = Instant::now();
        self.hook(pins)
    }

    /// Makes a change to the maps in force. Where that cannot be, nothing is changed.
    pub(super) fn update(&mut self, delta: &Delta) -> Result<(), Unfit> {
        self.live.update(delta)
    }

    fn point(&self, loaded: &Loaded) -> Result<(), LoadError> {
        let program = loaded.program().as_raw_fd();
        let pointed = self.slot.update(&0_u32.to_ne_bytes(), &program.to_ne_bytes());
        pointed.map_err(|source| LoadError::Map { map: "slot", rows: 1, source })
    }

    pub(super) const fn live(&self) -> &Live {
        &self.live
    }

    /// Compares what is there with what it should be for `ruleset`.
    pub(super) fn verify(&mut self, ruleset: &Ruleset) -> io::Result<Vec<Drift>> {
        self.looked = Instant::now();
        let mut drifts = Vec::new();
        let mut found = |object: String, difference| drifts.push(Drift { object, difference });
        if !self.live.is_of(ruleset) {
            found("the ruleset".into(), Difference::Changed);
        }
        for name in self.live.differences()? {
            found(format!("map np_{name}"), Difference::Changed);
        }
        if !self.leads_to_live()? {
            found("map np_slot".into(), Difference::Changed);
        }
        for (_, _, name) in self.missing_hooks()? {
            found(format!("link {name}"), Difference::Missing);
        }
        if !conntrack::is_on()? {
            found("table inet netpol-ebpf".into(), Difference::Missing);
        }
        Ok(drifts)
    }

    /// Returns whether others may have changed something: at once where it is the hooks, the slot, the table or the version, after
    /// a while in any case.
    pub(super) fn may_have_drifted(&self) -> io::Result<bool> {
        Ok(self.looked.elapsed() > UNHEARD
            || !self.live.is_at_version()
            || !self.leads_to_live()?
            || !conntrack::is_on()?
            || !self.missing_hooks()?.is_empty())
    }

    fn leads_to_live(&self) -> io::Result<bool> {
        let number = sys::number_of(self.live.loaded().program())?;
        let slot = self.slot.lookup(&0_u32.to_ne_bytes())?;
        Ok(slot.as_deref() == Some(&number.to_ne_bytes()))
    }

    /// Returns the hooks that somebody took off. A hook takes one program for each priority, and says no more than that;
    /// so it is hooked in for the moment that it takes to see whether it can be.
    fn missing_hooks(&self) -> io::Result<Vec<(u32, u32, &'static str)>> {
        let mut missing = Vec::new();
        for (family, hook, name) in HOOKS {
            let at = NetfilterHook { family, hook, priority: PRIORITY };
            match sys::hook(self.program.as_fd(), NETFILTER, at) {
                Ok(_) => missing.push((family, hook, name)),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    /// Returns the denied packets since the last call.
    pub(super) fn denials(&mut self) -> io::Result<Denials> {
        let mut denials = core::mem::take(&mut self.denials);
        self.live.denials(&mut denials)?;
        Ok(denials)
    }

    /// Takes the hooks off, whoever else holds them.
    pub(super) fn detach(self) -> io::Result<()> {
        self.links.iter().flatten().try_for_each(|link| sys::unhook(link.as_fd()))
    }
}

fn hook_refused(name: &str, source: io::Error) -> SyncError {
    match source.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => SyncError::Missing {
            what: "hooking eBPF programs into netfilter".into(),
            hint: "the kernel needs Linux 6.4 with CONFIG_NETFILTER_BPF_LINK".into(),
        },
        Some(libc::EPERM) => SyncError::Missing {
            what: "the privilege to hook eBPF programs into netfilter".into(),
            hint: "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".into(),
        },
        Some(_) | None => SyncError::refused(format!("hook {name}"), source),
    }
}

fn tracking_refused(source: io::Error) -> SyncError {
    SyncError::refused("table inet netpol-ebpf", source)
}

pub(super) fn slot_refused(source: io::Error) -> LoadError {
    LoadError::Map { map: "slot", rows: 1, source }
}

pub(super) fn pin_refused(name: &str, source: io::Error) -> SyncError {
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
