//! Which pod stands at an address, and what is around it.

use alloc::sync::Arc;
use core::net::IpAddr;
use core::num::NonZeroU16;

use netpol_core::model::{
    Cluster, Container, Labels, NAMESPACE_NAME_LABEL, ObjectRef, Phase, Pod, Protocol,
};

/// Returns the policed pod that owns `address` (NP-130..NP-141).
#[must_use]
pub fn owner(cluster: &Cluster, address: IpAddr) -> Option<&Pod> {
    let mut best: Option<&Pod> = None;
    for pod in cluster.pods.values() {
        let finished = match pod.phase {
            Phase::Succeeded | Phase::Failed => true, // NP-137
            Phase::Pending | Phase::Running | Phase::Unknown => false, // NP-136
        };
        let claims = pod.addresses.contains(&address);
        if finished || pod.host_network || !claims {
            continue; // NP-131
        }
        best = match best {
            Some(other) if !takes_address_from(pod, other) => Some(other),
            Some(_) | None => Some(pod),
        };
    }
    best
}

/// NP-140: a running pod that is not being deleted wins; among equals the newest, then the first by name.
fn takes_address_from(pod: &Pod, other: &Pod) -> bool {
    let stays = |pod: &Pod| pod.phase == Phase::Running && !pod.terminating;
    if stays(pod) != stays(other) {
        return stays(pod);
    }
    if pod.meta.created != other.meta.created {
        return pod.meta.created > other.meta.created;
    }
    pod.meta.object < other.meta.object
}

/// Returns whether `address` is one of the node that the pod runs on (NP-125, NP-129).
pub(super) fn is_own_node(cluster: &Cluster, pod: &Pod, address: IpAddr) -> bool {
    let Some(name) = &pod.node else { return false };
    cluster.nodes.get(name).is_some_and(|node| node.addresses.contains(&address))
}

/// Returns the labels that selectors see on a namespace, there or only mentioned (NP-059, NP-142, OFF-003).
pub(super) fn namespace_labels(cluster: &Cluster, name: &Arc<str>) -> Labels {
    let mut labels =
        cluster.namespaces.get(name).map(|there| there.meta.labels.clone()).unwrap_or_default();
    labels.0.insert(NAMESPACE_NAME_LABEL.into(), name.clone());
    labels
}

/// Returns the namespace of a pod.
pub(super) const fn namespace_of(pod: &Pod) -> &Arc<str> {
    let ObjectRef { namespace, .. } = &pod.meta.object;
    namespace
}

/// Returns whether a container port of the pod has that name, protocol and number (NP-086, NP-091, NP-092).
pub(super) fn has_named_port(
    pod: &Pod,
    name: &str,
    protocol: Protocol,
    number: NonZeroU16,
) -> bool {
    for container in &pod.containers {
        let ports = match container {
            Container::Main(ports) | Container::Sidecar(ports) => ports,
            Container::Init(_) => continue, // DEC-08
        };
        for port in ports {
            let named = port.name.as_ref().is_some_and(|given| **given == *name);
            if named && port.protocol == protocol && port.port == number {
                return true;
            }
        }
    }
    false
}
