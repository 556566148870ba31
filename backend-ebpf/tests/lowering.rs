//! The image judges as the ruleset does, and says it in the same bytes every time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "test support")]

use netpol_conformance::generate::{Campaign, Oddities, Shape, case};
use netpol_core::backend::{Backend as _, LowerError, Program as _};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Ruleset, Scope};
use netpol_ebpf::{Ebpf, Limits};

fn campaign(oddities: Oddities) {
    let shape = Shape { oddities, ..Shape::default() };
    let campaign = Campaign::from_env(shape, 100_000).unwrap();
    let report = campaign.run(|case| {
        let options = Options { scope: Scope::Cluster, settings: case.settings };
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
