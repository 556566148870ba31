//! The incremental engine against the full compile, after every event.
//!
//! `NETPOL_SEED` and `NETPOL_EVENTS` repeat or lengthen a run; 200,000 events are the default in release.
#![expect(clippy::panic, clippy::print_stderr, reason = "test support")]

extern crate alloc;

use alloc::collections::BTreeSet;
use core::net::IpAddr;
use std::env;

use netpol_conformance::events::{self, Happening, Script, listing, remember};
use netpol_core::compile::{Options, compile};
use netpol_core::engine::{Delta, Engine, Event, MemberChange, Switch, Tuning};
use netpol_core::ir::{Flow, Ruleset, Transport, verify};
use netpol_core::model::{
    Cluster, Field, LabelSelector, Labels, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule,
    ObjectMeta, Phase, Pod, PolicyType,
};
use netpol_core::net::AddressSet;
use proptest::prelude::*;

/// Runs a script; `check` says what is wrong with a change from one ruleset to the next.
fn run(
    script: &Script,
    mut check: impl FnMut(&Ruleset, &Delta, &Ruleset) -> Option<String>,
) -> Option<String> {
    let mut engine = Engine::with_tuning(script.options.clone(), script.tuning);
    let mut cluster = Cluster::default();
    for (number, happening) in script.happenings.iter().enumerate() {
        let mut before = engine.snapshot().clone();
        let delta = match happening {
            Happening::Event(event) => {
                remember(&mut cluster, event);
                engine.apply(event.clone())
            }
            Happening::Batch(events) => {
                events.iter().for_each(|event| remember(&mut cluster, event));
                engine.apply_batch(events.clone())
            }
            Happening::Restart(order) => {
                engine = Engine::with_tuning(script.options.clone(), script.tuning);
                before = engine.snapshot().clone();
                for event in listing(&cluster, *order) {
                    if !engine.apply(event).is_empty() {
                        return Some("something was published before everything was listed".into());
                    }
                }
                engine.apply(Event::InSync)
            }
        };
        if let Some(wrong) = equivalence(&engine, &cluster, script, number, &before, &delta) {
            return Some(format!("after happening {number}: {wrong}"));
        }
        if let Some(wrong) = check(&before, &delta, engine.snapshot()) {
            return Some(format!("after happening {number}: {wrong}"));
        }
    }
    None
}

fn equivalence(
    engine: &Engine,
    cluster: &Cluster,
    script: &Script,
    number: usize,
    before: &Ruleset,
    delta: &Delta,
) -> Option<String> {
    let after = engine.snapshot();
    if engine.is_in_sync() {
        let compiled = compile(cluster, &script.options);
        if compiled.ruleset != *after {
            return Some(format!("compile says\n{}\nthe engine\n{after}", compiled.ruleset));
        }
        if number.is_multiple_of(16) && compiled.ruleset.to_string() != after.to_string() {
            return Some("equal rulesets with different bytes".into());
        }
        let diagnostics = engine.diagnostics();
        if compiled.diagnostics != diagnostics {
            return Some(format!(
                "compile says\n{:#?}\nthe engine\n{diagnostics:#?}",
                compiled.diagnostics
            ));
        }
    } else if !delta.is_empty() || after.endpoints().len() + after.nodes().len() > 0 {
        return Some("something was published before everything was listed".into());
    }
    if number.is_multiple_of(4) {
        let violated = verify(after);
        if !violated.is_empty() {
            return Some(format!("broken invariants: {violated:?}"));
        }
        let members = |ruleset: &Ruleset| -> usize {
            ruleset.endpoints().map(|endpoint| endpoint.addresses.len()).sum()
        };
        let owned = after.endpoints().flat_map(|endpoint| &endpoint.addresses);
        let mut owned = owned.filter(|address| after.owner(**address).is_some());
        if owned.by_ref().count() != members(after) {
            return Some("an endpoint's address leads to nobody".into());
        }
    }
    let mut led = before.clone();
    if let Err(error) = led.apply(delta) {
        return Some(format!("the delta does not fit: {error}"));
    }
    if led != *after {
        return Some(format!(
            "the delta leads to\n{led}\nthe engine is at\n{after}\ndelta {delta:#?}"
        ));
    }
    let owners_differ =
        script.flows.iter().any(|flow| led.owner(flow.source) != after.owner(flow.source));
    if owners_differ {
        return Some("the delta leads to other owners of addresses".into());
    }
    (before == after && !delta.is_empty())
        .then(|| format!("nothing changed, but the delta is {delta:#?}"))
}

