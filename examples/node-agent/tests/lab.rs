//! Agents on the nodes of a lab, fed by the test API server, judged by real packets: every change goes through the API,
//! and what is waited for is what packets do.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support"
)]

use core::net::SocketAddr;
use core::time::Duration;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::RwLock;
use std::time::Instant;

use netpol_conformance::api_server::{ApiServer, Fault, Options};
use netpol_conformance::cases::e2e::{self, Change, Matrix, Step};
use netpol_conformance::exam::{Exam, Report};
use netpol_conformance::netlab::kernel_test;
use netpol_core::ir::{Family, Flow, Settings};
use netpol_core::model::{Cluster, Container, Namespace, Node, Phase, Pod};
use netpol_k8s::manifest::{ReadOptions, read_str};
use serde_json::{Value, json};

/// Held while a process is started, and shared while packets are sent: between fork and exec a child holds copies of the
/// sockets of every other test, and a port that is listened on cannot be listened on again.
static STARTING: RwLock<()> = RwLock::new(());

/// Where each agent answers, in its node's own network namespace.
const STATUS: ([u8; 4], u16) = ([127, 0, 0, 1], 9099);

/// A cluster with an agent on every node.
struct Fleet {
    exam: Exam,
    server: ApiServer,
    cluster: Cluster,
    agents: Vec<Agent>,
    folder: PathBuf,
    backend: &'static str,
}

struct Agent {
    node: String,
    kubeconfig: PathBuf,
    process: Option<Child>,
}

impl Fleet {
    fn new(name: &str, cluster: Cluster) -> Self {
        Self::with_backend(name, cluster, "auto")
    }

    fn with_backend(name: &str, cluster: Cluster, backend: &'static str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let exam = Exam::new(&cluster, Settings::default(), &[]).unwrap();
        let server = ApiServer::start(Options::default()).unwrap();
        let names = cluster.nodes.keys().map(ToString::to_string);
        let agents = names.map(|node| Agent::new(&exam, &server, &folder, node)).collect();
        let mut fleet = Self { exam, server, cluster: Cluster::default(), agents, folder, backend };
        fleet.create(cluster);
        for node in 0..fleet.agents.len() {
            fleet.start(node);
        }
        fleet
    }

    /// Creates everything at the API.
    fn create(&mut self, cluster: Cluster) {
        let nodes = cluster.nodes.values().map(node);
        let namespaces = cluster.namespaces.values().map(namespace);
        let pods = cluster.pods.values().map(pod);
        for object in nodes.chain(namespaces).chain(pods) {
            self.server.put(&object).unwrap();
        }
        self.cluster = cluster;
    }

    fn start(&mut self, agent: usize) {
        let log = self.folder.join(format!("{}.log", self.agents[agent].node));
        let agent = &mut self.agents[agent];
        let log = File::options().create(true).append(true).open(log).unwrap();
        let command = || {
            Command::new(env!("CARGO_BIN_EXE_netpol-agent"))
                .args(["--node-name", &agent.node, "--listen", "127.0.0.1:9099"])
                .args(["--resync", "10m", "--log", "debug,hyper=info,tower=info,kube=info"])
                .args(["--backend", self.backend])
                .arg("--kubeconfig")
                .arg(&agent.kubeconfig)
                .stdin(Stdio::null())
                .stderr(log)
                .spawn()
        };
        let _starting = STARTING.write();
        agent.process = Some(self.exam.lab().in_node(&agent.node, command).unwrap().unwrap());
    }

