//! Random rulesets over a small world where everything overlaps.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test support")]

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::net::IpAddr;

use netpol_core::ir::{
    Action, Direction, Endpoint, NamespaceScope, OtherProtocols, OwnNodeEgress, Parts,
    PeerSelector, PeerSet, PeerSetId, Peers, Pipeline, PolicyKind, PolicyRef, Ports, Rule,
    RuleBlock, Ruleset, Scope, Selector, SelectorRequirement, Settings,
};
use netpol_core::model::{Cidr, ObjectRef, Operator, Protocol};
use netpol_core::net::{PortSet, PrefixSet};
use proptest::prelude::*;

pub(crate) const NODES: [(&str, [&str; 2]); 2] =
    [("n1", ["192.168.0.1", "fd01::1"]), ("n2", ["192.168.0.2", "fd01::2"])];
/// Addresses of pods of the scope; then of others.
pub(crate) const PODS: [[&str; 2]; 6] = [
    ["10.0.0.1", "fd00::1"],
    ["10.0.0.2", "fd00::2"],
    ["10.0.0.3", "fd00::3"],
    ["10.0.1.4", "fd00::1:4"],
    ["10.0.1.5", "fd00::1:5"],
    ["10.0.1.6", "fd00::1:6"],
];
pub(crate) const OUTSIDE: [&str; 8] = [
    "10.0.9.9",
    "fd00::9:9",
    "1.1.1.1",
    "255.255.255.255",
    "0.0.0.0",
    "2001:db8::1",
    "::",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];
const NETWORKS: [&str; 14] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.1.0/24",
    "10.0.0.2/32",
    "10.0.0.0/31",
    "192.168.0.0/16",
    "128.0.0.0/1",
    "fd00::/16",
    "fd00::/112",
    "fd00::1:0/112",
    "fd00::2/128",
    "8000::/1",
];
pub(crate) const EDGES: [u16; 10] = [0, 1, 53, 79, 80, 81, 443, 8080, 65534, 65535];

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn addresses() -> Vec<IpAddr> {
    let nodes = NODES.iter().flat_map(|(_, addresses)| addresses);
    PODS.iter().flatten().chain(nodes).chain(&OUTSIDE).map(|text| address(text)).collect()
}

fn networks() -> impl Strategy<Value = PrefixSet> {
    let cidrs = || {
        proptest::collection::vec(proptest::sample::select(&NETWORKS), 0..4).prop_map(|texts| {
            let cidrs: Vec<Cidr> = texts.iter().map(|text| Cidr::parse(text).unwrap()).collect();
            PrefixSet::from_cidrs(&cidrs)
        })
    };
    (cidrs(), cidrs()).prop_map(|(base, except)| base.difference(&except))
}

pub(crate) fn pods_selector(label: &str) -> PeerSelector {
    let requirement =
        SelectorRequirement { key: label.into(), operator: Operator::Exists, values: Vec::new() };
    PeerSelector::Pods {
        namespaces: NamespaceScope::One("default".into()),
        pods: Selector::new([requirement]),
        port: None,
    }
}

/// Random peer sets: eight of pods, six of networks.
pub(crate) fn peer_sets() -> impl Strategy<Value = Vec<PeerSet>> {
    let members = proptest::collection::vec(proptest::sample::select(addresses()), 0..6);
    let pods = proptest::collection::vec(members, 8).prop_map(|sets| {
        let set = |(index, members): (usize, Vec<IpAddr>)| PeerSet {
            selector: pods_selector(&format!("label{index}")),
            addresses: members.into_iter().collect(),
            networks: PrefixSet::default(),
        };
        sets.into_iter().enumerate().map(set).collect::<Vec<_>>()
    });
    let blocks = proptest::collection::vec(networks(), 6).prop_map(|networks| {
        networks.into_iter().map(|networks| PeerSet {
            selector: PeerSelector::Networks(networks.clone()),
            addresses: core::iter::empty().collect(),
            networks,
        })
    });
    (pods, blocks).prop_map(|(pods, blocks)| pods.into_iter().chain(blocks).collect())
}

fn ports() -> impl Strategy<Value = Ports> {
    let edge = || proptest::sample::select(&EDGES);
    let range = (proptest::sample::select(&Protocol::ALL), edge(), edge(), any::<bool>()).prop_map(
        |(protocol, a, b, single)| (protocol, a.min(b), if single { a.min(b) } else { a.max(b) }),
    );
    prop_oneof![
        1 => Just(Ports::Any),
        4 => proptest::collection::vec(range, 1..4)
            .prop_map(|ranges| Ports::Set(Arc::new(PortSet::from_ranges(ranges)))),
    ]
}

/// A rule as indexes: action, which peer set (none: anybody), ports.
type RawRule = (Action, Option<usize>, Ports);

fn raw_rules(size: usize) -> impl Strategy<Value = Vec<RawRule>> {
    let action = prop_oneof![Just(Action::Accept), Just(Action::Deny), Just(Action::Pass)];
    let peers = prop_oneof![1 => Just(None), 6 => (0..14_usize).prop_map(Some)];
    proptest::collection::vec((action, peers, ports()), 0..size)
}

type RawPipeline = (Vec<RawRule>, Option<Vec<RawRule>>, Vec<RawRule>);

fn raw_pipeline() -> impl Strategy<Value = RawPipeline> {
    // Mostly short, sometimes long enough for every threshold of the lowering.
    let size = prop_oneof![3 => Just(4_usize), 1 => Just(16)];
    size.prop_flat_map(|size| {
        (raw_rules(size), proptest::option::of(raw_rules(size * 2)), raw_rules(size))
    })
}

