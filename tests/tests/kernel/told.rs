//! What a dataplane tells: how many packets each cause decided on, and which flows were denied.

use alloc::collections::BTreeMap;
use core::net::IpAddr;
use core::time::Duration;
use std::thread;
use std::time::Instant;

use netpol_conformance::exam::Subject;
use netpol_conformance::netlab::{Between, Content, Crowd, Packet};
use netpol_core::backend::{Cause, Dataplane, Denial, SyncError};
use netpol_core::ir::{Direction, Flow, Settings, Transport, Verdict};
use netpol_core::model::{Cluster, Protocol};
use netpol_k8s::manifest::{ReadOptions, read_str};

use super::Backend;
use super::world::{NODE, OWN};

const OBJECTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n0}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: 'fd01::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: a}}, spec: {nodeName: n0, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, labels: {app: b}}, spec: {nodeName: n0, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, labels: {app: c}}, spec: {nodeName: n0, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.0.3}, {ip: 'fd00::3'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: d, labels: {app: d}}, spec: {nodeName: n0, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.0.4}, {ip: 'fd00::4'}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in}
spec:
  podSelector: {matchLabels: {app: b}}
  ingress:
    - {from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 80}]}
    - {from: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: '2001:db8::/32'}}], ports: [{protocol: UDP, port: 53}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec:
  podSelector: {matchLabels: {app: c}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: '2001:db8::/32'}}], ports: [{port: 443}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: d}}}}], protocols: [{tcp: {destinationPort: {number: 22}}}]}]
";
const A: [&str; 2] = ["10.0.0.1", "fd00::1"];
const B: [&str; 2] = ["10.0.0.2", "fd00::2"];
const C: [&str; 2] = ["10.0.0.3", "fd00::3"];
const D: [&str; 2] = ["10.0.0.4", "fd00::4"];
const OUTSIDE: [&str; 2] = ["203.0.113.7", "2001:db8::7"];

