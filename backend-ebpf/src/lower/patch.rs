//! What one change does to the maps.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;

use crate::image::{
    Class, CounterId, Host, PodNumber, PodRow, PolicyNumber, PortRow, PortsId, Word,
};

/// What leads from one image to the next, in the order that is safe.
///
/// Rows of [`ports`](Self::ports), [`policies`](Self::policies), [`words`](Self::words) and [`pods`](Self::pods) are about
/// numbers that nothing refers to yet. Those of [`hosts`](Self::hosts) and [`networks`](Self::networks) hold both values;
/// the version that follows switches them all. What [`garbage`](Self::garbage) names may go once no packet is judged by
/// the version before any more.
#[derive(Debug, Default)]
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
#[derive(Debug, Default)]
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
impl Garbage {
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
