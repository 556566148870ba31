//! The cluster that the tests run on.

use core::net::IpAddr;
use core::num::NonZeroU16;
use std::process::Command;

use netpol_conformance::netlab::{End, HostPod, Lab, Plan, PlannedNode, PlannedPod, did_not_run};
use netpol_core::model::ObjectRef;

/// Two nodes with three pods each, one of them IPv4 only and one IPv6 only, and hosts outside.
pub(crate) fn six_pods() -> Plan {
    let pod = |name, node: &str, addresses: &[&str]| PlannedPod {
        pod: ObjectRef::new("x", name),
        node: node.into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    Plan {
        nodes: vec![
            PlannedNode { name: "one".into(), addresses: vec![ip("192.168.7.1"), ip("fd00:7::1")] },
            PlannedNode { name: "two".into(), addresses: vec![ip("192.168.7.2"), ip("fd00:7::2")] },
        ],
        pods: vec![
            pod("a", "one", &["10.1.0.1", "fd00:1::1"]),
            pod("b", "one", &["10.1.0.2", "fd00:1::2"]),
            pod("c", "one", &["10.1.0.3"]),
            pod("d", "two", &["10.1.1.1", "fd00:1:1::1"]),
            pod("e", "two", &["10.1.1.2", "fd00:1:1::2"]),
            pod("f", "two", &["fd00:1:1::3"]),
        ],
        host_pods: vec![HostPod { pod: ObjectRef::new("x", "agent"), node: "two".into() }],
        externals: vec![ip("172.17.5.9"), ip("2001:db8::9")],
    }
}

/// Every end of a lab of [`six_pods`].
pub(crate) fn ends(lab: &Lab) -> Vec<End> {
    let pods = lab.pods().cloned().map(End::Pod);
    let nodes = lab.nodes().cloned().map(End::Node);
    let externals = six_pods().externals.into_iter().map(End::External);
    pods.chain(nodes).chain(externals).collect()
}

/// Pod `x/name`.
pub(crate) fn pod(name: &str) -> End {
    End::Pod(ObjectRef::new("x", name))
}

/// An address.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A port.
pub(crate) const fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// Applies an nft script to a node. Returns false, having said so, where there is no `nft`.
pub(crate) fn nft(lab: &Lab, node: &str, script: &str) -> bool {
    if Command::new("nft").arg("--version").output().is_err() {
        did_not_run("a part with rules", "there is no `nft` command");
        return false;
    }
    let output = lab.in_node(node, || Command::new("nft").arg(script).output()).unwrap().unwrap();
    assert!(output.status.success(), "nft {script}: {}", String::from_utf8_lossy(&output.stderr));
    true
}
