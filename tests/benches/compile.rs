//! Full compile and single verdicts on workloads of the kube-burner kind.
//!
//! `cargo bench -p netpol-conformance --bench compile` prints a table for docs/benchmarks.md: each figure beside a
//! baseline of the same run (cloning the same objects for compile, one hash look-up for a verdict).
//! `-- --quick` leaves the largest sizes out.
#![expect(unsafe_code, reason = "counting what is allocated needs a global allocator")]
#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a benchmark prints figures"
)]

use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;
use core::net::IpAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::alloc::System;
use std::collections::HashMap;
use std::time::Instant;

use netpol_conformance::workload::{self, MEDIUM, MINIMAL, Profile};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Flow, Ruleset, Transport};
use netpol_core::model::{Cluster, Protocol};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counters are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    println!("## Full compile, cluster scope, one thread\n");
    println!(
        "| profile | pods | policies | compile | × clone | peak | pipelines | sets | members |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let sizes: &[(usize, usize)] = if quick {
        &[(1_000, 100), (10_000, 1_000)]
    } else {
        &[(10_000, 1_000), (100_000, 10_000)]
    };
    for (pods, policies) in sizes {
        row("MINIMAL", MINIMAL, *pods, *policies);
        row("MEDIUM", MEDIUM, *pods, *policies);
    }
    println!("\n## Growth (MEDIUM): time against size, and the exponent between neighbours\n");
    let pods: &[usize] =
        if quick { &[2_500, 5_000, 10_000] } else { &[12_500, 25_000, 50_000, 100_000] };
    growth("pods, 1,000 policies", pods, |pods| workload::cluster(pods, 1_000, MEDIUM));
    let policies: &[usize] =
        if quick { &[250, 500, 1_000] } else { &[1_250, 2_500, 5_000, 10_000] };
    growth("policies, 10,000 pods", policies, |policies| {
        workload::cluster(10_000, policies, MEDIUM)
    });
    growth("both, 10 pods a policy", policies, |policies| {
        workload::cluster(policies * 10, policies, MEDIUM)
    });
    println!("\n## Verdict of one flow (MEDIUM, 10,000 pods)\n");
    println!("| policies | verdict | hash look-up of the same run |\n|---|---|---|");
    for policies in policies {
        verdicts(&workload::cluster(10_000, *policies, MEDIUM), *policies);
    }
}

/// The best of several runs: the machine's noise only ever adds.
fn best<T>(runs: usize, mut work: impl FnMut() -> T) -> Duration {
    let timed = (0..runs).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    });
    timed.min().unwrap_or_default()
}

fn compiled(cluster: &Cluster) -> Ruleset {
    compile(cluster, &Options::default()).ruleset
}

fn row(name: &str, profile: Profile, pods: usize, policies: usize) {
    let cluster = workload::cluster(pods, policies, profile);
    let clone = best(3, || cluster.clone());
    let time = best(3, || compiled(&cluster));
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let ruleset = compiled(&cluster);
    let peak = PEAK.load(Ordering::Relaxed) - before;
    let members: usize = ruleset.peer_sets().map(|(_, set)| set.addresses.len()).sum();
    println!(
        "| {name} | {pods} | {policies} | {:.0} ms | {:.2} | {:.0} MB | {} | {} | {members} |",
        time.as_secs_f64() * 1e3,
        time.as_secs_f64() / clone.as_secs_f64(),
        peak as f64 / 1e6,
        ruleset.pipelines().len(),
        ruleset.peer_sets().len(),
    );
}

fn growth(what: &str, sizes: &[usize], make: impl Fn(usize) -> Cluster) {
    let times: Vec<f64> = sizes
        .iter()
        .map(|size| {
            let cluster = make(*size);
            best(3, || compiled(&cluster)).as_secs_f64() * 1e3
        })
        .collect();
    let points: Vec<String> =
        sizes.iter().zip(&times).map(|(size, time)| format!("{size}: {time:.0} ms")).collect();
    let exponents: Vec<String> = sizes
        .windows(2)
        .zip(times.windows(2))
        .map(|(sizes, times)| {
            let exponent = (times[1] / times[0]).ln() / (sizes[1] as f64 / sizes[0] as f64).ln();
            format!("{exponent:.2}")
        })
        .collect();
    println!("- {what}: {} (exponents {})", points.join(", "), exponents.join(", "));
}

fn verdicts(cluster: &Cluster, policies: usize) {
    let ruleset = compiled(cluster);
    let addresses: Vec<IpAddr> =
        ruleset.endpoints().map(|endpoint| endpoint.addresses[0]).collect();
    let pairs = addresses.iter().zip(addresses.iter().cycle().skip(4_321));
    let flows: Vec<Flow> = pairs
        .map(|(source, destination)| {
            Flow::new(*source, *destination, Transport::Port(Protocol::Tcp, 80))
        })
        .collect();
    let table: HashMap<IpAddr, usize> = addresses.iter().copied().zip(0..).collect();
    let per_flow = |time: Duration| time.as_nanos() as f64 / flows.len() as f64;
    let verdict = best(5, || {
        flows
            .iter()
            .map(|flow| ruleset.verdict(flow))
            .filter(|d| d.verdict == netpol_core::ir::Verdict::Allow)
            .count()
    });
    let look_up =
        best(5, || flows.iter().filter_map(|flow| table.get(&flow.source)).sum::<usize>());
    println!("| {policies} | {:.0} ns | {:.0} ns |", per_flow(verdict), per_flow(look_up));
}
