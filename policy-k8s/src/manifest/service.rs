//! Service, Endpoints and EndpointSlice.

use alloc::sync::Arc;
use core::net::IpAddr;

use netpol_core::model::{
    Endpoints, EndpointsAddress, EndpointsPort, ObjectRef, PortName, Protocol, Service,
    ServicePort, ServiceType, TargetPort, Violation,
};

use super::decode::{Fields, Reader, as_is};
use super::error::Problem;
use super::metadata::Metadata;
use super::path::Path;
use super::scalar::{Scalar, ScalarKind};
use super::tree::{Node, Value};

pub(super) fn service(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
) -> Option<Service> {
    reader.no_misspelled(root, &["metadata", "spec"], &["status"]);
    let empty = Service { meta: metadata.meta.clone(), ..Service::default() };
    let spec =
        reader.optional(root, "spec", |reader, node, path| spec(reader, node, path, metadata));
    Some(spec.unwrap_or(empty))
}

fn spec(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    metadata: Metadata,
) -> Option<Service> {
    let fields = reader.mapping(node, path)?;
    let read =
        ["clusterIP", "clusterIPs", "externalIPs", "externalName", "ports", "selector", "type"];
    reader.no_misspelled(&fields, &read, &[]);
    let service_type = reader.optional(&fields, "type", service_type).unwrap_or_default();
    let selector = reader
        .optional(&fields, "selector", |reader, node, path| reader.label_map(node, path, as_is));
    let single = reader.optional(&fields, "clusterIP", cluster_ip);
    let list = reader.list_field(&fields, "clusterIPs", cluster_ip);
    let headless = single == Some(ClusterIp::None) || list.contains(&ClusterIp::None);
    let all = if list.is_empty() { single.into_iter().collect() } else { list };
    let address = |ip| match ip {
        ClusterIp::Address(address) => Some(address),
        ClusterIp::None | ClusterIp::Unassigned => None,
    };
    let cluster_ips = all.into_iter().filter_map(address).collect();
    let external_ips = reader.list_field(&fields, "externalIPs", Reader::address);
    let external_name =
        reader.optional(&fields, "externalName", Reader::text).filter(|name| !name.is_empty());
    let ports = reader.list_field(&fields, "ports", port);
    let meta = metadata.meta;
    Some(Service {
        meta,
        service_type,
        selector,
        cluster_ips,
        headless,
        external_ips,
        external_name,
        ports,
    })
}

fn service_type(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<ServiceType> {
    match reader.string(node, path)? {
        "" | "ClusterIP" => Some(ServiceType::ClusterIp),
        "NodePort" => Some(ServiceType::NodePort),
        "LoadBalancer" => Some(ServiceType::LoadBalancer),
        "ExternalName" => Some(ServiceType::ExternalName),
        other => {
            let allowed = "`ClusterIP`, `NodePort`, `LoadBalancer` and `ExternalName`";
            reader.report(
                node.position,
                path,
                Problem::UnknownValue { found: other.to_owned(), allowed },
            );
            None
        }
    }
}

/// `clusterIP`: an address, the word `None` (headless), or nothing yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ClusterIp {
    Address(IpAddr),
    None,
    Unassigned,
}

fn cluster_ip(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<ClusterIp> {
    match reader.string(node, path)? {
        "None" => Some(ClusterIp::None),
        "" => Some(ClusterIp::Unassigned),
        _ => reader.address(node, path).map(ClusterIp::Address),
    }
}

fn port(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<ServicePort> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["name", "protocol", "port", "targetPort", "nodePort", "appProtocol"]);
    let name = reader.optional(&fields, "name", Reader::text).filter(|name| !name.is_empty());
    let protocol = reader.optional(&fields, "protocol", Reader::protocol).unwrap_or_default();
    let port = reader.field(&fields, "port", |reader, node, path| {
        reader.port_number(node, path, Violation::PortOutOfRange)
    });
    if port.is_unset() {
        reader.report(node.position, &path.key("port"), Problem::MissingField("port"));
    }
    let target = reader.optional(&fields, "targetPort", target_port).flatten();
    let node_port =
        reader.optional(&fields, "nodePort", |reader, node, path| match node_port_unset(node) {
            true => None,
            false => reader.port_number(node, path, Violation::PortOutOfRange),
        });
    let port = *port.given()?;
    Some(ServicePort {
        name,
        protocol,
        port,
        target: target.unwrap_or(TargetPort::Number(port)),
        node_port,
    })
}

