//! Ends that no rule in use tells apart: the classes of [`atoms`](crate::atoms), told as pods and as ranges.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::atoms::{self, ClassId};
use crate::ir::{Endpoint, Family, PipelineId, Ruleset};
use crate::model::ObjectRef;
use crate::net::{Intervals, PrefixSet};

/// Pods of one class.
pub(super) struct PodClass {
    pub(super) ingress: PipelineId,
    pub(super) egress: PipelineId,
    pub(super) class: ClassId,
    pub(super) members: Vec<ObjectRef>,
}

/// Addresses of one class.
pub(super) struct ExternalClass {
    pub(super) class: ClassId,
    pub(super) addresses: PrefixSet,
}

/// Returns the classes of pods, ordered by their first member.
pub(super) fn pods(ruleset: &Ruleset, classes: &atoms::Classes, family: Family) -> Vec<PodClass> {
    let mut members: BTreeMap<(PipelineId, PipelineId, ClassId), Vec<ObjectRef>> = BTreeMap::new();
    for endpoint in ruleset.endpoints() {
        let Some(address) = address(endpoint, family) else { continue };
        members
            .entry((endpoint.ingress, endpoint.egress, classes.class_of(address)))
            .or_default()
            .push(endpoint.pod.clone());
    }
    let mut pods: Vec<PodClass> = members
        .into_iter()
        .map(|((ingress, egress, class), members)| PodClass { ingress, egress, class, members })
        .collect();
    pods.sort_by(|left, right| left.members.cmp(&right.members));
    pods
}

/// A pod's address of a family. A pod has at most one of each.
fn address(endpoint: &Endpoint, family: Family) -> Option<IpAddr> {
    endpoint.addresses.iter().copied().find(|address| Family::of(*address) == family)
}

/// Returns the classes of ranges, ordered by their first address.
pub(super) fn externals(classes: &atoms::Classes, family: Family) -> Vec<ExternalClass> {
    let mut ranges: BTreeMap<ClassId, Ranges> = BTreeMap::new();
    for (low, high, class) in classes.ranges(family) {
        let Ranges { v4, v6 } = ranges.entry(class).or_default();
        match (low, high) {
            (IpAddr::V4(low), IpAddr::V4(high)) => v4.push((low.into(), high.into())),
            (IpAddr::V6(low), IpAddr::V6(high)) => v6.push((low.into(), high.into())),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
    }
    let mut externals: Vec<ExternalClass> = ranges
        .into_iter()
        .map(|(class, Ranges { v4, v6 })| {
            let (v4, v6) = (Intervals::from_ranges(v4), Intervals::from_ranges(v6));
            ExternalClass { class, addresses: PrefixSet::from_intervals(v4, v6) }
        })
        .collect();
    externals.sort_by(|left, right| left.addresses.cmp(&right.addresses));
    externals
}

/// Ranges of one family or the other.
#[derive(Default)]
struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}
