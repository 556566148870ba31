//! A ruleset in force: the maps that hold it, and how changes get there.

use alloc::collections::{BTreeMap, BTreeSet};
use std::io;

use ipnet::IpNet;
use netpol_core::backend::{Counter, Denials, SyncError};
use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;

use super::denied;
use super::error::LoadError;
use super::loaded::{Beginning, Loaded, MOST_REPLACED, Place};
use super::rows::History;
use super::sys;
use super::tc::{Surroundings, Tables, Ways};
use crate::Established;
use crate::image::{Class, MapImage};
use crate::lower::{Garbage, Limits, Lowering, Patch, UpdateError};

/// Once so many rows wait to be deleted or given free, it is done.
const SWEEP_AT: usize = MOST_REPLACED / 2;
/// Networks that are gone cost each change of networks a look.
const MOST_NETWORKS_GONE: usize = 256;

/// A ruleset in force, in one set of maps.
///
/// INVARIANT (history): what hosts and networks said in a version is found as long as a packet may be judged by it;
/// upheld by `update`, which waits for every packet where there is no room for more history.
#[derive(Debug)]
pub(super) struct Live {
    lowering: Lowering,
    loaded: Loaded,
    /// The version that it was loaded as, and the one in force.
    first: u64,
    version: u64,
    established: Established,
    /// Rows to delete.
    garbage: Garbage,
    /// How many rows of hosts were replaced since every packet was waited for.
    replaced: usize,
    /// Networks that changed since then.
    recent: BTreeMap<IpNet, History>,
    /// The networks that packets find.
    networks: BTreeSet<IpNet>,
    /// How many denied packets had been lost when that was last asked.
    lost: u64,
    /// A change failed half way: what is lowered is not what is in force.
    is_lost: bool,
}

