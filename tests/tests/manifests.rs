//! Writing a generated cluster as manifests and reading it back loses nothing that a verdict could see.
#![expect(clippy::print_stderr, reason = "test support")]

use netpol_conformance::generate::{Campaign, Case, Shape};
use netpol_conformance::oracle;
use netpol_core::model::Cluster;
use netpol_k8s::manifest::{ReadOptions, read_str, write_yaml};

fn read(text: &str) -> Result<Cluster, String> {
    read_str("case.yaml", text, &ReadOptions::default())
        .map(|manifests| manifests.cluster)
        .map_err(|errors| errors.to_string())
}

fn difference(case: &Case) -> Option<String> {
    let once = match read(&write_yaml(&case.cluster)) {
        Ok(cluster) => cluster,
        Err(errors) => return Some(errors),
    };
    // Not the first time: the names of containers follow from their order.
    let text = write_yaml(&once);
    match read(&text).map(|twice| write_yaml(&twice)) {
        Ok(again) if again == text => {}
        Ok(again) => {
            return Some(format!("written as\n{text}and read and written again as\n{again}"));
        }
        Err(errors) => return Some(errors),
    }
    case.flows.iter().find_map(|flow| {
        let meant = oracle::judge(&case.cluster, case.settings, flow);
        let got = oracle::judge(&once, case.settings, flow);
        (meant != got).then(|| format!("{flow}: {meant:?} became {got:?}"))
    })
}

#[test]
fn manifests_of_generated_clusters_read_back_with_the_same_verdicts() {
    let flows = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
    let campaign = Campaign::from_env(Shape { flows: 100, ..Shape::default() }, flows);
    match campaign.unwrap_or_else(|error| panic!("{error}")).run(difference) {
        Ok(report) => eprintln!("{report}"),
        Err(failure) => panic!("{failure}"),
    }
}
