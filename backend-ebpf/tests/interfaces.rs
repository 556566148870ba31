//! Packets at the interfaces of pods, one after another: what is remembered of connections, fragments, errors, Services.
//!
//! They are shown to the program in the kernel (`BPF_PROG_TEST_RUN`), each where it would come by.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test support")]

extern crate alloc;

#[path = "support/bpf.rs"]
mod bpf;

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use netpol_core::backend::Backend as _;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Scope, Verdict};
use netpol_core::model::Protocol;
use netpol_ebpf::tc::{Service, Side, Surroundings, Times};
use netpol_ebpf::{Ebpf, Loaded};
use netpol_k8s::manifest::{ReadOptions, read_str};

use Side::{FromPod, ToPod, ToPodBack, ToPodByNode};
use Verdict::{Allow, Deny};

/// `a` takes nothing; `b` takes TCP 80 and UDP 9 from `a`; `c` takes and sends nothing; `d` sends to `b`, TCP 8080.
const OBJECTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: node}, status: {addresses: [{type: InternalIP, address: 192.168.7.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: a}}, spec: {nodeName: node, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, labels: {app: b}}, spec: {nodeName: node, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.1.0.2}, {ip: 'fd00::2'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, labels: {app: c}}, spec: {nodeName: node, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.1.0.3}, {ip: 'fd00::3'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: d, labels: {app: d}}, spec: {nodeName: node, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.1.0.4}, {ip: 'fd00::4'}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: b}, spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 80}, {protocol: UDP, port: 9}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: c}, spec: {podSelector: {matchLabels: {app: c}}, policyTypes: [Ingress, Egress]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: d}, spec: {podSelector: {matchLabels: {app: d}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: 8080}]}]}}
";

const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const C: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
const D: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 4);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

fn load(surroundings: Surroundings) -> Loaded {
    load_all(OBJECTS, surroundings)
}

fn load_all(objects: &str, surroundings: Surroundings) -> Loaded {
    let cluster = read_str("p.yaml", objects, &ReadOptions::default()).unwrap().cluster;
    let options = Options { scope: Scope::Node("node".into()), ..Options::default() };
    let image = Ebpf::default().lower(&compile(&cluster, &options).ruleset).unwrap();
    let own = [IpAddr::from(NODE)].into();
    Loaded::load_at_interfaces(&image, &Surroundings { own, ..surroundings }).unwrap()
}

fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    [&[0; 12][..], &kind.to_be_bytes(), rest].concat()
}

/// An IPv4 packet with this identification and fragment field.
fn v4(ends: [Ipv4Addr; 2], protocol: u8, [number, fragment]: [u16; 2], rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 60];
    packet.extend(number.to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(ends.iter().flat_map(Ipv4Addr::octets));
    packet.extend(rest);
    packet
}

/// The beginning of a transport header: ports, and the flags of TCP.
fn ports(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut header = [from.to_be_bytes(), to.to_be_bytes()].concat();
    header.resize(20, 0);
    header[12] = 0x50;
    header[13] = flags;
    header
}

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn tcp(from: Ipv4Addr, to: Ipv4Addr, [source, port]: [u16; 2], flags: u8) -> Vec<u8> {
    ethernet(0x0800, &v4([from, to], 6, [1, 0], &ports(source, port, flags)))
}

fn udp(from: Ipv4Addr, to: Ipv4Addr, [source, port]: [u16; 2]) -> Vec<u8> {
    ethernet(0x0800, &v4([from, to], 17, [1, 0], &ports(source, port, 0)))
}

fn icmp(from: Ipv4Addr, to: Ipv4Addr, kind: u8, number: u16, rest: &[u8]) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let message = [&[kind, 0, 0, 0, high, low, 0, 1], rest].concat();
    ethernet(0x0800, &v4([from, to], 1, [1, 0], &message))
}

#[track_caller]
fn check(loaded: &Loaded, what: &str, side: Side, frame: &[u8], expected: Verdict) {
    assert_eq!(loaded.ask_at(side, frame).unwrap(), expected, "{what}");
}

