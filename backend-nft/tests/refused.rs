//! The kernel refuses any one message of a change, or that and whatever is tried then: the rules from before stay in force, the
//! error names the object, and the next call leads where it should.
//!
//! Shown on case files of every kind and on generated events, at every message. Most of the time goes by in the kernel, which
//! waits for every processor before it takes a transaction back; so many namespaces are at it side by side.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "test support")]

extern crate alloc;

#[path = "support/listing.rs"]
mod listing;

use core::sync::atomic::{AtomicUsize, Ordering};
use std::process::Command;
use std::thread;

use listing::Listing;
use netpol_conformance::cases;
use netpol_conformance::events::{Happening, Script, puts};
use netpol_conformance::netlab::{enter_fresh_network, kernel_test};
use netpol_core::backend::{
    Backend as _, Dataplane as _, Difference, Drift, Established, SyncError, Updated,
};
use netpol_core::compile::{Options, compile};
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::{Ruleset, Scope};
use netpol_k8s::manifest::{ReadOptions, read_str};
use netpol_nft::{Nft, NftDataplane, NftOptions, Ownership};

/// How many namespaces at a time.
const NAMESPACES: usize = 12;

/// Does something with every item, each in a network namespace of its own.
fn all<T: Sync>(items: &[T], test: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    kernel_test(|| {
        thread::scope(|scope| {
            let run = || {
                while let Some((number, item)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    items.get(number).map(|item| (number, item))
                } {
                    enter_fresh_network();
                    test(number, item);
                }
            };
            let threads: Vec<_> = (0..NAMESPACES).map(|_| scope.spawn(run)).collect();
            for thread in threads {
                if let Err(panic) = thread.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
    });
}

/// Every way in which rules are made.
fn options(number: usize) -> NftOptions {
    let mut options = NftOptions::default();
    if number.is_multiple_of(3) {
        options.established = Established::Keep;
        options.log_group = None;
    }
    if number.is_multiple_of(4) {
        options.ownership = Ownership::Required;
    }
    options
}

/// One case file of so many is taken.
const CASES: usize = 7;

/// Rulesets of case files: of the cluster, or of its first node.
fn rulesets() -> Vec<(String, Ruleset)> {
    let cases = cases::all().unwrap().into_iter().filter(|case| !case.flows.is_empty());
    let compiled = cases.step_by(CASES).enumerate().map(|(number, case)| {
        let cluster = case.cluster().unwrap().cluster;
        let node = cluster.nodes.keys().next().filter(|_| number % 2 == 0);
        let scope = node.map_or(Scope::Cluster, |node| Scope::Node(node.clone()));
        let options = Options { scope, settings: case.settings, ..Options::default() };
        (case.name, compile(&cluster, &options).ruleset)
    });
    compiled.collect()
}

/// Returns whether it is the kernel that refused an object of ours.
fn is_refused(error: &SyncError) -> bool {
    matches!(error, SyncError::Refused { object, .. } if object.ends_with("table inet netpol"))
}

fn only(drifts: &[Drift], difference: Difference) -> bool {
    drifts.iter().all(|drift| drift.difference == difference)
}

#[test]
fn a_sync_of_which_any_message_is_refused_leaves_the_rules_from_before_in_force() {
    let rulesets = rulesets();
    let pairs: Vec<_> = rulesets.windows(2).collect();
    let (refusals, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    all(&pairs, |number, pair| {
        let [(_, old), (name, new)] = pair else { return };
        let mut dataplane = NftDataplane::with_options(options(number));
        dataplane.sync(old).unwrap();
        for message in 0.. {
            dataplane.refuse(message);
            let Err(error) = dataplane.sync(new) else { break };
            assert!(is_refused(&error), "{name}, message {message}: {error:?}");
            refusals.fetch_add(1, Ordering::Relaxed);
            if !dataplane.verify(old).unwrap().is_empty() {
                // Refused while deleting what is out of use: the new rules are in force.
                late.fetch_add(1, Ordering::Relaxed);
                let mut left = dataplane.verify(new).unwrap();
                // That what is of one address is of one pod may be left, too: it is so at all times.
                left.retain(|drift| !drift.object.starts_with("set own-addresses-"));
                assert!(only(&left, Difference::Unexpected), "{name}, message {message}: {left:?}");
                dataplane.sync(old).unwrap();
            }
        }
        assert_eq!(dataplane.verify(new).unwrap(), [], "{name}");
    });
    let (refusals, late) = (refusals.into_inner(), late.into_inner());
    eprintln!("{refusals} refusals, {late} of them late, of {} rulesets", rulesets.len());
    assert!(refusals > 600 && late > 100 && late < refusals / 2, "{refusals}, {late} late");
}

/// Two rulesets and what leads from one to the other.
struct Change {
    before: Ruleset,
    delta: Delta,
    after: Ruleset,
}

/// Two pods become what the other one was: each joins a set and leaves another, which is two steps.
fn exchange() -> Change {
    let cluster = |peers: [&str; 2]| {
        let pod = |(name, peer): (&str, &str)| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}, peer: '{peer}'}}}}, \
                 spec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}, \
                 status: {{podIPs: [{{ip: 10.0.1.{}}}]}}}}\n---\n",
                name.len()
            )
        };
        let pods: String = [("a", peers[0]), ("aa", peers[1]), ("aaa", "")].map(pod).concat();
        let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: \
                      {podSelector: {matchLabels: {app: aaa}}, ingress: [{from: [{podSelector: {matchLabels: {peer: 'yes'}}}]}, \
                      {from: [{podSelector: {matchLabels: {peer: 'no'}}}], ports: [{port: 1}]}]}}";
        read_str("cluster.yaml", &(pods + policy), &ReadOptions::default()).unwrap().cluster
    };
    let mut engine = Engine::new(Options::default());
    engine.apply_batch(puts(&cluster(["yes", "no"])));
    engine.apply(Event::InSync);
    let before = engine.snapshot().clone();
    let delta = engine.apply_batch(puts(&cluster(["no", "yes"])));
    Change { before, delta, after: engine.snapshot().clone() }
}

