//! What keeps a rule from matching.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::places;
use crate::ir::{
    NamespaceScope, Origin, PeerSelector, Peers, PolicyKind, Ports, ResolvedPort, Rule, Ruleset,
    Selector, Transport,
};
use crate::model::{Cidr, Cluster, Labels, Namespace, PeerKind, Pod};
use crate::net::{PortSet, PrefixSet};

/// One clause of a rule that the flow does not meet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Miss {
    /// The destination port or its protocol is not listed.
    #[error("port {transport} is not among {ports}")]
    Port {
        /// What the flow carries.
        transport: Transport,
        /// What the rule lists.
        ports: PortSet,
    },
    /// The rule lists ports, and the protocol has none (DEC-02).
    #[error("{0} has no ports, and the rule lists ports")]
    NoPorts(Transport),
    /// The rule asks for pods, and the other end is none (NP-073).
    #[error("the other end is not a pod")]
    NotAPod,
    /// The rule asks for nodes, and the other end is none.
    #[error("the other end is not a node")]
    NotANode,
    /// A peer without namespaceSelector stays in the policy's own namespace (NP-050, NP-055).
    #[error(
        "the other end is in namespace {found}; a podSelector alone stays in the policy's namespace {own}"
    )]
    OtherNamespace {
        /// The policy's namespace.
        own: Arc<str>,
        /// The peer's.
        found: Arc<str>,
    },
    /// The namespace's labels do not match.
    #[error("namespaceSelector `{selector}` does not match namespace {namespace} ({labels})")]
    NamespaceLabels {
        /// What was asked.
        selector: Selector,
        /// The peer's namespace.
        namespace: Arc<str>,
        /// Its labels.
        labels: Labels,
    },
    /// The pod's labels do not match.
    #[error("podSelector `{selector}` does not match the other end's labels ({labels})")]
    PodLabels {
        /// What was asked.
        selector: Selector,
        /// The peer's labels.
        labels: Labels,
    },
    /// The node's labels do not match.
    #[error("node selector `{selector}` does not match the node's labels ({labels})")]
    NodeLabels {
        /// What was asked.
        selector: Selector,
        /// The node's labels.
        labels: Labels,
    },
    /// The port name means another number on that pod, or none (NP-087, NP-089).
    #[error("port name `{}` is not {}/{} on the other end", port.name, port.number, port.protocol)]
    PortName {
        /// What the name resolves to on other pods.
        port: ResolvedPort,
    },
    /// The address is in none of the ranges.
    #[error("address {address} is not in {networks}")]
    Outside {
        /// The peer's address.
        address: IpAddr,
        /// The ranges, excepts cut out.
        networks: PrefixSet,
    },
    /// The address is in the block but excepted (NP-065).
    #[error("address {address} is excepted by {except}")]
    Excepted {
        /// The peer's address.
        address: IpAddr,
        /// The except that holds it.
        except: Cidr,
    },
    /// The rule as written can match nothing: a port name nobody has, or a part that cannot be read.
    #[error(
        "the rule matches nothing: no pod in question has the port name, or a part of it cannot be read"
    )]
    MatchesNothing,
}

/// Returns what keeps `rule` from matching; empty exactly where [`Ruleset::rule_matches`] holds.
pub(super) fn misses(
    cluster: &Cluster,
    ruleset: &Ruleset,
    origin: &Origin,
    rule: &Rule,
    peer: IpAddr,
    transport: Transport,
) -> Vec<Miss> {
    let mut misses = Vec::new();
    if let Peers::Set(id) = rule.peers
        && let Some(set) = ruleset.peer_set(id)
        && !set.contains(peer)
    {
        let found = of_peer(cluster, origin, &set.selector, peer);
        // A pod that matches by label but owns no such address (NP-140) is nobody here.
        misses.extend(if found.is_empty() { alloc::vec![Miss::NotAPod] } else { found });
    }
    if let Ports::Set(ports) = &rule.ports
        && !rule.ports.contains(transport)
    {
        misses.push(match transport {
            Transport::Port(..) => Miss::Port { transport, ports: ports.as_ref().clone() },
            Transport::Other(_) => Miss::NoPorts(transport),
        });
    }
    misses
}

