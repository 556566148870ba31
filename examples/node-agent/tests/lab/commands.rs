//! What the command line does on a node: once, dry, removed; and what is found and put back.

use core::time::Duration;
use std::time::Instant;

use netpol_conformance::cases::e2e;
use netpol_conformance::netlab::{End, Observation, Probe, Traffic, kernel_test};
use netpol_core::ir::{Family, Flow};
use netpol_core::model::{Cidr, ObjectRef};

use crate::fleet::{Fleet, Setup};
use crate::{address, deny_ingress};

/// Has another program break what is ours, and waits until it is whole and counted.
fn repaired(fleet: &Fleet, flows: &[Flow], program: &str, arguments: &[&str]) {
    let began = Instant::now();
    fleet.run(0, program, arguments);
    fleet.until_says(0, "/metrics", "netpol_agent_drift_repairs_total 1");
    let took = began.elapsed();
    eprintln!("{program} {arguments:?}: put back and told after {took:?}");
    // Far less on a machine that does nothing else; the programs that iptables needs are slow to start on a busy one.
    assert!(took < Duration::from_secs(15), "{took:?}");
    fleet.is_right("after the repair", flows);
}

#[test]
fn what_another_program_takes_away_comes_back_with_iptables() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("drift-iptables", base.clone(), Setup::of("iptables"));
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        fleet.until_right("before", &flows);
        repaired(&fleet, &flows, "iptables", &["-F", "FORWARD"]);
    });
}

#[test]
fn what_another_program_takes_away_comes_back_and_removal_is_complete() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("drift", base.clone(), Setup::of("nft"));
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        fleet.until_right("before", &flows);
        repaired(&fleet, &flows, "nft", &["delete", "table", "inet", "netpol"]);
        // What others do elsewhere is no drift.
        fleet.run(0, "nft", &["add", "table", "inet", "other"]);
        fleet.run(0, "nft", &["delete", "table", "inet", "other"]);
        fleet.is_right("after another's change", &flows);
        fleet.until_says(0, "/metrics", "netpol_agent_drift_repairs_total 1");
        // SIGTERM leaves the rules; `remove` does not.
        let mut process = fleet.agents[0].process.take().unwrap();
        fleet.run(0, "kill", &["-TERM", &process.id().to_string()]);
        assert!(process.wait().unwrap().success());
        fleet.is_right("after SIGTERM", &flows);
        fleet.run(0, env!("CARGO_BIN_EXE_netpol-agent"), &["remove"]);
        assert_eq!(fleet.run(0, "nft", &["list", "tables"]), "");
    });
}

#[test]
fn once_enforces_and_ends_and_a_dry_run_leaves_the_kernel_alone() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("once", base.clone(), Setup::of("nft"));
        for agent in 0..fleet.agents.len() {
            fleet.kill(agent);
            fleet.run(agent, env!("CARGO_BIN_EXE_netpol-agent"), &["remove"]);
        }
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        for agent in 0..fleet.agents.len() {
            let kubeconfig = fleet.agents[agent].kubeconfig.to_str().unwrap().to_owned();
            let node = fleet.agents[agent].node.clone();
            let arguments = ["--node-name", &node, "--kubeconfig", &kubeconfig, "--once"];
            let printed = fleet.run(
                agent,
                env!("CARGO_BIN_EXE_netpol-agent"),
                &[arguments.as_slice(), &["--dry-run"]].concat(),
            );
            assert!(printed.contains("table inet netpol"), "{printed}");
            assert_eq!(fleet.run(agent, "nft", &["list", "tables"]), "");
            fleet.run(agent, env!("CARGO_BIN_EXE_netpol-agent"), &arguments);
        }
        fleet.is_right("after one run each", &flows);
    });
}

#[test]
fn a_running_agent_explains_counts_and_names_what_it_denies() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let setup = Setup { arguments: vec!["--log-denied".to_owned()], ..Setup::of("nft") };
        let mut fleet = Fleet::new("explain", base.clone(), setup);
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        fleet.until_right("before", &flows);
        let program = env!("CARGO_BIN_EXE_netpol-agent");
        let text = fleet.run(0, program, &["explain", "y/a -> x/a:80"]);
        for part in [
            "deny  10.244.2.1 -> 10.244.1.1 80/TCP",
            "isolated by NetworkPolicy x/",
            "no rule matches",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let text = fleet.run(1, program, &["explain", "y/a -> x/a:80"]);
        assert!(text.contains("judged on node node-a, not here"), "{text}");
        let line =
            fleet.run(0, program, &["explain", "-n", "x", "a -> y/a:serve-80-tcp", "-o", "json"]);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["verdict"], &line["node"]), (&"allow".into(), &"node-a".into()));
        // Not every backend tells of packets yet; one that does must tell of these.
        fleet.ask(0, "/metrics");
        if !fleet.logs().contains("packets are not told") {
            let metrics = fleet.ask(0, "/metrics");
            let line = metrics.lines().find(|line| {
                line.starts_with("netpol_agent_policy_packets_total")
                    && line.contains("verdict=\"deny\"")
                    && line.contains("NetworkPolicy x/")
            });
            let packets: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
            assert!(packets > 0, "{metrics}");
        }
        if !fleet.logs().contains("denied flows are not told") {
            fleet.until_logs(0, "from=y/a to=x/a");
            fleet.until_says(
                0,
                "/metrics",
                "netpol_agent_denied_flows_total{direction=\"ingress\"",
            );
        }
    });
}

#[test]
fn strict_mode_drops_what_no_known_pod_sends_or_is_sent() {
    kernel_test(|| {
        let mut base = e2e::nine_pods();
        for (node, name) in base.nodes.values_mut().zip(["a", "b", "c"]) {
            let pods = base.pods.values().filter(|pod| &*pod.meta.object.name == name);
            node.pod_cidrs =
                pods.flat_map(|pod| &pod.addresses).map(|own| Cidr::host(*own)).collect();
        }
        let setup = Setup { arguments: vec!["--strict".to_owned()], ..Setup::of("nft") };
        let mut fleet = Fleet::new("strict", base.clone(), setup);
        fleet.until_ready();
        let probe = |from: &str, to: &str, family| Probe {
            from: End::Pod(ObjectRef::new("x", from)),
            to: address(&base, &ObjectRef::new("x", to), family),
            traffic: Traffic::Tcp(80.try_into().unwrap()),
        };
        let both = [Family::V4, Family::V6];
        let concerned: Vec<Probe> = both
            .into_iter()
            .flat_map(|family| [probe("a", "b", family), probe("b", "a", family)])
            .collect();
        let others: Vec<Probe> = both.map(|family| probe("b", "c", family)).into();
        let until = |fleet: &Fleet, seen: Observation| {
            let began = Instant::now();
            while fleet.probe(&concerned).iter().any(|one| *one != seen) {
                assert!(began.elapsed() < Duration::from_secs(30), "{seen}: {}", fleet.logs());
            }
            assert!(fleet.probe(&others).iter().all(|one| *one == Observation::Passed));
        };
        until(&fleet, Observation::Passed);
        // The pod is there; that it is, nobody knows any more.
        fleet.delete_pod(&ObjectRef::new("x", "a"));
        until(&fleet, Observation::TimedOut);
        fleet.put_pod(&base.pods[&ObjectRef::new("x", "a")].clone());
        until(&fleet, Observation::Passed);
    });
}
