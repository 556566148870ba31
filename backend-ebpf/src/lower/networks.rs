//! The classes of networks, and addresses that are networks of their own, as ranges change theirs.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use netpol_core::atoms::{Classes, MovedRange};
use netpol_core::ir::Family;

use crate::image::{Class, class_in};

/// What the classes of networks were before the changes since.
#[derive(Debug, Default)]
pub(super) struct Journal {
    networks: BTreeMap<IpNet, Option<Class>>,
    /// Addresses that became networks of their own, or ceased to be.
    pub(super) singles: BTreeSet<IpAddr>,
}

/// Puts all ranges in.
pub(super) fn fill(
    classes: &Classes,
    networks: &mut BTreeMap<IpNet, Class>,
    singles: &mut BTreeSet<IpAddr>,
) {
    for (network, class) in [Family::V4, Family::V6].into_iter().flat_map(|f| classes.prefixes(f)) {
        if is_single(&network) {
            singles.insert(network.addr());
        } else {
            networks.insert(network, class.number());
        }
    }
}

fn is_single(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

impl Journal {
    pub(super) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.singles.is_empty()
    }

    /// Gives a range its new class.
    pub(super) fn redraw(
        &mut self,
        range: &MovedRange,
        networks: &mut BTreeMap<IpNet, Class>,
        singles: &mut BTreeSet<IpAddr>,
    ) {
        let MovedRange { low, high, to, .. } = *range;
        let gone: Vec<IpAddr> = singles.range(low..=high).copied().collect();
        for single in gone {
            singles.remove(&single);
            self.singles.insert(single);
        }
        let first = IpNet::from(low).addr();
        let Ok(from) = IpNet::new(first, 0) else { return };
        let inside: Vec<IpNet> = networks
            .range(from..=IpNet::from(high))
            .map(|(network, _)| *network)
            .filter(|network| network.addr() >= low && network.broadcast() <= high)
            .collect();
        for network in inside {
            self.put(network, None, networks);
        }
        for network in subnets(low, high) {
            if class_in(networks, network) == to.number() {
                continue;
            }
            if is_single(&network) {
                singles.insert(network.addr());
                self.singles.insert(network.addr());
            } else {
                self.put(network, Some(to.number()), networks);
            }
        }
    }

    fn put(&mut self, network: IpNet, class: Option<Class>, networks: &mut BTreeMap<IpNet, Class>) {
        let before = match class {
            Some(class) => networks.insert(network, class),
            None => networks.remove(&network),
        };
        self.networks.entry(network).or_insert(before);
    }

    /// Returns every network that was touched, with the classes that addresses had and have which no longer one holds,
    /// and whether it is still there. The same of ghosts, which are not there but are found, where the classes differ.
    pub(super) fn changes(
        &self,
        networks: &BTreeMap<IpNet, Class>,
        ghosts: &BTreeSet<IpNet>,
    ) -> Vec<(IpNet, Class, Class, bool)> {
        let before = |network: &IpNet| {
            let prefixes = (0..=network.prefix_len()).rev();
            let prefixes = prefixes.filter_map(|length| IpNet::new(network.addr(), length).ok());
            let class = |prefix: IpNet| match self.networks.get(&prefix.trunc()) {
                Some(class) => *class,
                None => networks.get(&prefix.trunc()).copied(),
            };
            prefixes.filter_map(class).next().unwrap_or(0)
        };
        let change = |network: &IpNet| {
            let is_there = networks.contains_key(network);
            (*network, before(network), class_in(networks, *network), is_there)
        };
        let untouched = ghosts.iter().filter(|ghost| !self.networks.contains_key(*ghost));
        let haunted = untouched.map(change).filter(|(_, before, now, _)| before != now);
        self.networks.keys().map(change).chain(haunted).collect()
    }
}

fn subnets(low: IpAddr, high: IpAddr) -> Vec<IpNet> {
    match (low, high) {
        (IpAddr::V4(low), IpAddr::V4(high)) => {
            Ipv4Subnets::new(low, high, 0).map(IpNet::V4).collect()
        }
        (IpAddr::V6(low), IpAddr::V6(high)) => {
            Ipv6Subnets::new(low, high, 0).map(IpNet::V6).collect()
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Vec::new(),
    }
}
