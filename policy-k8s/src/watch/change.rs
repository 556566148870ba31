//! What an engine hears.

use alloc::sync::Arc;

use netpol_core::model::{ClusterNetworkPolicy, Namespace, NetworkPolicy, Node, ObjectRef, Pod};

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
