//! What it costs to tell the kernel: processor time of this thread and of the programs it runs, the kernel's part included.
//!
//! `cargo bench -p netpol-nft --features kernel-tests --bench control` prints the tables of docs/benchmarks.md; needs root.
//! Works in a network namespace of its own, which ends with the process. `-- NAME…` runs only the tables whose name
//! contains one of them: `peer`, `policy`, `full`, `sets`, `shapes`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::std_instead_of_core,
    reason = "a benchmark prints figures"
)]

mod clusters;
mod kernel;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netpol_core::backend::{Backend as _, Dataplane as _, Established, Updated};
use netpol_core::engine::{Engine, Event};
use netpol_core::ir::Ruleset;
use netpol_nft::{Nft, NftDataplane, NftOptions};

use clusters::Size;
use kernel::{
    Bare, enter_fresh_namespace, one_element, overhear, processor_time, resident_peak,
    time_of_children,
};

fn main() {
    let names: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wants = |name: &str| names.is_empty() || names.iter().any(|wanted| name.contains(wanted));
    if !enter_fresh_namespace() {
        println!("NOT RUN: no privilege to make a network namespace");
        return;
    }
    if wants("peer") {
        one_peer();
    }
    if wants("policy") {
        one_policy();
    }
    if wants("full") {
        full_sync();
    }
    if wants("sets") {
        many_sets();
    }
    if wants("shapes") {
        shapes();
    }
}

