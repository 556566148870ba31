//! Criterion benchmarks of `compile` and `verdict`, each beside its baseline: cloning the same objects, one hash look-up.
//!
//! `cargo bench -p netpol-conformance --bench speed`. The large sizes, memory and growth are in `compile.rs`.

use core::hint::black_box;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::HashMap;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use netpol_conformance::workload::{self, MEDIUM, MINIMAL};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Flow, Transport};
use netpol_core::model::Protocol;

fn compiling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (name, profile) in [("minimal", MINIMAL), ("medium", MEDIUM)] {
        let cluster = workload::cluster(10_000, 1_000, profile);
        group.bench_function(BenchmarkId::new("10000x1000", name), |bencher| {
            bencher.iter(|| compile(black_box(&cluster), &Options::default()));
        });
        group.bench_function(BenchmarkId::new("baseline-clone", name), |bencher| {
            bencher.iter(|| black_box(&cluster).clone());
        });
    }
    group.finish();
}

fn verdict(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verdict");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    for policies in [100, 1_000, 10_000] {
        // The same pods and as many policies on each of them; the others select pods elsewhere.
        let cluster = workload::cluster(10_000, policies, MINIMAL);
        let ruleset = compile(&cluster, &Options::default()).ruleset;
        let addresses: Vec<IpAddr> = ruleset
            .endpoints()
            .filter_map(|endpoint| endpoint.addresses.first().copied())
            .collect();
        let pairs = addresses.iter().zip(addresses.iter().cycle().skip(4_321));
        let flows: Vec<Flow> = pairs
            .map(|(from, to)| Flow::new(*from, *to, Transport::Port(Protocol::Tcp, 80)))
            .collect();
        let table: HashMap<IpAddr, usize> = addresses.iter().copied().zip(0..).collect();
        let mut flow = flows.iter().cycle();
        group.bench_function(BenchmarkId::new("one-flow", policies), |bencher| {
            bencher.iter(|| flow.next().map(|flow| ruleset.verdict(black_box(flow)).verdict));
        });
        let mut flow = flows.iter().cycle();
        group.bench_function(BenchmarkId::new("baseline-hash-look-up", policies), |bencher| {
            bencher.iter(|| flow.next().and_then(|flow| table.get(black_box(&flow.source))));
        });
    }
    group.finish();
}

criterion_group!(benches, compiling, verdict);
criterion_main!(benches);
