//! Pods, and the pod specs inside workloads. The Pod API is huge: only misspellings of what is read here are errors.

use alloc::sync::Arc;

use netpol_core::model::{Container, ContainerPort, Phase, Pod, PortName, Violation};

use super::decode::{Fields, Reader};
use super::error::Problem;
use super::metadata::Metadata;
use super::path::Path;
use super::tree::Node;

pub(super) fn pod(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
) -> Option<Pod> {
    reader.no_misspelled(root, &["metadata", "spec", "status"], &[]);
    let spec = reader.optional(root, "spec", pod_spec).unwrap_or_default();
    let status = reader.optional(root, "status", status).unwrap_or_default();
    Some(Pod {
        meta: metadata.meta,
        node: spec.node,
        host_network: spec.host_network,
        phase: status.phase,
        terminating: metadata.terminating,
        addresses: status.addresses,
        containers: spec.containers,
        workload: None,
    })
}

/// What policy needs of a pod spec.
#[derive(Debug, Default)]
pub(super) struct PodSpec {
    pub(super) node: Option<Arc<str>>,
    pub(super) host_network: bool,
    pub(super) containers: Vec<Container>,
}

pub(super) fn pod_spec(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<PodSpec> {
    let fields = reader.mapping(node, path)?;
    reader.no_misspelled(
        &fields,
        &["containers", "hostNetwork", "initContainers", "nodeName"],
        &[],
    );
    let name = reader.optional(&fields, "nodeName", Reader::text).filter(|name| !name.is_empty());
    let host_network = reader.optional(&fields, "hostNetwork", Reader::boolean).unwrap_or_default();
    let mut containers = reader.list_field(&fields, "containers", |reader, node, path| {
        container(reader, node, path).map(|(_, ports)| Container::Main(ports))
    });
    containers.extend(reader.list_field(&fields, "initContainers", |reader, node, path| {
        container(reader, node, path).map(|(restarts, ports)| match restarts {
            Restarts::Always => Container::Sidecar(ports),
            Restarts::Otherwise => Container::Init(ports),
        })
    }));
    Some(PodSpec { node: name, host_network, containers })
}

/// A container's own `restartPolicy`: what tells a sidecar from a plain init container (NP-091).
enum Restarts {
    Always,
    Otherwise,
}

fn container(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<(Restarts, Vec<ContainerPort>)> {
    let fields = reader.mapping(node, path)?;
    reader.no_misspelled(&fields, &["ports", "restartPolicy"], &[]);
    let policy = reader.optional(&fields, "restartPolicy", Reader::text);
    let restarts =
        if policy.as_deref() == Some("Always") { Restarts::Always } else { Restarts::Otherwise };
    let ports = reader.list_field(&fields, "ports", container_port);
    Some((restarts, ports))
}

fn container_port(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<ContainerPort> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["name", "containerPort", "protocol", "hostPort", "hostIP"]);
    let name = reader.optional(&fields, "name", port_name);
    let protocol = reader.optional(&fields, "protocol", Reader::protocol).unwrap_or_default();
    let port = reader.field(&fields, "containerPort", |reader, node, path| {
        reader.port_number(node, path, Violation::PortOutOfRange)
    });
    if port.is_unset() {
        reader.report(
            node.position,
            &path.key("containerPort"),
            Problem::MissingField("containerPort"),
        );
    }
    Some(ContainerPort { name, port: *port.given()?, protocol })
}

fn port_name(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Arc<str>> {
    let name = reader.text(node, path)?;
    if name.is_empty() {
        return None;
    }
    match PortName::try_new(&name) {
        Ok(_) => Some(name),
        Err(reason) => {
            let violation = Violation::InvalidPortName { name: name.to_string(), reason };
            reader.report(node.position, path, violation);
            None
        }
    }
}

#[derive(Debug, Default)]
struct Status {
    phase: Phase,
    addresses: Vec<core::net::IpAddr>,
}

fn status(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Status> {
    let fields = reader.mapping(node, path)?;
    reader.no_misspelled(&fields, &["phase", "podIP", "podIPs"], &[]);
    let phase = reader.optional(&fields, "phase", phase).unwrap_or_default();
    let single = reader.optional(&fields, "podIP", address_or_none).flatten();
    let list = reader.list_field(&fields, "podIPs", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.only(&fields, &["ip"]);
        reader.optional(&fields, "ip", Reader::address)
    });
    // `podIPs` holds `podIP` as its first entry wherever both are there (NP-134).
    let addresses = if list.is_empty() { single.into_iter().collect() } else { list };
    Some(Status { phase, addresses })
}

/// An empty `podIP` is what a pod has before it gets one.
fn address_or_none(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<Option<core::net::IpAddr>> {
    if reader.string(node, path)?.is_empty() {
        Some(None)
    } else {
        reader.address(node, path).map(Some)
    }
}

fn phase(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Phase> {
    match reader.string(node, path)? {
        "Pending" => Some(Phase::Pending),
        "Running" => Some(Phase::Running),
        "Succeeded" => Some(Phase::Succeeded),
        "Failed" => Some(Phase::Failed),
        "Unknown" | "" => Some(Phase::Unknown),
        other => {
            let allowed = "`Pending`, `Running`, `Succeeded`, `Failed` and `Unknown`";
            reader.report(
                node.position,
                path,
                Problem::UnknownValue { found: other.to_owned(), allowed },
            );
            None
        }
    }
}