/// Changes of all kinds.
fn changes() -> Vec<Change> {
    let mut changes: Vec<Change> = (0..6).map(|_| exchange()).collect();
    for seed in 1..6 {
        let script = match seed % 4 {
            0 => Script::relabels(seed, 24),
            _ => Script::new(seed, 16),
        };
        let mut engine = Engine::new(script.options);
        for happening in script.happenings {
            let events = match happening {
                Happening::Event(event) => vec![event],
                Happening::Batch(events) => events,
                Happening::Restart(_) => vec![Event::InSync],
            };
            let before = engine.snapshot().clone();
            let delta = engine.apply_batch(events);
            if !delta.is_empty() {
                changes.push(Change { before, delta, after: engine.snapshot().clone() });
            }
        }
    }
    changes
}

/// Makes sure that what was left half-way lets nobody do what neither ruleset allows, and allows what both do: one of the two is
/// there but for members that only one of them has.
fn check_half_way(dataplane: &mut NftDataplane, change: &Change) {
    let is_of_members = |drift: &Drift| {
        drift.difference == Difference::Unexpected
            || drift.difference == Difference::Changed
                && ["set s", "set u", "set own"].iter().any(|kind| drift.object.starts_with(kind))
    };
    let there = [&change.before, &change.after].map(|ruleset| dataplane.verify(ruleset).unwrap());
    assert!(there.iter().any(|drifts| drifts.iter().all(is_of_members)), "{there:#?}");
    let [before, after] = [&change.before, &change.after]
        .map(|ruleset| Listing::parse(&Nft::default().lower(ruleset).unwrap().to_string()));
    let listed = Command::new("nft").args(["list", "table", "inet", "netpol"]).output().unwrap();
    let listed = Listing::parse(&String::from_utf8(listed.stdout).unwrap());
    for drift in there.iter().flatten().filter(|drift| drift.difference == Difference::Changed) {
        let Some(name) = drift.object.strip_prefix("set ") else { continue };
        let find = |listing: &Listing| {
            let set = listing.objects.iter().find(|((_, there), _)| there == name);
            set.map(|(_, object)| object.items.clone()).unwrap_or_default()
        };
        let [before, after, listed] = [&before, &after, &listed].map(find);
        for member in &listed {
            assert!(before.contains(member) || after.contains(member), "{name}: {member}");
        }
        for member in before.iter().filter(|member| after.contains(*member)) {
            assert!(listed.contains(member), "{name}: {member}");
        }
    }
}

#[test]
fn an_update_of_which_any_message_is_refused_leaves_one_of_both_rulesets_in_force() {
    let changes = changes();
    let [deltas, refusals, as_before, half_way] = [const { AtomicUsize::new(0) }; 4];
    all(&changes, |number, change| {
        let mut dataplane = NftDataplane::with_options(options(number));
        dataplane.sync(&change.before).unwrap();
        let updated = dataplane.update(&change.after, &change.delta).unwrap();
        deltas.fetch_add(usize::from(updated == Updated::ByDelta), Ordering::Relaxed);
        for message in 0.. {
            dataplane.sync(&change.before).unwrap();
            if number % 2 == 1 && updated == Updated::ByDelta {
                // Refused once, it ends as a sync.
                dataplane.refuse(message);
                if dataplane.update(&change.after, &change.delta).unwrap() == Updated::ByDelta {
                    break;
                }
                assert_eq!(dataplane.verify(&change.after).unwrap(), []);
                refusals.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            dataplane.refuse_from(message);
            match dataplane.update(&change.after, &change.delta) {
                Ok(_) => break,
                Err(error) => assert!(is_refused(&error), "message {message}: {error:?}"),
            }
            refusals.fetch_add(1, Ordering::Relaxed);
            if dataplane.verify(&change.before).unwrap().is_empty() {
                as_before.fetch_add(1, Ordering::Relaxed);
            } else if !only(&dataplane.verify(&change.after).unwrap(), Difference::Unexpected) {
                half_way.fetch_add(1, Ordering::Relaxed);
                check_half_way(&mut dataplane, change);
            }
        }
        assert_eq!(dataplane.verify(&change.after).unwrap(), []);
    });
    let [deltas, refusals, as_before, half_way] =
        [deltas, refusals, as_before, half_way].map(AtomicUsize::into_inner);
    eprintln!(
        "{} changes, {deltas} by delta; {refusals} refusals: {as_before} as before, {half_way} half-way",
        changes.len()
    );
    assert!(
        refusals > 500 && deltas > 10 && as_before > half_way && half_way > 2,
        "{refusals}, {deltas} by delta"
    );
}
