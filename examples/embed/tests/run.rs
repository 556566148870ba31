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
