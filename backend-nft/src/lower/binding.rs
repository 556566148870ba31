//! Who is led elsewhere by a change: what that opens and closes on which side, and which entries it takes.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::engine::Switch;
use netpol_core::ir::{Direction, Family};

use super::Dispatch;
use super::pipeline::Place;
use super::state::Lowering;
use crate::script::{Name, Table, Targets, Verdict};

/// Where some addresses lead, at each place.
pub(super) type Bound = BTreeMap<(Place, Family), BTreeMap<IpAddr, Verdict>>;

/// What a change of the frame, or of entries of maps, means for whom.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    /// It is more than is said here.
    pub(crate) is_more: bool,
    /// The sides of pods that are judged otherwise.
    pub(crate) egress: Turns,
    pub(crate) ingress: Turns,
    /// The sets that pipelines ask about which some of them had before.
    pub(crate) departed: BTreeSet<Name>,
}

/// Pods of which a side may let through more, or less.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    pub(crate) opens: BTreeSet<IpAddr>,
    pub(crate) closes: BTreeSet<IpAddr>,
}

/// Entries of a map that lead elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Redirect {
    pub(crate) map: Name,
    pub(crate) gone: Targets,
    pub(crate) new: Targets,
}

impl Bindings {
    /// Returns what it means that addresses lead elsewhere. The table still has the chains that they led to.
    pub(super) fn between(before: &Bound, after: &Bound, table: &Table) -> Self {
        let mut bindings = Self::default();
        let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let none = BTreeMap::new();
        let mut gone = Vec::new();
        for key in keys {
            let [before, after] = [before, after].map(|bound| bound.get(key).unwrap_or(&none));
            let addresses: BTreeSet<&IpAddr> = before.keys().chain(after.keys()).collect();
            for address in addresses {
                let (before, after) = (before.get(address), after.get(address));
                if before == after {
                    continue;
                }
                let (place, _) = *key;
                let turns = match place.direction() {
                    Direction::Egress => &mut bindings.egress,
                    Direction::Ingress => &mut bindings.ingress,
                };
                // Who has no entry is open.
                if before.is_some() {
                    turns.opens.insert(*address);
                }
                if after.is_some() {
                    turns.closes.insert(*address);
                }
                gone.extend(before.and_then(Verdict::chain));
            }
        }
        bindings.departed = sets_of(table, gone);
        bindings
    }
}

/// Returns the sets of which chains ask, and those they lead to.
fn sets_of<'a>(table: &'a Table, mut names: Vec<&'a Name>) -> BTreeSet<Name> {
    let (mut sets, mut seen) = (BTreeSet::new(), BTreeSet::new());
    while let Some(name) = names.pop() {
        if !seen.insert(name) || super::is_frame(name) {
            continue;
        }
        if let Some(chain) = table.chains.get(name) {
            names.extend(chain.rules.iter().flat_map(|rule| rule.references()));
        } else if let Some(map) = table.maps.get(name) {
            names.extend(map.verdicts().filter_map(Verdict::chain));
        } else if table.sets.contains_key(name) {
            sets.insert(name.clone());
        }
    }
    sets
}

impl Lowering {
    /// Returns where addresses lead.
    pub(super) fn bound(&self, addresses: &BTreeSet<IpAddr>) -> Bound {
        let mut bound = Bound::new();
        for (place, entries) in &self.dispatch {
            let some: BTreeMap<IpAddr, Verdict> = addresses
                .iter()
                .filter_map(|address| Some((*address, entries.get(address)?.clone())))
                .collect();
            if !some.is_empty() {
                bound.insert(*place, some);
            }
        }
        bound
    }
}

/// Returns whether endpoints get other pipelines, and nothing else of them or of anything changes.
pub(super) fn keeps_keys(switch: &Switch) -> bool {
    switch.nodes.is_empty()
        && switch.members.is_empty()
        && switch.endpoints.iter().all(|change| match (&change.before, &change.after) {
            (Some(before), Some(after)) => {
                before.addresses == after.addresses && before.node == after.node
            }
            (Some(_) | None, Some(_) | None) => false,
        })
}

/// Returns whether others are known, or found elsewhere, than before.
pub(super) fn moves_addresses(switch: &Switch) -> bool {
    !switch.nodes.is_empty()
        || switch.endpoints.iter().any(|change| {
            let place = |endpoint: &Option<_>| {
                let endpoint: Option<&alloc::sync::Arc<netpol_core::ir::Endpoint>> =
                    endpoint.as_ref();
                endpoint.map(|endpoint| (endpoint.addresses.clone(), endpoint.node.clone()))
            };
            place(&change.before) != place(&change.after)
        })
}

/// Returns the entries that lead elsewhere, if a packet meets at most one of them: all are of one side, and no address has
/// one more or one less.
pub(super) fn one_side(
    dispatched: &BTreeMap<(Place, Family), Dispatch>,
    before: &Bound,
    after: &Bound,
) -> Option<Vec<Redirect>> {
    if !before.keys().eq(after.keys()) {
        return None;
    }
    let (mut redirects, mut sides) = (Vec::new(), BTreeSet::new());
    for ((key, before), after) in before.iter().zip(after.values()) {
        if !before.keys().eq(after.keys()) {
            return None;
        }
        if before == after {
            continue;
        }
        let (place, family) = *key;
        sides.insert(place.direction());
        let differ = |(address, verdict): &(&IpAddr, &Verdict), other: &BTreeMap<_, _>| {
            other.get(*address) != Some(*verdict)
        };
        let gone = before.iter().filter(|entry| differ(entry, after));
        let new = after.iter().filter(|entry| differ(entry, before));
        redirects.push(Redirect {
            map: dispatched.get(key)?.map.clone(),
            gone: Targets::of_family(family, gone),
            new: Targets::of_family(family, new),
        });
    }
    (sides.len() <= 1).then_some(redirects)
}