/// A policy, and which of its rules and of that rule's peers; none where no rule matched.
type Decides = (&'static str, Option<(u32, u32)>);

/// From, to, what, how many, which side decides, what decides, and how.
const SENT: [([&str; 2], [&str; 2], Protocol, u16, usize, Direction, Decides, Verdict); 6] = [
    (A, B, Protocol::Tcp, 80, 17, Direction::Ingress, ("in", Some((0, 0))), Verdict::Allow),
    (OUTSIDE, B, Protocol::Udp, 53, 23, Direction::Ingress, ("in", Some((1, 0))), Verdict::Allow),
    (OUTSIDE, B, Protocol::Tcp, 81, 31, Direction::Ingress, ("in", None), Verdict::Deny),
    (C, OUTSIDE, Protocol::Tcp, 443, 13, Direction::Egress, ("out", Some((0, 0))), Verdict::Allow),
    (C, OUTSIDE, Protocol::Udp, 99, 19, Direction::Egress, ("out", None), Verdict::Deny),
    (D, B, Protocol::Tcp, 22, 29, Direction::Ingress, ("guard", Some((0, 0))), Verdict::Deny),
];
/// How many denied packets are sent at once, and which part of them may be told of at the most.
const FLOOD: usize = 30_000;
const TOLD: usize = FLOOD / 5;

struct Stage {
    crowd: Crowd,
    dataplane: Box<dyn Dataplane + Send>,
    cluster: Cluster,
    port: u16,
}

impl Stage {
    fn new(backend: Backend) -> Self {
        let cluster = read_str("told.yaml", OBJECTS, &ReadOptions::default()).unwrap().cluster;
        let mut crowd = Crowd::build().unwrap();
        let pods = [A, B, C, D].into_iter().flatten().map(|address| address.parse().unwrap());
        crowd.settle(OWN.map(|own| own.parse().unwrap()).into(), pods.collect()).unwrap();
        let node = NODE.into();
        let settings = Settings::default();
        let subject = Subject { cluster: &cluster, node: &node, settings, pod_ranges: &[] };
        for (from, to, protocol, port, .., verdict) in SENT {
            for family in 0..2 {
                let flow = flow(from[family], to[family], protocol, port);
                assert_eq!(subject.expected(&flow), verdict, "{flow}");
            }
        }
        let ruleset = subject.ruleset();
        let mut dataplane = backend();
        crowd.in_node(|| dataplane.sync(&ruleset)).unwrap().unwrap();
        Self { crowd, dataplane, cluster, port: 20_000 }
    }

    /// Sends the first packet of a connection of its own. Returns its source port.
    fn send(&mut self, flow: &Flow) -> u16 {
        self.port = if self.port == 60_000 { 20_000 } else { self.port + 1 };
        let content = match flow.transport {
            Transport::Port(Protocol::Tcp, to) => Content::Tcp(self.port, to, 2),
            Transport::Port(Protocol::Udp, to) => Content::Udp(self.port, to),
            Transport::Port(Protocol::Sctp, to) => Content::Sctp(self.port, to),
            Transport::Other(_) => Content::Echo(self.port),
        };
        let (source, destination) = (flow.source, flow.destination);
        let packet = Packet { source, destination, content, between: Between::Nothing, number: 0 };
        self.crowd.send(&packet).unwrap();
        self.crowd.receive(|_, _| {});
        self.port
    }

    fn denials(&mut self) -> Option<Vec<Denial>> {
        let dataplane = &mut self.dataplane;
        match self.crowd.in_node(|| dataplane.denials()).unwrap() {
            Ok(denials) => Some(denials.flows),
            Err(SyncError::Missing { what, hint }) => {
                eprintln!("NOT OFFERED by this backend: {what}: {hint}");
                None
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn end(mut self) {
        let dataplane = &mut self.dataplane;
        self.crowd.in_node(|| dataplane.remove()).unwrap().unwrap();
    }
}

fn flow(from: &str, to: &str, protocol: Protocol, port: u16) -> Flow {
    let [from, to] = [from, to].map(|address| address.parse::<IpAddr>().unwrap());
    Flow::new(from, to, Transport::Port(protocol, port))
}

/// A network is of one family, so that a rule has a peer for each; a pod has both.
fn of_family(decides: Decides, family: u32, is_network: bool) -> Decides {
    let (policy, rule) = decides;
    (policy, rule.map(|(rule, peer)| (rule, if is_network { family } else { peer })))
}

/// Which of the policies and rules a cause names.
fn decides(cause: &Cause) -> Vec<Decides> {
    let known = |name: &str| {
        ["in", "out", "guard"].into_iter().find(|known| *known == name).expect("a policy of ours")
    };
    match cause {
        Cause::Rules(rules) => rules
            .iter()
            .map(|origin| {
                (known(&origin.policy.object.name), origin.peer.map(|peer| (origin.rule, peer)))
            })
            .collect(),
        Cause::Isolation(policies) => {
            policies.iter().map(|policy| (known(&policy.object.name), None)).collect()
        }
        Cause::Default | Cause::UnknownPod | Cause::Guard => Vec::new(),
    }
}

/// Sends known numbers of packets and expects exactly these numbers.
pub(super) fn counts(backend: Backend) {
    let mut stage = Stage::new(backend);
    for (from, to, protocol, port, count, ..) in SENT {
        for family in 0..2 {
            let flow = flow(from[family], to[family], protocol, port);
            for _ in 0..count {
                stage.send(&flow);
            }
        }
    }
    thread::sleep(Duration::from_millis(100)); // Softirqs of a machine under load.
    let dataplane = &mut stage.dataplane;
    let counters = match stage.crowd.in_node(|| dataplane.counters()).unwrap() {
        Ok(counters) => counters,
        Err(SyncError::Missing { what, hint }) => {
            return eprintln!("NOT OFFERED by this backend: {what}: {hint}");
        }
        Err(error) => panic!("{error:?}"),
    };
    let mut expected: BTreeMap<(bool, Decides), u64> = BTreeMap::new();
    for (from, to, .., count, direction, decides, _) in SENT {
        for family in 0..2 {
            let decides = of_family(decides, family, from == OUTSIDE || to == OUTSIDE);
            let count = u64::try_from(count).unwrap();
            *expected.entry((direction == Direction::Egress, decides)).or_default() += count;
        }
    }
    let mut seen: BTreeMap<(bool, Decides), usize> = BTreeMap::new();
    for counter in &counters {
        let is_egress = counter.direction == Direction::Egress;
        let named = decides(&counter.cause);
        let mut sum = 0;
        for decides in named.iter().collect::<alloc::collections::BTreeSet<_>>() {
            sum += expected.get(&(is_egress, *decides)).copied().unwrap_or(0);
            *seen.entry((is_egress, *decides)).or_default() += 1;
        }
        let verdicts = SENT.iter().filter(|(.., direction, decides, _)| {
            (*direction == Direction::Egress) == is_egress
                && (0..2).any(|family| named.contains(&of_family(*decides, family, true)))
        });
        for (.., verdict) in verdicts {
            assert_eq!(counter.verdict, *verdict, "{counter:?}");
        }
        if !named.is_empty() {
            assert_eq!(counter.packets, sum, "{counter:?}\nof {counters:#?}");
            assert!(counter.bytes == 0 || counter.bytes >= 36 * sum, "{counter:?}");
        }
    }
    for (key, count) in expected {
        assert_eq!(
            seen.get(&key),
            Some(&1),
            "{key:?} with {count} packets is told once: {counters:#?}"
        );
    }
    stage.end();
}

/// Sends denied packets and expects to be told of each; of a flood of them, of a part.
pub(super) fn denials(backend: Backend) {
    let mut stage = Stage::new(backend);
    let Some(_) = stage.denials() else { return };
    let mut missing = Vec::new();
    for (from, to, protocol, port, _, direction, decides, verdict) in SENT {
        for family in 0..2 {
            let flow = flow(from[family], to[family], protocol, port);
            let source_port = stage.send(&flow);
            if verdict == Verdict::Deny {
                let source_port = Some(source_port);
                missing.push((flow, source_port, direction, decides));
            }
        }
    }
    for family in 0..2 {
        let echo = if family == 0 { 1 } else { 58 };
        let flow = Flow {
            transport: Transport::Other(echo),
            ..flow(OUTSIDE[family], B[family], Protocol::Tcp, 1)
        };
        stage.send(&flow);
        missing.push((flow, None, Direction::Ingress, ("in", None)));
    }
    let begun = Instant::now();
    while !missing.is_empty() {
        for denial in stage.denials().unwrap() {
            let place = missing.iter().position(|(flow, source_port, direction, decided)| {
                *flow == denial.flow
                    && *source_port == denial.source_port
                    && *direction == denial.direction
                    && decides(&denial.cause).contains(decided)
            });
            match place {
                Some(place) => drop(missing.swap_remove(place)),
                None => panic!("nobody sent {denial:?}; missing: {missing:?}"),
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody told of {missing:?}");
        thread::sleep(Duration::from_millis(10));
    }
    // More than anybody wants to read.
    let flood = flow(OUTSIDE[0], B[0], Protocol::Tcp, 81);
    let mut told = 0;
    for number in 0..FLOOD {
        stage.send(&flood);
        if number % 1000 == 0 {
            told += stage.denials().unwrap().len();
        }
    }
    thread::sleep(Duration::from_millis(300));
    told += stage.denials().unwrap().len();
    eprintln!("of {FLOOD} denied packets in a flood, {told} were told of");
    assert!(told > 0 && told <= TOLD, "{told} of {FLOOD}");
    let _ = &stage.cluster;
    stage.end();
}
