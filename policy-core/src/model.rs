//! What the API server says: Kubernetes objects as values, with the words of the Kubernetes API.
//!
//! Fields of a NetworkPolicy keep *absent*, *null* and *empty* apart ([`Field`]), because half of all real incidents
//! live in that difference, and every object, rule and peer remembers where it was written ([`Source`], [`Position`]).
#![expect(
    clippy::exhaustive_structs,
    clippy::exhaustive_enums,
    reason = "model values are written as literals by readers, generators and embedders; a new field must reach each of them"
)]

mod cluster;
mod cluster_network_policy;
mod field;
mod ip_block;
mod label;
mod meta;
mod network_policy;
mod node;
mod pod;
mod port;
mod service;
mod violation;

pub use cluster::Cluster;
pub use cluster_network_policy::{
    ClusterAction, ClusterDestination, ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterRule,
    ClusterSubject, NamespacedPods, Tier,
};
pub use field::Field;
pub use ip_block::{Cidr, CidrError, HadHostBits, IpBlock};
pub use label::{
    LabelError, LabelSelector, Labels, NAMESPACE_NAME_LABEL, Operator, Requirement,
    validate_label_key, validate_label_value,
};
pub use meta::{Kind, ObjectMeta, ObjectRef, Position, Source, is_dns_label, is_dns_subdomain};
pub use network_policy::{
    EffectiveTypes, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PeerKind, PolicyType,
};
pub use node::{Namespace, Node};
pub use pod::{Container, ContainerPort, Phase, Pod, Workload};
pub use port::{PolicyPort, PolicyPortNumber, PortName, PortNameError, Protocol};
pub use service::{
    Endpoints, EndpointsAddress, EndpointsPort, Ingress, IngressBackend, IngressPath, Service,
    ServicePort, ServiceType, TargetPort,
};
pub use violation::Violation;
