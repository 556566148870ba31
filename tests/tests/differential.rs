//! The oracle against `compile`: the same verdict, on both sides, for the same reason.
#![expect(clippy::panic, clippy::print_stderr, reason = "test support")]

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;

use netpol_conformance::generate::{self, Case, Oddities, Shape};
use netpol_conformance::oracle::{self, Why};
use netpol_core::compile::{Compiled, Options, compile};
use netpol_core::ir::{Direction, Flow, Scope, Verdict, verify};
use proptest::prelude::ProptestConfig;
use proptest::{prop_assert, proptest};

fn compiled(case: &Case, scope: Scope) -> Compiled {
    compile(&case.cluster, &Options { scope, settings: case.settings })
}

/// Says how the two differ on the first flow they differ on.
fn difference(case: &Case) -> Option<String> {
    let compiled = compiled(case, Scope::Cluster);
    let violated = verify(&compiled.ruleset);
    if !violated.is_empty() {
        return Some(format!("broken invariants: {violated:?}"));
    }
    case.flows.iter().find_map(|flow| {
        let judged = oracle::judge(&case.cluster, case.settings, flow);
        let decision = compiled.ruleset.verdict(flow);
        let agree = judged.verdict == decision.verdict
            && judged.egress.agrees_with(&decision.egress)
            && judged.ingress.agrees_with(&decision.ingress);
        (!agree).then(|| told(flow, &judged, &decision))
    })
}

fn told(flow: &Flow, judged: &oracle::Judged, decision: &netpol_core::ir::Decision) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "flow {flow} ({:?})", flow.dialled);
    let _ = writeln!(text, "           oracle: {}", judged.verdict);
    let _ = writeln!(text, "             egress  {}", judged.egress);
    let _ = writeln!(text, "             ingress {}", judged.ingress);
    let _ = writeln!(text, "          ruleset: {}", decision.verdict);
    let (egress, ingress) = (&decision.egress, &decision.ingress);
    let _ = writeln!(text, "             egress  {}: {}", egress.verdict, egress.reason);
    let _ = writeln!(text, "             ingress {}: {}", ingress.verdict, ingress.reason);
    text
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}=`{text}`: {error}")))
}

/// Runs cases of consecutive seeds until `flows` flows are judged, and stops at the first that fails, made small.
fn run(shape: Shape, flows: u64, check: impl Fn(&Case) -> Option<String>) {
    let first = number("NETPOL_SEED").unwrap_or(1);
    let mut judged = 0;
    let mut seed = first;
    while judged < flows {
        let case = generate::case(seed, shape);
        if check(&case).is_some() {
            let small = generate::shrink(case, |case| check(case).is_some());
            let why = check(&small).unwrap_or_default();
            panic!("NETPOL_SEED={seed} fails with {:?}\n{small}\n{why}", shape.oddities);
        }
        judged += u64::try_from(case.flows.len()).unwrap_or_default().max(1);
        seed += 1;
    }
    eprintln!("NETPOL_SEED={first}: {judged} flows on {} clusters", seed - first);
}

/// A million in release; enough to notice a mistake otherwise.
fn volume() -> u64 {
    let default = if cfg!(debug_assertions) { 40_000 } else { 1_000_000 };
    number("NETPOL_FLOWS").unwrap_or(default)
}

#[test]
fn oracle_and_ruleset_agree_on_valid_objects() {
    run(Shape::default(), volume() / 4 * 3, difference);
}

#[test]
fn oracle_and_ruleset_agree_on_odd_live_objects() {
    let shape = Shape { oddities: Oddities::Live, ..Shape::default() };
    run(shape, volume() / 4, difference);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn oracle_and_ruleset_agree_as_a_property(case in generate::cases(Shape::default())) {
        let difference = difference(&case);
        prop_assert!(difference.is_none(), "{}\n{}", case, difference.unwrap_or_default());
    }
}

#[test]
fn generated_flows_reach_every_line_of_the_reference_algorithm() {
    let mut reached = BTreeMap::<(&str, Direction), u32>::new();
    for seed in 0..150 {
        let case = generate::case(seed, Shape::default());
        for flow in &case.flows {
            let judged = oracle::judge(&case.cluster, case.settings, flow);
            for (side, direction) in
                [(judged.egress, Direction::Egress), (judged.ingress, Direction::Ingress)]
            {
                let line = match side.why {
                    Why::NotPoliced => "not policed",
                    Why::SelfTraffic => "self",
                    Why::Hairpin => "hairpin",
                    Why::OwnNode => "own node",
                    Why::UnjudgedProtocol => "unjudged protocol",
                    Why::ClusterRule(..) if side.verdict == Verdict::Allow => "accepted",
                    Why::ClusterRule(..) => "denied",
                    Why::Admitted(_) => "admitted",
                    Why::Isolated => "isolated",
                    Why::Default => "default",
                };
                *reached.entry((line, direction)).or_default() += 1;
            }
        }
    }
    eprintln!("{reached:#?}");
    assert_eq!(reached.len(), 20, "{reached:?}");
    assert!(reached.values().all(|times| *times > 100), "{reached:?}");
}
