//! Both controllers run.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use netpol_conformance::api_server::{ApiServer, Options};
use serde_json::json;

#[test]
fn own_source_prints_the_program_of_what_it_was_told() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_own-source"))
        .arg("--print")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = b"pod web 10.0.0.1\npod db 10.0.0.2\nallow web db 5432\napply\n";
    child.stdin.take().unwrap().write_all(lines).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(printed.contains("10.0.0.1") && printed.contains("tcp dport 5432"), "{printed}");
}

#[test]
fn kubernetes_says_when_a_pod_becomes_isolated() {
    let server = ApiServer::start(Options::default()).unwrap();
    let pod = json!({
        "kind": "Pod", "metadata": { "name": "a", "namespace": "default" }, "spec": { "nodeName": "n" },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.1" }] },
    });
    server.put(&pod).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubernetes"))
        .args(["n", &format!("http://{}", server.address())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "default/a: ingress open, egress open");
    let policy = json!({
        "kind": "NetworkPolicy", "metadata": { "name": "deny", "namespace": "default" },
        "spec": { "podSelector": {} },
    });
    server.put(&policy).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "default/a: ingress isolated, egress open");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[cfg(feature = "kernel-tests")]
#[test]
fn own_source_enforces_what_it_was_told() {
    use std::time::Instant;

    use netpol_conformance::netlab::{
        End, Lab, Observation, Plan, PlannedNode, PlannedPod, Probe, Traffic, kernel_test,
    };
    use netpol_core::model::ObjectRef;

    kernel_test(|| {
        let node = PlannedNode { name: "n".into(), addresses: vec![[192, 0, 2, 1].into()] };
        let pods = [("web", 1), ("db", 2)].map(|(name, last)| PlannedPod {
            pod: ObjectRef::new("default", name),
            node: "n".into(),
            addresses: vec![[10, 0, 0, last].into()],
        });
        let plan = Plan { nodes: vec![node], pods: pods.into(), ..Plan::default() };
        let lab = Lab::build(&plan).unwrap();
        let start = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_own-source"));
            command.stdin(Stdio::piped()).spawn()
        };
        let mut child = lab.in_node("n", start).unwrap().unwrap();
        let mut lines = child.stdin.take().unwrap();
        let probes = [5432, 5433].map(|port: u16| Probe {
            from: End::Pod(ObjectRef::new("default", "web")),
            to: [10, 0, 0, 2].into(),
            traffic: Traffic::Tcp(port.try_into().unwrap()),
        });
        let passed = Observation::Passed;
        assert_eq!(lab.probe(&probes).unwrap(), [passed, passed]);
        let text = b"pod web 10.0.0.1\npod db 10.0.0.2\nallow web db 5432\napply\n";
        lines.write_all(text).unwrap();
        let began = Instant::now();
        while lab.probe(&probes).unwrap() != [passed, Observation::TimedOut] {
            assert!(began.elapsed().as_secs() < 30, "{:?}", lab.probe(&probes));
        }
        drop(lines);
        assert!(child.wait().unwrap().success());
    });
}
