//! Explanations and matrices are views of the verdict: they never say anything else.
#![expect(clippy::panic, clippy::print_stderr, reason = "test support")]

extern crate alloc;

use alloc::collections::BTreeSet;
use core::net::IpAddr;

use netpol_conformance::generate::{Campaign, Case, Shape};
use netpol_conformance::oracle::{self, Why};
use netpol_core::compile::{Options, compile};
use netpol_core::explain::{Side, TierName, explain};
use netpol_core::ir::{Family, Flow, Reason, Ruleset, Scope, Transport, Verdict};
use netpol_core::matrix::{Matrix, Party};
use netpol_core::model::ObjectRef;

fn ruleset(case: &Case) -> Ruleset {
    compile(
        &case.cluster,
        &Options { scope: Scope::Cluster, settings: case.settings, ..Options::default() },
    )
    .ruleset
}

#[track_caller]
fn hold(check: impl Fn(&Case) -> Option<String>) {
    let flows = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
    let campaign = Campaign::from_env(Shape { flows: 200, ..Shape::default() }, flows);
    match campaign.unwrap_or_else(|error| panic!("{error}")).run(check) {
        Ok(report) => eprintln!("{report}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn an_explanation_has_the_verdict_and_one_deciding_rule_if_a_rule_decided() {
    hold(|case| {
        let ruleset = ruleset(case);
        case.flows.iter().find_map(|flow| {
            let decision = ruleset.verdict(flow);
            let explained = explain(&case.cluster, &ruleset, flow);
            let same = explained.flow == *flow
                && explained.verdict == decision.verdict
                && explained.egress.decision == decision.egress
                && explained.ingress.decision == decision.ingress;
            let told = [&explained.egress, &explained.ingress].into_iter().all(tells_who_decided);
            (!same || !told).then(|| format!("{flow}: {decision:?}\n{explained:#?}"))
        })
    });
}

fn tells_who_decided(side: &Side) -> bool {
    let rules = side.policies.iter().flat_map(|policy| &policy.rules);
    let decided: Vec<_> = rules.filter(|rule| rule.decided).collect();
    match (&side.decision.reason, decided.as_slice()) {
        (Reason::Rule(origin), [rule]) => rule.origin == *origin && rule.misses.is_empty(),
        (Reason::Rule(_), _) => false,
        (
            Reason::NotPoliced
            | Reason::SelfTraffic
            | Reason::Hairpin
            | Reason::OwnNode
            | Reason::UnjudgedProtocol
            | Reason::UnknownPod
            | Reason::Isolated
            | Reason::NotIsolated,
            decided,
        ) => decided.is_empty(),
    }
}

#[test]
fn the_rules_without_a_miss_are_the_rules_that_the_oracle_finds_matching() {
    hold(|case| {
        let ruleset = ruleset(case);
        case.flows.iter().find_map(|flow| {
            let judged = oracle::judge(&case.cluster, case.settings, flow);
            let explained = explain(&case.cluster, &ruleset, flow);
            [(judged.egress, explained.egress), (judged.ingress, explained.ingress)]
                .into_iter()
                .find_map(|(oracle, side)| {
                    let expected = match oracle.why {
                        Why::Admitted(rules) => rules.into_iter().collect(),
                        Why::Isolated => BTreeSet::new(),
                        Why::NotPoliced
                        | Why::SelfTraffic
                        | Why::Hairpin
                        | Why::OwnNode
                        | Why::UnjudgedProtocol
                        | Why::UnknownPod
                        | Why::ClusterRule(..)
                        | Why::Default => return None,
                    };
                    let found = matching(&side);
                    (found != expected).then(|| format!("{flow}: {found:?}, not {expected:?}"))
                })
        })
    });
}

/// The rules of NetworkPolicies without a miss.
fn matching(side: &Side) -> BTreeSet<(ObjectRef, usize)> {
    let policies = side.policies.iter().filter(|policy| policy.tier == TierName::NetworkPolicy);
    policies
        .flat_map(|policy| &policy.rules)
        .filter(|rule| rule.misses.is_empty())
        .map(|rule| {
            let index = usize::try_from(rule.origin.rule).unwrap_or(usize::MAX);
            (rule.origin.policy.object.clone(), index)
        })
        .collect()
}

#[test]
fn the_matrix_says_of_every_pair_what_the_verdict_says() {
    hold(|case| {
        let ruleset = ruleset(case);
        let matrices =
            [Family::V4, Family::V6].map(|family| (family, Matrix::new(&ruleset, family)));
        case.flows.iter().find_map(|flow| {
            let (_, matrix) =
                matrices.iter().find(|(family, _)| *family == Family::of(flow.source))?;
            let decision = ruleset.verdict(flow);
            let beyond =
                [&decision.egress.reason, &decision.ingress.reason].into_iter().any(|reason| {
                    matches!(reason, Reason::SelfTraffic | Reason::Hairpin | Reason::OwnNode)
                });
            // OFF-010: neither a pod to itself nor its own node stands in the matrix.
            if beyond || is_hairpin(&ruleset, flow) {
                return None;
            }
            let source = party(case, &ruleset, matrix, flow.source)?;
            let destination = party(case, &ruleset, matrix, flow.destination)?;
            if let (Party::External(_), Party::External(_)) = (source, destination) {
                return None;
            }
            let allowed = matrix.allowed(source, destination);
            let open = match flow.transport {
                Transport::Port(protocol, port) => allowed.ports.contains(protocol, port),
                Transport::Other(_) => allowed.others,
            };
            (open != (decision.verdict == Verdict::Allow))
                .then(|| format!("{flow}: {decision:?}, but the matrix says {allowed}"))
        })
    });
}

fn is_hairpin(ruleset: &Ruleset, flow: &Flow) -> bool {
    match (ruleset.owner(flow.source), ruleset.owner(flow.destination)) {
        (Some(source), Some(destination)) => source.pod == destination.pod,
        (Some(_) | None, Some(_) | None) => false,
    }
}

/// Who an address is to the matrix; `None` for whom it leaves out: nodes, and further addresses of one pod and family.
fn party(case: &Case, ruleset: &Ruleset, matrix: &Matrix, address: IpAddr) -> Option<Party> {
    if let Some(owner) = ruleset.owner(address) {
        let of_family = |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
        if owner.addresses.iter().filter(of_family).count() > 1 {
            return None;
        }
        let class = matrix.pods.iter().position(|class| class.contains(&owner.pod));
        return Some(Party::Pods(class.unwrap_or_else(|| panic!("{} is in no class", owner.pod))));
    }
    if case.cluster.nodes.values().any(|node| node.addresses.contains(&address)) {
        return None;
    }
    let class = matrix.externals.iter().position(|class| class.contains(address));
    Some(Party::External(class.unwrap_or_else(|| panic!("{address} is in no class"))))
}
