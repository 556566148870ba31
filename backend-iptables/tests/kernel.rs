//! The kernel's own listing says what we meant, whatever was there before, in both variants.
//!
//! Every test works in a network namespace of its own. Without the privilege for that the tests say loudly that they did
//! not run; with `NETPOL_REQUIRE_KERNEL=1` they fail.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test support")]

extern crate alloc;

#[path = "../../backend-nft/tests/support/rulesets.rs"]
mod rulesets;

use alloc::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use netpol_conformance::events::{Happening, Script};
use netpol_conformance::netlab::in_fresh_network;
use netpol_core::backend::{Backend as _, Dataplane as _, Difference, SyncError, Updated};
use netpol_core::engine::{Engine, Event};
use netpol_core::ir::{Family, Ruleset};
use netpol_iptables::{Iptables, IptablesDataplane, RestoreInput, Variant};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

const VARIANTS: [Variant; 2] = [Variant::Nft, Variant::Legacy];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Runs a test in a fresh network namespace for each variant.
fn in_namespace(test: fn(Variant)) {
    for variant in VARIANTS {
        in_fresh_network(|| test(variant));
    }
}

fn run(program: &str, arguments: &[&str], stdin: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}\n{stdin}");
    String::from_utf8(output.stdout).unwrap()
}

/// `iptables-nft` and its like, with words to say to it.
fn iptables(variant: Variant, family: Family, words: &str) {
    let program = format!("{}-{variant}", program(family));
    run(&program, &words.split(' ').collect::<Vec<_>>(), "");
}

fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

fn save(variant: Variant, family: Family) -> String {
    run(&format!("{}-{variant}-save", program(family)), &[], "")
}

/// The chains in a text of `iptables-save`, built-in ones too, in no order; comments and counters left out.
fn chains(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut chains = BTreeMap::new();
    for line in text.lines() {
        if let Some(chain) = line.strip_prefix(':') {
            chains.insert(chain.split(' ').next().unwrap().to_owned(), Vec::new());
        } else if let Some((name, rule)) =
            line.strip_prefix("-A ").and_then(|line| line.split_once(' '))
        {
            chains.get_mut(name).unwrap().push(rule.to_owned());
        }
    }
    chains
}

/// The sets in a text of `ipset`, each with what it is and its members, in no order.
fn sets(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut sets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let content = match words.as_slice() {
            ["create", _, kind, "family", family, ..] => format!("{kind} {family}"),
            ["add", _, member] => {
                let whole = member.trim_end_matches("/32").trim_end_matches("/128");
                whole.to_owned()
            }
            _ => panic!("{line}"),
        };
        sets.entry(words[1].to_owned()).or_default().insert(content);
    }
    sets
}

fn ours(chains: BTreeMap<String, Vec<String>>) -> BTreeMap<String, Vec<String>> {
    chains.into_iter().filter(|(name, _)| name.starts_with("NETPOL-")).collect()
}

fn lower(ruleset: &Ruleset) -> RestoreInput {
    Iptables::default().lower(ruleset).unwrap()
}

/// The rules that a packet meets from a chain on, with what chains lead to in the place of their names, and without what is
/// not the program's: the mark of settled connections and the editions of sets. Counts the chains that it passes.
fn unfolded(
    chains: &BTreeMap<String, Vec<String>>,
    from: &str,
    seen: &mut BTreeSet<String>,
) -> Vec<String> {
    seen.insert(from.to_owned());
    let mut lines = Vec::new();
    for rule in chains.get(from).unwrap_or_else(|| panic!("no chain {from}: {chains:?}")) {
        let mut words: Vec<String> = rule.split(' ').map(ToOwned::to_owned).collect();
        let mut next = None;
        for at in 1..words.len() {
            match words[at - 1].as_str() {
                "--mark" | "--set-xmark" => words[at] = "0x0".to_owned(),
                "--match-set" => words[at] = words[at].trim_end_matches('+').to_owned(),
                "-j" | "-g" if words[at].starts_with("NETPOL-") => {
                    next = Some(core::mem::take(&mut words[at]));
                }
                _ => {}
            }
        }
        lines.push(words.join(" "));
        if let Some(next) = next {
            lines.extend(unfolded(chains, &next, seen).into_iter().map(|line| format!("  {line}")));
        }
    }
    lines
}

