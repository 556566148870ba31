//! The image judges as the ruleset does, and says it in the same bytes every time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "test support")]

use netpol_conformance::generate::{Campaign, Oddities, Shape, case};
use netpol_core::backend::{Backend as _, LowerError, Program as _};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Ruleset, Scope};
use netpol_core::model::Cidr;
use netpol_core::net::PrefixSet;
use netpol_ebpf::{Ebpf, Limits};
use netpol_k8s::manifest::{ReadOptions, read_str};

fn campaign(oddities: Oddities) {
    let shape = Shape { oddities, ..Shape::default() };
    let campaign = Campaign::from_env(shape, 100_000).unwrap();
    let report = campaign.run(|case| {
        // Every other cluster in strict mode: some ends of flows are addresses that only pods may have.
        let is_strict = case.cluster.pods.len() % 2 == 1;
        let some = case.flows.iter().step_by(16).filter(|_| is_strict);
        let ranges: Vec<Cidr> = some.map(|flow| Cidr::host(flow.source)).collect();
        let pod_ranges = PrefixSet::from_cidrs(&ranges);
        let options = Options { scope: Scope::Cluster, settings: case.settings, pod_ranges };
        let ruleset = compile(&case.cluster, &options).ruleset;
        let image = Ebpf::default().lower(&ruleset).unwrap();
        case.flows.iter().find_map(|flow| {
            let (expected, got) = (ruleset.verdict(flow).verdict, image.verdict(flow));
            (expected != got).then(|| format!("{flow}: {got}, must {expected}\n{image}"))
        })
    });
    report.unwrap_or_else(|failure| std::panic::panic_any(failure.to_string()));
}

#[test]
fn the_image_judges_every_flow_as_the_ruleset_does() {
    campaign(Oddities::Valid);
}

#[test]
fn the_image_judges_odd_objects_as_the_ruleset_does() {
    campaign(Oddities::Live);
}

fn ruleset(seed: u64) -> Ruleset {
    compile(&case(seed, Shape::default()).cluster, &Options::default()).ruleset
}

#[test]
fn equal_rulesets_are_equal_bytes() {
    for seed in 0..50 {
        let lower = || Ebpf::default().lower(&ruleset(seed)).unwrap().to_string();
        assert_eq!(lower(), lower());
    }
}

#[test]
fn what_does_not_fit_is_an_error_with_the_numbers() {
    let rows = Ebpf::default().lower(&ruleset(1)).unwrap().rows();
    let limits = Limits { words: rows.words - 1, ..Limits::default() };
    let error = Ebpf::with_limits(limits).lower(&ruleset(1)).unwrap_err();
    let (needed, limit) = (rows.words, rows.words - 1);
    let object = "map words".into();
    assert_eq!(error, LowerError::CapacityExceeded { object, needed, limit, unit: "rows" });
    let limits = Limits { pieces: 3, ..Limits::default() };
    let error = Ebpf::with_limits(limits).lower(&ruleset(1)).unwrap_err();
    assert!(matches!(error, LowerError::CapacityExceeded { limit: 3, unit: "pieces", .. }));
}

/// A hub that every pod may reach, `count` pods of labels that nobody else has, and `policies` such hubs.
fn hubs(count: u8, policies: usize, peers: &str) -> Ruleset {
    let mut text = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n");
    for host in 0..count {
        text += &format!(
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{namespace: x, name: p{host}, labels: {{id: p{host}, hub: h{}}}}}\n\
             spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}\n\
             status: {{phase: Running, podIPs: [{{ip: 10.0.0.{host}}}]}}\n",
            usize::from(host) % policies
        );
    }
    for hub in 0..policies {
        text += &format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{namespace: x, name: h{hub}}}\n\
             spec: {{podSelector: {{matchLabels: {{hub: h{hub}}}}}, ingress: [{{from: [{peers}]}}]}}\n"
        );
    }
    let manifests = read_str("hubs.yaml", &text, &ReadOptions::default()).unwrap();
    compile(&manifests.cluster, &Options::default()).ruleset
}

#[test]
fn pods_that_no_rule_tells_apart_are_one_class_whatever_their_labels() {
    let image = Ebpf::default().lower(&hubs(200, 1, "{podSelector: {}}")).unwrap();
    let rows = image.rows();
    assert_eq!((rows.hosts, rows.policies, rows.words, rows.ports), (200, 1, 1, 0));
}

#[test]
fn a_policy_that_allows_most_classes_says_so_by_default() {
    // One more policy for each pod makes each pod a class of its own.
    let peers = (0..200).map(|host| format!("{{podSelector: {{matchLabels: {{id: p{host}}}}}}}"));
    let peers = peers.collect::<Vec<_>>().join(", ");
    let image = Ebpf::default().lower(&hubs(200, 50, &peers)).unwrap();
    // 200 classes, allowed by the one policy that all hubs have: only nobody differs.
    let rows = image.rows();
    assert_eq!((rows.hosts, rows.policies, rows.words, rows.ports), (200, 1, 1, 0));
}
