//! The NetworkPolicy tier: isolation, and the union of the rules.

use netpol_core::ir::{Direction, Transport};
use netpol_core::model::{
    Field, LabelSelector, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, ObjectRef, Pod,
    PolicyPort, PolicyPortNumber, PolicyType, Protocol,
};

use super::Traffic;
use super::objects::{has_named_port, namespace_labels, namespace_of};
use super::selector::{Selects, holds, select, selects};

/// Returns `None` if no policy selects the subject in this direction, else every rule that matches: the traffic is
/// allowed if there is one (NP-004, NP-005, NP-007).
pub(super) fn judge(subject: &Pod, traffic: Traffic<'_>) -> Option<Vec<(ObjectRef, usize)>> {
    let mut isolated = false;
    let mut matching = Vec::new();
    for policy in traffic.cluster.network_policies.values() {
        if policy.meta.object.namespace != *namespace_of(subject)
            || !isolates(policy, traffic.direction)
        {
            continue; // NP-001
        }
        let rules = match subject_selects(policy, subject) {
            Selects::No => continue,
            Selects::Yes => rules(policy, traffic.direction),
            // DEC-16: isolation stays, whoever the rules were meant for.
            Selects::Unreadable => &[],
        };
        isolated = true;
        for (index, rule) in rules.iter().enumerate() {
            if rule_matches(policy, rule, traffic) {
                matching.push((policy.meta.object.clone(), index));
            }
        }
    }
    isolated.then_some(matching)
}

/// NP-002.
fn subject_selects(policy: &NetworkPolicy, pod: &Pod) -> Selects {
    match &policy.pod_selector {
        Field::Absent | Field::Null => Selects::Yes,
        Field::Given(selector) => select(selector, &pod.meta.labels),
        Field::Unreadable => Selects::Unreadable,
    }
}

/// Whether the policy's effective types contain the direction (NP-020..NP-023).
fn isolates(policy: &NetworkPolicy, direction: Direction) -> bool {
    let wanted = match direction {
        Direction::Ingress => PolicyType::Ingress,
        Direction::Egress => PolicyType::Egress,
    };
    let listed = match &policy.policy_types {
        Field::Absent | Field::Null => &[][..],
        Field::Given(types) => types,
        Field::Unreadable => return true, // DEC-16
    };
    if !listed.is_empty() {
        return listed.contains(&wanted);
    }
    let has_egress_rules = match &policy.egress {
        Field::Absent | Field::Null => false,
        Field::Given(rules) => !rules.is_empty(),
        Field::Unreadable => true,
    };
    match direction {
        Direction::Ingress => true,
        Direction::Egress => has_egress_rules,
    }
}

/// NP-030: absent, null and empty alike hold no rule.
fn rules(policy: &NetworkPolicy, direction: Direction) -> &[NetworkPolicyRule] {
    let field = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    match field {
        Field::Given(rules) => rules,
        Field::Absent | Field::Null | Field::Unreadable => &[],
    }
}

/// NP-008: a peer AND a port.
fn rule_matches(policy: &NetworkPolicy, rule: &NetworkPolicyRule, traffic: Traffic<'_>) -> bool {
    let peer_matches = match &rule.peers {
        Field::Absent | Field::Null => true, // NP-032
        Field::Given(peers) => {
            peers.is_empty() || peers.iter().any(|peer| peer_matches(policy, peer, traffic))
        }
        Field::Unreadable => false,
    };
    let port_matches = match &rule.ports {
        Field::Absent | Field::Null => true, // NP-081
        Field::Given(ports) => {
            ports.is_empty() || ports.iter().any(|port| port_matches(port, traffic))
        }
        Field::Unreadable => false,
    };
    peer_matches && port_matches
}

/// One of the four kinds of peers, or none this version knows (NP-050..NP-056, NP-060, NP-065).
fn peer_matches(policy: &NetworkPolicy, peer: &NetworkPolicyPeer, traffic: Traffic<'_>) -> bool {
    enum Part<'a, T> {
        NotGiven,
        Given(&'a T),
    }
    fn part<T>(field: &Field<T>) -> Option<Part<'_, T>> {
        match field {
            Field::Absent | Field::Null => Some(Part::NotGiven),
            Field::Given(value) => Some(Part::Given(value)),
            Field::Unreadable => None,
        }
    }
    let (Some(pods), Some(namespaces), Some(block)) =
        (part(&peer.pod_selector), part(&peer.namespace_selector), part(&peer.ip_block))
    else {
        return false;
    };
    let own_namespace = |pod: &Pod| *namespace_of(pod) == policy.meta.object.namespace;
    let in_namespaces = |selector: &LabelSelector, pod: &Pod| {
        selects(selector, &namespace_labels(traffic.cluster, namespace_of(pod)))
    };
    match (pods, namespaces, block) {
        (Part::Given(pods), Part::NotGiven, Part::NotGiven) => traffic
            .peer_pod
            .is_some_and(|pod| own_namespace(pod) && selects(pods, &pod.meta.labels)),
        (Part::NotGiven, Part::Given(namespaces), Part::NotGiven) => {
            traffic.peer_pod.is_some_and(|pod| in_namespaces(namespaces, pod))
        }
        (Part::Given(pods), Part::Given(namespaces), Part::NotGiven) => traffic
            .peer_pod
            .is_some_and(|pod| in_namespaces(namespaces, pod) && selects(pods, &pod.meta.labels)),
        (Part::NotGiven, Part::NotGiven, Part::Given(block)) => {
            holds(block.cidr, traffic.peer)
                && !block.except.iter().any(|except| holds(*except, traffic.peer))
        }
        (Part::NotGiven, Part::NotGiven, Part::NotGiven)
        | (Part::Given(_), _, Part::Given(_))
        | (_, Part::Given(_), Part::Given(_)) => false,
    }
}

/// NP-082..NP-094. A protocol without ports matches no entry.
fn port_matches(entry: &PolicyPort, traffic: Traffic<'_>) -> bool {
    let Transport::Port(protocol, number) = traffic.transport else { return false };
    let wanted = match entry.protocol {
        Field::Absent | Field::Null => Protocol::Tcp, // NP-083
        Field::Given(wanted) => wanted,
        Field::Unreadable => return false,
    };
    if wanted != protocol {
        return false;
    }
    match &entry.port {
        Field::Absent | Field::Null => true, // NP-084
        Field::Unreadable => false,
        Field::Given(PolicyPortNumber::Number(port)) => port.get() == number,
        Field::Given(PolicyPortNumber::Range(port, end)) => {
            port.get() <= number && number <= end.get()
        }
        Field::Given(PolicyPortNumber::Name(name)) => {
            // NP-086..NP-090: on the destination pod, whoever the peer is; an external destination has no names.
            match (traffic.destination_pod, core::num::NonZeroU16::new(number)) {
                (Some(pod), Some(number)) => has_named_port(pod, name.as_str(), protocol, number),
                (Some(_) | None, Some(_) | None) => false,
            }
        }
    }
}