#[track_caller]
fn assert_in_kernel(variant: Variant, program: &RestoreInput) {
    let without_editions = |sets: BTreeMap<String, BTreeSet<String>>| -> BTreeMap<_, _> {
        let count = sets.len();
        let sets: BTreeMap<String, BTreeSet<String>> = sets
            .into_iter()
            .map(|(name, members)| (name.trim_end_matches('+').to_owned(), members))
            .collect();
        assert_eq!(sets.len(), count, "both editions of a set");
        // What is unsettled is not the program's.
        sets.into_iter().filter(|(name, _)| !name.starts_with("NETPOL-u")).collect()
    };
    let there = without_editions(sets(&run("ipset", &["save"], "")));
    assert_eq!(there, without_editions(sets(&program.sets().to_string())));
    for family in FAMILIES {
        let there = chains(&save(variant, family));
        let wanted = chains(&program.filter(family).to_string());
        let mut reached = [BTreeSet::new(), BTreeSet::new()];
        for hook in ["FORWARD", "INPUT", "OUTPUT"] {
            let chain = format!("NETPOL-{hook}");
            let is_jump = |rule: &&String| **rule == format!("-j {chain}");
            let jumps: Vec<usize> = (0..)
                .zip(&there[hook])
                .filter(|(_, rule)| is_jump(rule))
                .map(|(at, _)| at)
                .collect();
            if !wanted.contains_key(&chain) {
                assert_eq!(jumps, Vec::<usize>::new());
                continue;
            }
            assert_eq!(jumps, [0], "{hook} {family}: {:?}", there[hook]);
            let [a, b] = &mut reached;
            assert_eq!(
                unfolded(&there, &chain, a),
                unfolded(&wanted, &chain, b),
                "{variant} {family}"
            );
        }
        let [there, wanted] = [ours(there), ours(wanted)].map(|chains| chains.len());
        assert_eq!(
            [there, wanted],
            reached.map(|chains| chains.len()),
            "chains that nothing leads to"
        );
    }
}

fn assert_nothing_of_ours() {
    assert_eq!(run("ipset", &["list", "-name"], ""), "");
    for variant in VARIANTS {
        for family in FAMILIES {
            let text = save(variant, family);
            assert!(!text.contains("NETPOL"), "{text}");
        }
    }
}

