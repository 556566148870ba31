//! What the command line does on a node: once, dry, removed, asked.

use core::time::Duration;
use std::time::Instant;

use netpol_conformance::cases::e2e;
use netpol_conformance::netlab::{End, Observation, Probe, Traffic};
use netpol_core::ir::{Family, Flow, Transport};
use netpol_core::model::{Cidr, ObjectRef, Protocol};

use crate::churn::admit_a;
use crate::fleet::{Backend, Fleet, Setup};
use crate::{address, deny_ingress};

pub(crate) fn once_and_dry_run(backend: Backend) {
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new("once", base.clone(), Setup::of(backend));
    fleet.until_ready();
    for agent in 0..fleet.agents.len() {
        fleet.kill(agent);
        fleet.command(agent, &["remove"]);
    }
    assert_eq!(fleet.left_behind(0), "", "after the removal");
    let (step, flows) = deny_ingress(&base);
    fleet.step(&step);
    let run = |fleet: &Fleet, agent: usize, more: &[&str]| {
        let kubeconfig = fleet.agents[agent].kubeconfig.to_str().unwrap().to_owned();
        let node = fleet.agents[agent].node.clone();
        let arguments = ["--node-name", &node, "--kubeconfig", &kubeconfig, "--once"];
        fleet.command(agent, &[arguments.as_slice(), more].concat())
    };
    let shown = match backend {
        Backend::Ebpf | Backend::EbpfTc => "words: policy, class",
        Backend::IptablesLegacy | Backend::IptablesNft => "-A NETPOL-FORWARD ",
        Backend::Nft => "table inet netpol",
    };
    for agent in 0..fleet.agents.len() {
        let printed = run(&fleet, agent, &["--dry-run"]);
        assert!(printed.contains(shown), "{printed}");
    }
    assert_eq!(fleet.left_behind(0), "", "after a dry run");
    for agent in 0..fleet.agents.len() {
        run(&fleet, agent, &[]);
    }
    fleet.is_right("after one run each", &flows);
    // What is there already would not change.
    let printed = run(&fleet, 0, &["--dry-run"]);
    assert!(!printed.contains("NETPOL-FORWARD is missing"), "{printed}");
    for agent in 0..fleet.agents.len() {
        fleet.command(agent, &["remove"]);
    }
    assert_eq!(fleet.left_behind(0), "", "after the second removal");
}

pub(crate) fn explains_and_counts(backend: Backend) {
    let base = e2e::nine_pods();
    let setup = Setup { arguments: vec!["--log-denied"], ..Setup::of(backend) };
    let mut fleet = Fleet::new("explain", base.clone(), setup);
    let (step, flows) = deny_ingress(&base);
    fleet.step(&step);
    fleet.until_right("before", &flows);
    let text = fleet.command(0, &["explain", "y/a -> x/a:80"]);
    for part in
        ["deny  10.244.2.1 -> 10.244.1.1 80/TCP", "isolated by NetworkPolicy x/", "no rule matches"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let text = fleet.command(1, &["explain", "y/a -> x/a:80"]);
    assert!(text.contains("judged on node node-a, not here"), "{text}");
    let line = fleet.command(0, &["explain", "-n", "x", "a -> y/a:serve-80-tcp", "-o", "json"]);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["verdict"], &line["node"]), (&"allow".into(), &"node-a".into()));
    fleet.ask(0, "/metrics");
    let metrics = fleet.ask(0, "/metrics");
    let line = metrics.lines().find(|line| {
        line.starts_with("netpol_agent_policy_packets_total")
            && line.contains("verdict=\"deny\"")
            && line.contains("NetworkPolicy x/")
    });
    let packets: u64 = line.expect(&metrics).rsplit(' ').next().unwrap().parse().unwrap();
    assert!(packets > 0, "{metrics}");
    fleet.until_logs(0, "from=y/a to=x/a");
    fleet.until_says(0, "/metrics", "netpol_agent_denied_flows_total{direction=\"ingress\"");
}

/// Returns what a metric says: its first line that begins so.
fn told(metrics: &str, begins: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with(&format!("netpol_agent_{begins}")));
    line.unwrap_or_else(|| panic!("{begins}: {metrics}"))
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

pub(crate) fn metrics(backend: Backend) {
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new("metrics", base.clone(), Setup::of(backend));
    fleet.until_ready();
    fleet.put_policy(&admit_a());
    let from = |namespace, name| address(&base, &ObjectRef::new(namespace, name), Family::V4);
    let tcp = Transport::Port(Protocol::Tcp, 80);
    let flows = [("y", "a"), ("y", "b")]
        .map(|(namespace, name)| Flow::new(from(namespace, name), from("x", "b"), tcp));
    fleet.until_right("the policy", &flows);
    let node = fleet.agents.iter().position(|agent| agent.node == "node-b").unwrap();
    fleet.until_says(node, "/metrics", "netpol_agent_denied_flows_total{");
    let metrics = fleet.ask(node, "/metrics");
    for (name, least) in [
        ("enforcement_latency_seconds_count", 2.0),
        ("enforcement_latency_seconds_sum", 0.000_001),
        ("engine_seconds_count", 2.0),
        ("sync_seconds_count", 2.0),
        ("objects{kind=\"Pod\"}", 9.0),
        ("objects{kind=\"Namespace\"}", 3.0),
        ("objects{kind=\"Node\"}", 3.0),
        ("objects{kind=\"NetworkPolicy\"}", 1.0),
        ("endpoints", 3.0),
        ("pipelines", 2.0),
        ("peer_sets", 1.0),
        // Three pods of two families.
        ("members", 6.0),
        ("applies_total{outcome=\"whole\"}", 1.0),
        ("applied_changes_total{kind=\"create-peer-set\"}", 1.0),
        ("applied_changes_total{kind=\"create-pipeline\"}", 1.0),
        ("applied_changes_total{kind=\"endpoint\"}", 1.0),
        (
            "policy_packets_total{direction=\"ingress\",verdict=\"allow\",policy=\"NetworkPolicy x/admit-a\"",
            1.0,
        ),
        (
            "policy_packets_total{direction=\"ingress\",verdict=\"deny\",policy=\"NetworkPolicy x/admit-a\"",
            1.0,
        ),
        ("denied_flows_total{direction=\"ingress\",policy=\"NetworkPolicy x/admit-a\"", 1.0),
    ] {
        let said = told(&metrics, name);
        assert!(said >= least, "{name} {said}\n{metrics}");
    }
    let bytes = "policy_bytes_total{direction=\"ingress\",verdict=\"deny\",policy=\"NetworkPolicy x/admit-a\"";
    assert!(told(&metrics, bytes) >= 40.0, "{metrics}");
    assert_eq!(told(&metrics, "oldest_unapplied_change_seconds"), 0.0);
    assert_eq!(told(&metrics, "drift_repairs_total"), 0.0);
    assert_eq!(told(&metrics, "atoms") > 0.0, backend.pins(), "{metrics}");
    assert!(!metrics.contains("apply_failures_total{"), "{metrics}");
}

pub(crate) fn strict_mode(backend: Backend) {
    let mut base = e2e::nine_pods();
    for (node, name) in base.nodes.values_mut().zip(["a", "b", "c"]) {
        let pods = base.pods.values().filter(|pod| &*pod.meta.object.name == name);
        node.pod_cidrs = pods.flat_map(|pod| &pod.addresses).map(|own| Cidr::host(*own)).collect();
    }
    let setup = Setup { arguments: vec!["--strict"], ..Setup::of(backend) };
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
}
