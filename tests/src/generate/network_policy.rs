//! NetworkPolicies.

use alloc::format;
use alloc::vec::Vec;

use netpol_core::model::{
    Cluster, Field, IpBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, ObjectMeta,
    PolicyPort, PolicyPortNumber, PolicyType, PortName, Position, Protocol,
};

use super::vocabulary::{
    PORT_NAMES, cidr, field, inside, is_odd, labels, namespace_selector, number, odd_field,
    protocol, range, selector,
};
use super::{Oddities, Random, Shape};

pub(super) fn policies(
    random: &mut Random,
    cluster: &mut Cluster,
    namespaces: &[&str],
    shape: Shape,
) {
    for index in 0..random.between(shape.network_policies / 4, shape.network_policies) {
        let Some(namespace) = random.pick_from(namespaces) else { return };
        let meta = ObjectMeta::new(namespace, &format!("p{index}"), labels(random));
        let policy = policy(random, meta, shape.oddities);
        cluster.network_policies.insert(policy.meta.object.clone(), policy);
    }
}

fn policy(random: &mut Random, meta: ObjectMeta, oddities: Oddities) -> NetworkPolicy {
    NetworkPolicy {
        meta,
        pod_selector: odd_field(random, oddities, |random| selector(random, oddities)),
        policy_types: types(random, oddities),
        ingress: odd_field(random, oddities, |random| rules(random, oddities)),
        egress: odd_field(random, oddities, |random| rules(random, oddities)),
    }
}

fn types(random: &mut Random, oddities: Oddities) -> Field<Vec<PolicyType>> {
    use PolicyType::{Egress, Ingress};
    if is_odd(random, oddities) {
        return Field::Unreadable;
    }
    match random.below(9) {
        0 => Field::Absent,
        1 => Field::Null,
        2 => Field::Given(Vec::new()),
        3 | 4 => Field::Given([Ingress].into()),
        5 | 6 => Field::Given([Egress].into()),
        7 => Field::Given([Ingress, Ingress].into()),
        _ => Field::Given([Egress, Ingress].into()),
    }
}

fn rules(random: &mut Random, oddities: Oddities) -> Vec<NetworkPolicyRule> {
    (0..random.below(4))
        .map(|_| NetworkPolicyRule {
            peers: odd_field(random, oddities, |random| {
                (0..random.below(4)).map(|_| peer(random, oddities)).collect()
            }),
            ports: odd_field(random, oddities, |random| {
                (0..random.below(4)).map(|_| port(random, oddities)).collect()
            }),
            position: Position::default(),
        })
        .collect()
}

fn peer(random: &mut Random, oddities: Oddities) -> NetworkPolicyPeer {
    let mut peer = NetworkPolicyPeer::default();
    let unset = |random: &mut Random| random.one_in(3);
    match random.below(8) {
        0 | 1 => peer.pod_selector = Field::Given(selector(random, oddities)),
        2 | 3 => {
            peer.namespace_selector = Field::Given(namespace_selector(random, oddities));
        }
        4 => {
            peer.namespace_selector = Field::Given(namespace_selector(random, oddities));
            peer.pod_selector = Field::Given(selector(random, oddities));
        }
        _ => peer.ip_block = Field::Given(ip_block(random, oddities)),
    }
    if peer.pod_selector.is_unset() && unset(random) {
        peer.pod_selector = Field::Null;
    }
    if peer.namespace_selector.is_unset() && unset(random) {
        peer.namespace_selector = Field::Null;
    }
    if is_odd(random, oddities) {
        match random.below(4) {
            0 => peer = NetworkPolicyPeer::default(),
            1 => peer.pod_selector = Field::Unreadable,
            2 => peer.ip_block = Field::Unreadable,
            _ => {
                peer.ip_block = Field::Given(ip_block(random, oddities));
                peer.pod_selector = Field::Given(selector(random, oddities));
            }
        }
    }
    peer
}

fn ip_block(random: &mut Random, oddities: Oddities) -> IpBlock {
    let cidr = cidr(random);
    let mut except: Vec<_> = (0..random.below(4)).filter_map(|_| inside(random, cidr)).collect();
    if is_odd(random, oddities) {
        // Old objects may hold what is rejected today: equal, wider, disjoint, of the other family (NP-070).
        except.push(super::vocabulary::cidr(random));
    }
    IpBlock { cidr, except, position: Position::default() }
}

fn port(random: &mut Random, oddities: Oddities) -> PolicyPort {
    let mut entry = PolicyPort {
        protocol: field(random, protocol),
        port: field(random, |random| match random.below(6) {
            0 | 1 => name(random)
                .map_or(PolicyPortNumber::Number(number(random)), PolicyPortNumber::Name),
            2 | 3 => {
                let (start, end) = range(random);
                PolicyPortNumber::Range(start, end)
            }
            _ => PolicyPortNumber::Number(number(random)),
        }),
        position: Position::default(),
    };
    if is_odd(random, oddities) {
        match random.below(3) {
            0 => entry.protocol = Field::Unreadable,
            1 => entry.port = Field::Unreadable,
            _ => {
                let (start, end) = range(random);
                entry.protocol = Field::Given(Protocol::Tcp);
                entry.port = Field::Given(PolicyPortNumber::Range(end, start));
            }
        }
    }
    entry
}

fn name(random: &mut Random) -> Option<PortName> {
    PortName::try_new(random.pick(PORT_NAMES)).ok()
}
