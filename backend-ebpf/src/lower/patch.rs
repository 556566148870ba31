//! What one change does to the maps.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

#[cfg(feature = "apply")]
use crate::image::MapImage;
use crate::image::{
    Class, CounterId, Host, PodNumber, PodRow, PolicyNumber, PortRow, PortsId, Word,
};

/// What leads from one image to the next, in the order that is safe.
///
/// Rows of [`ports`](Self::ports), [`policies`](Self::policies), [`words`](Self::words) and [`pods`](Self::pods) are about
/// numbers that nothing refers to yet. Those of [`hosts`](Self::hosts) and [`networks`](Self::networks) hold both values;
/// the version that follows switches them all. What [`garbage`](Self::garbage) names may go once no packet is judged by
/// the version before any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patch {
    pub(crate) ports: Vec<(PortsId, Vec<PortRow>)>,
    pub(crate) policies: Vec<(PolicyNumber, Word)>,
    pub(crate) words: Vec<((PolicyNumber, Class), Word)>,
    pub(crate) pods: Vec<(PodNumber, PodRow)>,
    /// Before and after.
    pub(crate) hosts: Vec<(IpAddr, Host, Host)>,
    /// Before and after, for the addresses that no longer one of them holds.
    pub(crate) networks: Vec<(IpNet, Class, Class)>,
    pub(crate) garbage: Garbage,
}

/// Keys that nothing refers to any more, unless a later change did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Garbage {
    pub(crate) hosts: BTreeSet<IpAddr>,
    pub(crate) networks: BTreeSet<IpNet>,
    pub(crate) words: BTreeSet<(PolicyNumber, Class)>,
    pub(crate) ports: BTreeMap<PortsId, Vec<PortRow>>,
    pub(crate) policies: Vec<PolicyNumber>,
    pub(crate) pods: Vec<PodNumber>,
    /// The first of a block of counters, and how many.
    pub(crate) counters: Vec<(CounterId, u32)>,
}

#[cfg(feature = "apply")]
impl Patch {
    /// Leaves networks alone that have been deleted meanwhile and do not come again.
    pub(crate) fn forget_networks(&mut self, deleted: &BTreeSet<IpNet>, image: &MapImage) {
        let is_there = |network: &IpNet| image.networks.contains_key(network);
        self.networks.retain(|(network, _, _)| !deleted.contains(network) || is_there(network));
        self.garbage.networks.retain(|network| !deleted.contains(network));
    }
}

#[cfg(feature = "apply")]
impl Garbage {
    /// Takes out what a change refers to again, now that it is in force.
    pub(crate) fn without(&mut self, patch: &Patch, image: &MapImage) {
        for (address, _, _) in &patch.hosts {
            if image.hosts.contains_key(address) {
                self.hosts.remove(address);
            }
        }
        for (network, _, _) in &patch.networks {
            if image.networks.contains_key(network) {
                self.networks.remove(network);
            }
        }
        for (key, _) in &patch.words {
            self.words.remove(key);
        }
    }

    /// Adds what another change left.
    pub(crate) fn add(&mut self, other: Self) {
        let Self { hosts, networks, words, ports, policies, pods, counters } = other;
        self.hosts.extend(hosts);
        self.networks.extend(networks);
        self.words.extend(words);
        self.ports.extend(ports);
        self.policies.extend(policies);
        self.pods.extend(pods);
        self.counters.extend(counters);
    }

    /// Returns how many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
            + self.networks.len()
            + self.words.len()
            + self.ports.values().map(Vec::len).sum::<usize>()
            + self.policies.len()
            + self.pods.len()
            + self.counters.len()
    }
}
