//! What the engine hears.

use alloc::sync::Arc;

use crate::model::{ClusterNetworkPolicy, Namespace, NetworkPolicy, Node, ObjectRef, Pod};

/// One thing that happened to one object, or the end of the first listing.
///
/// A put carries the whole object, whether it is new or changed; the engine finds out what changed. Putting an object
/// twice or deleting one that is not there changes nothing, so a watch may repeat itself and leave out steps in between.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "an embedder feeds every kind of event")]
pub enum Event {
    /// A pod is there, of whatever phase.
    PutPod(Pod),
    /// A pod is gone.
    DeletePod(ObjectRef),
    /// A namespace is there.
    PutNamespace(Namespace),
    /// A namespace is gone, by name. Its pods, if any are left, are told of one by one.
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
    /// Every object that was there at the start has been put: the first listing of every kind is complete.
    InSync,
}