#[test]
fn answers_pass_and_what_opens_a_connection_is_judged() {
    bpf::kernel_test("answers at interfaces", || {
        let loaded = load(Surroundings::default());
        let check =
            |what, side, frame: Vec<u8>, expected| check(&loaded, what, side, &frame, expected);
        check("an answer to nothing", ToPod, tcp(B, A, [80, 1000], SYN | ACK), Deny);
        check("a opens", FromPod, tcp(A, B, [1000, 80], SYN), Allow);
        check("b is opened to", ToPod, tcp(A, B, [1000, 80], SYN), Allow);
        check("b answers", FromPod, tcp(B, A, [80, 1000], SYN | ACK), Allow);
        check("a is answered", ToPod, tcp(B, A, [80, 1000], SYN | ACK), Allow);
        check("a goes on", ToPod, tcp(A, B, [1000, 80], ACK), Allow);
        check("another port of a's", ToPod, tcp(B, A, [80, 1001], ACK), Deny);
        check("another port of b's", ToPod, tcp(B, A, [81, 1000], ACK), Deny);
        check("another one answers", ToPod, tcp(C, A, [80, 1000], ACK), Deny);
        check("another protocol", ToPod, udp(B, A, [80, 1000]), Deny);
        check("b opens on the same ports", ToPod, tcp(B, A, [80, 1000], SYN), Deny);
        check("and that ended nothing", ToPod, tcp(B, A, [80, 1000], ACK), Allow);
        check("an end of nothing", FromPod, tcp(A, B, [1007, 80], RST), Allow);
        check("opens nothing", ToPod, tcp(B, A, [80, 1007], ACK), Deny);
        // Both sides are judged at either interface, so that the last one decides by one ruleset.
        check("b does not take it", FromPod, tcp(A, B, [1000, 81], SYN), Deny);
        check("nor there", ToPod, tcp(A, B, [1000, 81], SYN), Deny);
        check("and was not opened to", ToPod, tcp(A, B, [1000, 81], ACK), Deny);
        check("c does not send it", FromPod, tcp(C, D, [1000, 80], SYN), Deny);
        check("wherever it is seen", ToPod, tcp(C, D, [1000, 80], SYN), Deny);
        check("d takes anything", ToPod, tcp(A, D, [1000, 80], SYN), Allow);
        // What the peer does not take opens nothing that could be answered.
        check("a tries b", FromPod, udp(A, B, [7, 8]), Deny);
        check("no answer", ToPod, udp(B, A, [8, 7]), Deny);
        check("c sends nothing", FromPod, tcp(C, WORLD, [1, 80], SYN), Deny);
        check("a datagram", FromPod, udp(A, WORLD, [5, 53]), Allow);
        check("its answer", ToPod, udp(WORLD, A, [53, 5]), Allow);
        check("one of its own", ToPod, udp(WORLD, A, [53, 6]), Deny);
        check(
            "a protocol without ports",
            FromPod,
            ethernet(0x0800, &v4([A, WORLD], 47, [1, 0], &[0; 8])),
            Allow,
        );
        check("its answer", ToPod, ethernet(0x0800, &v4([WORLD, A], 47, [1, 0], &[0; 8])), Allow);
        check(
            "another protocol",
            ToPod,
            ethernet(0x0800, &v4([WORLD, A], 50, [1, 0], &[0; 8])),
            Deny,
        );
        for number in [0, 7] {
            check("an answer to no echo", ToPod, icmp(WORLD, A, 0, number, &[]), Deny);
            check("echo", FromPod, icmp(A, WORLD, 8, number, &[]), Allow);
            check("its answer", ToPod, icmp(WORLD, A, 0, number, &[]), Allow);
            check("a question of the other's", ToPod, icmp(WORLD, A, 8, number, &[]), Deny);
        }
    });
}

