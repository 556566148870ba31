//! What the program costs in the kernel (`BPF_PROG_TEST_RUN`), and what it costs to get a ruleset there.
//!
//! `cargo bench -p netpol-ebpf --features apply --bench program` prints a table for docs/benchmarks.md; needs root.
//! *Warm* is the least of nine times 10,000 runs on one packet; *mixed* the median over packets from peers that rules
//! name to the pods they protect, half of them at a port too high; one run each, caches as they come. First a whole cluster
//! in one scope, then a node of 250 pods with that many policies on them and that many peers elsewhere.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark prints figures"
)]

use core::net::IpAddr;
use core::num::NonZeroU16;
use core::time::Duration;
use std::time::Instant;

use netpol_conformance::generate::Random;
use netpol_conformance::workload::{self, MINIMAL};
use netpol_core::backend::Backend as _;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Flow, Peers, Ports, Ruleset, Scope, Transport, Verdict};
use netpol_core::model::{
    Cluster, Field, LabelSelector, Labels, Namespace, NetworkPolicy, NetworkPolicyPeer,
    NetworkPolicyRule, ObjectMeta, Pod, PolicyPort, Protocol,
};
use netpol_ebpf::image::Hook;
use netpol_ebpf::tc::{Side, Surroundings};
use netpol_ebpf::{Ebpf, Kernel, Loaded, MapImage};

/// Flows to isolated pods from peers that their rules name, at a port of the rule and at the next: half of them pass,
/// as far as the other end lets them.
fn flows(ruleset: &Ruleset) -> Vec<Flow> {
    let v4 = |addresses: &[IpAddr]| addresses.iter().copied().find(IpAddr::is_ipv4);
    let mut flows = Vec::new();
    for endpoint in ruleset.endpoints() {
        let (Some(pipeline), Some(destination)) =
            (ruleset.pipeline(endpoint.ingress), v4(&endpoint.addresses))
        else {
            continue;
        };
        for (_, rule) in pipeline.rules() {
            if let (Peers::Set(id), Ports::Set(ports)) = (rule.peers, &rule.ports)
                && let Some(source) =
                    ruleset.peer_set(id).and_then(|set| set.addresses.v4().first())
                && IpAddr::V4(*source) != destination
                && let Some((protocol, port, _)) = ports.ranges().next()
            {
                for port in [port, port + 1] {
                    let transport = Transport::Port(protocol, port);
                    flows.push(Flow::new((*source).into(), destination, transport));
                }
            }
        }
    }
    Random::seeded(1).shuffle(&mut flows);
    flows.truncate(4_000);
    flows
}

/// A segment that opens a connection.
fn frame(flow: &Flow) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination), Transport::Port(protocol, port)) =
        (flow.source, flow.destination, flow.transport)
    else {
        return Vec::new();
    };
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol.number(), 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend([0x80, 0x00]);
    frame.extend(port.to_be_bytes());
    frame.extend([0; 16]);
    frame
}

fn warm(loaded: &Loaded, frame: &[u8]) -> Duration {
    let runs = (0..9).map(|_| loaded.time(Hook::Forward, frame, 10_000).unwrap());
    runs.min().unwrap_or_default()
}

fn mixed(loaded: &Loaded, frames: &[Vec<u8>]) -> Duration {
    let mut times: Vec<Duration> =
        frames.iter().map(|frame| loaded.time(Hook::Forward, frame, 1).unwrap()).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Pods of the node.
const LOCAL: usize = 250;

/// Flags of TCP.
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What a policy of the node allows.
fn port_of(policy: usize) -> u16 {
    80 + u16::try_from(policy % 10).unwrap()
}

/// The address of a peer of the node.
fn peer(number: usize) -> [u8; 4] {
    let [.., high, middle, low] = number.to_be_bytes();
    [10, high, middle, low]
}

/// The address of a pod of the node.
fn local(number: usize) -> [u8; 4] {
    let [.., low] = number.to_be_bytes();
    [10, 200, 0, low]
}

/// Flows to pods of the node from peers that a policy of theirs allows, all of them in turn, at its port and at the next.
fn flows_of_node(peers: usize, policies: usize) -> Vec<Flow> {
    let mut random = Random::seeded(1);
    let flow = |number: usize| {
        let peer_number = random.below(peers);
        let policy = peer_number % policies;
        let off = u16::try_from(number % 2).unwrap() * 10;
        let transport = Transport::Port(Protocol::Tcp, port_of(policy) + off);
        Flow::new(peer(peer_number).into(), local(policy % LOCAL).into(), transport)
    };
    (0..4_000).map(flow).collect()
}

/// A node whose pods have that many policies between them, each for one group of the peers.
fn node(peers: usize, policies: usize) -> Ruleset {
    let mut cluster = Cluster::default();
    cluster.namespaces.insert("x".into(), Namespace::new("x", Labels::default()));
    let mut pod = |name: String, node: &str, address: [u8; 4], labels: Labels| {
        let meta = ObjectMeta::new("x", &name, labels);
        let pod = Pod {
            addresses: vec![address.into()],
            node: Some(node.into()),
            meta,
            ..Pod::default()
        };
        cluster.pods.insert(pod.meta.object.clone(), pod);
    };
    for number in 0..LOCAL {
        let labels = Labels::from_iter([("app", format!("a{number}"))]);
        pod(format!("local{number}"), "here", local(number), labels);
    }
    for number in 0..peers {
        let labels = Labels::from_iter([("group", format!("g{}", number % policies))]);
        pod(format!("p{number}"), "there", peer(number), labels);
    }
    for number in 0..policies {
        let meta = ObjectMeta::new("x", &format!("q{number}"), Labels::default());
        let port = NonZeroU16::new(port_of(number)).unwrap();
        let group = LabelSelector::from_iter([("group", format!("g{number}"))]);
        let rule = NetworkPolicyRule {
            peers: Field::Given(vec![NetworkPolicyPeer::pods(group)]),
            ports: Field::Given(vec![PolicyPort::tcp(port)]),
            ..NetworkPolicyRule::default()
        };
        let app = LabelSelector::from_iter([("app", format!("a{}", number % LOCAL))]);
        let policy = NetworkPolicy {
            pod_selector: Field::Given(app),
            ingress: Field::Given(vec![rule]),
            meta,
            ..NetworkPolicy::default()
        };
        cluster.network_policies.insert(policy.meta.object.clone(), policy);
    }
    let options = Options { scope: Scope::Node("here".into()), ..Options::default() };
    compile(&cluster, &options).ruleset
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let kernel = Kernel::probe().unwrap();
    let nothing = Loaded::load(&kernel, &MapImage::default()).unwrap();
    let transport = Transport::Port(Protocol::Tcp, 80);
    let any = frame(&Flow::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), transport));
    println!("no endpoint: warm {:?}\n", warm(&nothing, &any));
    let head = |what: &str| {
        println!(
            "\n| {what} | policies | lower | load | warm, allowed | warm, denied | mixed | hosts | pods | networks | words |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
    };
    established();
    head("pods");
    let sizes: &[(usize, usize)] = if quick {
        &[(1_000, 10), (10_000, 1_000)]
    } else {
        &[(1_000, 10), (1_000, 1_000), (10_000, 1_000), (100_000, 1_000), (100_000, 10_000)]
    };
    for &(pods, policies) in sizes {
        let cluster = workload::cluster(pods, policies, MINIMAL);
        let ruleset = compile(&cluster, &Options::default()).ruleset;
        row(&kernel, pods, policies, &ruleset, &flows(&ruleset));
    }
    head("peers of a node");
    for &(peers, policies) in sizes {
        let ruleset = node(peers, policies);
        row(&kernel, peers, policies, &ruleset, &flows_of_node(peers, policies));
    }
}

