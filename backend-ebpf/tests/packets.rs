//! Odd packets, one by one: shown to the program in the kernel (`BPF_PROG_TEST_RUN`), and ICMP errors for real.
#![expect(clippy::unwrap_used, reason = "test support")]

extern crate alloc;

#[path = "support/bpf.rs"]
mod bpf;

use core::time::Duration;
use std::net::UdpSocket;

use netpol_conformance::netlab::{Lab, Plan, PlannedNode, PlannedPod};
use netpol_core::backend::{Backend as _, Dataplane as _};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Ruleset, Scope, Verdict};
use netpol_core::model::ObjectRef;
use netpol_ebpf::image::Hook;
use netpol_ebpf::{Ebpf, EbpfDataplane, Kernel, Loaded};
use netpol_k8s::manifest::{ReadOptions, read_str};

/// Pods `a` (10.1.0.1, fd00::1) and `b` (10.1.0.2, fd00::2): `b` takes TCP 80 and everything of SCTP's from `a`, `a`
/// takes nothing.
fn ruleset() -> Ruleset {
    let pod = |name, number| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: x, name: {name}, labels: {{name: {name}}}}}\n\
             spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}\n\
             status: {{phase: Running, podIPs: [{{ip: 10.1.0.{number}}}, {{ip: 'fd00::{number}'}}]}}\n"
        )
    };
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n{}{}---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: x, name: b}}\n\
         spec:\n  podSelector: {{matchLabels: {{name: b}}}}\n  ingress:\n  \
         - from: [{{podSelector: {{matchLabels: {{name: a}}}}}}]\n    \
         ports: [{{protocol: TCP, port: 80}}, {{protocol: UDP, port: 9}}, {{protocol: SCTP}}]\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: x, name: a}}\n\
         spec:\n  podSelector: {{matchLabels: {{name: a}}}}\n",
        pod("a", 1),
        pod("b", 2)
    );
    let manifests = read_str("p.yaml", &text, &ReadOptions::default()).unwrap();
    let options = Options { scope: Scope::Node("node".into()), ..Options::default() };
    compile(&manifests.cluster, &options).ruleset
}

const TCP: u8 = 6;
const SCTP: u8 = 132;

/// An Ethernet frame from `a` to `b` with this first byte, fragment field and protocol of an IPv4 header.
fn v4(first: u8, fragment: u16, protocol: u8, rest: &[&[u8]]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, first, 0, 0, 60, 0, 7]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0, 10, 1, 0, 1, 10, 1, 0, 2]);
    frame.extend(rest.concat());
    frame
}

/// As above, of IPv6: what comes behind the fixed header, and what that is.
fn v6(next: u8, rest: &[&[u8]]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, next, 64]);
    for last in [1, 2] {
        frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    frame.extend(rest.concat());
    frame
}

/// The beginning of a segment to this port.
const fn to_port(port: u8) -> [u8; 20] {
    [0x80, 0, 0, port, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]
}

