//! The interfaces of pods in one network namespace, and the ruleset that our programs there lead to.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use netpol_core::backend::{Denials, Difference, Drift, SyncError};
use netpol_core::engine::{Delta, EndpointChange};
use netpol_core::ir::{Endpoint, Ruleset};

use super::super::Updates;
use super::super::attached::{
    MOST_DENIALS, SLOT_NUMBER, SLOT_SHAPE, UNHEARD, pin_refused, slot_refused,
};
use super::super::error::LoadError;
use super::super::live::Live;
use super::super::loaded::Place;
use super::super::pins::Pins;
use super::super::program::{TC, TC_FROM, TC_TO};
use super::super::sys::{self, Map};
use super::attachment::{Attach, Attachment, Way, take_filters};
use super::connections::{self, Connections, Times};
use super::interfaces::{ByRoute, Interfaces, all_interfaces, own_addresses};
use super::surroundings::{Service, Surroundings};
use crate::Established;
use crate::lower::Limits;

const SLOT_PIN: &str = "tc-slot";

/// The front end at interfaces, as the embedder wants it.
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "embedders write it as a literal, with a default for the rest"
)]
pub struct Tc {
    /// Knows which interfaces lead to pods.
    pub interfaces: Arc<dyn Interfaces>,
    /// What is translated on the node, **all of it**: node ports too. Of packets to an address that is translated
    /// without being told here, the address is judged that the pod dials.
    pub services: Vec<Service>,
    /// How long connections are known without packets.
    pub times: Times,
    /// How the programs get to the interfaces.
    pub attach: Attach,
}

impl Default for Tc {
    fn default() -> Self {
        Self {
            interfaces: Arc::new(ByRoute),
            services: Vec::new(),
            times: Times::default(),
            attach: Attach::Auto,
        }
    }
}

/// How all of it is to be, for every namespace alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner<'a> {
    pub(crate) tc: &'a Tc,
    pub(crate) limits: Limits,
    pub(crate) established: Established,
    pub(crate) updates: Updates,
}

/// Our programs at the interfaces of one network namespace. Without pins, links are gone when this is.
#[derive(Debug)]
pub(crate) struct AtInterfaces {
    /// By interface, and by the order of [`Way::ALL`]. Dropped before the slot, so that no program ever finds it empty.
    points: BTreeMap<u32, [Option<Attachment>; 2]>,
    /// What runs there, by the same order.
    programs: [OwnedFd; 2],
    slot: Map,
    connections: Connections,
    surroundings: Surroundings,
    /// Pods without an interface that is known, and why.
    lost: Vec<String>,
    live: Live,
    /// Denied packets of sets of maps that are gone.
    denials: Denials,
    /// When all of it was last looked at or written.
    looked: Instant,
}

/// What the interfaces of a ruleset's pods are.
struct Found {
    surroundings: Surroundings,
    wanted: BTreeSet<u32>,
    lost: Vec<String>,
}

fn find(tc: &Tc, ruleset: &Ruleset) -> Result<Found, SyncError> {
    let own = own_addresses()
        .map_err(|error| SyncError::refused("a look at the node's addresses", error))?;
    // By interface, whether every pod says that it is alone there, and how many there are.
    let mut interfaces: BTreeMap<u32, (bool, usize)> = BTreeMap::new();
    let (mut lost, mut places) = (Vec::new(), BTreeMap::new());
    for endpoint in ruleset.endpoints() {
        match tc.interfaces.of(&endpoint.pod, &endpoint.addresses) {
            Ok(found) => {
                if let [only] = found.as_slice() {
                    let addresses = endpoint.addresses.iter();
                    places.extend(addresses.map(|address| (*address, only.index)));
                }
                for interface in found {
                    let (is_alone, pods) = interfaces.entry(interface.index).or_insert((true, 0));
                    *is_alone &= interface.is_alone;
                    *pods += 1;
                }
            }
            Err(error) => {
                let addresses = endpoint.addresses.iter().map(ToString::to_string);
                let addresses = addresses.collect::<Vec<_>>().join(", ");
                lost.push(format!("pod {} ({addresses}): {}", endpoint.pod, chain(&error)));
            }
        }
    }
    if !ruleset.pod_ranges().is_empty() {
        match tc.interfaces.of_unknown(ruleset.pod_ranges()) {
            Ok(found) => {
                for index in found {
                    interfaces.entry(index).or_insert((false, 0));
                }
            }
            Err(error) => lost.push(format!("pods that no object tells of: {}", chain(&error))),
        }
    }
    let alone = interfaces.iter().filter(|(_, (is_alone, pods))| *is_alone && *pods == 1);
    let alone = alone.map(|(interface, _)| *interface).collect();
    let (services, times) = (tc.services.clone(), tc.times);
    let surroundings = Surroundings { own, alone, places, services, times };
    Ok(Found { surroundings, wanted: interfaces.into_keys().collect(), lost })
}

