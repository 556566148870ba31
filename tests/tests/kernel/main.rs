//! Every backend's kernel exam: case files, upstream's scenarios and generated clusters, with real packets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::panic,
    reason = "test support"
)]

extern crate alloc;

mod churn;
mod drift;
mod established;
mod hairpin;
mod hitless;
mod killed;
mod packets;
mod planted;
mod told;
mod traffic;
mod world;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::thread;

use netpol_conformance::cases::{self, e2e};
use netpol_conformance::exam::{self, Exam, Report};
use netpol_conformance::generate::{self, Shape};
use netpol_conformance::netlab::{
    Availability, Privilege, bpf_file_system, did_not_run, kernel_test,
};
use netpol_core::backend::Dataplane;
use netpol_core::ir::{Family, Flow, Settings};
use netpol_core::model::Cluster;
use netpol_ebpf::tc::{Attach, Service, Tc, Times};
use netpol_ebpf::{EbpfDataplane, FrontEnd, Kernel, Updates};
use netpol_iptables::{IptablesDataplane, Variant};
use netpol_nft::NftDataplane;

use churn::Amount;
use established::Treating;

/// How many labs run side by side: most of their time is waiting for silence.
const LABS: usize = 4;

/// Makes the dataplane under examination; each lab has its own.
type Backend = fn() -> Box<dyn Dataplane + Send>;

/// What a backend is held to beyond what every backend must do.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Offers {
    /// Strict mode.
    strict: bool,
}

/// Declares the tests of one backend.
macro_rules! exam {
    ($backend:ident, $dataplane:expr, $kernel_test:ident, $offers:expr, services: $services:expr, packets: $packets:expr, changes: $changes:expr, under_load: $under_load:expr, survives: $survives:expr, pins: $pins:expr, kills: $kills:expr, treats: $treats:expr, vandals: $vandals:expr) => {
        mod $backend {
            use super::*;

            #[test]
            fn every_case_file_holds_in_the_kernel() {
                $kernel_test(|| case_files(|| Box::new($dataplane)));
            }

            #[test]
            fn every_upstream_scenario_holds_in_the_kernel() {
                $kernel_test(|| upstream_scenarios(|| Box::new($dataplane)));
            }

            #[test]
            fn a_pod_reaches_itself_through_a_service_in_the_kernel() {
                $kernel_test(|| hairpin::holds(|| Box::new($services)));
            }

            #[test]
            fn changes_under_traffic_lose_and_leak_nothing_in_the_kernel() {
                $kernel_test(|| hitless::holds(|| Box::new($dataplane)));
            }

            #[test]
            fn crafted_packets_meet_the_verdict_of_the_oracle_in_the_kernel() {
                $kernel_test(|| packets::holds(|| Box::new($dataplane), $offers, $packets));
            }

            #[test]
            fn a_planted_bug_is_caught_by_crafted_packets() {
                $kernel_test(|| packets::catches(|| Box::new($dataplane)));
            }

            #[test]
            fn under_load_no_packet_meets_anything_but_the_old_or_the_new_verdict_in_the_kernel() {
                $kernel_test(|| churn::holds(|| Box::new($under_load), $changes));
            }

            #[test]
            fn whoever_applies_the_rules_may_be_killed_at_any_point_in_the_kernel() {
                let victim = concat!(stringify!($backend), "::victim");
                $kernel_test(|| killed::holds($survives, victim, $pins, $kills));
            }

            #[test]
            fn open_connections_are_cut_or_kept_as_asked_in_the_kernel() {
                $kernel_test(|| offered::<Treating>($treats, established::holds));
            }

            #[test]
            fn connections_from_before_the_first_policy_stay_open_in_the_kernel() {
                $kernel_test(|| {
                    offered::<Treating>($treats, established::begins_before_the_first_policy);
                });
            }

            #[test]
            fn open_connections_that_stay_allowed_lose_nothing_in_the_kernel() {
                $kernel_test(|| offered::<Treating>($treats, established::lose_nothing));
            }

            #[test]
            fn what_others_do_to_our_objects_is_found_and_made_good_in_the_kernel() {
                $kernel_test(|| {
                    drift::is_made_good($survives, $pins, stringify!($backend), $vandals);
                });
            }

            #[test]
            fn counters_tell_how_many_packets_each_cause_decided_on_in_the_kernel() {
                $kernel_test(|| told::counts(|| Box::new($dataplane)));
            }

            #[test]
            fn denied_flows_are_told_with_their_cause_at_a_limited_rate_in_the_kernel() {
                $kernel_test(|| told::denials(|| Box::new($dataplane)));
            }

            /// The process that is killed.
            #[test]
            fn victim() {
                killed::victim($survives);
            }

            #[test]
            fn a_planted_bug_is_caught_under_load() {
                $kernel_test(|| churn::catches(|| Box::new($dataplane)));
            }

            #[test]
            fn generated_clusters_hold_in_the_kernel() {
                $kernel_test(|| generated_clusters(|| Box::new($dataplane)));
            }
        }
    };
}

