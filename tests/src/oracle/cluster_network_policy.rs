//! The Admin and Baseline tiers: policies by priority, rules in order, the first that matches decides.

use core::num::NonZeroU16;

use netpol_core::ir::{Direction, Transport, Verdict};
use netpol_core::model::{
    ClusterAction, ClusterDestination, ClusterNetworkPolicy, ClusterPort, ClusterRule,
    ClusterSubject, Field, LabelSelector, Labels, NamespacedPods, Pod, Tier,
};

use super::objects::{has_named_port, namespace_labels, namespace_of};
use super::selector::{Selects, holds, select, selects};
use super::{Traffic, Why};

/// `tier` of the reference algorithm; `None` is "no match" as well as Pass, both of which go on (CNP-020, CNP-021).
pub(super) fn tier(tier: Tier, subject: &Pod, traffic: Traffic<'_>) -> Option<(Verdict, Why)> {
    let mut policies: Vec<&ClusterNetworkPolicy> = Vec::new();
    policies.extend(traffic.cluster.cluster_network_policies.values().filter(|p| p.tier == tier));
    // CNP-004, DEC-12.
    policies
        .sort_by(|a, b| (a.priority, &a.meta.object.name).cmp(&(b.priority, &b.meta.object.name)));
    for policy in policies {
        if !is_subject(policy, subject, traffic) {
            continue;
        }
        let rules = match traffic.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        for (index, rule) in rules.iter().enumerate() {
            let why = || Why::ClusterRule(policy.meta.object.name.clone(), index);
            match outcome(rule, traffic) {
                Outcome::NoMatch => {}
                Outcome::Accept => return Some((Verdict::Allow, why())),
                Outcome::Deny => return Some((Verdict::Deny, why())),
                Outcome::Pass => return None,
            }
        }
    }
    None
}

/// CNP-010..CNP-013; a subject that cannot be read selects nothing.
fn is_subject(policy: &ClusterNetworkPolicy, pod: &Pod, traffic: Traffic<'_>) -> bool {
    let namespace = namespace_labels(traffic.cluster, namespace_of(pod));
    match &policy.subject {
        ClusterSubject::Namespaces(selector) => selects(selector, &namespace),
        ClusterSubject::Pods(both) => select_pod(both, pod, &namespace) == Selects::Yes,
        ClusterSubject::Unknown => false,
    }
}

/// CNP-011: no namespaceSelector is every namespace.
fn select_pod(both: &NamespacedPods, pod: &Pod, namespace: &Labels) -> Selects {
    let in_namespace = match &both.namespace_selector {
        Field::Absent | Field::Null => Selects::Yes,
        Field::Given(selector) => select(selector, namespace),
        Field::Unreadable => Selects::Unreadable,
    };
    match (in_namespace, select(&both.pod_selector, &pod.meta.labels)) {
        (Selects::Unreadable, _) | (_, Selects::Unreadable) => Selects::Unreadable,
        (Selects::Yes, Selects::Yes) => Selects::Yes,
        (Selects::No, _) | (_, Selects::No) => Selects::No,
    }
}

enum Outcome {
    NoMatch,
    Accept,
    Deny,
    Pass,
}

/// What one rule says: its action if a peer and a protocol entry match (CNP-022).
///
/// What is unknown fails closed. With an unknown peer, an Accept rule matches nothing, and a Deny or Pass rule denies
/// its whole direction (CNP-041). With an unknown protocol entry likewise, but the peers that are known still say whom
/// it is about.
fn outcome(rule: &ClusterRule, traffic: Traffic<'_>) -> Outcome {
    let closed = match rule.action {
        ClusterAction::Accept => Outcome::NoMatch,
        ClusterAction::Deny | ClusterAction::Pass => Outcome::Deny,
    };
    if rule.peers.iter().any(|peer| is_unknown(&peer.destination, rule.action, traffic.direction)) {
        return closed;
    }
    if !rule.peers.iter().any(|peer| peer_matches(&peer.destination, traffic)) {
        return Outcome::NoMatch;
    }
    let matches = match &rule.protocols {
        Field::Absent | Field::Null => true, // CNP-052
        Field::Unreadable => return closed,
        // An empty list cannot be written (VAL-C-04), so nobody knows what it means.
        Field::Given(ports) if ports.is_empty() || ports.contains(&ClusterPort::Unknown) => {
            return closed;
        }
        Field::Given(ports) => ports.iter().any(|port| port_matches(port, traffic)),
    };
    match (matches, rule.action) {
        (false, _) => Outcome::NoMatch,
        (true, ClusterAction::Accept) => Outcome::Accept,
        (true, ClusterAction::Deny) => Outcome::Deny,
        (true, ClusterAction::Pass) => Outcome::Pass,
    }
}

/// Whether a peer is of a kind this version does not know here, or cannot read.
fn is_unknown(peer: &ClusterDestination, action: ClusterAction, direction: Direction) -> bool {
    let unreadable =
        |selector: &LabelSelector| select(selector, &Labels::default()) == Selects::Unreadable;
    let egress = direction == Direction::Egress;
    match peer {
        ClusterDestination::Namespaces(selector) => unreadable(selector),
        ClusterDestination::Pods(both) => {
            unreadable(&both.pod_selector)
                || match &both.namespace_selector {
                    Field::Absent | Field::Null => false,
                    Field::Given(selector) => unreadable(selector),
                    Field::Unreadable => true,
                }
        }
        // CNP-040, CNP-042: ingress knows no such peers.
        ClusterDestination::Nodes(selector) => !egress || unreadable(selector),
        ClusterDestination::Networks(_) => !egress,
        // DEC-13: only Accept may name domains.
        ClusterDestination::DomainNames(_) => !egress || action != ClusterAction::Accept,
        ClusterDestination::Unknown => true,
    }
}

/// CNP-043..CNP-046.
fn peer_matches(peer: &ClusterDestination, traffic: Traffic<'_>) -> bool {
    match peer {
        ClusterDestination::Namespaces(selector) => traffic.peer_pod.is_some_and(|pod| {
            selects(selector, &namespace_labels(traffic.cluster, namespace_of(pod)))
        }),
        ClusterDestination::Pods(both) => traffic.peer_pod.is_some_and(|pod| {
            let namespace = namespace_labels(traffic.cluster, namespace_of(pod));
            select_pod(both, pod, &namespace) == Selects::Yes
        }),
        ClusterDestination::Nodes(selector) => traffic.cluster.nodes.values().any(|node| {
            selects(selector, &node.meta.labels) && node.addresses.contains(&traffic.peer)
        }),
        ClusterDestination::Networks(networks) => {
            networks.iter().any(|network| holds(*network, traffic.peer))
        }
        ClusterDestination::DomainNames(_) | ClusterDestination::Unknown => false,
    }
}

/// CNP-050..CNP-056. A protocol without ports matches no entry (CNP-052).
fn port_matches(entry: &ClusterPort, traffic: Traffic<'_>) -> bool {
    let Transport::Port(protocol, number) = traffic.transport else { return false };
    match entry {
        ClusterPort::Range(wanted, start, end) => {
            *wanted == protocol && start.get() <= number && number <= end.get()
        }
        // CNP-054: the name brings its protocol along.
        ClusterPort::Named(name) => match (traffic.destination_pod, NonZeroU16::new(number)) {
            (Some(pod), Some(number)) => has_named_port(pod, name, protocol, number),
            (Some(_) | None, Some(_) | None) => false,
        },
        ClusterPort::Unknown => false,
    }
}