fn is_there(attachment: Option<&Attachment>, way: Way, interface: u32, program: &OwnedFd) -> bool {
    attachment.is_some_and(|attachment| {
        attachment.is_there(way, interface, program.as_fd()).unwrap_or(false)
    })
}

fn chain(error: &dyn core::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {source}"),
    }
}

impl AtInterfaces {
    /// Attaches a ruleset to the pods of the calling thread's namespace, or takes over what its pins hold.
    pub(crate) fn new(
        manner: Manner<'_>,
        ruleset: &Ruleset,
        pins: Option<&Pins>,
    ) -> Result<Self, SyncError> {
        let Manner { tc, limits, established, .. } = manner;
        let Found { surroundings, wanted, lost } = find(tc, ruleset)?;
        let pinned = |name: &str| match pins {
            None => Ok(None),
            Some(pins) => pins.get(name).map_err(|error| pin_refused(name, error)),
        };
        let connections = Connections::create(pins)?;
        let place = Place::Interfaces(&connections, &surroundings);
        let live = Live::load(place, ruleset, limits, (first_version(), established))?;
        let (slot, is_new) = match pinned(SLOT_PIN)? {
            Some(descriptor) => (Map::from_descriptor(descriptor, SLOT_SHAPE), false),
            None => (Map::create("np_slot", SLOT_SHAPE, 1).map_err(slot_refused)?, true),
        };
        let mut programs = Vec::new();
        for (way, code) in [(Way::FromPod, TC_FROM), (Way::ToPod, TC_TO)] {
            // One that leads to another slot is of no use.
            let program = match pinned(way.name())?.filter(|_| !is_new) {
                Some(program) => program,
                None => {
                    let program = code.load(TC, None, &[(SLOT_NUMBER, slot.descriptor())])?;
                    if let Some(pins) = pins {
                        pins.take(way.name())
                            .and_then(|()| pins.put(way.name(), program.as_fd()))
                            .map_err(|error| pin_refused(way.name(), error))?;
                    }
                    program
                }
            };
            programs.push(program);
        }
        let Ok(programs) = <[OwnedFd; 2]>::try_from(programs) else {
            return Err(LoadError::Damaged("netpol_from").into());
        };
        let mut attached = Self {
            points: BTreeMap::new(),
            programs,
            slot,
            connections,
            surroundings,
            lost,
            live,
            denials: Denials::default(),
            looked: Instant::now(),
        };
        attached.point()?;
        if let Some(pins) = pins {
            if is_new {
                let put = pins.put(SLOT_PIN, attached.slot.descriptor());
                put.map_err(|error| pin_refused(SLOT_PIN, error))?;
            } else {
                attached.adopt(pins, &wanted)?;
            }
        }
        attached.attach(manner.tc, &wanted, pins)?;
        attached.detach_others(&wanted, pins)?;
        Ok(attached)
    }

    /// Takes over links that pins hold.
    fn adopt(&mut self, pins: &Pins, wanted: &BTreeSet<u32>) -> Result<(), SyncError> {
        for interface in wanted {
            let place = self.points.entry(*interface).or_default();
            for (way, attachment) in Way::ALL.into_iter().zip(place) {
                let name = way.pin(*interface);
                let link = pins.get(&name).map_err(|error| pin_refused(&name, error))?;
                // An interface may have the number of one that is gone; then the link is at none.
                let is_there = |link: &OwnedFd| {
                    sys::interface_of(link.as_fd()).is_ok_and(|found| found == *interface)
                };
                *attachment = link.filter(is_there).map(Attachment::Link);
            }
        }
        Ok(())
    }

    /// Attaches the programs where they are not.
    fn attach(
        &mut self,
        tc: &Tc,
        wanted: &BTreeSet<u32>,
        pins: Option<&Pins>,
    ) -> Result<(), SyncError> {
        for interface in wanted {
            let place = self.points.entry(*interface).or_default();
            for ((way, attachment), program) in Way::ALL.into_iter().zip(place).zip(&self.programs)
            {
                // The kernel takes a program once for an interface.
                if is_there(attachment.as_ref(), way, *interface, program) {
                    continue;
                }
                let made = Attachment::make(tc.attach, way, *interface, program.as_fd(), pins);
                *attachment = Some(made.map_err(|error| {
                    let what = format!("interface {interface}, packets {} a pod", way.name());
                    SyncError::refused(what, error)
                })?);
            }
        }
        Ok(())
    }

