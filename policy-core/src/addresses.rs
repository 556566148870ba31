//! Addresses for objects that have none: manifests read offline know neither pod addresses nor nodes (OFF-006).
//!
//! A stand-in address is taken from space that no `ipBlock` and no `networks` entry of the policies names, except blocks
//! that cover a whole family. So a pod with a stand-in matches exactly the blocks it is certain to match, and no other;
//! [`depends_on_unknown_address`](crate::ir::depends_on_unknown_address) says where that was a guess.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ir::Family;
use crate::model::{Cidr, Cluster, ClusterDestination, Node, ObjectMeta, ObjectRef, PeerKind, Pod};
use crate::net::{Intervals, PrefixSet};

/// What was made up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Assigned {
    /// Addresses of pods that had none and for which no pod network is known: stand-ins.
    pub stand_ins: BTreeSet<IpAddr>,
    /// Pods that got addresses, stand-ins or from the networks given.
    pub pods: BTreeSet<ObjectRef>,
    /// Nodes that got addresses.
    pub nodes: BTreeSet<alloc::sync::Arc<str>>,
    /// Pods that were put on a node.
    pub scheduled: BTreeSet<ObjectRef>,
}

/// How to make up what is missing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "options are written as literals")]
pub struct AddressPlan {
    /// Networks that pods really get their addresses from. Addresses from here are taken as true, not as stand-ins.
    pub pod_networks: Vec<Cidr>,
    /// Addresses that flows name as ends outside the cluster: never given to a pod or node.
    pub reserved: Vec<IpAddr>,
    /// Nodes to make up for pods that are on none; pods are dealt out in turn. Empty: such pods stay where they are.
    pub nodes: Vec<alloc::sync::Arc<str>>,
}

/// Gives every policed pod and every node without addresses one of each family, and every pod a node if the plan has any.
///
/// Deterministic: the same objects get the same addresses. hostNetwork pods have their node's addresses and get none.
pub fn assign(cluster: &mut Cluster, plan: &AddressPlan) -> Assigned {
    let mut assigned = Assigned::default();
    schedule(cluster, plan, &mut assigned);
    let mut taken: BTreeSet<IpAddr> = plan.reserved.iter().copied().collect();
    taken.extend(cluster.pods.values().flat_map(|pod| pod.addresses.iter().copied()));
    taken.extend(cluster.nodes.values().flat_map(|node| node.addresses.iter().copied()));
    taken.extend(cluster.services.values().flat_map(|service| service.cluster_ips.iter().copied()));
    let mut free = Free::new(named_networks(cluster), taken);
    for (name, node) in &mut cluster.nodes {
        if node.addresses.is_empty() {
            node.addresses.extend(free.nodes());
            assigned.nodes.insert(name.clone());
        }
    }
    let networks = PrefixSet::from_cidrs(&plan.pod_networks);
    let mut given = Pool::new(&networks);
    for (object, pod) in &mut cluster.pods {
        if !pod.addresses.is_empty() || !pod.is_policed() {
            continue;
        }
        let real = given.next(&mut free.taken);
        if real.is_empty() {
            let stand_ins = free.pods();
            assigned.stand_ins.extend(stand_ins.iter().copied());
            pod.addresses = stand_ins;
        } else {
            pod.addresses = real;
        }
        assigned.pods.insert(object.clone());
    }
    for pod in cluster.pods.values_mut().filter(|pod| pod.host_network && pod.addresses.is_empty())
    {
        let node = pod.node.as_ref().and_then(|node| cluster.nodes.get(node));
        pod.addresses = node.map(|node| node.addresses.clone()).unwrap_or_default();
    }
    assigned
}

fn schedule(cluster: &mut Cluster, plan: &AddressPlan, assigned: &mut Assigned) {
    let mut turn = plan.nodes.iter().cycle();
    for (object, pod) in &mut cluster.pods {
        if pod.node.is_none()
            && let Some(node) = turn.next()
        {
            pod.node = Some(node.clone());
            assigned.scheduled.insert(object.clone());
        }
    }
    let named = |pod: &Pod| pod.node.clone();
    let names: BTreeSet<_> =
        cluster.pods.values().filter_map(named).chain(plan.nodes.iter().cloned()).collect();
    for name in names {
        cluster.nodes.entry(name.clone()).or_insert_with(|| {
            let object = ObjectRef::cluster_scoped(&name);
            Node { meta: ObjectMeta { object, ..ObjectMeta::default() }, ..Node::default() }
        });
    }
}