#[test]
fn every_odd_packet_is_judged_by_what_can_be_read_of_it() {
    bpf::kernel_test("odd packets", || {
        use Verdict::{Allow, Deny};
        let kernel = Kernel::probe().unwrap();
        let image = Ebpf::default().lower(&ruleset()).unwrap();
        let loaded = Loaded::load(&kernel, &image).unwrap();
        let (open, closed) = (&to_port(80)[..], &to_port(81)[..]);
        // A destination option header, and a fragment header of this offset and flags, each before `next`.
        let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
        let fragment = |next: u8, field: u16| {
            let [high, low] = field.to_be_bytes();
            [next, 0, high, low, 0, 0, 0, 7]
        };
        let no_operation = [1; 40];
        let cases: &[(&str, Vec<u8>, Verdict)] = &[
            ("v4: an open port", v4(0x45, 0, TCP, &[open]), Allow),
            ("v4: a closed port", v4(0x45, 0, TCP, &[closed]), Deny),
            ("v6: an open port", v6(TCP, &[open]), Allow),
            ("v6: a closed port", v6(TCP, &[closed]), Deny),
            ("v4: the port behind options", v4(0x4f, 0, TCP, &[&no_operation, open]), Allow),
            ("v4: an open port in the options", v4(0x4a, 0, TCP, &[open, closed]), Deny),
            ("v4: a header of four words", v4(0x44, 0, TCP, &[open]), Deny),
            ("v4: the first fragment", v4(0x45, 0x2000, TCP, &[open]), Allow),
            ("v4: the first fragment, closed", v4(0x45, 0x2000, TCP, &[closed]), Deny),
            ("v4: a later fragment like a header", v4(0x45, 0x2001, TCP, &[open]), Deny),
            ("v4: the last fragment", v4(0x45, 0x00ff, TCP, &[open]), Deny),
            ("v4: a later fragment, all ports open", v4(0x45, 0x00ff, SCTP, &[closed]), Allow),
            ("v4: cut in the ports", v4(0x45, 0, TCP, &[&[0x80, 0, 0]]), Deny),
            ("v4: nothing behind the header", v4(0x45, 0, TCP, &[]), Deny),
            ("v4: cut in the options", v4(0x4f, 0, TCP, &[&no_operation[..8]]), Deny),
            ("v4: cut, all ports open", v4(0x45, 0, SCTP, &[&[0x80]]), Deny),
            ("v4: echo", v4(0x45, 0, 1, &[&[8, 0, 0, 0, 0, 1, 0, 1]]), Deny),
            ("v4: an ICMP error of nothing", v4(0x45, 0, 1, &[&[3, 4, 0, 0, 0, 0, 5, 0]]), Deny),
            ("v4: IGMP", v4(0x45, 0, 2, &[&[0x16, 0, 0, 0]]), Deny),
            ("v4: GRE", v4(0x45, 0, 47, &[open]), Deny),
            ("v4: a protocol of nobody", v4(0x45, 0, 253, &[open]), Deny),
            ("v4: neighbour discovery is IPv6's", v4(0x45, 0, 58, &[&[135, 0, 0, 0]]), Deny),
            ("v6: the port behind options", v6(60, &[&options(TCP), open]), Allow),
            ("v6: a closed one behind options", v6(60, &[&options(TCP), closed]), Deny),
            (
                "v6: hop by hop, routing, options",
                { v6(0, &[&options(43), &options(60), &options(TCP), open]) },
                Allow,
            ),
            ("v6: the first fragment", v6(44, &[&fragment(TCP, 1), open]), Allow),
            ("v6: the first fragment, closed", v6(44, &[&fragment(TCP, 1), closed]), Deny),
            ("v6: a fragment of the whole", v6(44, &[&fragment(TCP, 0), open]), Allow),
            ("v6: a later fragment like a header", v6(44, &[&fragment(TCP, 9), open]), Deny),
            ("v6: a later fragment, all ports open", v6(44, &[&fragment(SCTP, 8), open]), Allow),
            ("v6: a later fragment of options", v6(44, &[&fragment(60, 8), &options(SCTP)]), Deny),
            (
                "v6: nine headers",
                v6(60, &[&[60, 0, 1, 4, 0, 0, 0, 0].repeat(8), &options(TCP), open]),
                Deny,
            ),
            ("v6: cut in an extension header", v6(60, &[&[TCP, 0]]), Deny),
            ("v6: cut in the ports", v6(TCP, &[&[0x80, 0, 0]]), Deny),
            ("v6: no next header", v6(59, &[]), Deny),
            ("v6: encrypted", v6(50, &[open]), Deny),
            ("v6: echo", v6(58, &[&[128, 0, 0, 0]]), Deny),
            ("v6: an ICMPv6 error of nothing", v6(58, &[&[2, 0, 0, 0, 0, 0, 5, 0]]), Deny),
            ("v6: ICMPv6 cut before its type", v6(58, &[]), Deny),
            ("v6: a neighbour solicitation", v6(58, &[&[135, 0, 0, 0]]), Allow),
            ("v6: a router advertisement", v6(58, &[&[134, 0, 0, 0]]), Allow),
            ("v6: a redirect", v6(58, &[&[137, 0, 0, 0]]), Allow),
            ("v6: one behind that is no discovery", v6(58, &[&[138, 0, 0, 0]]), Deny),
            ("v6: a listener report, forwarded", v6(58, &[&[143, 0, 0, 0]]), Deny),
            ("v6: a solicitation behind options", v6(60, &[&options(58), &[135, 0, 0, 0]]), Allow),
            ("v6: a later fragment like one", v6(44, &[&fragment(58, 8), &[135, 0, 0, 0]]), Deny),
        ];
        for (name, frame, expected) in cases {
            assert_eq!(loaded.ask(Hook::Forward, frame).unwrap(), *expected, "{name}");
        }
        // To the node itself, nothing is asked of `a`: listener reports, discovery and the rest.
        for (name, frame, _) in cases {
            assert_eq!(loaded.ask(Hook::LocalIn, frame).unwrap(), Allow, "{name}");
        }
    });
}

#[test]
fn icmp_errors_of_allowed_traffic_pass_and_others_do_not() {
    bpf::kernel_test("ICMP errors", || {
        let pod = |name, addresses: [&str; 2]| PlannedPod {
            pod: ObjectRef::new("x", name),
            node: "node".into(),
            addresses: addresses.map(|text| text.parse().unwrap()).to_vec(),
        };
        let addresses = vec!["192.168.7.1".parse().unwrap()];
        let lab = Lab::build(&Plan {
            nodes: vec![PlannedNode { name: "node".into(), addresses }],
            pods: vec![pod("a", ["10.1.0.1", "fd00::1"]), pod("b", ["10.1.0.2", "fd00::2"])],
            ..Plan::default()
        })
        .unwrap();
        let mut dataplane = EbpfDataplane::default();
        lab.in_node("node", || dataplane.sync(&ruleset())).unwrap().unwrap();
        // Nobody listens: the answer is an ICMP error, and `a` takes nothing but what is related to its traffic.
        let ask = |to: &'static str| {
            lab.in_pod(&ObjectRef::new("x", "a"), move || {
                let here = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(here).unwrap();
                socket.connect(to).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
                socket.send(&[1]).unwrap();
                socket.recv(&mut [0]).unwrap_err().kind()
            })
            .unwrap()
        };
        for to in ["10.1.0.2:9", "[fd00::2]:9"] {
            assert_eq!(ask(to), std::io::ErrorKind::ConnectionRefused, "{to}");
        }
        for to in ["10.1.0.2:10", "[fd00::2]:10"] {
            assert_eq!(ask(to), std::io::ErrorKind::WouldBlock, "{to}");
        }
    });
}
