//! The program judges as the ruleset does, and says it in the same bytes every time.
#![expect(clippy::unwrap_used, reason = "test support")]

extern crate alloc;

#[path = "../../backend-nft/tests/support/rulesets.rs"]
mod rulesets;

use alloc::collections::BTreeSet;
use alloc::sync::Arc;

use netpol_conformance::generate::{self, Case, Shape};
use netpol_conformance::workload;
use netpol_core::backend::{Backend as _, Established, Program as _};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Dialled, Family, Flow, Parts, Ruleset, Scope, Transport, Verdict};
use netpol_core::model::{Cidr, Protocol};
use netpol_core::net::PrefixSet;
use netpol_iptables::restore::PREFIX;
use netpol_iptables::{Iptables, OwnAddress, RestoreInput};
use proptest::prelude::*;

fn lower(ruleset: &Ruleset) -> RestoreInput {
    Iptables::default().lower(ruleset).unwrap()
}

/// Every flow of the small world, dialled both ways.
fn small_world() -> Vec<Flow> {
    let ports = Protocol::ALL
        .into_iter()
        .flat_map(|protocol| rulesets::EDGES.map(|port| Transport::Port(protocol, port)));
    let transports: Vec<Transport> = ports.chain([1, 58, 47].map(Transport::Other)).collect();
    let mut flows = Vec::new();
    for source in rulesets::addresses() {
        let same_family = |address: &core::net::IpAddr| address.is_ipv4() == source.is_ipv4();
        for destination in rulesets::addresses().into_iter().filter(same_family) {
            for transport in &transports {
                let flow = Flow::new(source, destination, *transport);
                flows.extend([flow, Flow { dialled: Dialled::Service, ..flow }]);
            }
        }
    }
    flows
}

fn judges_alike(ruleset: &Ruleset, flows: &[Flow]) -> Result<(), TestCaseError> {
    let list = Iptables {
        own_address: OwnAddress::List,
        established: Established::Keep,
        reports: None,
        ..Iptables::default()
    };
    for options in [Iptables::default(), list] {
        let program = options.lower(ruleset).unwrap();
        program_judges_alike(&program, ruleset, flows)?;
        is_well_formed(&program)?;
    }
    Ok(())
}

fn program_judges_alike(
    program: &RestoreInput,
    ruleset: &Ruleset,
    flows: &[Flow],
) -> Result<(), TestCaseError> {
    for flow in flows {
        let expected = ruleset.verdict(flow);
        prop_assert_eq!(
            program.verdict(flow),
            expected.verdict,
            "{} {:?}\negress {}\ningress {}\n{}\n{}",
            flow,
            flow.dialled,
            expected.egress.reason,
            expected.ingress.reason,
            ruleset,
            program
        );
    }
    Ok(())
}

/// The kernel takes it: short names, nothing referred to that is not there, and nothing there that is not referred to.
fn is_well_formed(program: &RestoreInput) -> Result<(), TestCaseError> {
    let text = program.to_string();
    let mut used = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("-A") || line.starts_with("-I")) {
        let words: Vec<&str> = line.split(' ').collect();
        for pair in words.windows(2) {
            if let ["--match-set" | "-j" | "-g", name] = pair
                && name.starts_with(PREFIX)
            {
                used.insert((*name).to_owned());
            }
        }
    }
    let chains = [Family::V4, Family::V6].map(|family| program.filter(family).chains.keys());
    let chains: BTreeSet<String> = chains.into_iter().flatten().map(ToString::to_string).collect();
    let sets: BTreeSet<String> = program.sets().iter().map(|(name, _)| name.to_string()).collect();
    prop_assert!(chains.iter().all(|name| name.len() <= 28), "{chains:?}");
    prop_assert!(sets.iter().all(|name| name.len() <= 31), "{sets:?}");
    let here: BTreeSet<String> = chains.union(&sets).cloned().collect();
    prop_assert_eq!(used, here);
    Ok(())
}

