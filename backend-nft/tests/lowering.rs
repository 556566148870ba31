//! The program judges as the ruleset does, and says it in the same bytes every time.

extern crate alloc;

#[path = "support/rulesets.rs"]
mod rulesets;

use netpol_core::backend::{Backend as _, Established, Program as _};
use netpol_core::ir::{Dialled, Flow, Transport};
use netpol_core::model::Protocol;
use netpol_nft::{Nft, NftOptions};
use proptest::prelude::*;

fn transports() -> Vec<Transport> {
    Protocol::ALL
        .into_iter()
        .flat_map(|protocol| rulesets::EDGES.map(|port| Transport::Port(protocol, port)))
        .chain([1, 58, 47].map(Transport::Other))
        .collect()
}

/// Every flow of the small world, dialled both ways.
fn flows() -> Vec<Flow> {
    let mut flows = Vec::new();
    for source in rulesets::addresses() {
        for destination in rulesets::addresses() {
            if source.is_ipv4() != destination.is_ipv4() {
                continue;
            }
            for transport in transports() {
                let flow = Flow::new(source, destination, transport);
                flows.push(flow);
                flows.push(Flow { dialled: Dialled::Service, ..flow });
            }
        }
    }
    flows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_program_judges_every_flow_as_the_ruleset_does(
        ruleset in rulesets::peer_sets().prop_flat_map(rulesets::rulesets_over),
        keep in any::<bool>(),
    ) {
        let mut options = NftOptions::default();
        if keep {
            options.established = Established::Keep;
        }
        let script = Nft::new(options).lower(&ruleset).unwrap();
        for flow in flows() {
            let expected = ruleset.verdict(&flow);
            prop_assert_eq!(
                script.verdict(&flow), expected.verdict,
                "{} {:?}\negress {}\ningress {}\n{}\n{}",
                flow, flow.dialled, expected.egress.reason, expected.ingress.reason, ruleset, script
            );
        }
    }

    #[test]
    fn equal_rulesets_are_equal_bytes(ruleset in rulesets::peer_sets().prop_flat_map(rulesets::rulesets_over)) {
        let lower = || Nft::default().lower(&ruleset.clone()).unwrap().to_string();
        prop_assert_eq!(lower(), lower());
    }
}