exam!(
    ebpf,
    ebpf(),
    bpf_test,
    Offers { strict: true },
    services: ebpf(),
    packets: 100_000,
    changes: Amount { updates: 10_000, syncs: 500, seconds: 40, worlds: 1 },
    under_load: ebpf(),
    survives: |pins| Box::new(ebpf().pinned(pins.join("netpol"))),
    pins: true,
    kills: 200,
    treats: Some(|established| Box::new(ebpf().with_established(established))),
    vandals: drift::EBPF
);
exam!(
    ebpf_tc,
    tc(Times::default()),
    bpf_test,
    Offers { strict: true },
    services: tc_with(Times::default(), hairpin::services()),
    packets: 20_000,
    changes: Amount { updates: 10_000, syncs: 500, seconds: 40, worlds: 1 },
    under_load: tc(Times { unanswered: Duration::from_secs(3), opening: Duration::from_secs(3), ..Times::default() }),
    survives: |pins| Box::new(tc(Times::default()).pinned(pins.join("netpol-tc"))),
    pins: true,
    kills: 200,
    treats: Some(|established| Box::new(tc(Times::default()).with_established(established))),
    vandals: drift::EBPF_TC
);
exam!(
    nft,
    NftDataplane::new(),
    kernel_test,
    Offers { strict: true },
    services: NftDataplane::new(),
    packets: 200_000,
    changes: Amount { updates: 10_000, syncs: 500, seconds: 100, worlds: 6 },
    under_load: NftDataplane::new(),
    survives: |_| Box::new(NftDataplane::new()),
    pins: false,
    kills: 200,
    treats: Some(|established| Box::new(NftDataplane::new().with_established(established))),
    vandals: drift::NFT
);
exam!(
    iptables_nft,
    iptables(Variant::Nft),
    kernel_test,
    Offers { strict: true },
    services: iptables(Variant::Nft),
    packets: 100_000,
    changes: Amount { updates: 3000, syncs: 200, seconds: 100, worlds: 1 },
    under_load: iptables(Variant::Nft),
    survives: |_| Box::new(iptables(Variant::Nft)),
    pins: false,
    kills: 100,
    treats: Some(|established| {
        Box::new(iptables(Variant::Nft).with_established(established))
    }),
    vandals: drift::IPTABLES_NFT
);
exam!(
    iptables_legacy,
    iptables(Variant::Legacy),
    kernel_test,
    Offers { strict: true },
    services: iptables(Variant::Legacy),
    packets: 100_000,
    changes: Amount { updates: 3000, syncs: 200, seconds: 60, worlds: 1 },
    under_load: iptables(Variant::Legacy),
    survives: |_| Box::new(iptables(Variant::Legacy)),
    pins: false,
    kills: 100,
    treats: Some(|established| {
        Box::new(iptables(Variant::Legacy).with_established(established))
    }),
    vandals: drift::IPTABLES_LEGACY
);

/// At the interfaces of pods, where every change loads a whole ruleset beside the one in force: the kernel leads one interface
/// after the other to it, so a packet can meet either at each of its two.
mod ebpf_tc_reloads {
    use super::*;

