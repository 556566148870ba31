//! Pods: nine fields of some hundred.

use alloc::sync::Arc;
use core::net::IpAddr;
use core::num::NonZeroU16;

use netpol_core::model::{Container, ContainerPort, Phase, Pod, Protocol};
use serde::Deserialize;

use super::Odd;
use super::metadata::{Metadata, nullable};

#[derive(Deserialize)]
struct Wire {
    metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    spec: Spec,
    #[serde(default, deserialize_with = "nullable")]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(deserialize_with = "nullable")]
    node_name: String,
    #[serde(deserialize_with = "nullable")]
    host_network: bool,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<WireContainer>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<WireContainer>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireContainer {
    #[serde(deserialize_with = "nullable")]
    restart_policy: String,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<WirePort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WirePort {
    name: Option<Arc<str>>,
    container_port: i64,
    #[serde(deserialize_with = "nullable")]
    protocol: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    #[serde(deserialize_with = "nullable")]
    phase: String,
    #[serde(rename = "podIP", deserialize_with = "nullable")]
    pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pod_ips: Vec<WireAddress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireAddress {
    #[serde(deserialize_with = "nullable")]
    ip: String,
}

pub(crate) fn read(text: &str, oddities: &mut Vec<Odd>) -> Result<Pod, serde_json::Error> {
    let Wire { metadata, spec, status } = serde_json::from_str(text)?;
    let main = spec.containers.into_iter();
    let mut containers: Vec<Container> =
        main.map(|container| Container::Main(ports(container.ports, oddities))).collect();
    containers.extend(spec.init_containers.into_iter().map(|container| {
        let ports = ports(container.ports, oddities);
        // A sidecar is an init container that never ends (NP-091).
        if container.restart_policy == "Always" {
            Container::Sidecar(ports)
        } else {
            Container::Init(ports)
        }
    }));
    containers.retain(|container| match container {
        Container::Main(ports) | Container::Sidecar(ports) | Container::Init(ports) => {
            !ports.is_empty()
        }
    });
    // `podIPs` holds `podIP` as its first entry wherever both are there (NP-134).
    let mut texts: Vec<String> = status.pod_ips.into_iter().map(|address| address.ip).collect();
    if texts.is_empty() {
        texts.push(status.pod_ip);
    }
    let texts = texts.iter().filter(|text| !text.is_empty());
    let addresses = texts.filter_map(|text| address(text, "status.podIPs", oddities)).collect();
    Ok(Pod {
        node: (!spec.node_name.is_empty()).then(|| spec.node_name.into()),
        host_network: spec.host_network,
        phase: match status.phase.as_str() {
            "Pending" => Phase::Pending,
            "Running" => Phase::Running,
            "Succeeded" => Phase::Succeeded,
            "Failed" => Phase::Failed,
            _ => Phase::Unknown,
        },
        terminating: metadata.deletion_timestamp.is_some(),
        meta: metadata.into_meta(),
        addresses,
        containers,
        workload: None,
    })
}

pub(super) fn address(text: &str, path: &str, oddities: &mut Vec<Odd>) -> Option<IpAddr> {
    let address = text.parse().ok().filter(|address| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
    });
    if address.is_none() {
        oddities.push(Odd {
            path: path.to_owned(),
            problem: format!("`{text}` is not an address"),
            effect: "the address is left out",
        });
    }
    address
}

/// Ports matter by name only; one that no name can resolve to is left out.
fn ports(ports: Vec<WirePort>, oddities: &mut Vec<Odd>) -> Vec<ContainerPort> {
    let named =
        ports.into_iter().filter(|port| port.name.as_deref().is_some_and(|n| !n.is_empty()));
    named
        .filter_map(|port| {
            let number = u16::try_from(port.container_port).ok().and_then(NonZeroU16::new);
            let protocol = match port.protocol.as_str() {
                "" => Some(Protocol::Tcp),
                text => Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == text),
            };
            if number.is_none() || protocol.is_none() {
                oddities.push(Odd {
                    path: "spec.containers.ports".to_owned(),
                    problem: format!("`{}/{}` is not a port", port.container_port, port.protocol),
                    effect: "no name resolves to it",
                });
            }
            Some(ContainerPort { name: port.name, port: number?, protocol: protocol? })
        })
        .collect()
}
