//! The ordinary `kubectl` against the test API server, where it is installed.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "test support")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use netpol_conformance::api_server::{self, ApiServer, Options};
use serde_json::{Value, json};

struct Kubectl {
    _server: ApiServer,
    folder: PathBuf,
}

impl Kubectl {
    /// `None` where there is no `kubectl`.
    fn new() -> Option<Self> {
        let version = Command::new("kubectl").args(["version", "--client"]).output();
        if version.is_err() {
            eprintln!("DID NOT RUN: there is no kubectl");
            return None;
        }
        let server = ApiServer::start(Options::default()).unwrap();
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kubectl");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config"), api_server::kubeconfig(server.address())).unwrap();
        Some(Self { _server: server, folder })
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(self.folder.join("config"))
            .arg("--cache-dir")
            .arg(self.folder.join("cache"))
            .args(arguments.split(' '))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn run(&self, arguments: &str) -> String {
        let output = self.command(arguments).output().unwrap();
        let (told, failed) = (output.stdout, String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments}: {failed}");
        String::from_utf8(told).unwrap()
    }

    #[track_caller]
    fn apply(&self, object: &Value) -> String {
        let mut child = self.command("apply -f -").stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl apply: {failed}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn kubectl_applies_watches_labels_patches_and_deletes() {
    let Some(kubectl) = Kubectl::new() else { return };
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
    assert_eq!(kubectl.apply(&namespace), "namespace/shop created");
    let mut policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "deny", "namespace": "shop" }, "spec": { "podSelector": {} },
    });
    assert_eq!(kubectl.apply(&policy), "networkpolicy.networking.k8s.io/deny created");
    policy["spec"]["policyTypes"] = json!(["Egress"]);
    assert_eq!(kubectl.apply(&policy), "networkpolicy.networking.k8s.io/deny configured");
    assert_eq!(kubectl.apply(&policy), "networkpolicy.networking.k8s.io/deny unchanged");
    assert_eq!(kubectl.run("get netpol -n shop -o name"), "networkpolicy.networking.k8s.io/deny\n");
    let mut watch = kubectl.command("get netpol -A -w -o name").spawn().unwrap();
    let mut names = BufReader::new(watch.stdout.take().unwrap()).lines();
    let name = "networkpolicy.networking.k8s.io/deny";
    assert_eq!(names.next().unwrap().unwrap(), name);
    kubectl.run("label -n shop netpol deny team=a");
    assert_eq!(names.next().unwrap().unwrap(), name);
    let label = kubectl.run("get netpol -n shop deny -o jsonpath={.metadata.labels.team}");
    assert_eq!(label, "a");
    kubectl.run(
        "patch -n shop netpol deny --type merge -p {\"spec\":{\"policyTypes\":[\"Ingress\"]}}",
    );
    let types = kubectl.run("get netpol -n shop deny -o jsonpath={.spec.policyTypes[*]}");
    assert_eq!(types, "Ingress");
    kubectl.run("delete -n shop netpol deny");
    assert_eq!(kubectl.run("get netpol -A -o name"), "");
    watch.kill().unwrap();
    watch.wait().unwrap();
}