fn block(
    kind: PolicyKind,
    name: &str,
    direction: Direction,
    rules: Vec<RawRule>,
    sets: &[PeerSet],
) -> Arc<RuleBlock> {
    let object = match kind {
        PolicyKind::ClusterNetworkPolicy => ObjectRef::cluster_scoped(name),
        PolicyKind::NetworkPolicy => ObjectRef::new("default", name),
    };
    let policy = Arc::new(PolicyRef { kind, object, uid: None });
    let rules = rules.into_iter().zip(0..).map(|((action, set, ports), index)| Rule {
        rule: index,
        peer: set.map(|_| 0),
        action: if kind == PolicyKind::NetworkPolicy { Action::Accept } else { action },
        peers: set.map_or(Peers::Any, |set| Peers::Set(sets[set].id())),
        ports,
    });
    Arc::new(RuleBlock::new(policy, direction, rules.collect()))
}

fn pipeline(direction: Direction, raw: RawPipeline, sets: &[PeerSet]) -> Pipeline {
    let (admin, isolated, baseline) = raw;
    let ordered = |name: &str, rules: Vec<RawRule>| {
        let (head, tail) = rules.split_at(rules.len() / 2);
        [("a", head), ("b", tail)]
            .into_iter()
            .filter(|(_, rules)| !rules.is_empty())
            .map(|(suffix, rules)| {
                let name = format!("{name}-{suffix}");
                block(PolicyKind::ClusterNetworkPolicy, &name, direction, rules.to_vec(), sets)
            })
            .collect()
    };
    Pipeline {
        direction,
        admin: ordered("admin", admin),
        network_policy: isolated.map(|rules| {
            let (head, tail) = rules.split_at(rules.len() / 2);
            [("a", head), ("b", tail)]
                .map(|(name, rules)| {
                    block(PolicyKind::NetworkPolicy, name, direction, rules.to_vec(), sets)
                })
                .into()
        }),
        baseline: ordered("baseline", baseline),
    }
}

/// Random rulesets of one node, or of the cluster of two, over the same peer sets.
pub(crate) fn rulesets_over(sets: Vec<PeerSet>) -> impl Strategy<Value = Ruleset> {
    let pipelines = || proptest::collection::vec(raw_pipeline(), 3);
    let settings = (any::<bool>(), any::<bool>()).prop_map(|(node, other)| Settings {
        own_node_egress: if node { OwnNodeEgress::Allow } else { OwnNodeEgress::Enforce },
        other_protocols: if other { OtherProtocols::Judge } else { OtherProtocols::Pass },
    });
    let choice = proptest::collection::vec((0..4_usize, 0..4_usize), 6);
    let strict = prop_oneof![3 => Just(PrefixSet::default()), 2 => networks()];
    (pipelines(), pipelines(), choice, settings, any::<bool>(), strict).prop_map(
        move |(ingress, egress, choice, settings, cluster, pod_ranges)| {
            let make = |direction, raw: Vec<RawPipeline>| {
                raw.into_iter()
                    .map(|raw| pipeline(direction, raw, &sets))
                    .chain([Pipeline::open(direction)])
                    .collect::<Vec<_>>()
            };
            let (ingress, egress) =
                (make(Direction::Ingress, ingress), make(Direction::Egress, egress));
            let count = if cluster { 6 } else { 3 };
            let pods = (0..count).map(|index| {
                let (one, two) = choice[index];
                pod(index, &ingress[one], &egress[two])
            });
            let parts = Parts {
                scope: if cluster { Scope::Cluster } else { Scope::Node("n1".into()) },
                settings,
                pod_ranges,
                ..Parts::default()
            };
            assemble(parts, pods.collect(), sets.clone())
        },
    )
}

/// One pod of the small world with its pipelines. The first three are on the first node.
pub(crate) fn pod(
    index: usize,
    ingress: &Pipeline,
    egress: &Pipeline,
) -> (Endpoint, [Pipeline; 2]) {
    let endpoint = Endpoint {
        pod: ObjectRef::new("default", &format!("pod{index}")),
        node: Some(NODES[index / 3].0.into()),
        addresses: PODS[index].map(address).to_vec(),
        ingress: ingress.id(),
        egress: egress.id(),
    };
    (endpoint, [ingress.clone(), egress.clone()])
}

/// Puts a ruleset together from what is used.
pub(crate) fn assemble(
    mut parts: Parts,
    pods: Vec<(Endpoint, [Pipeline; 2])>,
    sets: Vec<PeerSet>,
) -> Ruleset {
    let sets: BTreeMap<PeerSetId, Arc<PeerSet>> =
        sets.into_iter().map(|set| (set.id(), Arc::new(set))).collect();
    for (name, addresses) in NODES {
        if parts.scope == Scope::Cluster || parts.scope == Scope::Node(name.into()) {
            parts.nodes.insert(name.into(), addresses.map(address).to_vec());
        }
    }
    for (endpoint, pipelines) in pods {
        parts.endpoints.push(endpoint);
        for pipeline in pipelines {
            for (_, rule) in pipeline.rules() {
                if let Peers::Set(id) = rule.peers {
                    parts.peer_sets.insert(id, sets[&id].clone());
                }
            }
            parts.pipelines.insert(pipeline.id(), Arc::new(pipeline));
        }
    }
    let ruleset = Ruleset::new(parts);
    assert_eq!(netpol_core::ir::verify(&ruleset), [], "the generator makes valid rulesets");
    ruleset
}