    /// SIGKILL: no last words.
    fn kill(&mut self, agent: usize) {
        let mut process = self.agents[agent].process.take().expect("the agent runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::AddNamespaceLabels(name, labels) => {
                let labels: serde_json::Map<String, Value> = labels
                    .0
                    .iter()
                    .map(|(key, value)| (key.to_string(), json!(&**value)))
                    .collect();
                let patch = json!({ "metadata": { "labels": labels } });
                self.server.patch("Namespace", "", name, &patch).unwrap();
            }
            Change::Apply(text) => {
                self.server.put(&serde_json::from_str(text).expect("flow style is JSON")).unwrap();
            }
            Change::Delete(policy) => {
                self.server.delete("NetworkPolicy", &policy.namespace, &policy.name).unwrap();
            }
            Change::SetPodLabels(name, labels) => {
                let mut pod_now = self.cluster.pods.get(name).unwrap().clone();
                pod_now.meta.labels = labels.clone();
                self.server.put(&pod(&pod_now)).unwrap();
            }
        }
    }

    /// Does a step at the API.
    fn step(&mut self, step: &Step) {
        for change in &step.changes {
            self.change(change);
        }
        self.cluster = step.cluster.clone();
    }

    /// Takes back what a scenario did.
    fn reset(&mut self, base: &Cluster) {
        for policy in self.cluster.network_policies.keys() {
            self.server.delete("NetworkPolicy", &policy.namespace, &policy.name).unwrap();
        }
        self.create(base.clone());
    }

    fn send(&self, flows: &[Flow]) -> Report {
        let _starting = STARTING.read();
        self.exam.ask(&self.cluster, flows).unwrap()
    }

    /// Waits until packets do what they must.
    fn until_right(&self, what: &str, flows: &[Flow]) -> Report {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let report = self.send(flows);
            if report.wrong.is_empty() {
                return report;
            }
            let wrong: Vec<String> = report.wrong.iter().map(ToString::to_string).collect();
            assert!(Instant::now() < deadline, "{what}:\n{}\n{}", wrong.join("\n"), self.logs());
        }
    }

    /// What packets do now must be right at once.
    fn is_right(&self, what: &str, flows: &[Flow]) {
        let report = self.send(flows);
        let wrong: Vec<String> = report.wrong.iter().map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{what}:\n{}\n{}", wrong.join("\n"), self.logs());
        assert!(report.denied > 0, "{what}: nothing is denied");
    }

    /// Asks an agent over HTTP.
    fn ask(&self, agent: usize, path: &str) -> String {
        let ask = || {
            let mut stream = TcpStream::connect(SocketAddr::from(STATUS)).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        };
        self.exam.lab().in_node(&self.agents[agent].node, ask).unwrap().unwrap_or_default()
    }

    fn until_says(&self, agent: usize, path: &str, what: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let text = self.ask(agent, path);
            if text.contains(what) {
                return text;
            }
            assert!(
                Instant::now() < deadline,
                "{path} never says {what}:\n{text}\n{}",
                self.logs()
            );
            std::thread::yield_now();
        }
    }

    fn until_ready(&self) {
        for agent in 0..self.agents.len() {
            self.until_says(agent, "/readyz", "200 OK");
        }
    }

    /// Runs a command in a node.
    fn run(&self, agent: usize, program: &str, arguments: &[&str]) -> String {
        let start = || {
            let (stdout, stderr) = (Stdio::piped(), Stdio::piped());
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn()
        };
        let starting = STARTING.write();
        let child = self.exam.lab().in_node(&self.agents[agent].node, start).unwrap().unwrap();
        drop(starting);
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {told}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn logs(&self) -> String {
        let tail = |agent: &Agent| {
            let path = self.folder.join(format!("{}.log", agent.node));
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            format!("{}:\n{}", agent.node, lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        self.agents.iter().map(tail).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in self.agents.iter_mut().filter_map(|agent| agent.process.as_mut()) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Agent {
    /// The API server is reached inside the node's own namespace.
    fn new(exam: &Exam, server: &ApiServer, folder: &std::path::Path, node: String) -> Self {
        let listen = || TcpListener::bind(("127.0.0.1", 0));
        let listener = exam.lab().in_node(&node, listen).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        server.listen(listener);
        let kubeconfig = folder.join(format!("{node}.kubeconfig"));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        fs::write(&kubeconfig, text.to_string()).unwrap();
        let _ = fs::remove_file(folder.join(format!("{node}.log")));
        Self { node, kubeconfig, process: None }
    }
}

fn labels(labels: &netpol_core::model::Labels) -> Value {
    labels.0.iter().map(|(key, value)| (key.to_string(), json!(&**value))).collect()
}

fn node(node: &Node) -> Value {
    let addresses: Vec<Value> = node
        .addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address.to_string() }))
        .collect();
    json!({
        "kind": "Node", "metadata": { "name": &**node.name(), "labels": labels(&node.meta.labels) },
        "status": { "addresses": addresses },
    })
}

fn namespace(namespace: &Namespace) -> Value {
    let metadata = json!({ "name": &**namespace.name(), "labels": labels(&namespace.meta.labels) });
    json!({ "kind": "Namespace", "metadata": metadata })
}

fn pod(pod: &Pod) -> Value {
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|container| {
            let (Container::Main(ports) | Container::Sidecar(ports) | Container::Init(ports)) =
                container;
            let ports: Vec<Value> = ports
                .iter()
                .map(|port| {
                    json!({
                        "name": port.name.as_deref(), "containerPort": port.port,
                        "protocol": port.protocol.as_str(),
                    })
                })
                .collect();
            json!({ "name": "c", "ports": ports })
        })
        .collect();
    let addresses: Vec<Value> =
        pod.addresses.iter().map(|address| json!({ "ip": address.to_string() })).collect();
    json!({
        "kind": "Pod",
        "metadata": {
            "name": &*pod.meta.object.name, "namespace": &*pod.meta.object.namespace,
            "labels": labels(&pod.meta.labels),
        },
        "spec": { "nodeName": pod.node.as_deref(), "containers": containers },
        "status": {
            "phase": if pod.phase == Phase::Running { "Running" } else { "Pending" },
            "podIPs": addresses,
        },
    })
}

