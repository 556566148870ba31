//! The program in the kernel, asked about packets that nobody sent (`BPF_PROG_TEST_RUN`).
//!
//! Random clusters, and every flow in several dresses: IPv4 options, IPv6 extension headers, fragments, cut packets. The
//! program's answer is held against the ruleset's own verdict.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "test support"
)]

extern crate alloc;

#[path = "support/bpf.rs"]
mod bpf;
#[path = "support/frame.rs"]
mod frame;

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;
use core::time::Duration;
use std::env;
use std::time::Instant;

use frame::Dress;
use netpol_conformance::exam::busiest_node;
use netpol_conformance::generate::{self, Oddities, Random, Shape};
use netpol_core::backend::Backend as _;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Flow, Ports, Ruleset, Scope, Transport, Verdict};
use netpol_core::model::{Cidr, Protocol};
use netpol_core::net::PrefixSet;
use netpol_ebpf::image::{Content, Hook, Packet};
use netpol_ebpf::tc::{Side, Surroundings, Times};
use netpol_ebpf::{Ebpf, Kernel, Loaded};

const DRESSES: [Dress; 7] = [
    Dress::Plain,
    Dress::Headers,
    Dress::FirstFragment,
    Dress::LaterFragment,
    Dress::Cut,
    Dress::Absurd,
    Dress::NeighbourDiscovery,
];

/// Returns the ports at which an answer can change.
fn edges(ruleset: &Ruleset) -> BTreeSet<u16> {
    let mut edges = BTreeSet::from([0, u16::MAX]);
    for (_, pipeline) in ruleset.pipelines() {
        for (_, rule) in pipeline.rules() {
            if let Ports::Set(ports) = &rule.ports {
                edges.extend(
                    ports.ranges().flat_map(|(_, low, high)| [low, high.saturating_add(1)]),
                );
            }
        }
    }
    edges
}

/// Returns what must become of a flow's packet, and what the packet holds.
fn expected(
    ruleset: &Ruleset,
    edges: &BTreeSet<u16>,
    flow: &Flow,
    dress: Dress,
) -> (Option<Verdict>, Content) {
    let with = |transport| ruleset.verdict(&Flow { transport, ..*flow }).verdict;
    match (dress, flow.transport) {
        (Dress::LaterFragment, Transport::Port(protocol, _)) => {
            // NP-116: its port cannot be seen, so every port must be open.
            let port = |port: &u16| with(Transport::Port(protocol, *port)) == Verdict::Allow;
            let verdict = if edges.iter().all(port) { Verdict::Allow } else { Verdict::Deny };
            (Some(verdict), Content::LaterFragment(protocol))
        }
        (Dress::Cut | Dress::Absurd, _) => (None, Content::Unreadable),
        (Dress::NeighbourDiscovery, _) => (Some(Verdict::Allow), Content::NeighbourDiscovery),
        (
            Dress::Plain | Dress::Headers | Dress::FirstFragment | Dress::LaterFragment,
            transport,
        ) => (Some(with(transport)), Content::Transport(transport)),
    }
}

/// Returns whether everything may pass between the ends of a flow.
fn everything_passes(ruleset: &Ruleset, edges: &BTreeSet<u16>, flow: &Flow) -> bool {
    let ports = Protocol::ALL
        .into_iter()
        .flat_map(|protocol| edges.iter().map(move |port| Transport::Port(protocol, *port)));
    let mut all = ports.chain([Transport::Other(1)]);
    all.all(|transport| ruleset.verdict(&Flow { transport, ..*flow }).verdict == Verdict::Allow)
}

#[test]
fn the_kernel_judges_every_packet_as_the_ruleset_does() {
    bpf::kernel_test("the packet exam", || exam(FrontEnd::Netfilter));
}

