//! The cluster that the upstream cases run on.

use alloc::collections::BTreeMap;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::num::NonZeroU16;

use netpol_core::model::{
    Cluster, Container, ContainerPort, Labels, Namespace, Node, ObjectMeta, ObjectRef, Phase, Pod,
    Protocol,
};

use super::{NAMES, NAMESPACES};

/// Returns the nine pods of the scenarios with both families, pod `a` of each namespace on `node-a` and so on.
#[must_use]
pub fn nine_pods() -> Cluster {
    let mut cluster = Cluster::default();
    for (number, name) in (1_u8..).zip(NAMES) {
        let object = ObjectRef::cluster_scoped(&format!("node-{name}"));
        let addresses = vec![
            IpAddr::V4(Ipv4Addr::new(192, 168, 0, number)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x192, 0x168, 0, 0, 0, 0, number.into())),
        ];
        let meta = ObjectMeta { object: object.clone(), ..ObjectMeta::default() };
        cluster.nodes.insert(object.name, Node { meta, addresses, ..Node::default() });
    }
    for (subnet, namespace) in (1_u8..).zip(NAMESPACES) {
        cluster.namespaces.insert(namespace.into(), Namespace::new(namespace, Labels::default()));
        for (number, name) in (1_u8..).zip(NAMES) {
            let labels = Labels(BTreeMap::from([("pod".into(), name.into())]));
            let pod = Pod {
                meta: ObjectMeta::new(namespace, name, labels),
                node: Some(format!("node-{name}").into()),
                phase: Phase::Running,
                addresses: vec![
                    IpAddr::V4(Ipv4Addr::new(10, 244, subnet, number)),
                    IpAddr::V6(Ipv6Addr::new(
                        0xfd00,
                        0x10,
                        0x244,
                        subnet.into(),
                        0,
                        0,
                        0,
                        number.into(),
                    )),
                ],
                containers: vec![Container::Main(served_ports())],
                ..Pod::default()
            };
            cluster.pods.insert(pod.meta.object.clone(), pod);
        }
    }
    cluster
}

/// `serve-80-tcp` and its five siblings.
fn served_ports() -> Vec<ContainerPort> {
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let ports = [80_u16, 81].into_iter().filter_map(NonZeroU16::new);
    ports
        .flat_map(|port| {
            protocols.map(|protocol| ContainerPort {
                name: Some(format!("serve-{port}-{}", protocol.to_string().to_lowercase()).into()),
                port,
                protocol,
            })
        })
        .collect()
}