fn flows(matrices: &[Matrix], cluster: &Cluster) -> Vec<Flow> {
    let flows = matrices.iter().flat_map(|matrix| matrix.flows(cluster, Family::V4));
    flows.map(|(flow, _)| flow).collect()
}

/// The first scenario: nobody reaches the pods of x.
fn deny_ingress(base: &Cluster) -> (Step, Vec<Flow>) {
    let scenario = e2e::all().unwrap().into_iter().next().unwrap();
    let step = scenario.steps(base, Family::V4).unwrap().into_iter().next().unwrap();
    let flows = flows(&step.matrices, &step.cluster);
    (step, flows)
}

#[test]
fn upstream_scenarios_hold_through_the_api() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("scenarios", base.clone());
        fleet.until_ready();
        let every = std::env::var("NETPOL_SCENARIO_STEP").map_or(1, |text| text.parse().unwrap());
        let (mut asked, mut steps) = (0, 0);
        for scenario in e2e::all().unwrap().iter().step_by(every) {
            for step in scenario.steps(&base, Family::V4).unwrap() {
                fleet.step(&step);
                let flows = flows(&step.matrices, &step.cluster);
                asked += fleet.until_right(&scenario.id, &flows).asked;
                steps += 1;
            }
            fleet.reset(&base);
        }
        eprintln!("{steps} steps through the API, {asked} flows right");
        assert!(asked > 500);
    });
}

#[test]
fn a_killed_agent_leaves_its_rules_and_a_new_one_takes_over() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("killed", base.clone());
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        fleet.until_right("before", &flows);
        for round in 0..6 {
            for agent in 0..fleet.agents.len() {
                fleet.kill(agent);
            }
            fleet.is_right("while the agents are dead", &flows);
            for agent in 0..fleet.agents.len() {
                fleet.start(agent);
            }
            // Every second time they are killed again on their way, wherever that is.
            if round % 2 == 0 {
                fleet.is_right("while the agents start", &flows);
                fleet.until_ready();
                fleet.is_right("with new agents", &flows);
            }
        }
        // What happens while they are dead is enforced when they are back.
        fleet.kill(0);
        fleet.reset(&base);
        fleet.start(0);
        fleet.until_right("what was missed", &flows);
    });
}

#[test]
fn half_a_listing_opens_and_closes_nothing() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("half", base.clone());
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        fleet.until_right("before", &flows);
        for agent in 0..fleet.agents.len() {
            fleet.kill(agent);
        }
        // The short lists are complete long before that of the pods.
        fleet.server.set_fault(Some(Fault::Drip(Duration::from_millis(1))));
        for agent in 0..fleet.agents.len() {
            fleet.start(agent);
        }
        fleet.until_says(0, "/metrics", "netpol_agent_watch_following{kind=\"Node\"} 1");
        for _ in 0..2 {
            fleet.is_right("while the lists drip", &flows);
        }
        assert!(fleet.ask(0, "/readyz").contains("not everything was listed yet"));
        fleet.server.set_fault(None);
        fleet.server.cut_off();
        fleet.until_ready();
        fleet.is_right("after the lists", &flows);
    });
}