#[test]
fn the_kernel_judges_every_packet_at_interfaces_as_the_ruleset_does() {
    bpf::kernel_test("the packet exam at interfaces", || exam(FrontEnd::Interfaces));
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FrontEnd {
    Netfilter,
    Interfaces,
}

/// A program, and how it is shown a packet.
enum Examinee {
    Netfilter(Loaded),
    /// With the addresses of the node.
    Interfaces(Loaded, BTreeSet<IpAddr>),
}

impl Examinee {
    fn loaded(&self) -> &Loaded {
        match self {
            Self::Netfilter(loaded) | Self::Interfaces(loaded, _) => loaded,
        }
    }

    /// Shows a packet wherever it comes by.
    fn ask(&self, hook: Hook, flow: &Flow, frame: &[u8]) -> Verdict {
        match self {
            Self::Netfilter(loaded) => loaded.ask(hook, frame).unwrap(),
            Self::Interfaces(loaded, own) => {
                let at = |side| loaded.ask_at(side, frame).unwrap();
                match hook {
                    // The node itself sends it.
                    Hook::Forward if own.contains(&flow.source) => at(Side::ToPodByNode),
                    Hook::Forward => {
                        // Each judges both sides: whatever the other said, this one's ruleset holds.
                        let [from, to] = [Side::FromPod, Side::ToPod].map(at);
                        assert_eq!(from, to, "{flow} at the two interfaces");
                        to
                    }
                    Hook::LocalIn => at(Side::FromPod),
                }
            }
        }
    }
}

/// Nothing that was seen before counts: every packet opens a connection.
const FORGETFUL: Times = {
    let now = Duration::ZERO;
    Times {
        opening: now,
        open: now,
        closing: now,
        unanswered: now,
        answered: now,
        bare: now,
        fragment: now,
    }
};

fn exam(front_end: FrontEnd) {
    let number = |name, default| env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seed, packets) = (number("NETPOL_SEED", 1), number("NETPOL_PACKETS", 20_000));
    let kernel = Kernel::probe().unwrap();
    eprintln!("the packet exam of {front_end:?}");
    let started = Instant::now();
    let mut asked: BTreeMap<(Dress, bool), [u64; 2]> = BTreeMap::new();
    let (mut total, mut clusters) = (0_u64, 0_u64);
    let mut random = Random::seeded(seed);
    while total < packets {
        let oddities = random.pick([Oddities::Valid, Oddities::Live]);
        let shape = Shape { oddities, ..Shape::default() };
        let case = generate::case(seed.wrapping_add(clusters), shape);
        clusters += 1;
        // Every other cluster in strict mode: some ends of flows are addresses that only pods may have.
        let ranges: Vec<Cidr> = case
            .flows
            .iter()
            .step_by(16)
            .filter(|_| clusters % 2 == 0)
            .map(|flow| Cidr::host(flow.source))
            .collect();
        let node = busiest_node(&case.cluster);
        let scope = match (front_end, &node) {
            (FrontEnd::Netfilter, _) => Scope::Cluster,
            (FrontEnd::Interfaces, None) => continue,
            (FrontEnd::Interfaces, Some(node)) => Scope::Node(node.clone()),
        };
        let options =
            Options { scope, settings: case.settings, pod_ranges: PrefixSet::from_cidrs(&ranges) };
        let ruleset = compile(&case.cluster, &options).ruleset;
        let image = Ebpf::default().lower(&ruleset).unwrap();
        let examinee = match front_end {
            FrontEnd::Netfilter => Examinee::Netfilter(Loaded::load(&kernel, &image).unwrap()),
            FrontEnd::Interfaces => {
                let node = node.and_then(|node| case.cluster.nodes.get(&node));
                let own: BTreeSet<IpAddr> =
                    node.into_iter().flat_map(|node| node.addresses.iter().copied()).collect();
                let surroundings =
                    Surroundings { own: own.clone(), times: FORGETFUL, ..Surroundings::default() };
                let loaded = Loaded::load_at_interfaces(&image, &surroundings).unwrap();
                Examinee::Interfaces(loaded, own)
            }
        };
        assert_eq!(examinee.loaded().differences(&image).unwrap(), [""; 0]);
        let edges = edges(&ruleset);
        for flow in &case.flows {
            let Some(hook) = image.hook(flow) else { continue };
            let ends = [ruleset.owner(flow.source), ruleset.owner(flow.destination)];
            if let [Some(source), Some(destination)] = ends
                && source.pod != destination.pod
                && (ruleset.is_own_node(source, flow.destination)
                    || ruleset.is_own_node(destination, flow.source))
            {
                continue; // A pod with its node's address: no packet tells which is meant.
            }
            if let Examinee::Interfaces(_, own) = &examinee
                && [flow.source, flow.destination]
                    .iter()
                    .zip(ends)
                    .any(|(address, pod)| pod.is_some() && own.contains(address))
            {
                continue; // Likewise: at interfaces what the node sends is told by where it comes from.
            }
            for dress in DRESSES {
                let Some(frame) = frame::frame(flow, dress, &mut random) else { continue };
                let (expected, content) = expected(&ruleset, &edges, flow, dress);
                let got = examinee.ask(hook, flow, &frame);
                let packet =
                    Packet { hook, source: flow.source, destination: flow.destination, content };
                let model = image.judge(&packet);
                let safe = expected.is_some()
                    || got == Verdict::Deny
                    || everything_passes(&ruleset, &edges, flow);
                assert!(
                    got == model && expected.is_none_or(|expected| got == expected) && safe,
                    "seed {}: {dress:?} {flow} at {hook:?}: kernel {got}, image {model}, must {expected:?}\n\
                     {frame:02x?}\nnodes {:?}\n{image}",
                    seed.wrapping_add(clusters - 1),
                    case.cluster.nodes
                );
                total += 1;
                asked.entry((dress, flow.source.is_ipv4())).or_default()
                    [usize::from(got == Verdict::Deny)] += 1;
            }
        }
    }
    eprintln!(
        "NETPOL_SEED={seed}: {total} packets on {clusters} clusters, 0 wrong, {:.1} s",
        started.elapsed().as_secs_f64()
    );
    for ((dress, is_v4), [allowed, denied]) in asked {
        let family = if is_v4 { "IPv4" } else { "IPv6" };
        eprintln!("  {family} {dress:?}: {allowed} allowed, {denied} denied");
    }
}