    fn is_attached(&self, interface: u32) -> bool {
        self.points.get(&interface).is_some_and(|attachments| {
            Way::ALL.into_iter().zip(attachments).zip(&self.programs).all(
                |((way, attachment), program)| {
                    is_there(attachment.as_ref(), way, interface, program)
                },
            )
        })
    }

    /// Takes the programs off interfaces that no pod of the ruleset has, and pins of interfaces that are gone away.
    fn detach_others(
        &mut self,
        wanted: &BTreeSet<u32>,
        pins: Option<&Pins>,
    ) -> Result<(), SyncError> {
        let of = |interface: u32| format!("interface {interface}");
        let others: Vec<u32> =
            self.points.keys().copied().filter(|interface| !wanted.contains(interface)).collect();
        if !others.is_empty() {
            // What the ruleset before let leave a pod is to arrive under the one in force.
            sys::grace();
        }
        for interface in others {
            for (way, attachment) in
                Way::ALL.into_iter().zip(self.points.remove(&interface).into_iter().flatten())
            {
                attachment
                    .map_or(Ok(()), |attachment| attachment.detach(way, interface))
                    .map_err(|error| SyncError::refused(of(interface), error))?;
            }
        }
        if let Some(pins) = pins {
            let kept: BTreeSet<String> = self
                .points
                .keys()
                .flat_map(|interface| Way::ALL.map(|way| way.pin(*interface)))
                .collect();
            collect(pins, |name| kept.contains(name))
                .map_err(|error| SyncError::refused("pins of interfaces", error))?;
            // What a process before this one left as filters, where no pod is any more.
            let has_filters = self
                .points
                .values()
                .flatten()
                .flatten()
                .any(|one| matches!(one, Attachment::Filter));
            if has_filters {
                remove_filters(wanted)
                    .map_err(|error| SyncError::refused("filters of interfaces", error))?;
            }
        }
        Ok(())
    }

    /// Leads to another ruleset, in one step, and sees to it that the programs are at the interfaces of its pods.
    ///
    /// # Errors
    /// As [`new`](Self::new). Where it is only that pods have no interface that is known, the ruleset is in force for all
    /// others.
    pub(crate) fn switch(
        &mut self,
        manner: Manner<'_>,
        ruleset: &Ruleset,
        pins: Option<&Pins>,
    ) -> Result<(), SyncError> {
        let Manner { tc, limits, established, updates } = manner;
        let Found { surroundings, wanted, lost } = find(tc, ruleset)?;
        // Where a pod is new, what is in force knows nothing of it, with or without the programs.
        self.attach(tc, &wanted, pins)?;
        // What stands behind Services is written only when all is loaded.
        let in_place = updates == Updates::InPlace && surroundings.services.is_empty();
        let stays = self.surroundings == surroundings && (in_place || self.live.is_of(ruleset));
        if stays && self.live.reach(ruleset, established).is_ok() {
            self.point()?;
        } else {
            let version = (self.live.version().wrapping_add(1), established);
            let place = Place::Interfaces(&self.connections, &surroundings);
            let live = Live::load(place, ruleset, limits, version)?;
            let mut before = core::mem::replace(&mut self.live, live);
            if let Err(error) = self.point() {
                self.live = before;
                return Err(error.into());
            }
            self.surroundings = surroundings;
            // What the old ruleset denied is told all the same, if it can be.
            let _ = before.denials(&mut self.denials);
            if let Some(more) = self.denials.flows.len().checked_sub(MOST_DENIALS) {
                self.denials.flows.truncate(MOST_DENIALS);
                self.denials.lost += u64::try_from(more).unwrap_or(u64::MAX);
            }
        }
        self.looked = Instant::now();
        self.lost = lost;
        self.detach_others(&wanted, pins)?;
        self.complain()
    }

    /// Makes a change to the maps in force, if it is one of policies and peers alone, and says whether it did: interfaces
    /// are looked for by [`switch`](Self::switch), and what stands behind Services is written by it.
    pub(crate) fn update(&mut self, tc: &Tc, delta: &Delta) -> bool {
        let stays = |change: &EndpointChange| {
            let addresses = |endpoint: &Option<Arc<Endpoint>>| {
                endpoint.as_ref().map(|endpoint| endpoint.addresses.clone())
            };
            change.before.is_some() && addresses(&change.before) == addresses(&change.after)
        };
        self.lost.is_empty()
            && tc.services.is_empty()
            && self.surroundings.services.is_empty()
            && self.surroundings.times == tc.times
            && delta.switch.nodes.is_empty()
            && delta.switch.endpoints.iter().all(stays)
            && self.live.update(delta).is_ok()
    }

