//! A large cluster at the API.

use netpol_conformance::api_server::ApiServer;
use serde_json::{Value, json};

/// So many applications share the pods; so many nodes.
pub(crate) const APPS: u32 = 1000;
const NODES: u32 = 300;

/// A pod as deployments make them, with the annotations that nobody reads.
pub(crate) fn pod(number: u32) -> Value {
    let [_, high, middle, low] = number.to_be_bytes();
    let address = format!("10.{}.{middle}.{low}", 16 + high);
    json!({
        "kind": "Pod",
        "metadata": {
            "name": format!("app-{}-7d4b9c6f5-{number:05}", number % APPS), "namespace": format!("team-{}", number % 100),
            "labels": { "app": format!("app-{}", number % APPS), "pod-template-hash": "7d4b9c6f5", "tier": "web" },
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(1000) },
        },
        "spec": {
            "nodeName": format!("node-{}", number % NODES),
            "containers": [{ "name": "c", "image": "registry/app:1", "ports": [{ "name": "http", "containerPort": 8080 }] }],
        },
        "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
    })
}

/// One policy an application: its pods are reached by those of the next, on one port.
fn policy(number: u32) -> Value {
    let select = |app: u32| json!({ "matchLabels": { "app": format!("app-{}", app % APPS) } });
    json!({
        "kind": "NetworkPolicy",
        "metadata": { "name": format!("app-{number}"), "namespace": format!("team-{}", number % 100) },
        "spec": {
            "podSelector": select(number),
            "ingress": [{
                "from": [{ "namespaceSelector": {}, "podSelector": select(number + 1) }],
                "ports": [{ "port": 8080 }],
            }],
        },
    })
}

pub(crate) fn fill(server: &ApiServer, pods: u32, policies: u32) {
    for number in 0..100 {
        let metadata = json!({ "name": format!("team-{number}") });
        server.put(&json!({ "kind": "Namespace", "metadata": metadata })).unwrap();
    }
    for number in 0..NODES {
        let metadata = json!({ "name": format!("node-{number}") });
        let address = format!("192.168.{}.{}", number / 250, 1 + number % 250);
        let status = json!({ "addresses": [{ "type": "InternalIP", "address": address }] });
        server.put(&json!({ "kind": "Node", "metadata": metadata, "status": status })).unwrap();
    }
    for number in 0..pods {
        server.put(&pod(number)).unwrap();
    }
    for number in 0..policies {
        server.put(&policy(number)).unwrap();
    }
}
