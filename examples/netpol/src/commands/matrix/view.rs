//! The matrix as reports show it: groups with names, cells with what passes.

use alloc::collections::BTreeMap;
use std::collections::HashMap;

use netpol_core::ir::Family;
use netpol_core::matrix::{Allowed, Matrix, Party};
use netpol_core::model::{ObjectRef, Protocol};
use netpol_core::net::{PortSet, PrefixSet};

use crate::input::Input;

/// Groups of ends that behave alike towards every other group, and what passes between them.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) family: Family,
    pub(crate) port: Option<(Protocol, u16)>,
    pub(crate) groups: Vec<Group>,
    /// A pair that is not here is denied.
    pub(crate) cells: BTreeMap<(usize, usize), Allowed>,
}

/// A group of pods or of addresses outside the cluster.
#[derive(Debug)]
pub(crate) struct Group {
    /// `namespace/name[Kind]`, CIDRs or ranges; in order.
    pub(crate) members: Vec<String>,
    /// The addresses outside the cluster; `None` for pods.
    addresses: Option<PrefixSet>,
}

impl Group {
    pub(crate) const fn is_external(&self) -> bool {
        self.addresses.is_some()
    }

    fn absorb(&mut self, other: Self) {
        match (&self.addresses, &other.addresses) {
            (Some(own), Some(more)) => {
                let union = own.union(more);
                self.members = ranges(&union);
                self.addresses = Some(union);
            }
            (None, _) | (_, None) => {
                self.members.extend(other.members);
                self.members.sort_unstable();
            }
        }
    }

    /// The first member and how many more there are.
    pub(crate) fn label(&self) -> String {
        let first = self.members.first().map(String::as_str).unwrap_or_default();
        match self.members.len() {
            0 | 1 => first.to_owned(),
            members => format!("{first} (+{})", members - 1),
        }
    }
}

/// A row and a column of the matrix: who may reach whom, and what may pass.
type Signature<'a> = Vec<(Toward, usize, &'a Allowed)>;

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Toward {
    It,
    Us,
}

impl View {
    /// Restricts the matrix to one port if one is given, and merges classes that turn out to behave alike.
    pub(crate) fn new(input: &Input, matrix: Matrix, port: Option<(Protocol, u16)>) -> Self {
        let pods = matrix.pods.len();
        let position = |party: Party| match party {
            Party::Pods(class) => class,
            Party::External(class) => pods + class,
        };
        let mut cells = BTreeMap::new();
        for ((from, to), allowed) in &matrix.cells {
            let allowed = restrict(allowed, port);
            if !allowed.is_nothing() {
                cells.insert((position(*from), position(*to)), allowed);
            }
        }
        let names = |members: &[ObjectRef]| {
            members.iter().map(|pod| workload_name(input, pod)).collect::<Vec<_>>()
        };
        let mut groups: Vec<Group> = matrix
            .pods
            .iter()
            .map(|members| Group { members: names(members), addresses: None })
            .collect();
        let externals = matrix.externals.iter();
        groups.extend(externals.map(|addresses| Group {
            members: ranges(addresses),
            addresses: Some(addresses.clone()),
        }));
        Self { family: matrix.family, port, groups, cells }.merged()
    }

