//! Service, Endpoints, EndpointSlice and Ingress: read so that a flow or a report can speak of them; policy itself
//! never looks at them (NP-157).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::num::NonZeroU16;

use super::{ObjectMeta, ObjectRef, PortName, Protocol};

/// A Service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Service {
    /// Identity and source.
    pub meta: ObjectMeta,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.selector`; `None` when left out: endpoints are given by hand.
    pub selector: Option<BTreeMap<Arc<str>, Arc<str>>>,
    /// `spec.clusterIPs`; empty when not assigned or headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `spec.externalName`.
    pub external_name: Option<Arc<str>>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ServiceType {
    /// Reached inside the cluster.
    #[default]
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also through a load balancer.
    LoadBalancer,
    /// A DNS alias.
    ExternalName,
}

/// An entry of `spec.ports`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServicePort {
    /// `name`.
    pub name: Option<Arc<str>>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: NonZeroU16,
    /// `targetPort`; the same number as `port` when left out.
    pub target: TargetPort,
    /// `nodePort`.
    pub node_port: Option<NonZeroU16>,
}

/// `targetPort`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TargetPort {
    /// A number.
    Number(NonZeroU16),
    /// A container port's name.
    Name(PortName),
}

/// The endpoints of a Service: an Endpoints object or one EndpointSlice.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Endpoints {
    /// Identity and source.
    pub meta: ObjectMeta,
    /// The Service they belong to.
    pub service: ObjectRef,
    /// The addresses.
    pub addresses: Vec<EndpointsAddress>,
    /// The ports every address listens on.
    pub ports: Vec<EndpointsPort>,
}

/// An address of a Service's endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointsAddress {
    /// The address.
    pub address: IpAddr,
    /// The pod behind it, if `targetRef` names one.
    pub pod: Option<ObjectRef>,
}

/// A port of a Service's endpoints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointsPort {
    /// `name`.
    pub name: Option<Arc<str>>,
    /// `port`; `None` in an EndpointSlice means every port.
    pub port: Option<NonZeroU16>,
    /// `protocol`.
    pub protocol: Protocol,
}

/// An Ingress: HTTP routes to Services.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ingress {
    /// Identity and source.
    pub meta: ObjectMeta,
    /// `spec.ingressClassName`.
    pub class: Option<Arc<str>>,
    /// `spec.defaultBackend`.
    pub default_backend: Option<IngressBackend>,
    /// Every path of every rule.
    pub paths: Vec<IngressPath>,
}

/// A path of an Ingress rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IngressPath {
    /// `host`; `None` means every host.
    pub host: Option<Arc<str>>,
    /// `path`.
    pub path: Option<Arc<str>>,
    /// `backend`.
    pub backend: IngressBackend,
}

/// Where an Ingress sends requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IngressBackend {
    /// The Service; the namespace is the Ingress's. `None` for a resource backend.
    pub service: Option<Arc<str>>,
    /// The Service's port.
    pub port: Option<TargetPort>,
}