    fn dataplane() -> Box<dyn Dataplane + Send> {
        let seconds = Duration::from_secs(3);
        let times = Times { unanswered: seconds, opening: seconds, ..Times::default() };
        Box::new(tc(times).with_updates(Updates::Beside))
    }

    #[test]
    fn whole_reloads_under_traffic_lose_and_leak_nothing_in_the_kernel() {
        bpf_test(|| hitless::holds(dataplane));
    }

    #[test]
    fn under_load_no_packet_meets_anything_but_the_old_or_the_new_verdict_in_the_kernel() {
        let amount = Amount { updates: 100, syncs: 20, seconds: 6, worlds: 1 };
        bpf_test(|| churn::holds(dataplane, amount));
    }
}

/// At the interfaces of pods, by filters, as on kernels that have no links there.
mod ebpf_tc_by_filters {
    use super::*;

    /// Filters outlive the process, so they need pins.
    fn pins() -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("filters-{}", std::process::id()))
    }

    fn dataplane() -> Box<dyn Dataplane + Send> {
        let times = Times { bare: Duration::from_millis(1), ..Times::default() };
        let tc = Tc { times, attach: Attach::Clsact, ..Tc::default() };
        let dataplane = EbpfDataplane::default().with_front_end(FrontEnd::Tc(tc));
        Box::new(dataplane.pinned(pins().join("netpol")))
    }

    #[test]
    fn every_case_file_holds_in_the_kernel() {
        bpf_test(|| {
            bpf_file_system(&pins()).unwrap();
            case_files(dataplane);
        });
    }

    #[test]
    fn every_upstream_scenario_holds_in_the_kernel() {
        bpf_test(|| {
            bpf_file_system(&pins()).unwrap();
            upstream_scenarios(dataplane);
        });
    }
}

/// Runs what a backend offers, and says what it does not.
fn offered<T>(what: Option<T>, holds: impl FnOnce(T)) {
    match what {
        Some(what) => holds(what),
        None => eprintln!("NOT OFFERED by this backend: {}", core::any::type_name::<T>()),
    }
}

/// A dataplane that waits as long as it takes for the lock of the packet filter, which all labs of this machine share.
fn iptables(variant: Variant) -> IptablesDataplane {
    IptablesDataplane::with_variant(variant).with_patience(120)
}

/// A dataplane that need not ask the kernel what it is.
fn ebpf() -> EbpfDataplane {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    EbpfDataplane::default().with_kernel(*KERNEL.get_or_init(|| Kernel::probe().unwrap()))
}

/// The same at the interfaces of pods. Probes of protocols without ports have nothing that tells one from another; so a
/// connection of theirs is forgotten before the next one, which may go the other way, is probed.
fn tc(times: Times) -> EbpfDataplane {
    tc_with(times, Vec::new())
}

/// The same, told of what is translated.
fn tc_with(times: Times, services: Vec<Service>) -> EbpfDataplane {
    let times = Times { bare: Duration::from_millis(1), ..times };
    let tc = Tc { times, services, ..Tc::default() };
    EbpfDataplane::default().with_front_end(FrontEnd::Tc(tc))
}

/// Runs a test that needs bpf(2) besides a lab. The kernel gives it to root of the first user namespace only.
fn bpf_test(body: impl FnOnce()) {
    match Availability::probe() {
        Ok(Privilege::Root) => body(),
        Ok(other) => did_not_run("the eBPF backend's exam", &format!("{other} may not use bpf(2)")),
        Err(error) => did_not_run("the eBPF backend's exam", &error.to_string()),
    }
}

/// Builds a lab for one cluster, enforces, asks, takes the rules off again.
fn examine(
    backend: Backend,
    name: &str,
    cluster: &Cluster,
    settings: Settings,
    flows: &[Flow],
) -> Report {
    let mut dataplane = backend();
    let exam = Exam::new(cluster, settings, flows).unwrap_or_else(|error| fail(name, &error));
    exam.enforce(cluster, dataplane.as_mut()).unwrap_or_else(|error| fail(name, &error));
    let report = exam.ask(cluster, flows).unwrap_or_else(|error| fail(name, &error));
    exam.remove(dataplane.as_mut()).unwrap_or_else(|error| fail(name, &error));
    report
}

