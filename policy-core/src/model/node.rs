//! Namespace and Node.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::{Cidr, Labels, NAMESPACE_NAME_LABEL, ObjectMeta, ObjectRef};

/// A namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Namespace {
    /// Identity; `object.namespace` is empty, the labels include the automatic name label.
    pub meta: ObjectMeta,
    /// Whether there was an object, or the namespace was only mentioned by others (OFF-003).
    pub declared: bool,
}

impl Namespace {
    /// A declared namespace with its automatic name label (NP-142, NP-059).
    #[must_use]
    pub fn new(name: &str, mut labels: Labels) -> Self {
        labels.0.insert(NAMESPACE_NAME_LABEL.into(), name.into());
        let meta =
            ObjectMeta { object: ObjectRef::cluster_scoped(name), labels, ..ObjectMeta::default() };
        Self { meta, declared: true }
    }

    /// A namespace that is only mentioned by other objects (OFF-003).
    #[must_use]
    pub fn mentioned(name: &str) -> Self {
        Self { declared: false, ..Self::new(name, Labels::default()) }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.meta.object.name
    }
}

/// A node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// Identity and labels; `object.namespace` is empty.
    pub meta: ObjectMeta,
    /// `status.addresses` of IP type (InternalIP, ExternalIP), and the host side of the pod network where known
    /// (CNP-045, NP-129).
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<Cidr>,
}

impl Node {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.meta.object.name
    }
}
