//! Which namespaces a lab has, and which addresses live in them.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr};

use netpol_core::model::{Cluster, ObjectRef};

use super::{End, LabError};

/// What a lab is built from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests write plans as literals")]
pub struct Plan {
    /// The nodes.
    pub nodes: Vec<PlannedNode>,
    /// The pods with a network of their own.
    pub pods: Vec<PlannedPod>,
    /// The pods on the host network: other names for their node.
    pub host_pods: Vec<HostPod>,
    /// Addresses outside the cluster, each one a host of its own.
    pub externals: Vec<IpAddr>,
}

/// A node and its addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests write plans as literals")]
pub struct PlannedNode {
    /// The node's name.
    pub name: Arc<str>,
    /// Its addresses; the first of a family is the one it sends from.
    pub addresses: Vec<IpAddr>,
}

/// A pod with a network of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests write plans as literals")]
pub struct PlannedPod {
    /// The pod.
    pub pod: ObjectRef,
    /// Its node.
    pub node: Arc<str>,
    /// Its addresses; the first of a family is the one it sends from.
    pub addresses: Vec<IpAddr>,
}

/// A pod on the host network.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests write plans as literals")]
pub struct HostPod {
    /// The pod.
    pub pod: ObjectRef,
    /// Its node, whose namespace it lives in.
    pub node: Arc<str>,
}

impl Plan {
    /// Plans a cluster whose pods already have nodes and addresses. Finished pods have no network (NP-137), pods on
    /// the host network that of their node (NP-132).
    ///
    /// # Errors
    /// If a pod has no node or no address, or an address cannot exist in a routed network or exists twice.
    pub fn for_cluster(
        cluster: &Cluster,
        externals: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, LabError> {
        let nodes = cluster
            .nodes
            .values()
            .map(|node| PlannedNode {
                name: node.name().clone(),
                addresses: node.addresses.clone(),
            })
            .collect();
        let mut plan =
            Self { nodes, externals: externals.into_iter().collect(), ..Self::default() };
        for (name, pod) in cluster.pods.iter().filter(|(_, pod)| !pod.phase.is_finished()) {
            let Some(node) = pod.node.clone() else {
                return Err(LabError::PodWithoutNode { pod: name.clone(), node: String::new() });
            };
            if pod.host_network {
                plan.host_pods.push(HostPod { pod: name.clone(), node });
            } else {
                plan.pods.push(PlannedPod {
                    pod: name.clone(),
                    node,
                    addresses: pod.addresses.clone(),
                });
            }
        }
        plan.check()?;
        Ok(plan)
    }

    /// Checks what [`Self::for_cluster`] promises, for plans written by hand too.
    pub(super) fn check(&self) -> Result<(), LabError> {
        let on_node = |pod: &ObjectRef, name: &Arc<str>| match self
            .nodes
            .iter()
            .any(|node| node.name == *name)
        {
            true => Ok(()),
            false => Err(LabError::PodWithoutNode { pod: pod.clone(), node: name.to_string() }),
        };
        for pod in &self.pods {
            on_node(&pod.pod, &pod.node)?;
            if pod.addresses.is_empty() {
                return Err(LabError::PodWithoutAddress { pod: pod.pod.clone() });
            }
        }
        for pod in &self.host_pods {
            on_node(&pod.pod, &pod.node)?;
        }
        let mut names = BTreeSet::new();
        let nodes = self.nodes.iter().map(|node| End::Node(node.name.clone()));
        let pods =
            self.pods.iter().map(|pod| &pod.pod).chain(self.host_pods.iter().map(|pod| &pod.pod));
        for name in nodes.chain(pods.cloned().map(End::Pod)) {
            if !names.insert(name.clone()) {
                return Err(LabError::NameTwice(name));
            }
        }
        let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (owner, address) in self.owned_addresses() {
            if !is_routable(address) {
                return Err(LabError::AddressUnroutable { address, owner });
            }
            if let Some(first) = owners.insert(address, owner.clone()) {
                return Err(LabError::AddressTwice { address, first, second: owner });
            }
        }
        Ok(())
    }

    fn owned_addresses(&self) -> impl Iterator<Item = (String, IpAddr)> {
        let nodes = self.nodes.iter().flat_map(|node| {
            node.addresses.iter().map(|address| (format!("node {}", node.name), *address))
        });
        let pods = self.pods.iter().flat_map(|pod| {
            pod.addresses.iter().map(|address| (format!("pod {}", pod.pod), *address))
        });
        let externals =
            self.externals.iter().map(|address| ("an external host".to_owned(), *address));
        nodes.chain(pods).chain(externals)
    }
}

/// Returns whether a host of the lab can own the address. The lab's own links use IPv4 and IPv6 link-local ones.
#[must_use]
pub fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.octets()[0] == 0
                || v4.is_loopback()
                || v4.is_multicast()
                || v4.is_link_local()
                || v4 == Ipv4Addr::BROADCAST)
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}