fn of_peer(cluster: &Cluster, origin: &Origin, selector: &PeerSelector, peer: IpAddr) -> Vec<Miss> {
    let pod = places::pod_with(cluster, peer);
    match (selector, pod) {
        (PeerSelector::Pods { namespaces, pods, port }, Some(pod)) => {
            of_pod(cluster, namespaces, pods, port.as_ref(), pod)
        }
        (PeerSelector::Pods { .. }, None) => alloc::vec![Miss::NotAPod],
        (PeerSelector::Nodes(selector), _) => {
            let node = cluster.nodes.values().find(|node| node.addresses.contains(&peer));
            alloc::vec![node.map_or(Miss::NotANode, |node| Miss::NodeLabels {
                selector: selector.clone(),
                labels: node.meta.labels.clone(),
            })]
        }
        (PeerSelector::Networks(networks), _) => {
            alloc::vec![of_networks(cluster, origin, networks, peer)]
        }
        (PeerSelector::PodsInNetworks(networks, _), _) if !networks.contains(peer) => {
            alloc::vec![of_networks(cluster, origin, networks, peer)]
        }
        (PeerSelector::PodsInNetworks(_, port), Some(_)) => {
            alloc::vec![Miss::PortName { port: port.clone() }]
        }
        (PeerSelector::PodsInNetworks(..), None) => alloc::vec![Miss::NotAPod],
    }
}

fn of_pod(
    cluster: &Cluster,
    namespaces: &NamespaceScope,
    pods: &Selector,
    port: Option<&ResolvedPort>,
    pod: &Pod,
) -> Vec<Miss> {
    let mut misses = Vec::new();
    let found = &pod.meta.object.namespace;
    match namespaces {
        NamespaceScope::One(own) if own != found => {
            misses.push(Miss::OtherNamespace { own: own.clone(), found: found.clone() });
        }
        NamespaceScope::One(_) => {}
        NamespaceScope::Matching(selector) => {
            let mentioned = || Namespace::mentioned(found);
            let labels =
                cluster.namespaces.get(found).cloned().unwrap_or_else(mentioned).meta.labels;
            if !selector.matches(&labels) {
                misses.push(Miss::NamespaceLabels {
                    selector: selector.clone(),
                    namespace: found.clone(),
                    labels,
                });
            }
        }
    }
    if !pods.matches(&pod.meta.labels) {
        misses.push(Miss::PodLabels { selector: pods.clone(), labels: pod.meta.labels.clone() });
    }
    if let Some(port) = port
        && !pod.named_ports(&port.name).any(|resolved| resolved == (port.protocol, port.number))
    {
        misses.push(Miss::PortName { port: port.clone() });
    }
    misses
}

fn of_networks(cluster: &Cluster, origin: &Origin, networks: &PrefixSet, address: IpAddr) -> Miss {
    let outside = || Miss::Outside { address, networks: networks.clone() };
    if origin.policy.kind == PolicyKind::ClusterNetworkPolicy {
        return outside();
    }
    let except = places::network_policy(cluster, &origin.policy).and_then(|policy| {
        let rule =
            places::network_policy_rules(policy, origin.direction).get(origin.rule as usize)?;
        match rule.peers.given()?.get(origin.peer? as usize)?.kind() {
            PeerKind::IpBlock(block) if block.cidr.contains(address) => {
                block.except.iter().find(|except| except.contains(address)).copied()
            }
            PeerKind::IpBlock(_)
            | PeerKind::PodsOfOwnNamespace(_)
            | PeerKind::Namespaces(_)
            | PeerKind::PodsOfNamespaces { .. }
            | PeerKind::Unknown => None,
        }
    });
    except.map_or_else(outside, |except| Miss::Excepted { address, except })
}

impl Miss {
    /// Returns the clause of the API object that failed, as a field name.
    #[must_use]
    pub const fn clause(&self) -> &'static str {
        match self {
            Self::Port { .. } | Self::NoPorts(_) | Self::PortName { .. } => "ports",
            Self::NotAPod => "podSelector or namespaceSelector",
            Self::NotANode | Self::NodeLabels { .. } => "nodes",
            Self::OtherNamespace { .. } | Self::NamespaceLabels { .. } => "namespaceSelector",
            Self::PodLabels { .. } => "podSelector",
            Self::Outside { .. } => "cidr",
            Self::Excepted { .. } => "except",
            Self::MatchesNothing => "rule",
        }
    }
}
