//! Whether a ruleset is the one that was lowered, whatever the numbers.

use core::net::IpAddr;

use hashbrown::HashMap;
use netpol_core::atoms::{ClassId, Classes};
use netpol_core::ir::{Family, Ruleset};

use super::Lowering;

impl Lowering {
    /// Returns whether this is what `ruleset` is lowered to. Costs a look at all of it.
    #[must_use]
    pub fn is_of(&self, ruleset: &Ruleset) -> bool {
        let endpoints = || {
            ruleset.endpoints().all(|endpoint| {
                let bound = self.endpoints.get(&endpoint.pod);
                let place = |address| self.image.topology.pods.get(address);
                bound.is_some_and(|bound| {
                    bound.addresses == endpoint.addresses
                        && bound.ingress == endpoint.ingress
                        && bound.egress == endpoint.egress
                }) && endpoint.addresses.iter().all(|address| {
                    place(address).is_some_and(|place| {
                        place.pod != endpoint.pod || place.node == endpoint.node
                    })
                })
            })
        };
        self.settings == ruleset.settings()
            && self.image.ranges == *ruleset.pod_ranges()
            && self.image.topology.nodes == *ruleset.nodes()
            && self.pipelines.keys().copied().eq(ruleset.pipelines().map(|(id, _)| id))
            && self.endpoints.len() == ruleset.endpoints().len()
            && endpoints()
            && are_same(&self.classes, &Classes::of_ruleset(ruleset))
    }
}

/// Returns whether two partitions are one but for the numbers.
fn are_same(one: &Classes, other: &Classes) -> bool {
    let mut known: HashMap<(ClassId, ClassId), bool> = HashMap::new();
    let mut same = |(one_class, other_class): (ClassId, ClassId)| {
        *known
            .entry((one_class, other_class))
            .or_insert_with(|| one.sets_of(one_class) == other.sets_of(other_class))
    };
    let mut addresses = (one.addresses(), other.addresses());
    loop {
        match (addresses.0.next(), addresses.1.next()) {
            (None, None) => break,
            (Some((one, class)), Some((other, other_class)))
                if one == other && same((class, other_class)) => {}
            (Some(_) | None, Some(_) | None) => return false,
        }
    }
    [Family::V4, Family::V6].into_iter().all(|family| {
        let range = |(low, high, class): (IpAddr, IpAddr, ClassId)| ((low, high), class);
        let mut ranges = (one.ranges(family).map(range), other.ranges(family).map(range));
        loop {
            match (ranges.0.next(), ranges.1.next()) {
                (None, None) => return true,
                (Some((one, class)), Some((other, other_class)))
                    if one == other && same((class, other_class)) => {}
                (Some(_) | None, Some(_) | None) => return false,
            }
        }
    })
}