#[test]
fn a_node_of_many_pipelines_has_few_rules_and_short_chains_whatever_the_policies_name() {
    let cluster = workload::cluster(1000, 200, workload::MEDIUM);
    let busiest = cluster.nodes.keys().map(|node| {
        let options = Options { scope: Scope::Node(node.clone()), ..Options::default() };
        compile(&cluster, &options).ruleset
    });
    let ruleset = busiest.max_by_key(|ruleset| ruleset.pipelines().len()).unwrap();
    let pipelines = ruleset.pipelines().len();
    assert!(pipelines > 50 && ruleset.endpoints().len() == 100, "{pipelines} pipelines");
    let program = lower(&ruleset);
    for family in [Family::V4, Family::V6] {
        let chains = &program.filter(family).chains;
        assert!(chains.keys().any(|name| name.starts_with("NETPOL-D-")), "{family}: no search");
        let rules: usize = chains.values().map(|rules| rules.len()).sum();
        assert!(rules < pipelines * 16, "{family}: {rules} rules for {pipelines} pipelines");
        // A leaf of the search is as long as that, and its last rule.
        let longest = chains.values().map(|rules| rules.len()).max().unwrap();
        assert!(longest <= 16, "{family}: a chain of {longest} rules");
    }
    let everybody: Vec<_> =
        cluster.pods.values().flat_map(|pod| pod.addresses.iter().copied()).collect();
    let local: Vec<_> =
        ruleset.endpoints().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
    let ports = [80, 8080, 1001, 2000].map(|port| Transport::Port(Protocol::Tcp, port));
    let mut allowed = [0_usize; 2];
    for own in &local {
        let others = everybody.iter().filter(|other| other.is_ipv4() == own.is_ipv4()).step_by(7);
        for other in others {
            for transport in ports {
                for (source, destination) in [(own, other), (other, own)] {
                    let flow = Flow::new(*source, *destination, transport);
                    let expected = ruleset.verdict(&flow).verdict;
                    assert_eq!(program.verdict(&flow), expected, "{flow}");
                    allowed[usize::from(expected == Verdict::Allow)] += 1;
                }
            }
        }
    }
    assert!(allowed.iter().all(|count| *count > 1000), "{allowed:?}");
}

/// The ruleset in strict mode over these ranges.
fn strict(ruleset: &Ruleset, ranges: &[&str]) -> Ruleset {
    let ranges: Vec<Cidr> = ranges.iter().map(|text| Cidr::parse(text).unwrap()).collect();
    let pipelines = ruleset.pipelines().map(|(id, pipeline)| (id, Arc::new(pipeline.clone())));
    let peer_sets = ruleset.peer_sets().map(|(id, set)| (id, Arc::new(set.clone())));
    Ruleset::new(Parts {
        scope: ruleset.scope().clone(),
        settings: ruleset.settings(),
        pod_ranges: PrefixSet::from_cidrs(&ranges),
        nodes: ruleset.nodes().clone(),
        endpoints: ruleset.endpoints().cloned().collect(),
        pipelines: pipelines.collect(),
        peer_sets: peer_sets.collect(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn strict_mode_drops_what_nobody_owns(
        ruleset in rulesets::peer_sets().prop_flat_map(rulesets::rulesets_over),
        ranges in proptest::sample::select(vec![
            &["10.0.0.0/8"][..],
            &["10.0.0.0/24", "192.168.0.0/24", "fd00::/16"],
            &["0.0.0.0/0", "fd00::/112", "8000::/1"],
            &["::/0", "0.0.0.0/1", "255.0.0.0/8"],
        ]),
    ) {
        judges_alike(&strict(&ruleset, ranges), &small_world())?;
    }

    #[test]
    fn the_program_judges_every_flow_as_the_ruleset_does(ruleset in rulesets::peer_sets().prop_flat_map(rulesets::rulesets_over)) {
        judges_alike(&ruleset, &small_world())?;
    }

    #[test]
    fn generated_clusters_are_judged_alike(
        Case { cluster, settings, flows } in generate::cases(Shape::default())
    ) {
        let nodes = cluster.nodes.keys().cloned().map(Scope::Node);
        for scope in nodes.chain([Scope::Cluster]) {
            let ruleset = compile(&cluster, &Options { scope, settings, ..Options::default() }).ruleset;
            judges_alike(&ruleset, &flows)?;
            }
    }

    #[test]
    fn equal_rulesets_are_equal_bytes(ruleset in rulesets::peer_sets().prop_flat_map(rulesets::rulesets_over)) {
        prop_assert_eq!(lower(&ruleset).to_string(), lower(&ruleset).to_string());
    }
}