/// Why a change cannot be made to the maps in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// It could not be followed.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The maps have no room for it.
    #[error("the maps have no room")]
    Full,
    /// The kernel refused a row.
    #[error(transparent)]
    Refused(#[from] LoadError),
    /// The kernel refused something else.
    #[error(transparent)]
    Kernel(#[from] io::Error),
    /// An earlier change failed half way, or there is no change that leads there.
    #[error("there is no change that leads there")]
    Lost,
    /// The maps do not hold what they should.
    #[error("the maps are damaged")]
    Damaged,
}

impl Live {
    /// Loads a ruleset. No packet meets it yet.
    pub(super) fn load(
        place: Place<'_>,
        ruleset: &Ruleset,
        limits: Limits,
        (version, established): (u64, Established),
    ) -> Result<Self, SyncError> {
        let lowering = Lowering::new(ruleset, limits)?;
        let beginning = Beginning { version, established, largest: lowering.largest() };
        let loaded = Loaded::load_as(place, lowering.image(), beginning)?;
        let networks = lowering.image().networks.keys().copied().collect();
        Ok(Self {
            lowering,
            loaded,
            networks,
            first: version,
            version,
            established,
            garbage: Garbage::default(),
            replaced: 0,
            recent: BTreeMap::new(),
            lost: 0,
            is_lost: false,
        })
    }

    pub(super) const fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// Changes the maps in force to what a ruleset lowers to, if they hold what they should.
    ///
    /// On refusal, what is in force stays.
    pub(super) fn reach(
        &mut self,
        ruleset: &Ruleset,
        established: Established,
    ) -> Result<(), Unfit> {
        if self.is_lost || self.established != established {
            return Err(Unfit::Lost);
        }
        // Where the maps cannot be read, they are as good as damaged.
        if !self.differences()?.is_empty() {
            return Err(Unfit::Damaged);
        }
        let delta = self.lowering.delta_to(ruleset).ok_or(Unfit::Lost)?;
        if delta.is_empty() {
            return Ok(());
        }
        let before = self.lowering.clone();
        let outcome = self.update(&delta);
        if let Err(Unfit::Update(_)) = &outcome {
            // Nothing was written.
            self.lowering = before;
            self.is_lost = false;
        }
        outcome
    }

    /// Returns whether this is what `ruleset` lowers to.
    pub(super) fn is_of(&self, ruleset: &Ruleset) -> bool {
        let delta = self.lowering.delta_to(ruleset);
        !self.is_lost && delta.is_some_and(|delta| delta.is_empty())
    }

    /// Returns the names of the maps that do not hold what they should.
    pub(super) fn differences(&self) -> io::Result<Vec<&'static str>> {
        let mut names = self.loaded.differences_beside(self.lowering.image(), &self.garbage)?;
        if !self.is_at_version() {
            names.push("state");
        }
        Ok(names)
    }

    /// Returns whether the version is what we made it.
    pub(super) fn is_at_version(&self) -> bool {
        self.loaded.version().get().is_ok_and(|version| version == self.version)
    }

    /// Makes a change to the maps in force.
    ///
    /// On refusal, what is in force stays; another change is refused until all is loaded anew.
    pub(super) fn update(&mut self, delta: &Delta) -> Result<(), Unfit> {
        if self.is_lost {
            return Err(Unfit::Lost);
        }
        self.is_lost = true;
        let mut patch = self.lowering.update(delta)?;
        if !self.has_room(&patch) {
            let deleted = self.delete()?;
            patch.forget_networks(&deleted, self.lowering.image());
            if !self.has_room(&patch) {
                return Err(Unfit::Full);
            }
        }
        let version = self.version.wrapping_add(1);
        let then = |(network, before, now): &(IpNet, Class, Class)| {
            (*network, self.history(network, *before).then(version, *now))
        };
        let networks: Vec<(IpNet, History)> = patch.networks.iter().map(then).collect();
        self.loaded.prepare(&patch, self.lowering.image(), &networks, version)?;
        self.loaded.version().set(version)?;
        self.version = version;
        self.is_lost = false;
        self.replaced += patch.hosts.len();
        self.networks.extend(networks.iter().map(|(network, _)| *network));
        self.recent.extend(networks);
        self.garbage.without(&patch, self.lowering.image());
        self.garbage.add(patch.garbage);
        if self.garbage.len() + self.replaced > SWEEP_AT
            || self.garbage.networks.len() > MOST_NETWORKS_GONE
            || self.loaded.is_littered(&self.garbage)
        {
            // The change is made; what cannot be deleted now waits for the next time.
            let _ = self.sweep();
        }
        Ok(())
    }

    /// Returns what packets at interfaces meet besides policies.
    pub(super) fn surroundings(&self) -> Option<&Surroundings> {
        self.loaded.surroundings().map(Tables::holds)
    }

    /// Returns whether packets meet this, but for what can be changed where it is.
    pub(super) fn is_among(&self, surroundings: &Surroundings) -> bool {
        let Surroundings { own, services, times, alone: _, places: _ } = surroundings;
        self.surroundings().is_some_and(|here| {
            here.own == *own && here.services == *services && here.times == *times
        })
    }

    /// Writes what is to be known of interfaces before the ruleset changes.
    pub(super) fn meet(&mut self, ways: &Ways) -> io::Result<()> {
        let tables = self.loaded.surroundings_mut();
        tables.map_or(Ok(()), |tables| tables.meet(&ways.alone, &ways.places))
    }

    /// Writes what is to be known of them after it.
    pub(super) fn leave(&mut self, ways: &Ways) -> io::Result<()> {
        let tables = self.loaded.surroundings_mut();
        tables.map_or(Ok(()), |tables| tables.leave(&ways.alone, &ways.places))
    }

    fn has_room(&self, patch: &Patch) -> bool {
        let garbage = [&self.garbage, &patch.garbage];
        self.loaded.has_room(self.lowering.image(), garbage, self.lowering.largest())
            && self.loaded.has_places(patch)
            && patch
                .networks
                .iter()
                .all(|(network, before, _)| self.history(network, *before).has_room())
    }

    /// Returns what packets find of a network: what it says itself, or the one that it lies in.
    fn history(&self, network: &IpNet, before: Class) -> History {
        let prefixes = (0..=network.prefix_len()).rev();
        let mut prefixes = prefixes.filter_map(|length| IpNet::new(network.addr(), length).ok());
        let found = prefixes.find(|prefix| self.networks.contains(&prefix.trunc()));
        let history = found.and_then(|found| self.recent.get(&found.trunc()).copied());
        history.unwrap_or(History::always(before))
    }

    /// Waits until no packet is judged by an earlier version, and deletes what none needs any more.
    fn sweep(&mut self) -> io::Result<()> {
        self.delete()?;
        // Not in the middle of a change: what dies with it is in force still.
        self.lowering.recycle_classes();
        Ok(())
    }

    /// Waits until no packet is judged by an earlier version than the one in force, and deletes what that does not need.
    /// Returns the networks among it.
    ///
    /// INVARIANT (garbage): the version in force refers to nothing that is garbage, whatever the version to come does;
    /// upheld by `update`, which takes out what a change refers to again.
    fn delete(&mut self) -> io::Result<BTreeSet<IpNet>> {
        sys::grace();
        self.replaced = 0;
        self.recent.clear();
        self.loaded.sweep(&self.garbage)?;
        self.networks.retain(|network| !self.garbage.networks.contains(network));
        let garbage = core::mem::take(&mut self.garbage);
        let networks = garbage.networks.clone();
        self.lowering.recycle(garbage);
        Ok(networks)
    }

    /// Returns the image in force.
    pub(super) const fn image(&self) -> &MapImage {
        self.lowering.image()
    }

    /// Returns what was counted.
    pub(super) fn counters(&self) -> io::Result<Vec<Counter>> {
        denied::counters(&self.lowering, &self.loaded.counts()?)
    }

    /// Adds the denied packets that were told since the last time.
    pub(super) fn denials(&mut self, to: &mut Denials) -> io::Result<()> {
        let lost = self.loaded.lost()?;
        to.lost += lost.saturating_sub(self.lost);
        self.lost = lost;
        denied::drain(&self.lowering, self.loaded.ring(), (self.first, self.version), to)
    }
}

#[cfg(all(test, feature = "kernel-tests"))]
mod tests;
