//! Namespaces and Nodes.

use netpol_core::model::{Cidr, NAMESPACE_NAME_LABEL, Namespace, Node};
use serde::Deserialize;

use super::Odd;
use super::metadata::{Metadata, nullable};
use super::pod::address;

#[derive(Deserialize)]
struct WireNamespace {
    metadata: Metadata,
}

pub(crate) fn read_namespace(text: &str) -> Result<Namespace, serde_json::Error> {
    let WireNamespace { metadata } = serde_json::from_str(text)?;
    let mut meta = metadata.into_meta();
    // Servers set it themselves, but an old object may not have been written since (NP-142).
    meta.labels.0.insert(NAMESPACE_NAME_LABEL.into(), meta.object.name.clone());
    Ok(Namespace { meta, declared: true })
}

#[derive(Deserialize)]
struct WireNode {
    metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR", deserialize_with = "nullable")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pod_cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "nullable")]
    addresses: Vec<WireAddress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireAddress {
    #[serde(deserialize_with = "nullable")]
    address: String,
    #[serde(rename = "type", deserialize_with = "nullable")]
    kind: String,
}

pub(crate) fn read_node(text: &str, oddities: &mut Vec<Odd>) -> Result<Node, serde_json::Error> {
    let WireNode { metadata, spec, status } = serde_json::from_str(text)?;
    let mut cidrs = spec.pod_cidrs;
    if cidrs.is_empty() && !spec.pod_cidr.is_empty() {
        cidrs.push(spec.pod_cidr);
    }
    let mut pod_cidrs = Vec::new();
    for text in cidrs {
        match Cidr::parse_masking(&text) {
            Ok((cidr, _)) => pod_cidrs.push(cidr),
            Err(error) => oddities.push(Odd {
                path: "spec.podCIDRs".to_owned(),
                problem: error.to_string(),
                effect: "the range is left out",
            }),
        }
    }
    // Names among the addresses say nothing about packets (CNP-045).
    let addresses = status
        .addresses
        .iter()
        .filter(|address| matches!(address.kind.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|wire| address(&wire.address, "status.addresses", oddities))
        .collect();
    Ok(Node { meta: metadata.into_meta(), addresses, pod_cidrs })
}