/// While one ruleset replaces the other, a packet can meet either at each of its two interfaces, in any order.
#[test]
fn what_two_rulesets_deny_at_different_ends_passes_between_none_of_them() {
    bpf::kernel_test("two rulesets", || {
        let pods = |policy: &str| {
            let (pods, _) = OBJECTS.split_once("---\n{apiVersion: networking").unwrap();
            let policy = format!(
                "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p}}, spec: {policy}}}\n"
            );
            load_all(&[pods, &policy].concat(), Surroundings::default())
        };
        let rulesets = [
            pods("{podSelector: {matchLabels: {app: d}}, policyTypes: [Ingress]}"),
            pods("{podSelector: {matchLabels: {app: c}}, policyTypes: [Egress]}"),
        ];
        for (leaves, arrives) in [(0, 1), (1, 0)] {
            let passes = |opens: &[(Side, Vec<u8>)]| {
                opens.iter().zip([leaves, arrives]).all(|((side, frame), ruleset)| {
                    rulesets[ruleset].ask_at(*side, frame).unwrap() == Allow
                })
            };
            for frame in [tcp(C, D, [1, 80], SYN), udp(C, D, [1, 53])] {
                assert!(!passes(&[(FromPod, frame.clone()), (ToPod, frame)]), "{leaves} first");
            }
            let frame = tcp(A, B, [1, 80], SYN);
            assert!(passes(&[(FromPod, frame.clone()), (ToPod, frame)]), "both allow it");
        }
    });
}

#[test]
fn nobody_opens_connections_in_the_name_of_another_pod() {
    bpf::kernel_test("other pods' addresses", || {
        // Packets are shown at interface 1.
        let places = [(IpAddr::from(A), 7), (IpAddr::from(B), 1)].into();
        let loaded = load(Surroundings { places, ..Surroundings::default() });
        check(&loaded, "not a's interface", FromPod, &tcp(A, WORLD, [1, 80], SYN), Deny);
        check(&loaded, "the answer", ToPod, &tcp(WORLD, A, [80, 1], ACK), Deny);
        check(&loaded, "b's own", FromPod, &tcp(B, WORLD, [1, 80], SYN), Allow);
        check(&loaded, "the answer", ToPod, &tcp(WORLD, B, [80, 1], ACK), Allow);
    });
}

#[test]
fn what_is_not_seen_for_a_while_is_forgotten() {
    bpf::kernel_test("forgetting", || {
        let times = Times { unanswered: Duration::from_millis(1), ..Times::default() };
        let loaded = load(Surroundings { times, ..Surroundings::default() });
        check(&loaded, "a datagram", FromPod, &udp(A, WORLD, [5, 53]), Allow);
        std::thread::sleep(Duration::from_millis(5));
        check(&loaded, "a late answer", ToPod, &udp(WORLD, A, [53, 5]), Deny);
    });
}

#[test]
fn the_node_itself_may_and_is_answered() {
    bpf::kernel_test("the node at interfaces", || {
        let loaded = load(Surroundings::default());
        // Recognised by where the packet is from, not by its address (NP-125).
        check(&loaded, "the node's address", ToPod, &tcp(NODE, C, [1, 22], SYN), Deny);
        check(&loaded, "c to anybody", FromPod, &tcp(C, WORLD, [22, 1], ACK), Deny);
        check(&loaded, "the node", ToPodByNode, &tcp(WORLD, C, [1, 22], SYN), Allow);
        check(&loaded, "is answered", FromPod, &tcp(C, WORLD, [22, 1], SYN | ACK), Allow);
        check(&loaded, "c opens on the same ports", FromPod, &tcp(C, WORLD, [22, 1], SYN), Deny);
        // DEC-01.
        check(&loaded, "c to the node", FromPod, &tcp(C, NODE, [1, 22], SYN), Allow);
    });
}