fn fail<T>(name: &str, error: &dyn core::error::Error) -> T {
    let mut text = format!("{name}: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    panic!("{text}")
}

/// Runs `examine` on every item, several at a time, and sums up.
fn all<T: Sync>(items: &[T], examine: impl Fn(&T) -> Report + Sync) -> Report {
    let next = AtomicUsize::new(0);
    let sum = Mutex::new(Report::default());
    thread::scope(|scope| {
        for _ in 0..LABS {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = examine(item);
                    sum.lock().unwrap().add(report);
                }
            });
        }
    });
    sum.into_inner().unwrap()
}

#[track_caller]
fn check(what: &str, report: &Report, at_least: usize) {
    eprintln!(
        "{what}: {} flows in the kernel, {} of them denied, {} left out, {} wrong",
        report.asked,
        report.denied,
        report.left_out,
        report.wrong.len()
    );
    let wrong: Vec<String> = report.wrong.iter().take(20).map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
    assert!(report.asked >= at_least, "{what}: only {} flows were asked", report.asked);
    assert!(
        report.denied > 0 && report.denied < report.asked,
        "{what}: all flows have one verdict"
    );
}

fn case_files(backend: Backend) {
    let cases = cases::all().expect("the case files can be read");
    let cases: Vec<_> = cases.into_iter().filter(|case| !case.flows.is_empty()).collect();
    let report = all(&cases, |case| {
        let mut cluster = case.cluster().expect("the case is good").cluster;
        let flows: Vec<Flow> =
            case.flows.iter().flat_map(|flow| flow.flows(&cluster).unwrap()).collect();
        exam::complete(&mut cluster, &flows);
        examine(backend, &case.name, &cluster, case.settings, &flows)
    });
    check("case files", &report, 300);
}

fn upstream_scenarios(backend: Backend) {
    let scenarios = e2e::all().expect("the scenarios can be read");
    let report = all(&scenarios, |scenario| {
        let mut base = e2e::nine_pods();
        exam::complete(&mut base, &[]);
        let mut dataplane = backend();
        let exam = Exam::new(&base, Settings::default(), &[]).unwrap();
        let mut report = Report::default();
        let v4 = scenario.steps(&base, Family::V4).unwrap();
        let v6 = scenario.steps(&base, Family::V6).unwrap();
        for (step, family) in
            v4.iter().map(|s| (s, Family::V4)).chain(v6.iter().map(|s| (s, Family::V6)))
        {
            exam.enforce(&step.cluster, dataplane.as_mut()).unwrap();
            let flows: Vec<Flow> = step
                .matrices
                .iter()
                .flat_map(|matrix| matrix.flows(&step.cluster, family))
                .map(|(flow, _)| flow)
                .collect();
            report.add(exam.ask(&step.cluster, &flows).unwrap());
        }
        exam.remove(dataplane.as_mut()).unwrap();
        report
    });
    check("upstream scenarios", &report, 8000);
}

fn generated_clusters(backend: Backend) {
    let clusters: u64 =
        std::env::var("NETPOL_KERNEL_CLUSTERS").map_or(60, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("NETPOL_SEED").map_or(1, |text| text.parse().unwrap());
    eprintln!("generated clusters: NETPOL_SEED={seed} NETPOL_KERNEL_CLUSTERS={clusters}");
    let seeds: Vec<u64> = (seed..seed + clusters).collect();
    let report = all(&seeds, |seed| {
        let generate::Case { mut cluster, settings, flows } =
            generate::case(*seed, Shape { flows: 300, ..Shape::default() });
        exam::complete(&mut cluster, &flows);
        let report = examine(backend, &format!("seed {seed}"), &cluster, settings, &flows);
        if !report.wrong.is_empty() {
            eprintln!("seed {seed} is wrong:\n{}", netpol_k8s::manifest::write_yaml(&cluster));
        }
        report
    });
    check("generated clusters", &report, 5000);
}
