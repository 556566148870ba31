//! From the API to the packet: a policy is created and traffic stops; a pod is created and its traffic begins.
//!
//! Datagrams with numbers go from one pod to another, each from a new port, so that each is a connection of its own to the
//! kernel. What counts is when the first one was sent that was dropped, or that arrived.

use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Instant;

use netpol_conformance::api_server::{ApiServer, Options};
use netpol_conformance::netlab::{Lab, Plan, PlannedNode, PlannedPod};
use netpol_core::model::ObjectRef;
use serde_json::{Value, json};

use crate::cluster::fill;
use crate::process::{Agent, options, remove};

const PODS: u32 = 10_000;
const POLICIES: u32 = 1000;
const NODE: &str = "bench-node";
const PORT: NonZeroU16 = NonZeroU16::new(8080).unwrap();

/// Silence of so long means that nothing arrives any more.
const SILENCE: Duration = Duration::from_millis(15);

/// The pause between two changes that have nothing to do with each other. Without it, one change waits for the one before.
const REST: Duration = Duration::from_millis(50);

/// The pause between two datagrams.
const PAUSE: Duration = Duration::from_micros(50);

pub(crate) fn run(backend: &str, trials: u32) {
    let arguments = options(backend);
    let server = ApiServer::start(Options::default()).unwrap();
    fill(&server, PODS, POLICIES);
    let (client, api) = (ObjectRef::new("shop", "web"), ObjectRef::new("shop", "api"));
    let (from, to): (IpAddr, IpAddr) = ([10, 200, 0, 1].into(), [10, 200, 0, 2].into());
    let planned = |pod: &ObjectRef, address: IpAddr| PlannedPod {
        pod: pod.clone(),
        node: NODE.into(),
        addresses: vec![address],
    };
    let plan = Plan {
        nodes: vec![PlannedNode { name: NODE.into(), addresses: vec![[192, 0, 2, 1].into()] }],
        pods: vec![planned(&client, from), planned(&api, to)],
        ..Plan::default()
    };
    let lab = Lab::build(&plan).unwrap();
    server.put(&json!({ "kind": "Namespace", "metadata": { "name": "shop" } })).unwrap();
    let status = json!({ "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] });
    server.put(&json!({ "kind": "Node", "metadata": { "name": NODE }, "status": status })).unwrap();
    server.put(&pod("web", from)).unwrap();
    server.put(&pod("api", to)).unwrap();
    let listener = lab.in_node(NODE, || TcpListener::bind(("127.0.0.1", 0)).unwrap()).unwrap();
    let inside = listener.local_addr().unwrap();
    server.listen(listener);
    let listens: SocketAddr = "127.0.0.1:9099".parse().unwrap();
    let agent = lab.in_node(NODE, || Agent::start(NODE, inside, listens, &arguments)).unwrap();
    lab.in_node(NODE, || agent.until_ready()).unwrap();
    let bench = Bench { lab: &lab, server: &server, client, api, to };
    bench.run(backend, trials);
    drop(agent);
    lab.in_node(NODE, || remove(backend)).unwrap();
}

struct Bench<'a> {
    lab: &'a Lab,
    server: &'a ApiServer,
    client: ObjectRef,
    api: ObjectRef,
    to: IpAddr,
}

/// What the two ends of the traffic have seen.
#[derive(Default)]
struct Traffic {
    over: AtomicBool,
    /// When each datagram was sent.
    sent: Mutex<Vec<Instant>>,
    /// The last number that arrived, counted from 1, and how many did.
    last: AtomicU32,
    arrived: AtomicU32,
}

impl Bench<'_> {
    fn run(&self, backend: &str, trials: u32) {
        let traffic = Traffic::default();
        std::thread::scope(|scope| {
            let (ready, receiving) = mpsc::channel();
            scope.spawn(|| {
                self.lab.in_pod(&self.api, || receive(&traffic, self.to, ready)).unwrap();
            });
            receiving.recv().unwrap();
            scope.spawn(|| self.lab.in_pod(&self.client, || send(&traffic, self.to)).unwrap());
            let line = heard(self.server, scope);
            let mut baseline = Vec::new();
            let mut drops = |rest: Duration| {
                let mut drops = Vec::new();
                for _ in 0..trials {
                    until_flowing(&traffic);
                    std::thread::sleep(rest);
                    while line.try_recv().is_ok() {}
                    let created = Instant::now();
                    self.server.put(&deny()).unwrap();
                    baseline.push(line.recv().unwrap() - created);
                    drops.push(first_dropped(&traffic) - created);
                    self.server.delete("NetworkPolicy", "shop", "deny").unwrap();
                }
                drops
            };
            let (alone, behind) = (drops(REST), drops(Duration::ZERO));
            self.server.put(&admit_web()).unwrap();
            let mut allows = Vec::new();
            for _ in 0..trials {
                self.server.delete("Pod", "shop", "web").unwrap();
                until_silent(&traffic);
                let before = traffic.last.load(Ordering::Acquire);
                let created = Instant::now();
                self.server.put(&pod("web", [10, 200, 0, 1].into())).unwrap();
                allows.push(first_arrived(&traffic, before) - created);
            }
            traffic.over.store(true, Ordering::Relaxed);
            self.server.cut_off();
            report(backend, "policy created → first packet dropped", alone);
            report(backend, "the same, as soon as the one before is seen to be gone", behind);
            report(backend, "pod created → first packet allowed", allows);
            report(backend, "policy created → line of a watch received (baseline)", baseline);
        });
    }
}

