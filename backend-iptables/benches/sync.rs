//! What a sync costs, beside the restore commands on the same text: `cargo bench -p netpol-iptables --features
//! kernel-tests`, as root. Works in a network namespace of its own, which ends with the process. `-- NAME…` measures only
//! these workloads.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement that is read by people"
)]

// One workload for whoever talks to netfilter, so that the figures can be compared.
#[path = "../../backend-nft/benches/control/clusters.rs"]
#[expect(dead_code, clippy::std_instead_of_core, reason = "as another benchmark needs it")]
mod clusters;

use core::time::Duration;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use clusters::Size;
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
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    for (name, pods, policies, profile) in
        [("MEDIUM", 1000, 1000, MEDIUM), ("MINIMAL", 1000, 1000, MINIMAL)]
    {
        if is_wanted(name) {
            measure(name, pods, policies, profile);
        }
    }
    if is_wanted("FULL") {
        full();
    }
}

/// 250 pods of one node × 1,000 policies × 100,000 members.
fn full() {
    let size = Size { local: 250, policies: 1_000, rules: 1, groups: 1_000, members: 100 };
    let mut engine = size.engine();
    let program = Iptables::default().lower(engine.snapshot()).unwrap();
    describe("FULL", engine.snapshot(), &program);
    for variant in [Variant::Nft, Variant::Legacy] {
        whole(variant, engine.snapshot(), &program);
        let mut dataplane = IptablesDataplane::with_variant(variant);
        dataplane.sync(engine.snapshot()).unwrap();
        let (mut times, mut idle) = (Vec::new(), Vec::new());
        for index in 0..30 {
            for port in [2000, 1000] {
                let delta = engine.apply(size.policy(index, port));
                let update = || dataplane.update(engine.snapshot(), &delta).unwrap();
                let (how, took) = timed(update);
                assert_eq!(how, Updated::ByDelta);
                times.push(took);
                idle.push(timed(|| load_nothing(variant)).1);
            }
        }
        for (what, times) in
            [("another port in a policy", times), ("the restore command without a change", idle)]
        {
            let (mut whole, mut busy): (Vec<_>, Vec<_>) = times.into_iter().unzip();
            whole.sort_unstable();
            busy.sort_unstable();
            let at = |times: &[Duration], share: usize| times[times.len() * share / 100];
            println!(
                "    {what}: best {:.1?}, median {:.1?}; of processors {:.1?} and {:.1?}",
                at(&whole, 0),
                at(&whole, 50),
                at(&busy, 0),
                at(&busy, 50)
            );
        }
        IptablesDataplane::with_variant(variant).remove().unwrap();
    }
}

fn describe(name: &str, ruleset: &Ruleset, program: &RestoreInput) {
    let rules =
        |family| program.filter(family).chains.values().map(|rules| rules.len()).sum::<usize>();
    println!(
        "{name}: {} pods of the node, {} pipelines, {} + {} rules, {} sets, {} members",
        ruleset.endpoints().len(),
        ruleset.pipelines().len(),
        rules(Family::V4),
        rules(Family::V6),
        program.sets().iter().len(),
        program.sets().iter().map(|(_, members)| members.len()).sum::<usize>(),
    );
}

/// What a whole sync costs beside the commands.
fn whole(variant: Variant, ruleset: &Ruleset, program: &RestoreInput) {
    let remove = || IptablesDataplane::with_variant(variant).remove().unwrap();
    let sync = || IptablesDataplane::with_variant(variant).sync(ruleset).unwrap();
    let mut ratios = Vec::new();
    let (mut bare, mut full, mut same) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        remove();
        bare.push(timed(|| restore(variant, program)).1);
        remove();
        full.push(timed(sync).1);
        same.push(timed(sync).1);
        if let (Some((_, bare)), Some((_, full))) = (bare.last(), full.last()) {
            ratios.push(full.as_secs_f64() / bare.as_secs_f64());
        }
    }
    remove();
    ratios.sort_unstable_by(f64::total_cmp);
    let best = |times: &[(Duration, Duration)]| {
        let whole = times.iter().map(|(whole, _)| *whole).min().unwrap();
        (whole, times.iter().map(|(_, busy)| *busy).min().unwrap())
    };
    let [bare, full, same] = [bare, full, same].map(|times| best(&times));
    println!(
        "  {variant:?}: restore commands {:.0?}, sync {:.0?} ({:.2}), nothing changed {:.0?}; of processors {:.0?}, {:.0?} \
         (median of the ratios in turn {:.2}), {:.0?}",
        bare.0,
        full.0,
        full.0.as_secs_f64() / bare.0.as_secs_f64(),
        same.0,
        bare.1,
        full.1,
        ratios[ratios.len() / 2],
        same.1,
    );
}

/// Returns how long it took, and how much of processors' time, in child processes too.
fn timed<T>(work: impl FnOnce() -> T) -> (T, (Duration, Duration)) {
    let (begun, before) = (Instant::now(), busy());
    let done = work();
    (done, (begun.elapsed(), busy().saturating_sub(before)))
}

/// Returns the processors' time of this process and of the children that ended.
fn busy() -> Duration {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].into_iter().map(used_by).sum()
}

fn used_by(who: libc::c_int) -> Duration {
    let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills in a structure of plain numbers that lives through the call.
    #[expect(unsafe_code, reason = "the standard library does not tell")]
    let usage = unsafe {
        libc::getrusage(who, usage.as_mut_ptr());
        usage.assume_init()
    };
    let of = |time: libc::timeval| {
        let seconds = Duration::from_secs(time.tv_sec.unsigned_abs());
        seconds + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// What one restore command takes that has nothing to do.
fn load_nothing(variant: Variant) {
    let command = format!("iptables-{}-restore", variant.as_str());
    load(&command, &["--noflush"], "*filter\nCOMMIT\n");
}

fn measure(name: &str, pods: usize, policies: usize, profile: Profile) {
    let mut cluster = workload::cluster(pods, policies, profile);
    let (ruleset, options) = busiest(&cluster);
    let (program, lowering) = best(|| (), || Iptables::default().lower(&ruleset).unwrap());
    describe(&format!("{name} {pods} pods {policies} policies"), &ruleset, &program);
    println!("  lowered in {lowering:?}");
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
        whole(variant, &ruleset, &program);
        let ((), change) = best(|| sync(&ruleset), || sync(&changed));
        remove();
        println!("    one policy by sync {change:?}");
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