    /// Merges groups of one kind whose rows and columns are equal. A group's own cell speaks of two different members,
    /// so two groups with equal rows and columns let their members through to each other as to their own.
    fn merged(self) -> Self {
        let Self { family, port, groups, cells } = self;
        let mut signatures: BTreeMap<usize, Signature<'_>> = BTreeMap::new();
        for ((from, to), allowed) in &cells {
            signatures.entry(*from).or_default().push((Toward::It, *to, allowed));
            signatures.entry(*to).or_default().push((Toward::Us, *from, allowed));
        }
        let mut known: HashMap<(bool, Signature<'_>), usize> = HashMap::new();
        let mut new_position = Vec::with_capacity(groups.len());
        let mut merged: Vec<Group> = Vec::new();
        for (index, group) in groups.into_iter().enumerate() {
            let mut signature = signatures.remove(&index).unwrap_or_default();
            signature.sort_by_key(|(toward, other, _)| (*toward, *other));
            let position = *known.entry((group.is_external(), signature)).or_insert(merged.len());
            match merged.get_mut(position) {
                Some(alike) => alike.absorb(group),
                None => merged.push(group),
            }
            new_position.push(position);
        }
        let place = |index: usize| new_position.get(index).copied().unwrap_or(index);
        let cells = cells
            .iter()
            .map(|((from, to), allowed)| ((place(*from), place(*to)), allowed.clone()))
            .collect();
        Self { family, port, groups: merged, cells }
    }

    /// Every pair of ends that may exchange something, ungrouped, in order of the names.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str, &Allowed)> {
        let mut ends: Vec<(&str, usize)> = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            ends.extend(group.members.iter().map(|member| (member.as_str(), index)));
        }
        ends.sort_unstable();
        let sources = ends.clone();
        sources.into_iter().flat_map(move |(source, from)| {
            let row = self.cells.range((from, 0)..=(from, usize::MAX));
            let row: HashMap<usize, &Allowed> =
                row.map(|((_, to), allowed)| (*to, allowed)).collect();
            let mut reached = Vec::new();
            for (destination, to) in ends.iter().filter(|(destination, _)| *destination != source) {
                reached.extend(row.get(to).map(|allowed| (source, *destination, *allowed)));
            }
            reached
        })
    }

    /// What to write into a cell.
    pub(crate) fn text(&self, allowed: &Allowed) -> String {
        match self.port {
            Some(_) => "yes".to_owned(),
            None => allowed.to_string(),
        }
    }

    pub(crate) fn title(&self) -> String {
        match self.port {
            Some((protocol, port)) => format!("{}, port {port}/{protocol}", self.family),
            None => self.family.to_string(),
        }
    }
}

fn restrict(allowed: &Allowed, port: Option<(Protocol, u16)>) -> Allowed {
    match port {
        None => allowed.clone(),
        Some((protocol, port)) => Allowed {
            ports: allowed.ports.intersection(&PortSet::from_ranges([(protocol, port, port)])),
            others: false,
        },
    }
}

/// A pod as `namespace/name[Kind]`.
pub(crate) fn workload_name(input: &Input, pod: &ObjectRef) -> String {
    match input.cluster.pods.get(pod).and_then(|pod| pod.workload.as_ref()) {
        Some(workload) => format!("{}/{workload}", pod.namespace),
        None => format!("{pod}[Pod]"),
    }
}

/// Addresses as CIDRs where a range is one, as `first-last` otherwise.
fn ranges(addresses: &PrefixSet) -> Vec<String> {
    let v4 = addresses.v4().iter().map(|(low, high)| {
        range(core::net::Ipv4Addr::from(low).into(), core::net::Ipv4Addr::from(high).into())
    });
    let v6 = addresses.v6().iter().map(|(low, high)| {
        range(core::net::Ipv6Addr::from(low).into(), core::net::Ipv6Addr::from(high).into())
    });
    v4.chain(v6).collect()
}

fn range(low: core::net::IpAddr, high: core::net::IpAddr) -> String {
    use core::net::IpAddr;
    // A range is a CIDR if its ends differ in the trailing bits only, all 0 below and all 1 above.
    let prefix = match (low, high) {
        (IpAddr::V4(low), IpAddr::V4(high)) => {
            prefix(low.to_bits().into(), high.to_bits().into(), 32)
        }
        (IpAddr::V6(low), IpAddr::V6(high)) => prefix(low.to_bits(), high.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    };
    match prefix {
        Some(prefix) => format!("{low}/{prefix}"),
        None => format!("{low}-{high}"),
    }
}

fn prefix(low: u128, high: u128, bits: u32) -> Option<u32> {
    let mask = low ^ high;
    let is_mask = mask & mask.wrapping_add(1) == 0;
    (is_mask && low & mask == 0).then(|| bits - mask.count_ones())
}

#[cfg(test)]
mod tests {
    use super::range;

    #[track_caller]
    fn check(low: &str, high: &str, expected: &str) {
        assert_eq!(range(low.parse().expect("address"), high.parse().expect("address")), expected);
    }

    #[test]
    fn a_range_is_written_as_a_cidr_only_where_it_is_one() {
        check("0.0.0.0", "255.255.255.255", "0.0.0.0/0");
        check("10.0.0.0", "10.0.0.255", "10.0.0.0/24");
        check("10.0.0.1", "10.0.0.1", "10.0.0.1/32");
        check("10.0.0.1", "10.0.0.2", "10.0.0.1-10.0.0.2");
        check("10.0.0.128", "10.0.1.127", "10.0.0.128-10.0.1.127");
        check("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0");
        check("fd00::", "fd00::1:ffff", "fd00::/111");
        check("fd00::1", "fd00::1:ffff", "fd00::1-fd00::1:ffff");
    }
}
