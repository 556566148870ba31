//! The front end at interfaces, attached: by links and by filters, to pods that come, go or cannot be found, and behind
//! destination NAT.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test support")]

extern crate alloc;

#[path = "support/bpf.rs"]
mod bpf;

use alloc::sync::Arc;
use core::error::Error as _;
use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU16;
use core::time::Duration;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use netpol_conformance::events::puts;
use netpol_conformance::netlab::{
    Availability, End, Lab, Observation, Plan, PlannedNode, PlannedPod, Privilege, Probe, Traffic,
    bpf_file_system, did_not_run,
};
use netpol_core::backend::{Dataplane as _, SyncError, Updated};
use netpol_core::compile::{Options, compile};
use netpol_core::engine::{Engine, Event};
use netpol_core::ir::{Ruleset, Scope};
use netpol_core::model::{Cidr, Cluster, ObjectRef, Protocol};
use netpol_core::net::PrefixSet;
use netpol_ebpf::tc::{Attach, ByPeer, ByRoute, Interfaces as _, Service, Tc};
use netpol_ebpf::{EbpfDataplane, FrontEnd};
use netpol_k8s::manifest::{ReadOptions, read_str};

/// Pods `a`, `b` and `c` on one node.
fn lab() -> Lab {
    let pod = |name, number: u8| PlannedPod {
        pod: ObjectRef::new("x", name),
        node: "node".into(),
        addresses: vec![
            format!("10.1.0.{number}").parse().unwrap(),
            format!("fd00::{number}").parse().unwrap(),
        ],
    };
    let node = PlannedNode { name: "node".into(), addresses: vec!["192.168.7.1".parse().unwrap()] };
    Lab::build(&Plan {
        nodes: vec![node],
        pods: vec![pod("a", 1), pod("b", 2), pod("c", 3)],
        externals: vec!["203.0.113.7".parse().unwrap()],
        ..Plan::default()
    })
    .unwrap()
}

/// `b` takes TCP 80 from `a` and `c`; `c` sends to `b`, TCP 80. These pods there are, at 10.1.0 and their number.
fn ruleset(pods: &[(&str, u8)]) -> Ruleset {
    ruleset_in(pods, [])
}

/// The same where these addresses are only pods' (strict mode).
fn ruleset_in<const N: usize>(pods: &[(&str, u8)], strict: [&str; N]) -> Ruleset {
    let pod_ranges = PrefixSet::from_cidrs(&strict.map(|range| Cidr::parse(range).unwrap()));
    let options = Options { scope: Scope::Node("node".into()), pod_ranges, ..Options::default() };
    compile(&cluster(pods), &options).ruleset
}

fn cluster(pods: &[(&str, u8)]) -> Cluster {
    let pods = pods.iter().map(|(name, number)| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: x, name: {name}, labels: {{app: {name}}}}}, \
             spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}, \
             status: {{podIPs: [{{ip: 10.1.0.{number}}}, {{ip: 'fd00::{number}'}}]}}}}\n"
        )
    });
    let text = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: x}}}}\n{}---
{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: x, name: b}}, spec: {{podSelector: {{matchLabels: {{app: b}}}}, ingress: [{{ports: [{{port: 80}}]}}]}}}}
---
{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{namespace: x, name: c}}, spec: {{podSelector: {{matchLabels: {{app: c}}}}, policyTypes: [Egress], egress: [{{to: [{{podSelector: {{matchLabels: {{app: b}}}}}}], ports: [{{port: 80}}]}}]}}}}
",
        pods.collect::<String>()
    );
    read_str("p.yaml", &text, &ReadOptions::default()).expect("good manifests").cluster
}

const ALL: [(&str, u8); 3] = [("a", 1), ("b", 2), ("c", 3)];

fn dataplane(attach: Attach, pins: &Path) -> EbpfDataplane {
    let tc = Tc { attach, ..Tc::default() };
    EbpfDataplane::default().with_front_end(FrontEnd::Tc(tc)).pinned(pins.join("netpol"))
}

fn pins(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("attached-{name}-{}", std::process::id()));
    bpf_file_system(&directory).unwrap();
    directory
}

/// Returns the names of the links that are pinned.
fn tcx_pins(directory: &Path) -> Vec<String> {
    let directories = fs::read_dir(directory.join("netpol")).unwrap();
    let entries = directories.flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("tcx-")).collect();
    names.sort();
    names
}

