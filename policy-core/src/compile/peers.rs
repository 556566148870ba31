//! Peers with ports: where a port is named on egress, the peers split by the number the name resolves to.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use super::plan::{NameQuery, PortQuery, World};
use crate::ir::{NamespaceScope, PeerSelector, Peers, Ports, ResolvedPort, Selector};
use crate::model::Protocol;
use crate::net::{PortSet, PrefixSet};

/// The other end of a rule before its ports are known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ends {
    /// Everybody.
    Any,
    /// Policed pods.
    Pods(NamespaceScope, Selector),
    /// Nodes by label.
    Nodes(Selector),
    /// Address ranges.
    Networks(PrefixSet),
}

impl Ends {
    /// Every policed pod: what a port name with no peers can resolve on (NP-088).
    const fn all_pods() -> (NamespaceScope, Selector) {
        (NamespaceScope::Matching(Selector::everything()), Selector::everything())
    }

    /// Returns the peers where ports do not narrow them.
    pub(super) fn peers(&self, world: &mut impl World) -> Peers {
        match self {
            Self::Any => Peers::Any,
            Self::Pods(namespaces, pods) => {
                let (namespaces, pods) = (namespaces.clone(), pods.clone());
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
    pub(super) fn resolve(&self, world: &mut impl World, port: &PortQuery) -> Vec<(Peers, Ports)> {
        let name = &port.name;
        let numbers: BTreeSet<(Protocol, NonZeroU16)> = match self {
            Self::Pods(namespaces, pods) => {
                world.numbers(&NameQuery { namespaces, pods, networks: None, name })
            }
            Self::Any => {
                let (namespaces, pods) = &Self::all_pods();
                world.numbers(&NameQuery { namespaces, pods, networks: None, name })
            }
            Self::Networks(networks) => {
                let (namespaces, pods) = &Self::all_pods();
                world.numbers(&NameQuery { namespaces, pods, networks: Some(networks), name })
            }
            Self::Nodes(_) => return Vec::new(),
        };
        let mut resolved = Vec::with_capacity(numbers.len());
        for (protocol, number) in numbers.into_iter().filter(|(found, _)| port.accepts(*found)) {
            let port = ResolvedPort { name: name.clone(), protocol, number };
            let selector = match self {
                Self::Networks(networks) => PeerSelector::PodsInNetworks(networks.clone(), port),
                Self::Pods(namespaces, pods) => PeerSelector::Pods {
                    namespaces: namespaces.clone(),
                    pods: pods.clone(),
                    port: Some(port),
                },
                Self::Any | Self::Nodes(_) => {
                    let (namespaces, pods) = Self::all_pods();
                    PeerSelector::Pods { namespaces, pods, port: Some(port) }
                }
            };
            let ports = PortSet::from_ranges([(protocol, number.get(), number.get())]);
            resolved.push((Peers::Set(world.peer_set(selector)), Ports::Set(Arc::new(ports))));
        }
        resolved
    }
}
