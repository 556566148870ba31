//! No packet meets half a change: while rulesets replace one another under traffic, what all of them allow is never lost
//! and what all of them deny never gets through.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::io;
use std::net::UdpSocket;
use std::thread;
use std::time::Instant;

use netpol_conformance::exam::Exam;
use netpol_conformance::netlab::{End, Lab};
use netpol_conformance::oracle;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Flow, Scope, Settings, Transport, Verdict};
use netpol_core::model::{Cluster, ObjectRef, Protocol};
use netpol_k8s::manifest::{ReadOptions, read_str};

use super::Backend;

/// Allowed and denied by every variant.
const ALLOWED: u16 = 53;
const DENIED: u16 = 8080;
const CLIENT: &str = "10.0.1.1";
const SERVER: &str = "10.0.1.2";
/// How many changes are made at the least, and how long at the least.
const CHANGES: usize = 60;
const TIME: Duration = Duration::from_secs(12);

const OBJECTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: a}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.1.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, labels: {app: b}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.1.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, labels: {app: c}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.1.3}]}}
---
";

/// Ways to allow the one and deny the other: by the destination, the source, both; by pods, networks, ports and tiers.
const VARIANTS: [&str; 9] = [
    "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{protocol: UDP, port: 53}]}]}
",
    "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{protocol: UDP, port: 1, endPort: 1000}]}]}
",
    "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.1.2/32, 10.0.1.3/32]}}], ports: [{protocol: UDP, port: 53}, {port: 80}]}]}
",
    "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: b}}}], ports: [{protocol: UDP, port: 53}]}]}
",
    "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{protocol: UDP, port: 53}]}], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{protocol: UDP, port: 53}]}]}
",
    "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec:
  podSelector: {matchLabels: {app: b}}
  ingress:
    - {from: [{podSelector: {matchLabels: {app: a}}}], ports: [{protocol: UDP, port: 53}]}
    - {from: [{podSelector: {matchLabels: {app: c}}}], ports: [{protocol: UDP, port: 54}]}
    - {from: [{podSelector: {}}], ports: [{port: 80}, {port: 81}]}
    - {from: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: 443}]}
",
    "
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: {name: t}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress:
    - {action: Accept, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 53}}}]}
    - {action: Deny, from: [{namespaces: {}}]}
",
    "
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: {name: t}
spec:
  tier: Baseline
  priority: 1
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{udp: {destinationPort: {range: {start: 54, end: 9000}}}}]}]
",
    "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: {name: t}
spec:
  tier: Admin
  priority: 1
  subject: {pods: {namespaceSelector: {}, podSelector: {}}}
  ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 53}}}]}]
  egress: [{action: Accept, to: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 53}}}]}]
",
];

/// What the traffic met.
#[derive(Debug, Default)]
struct Traffic {
    ended: AtomicBool,
    answered: AtomicU64,
    lost: AtomicU64,
    tried: AtomicU64,
    leaked: AtomicU64,
}

pub(super) fn holds(backend: Backend) {
    let clusters: Vec<Cluster> = VARIANTS.iter().map(|policies| variant(policies)).collect();
    let exam = Exam::new(&clusters[0], Settings::default(), &[]).unwrap();
    let mut dataplane = backend();
    exam.enforce(&clusters[0], dataplane.as_mut()).unwrap();
    let traffic = Traffic::default();
    let changes = thread::scope(|scope| {
        scope.spawn(|| serve(exam.lab(), &traffic));
        scope.spawn(|| ask(exam.lab(), &traffic));
        let begun = Instant::now();
        let mut changes = 0;
        let options = Options { scope: Scope::Node("n1".into()), ..Options::default() };
        let rulesets: Vec<_> =
            clusters.iter().map(|cluster| compile(cluster, &options).ruleset).collect();
        let done = exam.lab().in_node("n1", || {
            // Every way from one variant to another comes by in time.
            for index in
                (0..).map(|step: usize| step * (1 + step / VARIANTS.len()) % VARIANTS.len())
            {
                if changes >= CHANGES && begun.elapsed() >= TIME {
                    break;
                }
                dataplane.sync(&rulesets[index]).unwrap();
                changes += 1;
            }
        });
        traffic.ended.store(true, Ordering::Relaxed);
        done.unwrap();
        changes
    });
    let Traffic { answered, lost, tried, leaked, .. } = traffic;
    let [answered, lost, tried, leaked] =
        [answered, lost, tried, leaked].map(AtomicU64::into_inner);
    eprintln!(
        "{changes} changes: {answered} answered, {lost} lost, {tried} forbidden, {leaked} leaked"
    );
    assert_eq!((lost, leaked), (0, 0));
    assert!(answered > 500 && tried > 1000, "too little traffic to mean anything");
    exam.remove(dataplane.as_mut()).unwrap();
}

/// Puts the policies to the pods, and makes sure of the two verdicts.
fn variant(policies: &str) -> Cluster {
    let text = format!("{OBJECTS}{policies}");
    let cluster = read_str("hitless.yaml", &text, &ReadOptions::default()).unwrap().cluster;
    for (port, verdict) in [(ALLOWED, Verdict::Allow), (DENIED, Verdict::Deny)] {
        let [client, server] = [CLIENT, SERVER].map(|address| address.parse().unwrap());
        let flow = Flow::new(client, server, Transport::Port(Protocol::Udp, port));
        assert_eq!(oracle::allowed(&cluster, Settings::default(), &flow), verdict, "{policies}");
    }
    cluster
}

/// Waits for a packet, also where a signal to the process comes first.
fn received(socket: &UdpSocket) -> io::Result<SocketAddr> {
    loop {
        match socket.recv_from(&mut [0; 8]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received.map(|(_, from)| from),
        }
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Answers on the one port, counts on the other.
fn serve(lab: &Lab, traffic: &Traffic) {
    let serve = |port, got: fn(&Traffic, &UdpSocket, SocketAddr)| {
        let socket = UdpSocket::bind(at(SERVER, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        while !traffic.ended.load(Ordering::Relaxed) {
            if let Ok(from) = received(&socket) {
                got(traffic, &socket, from);
            }
        }
    };
    let pod = &End::Pod(ObjectRef::new("default", "b"));
    let answer = |_: &Traffic, socket: &UdpSocket, from| drop(socket.send_to(&[1; 8], from));
    let count = |traffic: &Traffic, _: &UdpSocket, _| {
        traffic.leaked.fetch_add(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        scope.spawn(|| lab.in_end(pod, || serve(ALLOWED, answer)).unwrap());
        scope.spawn(|| lab.in_end(pod, || serve(DENIED, count)).unwrap());
    });
}

fn ask(lab: &Lab, traffic: &Traffic) {
    // A socket of its own is a connection of its own, which the rules judge anew.
    let fresh = || UdpSocket::bind(at(CLIENT, 0)).unwrap();
    let ask = || {
        thread::sleep(Duration::from_millis(200)); // The server binds.
        while !traffic.ended.load(Ordering::Relaxed) {
            let socket = fresh();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.send_to(&[1; 8], at(SERVER, ALLOWED)).unwrap();
            let met = match received(&socket) {
                Ok(_) => &traffic.answered,
                Err(_) => &traffic.lost,
            };
            met.fetch_add(1, Ordering::Relaxed);
            for _ in 0..2 {
                fresh().send_to(&[1; 8], at(SERVER, DENIED)).unwrap();
                traffic.tried.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    lab.in_end(&End::Pod(ObjectRef::new("default", "a")), ask).unwrap();
}