fn report(backend: &str, what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    println!(
        "| {backend} | {what} | {} | {:.1?} | {:.1?} | {:.1?} |",
        times.len(),
        at(500),
        at(990),
        at(999)
    );
}

fn send(traffic: &Traffic, to: IpAddr) {
    let mut number = 0_u32;
    while !traffic.over.load(Ordering::Relaxed) {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        number += 1;
        traffic.sent.lock().unwrap().push(Instant::now());
        // A refusal of an earlier one may be told here.
        let _ = socket.send_to(&number.to_be_bytes(), (to, PORT.get()));
        std::thread::sleep(PAUSE);
    }
}

fn receive(traffic: &Traffic, at: IpAddr, ready: mpsc::Sender<()>) {
    let socket = UdpSocket::bind((at, PORT.get())).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    ready.send(()).unwrap();
    let mut word = [0; 4];
    while !traffic.over.load(Ordering::Relaxed) {
        if socket.recv(&mut word).is_ok() {
            traffic.last.fetch_max(u32::from_be_bytes(word), Ordering::Release);
            traffic.arrived.fetch_add(1, Ordering::Release);
        }
    }
}

/// Waits until some datagrams in a row have arrived.
fn until_flowing(traffic: &Traffic) {
    let start = traffic.arrived.load(Ordering::Acquire);
    wait(|| traffic.arrived.load(Ordering::Acquire) > start + 20);
}

fn until_silent(traffic: &Traffic) {
    let (mut last, mut since) = (traffic.last.load(Ordering::Acquire), Instant::now());
    wait(|| {
        let now = traffic.last.load(Ordering::Acquire);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let sent = traffic.sent.lock().unwrap().len();
        since.elapsed() > SILENCE && sent > last as usize + 20
    });
}

/// When the first datagram was sent behind which nothing arrived.
fn first_dropped(traffic: &Traffic) -> Instant {
    until_silent(traffic);
    let last = traffic.last.load(Ordering::Acquire) as usize;
    traffic.sent.lock().unwrap()[last]
}

/// When the first datagram was sent that arrived after `before`.
fn first_arrived(traffic: &Traffic, before: u32) -> Instant {
    wait(|| traffic.last.load(Ordering::Acquire) > before);
    let first = traffic.last.load(Ordering::Acquire) as usize;
    traffic.sent.lock().unwrap()[first - 1]
}

fn wait(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "never");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// What any client of the API sees: when the line about a new policy arrives.
fn heard<'scope>(
    server: &ApiServer,
    scope: &'scope std::thread::Scope<'scope, '_>,
) -> mpsc::Receiver<Instant> {
    let (sender, receiver) = mpsc::channel();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let path = "/apis/networking.k8s.io/v1/networkpolicies?watch=true&resourceVersion=";
    let version = server.revision();
    write!(stream, "GET {path}{version} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    scope.spawn(move || {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        for _ in lines.filter(|line| line.contains("\"ADDED\"")) {
            if sender.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn pod(name: &str, address: IpAddr) -> Value {
    json!({
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
        "spec": { "nodeName": NODE, "containers": [{ "name": "c", "image": "i" }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": address.to_string() }] },
    })
}

fn deny() -> Value {
    json!({
        "kind": "NetworkPolicy", "metadata": { "name": "deny", "namespace": "shop" },
        "spec": { "podSelector": { "matchLabels": { "app": "api" } }, "policyTypes": ["Ingress"] },
    })
}

fn admit_web() -> Value {
    json!({
        "kind": "NetworkPolicy", "metadata": { "name": "admit", "namespace": "shop" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "api" } },
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "web" } } }] }],
        },
    })
}
