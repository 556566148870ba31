//! Ends that no rule in use tells apart.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ir::{Endpoint, Family, PeerSet, PeerSetId, PipelineId, Ruleset};
use crate::model::ObjectRef;
use crate::net::{Intervals, PrefixSet};

/// How the peer sets treat an end: the ids of those that hold it.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Class(BTreeSet<PeerSetId>);

impl Class {
    pub(super) fn contains(&self, set: PeerSetId) -> bool {
        self.0.contains(&set)
    }
}

/// Pods of one class.
pub(super) struct PodClass {
    pub(super) ingress: PipelineId,
    pub(super) egress: PipelineId,
    pub(super) class: Class,
    pub(super) members: Vec<ObjectRef>,
}

/// Addresses of one class.
pub(super) struct ExternalClass {
    pub(super) class: Class,
    pub(super) addresses: PrefixSet,
}

/// All classes of a ruleset in one family.
pub(super) struct Classes {
    pub(super) pods: Vec<PodClass>,
    pub(super) externals: Vec<ExternalClass>,
}

impl Classes {
    pub(super) fn new(ruleset: &Ruleset, family: Family) -> Self {
        Self { pods: pods(ruleset, family), externals: externals(ruleset, family) }
    }
}

fn pods(ruleset: &Ruleset, family: Family) -> Vec<PodClass> {
    let networks: Vec<(PeerSetId, &PeerSet)> =
        ruleset.peer_sets().filter(|(_, set)| !set.networks.is_empty()).collect();
    let mut memberships: BTreeMap<IpAddr, Class> = BTreeMap::new();
    for (id, set) in ruleset.peer_sets() {
        for address in set.addresses.iter().filter(|address| Family::of(*address) == family) {
            memberships.entry(address).or_default().0.insert(id);
        }
    }
    let mut classes: BTreeMap<(PipelineId, PipelineId, Class), Vec<ObjectRef>> = BTreeMap::new();
    for endpoint in ruleset.endpoints() {
        let Some(address) = address(endpoint, family) else { continue };
        let mut class = memberships.remove(&address).unwrap_or_default();
        class.0.extend(
            networks.iter().filter(|(_, set)| set.networks.contains(address)).map(|(id, _)| *id),
        );
        classes
            .entry((endpoint.ingress, endpoint.egress, class))
            .or_default()
            .push(endpoint.pod.clone());
    }
    let classes = classes.into_iter();
    let mut pods: Vec<PodClass> = classes
        .map(|((ingress, egress, class), members)| PodClass { ingress, egress, class, members })
        .collect();
    pods.sort_by(|left, right| left.members.cmp(&right.members));
    pods
}

/// A pod's address of a family. A pod has at most one of each.
fn address(endpoint: &Endpoint, family: Family) -> Option<IpAddr> {
    endpoint.addresses.iter().copied().find(|address| Family::of(*address) == family)
}

/// Cuts the whole family wherever a range begins or ends, and joins the pieces that are held by the same sets.
fn externals(ruleset: &Ruleset, family: Family) -> Vec<ExternalClass> {
    let networks: Vec<(PeerSetId, &PrefixSet)> = ruleset
        .peer_sets()
        .map(|(id, set)| (id, &set.networks))
        .filter(|(_, networks)| !networks.is_empty())
        .collect();
    let class = |address: IpAddr| {
        Class(
            networks
                .iter()
                .filter(|(_, networks)| networks.contains(address))
                .map(|(id, _)| *id)
                .collect(),
        )
    };
    let mut classes: BTreeMap<Class, PrefixSet> = BTreeMap::new();
    let mut join = |address: IpAddr, piece: PrefixSet| {
        let joined = classes.entry(class(address)).or_default();
        *joined = joined.union(&piece);
    };
    match family {
        Family::V4 => {
            for (low, high) in
                pieces(networks.iter().flat_map(|(_, networks)| networks.v4().iter()))
            {
                let piece =
                    PrefixSet::from_intervals(Intervals::range(low, high), Intervals::default());
                join(IpAddr::V4(Ipv4Addr::from(low)), piece);
            }
        }
        Family::V6 => {
            for (low, high) in
                pieces(networks.iter().flat_map(|(_, networks)| networks.v6().iter()))
            {
                let piece =
                    PrefixSet::from_intervals(Intervals::default(), Intervals::range(low, high));
                join(IpAddr::V6(Ipv6Addr::from(low)), piece);
            }
        }
    }
    let classes = classes.into_iter();
    let mut externals: Vec<ExternalClass> =
        classes.map(|(class, addresses)| ExternalClass { class, addresses }).collect();
    externals.sort_by(|left, right| left.addresses.cmp(&right.addresses));
    externals
}

fn pieces<T: crate::net::Point>(ranges: impl Iterator<Item = (T, T)>) -> Vec<(T, T)> {
    let mut starts = alloc::vec![T::MIN];
    for (low, high) in ranges {
        starts.push(low);
        starts.extend(high.successor());
    }
    starts.sort_unstable();
    starts.dedup();
    let ends = starts
        .iter()
        .skip(1)
        .filter_map(|next| next.predecessor())
        .chain([T::MAX])
        .collect::<Vec<T>>();
    starts.into_iter().zip(ends).collect()
}
