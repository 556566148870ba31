//! Model objects as the API has them.

use netpol_core::model::{Container, Labels, Namespace, Node, Phase, Pod};
use serde_json::{Value, json};

fn labels(labels: &Labels) -> Value {
    labels.0.iter().map(|(key, value)| (key.to_string(), json!(&**value))).collect()
}

pub(crate) fn node(node: &Node) -> Value {
    let addresses: Vec<Value> = node
        .addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address.to_string() }))
        .collect();
    json!({
        "kind": "Node", "metadata": { "name": &**node.name(), "labels": labels(&node.meta.labels) },
        "spec": { "podCIDRs": node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>() },
        "status": { "addresses": addresses },
    })
}

pub(crate) fn namespace(namespace: &Namespace) -> Value {
    let metadata = json!({ "name": &**namespace.name(), "labels": labels(&namespace.meta.labels) });
    json!({ "kind": "Namespace", "metadata": metadata })
}

pub(crate) fn pod(pod: &Pod) -> Value {
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|container| {
            let (Container::Main(ports) | Container::Sidecar(ports) | Container::Init(ports)) =
                container;
            let ports: Vec<Value> = ports
                .iter()
                .map(|port| {
                    json!({
                        "name": port.name.as_deref(), "containerPort": port.port,
                        "protocol": port.protocol.as_str(),
                    })
                })
                .collect();
            json!({ "name": "c", "ports": ports })
        })
        .collect();
    let addresses: Vec<Value> =
        pod.addresses.iter().map(|address| json!({ "ip": address.to_string() })).collect();
    json!({
        "kind": "Pod",
        "metadata": {
            "name": &*pod.meta.object.name, "namespace": &*pod.meta.object.namespace,
            "labels": labels(&pod.meta.labels),
            "creationTimestamp": pod.meta.created.as_deref().unwrap_or("2026-01-01T00:00:00Z"),
        },
        "spec": { "nodeName": pod.node.as_deref(), "containers": containers },
        "status": {
            "phase": match pod.phase {
                Phase::Pending | Phase::Unknown => "Pending",
                Phase::Running => "Running",
                Phase::Succeeded => "Succeeded",
                Phase::Failed => "Failed",
            },
            "podIPs": addresses,
        },
    })
}