/// Every range that policies name, but for those that cover a whole family.
fn named_networks(cluster: &Cluster) -> PrefixSet {
    let rules = cluster.network_policies.values().flat_map(|policy| {
        let lists = [policy.ingress.given(), policy.egress.given()];
        lists.into_iter().flatten().flatten()
    });
    let peers = rules.filter_map(|rule| rule.peers.given()).flatten();
    let mut cidrs: Vec<Cidr> = Vec::new();
    for peer in peers {
        if let PeerKind::IpBlock(block) = peer.kind() {
            cidrs.push(block.cidr);
            cidrs.extend(&block.except);
        }
    }
    let rules = cluster
        .cluster_network_policies
        .values()
        .flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
    for peer in rules.flat_map(|rule| &rule.peers) {
        if let ClusterDestination::Networks(networks) = &peer.destination {
            cidrs.extend(networks);
        }
    }
    cidrs.retain(|cidr| cidr.net().prefix_len() > 0);
    PrefixSet::from_cidrs(&cidrs)
}

/// Space that is free for stand-ins.
struct Free {
    taken: BTreeSet<IpAddr>,
    pods: Pool,
    nodes: Pool,
}

impl Free {
    fn new(named: PrefixSet, taken: BTreeSet<IpAddr>) -> Self {
        let preferred = |cidrs: &[&str]| {
            let parsed = |text: &&str| Cidr::parse(text).ok();
            let mut set = PrefixSet::default();
            for family in [Family::V4, Family::V6] {
                let of_family = |cidr: &Cidr| Family::of(cidr.net().addr()) == family;
                let mut candidates = cidrs.iter().filter_map(parsed).filter(of_family);
                let untouched =
                    |cidr: &Cidr| PrefixSet::from_cidrs([cidr]).intersection(&named).is_empty();
                // Where policies name every candidate, any unnamed unicast address will do, and failing that the last.
                let clean = candidates.find(untouched).map(|cidr| PrefixSet::from_cidrs([&cidr]));
                let rest = unicast(family).difference(&named);
                let fallback = || if rest.is_empty() { unicast(family) } else { rest };
                set = set.union(&clean.unwrap_or_else(fallback));
            }
            set
        };
        let pods = preferred(&[
            "10.244.0.0/16",
            "10.128.0.0/16",
            "192.168.0.0/16",
            "172.30.0.0/16",
            "100.64.0.0/16",
            "fd00:10:244::/64",
            "fd00:10:128::/64",
        ]);
        let nodes = preferred(&[
            "192.0.2.0/24",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "198.18.0.0/24",
            "fd00:192::/64",
            "fd00:198::/64",
        ]);
        let nodes = if nodes.intersection(&pods).is_empty() { nodes } else { pods.clone() };
        Self { taken, pods: Pool::new(&pods), nodes: Pool::new(&nodes) }
    }

    fn pods(&mut self) -> Vec<IpAddr> {
        self.pods.next(&mut self.taken)
    }

    fn nodes(&mut self) -> Vec<IpAddr> {
        self.nodes.next(&mut self.taken)
    }
}

/// Addresses a host can have.
fn unicast(family: Family) -> PrefixSet {
    let range = |low: [u8; 4], high: [u8; 4]| {
        (u32::from(Ipv4Addr::from(low)), u32::from(Ipv4Addr::from(high)))
    };
    match family {
        Family::V4 => PrefixSet::from_intervals(
            Intervals::from_ranges([
                range([1, 0, 0, 0], [126, 255, 255, 255]),
                range([128, 0, 0, 0], [169, 253, 255, 255]),
                range([169, 255, 0, 0], [223, 255, 255, 255]),
            ]),
            Intervals::default(),
        ),
        Family::V6 => PrefixSet::from_intervals(
            Intervals::default(),
            Intervals::range(0x2000_u128 << 112, (0xfe00_u128 << 112) - 1),
        ),
    }
}

/// Hands out addresses of a set in order, one of each family at a time.
struct Pool {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Pool {
    fn new(set: &PrefixSet) -> Self {
        // Reversed, so that the next range is the last. The first address of a range is the network's own: left out.
        let mut v4: Vec<_> =
            set.v4().iter().map(|(low, high)| (low.saturating_add(1), high)).collect();
        let mut v6: Vec<_> =
            set.v6().iter().map(|(low, high)| (low.saturating_add(1), high)).collect();
        v4.reverse();
        v6.reverse();
        Self { v4, v6 }
    }