#[test]
fn later_fragments_go_where_the_first_one_went() {
    bpf::kernel_test("fragments at interfaces", || {
        let loaded = load(Surroundings::default());
        let fragment = |number, field, port| {
            ethernet(0x0800, &v4([A, B], 17, [number, field], &ports(1, port, 0)))
        };
        check(&loaded, "a later one alone", ToPod, &fragment(7, 0x2010, 9), Deny);
        check(&loaded, "the first, open", ToPod, &fragment(7, 0x2000, 9), Allow);
        check(&loaded, "the second", ToPod, &fragment(7, 0x2010, 0), Allow);
        check(&loaded, "the last", ToPod, &fragment(7, 0x0020, 0), Allow);
        check(&loaded, "of another datagram", ToPod, &fragment(8, 0x0020, 9), Deny);
        check(&loaded, "the first, closed", ToPod, &fragment(9, 0x2000, 10), Deny);
        check(&loaded, "the second", ToPod, &fragment(9, 0x0010, 9), Deny);
        let v6 = |offset: u8, port| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 40, 44, 64];
            for last in [1, 2] {
                packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
            packet.extend([17, 0, 0, offset, 0, 0, 0, 7]);
            packet.extend(ports(1, port, 0));
            ethernet(0x86dd, &packet)
        };
        check(&loaded, "v6: a later one alone", ToPod, &v6(0x09, 9), Deny);
        check(&loaded, "v6: the first", ToPod, &v6(0x01, 9), Allow);
        check(&loaded, "v6: the second", ToPod, &v6(0x09, 0), Allow);
    });
}

#[test]
fn errors_pass_if_they_are_about_a_connection_of_the_pod() {
    bpf::kernel_test("ICMP errors at interfaces", || {
        let loaded = load(Surroundings::default());
        let about = |ends, numbers: [u16; 2]| {
            let [source, port] = numbers;
            v4(ends, 6, [1, 0], &ports(source, port, ACK)[..8])
        };
        let error = |to, quoted: &[u8]| icmp(WORLD, to, 3, 0, quoted);
        check(&loaded, "of nothing", ToPod, &error(A, &about([A, B], [1000, 80])), Deny);
        check(&loaded, "a opens", FromPod, &tcp(A, B, [1000, 80], SYN), Allow);
        check(&loaded, "of that", ToPod, &error(A, &about([A, B], [1000, 80])), Allow);
        check(&loaded, "of another port", ToPod, &error(A, &about([A, B], [1001, 80])), Deny);
        check(&loaded, "of what a got", ToPod, &error(A, &about([B, A], [80, 1000])), Deny);
        check(&loaded, "to another pod", ToPod, &error(C, &about([A, B], [1000, 80])), Deny);
        check(&loaded, "cut", ToPod, &error(A, &about([A, B], [1000, 80])[..22]), Deny);
        // An error opens nothing: neither an echo nor what it quotes.
        check(&loaded, "an echo answer", ToPod, &icmp(WORLD, A, 0, 0, &[]), Deny);
        check(&loaded, "b is opened to", ToPod, &tcp(A, B, [1000, 80], SYN), Allow);
        check(
            &loaded,
            "c tells of nothing",
            FromPod,
            &icmp(C, A, 3, 0, &about([A, C], [1, 2])),
            Deny,
        );
    });
}

#[test]
fn what_a_pod_sends_to_itself_through_a_service_comes_back() {
    bpf::kernel_test("hairpin at interfaces", || {
        let masqueraded = tcp(NODE, C, [7, 8080], SYN);
        let alone = load(Surroundings { alone: [1].into(), ..Surroundings::default() });
        check(&alone, "back to the only pod", ToPodBack, &masqueraded, Allow);
        check(&alone, "answered", FromPod, &tcp(C, NODE, [8080, 7], SYN | ACK), Allow);
        check(&alone, "from elsewhere", ToPod, &tcp(NODE, C, [8, 8080], SYN), Deny);
        let shared = load(Surroundings::default());
        check(&shared, "one of several pods", ToPodBack, &masqueraded, Deny);
    });
}

