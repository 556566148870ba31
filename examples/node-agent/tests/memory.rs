//! What ten thousand pods cost.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "test support")]

use core::net::SocketAddr;
use core::time::Duration;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use netpol_conformance::api_server::{self, ApiServer, Options};
use serde_json::json;

const PODS: u32 = 10_000;

/// The aim is 40 MiB for an optimised agent; an unoptimised one is larger, and this bound is for that.
const LIMIT_KIB: u64 = 48 * 1024;

#[test]
fn an_agent_holds_ten_thousand_pods_in_little_memory() {
    let server = ApiServer::start(Options::default()).unwrap();
    for number in 0..PODS {
        let [_, high, middle, low] = number.to_be_bytes();
        let address = format!("10.{high}.{middle}.{low}");
        let pod = json!({
            "kind": "Pod",
            "metadata": {
                "name": format!("web-7d4b9c6f5-{number:05}"), "namespace": "default",
                "labels": { "app": format!("app-{}", number % 100), "pod-template-hash": "7d4b9c6f5", "tier": "web" },
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(1000) },
            },
            "spec": {
                "nodeName": format!("node-{}", number % 300),
                "containers": [{ "name": "c", "image": "registry/app:1", "ports": [{ "name": "http", "containerPort": 8080 }] }],
            },
            "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] },
        });
        server.put(&pod).unwrap();
    }
    for number in 0..100 {
        let select = |app: u32| json!({ "matchLabels": { "app": format!("app-{app}") } });
        let policy = json!({
            "kind": "NetworkPolicy",
            "metadata": { "name": format!("policy-{number}"), "namespace": "default" },
            "spec": { "podSelector": select(number), "ingress": [{ "from": [{ "podSelector": select((number + 1) % 100) }] }] },
        });
        server.put(&policy).unwrap();
    }
    let kubeconfig = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("memory.kubeconfig");
    fs::write(&kubeconfig, api_server::kubeconfig(server.address())).unwrap();
    let began = Instant::now();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_netpol-agent"))
        .args(["--node-name", "node-7", "--dry-run", "--listen", "127.0.0.1:0", "--kubeconfig"])
        .arg(&kubeconfig)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It says where it answers.
    let mut lines = BufReader::new(agent.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("address=")).unwrap();
    let address = line.split("address=").nth(1).unwrap().trim();
    let address: SocketAddr = address.split(' ').next().unwrap().parse().unwrap();
    while !ask(address, "/metrics").contains("netpol_agent_applies_total") {
        assert!(began.elapsed() < Duration::from_secs(120), "never in sync");
        std::thread::yield_now();
    }
    let synced = began.elapsed();
    let metrics = ask(address, "/metrics");
    assert!(metrics.contains("netpol_agent_objects{kind=\"Pod\"} 10000"), "{metrics}");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let resident = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (now, peak) = (resident("VmRSS"), resident("VmHWM"));
    eprintln!("{PODS} pods: in sync after {synced:?}, {now} KiB resident, {peak} KiB at most");
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(now < LIMIT_KIB, "{now} KiB");
}

fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
