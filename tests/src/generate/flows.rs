//! Flows between everything that matters in a cluster.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netpol_core::ir::{Dialled, Flow, Transport};
use netpol_core::model::{
    Cidr, Cluster, ClusterDestination, ClusterPort, Container, NetworkPolicyRule, PolicyPortNumber,
    Protocol,
};

use super::Random;
use super::vocabulary::external_address;

/// What a cluster's flows are drawn from.
struct Interesting {
    /// Addresses of pods, by pod, of whatever phase.
    pods: Vec<Vec<IpAddr>>,
    /// Of those, the ones that policy looks at.
    policed: Vec<Vec<IpAddr>>,
    /// Addresses of a policed pod and of its own node, by family.
    homes: [Vec<(IpAddr, IpAddr)>; 2],
    /// Addresses of nodes, edges of CIDRs and one step beyond them.
    others: [Vec<IpAddr>; 2],
    /// Ports of containers and edges of port ranges, and one step beyond.
    ports: Vec<u16>,
}

pub(super) fn flows(random: &mut Random, cluster: &Cluster, count: usize) -> Vec<Flow> {
    let interesting = Interesting::of(cluster);
    (0..count).map(|_| interesting.flow(random)).collect()
}

impl Interesting {
    fn of(cluster: &Cluster) -> Self {
        let pods = cluster.pods.values().map(|pod| pod.addresses.clone()).collect();
        let policed = cluster.pods.values().filter(|pod| pod.is_policed());
        let policed = policed.map(|pod| pod.addresses.clone()).collect();
        let mut homes = [Vec::new(), Vec::new()];
        for pod in cluster.pods.values().filter(|pod| pod.is_policed()) {
            let node = pod.node.as_ref().and_then(|name| cluster.nodes.get(name));
            for (pod, node) in node.into_iter().flat_map(|node| {
                pod.addresses.iter().flat_map(|pod| node.addresses.iter().map(|node| (*pod, *node)))
            }) {
                match (pod, node) {
                    (IpAddr::V4(_), IpAddr::V4(_)) => homes[0].push((pod, node)),
                    (IpAddr::V6(_), IpAddr::V6(_)) => homes[1].push((pod, node)),
                    (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
                }
            }
        }
        let mut addresses: BTreeSet<IpAddr> =
            cluster.nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
        let mut ports = BTreeSet::from([0, 1, 80, 65535]);
        for pod in cluster.pods.values() {
            for container in &pod.containers {
                let (Container::Main(list) | Container::Sidecar(list) | Container::Init(list)) =
                    container;
                ports.extend(list.iter().map(|port| port.port.get()));
            }
        }
        for policy in cluster.network_policies.values() {
            let lists = [policy.ingress.given(), policy.egress.given()];
            for rule in lists.into_iter().flatten().flatten() {
                network_policy_rule(rule, &mut addresses, &mut ports);
            }
        }
        for policy in cluster.cluster_network_policies.values() {
            for rule in policy.ingress.iter().chain(&policy.egress) {
                for peer in &rule.peers {
                    if let ClusterDestination::Networks(networks) = &peer.destination {
                        networks.iter().for_each(|network| edges(*network, &mut addresses));
                    }
                }
                for port in rule.protocols.given().into_iter().flatten() {
                    if let ClusterPort::Range(_, start, end) = port {
                        beside(start.get(), &mut ports);
                        beside(end.get(), &mut ports);
                    }
                }
            }
        }
        let (v4, v6) = addresses.into_iter().partition(IpAddr::is_ipv4);
        Self { pods, policed, homes, others: [v4, v6], ports: ports.into_iter().collect() }
    }

    fn flow(&self, random: &mut Random) -> Flow {
        let family = random.below(2);
        let mut ends = [self.end(random, family), self.end(random, family)];
        if random.one_in(20) {
            // The same pod at both ends, by the same address or by another of its own.
            let mut both = random.pick_from(&self.policed).cloned().unwrap_or_default();
            both.retain(|address| address.is_ipv4() == (family == 0));
            for end in &mut ends {
                *end = random.pick_from(&both).copied().unwrap_or(*end);
            }
        }
        if random.one_in(12)
            && let Some((pod, node)) =
                self.homes.get(family).and_then(|list| random.pick_from(list))
        {
            ends = [*pod, *node];
        }
        if random.one_in(2) {
            ends.reverse();
        }
        let [source, destination] = ends;
        let dialled = random.pick([Dialled::Address, Dialled::Address, Dialled::Service]);
        Flow { source, destination, transport: self.transport(random), dialled }
    }

    fn end(&self, random: &mut Random, family: usize) -> IpAddr {
        let wanted = |address: &&IpAddr| address.is_ipv4() == (family == 0);
        let of_pod = |random: &mut Random| {
            let pods = if random.one_in(10) { &self.pods } else { &self.policed };
            let pod = random.pick_from(pods)?;
            let addresses: Vec<IpAddr> = pod.iter().filter(wanted).copied().collect();
            random.pick_from(&addresses).copied()
        };
        let other = |random: &mut Random| {
            let list = self.others.get(family)?;
            random.pick_from(list).copied()
        };
        let found = match random.below(10) {
            0 => None,
            1 | 2 => other(random),
            _ => (0..4).find_map(|_| of_pod(random)),
        };
        if found.is_none() && family == 1 && random.one_in(4) {
            // A pod's IPv4 address inside an IPv6 one: still IPv6 (NP-068). No CIDR may be written like that (VAL-029).
            return IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        }
        found.unwrap_or_else(|| external_address(random, family))
    }

    fn transport(&self, random: &mut Random) -> Transport {
        if random.one_in(10) {
            return Transport::Other(random.pick([1, 2, 47, 58]));
        }
        let protocol = random.pick([Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
        Transport::Port(protocol, random.pick_from(&self.ports).copied().unwrap_or(80))
    }
}

fn network_policy_rule(
    rule: &NetworkPolicyRule,
    addresses: &mut BTreeSet<IpAddr>,
    ports: &mut BTreeSet<u16>,
) {
    for peer in rule.peers.given().into_iter().flatten() {
        if let Some(block) = peer.ip_block.given() {
            edges(block.cidr, addresses);
            block.except.iter().for_each(|except| edges(*except, addresses));
        }
    }
    for port in rule.ports.given().into_iter().flatten() {
        match port.port.given() {
            Some(PolicyPortNumber::Number(number)) => beside(number.get(), ports),
            Some(PolicyPortNumber::Range(start, end)) => {
                beside(start.get(), ports);
                beside(end.get(), ports);
            }
            Some(PolicyPortNumber::Name(_)) | None => {}
        }
    }
}

/// First and last address of a CIDR, and the ones before and after.
fn edges(cidr: Cidr, addresses: &mut BTreeSet<IpAddr>) {
    match cidr.net() {
        IpNet::V4(net) => {
            let (low, high) = (u32::from(net.network()), u32::from(net.broadcast()));
            for edge in [Some(low), Some(high), low.checked_sub(1), high.checked_add(1)] {
                addresses.extend(edge.map(|edge| IpAddr::V4(Ipv4Addr::from(edge))));
            }
        }
        IpNet::V6(net) => {
            let (low, high) = (u128::from(net.network()), u128::from(net.broadcast()));
            for edge in [Some(low), Some(high), low.checked_sub(1), high.checked_add(1)] {
                addresses.extend(edge.map(|edge| IpAddr::V6(Ipv6Addr::from(edge))));
            }
        }
    }
}

fn beside(port: u16, ports: &mut BTreeSet<u16>) {
    ports.extend([port.saturating_sub(1), port, port.saturating_add(1)]);
}