fn samples(count: usize) -> Vec<Ruleset> {
    let mut runner = TestRunner::deterministic();
    let strategy = rulesets::peer_sets().prop_flat_map(rulesets::rulesets_over);
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn the_restore_commands_load_the_text_and_the_save_commands_list_the_same() {
    in_namespace(|variant| {
        for ruleset in samples(16) {
            let program = lower(&ruleset);
            run("ipset", &["restore"], &program.sets().to_string());
            for family in FAMILIES {
                let restore = format!("{}-{variant}-restore", self::program(family));
                run(&restore, &["--noflush"], &program.filter(family).to_string());
            }
            assert_in_kernel(variant, &program);
            IptablesDataplane::with_variant(variant).remove().unwrap();
            assert_nothing_of_ours();
        }
    });
}

#[test]
fn sync_leads_from_any_ruleset_to_any_other() {
    in_namespace(|variant| {
        let mut dataplane = IptablesDataplane::with_variant(variant);
        for ruleset in samples(24) {
            dataplane.sync(&ruleset).unwrap();
            assert_in_kernel(variant, &lower(&ruleset));
        }
    });
}

#[test]
fn a_second_sync_of_the_same_makes_nothing_anew() {
    in_namespace(|variant| {
        // A set is given a random number when it is made, and a rule of nf_tables a handle.
        let identities = || match variant {
            Variant::Nft => {
                (run("ipset", &["save"], ""), run("nft", &["-a", "list", "ruleset"], ""))
            }
            Variant::Legacy => (run("ipset", &["save"], ""), String::new()),
        };
        let sorted = |text: String| text.lines().map(ToOwned::to_owned).collect::<BTreeSet<_>>();
        let mut dataplane = IptablesDataplane::with_variant(variant);
        for ruleset in samples(8) {
            dataplane.sync(&ruleset).unwrap();
            let (sets, rules) = identities();
            dataplane.sync(&ruleset).unwrap();
            let (sets_after, rules_after) = identities();
            assert_eq!(sorted(sets), sorted(sets_after));
            assert_eq!(rules, rules_after);
        }
    });
}

#[test]
fn sync_repairs_what_others_damaged() {
    in_namespace(|variant| {
        let mut dataplane = IptablesDataplane::with_variant(variant);
        let ruleset = samples(8).into_iter().find(|ruleset| lower(ruleset).sets().iter().len() > 3);
        let ruleset = ruleset.unwrap();
        let program = lower(&ruleset);
        dataplane.sync(&ruleset).unwrap();
        for family in FAMILIES {
            for damage in [
                "-F NETPOL-FORWARD",
                "-F NETPOL-INPUT",
                "-I NETPOL-FORWARD 1 -j ACCEPT",
                "-D FORWARD -j NETPOL-FORWARD",
                "-D INPUT -j NETPOL-INPUT",
                "-I FORWARD 1 -s 9.9.9.9 -j ACCEPT",
                "-A FORWARD -j NETPOL-FORWARD",
                "-N NETPOL-FOREIGN",
                "-A NETPOL-FORWARD -j NETPOL-FOREIGN",
                "-F",
            ] {
                let damage = match family {
                    Family::V4 => damage.to_owned(),
                    Family::V6 => damage.replace("9.9.9.9", "9::9"),
                };
                iptables(variant, family, &damage);
                if damage != "-N NETPOL-FOREIGN" {
                    dataplane.sync(&ruleset).unwrap();
                    assert_in_kernel(variant, &program);
                }
            }
        }
        let unsettled = |name: &str| name.starts_with("NETPOL-u");
        for (name, elements) in program.sets().iter().filter(|(name, _)| !unsettled(name)) {
            for kind in 0..4 {
                // Repair makes the other edition.
                let there = run("ipset", &["list", "-name"], "");
                let second = format!("{name}+");
                let name = if there.lines().any(|line| line == second) {
                    second
                } else {
                    name.to_string()
                };
                let damage = [
                    format!("flush {name}\n"),
                    "create NETPOL-more hash:ip\nadd NETPOL-more 9.9.9.9\n".to_owned(),
                    "create NETPOL-spare hash:net\n".to_owned(),
                    match (elements.kind(), elements.family()) {
                        ("hash:ip,port", Family::V4) => format!("add {name} 9.9.9.9,tcp:9\n"),
                        ("hash:ip,port", Family::V6) => format!("add {name} 9::9,tcp:9\n"),
                        (_, Family::V4) => format!("add {name} 0.0.0.9\n"),
                        (_, Family::V6) => format!("add {name} 0::9\n"),
                    },
                ];
                run("ipset", &["restore"], &damage[kind]);
                dataplane.sync(&ruleset).unwrap();
                assert_in_kernel(variant, &program);
            }
        }
    });
}

#[test]
fn remove_leaves_nothing_of_ours_and_everything_of_others() {
    in_namespace(|variant| {
        run("ipset", &["restore"], "create others hash:ip\nadd others 9.9.9.9\n");
        iptables(variant, Family::V4, "-N OTHERS");
        iptables(variant, Family::V4, "-A OTHERS -m set --match-set others src -j DROP");
        iptables(variant, Family::V4, "-A FORWARD -j OTHERS");
        iptables(variant, Family::V4, "-P FORWARD DROP");
        iptables(variant, Family::V6, "-A INPUT -s 9::9 -j ACCEPT");
        let others = || {
            let rules = FAMILIES.map(|family| {
                let text = save(variant, family);
                let policies = text.lines().filter(|line| line.contains("DROP [")).count();
                (chains(&text), policies)
            });
            (run("ipset", &["save"], ""), rules)
        };
        let before = others();
        let mut dataplane = IptablesDataplane::with_variant(variant);
        dataplane.remove().unwrap();
        for ruleset in samples(2) {
            dataplane.sync(&ruleset).unwrap();
            iptables(variant, Family::V4, "-C FORWARD -j OTHERS");
        }
        dataplane.remove().unwrap();
        assert_eq!(others(), before);
        dataplane.remove().unwrap();
        assert_eq!(others(), before);
    });
}

#[test]
fn a_change_that_the_kernel_refuses_in_one_family_leaves_both_as_they_were() {
    in_namespace(|variant| {
        let mut dataplane = IptablesDataplane::with_variant(variant);
        let mut rulesets = samples(8).into_iter();
        let (first, second) = (rulesets.next().unwrap(), rulesets.next_back().unwrap());
        let (old, new) = (lower(&first), lower(&second));
        dataplane.sync(&first).unwrap();
        let chains = old.filter(Family::V6).chains.keys();
        let stale =
            |name: &&alloc::sync::Arc<str>| !new.filter(Family::V6).chains.contains_key(*name);
        let stale = chains.rev().find(stale).expect("something goes away").clone();
        // What a rule of others leads to cannot be deleted.
        iptables(variant, Family::V6, &format!("-A OUTPUT -j {stale}"));
        let error = dataplane.sync(&second).unwrap_err();
        assert!(matches!(error, SyncError::Refused { .. }), "{error:?}");
        assert_in_kernel(variant, &old);
        iptables(variant, Family::V6, &format!("-D OUTPUT -j {stale}"));
        dataplane.sync(&second).unwrap();
        assert_in_kernel(variant, &new);
    });
}

#[test]
fn the_variant_of_the_others_is_used_and_the_other_cleaned() {
    in_namespace(|variant| {
        let ruleset = samples(1).remove(0);
        let other = VARIANTS.into_iter().find(|other| *other != variant).unwrap();
        IptablesDataplane::with_variant(other).sync(&ruleset).unwrap();
        iptables(variant, Family::V4, "-A FORWARD -s 9.9.9.9 -j ACCEPT");
        IptablesDataplane::new().sync(&ruleset).unwrap();
        assert_in_kernel(variant, &lower(&ruleset));
        for family in FAMILIES {
            assert!(!save(other, family).contains("NETPOL"));
        }
        iptables(other, Family::V4, "-t mangle -N KUBE-KUBELET-CANARY");
        IptablesDataplane::new().sync(&ruleset).unwrap();
        assert_in_kernel(other, &lower(&ruleset));
        IptablesDataplane::new().remove().unwrap();
        assert_nothing_of_ours();
    });
}

#[test]
fn updates_lead_where_a_sync_would_and_the_kernel_holds_just_that() {
    in_namespace(|variant| {
        let mut ways = [0_usize; 2];
        let world = (0..2).map(|seed| Script::new(seed, 60)).chain([Script::relabels(7, 40)]);
        for script in world {
            let mut engine = Engine::with_tuning(script.options.clone(), script.tuning);
            let mut dataplane = IptablesDataplane::with_variant(variant);
            dataplane.sync(engine.snapshot()).unwrap();
            for happening in &script.happenings {
                let delta = match happening {
                    Happening::Event(event) => engine.apply(event.clone()),
                    Happening::Batch(events) => engine.apply_batch(events.clone()),
                    Happening::Restart(_) => engine.apply(Event::InSync),
                };
                if delta.is_empty() {
                    continue;
                }
                match dataplane.update(engine.snapshot(), &delta).unwrap() {
                    Updated::ByDelta => ways[0] += 1,
                    Updated::BySync => ways[1] += 1,
                }
                assert_eq!(dataplane.verify(engine.snapshot()).unwrap(), []);
            }
            assert_in_kernel(variant, &lower(engine.snapshot()));
            // Who comes after adopts what is there.
            let mut other = IptablesDataplane::with_variant(variant);
            assert_eq!(other.verify(engine.snapshot()).unwrap(), []);
            dataplane.remove().unwrap();
            assert_nothing_of_ours();
        }
        assert!(ways[0] > 30 && ways[1] < 10, "{ways:?}");
    });
}

#[test]
fn verify_names_what_others_changed() {
    in_namespace(|variant| {
        let ruleset = samples(8).into_iter().find(|ruleset| lower(ruleset).sets().iter().len() > 3);
        let ruleset = ruleset.unwrap();
        let mut dataplane = IptablesDataplane::with_variant(variant);
        let everything = dataplane.verify(&ruleset).unwrap();
        assert!(everything.iter().all(|drift| drift.difference == Difference::Missing));
        assert!(everything.len() > 10);
        dataplane.sync(&ruleset).unwrap();
        assert_eq!(dataplane.verify(&ruleset).unwrap(), []);
        iptables(variant, Family::V4, "-D FORWARD -j NETPOL-FORWARD");
        iptables(variant, Family::V6, "-N NETPOL-FOREIGN");
        iptables(variant, Family::V6, "-A NETPOL-FORWARD -j DROP");
        run("ipset", &["restore"], "create NETPOL-more hash:ip\n");
        let drift: Vec<String> =
            dataplane.verify(&ruleset).unwrap().iter().map(ToString::to_string).collect();
        let expected = [
            format!("ip6tables-{variant} chain NETPOL-FOREIGN should not be there"),
            format!("ip6tables-{variant} chain NETPOL-FORWARD was changed"),
            format!("iptables-{variant} jump FORWARD to NETPOL-FORWARD is missing"),
            "set NETPOL-more should not be there".to_owned(),
        ];
        assert_eq!(drift, expected);
        dataplane.sync(&ruleset).unwrap();
        assert_eq!(dataplane.verify(&ruleset).unwrap(), []);
    });
}
