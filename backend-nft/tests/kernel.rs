//! The kernel's own listing says what we meant, whatever was there before.
//!
//! Every test works in a network namespace of its own, which ends with the test's thread. Without the privilege for that
//! the tests say loudly that they did not run; with `NETPOL_REQUIRE_KERNEL=1` they fail.

#![expect(clippy::unwrap_used, clippy::unreachable, clippy::print_stderr, reason = "test support")]

extern crate alloc;

#[path = "kernel/large.rs"]
mod large;
#[path = "support/listing.rs"]
mod listing;
#[path = "support/rulesets.rs"]
mod rulesets;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use large::{members, open_to};
use listing::Listing;
use netpol_conformance::events::{Happening, Script};
use netpol_conformance::netlab::{enter_fresh_network, in_fresh_network};
use netpol_core::backend::{Backend as _, Dataplane as _, Established, Updated};
use netpol_core::engine::{Delta, Engine, Event, MemberChange, Switch};
use netpol_core::ir::Ruleset;
use netpol_core::net::AddressSet;
use netpol_nft::{Nft, NftDataplane, NftOptions};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

fn nft(arguments: &[&str], stdin: &str) -> String {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {arguments:?}: {said}\n{stdin}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn assert_in_kernel(ruleset: &Ruleset) {
    let script = Nft::default().lower(ruleset).unwrap().to_string();
    let meant = Listing::parse(&script);
    let list = || nft(&["list", "table", "inet", "netpol"], "");
    let mut there = list();
    // While the kernel grows a hash set, a listing of it repeats some elements and leaves others out.
    for _ in 0..50 {
        if Listing::parse(&there) == meant {
            return;
        }
        thread::sleep(Duration::from_millis(20));
        there = list();
    }
    assert!(Listing::parse(&there) == Listing::parse(&script), "meant:\n{script}\nthere:\n{there}");
}

fn samples(count: usize) -> Vec<Ruleset> {
    let mut runner = TestRunner::deterministic();
    let strategy = rulesets::peer_sets().prop_flat_map(rulesets::rulesets_over);
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn nft_loads_the_text_and_lists_the_same() {
    in_fresh_network(|| {
        for ruleset in samples(32) {
            nft(&["-f", "-"], &Nft::default().lower(&ruleset).unwrap().to_string());
            assert_in_kernel(&ruleset);
            nft(&["delete", "table", "inet", "netpol"], "");
        }
    });
}

/// Keeps what is about rules: which chain, and its expressions.
fn compiled(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("[ ") || (line.starts_with("inet netpol ") && !line.contains(" use ")) {
            lines.push(line);
        }
    }
    lines
}

#[test]
fn our_expressions_are_those_that_nft_compiles_from_the_text() {
    in_fresh_network(|| {
        let mut seen = 0;
        for (number, ruleset) in samples(48).into_iter().enumerate() {
            let mut options = NftOptions::default();
            if number % 3 == 0 {
                options.established = Established::Keep;
                options.log_group = None;
            }
            let script = Nft::new(options).lower(&ruleset).unwrap();
            let theirs = nft(&["--debug=netlink", "-f", "-"], &script.to_string());
            nft(&["delete", "table", "inet", "netpol"], "");
            let ours = script.expressions();
            for (number, (ours, theirs)) in
                compiled(&ours).into_iter().zip(compiled(&theirs)).enumerate()
            {
                assert_eq!(ours, theirs, "line {number} of\n{script}");
            }
            assert_eq!(compiled(&ours).len(), compiled(&theirs).len(), "{script}");
            seen += compiled(&ours).len();
        }
        assert!(seen > 10_000, "only {seen} lines were compared");
    });
}

#[test]
fn a_sync_of_what_is_there_writes_nothing() {
    in_fresh_network(|| {
        for ruleset in samples(12) {
            let mut dataplane = NftDataplane::new();
            dataplane.sync(&ruleset).unwrap();
            let generation = dataplane.generation().unwrap();
            dataplane.sync(&ruleset).unwrap();
            assert_eq!(dataplane.generation().unwrap(), generation, "by memory");
            let mut successor = NftDataplane::new();
            successor.sync(&ruleset).unwrap();
            assert_eq!(dataplane.generation().unwrap(), generation, "by looking");
            nft(&["-f", "-"], "add table inet other\ndelete table inet other\n");
            let generation = dataplane.generation().unwrap();
            dataplane.sync(&ruleset).unwrap();
            assert_eq!(dataplane.generation().unwrap(), generation, "by looking again");
        }
    });
}

#[test]
fn a_table_that_another_process_owns_is_left_alone_and_named() {
    in_fresh_network(|| {
        let ruleset = samples(1).remove(0);
        let mut owner = Command::new("nft")
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = owner.stdin.take().unwrap();
        writeln!(stdin, "add table inet netpol {{ flags owner; }}\nlist tables").unwrap();
        stdin.flush().unwrap();
        while !nft(&["list", "tables"], "").contains("netpol") {
            thread::yield_now();
        }
        let error = NftDataplane::new().sync(&ruleset).unwrap_err();
        assert!(error.to_string().contains("inet netpol"), "{error:?}");
        drop(stdin);
        owner.wait().unwrap();
        NftDataplane::new().sync(&ruleset).unwrap();
        assert_in_kernel(&ruleset);
    });
}

#[test]
fn one_dataplane_serves_the_namespace_that_it_is_called_in() {
    in_fresh_network(|| {
        let rulesets = samples(2);
        let mut dataplane = NftDataplane::new();
        dataplane.sync(&rulesets[0]).unwrap();
        let mut dataplane = thread::scope(|scope| {
            let elsewhere = || {
                enter_fresh_network();
                dataplane.sync(&rulesets[1]).unwrap();
                assert_in_kernel(&rulesets[1]);
                dataplane
            };
            scope.spawn(elsewhere).join().unwrap()
        });
        assert_in_kernel(&rulesets[0]);
        dataplane.sync(&rulesets[1]).unwrap();
        assert_in_kernel(&rulesets[1]);
        dataplane.remove().unwrap();
        assert_eq!(nft(&["list", "ruleset"], ""), "");
    });
}

#[test]
fn sync_comes_through_while_others_change_nftables() {
    in_fresh_network(|| {
        let rulesets = samples(24);
        let text = "add table inet other\ndelete table inet other\n";
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            // A thread starts in the namespace of the one that makes it.
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    nft(&["-f", "-"], text);
                }
            });
            let synced = rulesets.iter().try_for_each(|ruleset| NftDataplane::new().sync(ruleset));
            ended.store(true, Ordering::Relaxed);
            synced.unwrap();
        });
        assert_in_kernel(rulesets.last().unwrap());
    });
}

