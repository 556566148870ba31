//! What the agent is told by options and by variables, without a kernel to program.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "test support")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use netpol_conformance::api_server::{self, ApiServer, Options};
use serde_json::json;

const AGENT: &str = env!("CARGO_BIN_EXE_netpol-agent");

/// An API with one isolated pod on node `n1`, and how to reach it.
fn api(name: &str) -> (ApiServer, PathBuf) {
    let server = ApiServer::start(Options::default()).unwrap();
    let pod = json!({
        "kind": "Pod", "metadata": { "name": "api", "namespace": "shop" },
        "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.2" }] },
    });
    let policy = json!({
        "kind": "NetworkPolicy", "metadata": { "name": "deny", "namespace": "shop" }, "spec": { "podSelector": {} },
    });
    let namespace = json!({ "kind": "Namespace", "metadata": { "name": "shop" } });
    server.put(&namespace).unwrap();
    server.put(&pod).unwrap();
    server.put(&policy).unwrap();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.kubeconfig"));
    fs::write(&path, api_server::kubeconfig(server.address())).unwrap();
    (server, path)
}

fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn variables_say_what_options_say_and_options_come_first() {
    let (_server, kubeconfig) = api("variables");
    let run = |arguments: &[&str]| {
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["60", AGENT]).args(arguments).envs([
            ("NODE_NAME", "n1"),
            ("NETPOL_BACKEND", "nft"),
            ("NETPOL_DRY_RUN", "true"),
            ("NETPOL_LOG_FORMAT", "json"),
            ("NETPOL_MARK", "0x0ff00000"),
            ("NETPOL_SOCKET", ""),
        ]);
        command.env("NETPOL_KUBECONFIG", &kubeconfig).output().unwrap()
    };
    let output = run(&["--once"]);
    let (program, log) = told(&output);
    assert!(output.status.success(), "{log}");
    for part in ["# what would change", "table inet netpol", "10.0.0.2"] {
        assert!(program.contains(part), "{part}\n{program}");
    }
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["fields"]["message"].is_string(), "{line}");
    }
    // An option comes before the variable, and the variable before what is so by itself.
    let (other, _) = told(&run(&["--once", "--mark", "0xfff00000"]));
    assert_ne!(program, other);
    let (program, log) = told(&run(&["--once", "--backend", "iptables", "--node-name", "n2"]));
    assert!(program.contains(":NETPOL-FORWARD") || program.contains("*filter"), "{program}{log}");
    assert!(!program.contains("10.0.0.2"), "the pod is on another node: {program}");
    let output = Command::new(AGENT).env("NETPOL_BACKEND", "pf").output().unwrap();
    let (_, log) = told(&output);
    assert!(!output.status.success() && log.contains("'pf'"), "{log}");
}

#[test]
fn auto_says_of_each_backend_why_it_does_not_work() {
    let (_server, kubeconfig) = api("auto");
    // Whoever is in another user namespace has no say over this one's network, and there are no programs on its path.
    let mut command = Command::new("/usr/bin/timeout");
    command.args([
        "60",
        "/usr/bin/unshare",
        "--user",
        AGENT,
        "--node-name",
        "n1",
        "--socket",
        "",
        "--once",
    ]);
    let Ok(output) = command.env("NETPOL_KUBECONFIG", &kubeconfig).env("PATH", "/nowhere").output()
    else {
        eprintln!("DID NOT RUN: there is no timeout or no unshare");
        return;
    };
    let (_, log) = told(&output);
    if log.contains("unshare:") {
        eprintln!("DID NOT RUN: {log}");
        return;
    }
    assert!(!output.status.success(), "{log}");
    for part in ["no backend works here: nft: ", "; ebpf: ", "; iptables: the program `iptables`"] {
        assert!(log.contains(part), "{part}\n{log}");
    }
}
