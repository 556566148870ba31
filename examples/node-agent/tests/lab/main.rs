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
mod fleet;
mod kills;
mod outages;

use core::net::IpAddr;

use netpol_conformance::cases::e2e::{self, Step};
use netpol_conformance::netlab::kernel_test;
use netpol_core::ir::{Family, Flow};
use netpol_core::model::{Cluster, ObjectRef};

use fleet::{Fleet, Setup, bpf_file_system};

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
fn scenarios(name: &str, backend: &'static str, families: &[Family], every: usize) {
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
    eprintln!("{name}: {run} scenarios, {steps} steps through the API, {asked} flows right");
    assert!(asked > 100 * run / 2);
}

#[test]
fn upstream_scenarios_hold_through_the_api_with_nft() {
    kernel_test(|| scenarios("scenarios-nft", "nft", &[Family::V4], 1));
}

#[test]
fn upstream_scenarios_hold_through_the_api_with_ebpf() {
    kernel_test(|| {
        bpf_file_system();
        scenarios("scenarios-ebpf", "ebpf", &[Family::V4], 1);
    });
}

#[test]
fn upstream_scenarios_hold_through_the_api_with_iptables() {
    kernel_test(|| scenarios("scenarios-iptables", "iptables", &[Family::V4], 1));
}

#[test]
fn upstream_scenarios_hold_through_the_api_over_ipv6() {
    kernel_test(|| scenarios("scenarios-ipv6", "nft", &[Family::V6], 2));
}
