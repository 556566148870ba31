//! What a verdict hangs on that manifests do not say: addresses, nodes, DNS names (OFF-006, OFF-007).
//!
//! Each doubt is tested by judging again under the other assumption; only a verdict that would change is doubtful.

use netpol_core::ir::{
    Direction, PeerSelector, Peers, Rule, Situation, Transport, Verdict, decide,
    depends_on_unknown_address,
};
use netpol_core::model::{
    ClusterDestination, ClusterNetworkPolicy, ClusterPort, ClusterRule, ClusterSubject, Field, Pod,
    Tier,
};

use super::{Case, EndKind, Judge};

pub(super) fn doubts(judge: &Judge<'_>, case: &Case) -> Vec<String> {
    let mut doubts = Vec::new();
    for direction in [Direction::Egress, Direction::Ingress] {
        // A doubt on one side does not matter where the other denies for certain; it is told all the same unless it
        // cannot change the whole verdict.
        let other = match direction {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        };
        let found = side_doubts(judge, case, direction);
        if case.side(other).verdict == Verdict::Allow || !side_doubts(judge, case, other).is_empty()
        {
            doubts.extend(found);
        }
    }
    doubts
}

fn side_doubts(judge: &Judge<'_>, case: &Case, direction: Direction) -> Vec<String> {
    let mut doubts = Vec::new();
    let (subject, peer) = (case.subject(direction), case.peer(direction));
    let name = match &peer.kind {
        EndKind::Address => peer.address.to_string(),
        EndKind::Node(name) => format!("node {name}"),
        EndKind::Pod(pod) => format!("pod {pod}"),
    };
    if peer.stand_in && depends_on_unknown_address(judge.ruleset, &case.flow, direction) {
        doubts.push(format!(
            "{direction}: hangs on the address of {name}, which the manifests do not give (OFF-006)"
        ));
    }
    let Some(endpoint) = judge.ruleset.owner(subject.address) else { return doubts };
    if judge.ruleset.owner(peer.address).is_some() {
        return doubts; // A pod is no node and no DNS name.
    }
    let verdict = case.side(direction).verdict;
    let peer_pod = match &peer.kind {
        EndKind::Pod(pod) => judge.input.cluster.pods.get(pod),
        EndKind::Address | EndKind::Node(_) => None,
    };
    let on_host = peer_pod.is_some_and(|pod| pod.host_network);
    let is_node_address =
        judge.input.cluster.nodes.values().any(|node| node.addresses.contains(&peer.address));
    let placed = match &peer.kind {
        EndKind::Pod(_) => {
            peer_pod.is_some_and(|pod| pod.node.is_some()) && endpoint.node.is_some()
        }
        EndKind::Address | EndKind::Node(_) => endpoint.node.is_some(),
    };
    if (is_node_address || on_host)
        && !placed
        && side_with(judge, case, direction, Situation::OwnNode, NodePeers::AsKnown)
            != Some(verdict)
    {
        doubts.push(format!(
            "{direction}: hangs on whether {name} is on the same node as pod {}, which the manifests do not say (NP-125)",
            endpoint.pod
        ));
    }
    if direction == Direction::Egress {
        let unknown_nodes = judge.input.declared_nodes == 0 || (on_host && !placed);
        let situation = Situation::Ordinary;
        if unknown_nodes
            && side_with(judge, case, direction, situation, NodePeers::Match)
                != side_with(judge, case, direction, situation, NodePeers::AsKnown)
        {
            doubts.push(format!(
                "{direction}: hangs on whether {name} is a node; the manifests declare none (OFF-007)"
            ));
        }
        let pod = judge.input.cluster.pods.get(&endpoint.pod);
        if let Some(policy) = pod.and_then(|pod| domain_rule(judge, case, pod)) {
            doubts.push(format!(
                "{direction}: hangs on the DNS names in ClusterNetworkPolicy {policy}, whose addresses are unknown here \
                 (OFF-007)"
            ));
        }
    }
    doubts
}

/// How `nodes` peers are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NodePeers {
    AsKnown,
    Match,
}

