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

/// Packets that are sent, and what becomes of them.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// The addresses of each family.
    from: [&'static str; 2],
    to: [&'static str; 2],
    protocol: Protocol,
    port: u16,
    count: usize,
    /// The side that decides.
    direction: Direction,
    decides: Decides,
    verdict: Verdict,
}

const SENT: [Sent; 6] = {
    use Direction::{Egress, Ingress};
    use Protocol::{Tcp, Udp};
    use Verdict::{Allow, Deny};
    let to_b = Sent {
        from: A,
        to: B,
        protocol: Tcp,
        port: 80,
        count: 17,
        direction: Ingress,
        decides: ("in", Some((0, 0))),
        verdict: Allow,
    };
    let from_c = Sent {
        from: C,
        to: OUTSIDE,
        protocol: Tcp,
        port: 443,
        count: 13,
        direction: Egress,
        decides: ("out", Some((0, 0))),
        verdict: Allow,
    };
    [
        to_b,
        from_c,
        Sent {
            from: OUTSIDE,
            protocol: Udp,
            port: 53,
            count: 23,
            decides: ("in", Some((1, 0))),
            ..to_b
        },
        Sent { from: OUTSIDE, port: 81, count: 31, decides: ("in", None), verdict: Deny, ..to_b },
        Sent {
            protocol: Udp,
            port: 99,
            count: 19,
            decides: ("out", None),
            verdict: Deny,
            ..from_c
        },
        Sent {
            from: D,
            port: 22,
            count: 29,
            decides: ("guard", Some((0, 0))),
            verdict: Deny,
            ..to_b
        },
    ]
};
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
        for sent in SENT {
            for flow in sent.flows() {
                assert_eq!(subject.expected(&flow), sent.verdict, "{flow}");
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

impl Sent {
    /// The flow in each family.
    fn flows(&self) -> [Flow; 2] {
        let [v4, v6] = [0, 1].map(|at| flow(self.from[at], self.to[at], self.protocol, self.port));
        [v4, v6]
    }

    /// What decides in each family: a network is of one, so that a rule has a peer for each; a pod has both.
    fn decides(&self) -> [Decides; 2] {
        let is_network = self.from == OUTSIDE || self.to == OUTSIDE;
        let (policy, rule) = self.decides;
        [0, 1]
            .map(|at| (policy, rule.map(|(rule, peer)| (rule, if is_network { at } else { peer }))))
    }
}

fn flow(from: &str, to: &str, protocol: Protocol, port: u16) -> Flow {
    let [from, to] = [from, to].map(|address| address.parse::<IpAddr>().unwrap());
    Flow::new(from, to, Transport::Port(protocol, port))
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
    for sent in SENT {
        for flow in sent.flows() {
            for _ in 0..sent.count {
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
    for sent in SENT {
        for decides in sent.decides() {
            let key = (sent.direction == Direction::Egress, decides);
            *expected.entry(key).or_default() += u64::try_from(sent.count).unwrap();
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
        let decided = SENT.iter().filter(|sent| {
            (sent.direction == Direction::Egress) == is_egress
                && sent.decides().iter().any(|decides| named.contains(decides))
        });
        for sent in decided {
            assert_eq!(counter.verdict, sent.verdict, "{counter:?}");
        }
        if !named.is_empty() {
            assert_eq!(counter.packets, sum, "{counter:?}\nof {counters:#?}");
            // Small packets, without what stands before their IP header.
            assert!((28 * sum..=120 * sum).contains(&counter.bytes), "{counter:?}");
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
    for sent in SENT {
        for (flow, decides) in sent.flows().into_iter().zip(sent.decides()) {
            let source_port = Some(stage.send(&flow));
            if sent.verdict == Verdict::Deny {
                missing.push((flow, source_port, sent.direction, decides));
            }
        }
    }
    for (family, echo) in [1, 58].into_iter().enumerate() {
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