/// A `nodePort` of 0 is one that is not assigned.
fn node_port_unset(node: &Node<'_>) -> bool {
    matches!(node.value, Value::Scalar(Scalar { kind: ScalarKind::Integer(0), .. }))
}

/// Reads a target; `None` inside for 0, which means the same number as `port`.
pub(super) fn target_port(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<Option<TargetPort>> {
    match &node.value {
        Value::Scalar(Scalar { kind: ScalarKind::Text, text }) => match PortName::try_new(text) {
            Ok(name) => Some(Some(TargetPort::Name(name))),
            Err(reason) => {
                let violation = Violation::InvalidPortName { name: text.to_string(), reason };
                reader.report(node.position, path, violation);
                None
            }
        },
        Value::Scalar(Scalar { kind: ScalarKind::Integer(0), .. }) => Some(None),
        Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => {
            let port = reader.port_number(node, path, Violation::PortOutOfRange)?;
            Some(Some(TargetPort::Number(port)))
        }
    }
}

/// Reads an Endpoints object: every subset is an `Endpoints` of the model, because its ports go with its addresses only.
pub(super) fn endpoints(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: &Metadata,
) -> Vec<Endpoints> {
    reader.no_misspelled(root, &["metadata", "subsets"], &[]);
    let service = metadata.meta.object.clone();
    reader.list_field(root, "subsets", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.only(&fields, &["addresses", "notReadyAddresses", "ports"]);
        let addresses = reader.list_field(&fields, "addresses", |reader, node, path| {
            let fields = reader.mapping(node, path)?;
            reader.no_misspelled(&fields, &["ip", "targetRef"], &[]);
            let address = reader.optional(&fields, "ip", Reader::address)?;
            let pod = reader.optional(&fields, "targetRef", target_ref).flatten();
            Some(EndpointsAddress { address, pod })
        });
        let ports = reader.list_field(&fields, "ports", endpoints_port);
        Some(Endpoints { meta: metadata.meta.clone(), service: service.clone(), addresses, ports })
    })
}

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

pub(super) fn endpoint_slice(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
) -> Option<Endpoints> {
    reader.no_misspelled(root, &["metadata", "addressType", "endpoints", "ports"], &[]);
    let meta = metadata.meta;
    let service = meta.labels.value(SERVICE_NAME_LABEL).unwrap_or_default();
    let service = ObjectRef::new(&meta.object.namespace, service);
    let address_type = reader.optional(root, "addressType", Reader::text);
    if address_type.as_deref() == Some("FQDN") {
        return Some(Endpoints { meta, service, ..Endpoints::default() });
    }
    let addresses = reader.list_field(root, "endpoints", endpoint);
    let ports = reader.list_field(root, "ports", endpoints_port);
    Some(Endpoints { meta, service, addresses: addresses.into_iter().flatten().collect(), ports })
}

fn endpoint(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<Vec<EndpointsAddress>> {
    let fields = reader.mapping(node, path)?;
    reader.no_misspelled(&fields, &["addresses", "conditions", "targetRef"], &[]);
    let addresses = reader.list_field(&fields, "addresses", Reader::address);
    let pod = reader.optional(&fields, "targetRef", target_ref).flatten();
    let ready = reader.optional(&fields, "conditions", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.optional(&fields, "ready", Reader::boolean)
    });
    if ready == Some(false) {
        return Some(Vec::new());
    }
    Some(
        addresses
            .into_iter()
            .map(|address| EndpointsAddress { address, pod: pod.clone() })
            .collect(),
    )
}

fn endpoints_port(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<EndpointsPort> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["name", "port", "protocol", "appProtocol"]);
    let name = reader.optional(&fields, "name", Reader::text).filter(|name| !name.is_empty());
    let protocol: Protocol =
        reader.optional(&fields, "protocol", Reader::protocol).unwrap_or_default();
    let port = reader.optional(&fields, "port", |reader, node, path| {
        reader.port_number(node, path, Violation::PortOutOfRange)
    });
    Some(EndpointsPort { name, port, protocol })
}

/// Returns the pod that a `targetRef` names, if it names one.
fn target_ref(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<Option<ObjectRef>> {
    let fields = reader.mapping(node, path)?;
    let text = |reader: &mut Reader<'_>, name| -> Arc<str> {
        reader.optional(&fields, name, Reader::text).unwrap_or_else(|| "".into())
    };
    let (kind, namespace, name) =
        (text(reader, "kind"), text(reader, "namespace"), text(reader, "name"));
    Some((kind.as_ref() == "Pod").then_some(ObjectRef { namespace, name }))
}
