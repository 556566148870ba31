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
use netpol_core::backend::{Backend as _, Dataplane as _, Updated};
use netpol_core::compile::{Options, compile};
use netpol_core::engine::{Delta, Engine, Event, MemberChange, Switch};
use netpol_core::ir::{Family, PeerSelector, Ruleset, Scope};
use netpol_core::model::{Cluster, Pod};
use netpol_core::net::AddressSet;
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
    for (name, pods, policies, profile) in
        [("MEDIUM", 1000, 1000, MEDIUM), ("MINIMAL", 1000, 1000, MINIMAL)]
    {
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
            "  {variant:?}: restore commands {bare:?}, sync {full:?} ({:.2}), nothing changed {same:?}, one policy by sync \
             {change:?}",
            full.as_secs_f64() / bare.as_secs_f64(),
        );
        updates(variant, pods, policies, profile, &options);
        remove();
    }
}

/// What deltas cost: a peer that comes and goes, a pod of the node that comes and goes, a policy that comes and goes.
fn updates(variant: Variant, pods: usize, policies: usize, profile: Profile, options: &Options) {
    let cluster = workload::cluster(pods, policies, profile);
    let mut engine = Engine::new(options.clone());
    let objects = netpol_conformance::events::puts(&cluster);
    engine.apply_batch(objects.into_iter().chain([Event::InSync]));
    let mut dataplane = IptablesDataplane::with_variant(variant);
    dataplane.sync(engine.snapshot()).unwrap();
    let Scope::Node(node) = options.scope.clone() else { return };
    // One address that joins one set, and leaves it.
    let mut ruleset = engine.snapshot().clone();
    let sets: Vec<_> = ruleset.peer_sets().map(|(id, set)| (id, set.selector.clone())).collect();
    let pods = sets.iter().filter(|(_, selector)| matches!(selector, PeerSelector::Pods { .. }));
    let mut times: Vec<Duration> = Vec::new();
    for (set, _) in pods.take(200) {
        let one: AddressSet = ["203.0.113.7".parse().unwrap()].into_iter().collect();
        for (joins, leaves) in [(one.clone(), AddressSet::default()), (AddressSet::default(), one)]
        {
            let members = vec![MemberChange { set: *set, joins, leaves }];
            let delta =
                Delta { switch: Switch { members, ..Switch::default() }, ..Delta::default() };
            ruleset.apply(&delta).unwrap();
            let begun = Instant::now();
            assert_eq!(dataplane.update(&ruleset, &delta).unwrap(), Updated::ByDelta);
            times.push(begun.elapsed());
        }
    }
    times.sort_unstable();
    if let (Some(best), Some(median)) = (times.first(), times.get(times.len() / 2)) {
        println!(
            "    one member joins or leaves: median {median:?}, best {best:?} of {}",
            times.len()
        );
    }
    let mut measured = |name: &str, events: Vec<[Event; 2]>| {
        let mut times: Vec<Duration> = Vec::new();
        let (mut by_sync, mut members) = (0, 0);
        for event in events.into_iter().flatten() {
            let delta = engine.apply(event);
            if delta.is_empty() {
                continue;
            }
            let begun = Instant::now();
            let how = dataplane.update(engine.snapshot(), &delta).unwrap();
            times.push(begun.elapsed());
            by_sync += usize::from(how == Updated::BySync);
            let changes = delta.switch.members.iter();
            members +=
                changes.map(|change| change.joins.len() + change.leaves.len()).sum::<usize>();
        }
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
        println!(
            "    {name}: median {:?}, best {:?}, 90 % {:?} of {}, {by_sync} by sync, {} members each",
            at(50),
            at(0),
            at(90),
            times.len(),
            members.checked_div(times.len()).unwrap_or_default()
        );
    };
    let again = |pod: &Pod| [Event::DeletePod(pod.meta.object.clone()), Event::PutPod(pod.clone())];
    let remote = cluster.pods.values().filter(|pod| pod.node.as_ref() != Some(&node));
    measured("a remote pod goes or comes", remote.take(100).map(again).collect());
    let local = cluster.pods.values().filter(|pod| pod.node.as_ref() == Some(&node));
    measured("a local pod goes or comes", local.take(40).map(again).collect());
    let policies = cluster.network_policies.values().map(|policy| {
        let object = policy.meta.object.clone();
        [Event::DeleteNetworkPolicy(object), Event::PutNetworkPolicy(policy.clone())]
    });
    measured("a policy goes or comes", policies.take(60).collect());
    let drift = dataplane.verify(engine.snapshot()).unwrap();
    assert!(drift.is_empty(), "{drift:?}");
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
