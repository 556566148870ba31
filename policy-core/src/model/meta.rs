//! Object identity, and where an object was written.

use alloc::sync::Arc;
use core::fmt;

use super::Labels;

/// A place in a manifest. Lines and columns count from 1; 0 means unknown (an object that never was a file).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Position {
    /// Returns whether the place is known.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.line != 0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The file and place an object was read from.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Source {
    /// The file as the user named it (`-` is standard input); `None` for an object that was never a file.
    pub file: Option<Arc<str>>,
    /// Number of the YAML document in the file, from 1; 0 means unknown.
    pub document: u32,
    /// Where the object begins.
    pub position: Position,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) if self.position.is_known() => write!(f, "{file}:{}", self.position),
            Some(file) => f.write_str(file),
            None => f.write_str("(no file)"),
        }
    }
}

/// The kinds of objects the engine and its diagnostics speak of.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `policy.networking.k8s.io/v1alpha1` AdminNetworkPolicy, read by conversion (ANP-001).
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1` BaselineAdminNetworkPolicy, read by conversion (ANP-001).
    BaselineAdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `batch/v1` CronJob.
    CronJob,
    /// `apps/v1` DaemonSet.
    DaemonSet,
    /// `apps/v1` Deployment.
    Deployment,
    /// `v1` Endpoints.
    Endpoints,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `networking.k8s.io/v1` Ingress.
    Ingress,
    /// `batch/v1` Job.
    Job,
    /// `v1` Namespace.
    Namespace,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `apps/v1` ReplicaSet.
    ReplicaSet,
    /// `v1` ReplicationController.
    ReplicationController,
    /// `v1` Service.
    Service,
    /// `apps/v1` StatefulSet.
    StatefulSet,
}

impl Kind {
    /// Returns the kind as the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::CronJob => "CronJob",
            Self::DaemonSet => "DaemonSet",
            Self::Deployment => "Deployment",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
            Self::Ingress => "Ingress",
            Self::Job => "Job",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
            Self::Service => "Service",
            Self::StatefulSet => "StatefulSet",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one object: `namespace/name`, or `name` for a cluster-scoped kind (empty namespace).
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectRef {
    /// The namespace; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// Names a namespaced object.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Names a cluster-scoped object.
    #[must_use]
    pub fn cluster_scoped(name: &str) -> Self {
        Self { namespace: "".into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The part of `metadata` that policy needs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObjectMeta {
    /// Namespace and name.
    pub object: ObjectRef,
    /// `metadata.uid`, if known.
    pub uid: Option<Arc<str>>,
    /// `metadata.creationTimestamp` in RFC 3339 UTC, as the API server writes it, so that text order is time order.
    pub created: Option<Arc<str>>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Where it was written.
    pub source: Source,
}

impl ObjectMeta {
    /// Metadata of a namespaced object with labels and no source.
    #[must_use]
    pub fn new(namespace: &str, name: &str, labels: Labels) -> Self {
        Self { object: ObjectRef::new(namespace, name), labels, ..Self::default() }
    }
}

/// Returns whether `text` is a DNS-1123 subdomain of at most 253 characters (VAL-002).
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_characters)
}

/// Returns whether `text` is a DNS-1123 label of at most 63 characters.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_characters(text)
}

fn is_dns_characters(label: &str) -> bool {
    let bytes = label.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}
