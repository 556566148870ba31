//! Whose table it is: what others can do to it while its owner lives, and what becomes of it when the owner ends, by whatever
//! means.
//!
//! Every test works in a network namespace of its own, which ends with the test.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "test support")]

extern crate alloc;

#[path = "support/listing.rs"]
mod listing;
#[path = "support/rulesets.rs"]
mod rulesets;

use core::time::Duration;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use listing::Listing;
use netpol_conformance::netlab::in_fresh_network;
use netpol_core::backend::{Backend as _, Dataplane as _, SyncError};
use netpol_core::ir::Ruleset;
use netpol_nft::{Nft, NftDataplane, Ownership};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

/// Tells the process that it is the one that is killed.
const VICTIM: &str = "NETPOL_TEST_OWNER";

fn tried(text: &str) -> Output {
    Command::new("nft").arg(text).output().unwrap()
}

fn nft(text: &str) -> String {
    let output = tried(text);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {text}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn is_there(ruleset: &Ruleset) -> bool {
    let meant = Nft::default().lower(ruleset).unwrap().to_string();
    Listing::parse(&nft("list ruleset")) == Listing::parse(&meant)
}

fn samples(count: usize) -> Vec<Ruleset> {
    let mut runner = TestRunner::deterministic();
    let strategy = rulesets::peer_sets().prop_flat_map(rulesets::rulesets_over);
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

fn owner() -> NftDataplane {
    NftDataplane::new().with_ownership(Ownership::Required)
}

#[track_caller]
/// A sync after another has let go of the table. A process that another test is just starting holds a copy of every
/// socket of this one until it executes, so the kernel may see the owner's end a moment late.
fn sync_when_left(dataplane: &mut NftDataplane, ruleset: &Ruleset) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while let Err(error) = dataplane.sync(ruleset) {
        assert!(told(&error).contains("owns it") && Instant::now() < give_up, "{}", told(&error));
        thread::sleep(Duration::from_millis(5));
    }
}

fn told(error: &SyncError) -> String {
    let mut text = error.to_string();
    let mut source = core::error::Error::source(error);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[test]
fn others_can_neither_flush_nor_change_what_is_owned() {
    in_fresh_network(|| {
        let rulesets = samples(3);
        let mut dataplane = owner();
        dataplane.sync(&rulesets[0]).unwrap();
        assert!(dataplane.owns_table().unwrap());
        nft("add table inet other");
        nft("flush ruleset");
        assert!(!nft("list tables").contains("other"), "what is nobody's is gone");
        assert!(is_there(&rulesets[0]));
        for damage in [
            "delete table inet netpol",
            "flush table inet netpol",
            "flush chain inet netpol judge",
            "insert rule inet netpol forward accept",
            "add table inet netpol { flags dormant; }",
        ] {
            assert!(!tried(damage).status.success(), "{damage}");
            assert!(is_there(&rulesets[0]), "{damage}");
        }
        assert_eq!(dataplane.verify(&rulesets[0]).unwrap(), []);
        // The owner can.
        dataplane.sync(&rulesets[1]).unwrap();
        assert!(is_there(&rulesets[1]));
        let generation = dataplane.generation().unwrap();
        dataplane.sync(&rulesets[1]).unwrap();
        assert_eq!(dataplane.generation().unwrap(), generation, "owning again writes nothing");
        dataplane.remove().unwrap();
        assert_eq!(nft("list ruleset"), "");
        dataplane.sync(&rulesets[2]).unwrap();
        assert!(dataplane.owns_table().unwrap() && is_there(&rulesets[2]));
    });
}

#[test]
fn a_second_one_is_told_who_owns_it_and_takes_over_when_the_first_has_ended() {
    in_fresh_network(|| {
        let rulesets = samples(2);
        let mut first = owner();
        first.sync(&rulesets[0]).unwrap();
        for mut second in [NftDataplane::new(), owner()] {
            for error in [second.sync(&rulesets[1]).unwrap_err(), second.remove().unwrap_err()] {
                let told = told(&error);
                assert!(told.contains("table inet netpol: netlink socket"), "{told}");
                assert!(told.contains("owns it"), "{told}");
            }
            assert_eq!(second.verify(&rulesets[0]).unwrap(), [], "who does not own may look");
            assert!(!second.owns_table().unwrap());
        }
        assert!(is_there(&rulesets[0]));
        drop(first);
        assert!(is_there(&rulesets[0]), "it outlives its owner");
        let mut second = owner();
        sync_when_left(&mut second, &rulesets[0]);
        assert!(second.owns_table().unwrap(), "also where there was nothing else to write");
        nft("flush ruleset");
        assert!(is_there(&rulesets[0]));
        second.sync(&rulesets[1]).unwrap();
        assert!(is_there(&rulesets[1]));
        drop(second);
        // And who does not want to own it can change it now.
        sync_when_left(&mut NftDataplane::new(), &rulesets[0]);
        assert!(is_there(&rulesets[0]));
        NftDataplane::new().remove().unwrap();
        assert_eq!(nft("list ruleset"), "");
    });
}

#[test]
fn a_table_that_others_may_change_is_replaced_only_where_owning_is_required() {
    in_fresh_network(|| {
        let ruleset = samples(1).remove(0);
        NftDataplane::new().sync(&ruleset).unwrap();
        let mut preferring = NftDataplane::new().with_ownership(Ownership::Preferred);
        preferring.sync(&ruleset).unwrap();
        assert!(!preferring.owns_table().unwrap());
        let mut requiring = owner();
        requiring.sync(&ruleset).unwrap();
        assert!(requiring.owns_table().unwrap() && is_there(&ruleset));
        drop(requiring);
        sync_when_left(&mut preferring, &ruleset);
        assert!(preferring.owns_table().unwrap());
        nft("flush ruleset");
        assert!(is_there(&ruleset));
        preferring.remove().unwrap();
        preferring.sync(&ruleset).unwrap();
        assert!(preferring.owns_table().unwrap(), "a new one is owned at once");
    });
}

#[test]
fn asking_whether_the_kernel_can_own_leaves_no_trace() {
    in_fresh_network(|| {
        let mut dataplane = NftDataplane::new();
        assert!(!dataplane.may_have_drifted().unwrap() || nft("list ruleset").is_empty());
        let before = dataplane.generation().unwrap();
        assert!(dataplane.can_own_table().unwrap());
        assert_eq!(dataplane.generation().unwrap(), before);
        assert_eq!(nft("list ruleset"), "");
    });
}

/// The process that is killed: owns a table, changes it all the time, and says when it began.
#[test]
fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let rulesets = samples(6);
    let mut dataplane = owner();
    sync_when_left(&mut dataplane, &rulesets[0]);
    assert!(dataplane.owns_table().unwrap());
    println!("\nbegun");
    std::io::stdout().flush().unwrap();
    for ruleset in rulesets.iter().cycle() {
        dataplane.sync(ruleset).unwrap();
    }
}

#[test]
fn what_a_killed_owner_leaves_is_taken_over_whatever_it_was_doing() {
    in_fresh_network(|| {
        let rulesets = samples(6);
        for (number, goal) in rulesets.iter().cycle().take(12).enumerate() {
            let mut victim = Command::new(std::env::current_exe().unwrap())
                .args(["victim", "--exact", "--nocapture"])
                .env(VICTIM, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
            if !lines.any(|line| line.unwrap() == "begun") {
                panic!("the victim ended: {:?}", victim.wait());
            }
            nft("flush ruleset");
            let pause = Duration::from_micros(2000 * u64::try_from(number).unwrap());
            thread::sleep(pause);
            victim.kill().unwrap(); // SIGKILL
            victim.wait().unwrap();
            let left = nft("list chain inet netpol forward");
            assert!(left.contains("goto judge"), "it still enforces: {left}");
            let mut successor = owner();
            successor.sync(goal).unwrap();
            assert!(successor.owns_table().unwrap() && is_there(goal));
            nft("flush ruleset");
            assert!(is_there(goal));
        }
    });
}
