//! What a watch tells: the words of the engine, and what they do to a snapshot.

use alloc::collections::BTreeMap;

use netpol_core::engine::Event as Change;
use netpol_core::model::{Cluster, Kind};

/// Makes a change to a snapshot. Returns whether that is another one now: what repeats what is known changes nothing, nor
/// does [`Change::InSync`].
pub fn apply(change: Change, cluster: &mut Cluster) -> bool {
    match change {
        Change::PutPod(pod) => put(&mut cluster.pods, pod.meta.object.clone(), pod),
        Change::DeletePod(pod) => cluster.pods.remove(&pod).is_some(),
        Change::PutNamespace(namespace) => {
            put(&mut cluster.namespaces, namespace.name().clone(), namespace)
        }
        Change::DeleteNamespace(name) => cluster.namespaces.remove(&name).is_some(),
        Change::PutNode(node) => put(&mut cluster.nodes, node.name().clone(), node),
        Change::DeleteNode(name) => cluster.nodes.remove(&name).is_some(),
        Change::PutNetworkPolicy(policy) => {
            put(&mut cluster.network_policies, policy.meta.object.clone(), policy)
        }
        Change::DeleteNetworkPolicy(policy) => cluster.network_policies.remove(&policy).is_some(),
        Change::PutClusterNetworkPolicy(policy) => {
            let name = policy.meta.object.name.clone();
            put(&mut cluster.cluster_network_policies, name, policy)
        }
        Change::DeleteClusterNetworkPolicy(name) => {
            cluster.cluster_network_policies.remove(&name).is_some()
        }
        Change::InSync => false,
    }
}

/// Returns the kind of a change's object; `None` for [`Change::InSync`].
#[must_use]
pub const fn kind_of(change: &Change) -> Option<Kind> {
    match change {
        Change::PutPod(_) | Change::DeletePod(_) => Some(Kind::Pod),
        Change::PutNamespace(_) | Change::DeleteNamespace(_) => Some(Kind::Namespace),
        Change::PutNode(_) | Change::DeleteNode(_) => Some(Kind::Node),
        Change::PutNetworkPolicy(_) | Change::DeleteNetworkPolicy(_) => Some(Kind::NetworkPolicy),
        Change::PutClusterNetworkPolicy(_) | Change::DeleteClusterNetworkPolicy(_) => {
            Some(Kind::ClusterNetworkPolicy)
        }
        Change::InSync => None,
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
