//! What an engine hears.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use netpol_core::model::{
    Cluster, ClusterNetworkPolicy, Kind, Namespace, NetworkPolicy, Node, ObjectRef, Pod,
};

/// One thing that happened to one object, or the end of the first listing.
///
/// A put carries the whole object, new or changed or as it was before; a delete may name an object that was never put.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "an embedder handles every kind of change")]
pub enum Change {
    /// A pod is there, of whatever phase.
    PutPod(Pod),
    /// A pod is gone.
    DeletePod(ObjectRef),
    /// A namespace is there.
    PutNamespace(Namespace),
    /// A namespace is gone, by name.
    DeleteNamespace(Arc<str>),
    /// A node is there.
    PutNode(Node),
    /// A node is gone, by name.
    DeleteNode(Arc<str>),
    /// A NetworkPolicy is there.
    PutNetworkPolicy(NetworkPolicy),
    /// A NetworkPolicy is gone.
    DeleteNetworkPolicy(ObjectRef),
    /// A ClusterNetworkPolicy is there.
    PutClusterNetworkPolicy(ClusterNetworkPolicy),
    /// A ClusterNetworkPolicy is gone, by name.
    DeleteClusterNetworkPolicy(Arc<str>),
    /// Every object that was there at the start has been put.
    InSync,
}

impl Change {
    /// Makes the change to a snapshot. Returns whether that is another one now: what repeats what is known changes
    /// nothing, nor does [`Self::InSync`].
    pub fn apply_to(self, cluster: &mut Cluster) -> bool {
        match self {
            Self::PutPod(pod) => put(&mut cluster.pods, pod.meta.object.clone(), pod),
            Self::DeletePod(pod) => cluster.pods.remove(&pod).is_some(),
            Self::PutNamespace(namespace) => {
                put(&mut cluster.namespaces, namespace.name().clone(), namespace)
            }
            Self::DeleteNamespace(name) => cluster.namespaces.remove(&name).is_some(),
            Self::PutNode(node) => put(&mut cluster.nodes, node.name().clone(), node),
            Self::DeleteNode(name) => cluster.nodes.remove(&name).is_some(),
            Self::PutNetworkPolicy(policy) => {
                put(&mut cluster.network_policies, policy.meta.object.clone(), policy)
            }
            Self::DeleteNetworkPolicy(policy) => cluster.network_policies.remove(&policy).is_some(),
            Self::PutClusterNetworkPolicy(policy) => {
                let name = policy.meta.object.name.clone();
                put(&mut cluster.cluster_network_policies, name, policy)
            }
            Self::DeleteClusterNetworkPolicy(name) => {
                cluster.cluster_network_policies.remove(&name).is_some()
            }
            Self::InSync => false,
        }
    }

    /// Returns the kind of the object; `None` for [`Self::InSync`].
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        match self {
            Self::PutPod(_) | Self::DeletePod(_) => Some(Kind::Pod),
            Self::PutNamespace(_) | Self::DeleteNamespace(_) => Some(Kind::Namespace),
            Self::PutNode(_) | Self::DeleteNode(_) => Some(Kind::Node),
            Self::PutNetworkPolicy(_) | Self::DeleteNetworkPolicy(_) => Some(Kind::NetworkPolicy),
            Self::PutClusterNetworkPolicy(_) | Self::DeleteClusterNetworkPolicy(_) => {
                Some(Kind::ClusterNetworkPolicy)
            }
            Self::InSync => None,
        }
    }
}

fn put<K: Ord, V: PartialEq>(objects: &mut BTreeMap<K, V>, key: K, object: V) -> bool {
    match objects.get_mut(&key) {
        Some(known) if *known == object => false,
        Some(known) => {
            *known = object;
            true
        }
        None => {
            objects.insert(key, object);
            true
        }
    }
}