#[test]
fn a_service_is_reached_if_all_behind_it_may_be() {
    bpf::kernel_test("Services at interfaces", || {
        let address = |last| IpAddr::from([10, 96, 0, last]);
        let service = |address, port, backends: &[(Ipv4Addr, u16)]| Service {
            address,
            protocol: Protocol::Tcp,
            port,
            backends: backends.iter().map(|(to, port)| (IpAddr::from(*to), *port)).collect(),
        };
        let many: Vec<(Ipv4Addr, u16)> = (0..9).map(|port| (B, 8080 + port)).collect();
        let services = vec![
            service(address(1), 80, &[(B, 8080)]),
            service(address(2), 80, &[(B, 8080), (A, 8080)]),
            service(address(3), 80, &[(D, 7)]),
            service(address(4), 80, &[]),
            service(address(5), 80, &[(B, 8080), (D, 7)]),
            service(address(6), 80, &many),
            service(address(7), 80, &[(B, 8081)]),
            service(address(8), 80, &[(NODE, 6443)]),
            service(IpAddr::from(NODE), 30080, &[(A, 8080)]),
            service(IpAddr::from(NODE), 30081, &[(B, 8080)]),
        ];
        let loaded = load(Surroundings { services, ..Surroundings::default() });
        let dial = |last| tcp(D, Ipv4Addr::new(10, 96, 0, last), [1, 80], SYN);
        check(&loaded, "b alone", FromPod, &dial(1), Allow);
        check(
            &loaded,
            "its answer",
            ToPod,
            &tcp(Ipv4Addr::new(10, 96, 0, 1), D, [80, 1], SYN | ACK),
            Allow,
        );
        check(&loaded, "b or a", FromPod, &dial(2), Deny);
        check(&loaded, "d itself (NP-121)", FromPod, &dial(3), Allow);
        check(&loaded, "nobody", FromPod, &dial(4), Deny);
        check(&loaded, "b or d itself", FromPod, &dial(5), Allow);
        check(&loaded, "more than are told apart", FromPod, &dial(6), Deny);
        check(&loaded, "b, another port", FromPod, &dial(7), Deny);
        check(&loaded, "the node (DEC-01)", FromPod, &dial(8), Allow);
        check(&loaded, "no Service", FromPod, &dial(9), Deny);
        check(
            &loaded,
            "no port of the Service",
            FromPod,
            &tcp(D, Ipv4Addr::new(10, 96, 0, 1), [1, 8080], SYN),
            Deny,
        );
        check(&loaded, "a node port of a's", FromPod, &tcp(D, NODE, [1, 30080], SYN), Deny);
        check(&loaded, "a node port of b's", FromPod, &tcp(D, NODE, [1, 30081], SYN), Allow);
        check(&loaded, "the node itself", FromPod, &tcp(D, NODE, [1, 22], SYN), Allow);
        check(
            &loaded,
            "a pod without egress policy",
            FromPod,
            &tcp(A, Ipv4Addr::new(10, 96, 0, 6), [1, 80], SYN),
            Allow,
        );
    });
}

#[test]
fn what_is_no_ip_passes_only_if_it_is_arp() {
    bpf::kernel_test("other protocols at interfaces", || {
        let loaded = load(Surroundings::default());
        for side in [FromPod, ToPod] {
            check(&loaded, "ARP", side, &ethernet(0x0806, &[0; 46]), Allow);
            for kind in [0x8847, 0x8864, 0x88cc, 0x6003] {
                check(&loaded, "something else", side, &ethernet(kind, &[0; 46]), Deny);
            }
        }
        // Multicast listeners (NP-115): `c` may say what it listens to, and nothing else.
        let multicast = |kind: u8| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 8, 58, 1];
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
            packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16]);
            packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            ethernet(0x86dd, &packet)
        };
        for (kind, expected) in [(143, Allow), (131, Allow), (135, Allow), (128, Deny), (144, Deny)]
        {
            check(&loaded, "ICMPv6", FromPod, &multicast(kind), expected);
        }
    });
}
