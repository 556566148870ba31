//! A pod reaches itself through a Service whatever isolates it, and nobody else gets in that way (NP-121, DEC-03).
//!
//! The Service is what a service proxy makes of it: destination NAT on the way in, and source NAT for what goes back to
//! where it came from.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use netpol_conformance::exam::Exam;
use netpol_conformance::netlab::End;
use netpol_core::ir::Settings;
use netpol_core::model::{ObjectRef, Protocol};
use netpol_ebpf::tc::Service;
use netpol_k8s::manifest::{ReadOptions, read_str};

use super::Backend;

const OBJECTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: 'fd01::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.1.1}, {ip: 'fd00::1:1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.1.2}, {ip: 'fd00::1:2'}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: nobody}, spec: {podSelector: {matchLabels: {}}, policyTypes: [Ingress]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: nowhere}, spec: {podSelector: {matchLabels: {}}, policyTypes: [Egress]}}
";

const SERVICES: &str = "
table inet services {
  chain in {
    type nat hook prerouting priority dstnat;
    ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.0.1.1:8080
    ip6 daddr fd96::1 tcp dport 80 dnat ip6 to [fd00::1:1]:8080
  }
  chain out {
    type nat hook postrouting priority srcnat;
    ip saddr 10.0.1.1 ip daddr 10.0.1.1 snat ip to 192.168.0.1
    ip6 saddr fd00::1:1 ip6 daddr fd00::1:1 snat ip6 to fd01::1
  }
}";

/// The same, for who must be told.
pub(super) fn services() -> Vec<Service> {
    let service = |from: &str, to: &str| Service {
        address: from.parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 80,
        backends: vec![(to.parse().unwrap(), 8080)],
    };
    vec![service("10.96.0.1", "10.0.1.1"), service("fd96::1", "fd00::1:1")]
}

pub(super) fn holds(backend: Backend) {
    let cluster = read_str("hairpin.yaml", OBJECTS, &ReadOptions::default()).unwrap().cluster;
    let exam = Exam::new(&cluster, Settings::default(), &[]).unwrap();
    let lab = exam.lab();
    let mut dataplane = backend();
    exam.enforce(&cluster, dataplane.as_mut()).unwrap();
    lab.in_node("n1", || nft(SERVICES)).unwrap();
    let [a, b] = ["a", "b"].map(|name| End::Pod(ObjectRef::new("default", name)));
    for (own, service) in [("10.0.1.1", "10.96.0.1"), ("fd00::1:1", "fd96::1")] {
        let at = |address: &str, port| SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
        let listener = lab.in_end(&a, || TcpListener::bind(at(own, 8080)).unwrap()).unwrap();
        let connects = |from, to: SocketAddr, patience| {
            let connect = move || TcpStream::connect_timeout(&to, patience).is_ok();
            lab.in_end(from, connect).unwrap()
        };
        let (long, short) = (Duration::from_secs(5), Duration::from_millis(1200));
        assert!(connects(&a, at(service, 80), long), "{own} reaches itself through {service}");
        assert!(!connects(&b, at(service, 80), short), "{own} is isolated, also behind {service}");
        assert!(!connects(&b, at(own, 8080), short), "{own} is isolated");
        drop(listener);
    }
    exam.remove(dataplane.as_mut()).unwrap();
    // Without policies both get there, so it was the rules that stopped the other.
    let listener = lab.in_end(&a, || TcpListener::bind("10.0.1.1:8080").unwrap()).unwrap();
    for end in [&a, &b] {
        let connect =
            || TcpStream::connect_timeout(&"10.96.0.1:80".parse().unwrap(), Duration::from_secs(5));
        assert!(lab.in_end(end, connect).unwrap().is_ok());
    }
    drop(listener);
}

fn nft(script: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
