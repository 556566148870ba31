//! The lab carries every kind of packet without rules, and sees exactly what rules drop.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test program")]

extern crate alloc;

mod leftovers;
mod support;

use core::time::Duration;
use std::process::Command;
use std::time::Instant;

use netpol_conformance::netlab::{
    End, HostPod, Lab, LabError, Observation, Patience, Plan, PlannedNode, PlannedPod, Probe,
    Refusal, Traffic, kernel_test,
};
use netpol_core::model::{Cluster, Node, ObjectRef, Phase, Pod};
use support::{ends, ip, nft, pod, port, six_pods};

/// Every kind of packet.
const KINDS: [Traffic; 7] = [
    Traffic::Icmp,
    Traffic::Protocol(47),
    Traffic::Protocol(253),
    Traffic::Sctp(port(80)),
    Traffic::Tcp(port(80)),
    Traffic::Tcp(port(65535)),
    Traffic::Udp(port(53)),
];

/// Probes from every end to every address, of each kind.
fn every_pair(lab: &Lab, kinds: &[Traffic]) -> Vec<Probe> {
    let ends = ends(lab);
    let mut probes = Vec::new();
    for from in &ends {
        let own = if let End::External(address) = from {
            vec![*address]
        } else {
            lab.addresses(from).unwrap().to_vec()
        };
        for to in ends.iter().flat_map(|to| lab.addresses(to).unwrap()) {
            if own.iter().any(|own| own.is_ipv4() == to.is_ipv4()) {
                probes.extend(kinds.iter().map(|traffic| Probe {
                    from: from.clone(),
                    to: *to,
                    traffic: *traffic,
                }));
            }
        }
    }
    probes
}

#[track_caller]
fn check(lab: &Lab, probes: &[Probe], expect: impl Fn(&Probe) -> Observation) {
    let seen = lab.probe(probes).unwrap();
    let wrong: Vec<String> = probes
        .iter()
        .zip(seen)
        .filter(|(probe, seen)| expect(probe) != *seen)
        .map(|(probe, seen)| {
            format!(
                "{} -> {} {}: {seen}, not {}",
                probe.from,
                probe.to,
                probe.traffic,
                expect(probe)
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), probes.len(), wrong.join("\n"));
}

#[test]
fn without_rules_everything_reaches_everything_by_every_kind_of_packet() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let probes = every_pair(&lab, &KINDS);
        assert!(probes.len() > 900, "{} probes", probes.len());
        check(&lab, &probes, |_| Observation::Passed);
    });
}

#[test]
fn a_drop_of_each_kind_of_packet_denies_exactly_that_flow() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let rules = [
            (Traffic::Icmp, "icmp type echo-request"),
            (Traffic::Protocol(47), "meta l4proto 47"),
            (Traffic::Protocol(253), "meta l4proto 253"),
            (Traffic::Sctp(port(80)), "meta l4proto 132 th dport 80"),
            (Traffic::Tcp(port(65535)), "tcp dport 65535"),
            (Traffic::Udp(port(53)), "udp dport 53"),
        ];
        let probes = every_pair(&lab, &KINDS);
        for (denied, matches) in rules {
            let script = format!(
                "add table inet t; delete table inet t; table inet t {{ chain c {{ type filter hook forward priority 0;
                 ip saddr 10.1.0.1 ip daddr 10.1.1.1 {matches} drop; }}; }}"
            );
            if !nft(&lab, "two", &script) {
                return;
            }
            check(&lab, &probes, |probe| {
                let hit =
                    probe.from == pod("a") && probe.to == ip("10.1.1.1") && probe.traffic == denied;
                if hit { Observation::TimedOut } else { Observation::Passed }
            });
        }
    });
}

