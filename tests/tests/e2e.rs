//! Every cell of every upstream case, in both families, by the oracle and by the IR.

use netpol_conformance::cases::e2e;
use netpol_conformance::oracle;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Family, Settings};

const SCENARIOS: usize = 48;

#[test]
fn oracle_and_ir_agree_with_every_cell_of_every_upstream_case() {
    let scenarios = e2e::all().expect("the scenarios read");
    assert_eq!(scenarios.len(), SCENARIOS);
    let (mut cells, mut probed) = (0, 0);
    let mut failures = Vec::new();
    for scenario in &scenarios {
        for family in [Family::V4, Family::V6] {
            let steps = scenario.steps(&e2e::nine_pods(), family).expect("the scenario unfolds");
            for (number, step) in steps.iter().enumerate() {
                let ruleset = compile(&step.cluster, &Options::default()).ruleset;
                for matrix in &step.matrices {
                    probed += scenario.pods.len() * (scenario.pods.len() - 1);
                    for (flow, verdict) in matrix.flows(&step.cluster, family) {
                        cells += 1;
                        let judged = oracle::judge(&step.cluster, Settings::default(), &flow);
                        let decision = ruleset.verdict(&flow);
                        let agree = judged.egress.agrees_with(&decision.egress)
                            && judged.ingress.agrees_with(&decision.ingress);
                        if judged.verdict != verdict || decision.verdict != verdict || !agree {
                            failures.push(format!(
                                "{} step {number} {flow}: expected {verdict}, oracle {}, IR {} \
                                 (egress {:?}, ingress {:?})",
                                scenario.id,
                                judged.verdict,
                                decision.verdict,
                                decision.egress.reason,
                                decision.ingress.reason,
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {cells} cells:\n{}", failures.len(), failures.join("\n"));
    // Those that upstream probes, as docs/semantics.md 0.1 counts them.
    assert_eq!(probed, 1056);
    // 67 matrices of 72 pairs, in two families.
    assert_eq!(cells, 67 * 72 * 2);
}
