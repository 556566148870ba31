//! The interfaces of pods in one network namespace, and the ruleset that our programs there lead to.

use alloc::sync::Arc;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use netpol_core::backend::{Denials, Difference, Drift, SyncError};
use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;

use super::super::Updates;
use super::super::attached::{
    MOST_DENIALS, SLOT_NUMBER, SLOT_SHAPE, UNHEARD, pin_refused, slot_refused,
};
use super::super::error::LoadError;
use super::super::live::{Live, Unfit};
use super::super::loaded::Place;
use super::super::pins::Pins;
use super::super::program::{TC, TC_FROM, TC_TO};
use super::super::sys::{self, Map};
use super::attachment::{Attach, Way};
use super::connections::{self, Connections, Times};
use super::interfaces::{ByRoute, Interfaces, own_addresses};
use super::points::{Points, remove_all};
use super::surroundings::{Service, Surroundings};
use super::whereabouts::{Ways, Whereabouts};
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
    /// Dropped before the slot, so that no program ever finds it empty.
    points: Points,
    slot: Map,
    connections: Connections,
    whereabouts: Whereabouts,
    live: Live,
    /// Denied packets of sets of maps that are gone.
    denials: Denials,
    /// When all of it was last looked at or written.
    looked: Instant,
}

/// Looks at all that packets meet besides policies.
fn surroundings(tc: &Tc, ways: &Ways) -> Result<Surroundings, SyncError> {
    let own = own_addresses()
        .map_err(|error| SyncError::refused("a look at the node's addresses", error))?;
    let (alone, places) = (ways.alone.clone(), ways.places.clone());
    let (services, times) = (tc.services.clone(), tc.times);
    Ok(Surroundings { own, alone, places, services, times })
}

impl AtInterfaces {
    /// Attaches a ruleset to the pods of the calling thread's namespace, or takes over what its pins hold.
    pub(crate) fn new(
        manner: Manner<'_>,
        ruleset: &Ruleset,
        pins: Option<&Pins>,
    ) -> Result<Self, SyncError> {
        let Manner { tc, limits, established, .. } = manner;
        let whereabouts = Whereabouts::of(tc.interfaces.as_ref(), ruleset);
        let ways = whereabouts.ways();
        let surroundings = surroundings(tc, &ways)?;
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
            points: Points::new(programs),
            slot,
            connections,
            whereabouts,
            live,
            denials: Denials::default(),
            looked: Instant::now(),
        };
        attached.point()?;
        if let Some(pins) = pins {
            if is_new {
                let put = pins.put(SLOT_PIN, attached.slot.descriptor());
                put.map_err(|error| pin_refused(SLOT_PIN, error))?;
            }
            attached.points.adopt(pins)?;
        }
        attached.points.attach(tc.attach, &ways.wanted, pins)?;
        attached.points.remove_others()?;
        Ok(attached)
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
        let whereabouts = Whereabouts::of(tc.interfaces.as_ref(), ruleset);
        let ways = whereabouts.ways();
        let surroundings = surroundings(tc, &ways)?;
        self.whereabouts = whereabouts;
        // Where a pod is new, what is in force knows nothing of it, with or without the programs.
        self.points.attach(tc.attach, &ways.wanted, pins)?;
        // What stands behind Services is written only when all is loaded.
        let in_place = updates == Updates::InPlace && surroundings.services.is_empty();
        let stays = self.live.is_among(&surroundings)
            && (in_place
                || self.live.surroundings() == Some(&surroundings) && self.live.is_of(ruleset));
        if stays && self.reach(ruleset, established, &ways).is_ok() {
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
            // What the old ruleset denied is told all the same, if it can be.
            let _ = before.denials(&mut self.denials);
            if let Some(more) = self.denials.flows.len().checked_sub(MOST_DENIALS) {
                self.denials.flows.truncate(MOST_DENIALS);
                self.denials.lost += u64::try_from(more).unwrap_or(u64::MAX);
            }
        }
        self.looked = Instant::now();
        self.points.let_go(pins)?;
        self.complain()
    }

    fn reach(
        &mut self,
        ruleset: &Ruleset,
        established: Established,
        ways: &Ways,
    ) -> Result<(), Unfit> {
        self.live.meet(ways)?;
        self.live.reach(ruleset, established)?;
        Ok(self.live.leave(ways)?)
    }

    /// Makes a change to the maps in force, and says whether it did: what stands behind Services, and what concerns nodes,
    /// is written by [`switch`](Self::switch). Where it did not, what is in force holds until that.
    pub(crate) fn update(&mut self, tc: &Tc, delta: &Delta, pins: Option<&Pins>) -> bool {
        let fits = self.whereabouts.lost().is_empty()
            && tc.services.is_empty()
            && self
                .live
                .surroundings()
                .is_some_and(|here| here.services.is_empty() && here.times == tc.times)
            && delta.switch.nodes.is_empty();
        fits && self.change(tc, delta, pins).is_ok()
    }

    fn change(&mut self, tc: &Tc, delta: &Delta, pins: Option<&Pins>) -> Result<(), Unfit> {
        let moved = self.whereabouts.follow(tc.interfaces.as_ref(), &delta.switch.endpoints);
        let Some(ways) = moved.map_err(io::Error::other)? else { return self.live.update(delta) };
        self.points.attach_more(tc.attach, &ways.wanted, pins).map_err(io::Error::other)?;
        self.live.meet(&ways)?;
        self.live.update(delta)?;
        self.live.leave(&ways)?;
        // The change is made; what cannot be collected now waits for the next time.
        let _ = self.points.collect(pins);
        Ok(())
    }

    /// Says which pods are not protected.
    pub(crate) fn complain(&self) -> Result<(), SyncError> {
        let lost = self.whereabouts.lost();
        if lost.is_empty() {
            return Ok(());
        }
        Err(SyncError::Missing {
            what: format!("the interface of {}", lost.join("; of ")),
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
        let now = Whereabouts::of(tc.interfaces.as_ref(), ruleset);
        let ways = now.ways();
        let surroundings = surroundings(tc, &ways).map_err(io::Error::other)?;
        if self.live.surroundings() != Some(&surroundings) {
            found("the node's addresses, interfaces and Services".into(), Difference::Changed);
        }
        for interface in &ways.wanted {
            if !self.points.is_attached(*interface) {
                found(format!("interface {interface}"), Difference::Missing);
            }
        }
        for pod in now.lost() {
            found(format!("the interface of {pod}"), Difference::Missing);
        }
        Ok(drifts)
    }

    /// Returns whether others may have changed something: at once where it is the programs, the slot or the version,
    /// after a while in any case.
    pub(crate) fn may_have_drifted(&self) -> io::Result<bool> {
        Ok(self.looked.elapsed() > UNHEARD
            || !self.whereabouts.lost().is_empty()
            || !self.live.is_at_version()
            || !self.leads_to_live()?
            || !self.points.are_attached())
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
        self.points.detach()
    }
}

/// Connections may be known from a process before this one, with the version that judged them: none may be that of
/// another ruleset.
fn first_version() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2).max(1)
}

/// Takes off everything that pins hold and all of our filters, and the pins away.
pub(crate) fn remove_pinned(pins: &Pins) -> io::Result<()> {
    remove_all(pins)?;
    let others = [Way::FromPod.name(), Way::ToPod.name(), SLOT_PIN];
    for name in others.into_iter().chain(connections::PINS) {
        pins.take(name)?;
    }
    pins.close()
}