#[test]
fn a_drop_of_ipv6_is_seen_between_a_node_and_its_own_pod_both_ways() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let script = "table inet t { chain i { type filter hook input priority 0; ip6 saddr fd00:1::1 tcp dport 80 drop; }; 
                      chain o { type filter hook output priority 0; ip6 daddr fd00:1::1 udp dport 53 drop; }; }";
        if nft(&lab, "one", script) {
            let own = ["fd00:7::1", "fd00:1::1"];
            let probes: Vec<Probe> =
                every_pair(&lab, &[Traffic::Tcp(port(80)), Traffic::Udp(port(53))]);
            check(&lab, &probes, |probe| match (&probe.from, probe.traffic) {
                (from, Traffic::Tcp(_)) if *from == pod("a") && probe.to == ip(own[0]) => {
                    Observation::TimedOut
                }
                (End::Node(node), Traffic::Udp(_))
                    if &**node == "one" && probe.to == ip(own[1]) =>
                {
                    Observation::Refused(Refusal::Prohibited)
                }
                _ => Observation::Passed,
            });
        }
    });
}

#[test]
fn a_refusal_is_told_from_silence_and_a_lost_answer_from_both() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let script = "table inet t { chain c { type filter hook forward priority 0;
            ip daddr 10.1.1.1 tcp dport 80 reject with tcp reset;
            ip daddr 10.1.1.1 udp dport 53 reject with icmp admin-prohibited;
            ip daddr 10.1.1.2 udp dport 53 reject;
            ip saddr 10.1.1.1 udp sport 54 drop;
            ip saddr 10.1.1.1 icmp type echo-reply drop;
            ip saddr 10.1.1.1 tcp sport 81 drop; }; }";
        if nft(&lab, "two", script) {
            let cases = [
                ("10.1.1.1", Traffic::Tcp(port(80)), Observation::Refused(Refusal::Refused)),
                ("10.1.1.1", Traffic::Udp(port(53)), Observation::Refused(Refusal::Unreachable)),
                ("10.1.1.2", Traffic::Udp(port(53)), Observation::Refused(Refusal::Refused)),
                ("10.1.1.1", Traffic::Udp(port(54)), Observation::AnswerLost),
                ("10.1.1.1", Traffic::Icmp, Observation::AnswerLost),
                ("10.1.1.1", Traffic::Tcp(port(81)), Observation::TimedOut),
            ];
            let probes =
                cases.map(|(to, traffic, _)| Probe { from: pod("a"), to: ip(to), traffic });
            assert_eq!(lab.probe(&probes).unwrap(), cases.map(|(_, _, seen)| seen));
        }
    });
}

#[test]
fn rules_that_stop_neighbour_discovery_are_seen_to_stop_ipv6() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let script = "table ip6 t { chain c { type filter hook input priority 0; meta l4proto ipv6-icmp drop; }; }";
        if nft(&lab, "one", script) {
            let to_b = |to| Probe { from: pod("a"), to: ip(to), traffic: Traffic::Tcp(port(80)) };
            let seen = lab.probe(&[to_b("10.1.0.2"), to_b("fd00:1::2")]).unwrap();
            assert_eq!(seen, [Observation::Passed, Observation::TimedOut]);
        }
    });
}

#[test]
fn bare_protocols_are_judged_anew_each_way_although_conntrack_takes_one_way_for_the_answer_to_the_other()
 {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let script = "table inet t { chain c { type filter hook forward priority 0;
            ct state established,related accept; ip saddr 10.1.0.1 accept; ip6 saddr fd00:1::1 accept;
            meta l4proto != ipv6-icmp drop; }; }";
        if nft(&lab, "one", script) && nft(&lab, "two", script) {
            for number in [47, 253] {
                let probe = |from, to| Probe {
                    from: pod(from),
                    to: ip(to),
                    traffic: Traffic::Protocol(number),
                };
                let probes = [
                    probe("a", "10.1.1.1"),
                    probe("d", "10.1.0.1"),
                    probe("a", "fd00:1:1::1"),
                    probe("d", "fd00:1::1"),
                ];
                for probes in [
                    &probes,
                    &[probes[1].clone(), probes[0].clone(), probes[3].clone(), probes[2].clone()],
                ] {
                    check(&lab, probes, |probe| match &probe.from {
                        from if *from == pod("a") => Observation::Passed,
                        _ => Observation::TimedOut,
                    });
                }
            }
        }
    });
}

