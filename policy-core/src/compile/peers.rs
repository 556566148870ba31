//! Peers with ports: where a port is named on egress, the peers split by the number the name resolves to.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::plan::{NameQuery, PortQuery, World};
use crate::ir::{NamespaceScope, PeerSelector, Peers, Ports, ResolvedPort, Selector};
use crate::net::{PortSet, PrefixSet};

/// The other end of a rule before its ports are known.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Ends {
    /// Everybody.
    Any,
    /// Policed pods of the policy's own namespace (NP-050). Which one it is stands with the policy, so that policies made
    /// from one template plan the same.
    OwnPods(Selector),
    /// Policed pods of matching namespaces.
    Pods(Selector, Selector),
    /// Nodes by label.
    Nodes(Selector),
    /// Address ranges.
    Networks(PrefixSet),
}

impl Ends {
    /// Returns the peers where ports do not narrow them.
    pub(super) fn peers(&self, own: &Arc<str>, world: &mut impl World) -> Peers {
        match self {
            Self::Any => Peers::Any,
            Self::OwnPods(pods) => {
                let (namespaces, pods) = (NamespaceScope::One(own.clone()), pods.clone());
                Peers::Set(world.peer_set(PeerSelector::Pods { namespaces, pods, port: None }))
            }
            Self::Pods(namespaces, pods) => {
                let namespaces = NamespaceScope::Matching(namespaces.clone());
                let pods = pods.clone();
                Peers::Set(world.peer_set(PeerSelector::Pods { namespaces, pods, port: None }))
            }
            Self::Nodes(selector) => {
                Peers::Set(world.peer_set(PeerSelector::Nodes(selector.clone())))
            }
            Self::Networks(networks) => {
                Peers::Set(world.peer_set(PeerSelector::Networks(networks.clone())))
            }
        }
    }

    /// Returns the ends on which a port name resolves, one entry for each number (NP-087, NP-088, DEC-15).
    ///
    /// Ends without names (nodes, addresses that are no pod) resolve nothing (NP-090).
    pub(super) fn resolve(
        &self,
        own: &Arc<str>,
        world: &mut impl World,
        port: &PortQuery,
    ) -> Vec<(Peers, Ports)> {
        let everywhere = || NamespaceScope::Matching(Selector::everything());
        // NP-088: with no peers, or addresses for peers, a name can resolve on every policed pod.
        let (namespaces, pods, networks) = match self {
            Self::OwnPods(pods) => (NamespaceScope::One(own.clone()), pods.clone(), None),
            Self::Pods(namespaces, pods) => {
                (NamespaceScope::Matching(namespaces.clone()), pods.clone(), None)
            }
            Self::Any => (everywhere(), Selector::everything(), None),
            Self::Networks(networks) => (everywhere(), Selector::everything(), Some(networks)),
            Self::Nodes(_) => return Vec::new(),
        };
        let (name, namespaces, pods) = (&port.name, &namespaces, &pods);
        let numbers = world.numbers(&NameQuery { namespaces, pods, networks, name });
        let mut resolved = Vec::with_capacity(numbers.len());
        for (protocol, number) in numbers.into_iter().filter(|(found, _)| port.accepts(*found)) {
            let port = ResolvedPort { name: name.clone(), protocol, number };
            let selector = match networks {
                Some(networks) => PeerSelector::PodsInNetworks(networks.clone(), port),
                None => {
                    let (namespaces, pods) = (namespaces.clone(), pods.clone());
                    PeerSelector::Pods { namespaces, pods, port: Some(port) }
                }
            };
            let ports = PortSet::from_ranges([(protocol, number.get(), number.get())]);
            resolved.push((Peers::Set(world.peer_set(selector)), Ports::Set(Arc::new(ports))));
        }
        resolved
    }
}
