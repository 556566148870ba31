//! Open connections and a change that denies them (NP-162, DEC-09): with [`Established::Recheck`] their next packet is
//! the last, whichever way it goes; with [`Established::Keep`] they stay. What a change does not deny loses nothing.

use core::net::IpAddr;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use netpol_conformance::events::puts;
use netpol_conformance::exam::Exam;
use netpol_conformance::netlab::{Connection, End, Lab, LabError, Observation};
use netpol_conformance::oracle;
use netpol_core::backend::{Dataplane, Established, Updated};
use netpol_core::compile::Options;
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::{Flow, Scope, Settings, Transport, Verdict};
use netpol_core::model::{Cluster, ObjectRef, Protocol};
use netpol_k8s::manifest::{ReadOptions, read_str};

/// Makes a dataplane that treats open connections so.
pub(super) type Treating = fn(Established) -> Box<dyn Dataplane + Send>;

/// How long silence must last to be one, and what must come may take on a loaded machine.
const SILENCE: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(8);
/// How often the rules change under connections that stay, and for how long at the most.
const CHANGES: usize = 200;
const TIME: Duration = Duration::from_secs(25);

const OBJECTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: InternalIP, address: 'fd01::1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: a}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.1.1}, {ip: 'fd00::1:1'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, labels: {app: b}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.1.2}, {ip: 'fd00::1:2'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, labels: {app: c}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.1.3}, {ip: 'fd00::1:3'}]}}
---
";
const OWN: [&str; 2] = ["192.168.0.1", "fd01::1"];
const EXTERNAL: [&str; 2] = ["203.0.113.7", "2001:db8::7"];

/// Everybody may reach `b`, and `a` may reach everybody, on the ports of the connections.
const OPEN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: 90, endPort: 99}, {protocol: UDP, port: 90, endPort: 99}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{ports: [{port: 90, endPort: 99}, {protocol: UDP, port: 90, endPort: 99}]}]}
";

/// What denies some of the connections: on the one side or the other, by pods, by networks, by a tier.
const DENYING: [&str; 5] = [
    "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: 1}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{ports: [{port: 90, endPort: 99}, {protocol: UDP, port: 90, endPort: 99}]}]}
",
    "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: 90, endPort: 99}, {protocol: UDP, port: 90, endPort: 99}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress]}
",
    "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: pods-only}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: a}}}}]}]}
",
    "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: node}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [192.168.0.0/24, 'fd01::/64', 203.0.113.0/24]}]}]}
",
    "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in}
spec: {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{protocol: UDP, port: 90, endPort: 99}]}]}
",
];

/// An open connection, the flow it is, and who speaks next.
struct Talk {
    flow: Flow,
    connection: Connection,
    turned: bool,
}

struct Stage {
    exam: Exam,
    engine: Engine,
    cluster: Cluster,
}

impl Stage {
    fn new(dataplane: &mut (dyn Dataplane + Send), policies: &str) -> Self {
        let cluster = read(policies);
        let settings = Settings::default();
        let ends: Vec<Flow> = EXTERNAL
            .map(|external| {
                let end: IpAddr = external.parse().unwrap();
                Flow::new(end, end, Transport::Port(Protocol::Tcp, 1))
            })
            .into();
        let exam = Exam::new(&cluster, settings, &ends).unwrap();
        let options = Options { scope: Scope::Node("n1".into()), settings, ..Options::default() };
        let mut engine = Engine::new(options);
        engine.apply_batch(puts(&cluster).into_iter().chain([Event::InSync]));
        exam.lab().in_node("n1", || dataplane.sync(engine.snapshot())).unwrap().unwrap();
        Self { exam, engine, cluster }
    }

    /// Changes the policies, and the rules by delta.
    fn change(
        &mut self,
        dataplane: &mut (dyn Dataplane + Send),
        policies: &str,
    ) -> Option<Updated> {
        let cluster = read(policies);
        let mut events: Vec<Event> = puts(&cluster);
        let names = self.cluster.network_policies.keys();
        let gone = names.filter(|name| !cluster.network_policies.contains_key(*name));
        events.extend(gone.cloned().map(Event::DeleteNetworkPolicy));
        let names = self.cluster.cluster_network_policies.keys();
        let gone = names.filter(|name| !cluster.cluster_network_policies.contains_key(*name));
        events.extend(gone.cloned().map(Event::DeleteClusterNetworkPolicy));
        let delta = self.engine.apply_batch(events);
        self.cluster = cluster;
        if delta == Delta::default() {
            return None;
        }
        let update = || dataplane.update(self.engine.snapshot(), &delta);
        Some(self.exam.lab().in_node("n1", update).unwrap().unwrap())
    }

