//! ClusterNetworkPolicies.

use alloc::format;
use alloc::vec::Vec;

use netpol_core::ir::Direction;
use netpol_core::model::{
    Cluster, ClusterAction, ClusterDestination, ClusterNetworkPolicy, ClusterPeer, ClusterPort,
    ClusterRule, ClusterSubject, Field, NamespacedPods, ObjectMeta, Position, Tier,
};

use super::vocabulary::{
    PORT_NAMES, cidr, is_odd, labels, namespace_selector, number, odd_field, protocol, range,
    selector,
};
use super::{Oddities, Random, Shape};

pub(super) fn policies(random: &mut Random, cluster: &mut Cluster, shape: Shape) {
    for index in
        0..random.between(shape.cluster_network_policies / 4, shape.cluster_network_policies)
    {
        let mut meta = ObjectMeta::new("", "", labels(random));
        // Names that sort against the order of creation.
        let letter = random.pick(["m", "a", "z"]);
        meta.object.name = format!("{letter}{index}").into();
        let policy = policy(random, meta, shape.oddities);
        cluster.cluster_network_policies.insert(policy.meta.object.name.clone(), policy);
    }
}

fn policy(random: &mut Random, meta: ObjectMeta, oddities: Oddities) -> ClusterNetworkPolicy {
    ClusterNetworkPolicy {
        meta,
        tier: random.pick([Tier::Admin, Tier::Baseline]),
        // Few numbers: ties are common (DEC-12).
        priority: random.pick([0, 10, 10, 1000]),
        subject: subject(random, oddities),
        ingress: rules(random, Direction::Ingress, oddities),
        egress: rules(random, Direction::Egress, oddities),
    }
}

fn subject(random: &mut Random, oddities: Oddities) -> ClusterSubject {
    if is_odd(random, oddities) {
        return ClusterSubject::Unknown;
    }
    if random.one_in(2) {
        ClusterSubject::Namespaces(namespace_selector(random, oddities))
    } else {
        ClusterSubject::Pods(pods(random, oddities))
    }
}

fn pods(random: &mut Random, oddities: Oddities) -> NamespacedPods {
    NamespacedPods {
        namespace_selector: odd_field(random, oddities, |random| {
            namespace_selector(random, oddities)
        }),
        pod_selector: selector(random, oddities),
    }
}

fn rules(random: &mut Random, direction: Direction, oddities: Oddities) -> Vec<ClusterRule> {
    (0..random.below(4))
        .map(|index| {
            let action = random.pick([
                ClusterAction::Accept,
                ClusterAction::Deny,
                ClusterAction::Deny,
                ClusterAction::Pass,
            ]);
            let peers: Vec<ClusterPeer> = (0..=random.below(3))
                .map(|_| ClusterPeer {
                    destination: destination(random, direction, action, oddities),
                    position: Position::default(),
                })
                .collect();
            let by_address = peers.iter().any(|peer| match peer.destination {
                ClusterDestination::Nodes(_)
                | ClusterDestination::Networks(_)
                | ClusterDestination::DomainNames(_) => true,
                ClusterDestination::Namespaces(_)
                | ClusterDestination::Pods(_)
                | ClusterDestination::Unknown => false,
            });
            ClusterRule {
                name: random.one_in(3).then(|| format!("rule-{index}").into()),
                action,
                peers,
                protocols: protocols(random, by_address, oddities),
                position: Position::default(),
            }
        })
        .collect()
}

fn destination(
    random: &mut Random,
    direction: Direction,
    action: ClusterAction,
    oddities: Oddities,
) -> ClusterDestination {
    if is_odd(random, oddities) {
        return match random.below(3) {
            0 => ClusterDestination::Unknown,
            // Under Deny and Pass too, which the CRD lets through (CNP-046).
            1 => ClusterDestination::DomainNames(["example.com".into()].into()),
            // In ingress too, where no address can be named (CNP-042).
            _ => ClusterDestination::Networks([cidr(random)].into()),
        };
    }
    let kinds = match direction {
        Direction::Ingress => 4,
        Direction::Egress => 10,
    };
    match random.below(kinds) {
        0 | 1 => ClusterDestination::Namespaces(namespace_selector(random, oddities)),
        2 | 3 => ClusterDestination::Pods(pods(random, oddities)),
        4 | 5 => ClusterDestination::Nodes(selector(random, oddities)),
        // DEC-13: domain names stand in Accept rules only.
        6 if action == ClusterAction::Accept && random.one_in(3) => {
            ClusterDestination::DomainNames(["example.com".into(), "*.example.org".into()].into())
        }
        _ => {
            let mut networks: Vec<_> = (0..=random.below(3)).map(|_| cidr(random)).collect();
            networks.sort_unstable();
            networks.dedup();
            random.shuffle(&mut networks);
            ClusterDestination::Networks(networks)
        }
    }
}

fn protocols(random: &mut Random, by_address: bool, oddities: Oddities) -> Field<Vec<ClusterPort>> {
    if is_odd(random, oddities) {
        return if random.one_in(2) { Field::Unreadable } else { Field::Given(Vec::new()) };
    }
    match random.below(6) {
        0 | 1 => Field::Absent,
        2 => Field::Null,
        _ => Field::Given(
            (0..=random.below(3)).map(|_| port(random, by_address, oddities)).collect(),
        ),
    }
}

fn port(random: &mut Random, by_address: bool, oddities: Oddities) -> ClusterPort {
    if is_odd(random, oddities) {
        return ClusterPort::Unknown;
    }
    // CNP-055: no name beside peers that are addresses.
    if !by_address && random.one_in(3) {
        return ClusterPort::Named(random.pick(PORT_NAMES).into());
    }
    let protocol = protocol(random);
    if random.one_in(2) {
        let number = number(random);
        return ClusterPort::Range(protocol, number, number);
    }
    let (start, end) = range(random);
    ClusterPort::Range(protocol, start, end)
}
