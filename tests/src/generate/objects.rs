//! Namespaces, nodes and pods.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::model::{
    Cluster, Container, ContainerPort, Namespace, Node, ObjectMeta, Phase, Pod,
};

use super::vocabulary::{
    NAMESPACES, PORT_NAMES, is_odd, labels, node_address, number, pod_address, protocol,
};
use super::{Random, Shape};

const POD_NAMES: [&str; 16] =
    ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
const NODE_NAMES: [&str; 3] = ["n0", "n1", "n2"];

/// Declares most of the namespaces that will be used; returns the names of all of them.
pub(super) fn namespaces(random: &mut Random, cluster: &mut Cluster) -> Vec<&'static str> {
    let count = random.between(1, NAMESPACES.len());
    let used: Vec<&str> = NAMESPACES.into_iter().take(count).collect();
    for name in &used {
        // OFF-003: some are only mentioned.
        if !random.one_in(6) {
            let labels = labels(random);
            cluster.namespaces.insert((*name).into(), Namespace::new(name, labels));
        }
    }
    used
}

pub(super) fn nodes(random: &mut Random, cluster: &mut Cluster) {
    for (index, name) in NODE_NAMES.into_iter().enumerate() {
        if random.one_in(5) {
            continue;
        }
        let addresses: Vec<IpAddr> = match random.below(8) {
            0 => Vec::new(),
            1 => [node_address(index, 0)].into(),
            2 => [node_address(index, 1)].into(),
            3 => {
                [node_address(index, 1), node_address(index + 4, 0), node_address(index, 0)].into()
            }
            _ => [node_address(index, 0), node_address(index, 1)].into(),
        };
        let mut meta = ObjectMeta::new("", name, labels(random));
        meta.object.name = name.into();
        cluster.nodes.insert(name.into(), Node { meta, addresses, pod_cidrs: Vec::new() });
    }
}

pub(super) fn pods(random: &mut Random, cluster: &mut Cluster, namespaces: &[&str], shape: Shape) {
    let mut taken: Vec<IpAddr> = Vec::new();
    for _ in 0..random.between(shape.pods / 3, shape.pods).max(1) {
        let Some(namespace) = random.pick_from(namespaces) else { return };
        let name = random.pick(POD_NAMES);
        let meta = ObjectMeta {
            created: random
                .pick([None, Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z")])
                .map(Arc::from),
            ..ObjectMeta::new(namespace, name, labels(random))
        };
        let node: Option<Arc<str>> = match random.below(12) {
            0 => None,
            1 if random.one_in(3) => Some("ghost".into()),
            _ => Some(random.pick(NODE_NAMES).into()),
        };
        let host_network = random.one_in(12);
        let node_addresses = node
            .as_ref()
            .and_then(|name| cluster.nodes.get(name))
            .map(|node| node.addresses.clone())
            .unwrap_or_default();
        // On a live cluster an address may be a node's and a pod's for a moment.
        let has_node_addresses =
            if host_network { !random.one_in(4) } else { is_odd(random, shape.oddities) };
        let addresses =
            if has_node_addresses { node_addresses } else { pod_addresses(random, &taken) };
        taken.extend(&addresses);
        let pod = Pod {
            meta,
            node,
            host_network,
            phase: random.pick([
                Phase::Running,
                Phase::Running,
                Phase::Running,
                Phase::Running,
                Phase::Running,
                Phase::Running,
                Phase::Running,
                Phase::Running,
                Phase::Pending,
                Phase::Unknown,
                Phase::Succeeded,
                Phase::Failed,
            ]),
            terminating: random.one_in(8),
            addresses,
            containers: (0..random.below(4)).map(|_| container(random)).collect(),
            workload: None,
        };
        cluster.pods.insert(pod.meta.object.clone(), pod);
    }
}

/// None, one or both families, sometimes more; now and then one that another pod has already (NP-137, NP-140).
fn pod_addresses(random: &mut Random, taken: &[IpAddr]) -> Vec<IpAddr> {
    let families: &[usize] = match random.below(10) {
        0 => &[],
        1 | 2 => &[0],
        3 => &[1],
        4 => &[1, 0],
        5 => &[0, 1, 0],
        _ => &[0, 1],
    };
    let mut addresses = Vec::new();
    for family in families {
        let again = random.one_in(6);
        let mut address = pod_address(random, *family);
        for _ in 0..8 {
            if again || !taken.contains(&address) {
                break;
            }
            address = pod_address(random, *family);
        }
        addresses.push(address);
    }
    addresses
}

fn container(random: &mut Random) -> Container {
    let ports = (0..random.below(4))
        .map(|_| ContainerPort {
            name: (!random.one_in(6)).then(|| random.pick(PORT_NAMES).into()),
            port: number(random),
            protocol: protocol(random),
        })
        .collect();
    match random.below(5) {
        0 => Container::Init(ports),
        1 => Container::Sidecar(ports),
        _ => Container::Main(ports),
    }
}
