//! From an origin back to the object, and to the line it was written on.

use core::fmt;
use core::net::IpAddr;

use crate::ir::{Action, Direction, Origin, PolicyKind, PolicyRef, RuleBlock};
use crate::model::{
    Cluster, ClusterAction, ClusterNetworkPolicy, ClusterRule, NetworkPolicy, NetworkPolicyRule,
    Pod, Position, Source,
};

/// Where something was written, as far as that is known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a file and a position in it")]
pub struct Place {
    /// The file, and where the object begins.
    pub source: Source,
    /// The rule or peer itself.
    pub position: Position,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source.file {
            Some(file) if self.position.is_known() => write!(f, "{file}:{}", self.position),
            Some(_) | None => fmt::Display::fmt(&self.source, f),
        }
    }
}

/// Returns where a rule's peer, or else the rule, or else the policy was written.
#[must_use]
pub fn place(cluster: &Cluster, origin: &Origin) -> Place {
    let rule = origin.rule as usize;
    let peer = origin.peer.map(|peer| peer as usize);
    let mut place = policy(cluster, &origin.policy);
    let position = match origin.policy.kind {
        PolicyKind::NetworkPolicy => network_policy(cluster, &origin.policy).and_then(|policy| {
            let rule = network_policy_rules(policy, origin.direction).get(rule)?;
            let peer = peer.and_then(|peer| rule.peers.given()?.get(peer));
            Some(peer.map_or(rule.position, |peer| peer.position))
        }),
        PolicyKind::ClusterNetworkPolicy => cluster_network_policy(cluster, &origin.policy)
            .and_then(|policy| {
                let rule = cluster_rules(policy, origin.direction).get(rule)?;
                let peer = peer.and_then(|peer| rule.peers.get(peer));
                Some(peer.map_or(rule.position, |peer| peer.position))
            }),
    };
    place.position = position.filter(|position| position.is_known()).unwrap_or(place.position);
    place
}

/// Returns where a policy was written.
pub(super) fn policy(cluster: &Cluster, policy: &PolicyRef) -> Place {
    let source = match policy.kind {
        PolicyKind::NetworkPolicy => {
            network_policy(cluster, policy).map(|policy| policy.meta.source.clone())
        }
        PolicyKind::ClusterNetworkPolicy => {
            cluster_network_policy(cluster, policy).map(|policy| policy.meta.source.clone())
        }
    };
    let source = source.unwrap_or_default();
    Place { position: source.position, source }
}

/// Returns how many rules the object behind a block has.
pub(super) fn rule_count(cluster: &Cluster, block: &RuleBlock) -> u32 {
    let count = match block.policy().kind {
        PolicyKind::NetworkPolicy => network_policy(cluster, block.policy())
            .map_or(0, |policy| network_policy_rules(policy, block.direction()).len()),
        PolicyKind::ClusterNetworkPolicy => cluster_network_policy(cluster, block.policy())
            .map_or(0, |policy| cluster_rules(policy, block.direction()).len()),
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Returns what the rule behind an origin does: NetworkPolicy rules accept (NP-005).
pub(super) fn action(cluster: &Cluster, origin: &Origin) -> Action {
    let rule = || {
        let policy = cluster_network_policy(cluster, &origin.policy)?;
        cluster_rules(policy, origin.direction).get(origin.rule as usize)
    };
    match origin.policy.kind {
        PolicyKind::NetworkPolicy => Action::Accept,
        PolicyKind::ClusterNetworkPolicy => {
            rule().map_or(Action::Accept, |rule| match rule.action {
                ClusterAction::Accept => Action::Accept,
                ClusterAction::Deny => Action::Deny,
                ClusterAction::Pass => Action::Pass,
            })
        }
    }
}

pub(super) fn network_policy<'a>(
    cluster: &'a Cluster,
    policy: &PolicyRef,
) -> Option<&'a NetworkPolicy> {
    cluster.network_policies.get(&policy.object)
}

fn cluster_network_policy<'a>(
    cluster: &'a Cluster,
    policy: &PolicyRef,
) -> Option<&'a ClusterNetworkPolicy> {
    cluster.cluster_network_policies.get(&policy.object.name)
}

pub(super) fn network_policy_rules(
    policy: &NetworkPolicy,
    direction: Direction,
) -> &[NetworkPolicyRule] {
    let rules = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    rules.given().map(alloc::vec::Vec::as_slice).unwrap_or_default()
}

fn cluster_rules(policy: &ClusterNetworkPolicy, direction: Direction) -> &[ClusterRule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// Returns a policed pod with that address.
pub(super) fn pod_with(cluster: &Cluster, address: IpAddr) -> Option<&Pod> {
    cluster.pods.values().find(|pod| pod.is_policed() && pod.addresses.contains(&address))
}
