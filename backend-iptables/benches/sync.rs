//! What a sync costs, beside the restore commands on the same text: `cargo bench -p netpol-iptables --features
//! kernel-tests`, as root. Works in a network namespace of its own, which ends with the process.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that is read by people"
)]

use core::time::Duration;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use netpol_conformance::workload::{self, MEDIUM, MINIMAL, Profile};
use netpol_core::backend::{Backend as _, Dataplane as _};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Family, Ruleset, Scope};
use netpol_core::model::Cluster;
use netpol_iptables::{Iptables, IptablesDataplane, RestoreInput, Variant};

/// How often each figure is taken; the best counts, since noise only adds.
const RUNS: usize = 5;

fn main() {
    // SAFETY: unshare takes no pointers, and this is the only thread.
    #[expect(unsafe_code, reason = "there is no safe way into a namespace")]
    let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    if !entered {
        println!("NOT RUN: no privilege to make a network namespace");
        return;
    }
    for (name, pods, policies, profile) in [
        ("MINIMAL", 1000, 1000, MINIMAL),
        ("MEDIUM", 1000, 1000, MEDIUM),
        ("MEDIUM", 10_000, 1000, MEDIUM),
    ] {
        measure(name, pods, policies, profile);
    }
}

fn measure(name: &str, pods: usize, policies: usize, profile: Profile) {
    let mut cluster = workload::cluster(pods, policies, profile);
    let (ruleset, options) = busiest(&cluster);
    let (program, lowering) = best(|| (), || Iptables::default().lower(&ruleset).unwrap());
    let rules = |family| program.filter(family).chains.values().map(Vec::len).sum::<usize>();
    println!(
        "{name} {pods} pods {policies} policies: {} pods of the node, {} pipelines, {} + {} rules, {} sets, {} members, \
         lowered in {lowering:?}",
        ruleset.endpoints().len(),
        ruleset.pipelines().len(),
        rules(Family::V4),
        rules(Family::V6),
        program.sets().iter().len(),
        program.sets().iter().map(|(_, members)| members.len()).sum::<usize>(),
    );
    let changed = loop {
        cluster.network_policies.pop_first().unwrap();
        let changed = compile(&cluster, &options).ruleset;
        if changed != ruleset {
            break changed;
        }
    };
    for variant in [Variant::Nft, Variant::Legacy] {
        let remove = || IptablesDataplane::with_variant(variant).remove().unwrap();
        let sync = |ruleset: &Ruleset| {
            IptablesDataplane::with_variant(variant).sync(ruleset).unwrap();
        };
        let ((), bare) = best(remove, || restore(variant, &program));
        let ((), full) = best(remove, || sync(&ruleset));
        let ((), same) = best(|| sync(&ruleset), || sync(&ruleset));
        let ((), change) = best(|| sync(&ruleset), || sync(&changed));
        remove();
        println!(
            "  {variant:?}: restore commands {bare:?}, sync {full:?}, nothing changed {same:?}, one policy {change:?}"
        );
    }
}

/// The node with the most distinct policy results.
fn busiest(cluster: &Cluster) -> (Ruleset, Options) {
    let on = |node| {
        let options = Options { scope: Scope::Node(node), ..Options::default() };
        (compile(cluster, &options).ruleset, options)
    };
    cluster
        .nodes
        .keys()
        .cloned()
        .map(on)
        .max_by_key(|(ruleset, _)| ruleset.pipelines().len())
        .unwrap()
}

fn best<T>(before: impl Fn(), work: impl Fn() -> T) -> (T, Duration) {
    let run = || {
        before();
        let begun = Instant::now();
        (work(), begun.elapsed())
    };
    (0..RUNS).map(|_| run()).min_by_key(|(_, time)| *time).unwrap()
}

/// The baseline: what is loaded, by the programs that load it.
fn restore(variant: Variant, program: &RestoreInput) {
    load("ipset", &["restore"], &program.sets().to_string());
    for (family, name) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        let command = format!("{name}-{}-restore", variant.as_str());
        load(&command, &["--noflush"], &program.filter(family).to_string());
    }
}

fn load(program: &str, arguments: &[&str], text: &str) {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