/// Returns the processor time of some work.
fn timed(work: impl FnOnce()) -> Duration {
    let start = processor_time();
    work();
    processor_time() - start
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ratio(time: Duration, baseline: Duration) -> f64 {
    time.as_secs_f64() / baseline.as_secs_f64()
}

/// Takes an event and returns what the update that follows from it costs, and how it was done.
fn update(engine: &mut Engine, dataplane: &mut NftDataplane, event: Event) -> (Duration, Updated) {
    let delta = engine.apply(event);
    assert!(!delta.is_empty(), "the event changes nothing");
    let mut how = Updated::BySync;
    let time = timed(|| how = dataplane.update(engine.snapshot(), &delta).unwrap());
    (time, how)
}

/// What the parts cost and how they were done, one line.
fn updates(
    engine: &mut Engine,
    dataplane: &mut NftDataplane,
    events: impl IntoIterator<Item = Event>,
) -> (Duration, Updated) {
    let mut how = Updated::ByDelta;
    let times = events.into_iter().map(|event| {
        let (time, done) = update(engine, dataplane, event);
        how = done;
        time
    });
    let median = median(times.collect());
    (median, how)
}

fn synced(ruleset: &Ruleset) -> NftDataplane {
    let mut dataplane = NftDataplane::new();
    dataplane.remove().unwrap();
    dataplane.sync(ruleset).unwrap();
    dataplane
}

/// One member of up to 100,000.
fn one_peer() {
    println!("\none peer of a set comes and goes (processor time, and × the bare netlink message)");
    println!(
        "| open connections | members | comes | × | goes | × | how |\n|---|---|---|---|---|---|---|"
    );
    for (open, established) in [("judged again", Established::Recheck), ("kept", Established::Keep)]
    {
        for members in [1_000, 10_000, 100_000] {
            let size = Size { local: 1, policies: 1, rules: 1, groups: 1, members };
            let mut engine = size.engine();
            NftDataplane::new().remove().unwrap();
            let mut options = NftOptions::default();
            options.established = established;
            let mut dataplane = NftDataplane::with_options(options);
            dataplane.sync(engine.snapshot()).unwrap();
            let set = largest_set(engine.snapshot());
            let bare = Bare::open();
            let indexes: Vec<usize> = (0..300).map(|round| round * 7919 % members).collect();
            let (mut goes, mut comes, mut how) = (Vec::new(), Vec::new(), Updated::BySync);
            for index in &indexes {
                goes.push(update(&mut engine, &mut dataplane, Size::leaves(*index)).0);
                let (time, done) = update(&mut engine, &mut dataplane, size.joins(*index));
                comes.push(time);
                how = done;
            }
            let (mut bare_goes, mut bare_comes) = (Vec::new(), Vec::new());
            for index in &indexes {
                let address = Size::address(*index).octets();
                let [leave, join] = [false, true].map(|joins| one_element(&set, address, joins));
                bare_goes.push(timed(|| bare.commit(&leave)));
                bare_comes.push(timed(|| bare.commit(&join)));
            }
            let [comes, goes] = [comes, goes].map(median);
            let [bare_comes, bare_goes] = [bare_comes, bare_goes].map(median);
            println!(
                "| {open} | {members} | {comes:.1?} | {:.2} | {goes:.1?} | {:.2} | {how:?} |",
                ratio(comes, bare_comes),
                ratio(goes, bare_goes)
            );
        }
    }
}

/// The name of the set with the most members.
fn largest_set(ruleset: &Ruleset) -> String {
    let script = Nft::default().lower(ruleset).unwrap();
    let sets = script.table().sets.iter();
    sets.max_by_key(|(_, set)| set.len()).unwrap().0.to_string()
}

/// One policy of a node of 250 pods and 2,000 sets.
fn one_policy() {
    println!("\none policy changes its port (250 local pods)");
    println!(
        "| sets | update | how | its bare netlink batches | × | on the clock |\n|---|---|---|---|---|---|"
    );
    for policies in [250, 2_000] {
        let size = Size { local: 250, policies, rules: 1, groups: policies, members: 50 };
        let mut engine = size.engine();
        let mut dataplane = synced(engine.snapshot());
        let events = (0..40).map(|round| size.policy(round % 20 * 7, 2000 + round / 20));
        let begun = Instant::now();
        let (ours, how) = updates(&mut engine, &mut dataplane, events);
        let clock = begun.elapsed() / 40;
        // What one such change sends, once more in the state in which it was sent.
        let mut theirs = Vec::new();
        for round in 0..10 {
            let mut dataplane = synced(engine.snapshot());
            let delta = engine.apply(size.policy(3, 3000 + round));
            let transactions = overhear(|| {
                dataplane.update(engine.snapshot(), &delta).unwrap();
            });
            engine.apply(size.policy(3, 1000));
            synced(engine.snapshot());
            let bare = Bare::open();
            theirs.push(timed(|| transactions.iter().for_each(|bytes| bare.commit(bytes))));
        }
        let theirs = median(theirs);
        println!(
            "| {policies} | {ours:.2?} | {how:?} | {theirs:.2?} | {:.2} | {clock:.1?} |",
            ratio(ours, theirs)
        );
    }
}

/// Everything at once: 250 local pods × 1,000 policies × 100,000 members.
fn full_sync() {
    println!("\nfull sync of 250 local pods × 1,000 policies × 100,000 members");
    let size = Size { local: 250, policies: 1_000, rules: 1, groups: 1_000, members: 100 };
    let engine = size.engine();
    let ruleset = engine.snapshot();
    let mut transactions = Vec::new();
    let resident = resident_peak(|| {
        NftDataplane::new().sync(ruleset).unwrap();
    });
    let text = Nft::default().lower(ruleset).unwrap().to_string();
    let (mut full, mut bare, mut loaded) = (Vec::new(), Vec::new(), Vec::new());
    let (mut remembered, mut looked) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let mut dataplane = NftDataplane::new();
        dataplane.remove().unwrap();
        if transactions.is_empty() {
            transactions = overhear(|| dataplane.sync(ruleset).unwrap());
            dataplane.remove().unwrap();
        }
        full.push(timed(|| dataplane.sync(ruleset).unwrap()));
        remembered.push(timed(|| dataplane.sync(ruleset).unwrap()));
        looked.push(timed(|| NftDataplane::new().sync(ruleset).unwrap()));
        dataplane.remove().unwrap();
        let socket = Bare::open();
        bare.push(timed(|| transactions.iter().for_each(|bytes| socket.commit(bytes))));
        dataplane.remove().unwrap();
        loaded.push(nft(&text));
        dataplane.remove().unwrap();
    }
    let (full, bare, loaded) = (median(full), median(bare), median(loaded));
    let (remembered, looked) = (median(remembered), median(looked));
    let sent: usize = transactions.iter().map(Vec::len).sum();
    println!("| what | processor time | × full sync |\n|---|---|---|");
    println!("| full sync, peak {resident} MB more resident | {full:.0?} | 1 |");
    for (what, time) in [
        ("bare netlink: the same transactions", bare),
        ("`nft -f` of the same program", loaded),
        ("nothing changed, by memory", remembered),
        ("nothing changed, another process looks", looked),
    ] {
        println!("| {what} | {time:.1?} | {:.2} |", ratio(time, full));
    }
    println!(
        "full sync × bare: {:.2}; `nft -f` × full sync: {:.2}; {} transactions of {} KB",
        ratio(full, bare),
        ratio(loaded, full),
        transactions.len(),
        sent / 1000
    );
}

