//! What the server serves.

/// A kind of objects.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Resource {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) short: &'static str,
    pub(super) kind: &'static str,
    pub(super) scope: Scope,
    pub(super) origin: Origin,
    pub(super) generation: Generation,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scope {
    Cluster,
    Namespaced,
}

/// Items in lists of custom resources repeat their kind; those of built-in ones do not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    BuiltIn,
    Custom,
}

/// Namespaces and Nodes have no `metadata.generation`; the others do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Generation {
    Counted,
    None,
}

pub(super) const RESOURCES: [Resource; 5] = [
    Resource {
        group: "",
        version: "v1",
        plural: "namespaces",
        singular: "namespace",
        short: "ns",
        kind: "Namespace",
        scope: Scope::Cluster,
        origin: Origin::BuiltIn,
        generation: Generation::None,
    },
    Resource {
        group: "",
        version: "v1",
        plural: "nodes",
        singular: "node",
        short: "no",
        kind: "Node",
        scope: Scope::Cluster,
        origin: Origin::BuiltIn,
        generation: Generation::None,
    },
    Resource {
        group: "",
        version: "v1",
        plural: "pods",
        singular: "pod",
        short: "po",
        kind: "Pod",
        scope: Scope::Namespaced,
        origin: Origin::BuiltIn,
        generation: Generation::Counted,
    },
    Resource {
        group: "networking.k8s.io",
        version: "v1",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short: "netpol",
        kind: "NetworkPolicy",
        scope: Scope::Namespaced,
        origin: Origin::BuiltIn,
        generation: Generation::Counted,
    },
    Resource {
        group: "policy.networking.k8s.io",
        version: "v1alpha2",
        plural: "clusternetworkpolicies",
        singular: "clusternetworkpolicy",
        short: "cnp",
        kind: "ClusterNetworkPolicy",
        scope: Scope::Cluster,
        origin: Origin::Custom,
        generation: Generation::Counted,
    },
];

impl Resource {
    pub(super) fn of_kind(kind: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.kind == kind)
    }

    /// `v1`, `networking.k8s.io/v1`.
    pub(super) fn group_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }
}