fn number(variable: &str, default: u64) -> u64 {
    match env::var(variable) {
        Err(_) => default,
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, not a number")),
    }
}

#[track_caller]
fn campaign(
    events: u64,
    make: fn(u64, usize) -> Script,
    check: impl Fn(&Ruleset, &Delta, &Ruleset, &[Flow]) -> Option<String>,
) {
    let seed = number("NETPOL_SEED", 1);
    let events = number("NETPOL_EVENTS", if cfg!(debug_assertions) { events / 20 } else { events });
    let fails = |script: &Script| {
        run(script, |before, delta, after| check(before, delta, after, &script.flows))
    };
    let (mut done, mut scripts) = (0, 0);
    while done < events {
        let script = make(seed.wrapping_add(scripts), 200);
        if fails(&script).is_some() {
            let script = script.shrink(|script| fails(script).is_some());
            let why = fails(&script).unwrap_or_default();
            panic!(
                "seed {} fails (repeat with NETPOL_SEED={0} NETPOL_EVENTS=1):\n{script}\n{why}",
                seed.wrapping_add(scripts)
            );
        }
        done += script.happenings.iter().map(|happening| happening.len() as u64).sum::<u64>();
        scripts += 1;
    }
    eprintln!("NETPOL_SEED={seed}: {done} events in {scripts} scripts");
}

#[test]
fn the_engine_is_where_compile_is_after_every_event() {
    campaign(200_000, Script::new, |_, _, _, _| None);
}

/// Says which flow an intermediate ruleset judges otherwise than both the old and the new one.
fn astray(before: &Ruleset, middle: &Ruleset, after: &Ruleset, flows: &[Flow]) -> Option<String> {
    flows.iter().find_map(|flow| {
        let (old, new) = (before.verdict(flow).verdict, after.verdict(flow).verdict);
        let now = middle.verdict(flow).verdict;
        (old == new && now != new).then(|| format!("{flow}: {old} before and after, {now} between"))
    })
}

fn prefixes(before: &Ruleset, delta: &Delta, after: &Ruleset, flows: &[Flow]) -> Option<String> {
    let switch = Delta { switch: delta.switch.clone(), ..Delta::default() };
    let creates = delta.create.iter().cloned();
    let creates = creates.map(|create| Delta { create: vec![create], ..Delta::default() });
    let deletes = delta.delete.iter().copied();
    let deletes = deletes.map(|delete| Delta { delete: vec![delete], ..Delta::default() });
    let whole: Vec<Delta> = creates.chain([switch]).chain(deletes).collect();
    walk(before, &whole, after, flows).or_else(|| {
        let split = delta.switch.split(before)?;
        let step = |set, joins: AddressSet, leaves: AddressSet| Delta {
            switch: Switch {
                members: vec![MemberChange { set, joins, leaves }],
                ..Switch::default()
            },
            ..Delta::default()
        };
        let joins = split.joins.iter().map(|(set, address)| {
            step(*set, [*address].into_iter().collect(), AddressSet::default())
        });
        let leaves = split.leaves.iter().map(|(set, address)| {
            step(*set, AddressSet::default(), [*address].into_iter().collect())
        });
        let mut steps: Vec<Delta> = joins.chain(leaves).collect();
        let creates = delta.create.iter().cloned();
        let creates = creates.map(|create| Delta { create: vec![create], ..Delta::default() });
        steps.splice(0..0, creates);
        let flows = between_moved(&delta.switch, flows);
        walk(before, &steps, after, &flows).map(|wrong| format!("split: {wrong}"))
    })
}

/// The flows, and those between any two addresses that join or leave a set.
fn between_moved(switch: &Switch, flows: &[Flow]) -> Vec<Flow> {
    let changes = switch.members.iter();
    let moved = changes.flat_map(|change| change.joins.iter().chain(change.leaves.iter()));
    let moved: BTreeSet<IpAddr> = moved.collect();
    let transports: BTreeSet<Transport> = flows.iter().map(|flow| flow.transport).collect();
    let mut all = flows.to_vec();
    for source in &moved {
        for destination in moved.iter().filter(|other| other.is_ipv4() == source.is_ipv4()) {
            let of = |transport| Flow::new(*source, *destination, transport);
            all.extend(transports.iter().copied().map(of));
        }
    }
    all
}