    /// Opens connections of every kind between everybody, each to a port of its own.
    fn talks(&self) -> Vec<Talk> {
        let lab = self.exam.lab();
        let pod = |name| End::Pod(ObjectRef::new("default", name));
        let mut talks = Vec::new();
        for external in EXTERNAL {
            let external: IpAddr = external.parse().unwrap();
            let node = End::Node("n1".into());
            let pairs = [
                (pod("a"), pod("b")),
                (End::External(external), pod("b")),
                (pod("a"), End::External(external)),
                (pod("a"), node.clone()),
                (node, pod("b")),
            ];
            for (number, (from, to)) in pairs.into_iter().enumerate() {
                let address = |end: &End| {
                    let all = lab.addresses(end).unwrap();
                    *all.iter().find(|address| address.is_ipv4() == external.is_ipv4()).unwrap()
                };
                for (offset, turned) in [(0, false), (5, true)] {
                    for protocol in [Protocol::Tcp, Protocol::Udp] {
                        let port = 90 + u16::try_from(number).unwrap() + offset;
                        let open: Open = match protocol {
                            Protocol::Tcp => Lab::open_tcp,
                            Protocol::Udp | Protocol::Sctp => Lab::open_udp,
                        };
                        let to = address(&to);
                        let connection =
                            open(lab, &from, to, NonZeroU16::new(port).unwrap()).unwrap();
                        let flow = Flow::new(address(&from), to, Transport::Port(protocol, port));
                        talks.push(Talk { flow, connection, turned });
                    }
                }
            }
        }
        for talk in &mut talks {
            assert_eq!(talk.connection.exchange(PATIENCE), Observation::Passed, "{}", talk.flow);
        }
        let turn = |talk: Talk| match talk.turned {
            true => Talk { connection: talk.connection.turned(), ..talk },
            false => talk,
        };
        talks.into_iter().map(turn).collect()
    }

    /// Has every connection say something at the same time, and returns what is not as it must be.
    fn wrong(&self, talks: &mut [Talk], established: Established) -> (usize, Vec<String>) {
        let judge = |talk: &mut Talk| {
            let allowed =
                oracle::allowed(&self.cluster, Settings::default(), &talk.flow) == Verdict::Allow;
            let stays = allowed || established == Established::Keep;
            let seen = talk.connection.exchange(if stays { PATIENCE } else { SILENCE });
            // What the node itself sends is never judged (NP-125), so it may still arrive; the answer to it may not.
            let is_node = OWN.contains(&talk.flow.destination.to_string().as_str());
            let is_right = match (stays, is_node && talk.turned) {
                (true, _) => seen == Observation::Passed,
                (false, true) => seen != Observation::Passed,
                (false, false) => seen == Observation::TimedOut,
            };
            let must = if stays { "pass" } else { "be cut" };
            let wrong = format!(
                "{} ({}) must {must}: {seen}",
                talk.flow,
                if talk.turned { "the server speaks" } else { "the client speaks" }
            );
            (!allowed, (!is_right).then_some(wrong))
        };
        let seen: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                talks.iter_mut().map(|talk| scope.spawn(|| judge(talk))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let denied = seen.iter().filter(|(denied, _)| *denied).count();
        (denied, seen.into_iter().filter_map(|(_, wrong)| wrong).collect())
    }
}

type Open = fn(&Lab, &End, IpAddr, NonZeroU16) -> Result<Connection, LabError>;

fn read(policies: &str) -> Cluster {
    let text = format!("{OBJECTS}{policies}");
    read_str("established.yaml", &text, &ReadOptions::default()).unwrap().cluster
}

/// Opens connections, denies some of them, and looks what becomes of each.
pub(super) fn holds(new: Treating) {
    for established in [Established::Recheck, Established::Keep] {
        for (number, denying) in DENYING.iter().enumerate() {
            let mut dataplane = new(established);
            let mut stage = Stage::new(dataplane.as_mut(), OPEN);
            let mut talks = stage.talks();
            stage.change(dataplane.as_mut(), denying);
            let (denied, wrong) = stage.wrong(&mut talks, established);
            assert!(wrong.is_empty(), "{established:?}, change {number}:\n{}", wrong.join("\n"));
            assert!(denied > 0 && denied < talks.len(), "change {number} denies {denied}");
            drop(talks);
            stage.exam.remove(dataplane.as_mut()).unwrap();
        }
    }
}

/// Opens connections while there is no policy at all; then those policies come that allow them, and would not allow them if
/// they had been opened from the other end.
pub(super) fn begins_before_the_first_policy(new: Treating) {
    const ONE_WAY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all}
spec: {podSelector: {}, ingress: [{ports: [{port: 90, endPort: 99}, {protocol: UDP, port: 90, endPort: 99}]}], egress: [{ports: [{port: 90, endPort: 99}, {protocol: UDP, port: 90, endPort: 99}]}]}
";
    for established in [Established::Recheck, Established::Keep] {
        let mut dataplane = new(established);
        let mut stage = Stage::new(dataplane.as_mut(), "");
        let mut talks = stage.talks();
        stage.change(dataplane.as_mut(), ONE_WAY);
        let (denied, wrong) = stage.wrong(&mut talks, established);
        assert!(wrong.is_empty(), "{established:?}:\n{}", wrong.join("\n"));
        assert_eq!(denied, 0);
        drop(talks);
        stage.exam.remove(dataplane.as_mut()).unwrap();
    }
}