#[test]
fn a_pod_on_the_host_network_is_its_node() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let agent = pod("agent");
        assert_eq!(
            lab.addresses(&agent).unwrap(),
            lab.addresses(&End::Node("two".into())).unwrap()
        );
        let names = |end: &End| {
            lab.in_end(end, || std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap()
        };
        assert_eq!(names(&agent), names(&End::Node("two".into())));
        assert_ne!(names(&agent), names(&pod("d")));
    });
}

#[test]
fn a_process_started_in_a_pod_sees_the_network_of_the_pod() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let read = || Command::new("cat").arg("/proc/net/fib_trie").output().unwrap().stdout;
        let seen = String::from_utf8(lab.in_pod(&ObjectRef::new("x", "a"), read).unwrap()).unwrap();
        assert!(seen.contains("10.1.0.1\n") && !seen.contains("10.1.0.2\n"), "{seen}");
    });
}

#[test]
fn a_cluster_is_planned_without_its_finished_pods_and_with_host_pods_on_their_nodes() {
    let (a, b, c) = (ObjectRef::new("x", "a"), ObjectRef::new("x", "b"), ObjectRef::new("x", "c"));
    let pod = |phase, host_network| Pod {
        node: Some("one".into()),
        phase,
        host_network,
        addresses: vec![ip("10.1.0.1")],
        ..Pod::default()
    };
    let node = Node { addresses: vec![ip("192.168.7.1")], ..Node::default() };
    let mut cluster = Cluster::default();
    cluster.nodes.insert("one".into(), node);
    cluster.nodes.get_mut("one").unwrap().meta.object = ObjectRef::cluster_scoped("one");
    cluster.pods.insert(a.clone(), pod(Phase::Running, false));
    cluster.pods.insert(b, pod(Phase::Succeeded, false));
    cluster.pods.insert(c.clone(), pod(Phase::Running, true));
    let expected = Plan {
        nodes: vec![PlannedNode { name: "one".into(), addresses: vec![ip("192.168.7.1")] }],
        pods: vec![PlannedPod {
            pod: a.clone(),
            node: "one".into(),
            addresses: vec![ip("10.1.0.1")],
        }],
        host_pods: vec![HostPod { pod: c, node: "one".into() }],
        externals: vec![ip("172.17.5.9")],
    };
    assert_eq!(Plan::for_cluster(&cluster, [ip("172.17.5.9")]).unwrap(), expected);
    cluster.pods.get_mut(&a).unwrap().node = None;
    assert!(matches!(Plan::for_cluster(&cluster, []), Err(LabError::PodWithoutNode { .. })));
}

#[test]
fn an_open_connection_tells_which_way_rules_have_cut() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let patience = Duration::from_millis(300);
        for (to, open) in [
            ("10.1.1.1", Lab::open_tcp as OpenFn),
            ("fd00:1:1::1", Lab::open_tcp),
            ("10.1.1.1", Lab::open_udp),
        ] {
            let mut connection = open(&lab, &pod("a"), ip(to), port(90)).unwrap();
            assert_eq!(connection.exchange(Duration::from_secs(3)), Observation::Passed);
            let cut = |which| {
                format!(
                    "add table inet t; delete table inet t; table inet t {{ chain c {{ type filter hook forward priority 0;
                     {which} drop; }}; }}"
                )
            };
            if !nft(&lab, "one", &cut("th dport 90")) {
                return;
            }
            assert_eq!(connection.exchange(patience), Observation::TimedOut, "{to}: there");
            nft(&lab, "one", &cut("th dport 91"));
            assert_eq!(
                connection.exchange(Duration::from_secs(5)),
                Observation::Passed,
                "{to}: open again"
            );
            nft(&lab, "one", &cut("th sport 90"));
            assert_eq!(connection.exchange(patience), Observation::AnswerLost, "{to}: back");
            nft(&lab, "one", "delete table inet t");
        }
        nft(
            &lab,
            "one",
            "table inet t { chain c { type filter hook forward priority 0; th dport 90 reject; }; }",
        );
        let refused = lab.open_tcp(&pod("a"), ip("10.1.1.1"), port(90));
        assert!(
            matches!(
                refused,
                Err(LabError::NotOpened { observation: Observation::Refused(_), .. })
            ),
            "{refused:?}"
        );
    });
}

