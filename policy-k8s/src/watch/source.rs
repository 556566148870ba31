//! The kinds that are followed: where they are, how they are read.

use netpol_core::model::{Kind, ObjectRef};
use serde_json::value::RawValue;

use super::Change;
use super::strings::{Strings, share_pod};
use crate::decode::{self, Odd};

/// A kind of objects: where it is, how it is read.
pub(super) trait Source: 'static {
    const KIND: Kind;
    /// Of its collection, over all namespaces.
    const PATH: &'static str;
    /// Discovery path and resource of a kind that is not served everywhere.
    const OPTIONAL: Option<(&'static str, &'static str)> = None;

    /// Reads an object.
    fn read(
        raw: &RawValue,
        oddities: &mut Vec<Odd>,
    ) -> Result<(ObjectRef, Change), serde_json::Error>;

    /// Has the object share its strings with others of its kind.
    fn share(_: &mut Change, _: &mut Strings) {}

    /// The change that takes an object away.
    fn delete(object: ObjectRef) -> Change;
}

pub(super) struct Pods;
pub(super) struct Namespaces;
pub(super) struct Nodes;
pub(super) struct NetworkPolicies;
pub(super) struct ClusterNetworkPolicies;

impl Source for Pods {
    const KIND: Kind = Kind::Pod;
    const PATH: &'static str = "/api/v1/pods";

    fn read(
        raw: &RawValue,
        oddities: &mut Vec<Odd>,
    ) -> Result<(ObjectRef, Change), serde_json::Error> {
        let pod = decode::pod::read(raw.get(), oddities)?;
        Ok((pod.meta.object.clone(), Change::PutPod(pod)))
    }

    fn share(change: &mut Change, strings: &mut Strings) {
        if let Change::PutPod(pod) = change {
            share_pod(pod, strings);
        }
    }

    fn delete(object: ObjectRef) -> Change {
        Change::DeletePod(object)
    }
}

impl Source for Namespaces {
    const KIND: Kind = Kind::Namespace;
    const PATH: &'static str = "/api/v1/namespaces";

    fn read(raw: &RawValue, _: &mut Vec<Odd>) -> Result<(ObjectRef, Change), serde_json::Error> {
        let namespace = decode::node::read_namespace(raw.get())?;
        Ok((namespace.meta.object.clone(), Change::PutNamespace(namespace)))
    }

    fn delete(object: ObjectRef) -> Change {
        Change::DeleteNamespace(object.name)
    }
}

impl Source for Nodes {
    const KIND: Kind = Kind::Node;
    const PATH: &'static str = "/api/v1/nodes";

    fn read(
        raw: &RawValue,
        oddities: &mut Vec<Odd>,
    ) -> Result<(ObjectRef, Change), serde_json::Error> {
        let node = decode::node::read_node(raw.get(), oddities)?;
        Ok((node.meta.object.clone(), Change::PutNode(node)))
    }

    fn delete(object: ObjectRef) -> Change {
        Change::DeleteNode(object.name)
    }
}

impl Source for NetworkPolicies {
    const KIND: Kind = Kind::NetworkPolicy;
    const PATH: &'static str = "/apis/networking.k8s.io/v1/networkpolicies";

    fn read(
        raw: &RawValue,
        oddities: &mut Vec<Odd>,
    ) -> Result<(ObjectRef, Change), serde_json::Error> {
        let policy = decode::network_policy::read(raw.get(), oddities)?;
        Ok((policy.meta.object.clone(), Change::PutNetworkPolicy(policy)))
    }

    fn delete(object: ObjectRef) -> Change {
        Change::DeleteNetworkPolicy(object)
    }
}

impl Source for ClusterNetworkPolicies {
    const KIND: Kind = Kind::ClusterNetworkPolicy;
    const PATH: &'static str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
    const OPTIONAL: Option<(&'static str, &'static str)> =
        Some(("/apis/policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies"));

    fn read(
        raw: &RawValue,
        oddities: &mut Vec<Odd>,
    ) -> Result<(ObjectRef, Change), serde_json::Error> {
        let policy = decode::cluster_network_policy::read(raw.get(), oddities)?;
        Ok((policy.meta.object.clone(), Change::PutClusterNetworkPolicy(policy)))
    }

    fn delete(object: ObjectRef) -> Change {
        Change::DeleteClusterNetworkPolicy(object.name)
    }
}
