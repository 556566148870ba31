//! A ruleset in force: the maps that hold it, and how changes get there.

use alloc::collections::BTreeSet;
use core::net::IpAddr;
use std::io;

use netpol_core::backend::{Counter, Denials, SyncError};
use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;

use super::denied;
use super::error::LoadError;
use super::loaded::{Beginning, Loaded, Place};
use super::sys;
use crate::Established;
use crate::image::MapImage;
use crate::lower::{Garbage, Limits, Lowering, Patch, UpdateError};

/// Once so many rows wait to be deleted, or not to be written again yet, it is done.
const SWEEP_AT: usize = 8192;

/// A ruleset in force, in one set of maps.
///
/// INVARIANT (history): a row of hosts and networks holds what it said in the version in force and in the one before it,
/// as long as a packet may be judged by that; upheld by `update`, which waits before it writes such a row again.
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
    /// Rows that may still be read as they were before.
    recent: BTreeSet<IpAddr>,
    recent_networks: bool,
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
    /// An earlier change failed half way.
    #[error("an earlier change failed")]
    Lost,
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
        Ok(Self {
            lowering,
            loaded,
            first: version,
            version,
            established,
            garbage: Garbage::default(),
            recent: BTreeSet::new(),
            recent_networks: false,
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

    /// Returns whether this is the ruleset, and the maps hold it.
    pub(super) fn holds(&self, ruleset: &Ruleset, established: Established) -> bool {
        !self.is_lost
            && self.established == established
            && self.lowering.is_of(ruleset)
            // Where the maps cannot be read, they are as good as damaged.
            && self.differences().is_ok_and(|names| names.is_empty())
    }

    /// Returns whether this is what `ruleset` lowers to.
    pub(super) fn is_of(&self, ruleset: &Ruleset) -> bool {
        !self.is_lost && self.lowering.is_of(ruleset)
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
        let patch = self.lowering.update(delta)?;
        if self.meets_recent(&patch) {
            self.sweep()?;
        }
        if !self.has_room(&patch) {
            self.sweep()?;
            if !self.has_room(&patch) {
                return Err(Unfit::Full);
            }
        }
        let version = self.version.wrapping_add(1);
        self.loaded.prepare(&patch, version)?;
        self.loaded.version().set(version)?;
        self.version = version;
        self.is_lost = false;
        let Patch { hosts, networks, garbage, .. } = patch;
        self.recent.extend(hosts.iter().map(|(address, _, _)| *address));
        self.recent_networks |= !networks.is_empty();
        self.garbage.add(garbage);
        if self.garbage.len() + self.recent.len() > SWEEP_AT {
            // The change is made; what cannot be deleted now waits for the next time.
            let _ = self.sweep();
        }
        Ok(())
    }

    fn has_room(&self, patch: &Patch) -> bool {
        let garbage = [&self.garbage, &patch.garbage];
        self.loaded.has_room(self.lowering.image(), garbage, self.lowering.largest())
    }

    fn meets_recent(&self, patch: &Patch) -> bool {
        patch.hosts.iter().any(|(address, _, _)| self.recent.contains(address))
            || !patch.networks.is_empty()
                && (self.recent_networks || !self.garbage.networks.is_empty())
    }

    /// Waits until no packet is judged by an earlier version, and deletes what none needs any more.
    fn sweep(&mut self) -> io::Result<()> {
        sys::grace();
        self.recent.clear();
        self.recent_networks = false;
        let image = self.lowering.image();
        self.garbage.hosts.retain(|address| !image.hosts.contains_key(address));
        self.garbage.networks.retain(|network| !image.networks.contains_key(network));
        self.garbage.words.retain(|key| !image.words.contains_key(key));
        self.loaded.sweep(&self.garbage)?;
        self.lowering.recycle(core::mem::take(&mut self.garbage));
        Ok(())
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