/// As many sets of peers as policies, as those of a pod are for different ports: the kernel finds a set by walking the names of all.
fn many_sets() {
    println!(
        "\nfull sync of 250 local pods and many policies, each with a port and ten peers of its own"
    );
    println!("| sets | full sync | its bare netlink transactions | `nft -f` of the same program |");
    println!("|---|---|---|---|");
    for (sets, rounds) in [(1_000, 5), (5_000, 3), (20_000, 1)] {
        let size = Size { local: 250, policies: sets, rules: 1, groups: sets, members: 10 };
        let mut engine = size.engine();
        engine.apply_batch((0..sets).map(|index| size.policy(index, 1000 + index / size.local)));
        let ruleset = engine.snapshot();
        let text = Nft::default().lower(ruleset).unwrap().to_string();
        let (mut full, mut bare, mut loaded) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut dataplane = NftDataplane::new();
            dataplane.remove().unwrap();
            full.push(timed(|| dataplane.sync(ruleset).unwrap()));
            dataplane.remove().unwrap();
            let transactions = overhear(|| dataplane.sync(ruleset).unwrap());
            dataplane.remove().unwrap();
            let socket = Bare::open();
            bare.push(timed(|| transactions.iter().for_each(|bytes| socket.commit(bytes))));
            dataplane.remove().unwrap();
            loaded.push(nft(&text));
            dataplane.remove().unwrap();
        }
        let (full, bare, loaded) = (median(full), median(bare), median(loaded));
        println!(
            "| {sets} | {full:.2?} | {bare:.2?}, {:.2} × | {loaded:.2?}, {:.2} × |",
            ratio(bare, full),
            ratio(loaded, full)
        );
    }
}

/// Loads a text with `nft` and returns what that took.
fn nft(text: &str) -> Duration {
    let before = time_of_children();
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    time_of_children() - before
}

/// The shapes that Felix's own benchmarks of its tables have: sets, members of each, chains of ten rules.
fn shapes() {
    println!("\nsets / members of each / chains of ten rules");
    println!(
        "| shape | full sync | resync | one member | one chain | how |\n|---|---|---|---|---|---|"
    );
    for (sets, members, chains) in [(100, 20, 100), (500, 50, 500), (2000, 100, 2000)] {
        let size = Size { local: chains, policies: chains, rules: 10, groups: sets, members };
        let mut engine = size.engine();
        let mut dataplane = NftDataplane::new();
        dataplane.remove().unwrap();
        let full = timed(|| dataplane.sync(engine.snapshot()).unwrap());
        // A resync looks at everything in the kernel, as after a restart.
        let resync = (0..5).map(|_| {
            let mut restarted = NftDataplane::new();
            let time = timed(|| restarted.sync(engine.snapshot()).unwrap());
            dataplane = restarted;
            time
        });
        let resync = median(resync.collect());
        let rounds = if chains > 1000 { 10 } else { 40 };
        let events = (0..rounds).flat_map(|round| {
            let index = round * 37 % (sets * members);
            [Size::leaves(index), size.joins(index)]
        });
        let (member, _) = updates(&mut engine, &mut dataplane, events);
        let events = (0..rounds).map(|round| size.policy(round, 2000));
        let (chain, how) = updates(&mut engine, &mut dataplane, events);
        println!(
            "| {sets}/{members}/{chains} | {full:.1?} | {resync:.1?} | {member:.1?} | {chain:.1?} | {how:?} |"
        );
    }
}
