//! All objects of one moment.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{
    ClusterNetworkPolicy, Endpoints, Ingress, Namespace, NetworkPolicy, Node, ObjectRef, Pod,
    Service,
};

/// A snapshot of the objects that policy and its reports look at, each under its name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cluster {
    /// Namespaces by name.
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Nodes by name.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// Pods, of every phase.
    pub pods: BTreeMap<ObjectRef, Pod>,
    /// NetworkPolicies.
    pub network_policies: BTreeMap<ObjectRef, NetworkPolicy>,
    /// ClusterNetworkPolicies by name.
    pub cluster_network_policies: BTreeMap<Arc<str>, ClusterNetworkPolicy>,
    /// Services.
    pub services: BTreeMap<ObjectRef, Service>,
    /// Endpoints and EndpointSlices, in the order they were read.
    pub endpoints: Vec<Endpoints>,
    /// Ingresses.
    pub ingresses: BTreeMap<ObjectRef, Ingress>,
}

impl Cluster {
    /// Makes a namespace for every one that objects only mention (OFF-003).
    pub fn mention_namespaces(&mut self) {
        let pods = self.pods.keys();
        let policies = self.network_policies.keys();
        let services = self.services.keys();
        let names: Vec<Arc<str>> =
            pods.chain(policies).chain(services).map(|object| object.namespace.clone()).collect();
        for name in names {
            self.namespaces.entry(name.clone()).or_insert_with(|| Namespace::mentioned(&name));
        }
    }
}
