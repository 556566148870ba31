//! Agents on the nodes of a lab, fed by the test API server, judged by real packets: every change goes through the API,
//! and what is waited for is what packets do.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "test support"
)]

extern crate alloc;

mod api;
mod churn;
mod commands;
mod drift;
mod fleet;
mod kills;
mod marks;
mod outages;

use core::net::IpAddr;

use netpol_conformance::cases::e2e::{self, Step};
use netpol_core::ir::{Family, Flow};
use netpol_core::model::{Cluster, ObjectRef};

use fleet::{Backend, Fleet, Setup};

/// What a step asks, in one family.
fn flows(step: &Step, family: Family) -> Vec<Flow> {
    let flows = step.matrices.iter().flat_map(|matrix| matrix.flows(&step.cluster, family));
    flows.map(|(flow, _)| flow).collect()
}

/// The first scenario: nobody reaches the pods of x.
fn deny_ingress(base: &Cluster) -> (Step, Vec<Flow>) {
    let scenario = e2e::all().unwrap().into_iter().next().unwrap();
    let step = scenario.steps(base, Family::V4).unwrap().into_iter().next().unwrap();
    let flows = flows(&step, Family::V4);
    (step, flows)
}

fn address(cluster: &Cluster, pod: &ObjectRef, family: Family) -> IpAddr {
    let addresses = &cluster.pods[pod].addresses;
    *addresses.iter().find(|address| Family::of(**address) == family).unwrap()
}

/// Every scenario through the API, or every so many.
fn scenarios(name: &str, backend: Backend, families: &[Family], every: usize) {
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new(name, base.clone(), Setup::of(backend));
    fleet.until_ready();
    let (mut asked, mut steps, mut run) = (0, 0, 0);
    for scenario in e2e::all().unwrap().iter().step_by(every) {
        for step in scenario.steps(&base, Family::V4).unwrap() {
            fleet.step(&step);
            let flows: Vec<Flow> =
                families.iter().flat_map(|family| flows(&step, *family)).collect();
            asked += fleet.until_right(&scenario.id, &flows).asked;
            steps += 1;
        }
        fleet.reset(&base);
        run += 1;
    }
    eprintln!(
        "{name} {backend}: {run} scenarios, {steps} steps through the API, {asked} flows right"
    );
    assert!(asked > 100 * run / 2);
}

/// What must hold with each backend.
macro_rules! held {
    ($module:ident, $backend:expr) => {
        mod $module {
            use netpol_conformance::netlab::kernel_test;
            use netpol_core::ir::Family;

            use crate::fleet::Backend;
            use crate::{churn, commands, drift, kills, marks, outages, scenarios};

            const BACKEND: Backend = $backend;

            #[test]
            fn upstream_scenarios_hold_through_the_api() {
                kernel_test(|| scenarios("scenarios", BACKEND, &[Family::V4], 1));
            }

            #[test]
            fn upstream_scenarios_hold_through_the_api_over_ipv6() {
                kernel_test(|| scenarios("scenarios-ipv6", BACKEND, &[Family::V6], 4));
            }

            #[test]
            fn a_thousand_policies_at_once_are_all_in_force() {
                kernel_test(|| churn::thousand_policies(BACKEND));
            }

            #[test]
            fn an_address_that_changes_hands_takes_no_rights_along() {
                kernel_test(|| churn::address_reuse(BACKEND));
            }

            #[test]
            fn a_storm_of_pods_that_come_and_go_ends_in_the_right_state_and_disturbs_nobody() {
                kernel_test(|| churn::storm(BACKEND));
            }

            #[test]
            fn once_enforces_and_ends_and_a_dry_run_leaves_the_kernel_alone() {
                kernel_test(|| commands::once_and_dry_run(BACKEND));
            }

            #[test]
            fn a_running_agent_explains_counts_and_names_what_it_denies() {
                kernel_test(|| commands::explains_and_counts(BACKEND));
            }

            #[test]
            fn the_metrics_tell_of_everything_that_happens() {
                kernel_test(|| commands::metrics(BACKEND));
            }

            #[test]
            fn strict_mode_drops_what_no_known_pod_sends_or_is_sent() {
                kernel_test(|| commands::strict_mode(BACKEND));
            }

            #[test]
            fn with_other_bits_to_mark_with_foreign_marks_change_nothing() {
                kernel_test(|| marks::other_bits(BACKEND));
            }

            #[test]
            fn what_another_program_takes_away_comes_back_and_removal_is_complete() {
                kernel_test(|| drift::repairs_and_removal(BACKEND));
            }

            #[test]
            fn a_killed_agent_leaves_its_rules_and_a_new_one_takes_over() {
                kernel_test(|| kills::killed_and_replaced(BACKEND));
            }

            #[test]
            fn agents_killed_two_hundred_times_under_traffic_are_not_noticed() {
                kernel_test(|| kills::kills(BACKEND, 200));
            }

            #[test]
            fn half_a_listing_opens_and_closes_nothing() {
                kernel_test(|| outages::half_a_listing(BACKEND));
            }

            #[test]
            fn an_api_server_that_is_away_changes_nothing_and_its_return_is_noticed() {
                kernel_test(|| outages::server_away(BACKEND));
            }
        }
    };
}

held!(ebpf, Backend::Ebpf);
held!(ebpf_tc, Backend::EbpfTc);
held!(iptables_legacy, Backend::IptablesLegacy);
held!(iptables_nft, Backend::IptablesNft);
held!(nft, Backend::Nft);
