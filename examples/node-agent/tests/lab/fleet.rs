//! A cluster of namespaces with an agent on every node, and the API server they follow.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::RwLock;
use std::time::Instant;

use netpol_conformance::api_server::{self, ApiServer, Options};
use netpol_conformance::cases::e2e::{Change, Step};
use netpol_conformance::exam::{Exam, Report};
use netpol_conformance::netlab::{Observation, Probe, bpf_file_system};
use netpol_core::ir::{Flow, Settings};
use netpol_core::model::{Cluster, ObjectRef, Pod};
use netpol_k8s::manifest::{ReadOptions, read_str};
use serde_json::{Value, json};

use crate::api;

/// Held while a process is started, and shared while packets are sent: between fork and exec a child holds copies of the
/// sockets of every other test, and a port that is listened on cannot be listened on again.
static STARTING: RwLock<()> = RwLock::new(());

/// The pause before somebody who waits looks again.
const GLANCE: Duration = Duration::from_millis(5);

/// How long is waited for what must come, on a machine that may do much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where each agent answers, in its node's own network namespace.
const STATUS: ([u8; 4], u16) = ([127, 0, 0, 1], 9099);

/// A cluster with an agent on every node.
pub(crate) struct Fleet {
    pub(crate) exam: Exam,
    pub(crate) server: ApiServer,
    /// What the API has now, as far as policy looks at it.
    pub(crate) cluster: Cluster,
    pub(crate) agents: Vec<Agent>,
    folder: PathBuf,
    pub(crate) setup: Setup,
}

/// What enforces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Backend {
    Ebpf,
    /// At the interfaces of pods.
    EbpfTc,
    IptablesLegacy,
    IptablesNft,
    Nft,
}

impl Backend {
    /// The options that choose it.
    pub(crate) const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Ebpf => &["--backend", "ebpf", "--ebpf-pins", BPF],
            Self::EbpfTc => &["--backend", "ebpf-tc", "--ebpf-pins", BPF],
            Self::IptablesLegacy => &["--backend", "iptables", "--iptables-variant", "legacy"],
            Self::IptablesNft => &["--backend", "iptables", "--iptables-variant", "nft"],
            Self::Nft => &["--backend", "nft"],
        }
    }

    /// Whether what it leaves in the kernel is pinned.
    pub(crate) const fn pins(self) -> bool {
        matches!(self, Self::Ebpf | Self::EbpfTc)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::EbpfTc => "ebpf-tc",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
            Self::Nft => "nft",
        })
    }
}

/// How the agents are started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) backend: Backend,
    pub(crate) arguments: Vec<&'static str>,
    /// Whether an agent that ends is started again at once, by somebody else.
    pub(crate) is_supervised: bool,
}

impl Setup {
    pub(crate) const fn of(backend: Backend) -> Self {
        Self { backend, arguments: Vec::new(), is_supervised: false }
    }
}

/// The program: what is shipped, if that was built and is named, or else the one of this build.
pub(crate) fn program() -> String {
    let built = || env!("CARGO_BIN_EXE_netpol-agent").to_owned();
    std::env::var("NETPOL_STATIC_AGENT").unwrap_or_else(|_| built())
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) node: String,
    pub(crate) kubeconfig: PathBuf,
    /// The agent, or the one that starts it again.
    pub(crate) process: Option<Child>,
}

impl Fleet {
    pub(crate) fn new(name: &str, cluster: Cluster, setup: Setup) -> Self {
        let folder = format!("{name}-{}", setup.backend);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(folder);
        fs::create_dir_all(&folder).unwrap();
        if setup.backend.pins() {
            // Of this thread and of those that it starts from now on.
            bpf_file_system(Path::new(BPF)).unwrap();
        }
        let exam = Exam::new(&cluster, Settings::default(), &[]).unwrap();
        let server = ApiServer::start(Options::default()).unwrap();
        let names = cluster.nodes.keys().map(ToString::to_string);
        let agents = names.map(|node| Agent::new(&exam, &server, &folder, node)).collect();
        let mut fleet = Self { exam, server, cluster: Cluster::default(), agents, folder, setup };
        fleet.create(cluster);
        for node in 0..fleet.agents.len() {
            fleet.start(node);
        }
        fleet
    }

    /// Creates everything at the API.
    pub(crate) fn create(&mut self, cluster: Cluster) {
        let nodes = cluster.nodes.values().map(api::node);
        let namespaces = cluster.namespaces.values().map(api::namespace);
        let pods = cluster.pods.values().map(api::pod);
        for object in nodes.chain(namespaces).chain(pods) {
            self.server.put(&object).unwrap();
        }
        self.cluster = cluster;
    }

