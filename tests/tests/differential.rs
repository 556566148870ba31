//! The oracle against `compile`: the same verdict, on both sides, by the same line of the reference algorithm.
//!
//! `NETPOL_SEED` and `NETPOL_FLOWS` repeat or lengthen a run; four million flows are the default in release.
#![expect(clippy::panic, clippy::print_stderr, reason = "test support")]

extern crate alloc;

use alloc::collections::BTreeMap;
use core::fmt::Write as _;

use netpol_conformance::generate::{self, Campaign, Case, Oddities, Shape};
use netpol_conformance::oracle::{self, Why};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Decision, Direction, Flow, Scope, Verdict, verify};
use netpol_core::model::Cidr;
use netpol_core::net::PrefixSet;
use proptest::prelude::ProptestConfig;
use proptest::{prop_assert, proptest};

/// Says how the two differ on the first flow they differ on.
fn difference(case: &Case) -> Option<String> {
    let ranges = pod_ranges(case);
    let options = Options {
        scope: Scope::Cluster,
        settings: case.settings,
        pod_ranges: PrefixSet::from_cidrs(&ranges),
    };
    let compiled = compile(&case.cluster, &options);
    let violated = verify(&compiled.ruleset);
    if !violated.is_empty() {
        return Some(format!("broken invariants: {violated:?}"));
    }
    case.flows.iter().find_map(|flow| {
        let judged = oracle::judge_strict(&case.cluster, case.settings, &ranges, flow);
        let decision = compiled.ruleset.verdict(flow);
        let agree = judged.verdict == decision.verdict
            && judged.egress.agrees_with(&decision.egress)
            && judged.ingress.agrees_with(&decision.ingress);
        (!agree).then(|| told(flow, &judged, &decision))
    })
}

/// What strict mode takes for addresses of pods: for every other case nothing, else the sources of some flows, which are
/// pods with and without an address of their own, nodes and others.
fn pod_ranges(case: &Case) -> Vec<Cidr> {
    let is_strict = case.cluster.pods.len() % 2 == 1;
    let some = case.flows.iter().step_by(16).filter(|_| is_strict);
    some.map(|flow| Cidr::host(flow.source)).collect()
}

fn told(flow: &Flow, judged: &oracle::Judged, decision: &Decision) -> String {
    let Decision { verdict, egress, ingress } = decision;
    let mut text = String::new();
    let _ = writeln!(text, "flow {flow} ({:?})", flow.dialled);
    let _ = writeln!(text, "  oracle:  {}", judged.verdict);
    let _ = writeln!(text, "    egress  {}", judged.egress);
    let _ = writeln!(text, "    ingress {}", judged.ingress);
    let _ = writeln!(text, "  ruleset: {verdict}");
    let _ = writeln!(text, "    egress  {}: {}", egress.verdict, egress.reason);
    let _ = writeln!(text, "    ingress {}: {}", ingress.verdict, ingress.reason);
    text
}

#[track_caller]
fn campaign(shape: Shape, millionths: u64) {
    // Enough to notice a mistake in a debug build, four million in all for the gate.
    let all = if cfg!(debug_assertions) { 100_000 } else { 4_000_000 };
    let campaign = Campaign::from_env(shape, all * millionths / 1_000_000);
    match campaign.unwrap_or_else(|error| panic!("{error}")).run(difference) {
        Ok(report) => eprintln!("{report}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn oracle_and_ruleset_agree_on_valid_objects() {
    campaign(Shape::default(), 600_000);
}

#[test]
fn oracle_and_ruleset_agree_on_odd_live_objects() {
    campaign(Shape { oddities: Oddities::Live, ..Shape::default() }, 200_000);
}

#[test]
fn oracle_and_ruleset_agree_on_larger_clusters() {
    let shape = Shape {
        pods: 60,
        network_policies: 30,
        cluster_network_policies: 16,
        flows: 2000,
        oddities: Oddities::Valid,
    };
    campaign(shape, 200_000);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        failure_persistence: None,
        max_shrink_iters: 10_000,
        ..ProptestConfig::default()
    })]

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
            let judged =
                oracle::judge_strict(&case.cluster, case.settings, &pod_ranges(&case), flow);
            for (side, direction) in
                [(judged.egress, Direction::Egress), (judged.ingress, Direction::Ingress)]
            {
                let line = match side.why {
                    Why::NotPoliced => "not policed",
                    Why::SelfTraffic => "self",
                    Why::Hairpin => "hairpin",
                    Why::OwnNode => "own node",
                    Why::UnjudgedProtocol => "unjudged protocol",
                    Why::UnknownPod => "unknown pod",
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
    assert_eq!(reached.len(), 22, "{reached:?}");
    assert!(reached.values().all(|times| *times > 300), "{reached:?}");
}

#[test]
fn one_seed_is_one_case() {
    for seed in 0..20 {
        assert_eq!(generate::case(seed, Shape::default()), generate::case(seed, Shape::default()));
    }
}
