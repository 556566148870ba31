//! What the program costs in the kernel (`BPF_PROG_TEST_RUN`), and what it costs to get a ruleset there.
//!
//! `cargo bench -p netpol-ebpf --features apply --bench program` prints a table for docs/benchmarks.md; needs root.
//! *Warm* is the least of nine times 10,000 runs on one packet; *mixed* the median over packets between random pods, one
//! run each, caches as they come.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark prints figures"
)]

use core::net::IpAddr;
use core::time::Duration;
use std::time::Instant;

use netpol_conformance::generate::Random;
use netpol_conformance::workload::{self, MINIMAL};
use netpol_core::backend::Backend as _;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Flow, Reason, Transport, Verdict};
use netpol_core::model::Protocol;
use netpol_ebpf::image::Hook;
use netpol_ebpf::{Ebpf, Kernel, Loaded, MapImage};

/// A TCP segment that opens a connection.
fn frame(source: IpAddr, destination: IpAddr, port: u16) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        return Vec::new();
    };
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
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

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let kernel = Kernel::probe().unwrap();
    let nothing = Loaded::load(&kernel, &MapImage::default()).unwrap();
    let any = frame([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 80);
    println!("no endpoint: warm {:?}\n", warm(&nothing, &any));
    println!(
        "| pods | policies | lower | load | warm, allowed | warm, denied | mixed | endpoints | addresses | networks | words |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let sizes: &[(usize, usize)] = if quick {
        &[(1_000, 10), (10_000, 1_000)]
    } else {
        &[(1_000, 10), (1_000, 1_000), (10_000, 1_000), (100_000, 1_000), (100_000, 10_000)]
    };
    for &(pods, policies) in sizes {
        let cluster = workload::cluster(pods, policies, MINIMAL);
        let ruleset = compile(&cluster, &Options::default()).ruleset;
        let started = Instant::now();
        let image = Ebpf::default().lower(&ruleset).unwrap();
        let lowered = started.elapsed();
        let started = Instant::now();
        let loaded = Loaded::load(&kernel, &image).unwrap();
        let load = started.elapsed();
        let mut random = Random::seeded(1);
        let policed: Vec<IpAddr> =
            ruleset.endpoints().filter_map(|e| e.addresses.first().copied()).collect();
        let (mut frames, mut allowed, mut denied) = (Vec::new(), None, None);
        for _ in 0..1_000_000 {
            if frames.len() == 4_000 && allowed.is_some() {
                break;
            }
            let source = policed[random.below(policed.len())];
            let destination = policed[random.below(policed.len())];
            let flow = Flow::new(source, destination, Transport::Port(Protocol::Tcp, 80));
            let decision = ruleset.verdict(&flow);
            let frame = frame(source, destination, 80);
            let by_rule = matches!(decision.ingress.reason, Reason::Rule(_))
                || matches!(decision.egress.reason, Reason::Rule(_));
            match decision.verdict {
                Verdict::Allow if by_rule => allowed = allowed.or_else(|| Some(frame.clone())),
                Verdict::Allow => {}
                Verdict::Deny => denied = denied.or_else(|| Some(frame.clone())),
            }
            if frames.len() < 4_000 {
                frames.push(frame);
            }
        }
        let time = |frame: Option<Vec<u8>>| {
            frame.map_or_else(|| "-".to_owned(), |frame| format!("{:?}", warm(&loaded, &frame)))
        };
        let rows = image.rows();
        println!(
            "| {pods} | {policies} | {lowered:.1?} | {load:.1?} | {} | {} | {:?} | {} | {} | {} | {} |",
            time(allowed),
            time(denied),
            mixed(&loaded, &frames),
            rows.endpoints,
            rows.addresses,
            rows.networks,
            rows.words
        );
    }
}
