//! Why an end of a flow cannot be found.

use netpol_core::model::{ObjectRef, Protocol};

/// A name of a flow that the manifests do not hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ResolveError {
    UnknownPod { pod: String, known: String },
    AmbiguousName { name: String, choices: String },
    NoPodNamed(String),
    UnknownNode { node: String, known: String },
    UnknownService { service: ObjectRef, known: String },
    UnknownPort { name: String, protocol: Protocol, pod: ObjectRef, known: String },
    AmbiguousPort { name: String, pod: ObjectRef, choices: String },
    PortNameWithoutPod(String),
    NoServicePort { service: ObjectRef, port: String, known: String },
    PortlessService(ObjectRef),
    ExternalName(ObjectRef, String),
    NoBackend(ObjectRef),
    NoCommonFamily { source: String, destination: String },
    NoSuchFamily(String),
}

impl core::fmt::Display for ResolveError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownPod { pod, known } => write!(f, "no pod or workload `{pod}`; {known}"),
            Self::AmbiguousName { name, choices } => {
                write!(f, "several workloads are named `{name}`; write one of {choices}")
            }
            Self::NoPodNamed(name) => write!(f, "no pod or workload `{name}`"),
            Self::UnknownNode { node, known } if known.is_empty() => write!(
                f,
                "no node `{node}`: the manifests name no nodes; add Node objects or write the node's address"
            ),
            Self::UnknownNode { node, known } => write!(f, "no node `{node}`; there are: {known}"),
            Self::UnknownService { service, known } if known.is_empty() => {
                write!(f, "no Service `{service}`; its namespace has none")
            }
            Self::UnknownService { service, known } => {
                write!(f, "no Service `{service}`; its namespace has: {known}")
            }
            Self::UnknownPort { name, protocol, pod, known } if known.is_empty() => {
                write!(
                    f,
                    "pod {pod} has no {protocol} port named `{name}`; it names no port at all"
                )
            }
            Self::UnknownPort { name, protocol, pod, known } => {
                write!(f, "pod {pod} has no {protocol} port named `{name}`; it has: {known}")
            }
            Self::AmbiguousPort { name, pod, choices } => {
                write!(
                    f,
                    "port name `{name}` means several ports of pod {pod}; write one of {choices}"
                )
            }
            Self::PortNameWithoutPod(name) => write!(
                f,
                "port name `{name}` cannot be resolved: only pods have port names; write the number"
            ),
            Self::NoServicePort { service, port, known } => {
                write!(f, "Service {service} has no port `{port}`; it has: {known}")
            }
            Self::PortlessService(service) => write!(
                f,
                "Service {service} forwards ports only; name one, or judge a pod behind it"
            ),
            Self::ExternalName(service, name) => write!(
                f,
                "Service {service} is an alias of `{name}`; write an address behind that name"
            ),
            Self::NoBackend(service) => write!(
                f,
                "Service {service} has no backend in these manifests: no pod matches its selector, no EndpointSlice \
                 belongs to it"
            ),
            Self::NoCommonFamily { source, destination } => {
                write!(f, "`{source}` and `{destination}` have no address family in common")
            }
            Self::NoSuchFamily(family) => {
                write!(
                    f,
                    "not both ends have an {family} address (or the protocol does not exist there)"
                )
            }
        }
    }
}

impl core::error::Error for ResolveError {}