    fn next(&mut self, taken: &mut BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let v4 = take(
            &mut self.v4,
            |low| low.checked_add(1),
            |point| IpAddr::V4(Ipv4Addr::from(point)),
            taken,
        );
        let v6 = take(
            &mut self.v6,
            |low| low.checked_add(1),
            |point| IpAddr::V6(Ipv6Addr::from(point)),
            taken,
        );
        v4.into_iter().chain(v6).collect()
    }
}

fn take<T: Copy + Ord>(
    ranges: &mut Vec<(T, T)>,
    after: impl Fn(T) -> Option<T>,
    address: impl Fn(T) -> IpAddr,
    taken: &mut BTreeSet<IpAddr>,
) -> Option<IpAddr> {
    loop {
        let (low, high) = ranges.last_mut()?;
        if *low > *high {
            ranges.pop();
            continue;
        }
        let candidate = address(*low);
        match after(*low) {
            Some(next) => *low = next,
            None => {
                ranges.pop();
            }
        }
        if taken.insert(candidate) {
            return Some(candidate);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::{AddressPlan, assign};
    use crate::model::{
        Cidr, Cluster, Field, IpBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule,
        ObjectMeta, ObjectRef, Pod, Position,
    };

    fn cluster(blocks: &[&str]) -> Cluster {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            let meta = ObjectMeta::new("x", name, Default::default());
            cluster.pods.insert(ObjectRef::new("x", name), Pod { meta, ..Pod::default() });
        }
        let block = |cidr: &&str| NetworkPolicyPeer {
            ip_block: Field::Given(IpBlock {
                cidr: Cidr::parse(cidr).unwrap(),
                except: vec![],
                position: Position::default(),
            }),
            ..NetworkPolicyPeer::default()
        };
        let peers = Field::Given(blocks.iter().map(block).collect());
        let rule = NetworkPolicyRule { peers, ..NetworkPolicyRule::default() };
        let meta = ObjectMeta::new("x", "p", Default::default());
        let policy =
            NetworkPolicy { meta, ingress: Field::Given(vec![rule]), ..NetworkPolicy::default() };
        cluster.network_policies.insert(ObjectRef::new("x", "p"), policy);
        cluster
    }

    #[test]
    fn stand_ins_lie_in_no_named_block_and_are_unique() {
        let blocks = ["10.0.0.0/8", "192.168.0.0/16", "0.0.0.0/0", "fd00::/8"];
        let mut cluster = cluster(&blocks);
        let assigned = assign(&mut cluster, &AddressPlan::default());
        assert_eq!(assigned.stand_ins.len(), 4);
        let partial = blocks
            .iter()
            .map(|text| Cidr::parse(text).unwrap())
            .filter(|cidr| cidr.net().prefix_len() > 0);
        for cidr in partial {
            assert!(assigned.stand_ins.iter().all(|address| !cidr.contains(*address)), "{cidr}");
        }
    }

    #[test]
    fn pods_get_addresses_even_if_policies_name_every_one() {
        let mut cluster = cluster(&["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]);
        assert_eq!(assign(&mut cluster, &AddressPlan::default()).stand_ins.len(), 4);
    }

    #[test]
    fn addresses_from_a_known_pod_network_are_no_stand_ins() {
        let mut cluster = cluster(&["10.9.0.0/16"]);
        let plan = AddressPlan {
            pod_networks: vec![Cidr::parse("10.9.0.0/24").unwrap()],
            nodes: vec!["n1".into(), "n2".into()],
            ..AddressPlan::default()
        };
        let assigned = assign(&mut cluster, &plan);
        assert!(assigned.stand_ins.is_empty());
        let (a, b) =
            (&cluster.pods[&ObjectRef::new("x", "a")], &cluster.pods[&ObjectRef::new("x", "b")]);
        assert_eq!(a.addresses, ["10.9.0.1".parse::<core::net::IpAddr>().unwrap()]);
        assert_eq!((a.node.as_deref(), b.node.as_deref()), (Some("n1"), Some("n2")));
        assert_eq!(cluster.nodes["n1"].addresses.len(), 2);
    }
}