    /// Says which pods are not protected.
    pub(crate) fn complain(&self) -> Result<(), SyncError> {
        if self.lost.is_empty() {
            return Ok(());
        }
        Err(SyncError::Missing {
            what: format!("the interface of {}", self.lost.join("; of ")),
            hint: "the ruleset is in force for all other pods".into(),
        })
    }

    fn point(&self) -> Result<(), LoadError> {
        let program = self.live.loaded().program().as_raw_fd();
        let pointed = self.slot.update(&0_u32.to_ne_bytes(), &program.to_ne_bytes());
        pointed.map_err(|source| LoadError::Map { map: "slot", rows: 1, source })
    }

    pub(crate) const fn live(&self) -> &Live {
        &self.live
    }

    /// Compares what is there with what it should be for `ruleset`.
    pub(crate) fn verify(&mut self, tc: &Tc, ruleset: &Ruleset) -> io::Result<Vec<Drift>> {
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
        let now = find(tc, ruleset).map_err(io::Error::other)?;
        if now.surroundings != self.surroundings {
            found("the node's addresses, interfaces and Services".into(), Difference::Changed);
        }
        for interface in &now.wanted {
            if !self.is_attached(*interface) {
                found(format!("interface {interface}"), Difference::Missing);
            }
        }
        for pod in now.lost {
            found(format!("the interface of {pod}"), Difference::Missing);
        }
        Ok(drifts)
    }

    /// Returns whether others may have changed something: at once where it is the programs, the slot or the version,
    /// after a while in any case.
    pub(crate) fn may_have_drifted(&self) -> io::Result<bool> {
        Ok(self.looked.elapsed() > UNHEARD
            || !self.lost.is_empty()
            || !self.live.is_at_version()
            || !self.leads_to_live()?
            || !self.points.keys().all(|interface| self.is_attached(*interface)))
    }

    fn leads_to_live(&self) -> io::Result<bool> {
        let number = sys::number_of(self.live.loaded().program())?;
        let slot = self.slot.lookup(&0_u32.to_ne_bytes())?;
        Ok(slot.as_deref() == Some(&number.to_ne_bytes()))
    }

    /// Returns the denied packets since the last call.
    pub(crate) fn denials(&mut self) -> io::Result<Denials> {
        let mut denials = core::mem::take(&mut self.denials);
        self.live.denials(&mut denials)?;
        Ok(denials)
    }

    /// Takes the programs off, whoever else holds them.
    pub(crate) fn detach(self) -> io::Result<()> {
        for (interface, attachments) in self.points {
            for (way, attachment) in Way::ALL.into_iter().zip(attachments) {
                attachment.map_or(Ok(()), |attachment| attachment.detach(way, interface))?;
            }
        }
        Ok(())
    }
}

/// Connections may be known from a process before this one, with the version that judged them: none may be that of
/// another ruleset.
fn first_version() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2).max(1)
}

/// Takes off the links that pins hold, and the pins away, but for some.
fn collect(pins: &Pins, is_kept: impl Fn(&str) -> bool) -> io::Result<()> {
    let links = pins.names()?.into_iter().filter(|name| name.starts_with("tcx-") && !is_kept(name));
    for name in links {
        if let Some(link) = pins.get(&name)?
            && sys::interface_of(link.as_fd())? != 0
        {
            sys::unhook(link.as_fd())?;
        }
        pins.take(&name)?;
    }
    Ok(())
}

fn remove_filters(but: &BTreeSet<u32>) -> io::Result<()> {
    for interface in all_interfaces()?.into_iter().filter(|interface| !but.contains(interface)) {
        for way in Way::ALL {
            take_filters(way, interface)?;
        }
    }
    Ok(())
}

/// Takes off everything that pins hold and all of our filters, and the pins away.
pub(crate) fn remove_pinned(pins: &Pins) -> io::Result<()> {
    collect(pins, |_| false)?;
    remove_filters(&BTreeSet::new())?;
    let others = [Way::FromPod.name(), Way::ToPod.name(), SLOT_PIN];
    for name in others.into_iter().chain(connections::PINS) {
        pins.take(name)?;
    }
    pins.close()
}