/// Changes all the time what allows open connections, but never that they are allowed.
pub(super) fn lose_nothing(new: Treating) {
    const OTHERWISE: [&str; 3] = [
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.1.3/32]}}, {ipBlock: {cidr: '::/0'}}], ports: [{port: 80, endPort: 99}, {protocol: UDP, port: 1, endPort: 1000}]}]}
",
        "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: t}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{pods: {podSelector: {matchLabels: {app: c}}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: both}
spec: {podSelector: {}, ingress: [{}], egress: [{ports: [{port: 90, endPort: 99}, {protocol: UDP}]}]}
",
        "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: t}
spec: {tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 100, end: 9000}}}}]}]}
",
    ];
    let mut dataplane = new(Established::Recheck);
    let mut stage = Stage::new(dataplane.as_mut(), OPEN);
    let mut talks = stage.talks();
    for policies in OTHERWISE.iter().chain([&OPEN]) {
        let cluster = read(policies);
        for talk in &talks {
            let verdict = oracle::allowed(&cluster, Settings::default(), &talk.flow);
            assert_eq!(verdict, Verdict::Allow, "{} under {policies}", talk.flow);
        }
    }
    let (begun, mut changes) = (Instant::now(), 0);
    let (ended, exchanged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lost: Vec<String> = thread::scope(|scope| {
        let talking: Vec<_> = talks
            .iter_mut()
            .map(|talk| {
                scope.spawn(|| {
                    while !ended.load(Ordering::SeqCst) {
                        let seen = talk.connection.exchange(PATIENCE);
                        if seen != Observation::Passed {
                            return Some(format!("{}: {seen}", talk.flow));
                        }
                        exchanged.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(3));
                    }
                    None
                })
            })
            .collect();
        let _ending = super::churn::Ending(&ended);
        for policies in OTHERWISE.iter().chain([&OPEN]).cycle().take(CHANGES) {
            if begun.elapsed() > TIME {
                eprintln!("OUT OF TIME: {changes} of {CHANGES} changes");
                break;
            }
            stage.change(dataplane.as_mut(), policies);
            changes += 1;
        }
        ended.store(true, Ordering::SeqCst);
        talking.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    eprintln!(
        "{changes} changes over {} exchanges: {} lost",
        exchanged.load(Ordering::SeqCst),
        lost.len()
    );
    assert!(lost.is_empty(), "{}", lost.join("\n"));
    assert!(
        changes > CHANGES / 10 && exchanged.load(Ordering::SeqCst) > changes * 2,
        "too little traffic to mean anything"
    );
    drop(talks);
    stage.exam.remove(dataplane.as_mut()).unwrap();
}