/// Returns what becomes of connections from `a` to `b`, both families: to the open port, and to a closed one.
fn asked(lab: &Lab) -> [bool; 2] {
    [80, 81].map(|port| {
        let probes = ["10.1.0.2", "fd00::2"].map(|to| Probe {
            from: End::Pod(ObjectRef::new("x", "a")),
            to: to.parse().unwrap(),
            traffic: Traffic::Tcp(NonZeroU16::new(port).unwrap()),
        });
        let seen = lab.probe(&probes).unwrap();
        assert!(seen.windows(2).all(|pair| pair.first() == pair.last()), "{port}: {seen:?}");
        seen.first() == Some(&Observation::Passed)
    })
}

const ENFORCED: [bool; 2] = [true, false];
const OPEN: [bool; 2] = [true, true];

/// Runs a shell command in the node and returns what it prints.
fn shell(lab: &Lab, script: &str) -> String {
    let output = lab.in_node("node", || Command::new("sh").args(["-c", script]).output().unwrap());
    let output = output.unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn links_and_filters_enforce_outlive_their_process_and_are_taken_off() {
    bpf::kernel_test("links and filters", || {
        for attach in [Attach::Tcx, Attach::Clsact] {
            let directory = pins(&format!("{attach:?}"));
            let lab = lab();
            let filters = || {
                shell(
                    &lab,
                    "for i in 10 11 12; do tc filter show dev p$i ingress; tc filter show dev p$i egress; done",
                )
            };
            let count = || filters().matches("direct-action").count();
            let in_node = |work: &mut (dyn FnMut() + Send)| lab.in_node("node", work).unwrap();
            assert_eq!(asked(&lab), OPEN);
            in_node(&mut || dataplane(attach, &directory).sync(&ruleset(&ALL)).unwrap());
            assert_eq!(asked(&lab), ENFORCED, "{attach:?}, without the process that did it");
            let six = if attach == Attach::Clsact { 6 } else { 0 };
            assert_eq!(count(), six, "{attach:?}\n{}", filters());
            let mut heir = dataplane(attach, &directory);
            in_node(&mut || {
                heir.sync(&ruleset(&ALL)).unwrap();
                assert_eq!(heir.verify(&ruleset(&ALL)).unwrap(), [], "{attach:?}");
                assert!(!heir.may_have_drifted().unwrap());
            });
            assert_eq!(count(), six, "{attach:?}: taken over, not doubled\n{}", filters());
            if attach == Attach::Clsact {
                // Where the programs cannot be taken over, others are added before they are taken off.
                for name in ["from", "to"] {
                    fs::read_dir(directory.join("netpol")).unwrap().for_each(|entry| {
                        fs::remove_file(entry.unwrap().path().join(name)).unwrap();
                    });
                }
                in_node(&mut || dataplane(attach, &directory).sync(&ruleset(&ALL)).unwrap());
                assert_eq!(count(), six, "{}", filters());
                assert_eq!(asked(&lab), ENFORCED);
                in_node(&mut || {
                    // Somebody takes one off: it is missed, and put back.
                    let taken =
                        Command::new("tc").args(["filter", "del", "dev", "p11", "egress"]).status();
                    assert!(taken.unwrap().success());
                    let mut other = dataplane(attach, &directory);
                    other.sync(&ruleset(&ALL)).unwrap();
                });
                assert_eq!((count(), asked(&lab)), (six, ENFORCED), "{}", filters());
            }
            in_node(&mut || {
                heir.remove().unwrap();
                heir.remove().unwrap();
            });
            assert_eq!((count(), asked(&lab)), (0, OPEN), "{attach:?}");
            assert_eq!(fs::read_dir(directory.join("netpol")).unwrap().count(), 0);
        }
    });
}

/// Calls no program of others and needs no netfilter programs, so that it runs on old kernels too (`old-kernels`).
#[test]
fn filters_enforce_by_themselves() {
    match Availability::probe() {
        Ok(Privilege::Root) => {}
        Ok(other) => return did_not_run("filters alone", &format!("{other} may not use bpf(2)")),
        Err(error) => return did_not_run("filters alone", &error.to_string()),
    }
    let directory = pins("filters");
    let lab = lab();
    assert_eq!(asked(&lab), OPEN);
    let mut first = dataplane(Attach::Clsact, &directory);
    lab.in_node("node", || first.sync(&ruleset(&ALL)).unwrap()).unwrap();
    drop(first);
    assert_eq!(asked(&lab), ENFORCED);
    let mut heir = dataplane(Attach::Clsact, &directory);
    lab.in_node("node", || {
        heir.sync(&ruleset(&ALL)).unwrap();
        assert_eq!(heir.verify(&ruleset(&ALL)).unwrap(), []);
    })
    .unwrap();
    assert_eq!(asked(&lab), ENFORCED);
    lab.in_node("node", || heir.remove().unwrap()).unwrap();
    assert_eq!(asked(&lab), OPEN);
    #[expect(clippy::print_stderr, reason = "read by `old-kernels`")]
    {
        eprintln!("filters enforced, were taken over and taken off");
    }
}

#[test]
fn without_pins_links_end_with_their_owner_and_filters_are_refused() {
    bpf::kernel_test("no pins", || {
        let lab = lab();
        let with = |attach| {
            EbpfDataplane::default().with_front_end(FrontEnd::Tc(Tc { attach, ..Tc::default() }))
        };
        lab.in_node("node", || {
            let refused = with(Attach::Clsact).sync(&ruleset(&ALL)).unwrap_err();
            let cause = refused.source().unwrap().to_string();
            assert!(cause.contains("need a directory for pins"), "{refused}: {cause}");
        })
        .unwrap();
        let mut dataplane = with(Attach::Auto);
        lab.in_node("node", || dataplane.sync(&ruleset(&ALL)).unwrap()).unwrap();
        assert_eq!(asked(&lab), ENFORCED);
        drop(dataplane);
        assert_eq!(asked(&lab), OPEN);
    });
}

#[test]
fn an_interface_is_found_by_the_address_at_its_other_end_too() {
    bpf::kernel_test("interfaces by their peers", || {
        let lab = lab();
        let (by_peer, all) = (Arc::new(ByPeer::default()), ruleset(&ALL));
        lab.in_node("node", || {
            for endpoint in all.endpoints() {
                let found = by_peer.of(&endpoint.pod, &endpoint.addresses).unwrap();
                let by_route = ByRoute.of(&endpoint.pod, &endpoint.addresses).unwrap();
                assert_eq!(found, by_route, "{}", endpoint.pod);
            }
            let nobody = by_peer.of(&ObjectRef::new("x", "d"), &["10.1.0.9".parse().unwrap()]);
            assert_eq!(nobody.unwrap_err().to_string(), "no veth pair leads to `10.1.0.9`");
            let range = |range| PrefixSet::from_cidrs(&[Cidr::parse(range).unwrap()]);
            assert_eq!(by_peer.of_unknown(&range("10.1.0.2/31")).unwrap().len(), 2);
            assert_eq!(by_peer.of_unknown(&range("10.2.0.0/16")).unwrap(), [0_u32; 0]);
        })
        .unwrap();
        // Where routes do not tell: they lead to all pods at once.
        shell(&lab, "ip route del 10.1.0.2; ip -6 route del fd00::2");
        let tc = Tc { interfaces: by_peer, ..Tc::default() };
        let mut dataplane = EbpfDataplane::default().with_front_end(FrontEnd::Tc(tc));
        lab.in_node("node", || dataplane.sync(&all).unwrap()).unwrap();
        shell(&lab, "ip route add 10.1.0.2 dev p11; ip -6 route add fd00::2 dev p11");
        assert_eq!(asked(&lab), ENFORCED);
        // One that gets an address later.
        let c = || Command::new("ip").args(["address", "add", "10.1.0.9", "dev", "eth0"]).status();
        assert!(lab.in_pod(&ObjectRef::new("x", "c"), c).unwrap().unwrap().success());
        let later = ruleset(&[("a", 1), ("b", 2), ("c", 9)]);
        let error = lab.in_node("node", || dataplane.sync(&later)).unwrap().unwrap_err();
        assert!(error.to_string().contains("no veth pair leads to `fd00::9`"), "{error}");
    });
}

#[test]
fn a_pod_without_an_interface_is_named_and_all_others_are_protected() {
    bpf::kernel_test("no interface", || {
        let lab = lab();
        let mut dataplane = EbpfDataplane::default().with_front_end(FrontEnd::Tc(Tc::default()));
        let pods = ruleset(&[("a", 1), ("b", 2), ("c", 3), ("lost", 9)]);
        lab.in_node("node", || {
            let error = dataplane.sync(&pods).unwrap_err();
            let SyncError::Missing { what, .. } = &error else { panic!("{error}") };
            for word in ["x/lost", "10.1.0.9"] {
                assert!(what.contains(word), "{what}");
            }
            assert!(!what.contains("x/a"), "{what}");
            let drifts = dataplane.verify(&pods).unwrap();
            assert!(drifts.iter().any(|drift| drift.object.contains("x/lost")), "{drifts:?}");
            assert!(dataplane.may_have_drifted().unwrap());
        })
        .unwrap();
        assert_eq!(asked(&lab), ENFORCED);
        lab.in_node("node", || dataplane.sync(&ruleset(&ALL)).unwrap()).unwrap();
    });
}

#[test]
fn pods_that_come_are_attached_and_what_is_gone_is_collected() {
    bpf::kernel_test("pods come and go", || {
        let directory = pins("pods");
        let lab = lab();
        let mut dataplane = dataplane(Attach::Tcx, &directory);
        let names = || tcx_pins(&directory);
        let mut sync = |pods: &[(&str, u8)]| {
            lab.in_node("node", || dataplane.sync(&ruleset(pods)).unwrap()).unwrap();
        };
        sync(&[("a", 1)]);
        assert_eq!(asked(&lab), OPEN);
        assert_eq!(names(), ["tcx-10-from", "tcx-10-to"]);
        sync(&ALL);
        assert_eq!(asked(&lab), ENFORCED);
        assert_eq!(names().len(), 6);
        shell(&lab, "ip link del p12");
        sync(&[("a", 1), ("b", 2)]);
        assert_eq!(names(), ["tcx-10-from", "tcx-10-to", "tcx-11-from", "tcx-11-to"]);
        assert_eq!(asked(&lab), ENFORCED);
        lab.in_node("node", || dataplane.remove().unwrap()).unwrap();
    });
}

/// Loading beside takes the kernel's verifier some 30 ms, and each program at an interface a grace period.
#[test]
fn pods_come_go_and_move_by_updates_in_place() {
    bpf::kernel_test("updates of pods in place", || {
        let directory = pins("moves");
        let lab = lab();
        let mut dataplane = dataplane(Attach::Tcx, &directory);
        let mut engine =
            Engine::new(Options { scope: Scope::Node("node".into()), ..Options::default() });
        engine.apply_batch(puts(&cluster(&[("a", 1)])));
        engine.apply(Event::InSync);
        lab.in_node("node", || dataplane.sync(engine.snapshot()).unwrap()).unwrap();
        assert_eq!(asked(&lab), OPEN);
        let pod = |name| ObjectRef::new("x", name);
        let put = |name, number| {
            let pods = cluster(&[(name, number)]).pods;
            pods.into_values().map(Event::PutPod).collect::<Vec<_>>()
        };
        let mut step = |what: &str, events: Vec<Event>| {
            let delta = engine.apply_batch(events);
            lab.in_node("node", || {
                let how = dataplane.update(engine.snapshot(), &delta).unwrap();
                assert_eq!(how, Updated::ByDelta, "{what}");
                assert_eq!(dataplane.verify(engine.snapshot()).unwrap(), [], "{what}");
                assert!(!dataplane.may_have_drifted().unwrap(), "{what}");
            })
            .unwrap();
        };
        step("b comes", put("b", 2));
        assert_eq!(asked(&lab), ENFORCED);
        step("c comes", put("c", 3));
        assert_eq!(tcx_pins(&directory).len(), 6);
        step("b goes", vec![Event::DeletePod(pod("b"))]);
        assert_eq!(asked(&lab), OPEN);
        assert_eq!(tcx_pins(&directory).len(), 6, "it may come back");
        step("c is where b was", put("c", 2));
        step("b is where c was", put("b", 3));
        step("c goes", vec![Event::DeletePod(pod("c"))]);
        step("b moves back", put("b", 2));
        assert_eq!(asked(&lab), ENFORCED);
        shell(&lab, "ip link del p12");
        step("b goes again", vec![Event::DeletePod(pod("b"))]);
        let left = ["tcx-10-from", "tcx-10-to", "tcx-11-from", "tcx-11-to"];
        assert_eq!(tcx_pins(&directory), left, "what is gone is collected");
        lab.in_node("node", || dataplane.remove().unwrap()).unwrap();
    });
}

#[test]
fn in_strict_mode_a_pod_that_no_object_tells_of_reaches_nobody() {
    bpf::kernel_test("strict mode at interfaces", || {
        let lab = lab();
        let mut dataplane = EbpfDataplane::default().with_front_end(FrontEnd::Tc(Tc::default()));
        let known = [("a", 1), ("b", 2)];
        let pod = |name| End::Pod(ObjectRef::new("x", name));
        let world = End::External("203.0.113.7".parse().unwrap());
        let probe = |from: &End, to: &str| Probe {
            from: from.clone(),
            to: to.parse().unwrap(),
            traffic: Traffic::Tcp(NonZeroU16::new(80).unwrap()),
        };
        let probes = [
            probe(&pod("c"), "203.0.113.7"),
            probe(&pod("c"), "10.1.0.1"),
            probe(&pod("a"), "10.1.0.3"),
            probe(&world, "10.1.0.3"),
            probe(&pod("a"), "10.1.0.2"),
            probe(&End::Node("node".into()), "10.1.0.3"),
        ];
        let passed = || -> Vec<bool> {
            let seen = lab.probe(&probes).unwrap();
            seen.iter().map(|seen| *seen == Observation::Passed).collect()
        };
        lab.in_node("node", || dataplane.sync(&ruleset(&known)).unwrap()).unwrap();
        assert_eq!(passed(), [true; 6]);
        let strict = ruleset_in(&known, ["10.1.0.0/24", "fd00::/120"]);
        lab.in_node("node", || dataplane.sync(&strict).unwrap()).unwrap();
        assert_eq!(passed(), [false, false, false, false, true, true]);
        lab.in_node("node", || {
            dataplane.sync(&ruleset_in(&ALL, ["10.1.0.0/24", "fd00::/120"])).unwrap();
        })
        .unwrap();
        // Known, it has its own policy.
        assert_eq!(passed(), [false, false, true, true, true, true]);
    });
}

const SERVICES: &str = "
table inet services {
  chain in {
    type nat hook prerouting priority dstnat;
    ip daddr 10.96.0.1 tcp dport 800 dnat ip to 10.1.0.2:80
    ip daddr 10.96.0.2 tcp dport 800 dnat ip to 10.1.0.1:80
    ip daddr 192.168.7.1 tcp dport 30080 dnat ip to 10.1.0.1:80
    ip6 daddr fd96::1 tcp dport 800 dnat ip6 to [fd00::2]:80
  }
}";

#[test]
fn services_behind_real_nat_are_judged_by_what_stands_behind_them() {
    bpf::kernel_test("Services", || {
        let lab = lab();
        let service = |from: &str, port, to: &str| Service {
            address: from.parse().unwrap(),
            protocol: Protocol::Tcp,
            port,
            backends: vec![(to.parse().unwrap(), 80)],
        };
        let services = vec![
            service("10.96.0.1", 800, "10.1.0.2"),
            service("10.96.0.2", 800, "10.1.0.1"),
            service("192.168.7.1", 30080, "10.1.0.1"),
            service("fd96::1", 800, "fd00::2"),
        ];
        let mut dataplane = EbpfDataplane::default().with_front_end(FrontEnd::Tc(Tc::default()));
        lab.in_node("node", || {
            let mut nft =
                Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
            nft.stdin.take().unwrap().write_all(SERVICES.as_bytes()).unwrap();
            assert!(nft.wait().unwrap().success());
        })
        .unwrap();
        let pod = |name| End::Pod(ObjectRef::new("x", name));
        let listeners = ["10.1.0.1", "10.1.0.2", "fd00::2"].map(|address| {
            let end = pod(if address.ends_with('2') { "b" } else { "a" });
            let at = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 80);
            lab.in_end(&end, || TcpListener::bind(at).unwrap()).unwrap()
        });
        let connects = |to: &str, port, expected: bool| {
            let to = SocketAddr::new(to.parse().unwrap(), port);
            let patience = Duration::from_millis(if expected { 5000 } else { 1200 });
            let connect = move || TcpStream::connect_timeout(&to, patience).is_ok();
            assert_eq!(lab.in_end(&pod("c"), connect).unwrap(), expected, "c to {to}");
        };
        for (to, port) in [("10.96.0.1", 800), ("10.96.0.2", 800), ("192.168.7.1", 30080)] {
            connects(to, port, true);
        }
        let mut sync = |services| {
            dataplane.set_services(services);
            lab.in_node("node", || dataplane.sync(&ruleset(&ALL)).unwrap()).unwrap();
        };
        sync(Vec::new());
        connects("10.1.0.2", 80, true);
        connects("10.1.0.1", 80, false);
        // Nobody said that it is a Service.
        connects("10.96.0.1", 800, false);
        sync(services);
        connects("10.96.0.1", 800, true);
        connects("fd96::1", 800, true);
        connects("10.96.0.2", 800, false);
        // `a` behind a port of the own node, which is no way around (DEC-01).
        connects("192.168.7.1", 30080, false);
        drop(listeners);
    });
}