type OpenFn = fn(
    &Lab,
    &End,
    core::net::IpAddr,
    core::num::NonZeroU16,
) -> Result<netpol_conformance::netlab::Connection, LabError>;

#[test]
fn only_denied_probes_wait_for_the_timeout() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let probes = every_pair(&lab, &[Traffic::Tcp(port(80))]);
        let patience = Patience { timeout: Duration::from_secs(20), repeats: 0 };
        let start = Instant::now();
        assert!(
            lab.probe_with(&probes, patience).unwrap().into_iter().all(Observation::has_passed)
        );
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    });
}

#[test]
fn probes_that_cannot_be_sent_are_errors_and_not_denials() {
    kernel_test(|| {
        let lab = Lab::build(&six_pods()).unwrap();
        let error = |from: End, to: &str, traffic| {
            lab.probe(&[Probe { from, to: ip(to), traffic }]).unwrap_err()
        };
        let tcp = Traffic::Tcp(port(80));
        assert!(matches!(error(pod("c"), "fd00:1::1", tcp), LabError::NoAddressOfFamily { .. }));
        assert!(matches!(error(pod("none"), "10.1.0.1", tcp), LabError::Unknown(_)));
        assert!(matches!(error(pod("a"), "10.9.9.9", tcp), LabError::Unknown(_)));
        assert!(matches!(error(pod("a"), "10.1.0.2", Traffic::Protocol(6)), LabError::Protocol(6)));
    });
}

#[test]
fn a_plan_with_a_name_or_an_address_twice_or_out_of_this_world_is_refused() {
    let mut plan = six_pods();
    plan.host_pods.push(HostPod { pod: ObjectRef::new("x", "a"), node: "one".into() });
    assert!(matches!(Lab::build(&plan), Err(LabError::NameTwice(end)) if end == pod("a")));
    plan.host_pods.clear();
    plan.externals = vec![ip("10.1.0.1")];
    assert!(matches!(Lab::build(&plan), Err(LabError::AddressTwice { .. })));
    for address in [
        "127.0.0.1",
        "224.0.0.1",
        "169.254.1.1",
        "::1",
        "fe80::7",
        "ff02::1",
        "::ffff:10.0.0.1",
        "0.0.0.0",
    ] {
        plan.externals = vec![ip(address)];
        assert!(matches!(Lab::build(&plan), Err(LabError::AddressUnroutable { .. })), "{address}");
    }
}

#[test]
fn two_hundred_pods_on_four_nodes_are_built_and_probed_within_seconds() {
    kernel_test(|| {
        let plan = four_nodes(200);
        let start = Instant::now();
        let lab = Lab::build(&plan).unwrap();
        let built = start.elapsed();
        let to: Vec<_> =
            plan.pods.iter().step_by(5).flat_map(|pod| pod.addresses.clone()).collect();
        let from = || plan.pods.iter().step_by(4).map(|planned| End::Pod(planned.pod.clone()));
        let probes: Vec<Probe> = from()
            .flat_map(|from| to.iter().map(move |to| (from.clone(), *to)))
            .map(|(from, to)| Probe { from, to, traffic: Traffic::Tcp(port(80)) })
            .collect();
        let start = Instant::now();
        check(&lab, &probes, |_| Observation::Passed);
        let probed = start.elapsed();
        println!(
            "200 pods on 4 nodes: built in {built:?}; {} TCP probes in {probed:?}",
            probes.len()
        );
        assert!(built < Duration::from_secs(15), "{built:?}");
        assert!(probed < Duration::from_secs(15), "{probed:?}");
    });
}

fn four_nodes(pods: u8) -> Plan {
    let nodes = (1..=4).map(|node| PlannedNode {
        name: format!("n{node}").into(),
        addresses: vec![ip(&format!("192.168.7.{node}")), ip(&format!("fd00:7::{node}"))],
    });
    let pods = (0..pods).map(|number| PlannedPod {
        pod: ObjectRef::new("many", &format!("p{number}")),
        node: format!("n{}", number % 4 + 1).into(),
        addresses: vec![ip(&format!("10.2.0.{number}")), ip(&format!("fd00:2::1:{number:x}"))],
    });
    Plan { nodes: nodes.collect(), pods: pods.collect(), ..Plan::default() }
}