#[test]
fn a_successor_finishes_what_a_killed_process_left() {
    in_fresh_network(|| {
        let rulesets = samples(12);
        for pair in rulesets.windows(2) {
            let [old, new] = pair else { unreachable!() };
            for transaction in 0..3 {
                for goal in [old, new] {
                    NftDataplane::new().sync(old).unwrap();
                    let mut killed = NftDataplane::new();
                    killed.end_before(transaction);
                    let _ = killed.sync(new);
                    drop(killed);
                    NftDataplane::new().sync(goal).unwrap();
                    assert_in_kernel(goal);
                }
            }
        }
    });
}

#[test]
fn what_others_change_is_heard_of_and_found() {
    in_fresh_network(|| {
        let ruleset = samples(1).remove(0);
        let mut dataplane = NftDataplane::new();
        let drift = |dataplane: &mut NftDataplane| {
            let found = dataplane.verify(&ruleset).unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(drift(&mut dataplane), ["table inet netpol is missing"]);
        dataplane.sync(&ruleset).unwrap();
        assert_eq!(drift(&mut dataplane), [""; 0]);
        let _ = dataplane.may_have_drifted().unwrap();
        dataplane.sync(&ruleset).unwrap();
        assert!(!dataplane.may_have_drifted().unwrap());
        for (damage, found) in [
            ("flush chain inet netpol judge", "chain judge was changed"),
            ("insert rule inet netpol to-pods accept", "chain to-pods was changed"),
            ("add chain inet netpol foreign", "chain foreign should not be there"),
            ("add set inet netpol foreign { type ipv4_addr; }", "set foreign should not be there"),
            ("flush set inet netpol protocols-with-ports", "set protocols-with-ports was changed"),
            (
                "add element inet netpol own-addresses-4 { 9.9.9.9 . 9.9.9.9 }",
                "set own-addresses-4 was changed",
            ),
            ("flush ruleset", "table inet netpol is missing"),
        ] {
            nft(&["-f", "-"], damage);
            assert!(dataplane.may_have_drifted().unwrap(), "{damage}");
            assert!(dataplane.may_have_drifted().unwrap(), "{damage}, asked again");
            assert_eq!(drift(&mut dataplane), [found]);
            dataplane.sync(&ruleset).unwrap();
            assert!(!dataplane.may_have_drifted().unwrap(), "our own repair of {damage}");
            nft(
                &["-f", "-"],
                "add table inet other { chain c { accept\n }\n }\ndelete table inet other\n",
            );
            assert!(!dataplane.may_have_drifted().unwrap(), "what others do elsewhere");
        }
    });
}

#[test]
fn an_update_is_an_update_while_others_change_tables_of_their_own() {
    in_fresh_network(|| {
        let (mut set, mut dataplane) = (members(0..3), NftDataplane::new());
        dataplane.sync(&open_to(&set)).unwrap();
        let _ = dataplane.may_have_drifted().unwrap();
        for number in 3..20 {
            nft(&["-f", "-"], "add table inet other\ndelete table inet other\n");
            set.addresses = members(0..number + 1).addresses;
            let joins = members(number..number + 1).addresses;
            let change = MemberChange { set: set.id(), joins, leaves: AddressSet::default() };
            let switch = Switch { members: vec![change], ..Switch::default() };
            let delta = Delta { switch, ..Delta::default() };
            assert_eq!(dataplane.update(&open_to(&set), &delta).unwrap(), Updated::ByDelta);
        }
        assert_in_kernel(&open_to(&set));
    });
}

/// Follows random events by `update`; after each, there is nothing that a sync would write or a successor finds amiss.
#[test]
fn updates_lead_where_a_sync_would() {
    in_fresh_network(|| {
        let (mut by_delta, mut by_sync) = (0, 0);
        for seed in 0..24 {
            let script = match seed % 4 {
                0 => Script::relabels(seed, 12),
                _ => Script::new(seed, 40),
            };
            let mut engine = Engine::new(script.options.clone());
            let mut dataplane = NftDataplane::new();
            for happening in script.happenings {
                let events = match happening {
                    Happening::Event(event) => vec![event],
                    Happening::Batch(events) => events,
                    Happening::Restart(_) => vec![Event::InSync],
                };
                let delta = engine.apply_batch(events);
                let ruleset = engine.snapshot();
                match dataplane.update(ruleset, &delta).unwrap() {
                    Updated::ByDelta => by_delta += 1,
                    Updated::BySync => by_sync += 1,
                }
                // Deletes what the update left.
                assert_eq!(dataplane.verify(ruleset).unwrap(), [], "seed {seed}: {delta:#?}");
                let generation = dataplane.generation().unwrap();
                dataplane.sync(ruleset).unwrap();
                assert_eq!(dataplane.generation().unwrap(), generation, "seed {seed}: {delta:#?}");
                let amiss = NftDataplane::new().verify(ruleset).unwrap();
                assert_eq!(amiss, [], "seed {seed}: {delta:#?}");
            }
            assert_in_kernel(engine.snapshot());
            dataplane.remove().unwrap();
        }
        eprintln!("{by_delta} by delta, {by_sync} by sync");
        assert!(by_delta > 200, "only {by_delta}, and {by_sync} by sync");
    });
}

#[test]
fn an_update_after_a_foreign_change_looks_again() {
    in_fresh_network(|| {
        let mut set = members(0..3);
        let (mut dataplane, before) = (NftDataplane::new(), open_to(&set));
        dataplane.sync(&before).unwrap();
        nft(&["-f", "-"], "flush chain inet netpol judge");
        set.addresses = members(0..4).addresses;
        let after = open_to(&set);
        let joins = members(3..4).addresses;
        let change = MemberChange { set: set.id(), joins, leaves: AddressSet::default() };
        let switch = Switch { members: vec![change], ..Switch::default() };
        let delta = Delta { switch, ..Delta::default() };
        assert_eq!(dataplane.update(&after, &delta).unwrap(), Updated::BySync);
        assert_in_kernel(&after);
    });
}

#[test]
fn sync_leads_from_any_ruleset_to_any_other() {
    in_fresh_network(|| {
        let mut dataplane = NftDataplane::new();
        for ruleset in samples(32) {
            dataplane.sync(&ruleset).unwrap();
            assert_in_kernel(&ruleset);
        }
    });
}

#[test]
fn sync_repairs_what_others_damaged() {
    in_fresh_network(|| {
        let mut dataplane = NftDataplane::new();
        let ruleset = samples(1).remove(0);
        let set = "add set inet netpol own-addresses-4 { type ipv6_addr; }";
        for damage in [
            "flush chain inet netpol forward",
            "delete table inet netpol",
            "flush table inet netpol",
            "flush set inet netpol protocols-with-ports",
            "insert rule inet netpol to-pods accept",
            "add chain inet netpol foreign\nadd rule inet netpol foreign accept",
            "add element inet netpol own-addresses-4 { 9.9.9.9 . 9.9.9.9 }",
            &format!("delete table inet netpol\ntable inet netpol\n{set}"),
            "delete table inet netpol\ntable inet netpol { chain forward { type filter hook output priority 7; }\n }",
        ] {
            dataplane.sync(&ruleset).unwrap();
            nft(&["-f", "-"], damage);
            dataplane.sync(&ruleset).unwrap();
            assert_in_kernel(&ruleset);
        }
    });
}

#[test]
fn remove_leaves_nothing_of_ours_and_everything_of_others() {
    in_fresh_network(|| {
        nft(&["-f", "-"], "table inet other { chain c { drop\n }\n }");
        let others = nft(&["list", "ruleset"], "");
        let mut dataplane = NftDataplane::new();
        dataplane.remove().unwrap();
        for ruleset in samples(2) {
            dataplane.sync(&ruleset).unwrap();
        }
        dataplane.remove().unwrap();
        assert_eq!(nft(&["list", "ruleset"], ""), others);
        dataplane.remove().unwrap();
        assert_eq!(nft(&["list", "ruleset"], ""), others);
    });
}