    pub(crate) fn start(&mut self, agent: usize) {
        let log = self.folder.join(format!("{}.log", self.agents[agent].node));
        let agent = &mut self.agents[agent];
        let log = File::options().create(true).append(true).open(log).unwrap();
        let Setup { backend, arguments, is_supervised } = &self.setup;
        let program = program();
        let command = || {
            let mut command = if *is_supervised {
                let mut shell = Command::new("sh");
                shell.args(["-c", "while :; do \"$@\"; done", "supervisor", &program]);
                shell
            } else {
                Command::new(&program)
            };
            command
                .args(["--node-name", &agent.node, "--listen", "127.0.0.1:9099"])
                .args(["--log", "debug,hyper=info,tower=info,kube=info"])
                .args(backend.options())
                .args(arguments)
                .arg("--kubeconfig")
                .arg(&agent.kubeconfig)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
        };
        let _starting = STARTING.write();
        agent.process = Some(self.exam.lab().in_node(&agent.node, command).unwrap().unwrap());
    }

    /// SIGKILL: no last words.
    pub(crate) fn kill(&mut self, agent: usize) {
        let mut process = self.agents[agent].process.take().expect("the agent runs");
        if self.setup.is_supervised {
            // Stopped first, so that it starts nothing more.
            signal(process.id(), libc::SIGSTOP);
            children(process.id()).into_iter().for_each(|child| signal(child, libc::SIGKILL));
        }
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Kills the agent that a supervisor runs now. Returns whether there was one.
    pub(crate) fn kill_supervised(&self, agent: usize) -> bool {
        let supervisor = self.agents[agent].process.as_ref().expect("the supervisor runs").id();
        let agents = children(supervisor);
        agents.iter().for_each(|child| signal(*child, libc::SIGKILL));
        !agents.is_empty()
    }

    pub(crate) fn change(&mut self, change: &Change) {
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
                self.server.put(&api::pod(&pod_now)).unwrap();
            }
        }
    }

    /// Does a step at the API.
    pub(crate) fn step(&mut self, step: &Step) {
        for change in &step.changes {
            self.change(change);
        }
        self.cluster = step.cluster.clone();
    }

    /// Takes back what a scenario did.
    pub(crate) fn reset(&mut self, base: &Cluster) {
        for policy in self.cluster.network_policies.keys() {
            self.server.delete("NetworkPolicy", &policy.namespace, &policy.name).unwrap();
        }
        self.create(base.clone());
    }

    /// Has a pod be as it is given, at the API and in what is expected.
    pub(crate) fn put_pod(&mut self, pod: &Pod) {
        self.server.put(&api::pod(pod)).unwrap();
        self.cluster.pods.insert(pod.meta.object.clone(), pod.clone());
    }

    pub(crate) fn delete_pod(&mut self, pod: &ObjectRef) {
        self.server.delete("Pod", &pod.namespace, &pod.name).unwrap();
        self.cluster.pods.remove(pod);
    }

    /// Has a policy be as it is given, at the API and in what is expected.
    pub(crate) fn put_policy(&mut self, policy: &Value) {
        self.server.put(policy).unwrap();
        let read = read_str("policy", &policy.to_string(), &ReadOptions::default()).unwrap();
        self.cluster.network_policies.extend(read.cluster.network_policies);
    }

    pub(crate) fn send(&self, flows: &[Flow]) -> Report {
        let _starting = STARTING.read();
        self.exam.ask(&self.cluster, flows).unwrap()
    }

    /// Sends probes as they are, whatever the policies say.
    pub(crate) fn probe(&self, probes: &[Probe]) -> Vec<Observation> {
        let _starting = STARTING.read();
        self.exam.lab().probe(probes).unwrap()
    }

    /// Waits until packets do what they must.
    pub(crate) fn until_right(&self, what: &str, flows: &[Flow]) -> Report {
        let deadline = Instant::now() + PATIENCE;
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
    pub(crate) fn is_right(&self, what: &str, flows: &[Flow]) {
        let report = self.send(flows);
        let wrong: Vec<String> = report.wrong.iter().map(ToString::to_string).collect();
        assert!(wrong.is_empty(), "{what}:\n{}\n{}", wrong.join("\n"), self.logs());
        assert!(report.denied > 0, "{what}: nothing is denied");
    }

    /// Asks an agent over HTTP.
    pub(crate) fn ask(&self, agent: usize, path: &str) -> String {
        let ask = || {
            let mut stream = TcpStream::connect(SocketAddr::from(STATUS)).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        };
        self.exam.lab().in_node(&self.agents[agent].node, ask).unwrap().unwrap_or_default()
    }

    pub(crate) fn until_says(&self, agent: usize, path: &str, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
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
            std::thread::sleep(GLANCE);
        }
    }

    /// Waits until an agent has written something.
    pub(crate) fn until_logs(&self, agent: usize, what: &str) {
        self.until_logs_times(agent, what, 1);
    }

    /// Waits until an agent has written something so many times.
    pub(crate) fn until_logs_times(&self, agent: usize, what: &str, times: usize) {
        let path = self.folder.join(format!("{}.log", self.agents[agent].node));
        let deadline = Instant::now() + PATIENCE;
        while fs::read_to_string(&path).unwrap().matches(what).count() < times {
            assert!(Instant::now() < deadline, "never wrote {what}\n{}", self.logs());
            std::thread::sleep(GLANCE);
        }
    }

    /// What of ours is in a node's kernel, in words; of eBPF in those of all nodes.
    pub(crate) fn left_behind(&self, agent: usize) -> String {
        const LOOK: &str = "{ nft list tables; ipset list -n; iptables-nft-save; ip6tables-nft-save; \
            iptables-legacy-save; ip6tables-legacy-save; find $PINS -mindepth 2 -type f; } 2>/dev/null \
            | grep -i -e NETPOL -e \"$PINS\" || true";
        self.run(agent, "sh", &["-c", LOOK])
    }

    pub(crate) fn until_ready(&self) {
        for agent in 0..self.agents.len() {
            self.until_says(agent, "/readyz", "200 OK");
        }
    }

    /// Runs a shell script in a node. Returns whether it succeeded.
    pub(crate) fn is_let(&self, agent: usize, script: &str) -> bool {
        self.output(agent, "sh", &["-c", script]).status.success()
    }

    /// Runs a command in a node.
    pub(crate) fn run(&self, agent: usize, program: &str, arguments: &[&str]) -> String {
        let output = self.output(agent, program, arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {told}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn output(&self, agent: usize, program: &str, arguments: &[&str]) -> Output {
        let start = || {
            let (stdout, stderr) = (Stdio::piped(), Stdio::piped());
            let mut command = Command::new(program);
            command.args(arguments).env("PINS", BPF).stdin(Stdio::null());
            command.stdout(stdout).stderr(stderr).spawn()
        };
        let starting = STARTING.write();
        let child = self.exam.lab().in_node(&self.agents[agent].node, start).unwrap().unwrap();
        drop(starting);
        child.wait_with_output().unwrap()
    }

    /// Runs the agent's own program in a node, for the same backend.
    pub(crate) fn command(&self, agent: usize, arguments: &[&str]) -> String {
        self.run(agent, &program(), &[self.setup.backend.options(), arguments].concat())
    }

    pub(crate) fn logs(&self) -> String {
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
        for agent in 0..self.agents.len() {
            if self.agents[agent].process.is_some() {
                self.kill(agent);
            }
            // Pinned hooks keep a network namespace alive.
            if self.setup.backend.pins() {
                self.command(agent, &["remove"]);
            }
        }
    }
}

impl Agent {
    /// The API server is reached inside the node's own namespace.
    fn new(exam: &Exam, server: &ApiServer, folder: &Path, node: String) -> Self {
        let listen = || TcpListener::bind(("127.0.0.1", 0));
        let listener = exam.lab().in_node(&node, listen).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        server.listen(listener);
        let kubeconfig = folder.join(format!("{node}.kubeconfig"));
        fs::write(&kubeconfig, api_server::kubeconfig(address)).unwrap();
        let _ = fs::remove_file(folder.join(format!("{node}.log")));
        Self { node, kubeconfig, process: None }
    }
}

/// The processes that a process has started.
fn children(process: u32) -> Vec<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

#[expect(unsafe_code, reason = "there is no safe way to send a signal")]
fn signal(process: u32, signal: i32) {
    // SAFETY: takes two numbers. The process is one of ours, and not waited for yet, so its number is not another's.
    let _ = unsafe { libc::kill(i32::try_from(process).unwrap(), signal) };
}

/// Where the agents of this thread pin their hooks.
const BPF: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/bpf");