#[test]
fn upstream_scenarios_hold_through_the_api_with_iptables() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::with_backend("iptables", base.clone(), "iptables");
        fleet.until_ready();
        // Each step costs a second or more of other programs here: a few must do.
        for scenario in e2e::all().unwrap().iter().step_by(12) {
            for step in scenario.steps(&base, Family::V4).unwrap() {
                fleet.step(&step);
                fleet.until_right(&scenario.id, &flows(&step.matrices, &step.cluster));
            }
            fleet.reset(&base);
        }
    });
}

#[test]
fn a_thousand_policies_at_once_are_all_in_force() {
    const POLICIES: u16 = 1000;
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("thousand", base.clone());
        let (step, flows) = deny_ingress(&base);
        fleet.until_ready();
        fleet.step(&step);
        // Each admits the pods of z to x/a on one port; the last one matters to the flows that are sent.
        for number in 0..POLICIES {
            let port = if number + 1 == POLICIES { 80 } else { 1000 + number };
            let policy = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": { "name": format!("many-{number}"), "namespace": "x" },
                "spec": {
                    "podSelector": { "matchLabels": { "pod": "a" } },
                    "ingress": [{
                        "from": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "z" } } }],
                        "ports": [{ "port": port }],
                    }],
                },
            });
            fleet.server.put(&policy).unwrap();
            let read = read_str("many", &policy.to_string(), &ReadOptions::default()).unwrap();
            fleet.cluster.network_policies.extend(read.cluster.network_policies);
        }
        let report = fleet.until_right("a thousand", &flows);
        assert!(report.denied > 0 && report.denied < report.asked);
        // And gone again as fast.
        fleet.reset(&base);
        fleet.until_right("none", &flows);
    });
}

#[test]
fn an_api_server_that_is_away_changes_nothing_and_its_return_is_noticed() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("away", base.clone());
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        fleet.until_right("before", &flows);
        fleet.server.set_fault(Some(Fault::Refuse));
        fleet.server.cut_off();
        fleet.until_says(0, "/metrics", "netpol_agent_watch_following{kind=\"Pod\"} 0");
        fleet.is_right("while the server is away", &flows);
        assert!(fleet.ask(0, "/readyz").contains("200 OK"), "the rules are what they should be");
        assert!(fleet.ask(0, "/livez").contains("200 OK"));
        // It comes back without its history, first without its access rules, and with another policy.
        fleet.server.set_fault(Some(Fault::Forbidden));
        fleet.server.restart();
        fleet.until_says(0, "/readyz", "403");
        fleet.is_right("while everything is forbidden", &flows);
        fleet.reset(&base);
        fleet.server.set_fault(None);
        fleet.until_right("after the return", &flows);
        fleet.until_says(0, "/metrics", "netpol_agent_watch_following{kind=\"Pod\"} 1");
    });
}

#[test]
fn what_another_program_takes_away_comes_back_and_removal_is_complete() {
    kernel_test(|| {
        let base = e2e::nine_pods();
        let mut fleet = Fleet::new("drift", base.clone());
        let (step, flows) = deny_ingress(&base);
        fleet.step(&step);
        fleet.until_right("before", &flows);
        fleet.run(0, "nft", &["delete", "table", "inet", "netpol"]);
        fleet.until_right("after the loss", &flows);
        // A backend that cannot compare what is there writes it again, and cannot say whether that changed anything.
        if !fleet.logs().contains("drift is not looked for") {
            fleet.until_says(0, "/metrics", "netpol_agent_drift_repairs_total 1");
            // What others do elsewhere is no drift.
            fleet.run(0, "nft", &["add", "table", "inet", "other"]);
            fleet.run(0, "nft", &["delete", "table", "inet", "other"]);
            fleet.is_right("after another's change", &flows);
            fleet.until_says(0, "/metrics", "netpol_agent_drift_repairs_total 1");
        }
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
        let mut fleet = Fleet::new("once", base.clone());
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