fn walk(before: &Ruleset, steps: &[Delta], after: &Ruleset, flows: &[Flow]) -> Option<String> {
    let mut middle = before.clone();
    for (number, step) in steps.iter().enumerate() {
        if let Err(error) = middle.apply(step) {
            return Some(format!("step {number} does not fit: {error}"));
        }
        if let Some(wrong) = astray(before, &middle, after, flows) {
            return Some(format!("after step {number}, {step:#?}:\n{wrong}"));
        }
    }
    None
}

#[test]
fn any_prefix_of_a_delta_is_safe() {
    campaign(20_000, Script::new, prefixes);
}

#[test]
fn any_prefix_of_a_split_switch_is_safe() {
    campaign(20_000, |seed, events| Script::relabels(seed, events / 2), prefixes);
}

/// T may be reached from S only while T is `open` and S is `trusted`: T closes for the one reason, S opens for the other.
#[test]
fn a_switch_that_closes_one_end_and_opens_the_other_is_not_split() {
    let pod = |name: &str, role: &str, address: &str| Pod {
        meta: ObjectMeta::new("x", name, Labels::from_iter([("app", name), ("role", role)])),
        phase: Phase::Running,
        addresses: vec![address.parse().unwrap()],
        ..Pod::default()
    };
    let rule = |role: &str| NetworkPolicyRule {
        peers: Field::Given(vec![NetworkPolicyPeer {
            pod_selector: Field::Given(LabelSelector::labels([("role", role)])),
            ..NetworkPolicyPeer::default()
        }]),
        ..NetworkPolicyRule::default()
    };
    let policy = |app: &str, kind, ingress, egress| NetworkPolicy {
        meta: ObjectMeta::new("x", app, Labels::default()),
        pod_selector: Field::Given(LabelSelector::labels([("app", app)])),
        policy_types: Field::Given(vec![kind]),
        ingress: Field::Given(ingress),
        egress: Field::Given(egress),
    };
    let mut engine = Engine::new(Options::default());
    engine.apply_batch([
        Event::PutPod(pod("s", "plain", "10.0.0.1")),
        Event::PutPod(pod("t", "open", "10.0.0.2")),
        Event::PutNetworkPolicy(policy("s", PolicyType::Egress, vec![], vec![rule("open")])),
        Event::PutNetworkPolicy(policy("t", PolicyType::Ingress, vec![rule("trusted")], vec![])),
        Event::InSync,
    ]);
    let before = engine.snapshot().clone();
    let delta = engine.apply_batch([
        Event::PutPod(pod("s", "trusted", "10.0.0.1")),
        Event::PutPod(pod("t", "plain", "10.0.0.2")),
    ]);
    assert_eq!(delta.switch.members.len(), 2, "{delta:#?}");
    assert_eq!(delta.switch.split(&before), None);
    // One of the two alone may be taken apart.
    let delta = engine.apply(Event::PutPod(pod("s", "open", "10.0.0.1")));
    let split = delta.switch.split(engine.snapshot()).unwrap();
    assert_eq!((split.joins.len(), split.leaves.len()), (1, 1));
}

#[test]
fn switches_are_split_often_enough_for_the_proof_to_mean_something() {
    let (mut switches, mut splits, mut mixed) = (0, 0, 0);
    for seed in 0..50 {
        let script = Script::relabels(seed, 100);
        let wrong = run(&script, |before, delta, _| {
            let switch = &delta.switch;
            switches += u32::from(!switch.is_empty());
            if !switch.is_empty()
                && let Some(split) = switch.split(before)
            {
                splits += 1;
                mixed += u32::from(!split.joins.is_empty() && !split.leaves.is_empty());
            }
            None
        });
        assert_eq!(wrong, None);
    }
    assert!(
        splits * 4 > switches && splits < switches && mixed > 20,
        "{switches} switches, {splits} split, {mixed} both ways"
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        max_shrink_iters: 4_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_engine_is_where_compile_is_as_a_property(
        seeds in proptest::collection::vec(any::<u64>(), 0..60), late in 0..20_usize,
    ) {
        let mut happenings: Vec<Happening> =
            seeds.into_iter().map(|seed| Happening::Event(events::event(seed))).collect();
        happenings.insert(late.min(happenings.len()), Happening::Event(Event::InSync));
        let (options, tuning) = (Options::default(), Tuning::default());
        let script = Script { options, tuning, happenings, flows: Vec::new() };
        let wrong = run(&script, |_, _, _| None);
        prop_assert!(wrong.is_none(), "{}\n{}", script, wrong.unwrap_or_default());
    }
}