/// Judges one side under an assumption; `None` where no policed pod is at that end.
fn side_with(
    judge: &Judge<'_>,
    case: &Case,
    direction: Direction,
    situation: Situation,
    nodes: NodePeers,
) -> Option<Verdict> {
    let ruleset = judge.ruleset;
    let peer = case.peer(direction).address;
    let endpoint = ruleset.owner(case.subject(direction).address)?;
    let pipeline = ruleset.pipeline(endpoint.pipeline(direction))?;
    let is_nodes = |rule: &Rule| match rule.peers {
        Peers::Any => false,
        Peers::Set(id) => {
            ruleset.peer_set(id).is_some_and(|set| matches!(set.selector, PeerSelector::Nodes(_)))
        }
    };
    let decision = decide(pipeline, situation, ruleset.settings(), |rule| {
        ruleset.rule_matches(rule, peer, case.flow.transport)
            || (nodes == NodePeers::Match
                && is_nodes(rule)
                && rule.ports.contains(case.flow.transport))
    });
    Some(decision.verdict)
}

/// Returns the policy whose `domainNames` might allow what is denied. Such rules only accept (DEC-13) and are not in the
/// ruleset (CNP-046), so they matter where the egress side denies, at or after the place where they would stand.
fn domain_rule<'a>(judge: &Judge<'a>, case: &Case, pod: &Pod) -> Option<&'a str> {
    let side = case.side(Direction::Egress);
    if side.verdict == Verdict::Allow {
        return None;
    }
    let policies = &judge.input.cluster.cluster_network_policies;
    let decided = side.reason.origin().and_then(|origin| {
        let policy = policies.get(&origin.policy.object.name)?;
        Some((rank(policy), origin.rule))
    });
    let stands_before = |policy: &ClusterNetworkPolicy, rule: u32| match decided {
        Some(decided) => (rank(policy), rule) < decided,
        // Denied by isolation: only the Admin tier comes before.
        None => policy.tier == Tier::Admin,
    };
    let counts = |policy: &&ClusterNetworkPolicy| {
        (0_u32..).zip(&policy.egress).any(|(index, rule)| {
            let names = rule
                .peers
                .iter()
                .any(|peer| matches!(peer.destination, ClusterDestination::DomainNames(_)));
            names && takes(rule, case.flow.transport) && stands_before(policy, index)
        })
    };
    let selects = |policy: &&ClusterNetworkPolicy| subject_is(judge, policy, pod);
    let policy = policies.values().filter(counts).find(selects)?;
    Some(&policy.meta.object.name)
}

/// The order of ClusterNetworkPolicies: tier, priority, name (DEC-12).
fn rank(policy: &ClusterNetworkPolicy) -> (Tier, u16, &str) {
    (policy.tier, policy.priority, &policy.meta.object.name)
}

fn subject_is(judge: &Judge<'_>, policy: &ClusterNetworkPolicy, pod: &Pod) -> bool {
    let namespace = judge.input.cluster.namespaces.get(&pod.meta.object.namespace);
    let Some(namespace) = namespace.map(|namespace| &namespace.meta.labels) else { return false };
    match &policy.subject {
        ClusterSubject::Namespaces(selector) => selector.matches(namespace),
        ClusterSubject::Pods(pods) => {
            let in_namespace = match &pods.namespace_selector {
                Field::Absent | Field::Null => true,
                Field::Given(selector) => selector.matches(namespace),
                Field::Unreadable => false,
            };
            in_namespace && pods.pod_selector.matches(&pod.meta.labels)
        }
        ClusterSubject::Unknown => false,
    }
}

/// Returns whether a rule over DNS names speaks of this protocol and port; names of ports cannot stand there (VAL-C-09).
fn takes(rule: &ClusterRule, transport: Transport) -> bool {
    match (&rule.protocols, transport) {
        (Field::Absent | Field::Null, _) => true,
        (Field::Given(ports), Transport::Port(protocol, number)) => {
            ports.iter().any(|port| match port {
                ClusterPort::Range(own, low, high) => {
                    *own == protocol && (low.get()..=high.get()).contains(&number)
                }
                ClusterPort::Named(_) | ClusterPort::Unknown => false,
            })
        }
        (Field::Given(_), Transport::Other(_)) | (Field::Unreadable, _) => false,
    }
}