/// What a packet of an open connection costs at an interface: it is found among the connections, and not judged again.
fn established() {
    let ruleset = node(1_000, 10);
    let image = Ebpf::default().lower(&ruleset).unwrap();
    let warm = |loaded: &Loaded, side: Side, frame: &[u8]| {
        (0..9).map(|_| loaded.time_at(side, frame, 10_000).unwrap()).min().unwrap_or_default()
    };
    let places = [(IpAddr::from(local(0)), 1)].into();
    let load = |image: &MapImage| {
        let surroundings = Surroundings { places, ..Surroundings::default() };
        Loaded::load_at_interfaces(image, &surroundings).unwrap()
    };
    let loaded = load(&image);
    let ends = [IpAddr::from(peer(0)), IpAddr::from(local(0))];
    let transport = Transport::Port(Protocol::Tcp, port_of(0));
    let opens = frame(&Flow::new(ends[0], ends[1], transport));
    // The other one's ports and addresses, no SYN: only what is known of the connection lets it pass.
    let mut goes_on = opens.clone();
    goes_on[14 + 20 + 13] = ACK;
    let mut answer = goes_on.clone();
    for (to, from, length) in [(26, 30, 4), (30, 26, 4), (34, 36, 2), (36, 34, 2)] {
        answer[to..to + length].copy_from_slice(&goes_on[from..from + length]);
    }
    let mut syn = opens.clone();
    syn[14 + 20 + 13] = SYN;
    assert_eq!(loaded.ask_at(Side::ToPod, &syn).unwrap(), Verdict::Allow);
    // The empty program of the kind: what is no IP passes or not by its first bytes.
    let mut arp = opens;
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    println!(
        "at an interface, warm: ARP {:?}, opens {:?}, goes on {:?}, is answered {:?}\n",
        warm(&loaded, Side::ToPod, &arp),
        warm(&loaded, Side::ToPod, &syn),
        warm(&loaded, Side::ToPod, &goes_on),
        warm(&loaded, Side::FromPod, &answer),
    );
}

fn row(kernel: &Kernel, ends: usize, policies: usize, ruleset: &Ruleset, flows: &[Flow]) {
    let started = Instant::now();
    let image = Ebpf::default().lower(ruleset).unwrap();
    let lowered = started.elapsed();
    let started = Instant::now();
    let loaded = Loaded::load(kernel, &image).unwrap();
    let load = started.elapsed();
    let judged = |flow: &Flow, verdict| ruleset.verdict(flow).verdict == verdict;
    let allowed = flows.iter().find(|flow| judged(flow, Verdict::Allow)).map(frame);
    let denied = flows.iter().find(|flow| judged(flow, Verdict::Deny)).map(frame);
    let frames: Vec<Vec<u8>> = flows.iter().map(frame).collect();
    let time = |frame: Option<Vec<u8>>| {
        frame.map_or_else(|| "-".to_owned(), |frame| format!("{:?}", warm(&loaded, &frame)))
    };
    let rows = image.rows();
    println!(
        "| {ends} | {policies} | {lowered:.1?} | {load:.1?} | {} | {} | {:?} | {} | {} | {} | {} |",
        time(allowed),
        time(denied),
        mixed(&loaded, &frames),
        rows.hosts,
        rows.pods,
        rows.networks,
        rows.words
    );
}
