//! The packet exam: thousands of packets made by hand for each ruleset, and what arrives of them.
//!
//! One node is under examination; all of its pods are simulated by one namespace, the world by another link of it
//! ([`Crowd`]), so a source can be anybody. What is judged is the verdict on the first packet: every packet opens a
//! connection of its own, and nobody answers.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::net::IpAddr;
use core::time::Duration;
use std::thread;
use std::time::Instant;

use netpol_core::backend::Dataplane;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Dialled, Flow, Ruleset, Scope, Settings, Transport, Verdict};
use netpol_core::model::{Cidr, Cluster, Protocol};
use netpol_core::net::PrefixSet;

use super::{Disagreement, ExamError, Report};
use crate::netlab::{Between, Content, Crowd, HEARD, Observation, Packet, Place, is_routable};
use crate::oracle::{self, Why};

/// Packets sent before what arrived is looked at.
const BURST: usize = 64;
/// How long is waited, after each sending, for what must pass and has not arrived. A machine under load loses packets
/// and takes its time, so it is sent again; what is wrongly dropped stays so.
const PATIENCE: [Duration; 5] = [
    Duration::from_millis(30),
    Duration::from_millis(60),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(2),
];
/// Two hosts outside that no policy can be about, between which a packet follows all others through the node.
const BEACON: [IpAddr; 2] = [
    IpAddr::V4(core::net::Ipv4Addr::new(198, 18, 0, 1)),
    IpAddr::V4(core::net::Ipv4Addr::new(198, 18, 0, 2)),
];
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What one node must do.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "tests write it as a literal")]
pub struct Subject<'a> {
    /// The objects.
    pub cluster: &'a Cluster,
    /// The node under examination.
    pub node: &'a Arc<str>,
    /// The embedder's choices.
    pub settings: Settings,
    /// Strict mode, if not empty: the addresses that only the node's pods may have.
    pub pod_ranges: &'a [Cidr],
}

impl Subject<'_> {
    /// Returns what the node must enforce.
    #[must_use]
    pub fn ruleset(&self) -> Ruleset {
        compile(self.cluster, &self.options()).ruleset
    }

    /// Returns what to compile for.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            scope: Scope::Node(self.node.clone()),
            settings: self.settings,
            pod_ranges: PrefixSet::from_cidrs(self.pod_ranges),
        }
    }

    /// Returns what the node itself must do with a flow, as the oracle says: pods of other nodes are judged there.
    #[must_use]
    pub fn expected(&self, flow: &Flow) -> Verdict {
        let judged = oracle::judge_strict(self.cluster, self.settings, self.pod_ranges, flow);
        let sides = [(judged.egress, flow.source), (judged.ingress, flow.destination)];
        let denies = |(side, address): &(oracle::Side, IpAddr)| {
            side.verdict == Verdict::Deny && (side.why == Why::UnknownPod || self.is_pod(*address))
        };
        if sides.iter().any(denies) { Verdict::Deny } else { Verdict::Allow }
    }

    /// Returns whether an address is that of a pod of this node.
    #[must_use]
    pub fn is_pod(&self, address: IpAddr) -> bool {
        let owner = oracle::owner(self.cluster, address);
        owner.is_some_and(|pod| pod.node.as_ref() == Some(self.node))
    }

    fn own(&self) -> BTreeSet<IpAddr> {
        self.cluster
            .nodes
            .get(self.node)
            .into_iter()
            .flat_map(|node| node.addresses.iter().copied())
            .filter(|address| {
                is_routable(*address) && oracle::owner(self.cluster, *address).is_none()
            })
            .collect()
    }

    fn pods(&self) -> BTreeSet<IpAddr> {
        let addresses = self.cluster.pods.values().flat_map(|pod| pod.addresses.iter().copied());
        addresses.filter(|address| is_routable(*address) && self.is_pod(*address)).collect()
    }
}

/// The packet exam of one node. Rulesets follow one another on it.
#[derive(Debug)]
pub struct PacketExam {
    crowd: Crowd,
    /// Everything that was ever sent, by number: what must be dropped is wrong whenever it arrives.
    sent: Vec<Sent>,
    /// Counts the source ports given out.
    ports: u16,
}

/// A packet that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    flow: Flow,
    expected: Verdict,
    arrived: bool,
}

impl PacketExam {
    /// Builds the node.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new() -> Result<Self, ExamError> {
        Ok(Self { crowd: Crowd::build()?, sent: Vec::new(), ports: 0 })
    }

    /// Returns the node and its links.
    #[must_use]
    pub const fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Gives the node its pods, and has it enforce their policies.
    ///
    /// # Errors
    /// If the kernel or the backend refuses.
    pub fn enforce(
        &mut self,
        subject: &Subject<'_>,
        dataplane: &mut (dyn Dataplane + Send),
    ) -> Result<(), ExamError> {
        self.settle(subject, &[])?;
        let ruleset = subject.ruleset();
        self.crowd
            .in_node(|| dataplane.sync(&ruleset))?
            .map_err(|source| ExamError::Sync { node: subject.node.to_string(), source })
    }

    /// Gives the node its addresses, its pods, and pods that no object tells of.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn settle(&mut self, subject: &Subject<'_>, unknown: &[IpAddr]) -> Result<(), ExamError> {
        let (own, mut pods) = (subject.own(), subject.pods());
        pods.extend(unknown.iter().filter(|address| !own.contains(address)));
        Ok(self.crowd.settle(own, pods)?)
    }

    /// Sends the flows that can be sent, and compares what arrives with the oracle.
    ///
    /// # Errors
    /// If the kernel refuses to send.
    pub fn ask(&mut self, subject: &Subject<'_>, flows: &[Flow]) -> Result<Report, ExamError> {
        let mut report = Report::default();
        let asked: BTreeSet<Flow> =
            flows.iter().map(|flow| self.as_on_the_wire(subject, flow)).collect();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for flow in asked {
            if !self.can_send(&flow) {
                report.left_out += 1;
                continue;
            }
            let question = (flow, subject.expected(&flow));
            report.asked += 1;
            report.denied += usize::from(question.1 == Verdict::Deny);
            // Connection tracking knows protocols without ports by their two ends alone, so that the one way would be
            // taken for the answer to the other.
            match flow.transport {
                Transport::Other(_) if flow.source > flow.destination => second.push(question),
                Transport::Other(_) | Transport::Port(..) => first.push(question),
            }
        }
        for volley in [first, second] {
            if !volley.is_empty() {
                self.crowd.forget_connections()?;
                self.fire(volley, &mut report)?;
            }
        }
        Ok(report)
    }

    /// A pod never sends what is for itself into the network, unless a Service's address has led there.
    fn as_on_the_wire(&self, subject: &Subject<'_>, flow: &Flow) -> Flow {
        let owner = |address| oracle::owner(subject.cluster, address).map(|pod| &pod.meta.object);
        let same = owner(flow.source).is_some() && owner(flow.source) == owner(flow.destination);
        let dialled = if same { Dialled::Service } else { Dialled::Address };
        Flow { dialled, ..*flow }
    }

    fn can_send(&self, flow: &Flow) -> bool {
        let to = self.crowd.place(flow.destination);
        let makes_sense = flow.source.is_ipv4() == flow.destination.is_ipv4()
            && is_routable(flow.source)
            && is_routable(flow.destination)
            && flow.source != flow.destination
            && (self.crowd.place(flow.source), to) != (Place::Node, Place::Node);
        makes_sense
            && match (content(flow, 1, 0), to) {
                (None, _) => false,
                (Some(Content::Bare(number)), Place::Node) => HEARD.contains(&number),
                (Some(_), _) => true,
            }
    }

    fn fire(
        &mut self,
        mut questions: Vec<(Flow, Verdict)>,
        report: &mut Report,
    ) -> Result<(), ExamError> {
        for patience in PATIENCE {
            let start = self.sent.len();
            for (index, (flow, expected)) in questions.iter().enumerate() {
                self.send(flow, *expected)?;
                if index % BURST == 0 {
                    self.receive(report);
                }
            }
            self.drain(start, patience, report)?;
            let sent = self.sent.iter().skip(start);
            questions = sent
                .filter(|sent| sent.expected == Verdict::Allow && !sent.arrived)
                .map(|sent| (sent.flow, sent.expected))
                .collect();
            if questions.is_empty() {
                break;
            }
        }
        for (flow, expected) in questions {
            report.wrong.push(Disagreement { flow, expected, observed: Observation::TimedOut });
        }
        Ok(())
    }

    fn send(&mut self, flow: &Flow, expected: Verdict) -> Result<(), ExamError> {
        let number = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        self.ports = (self.ports + 1) % 40_000;
        let Some(content) = content(flow, 20_000 + self.ports, number) else { return Ok(()) };
        let between = if number % 8 == 3 { Between::Options } else { Between::Nothing };
        let (source, destination) = (flow.source, flow.destination);
        self.crowd.send(&Packet { source, destination, content, between, number })?;
        self.sent.push(Sent { flow: *flow, expected, arrived: false });
        Ok(())
    }

    fn receive(&mut self, report: &mut Report) {
        let sent = &mut self.sent;
        self.crowd.receive(|_, number| {
            let place = usize::try_from(number).ok();
            let Some(sent) = place.and_then(|place| sent.get_mut(place)) else { return };
            if sent.expected == Verdict::Deny && !sent.arrived {
                let (flow, expected) = (sent.flow, sent.expected);
                report.wrong.push(Disagreement { flow, expected, observed: Observation::Passed });
            }
            sent.arrived = true;
        });
    }

    /// Waits until everything that was sent from `start` on has arrived that must, and until a packet sent after all
    /// others has.
    fn drain(
        &mut self,
        start: usize,
        patience: Duration,
        report: &mut Report,
    ) -> Result<(), ExamError> {
        let deadline = Instant::now() + patience;
        let [source, destination] = BEACON;
        let beacon = Flow::new(source, destination, Transport::Port(Protocol::Udp, 9));
        self.send(&beacon, Verdict::Allow)?;
        loop {
            self.receive(report);
            let mut sent = self.sent.iter().skip(start);
            if sent.all(|sent| sent.arrived || sent.expected == Verdict::Deny)
                || Instant::now() > deadline
            {
                return Ok(());
            }
            thread::sleep(Duration::from_micros(500));
        }
    }
}

/// Returns what opens a flow from a port, or, where there are none, under an identifier. Some connections begin in the
/// middle, as they do for a node that has forgotten them.
fn content(flow: &Flow, from: u16, number: u32) -> Option<Content> {
    Some(match (flow.transport, flow.source) {
        (Transport::Port(Protocol::Tcp, port), _) => {
            Content::Tcp(from, port, if number % 5 == 4 { ACK } else { SYN })
        }
        (Transport::Port(Protocol::Udp, port), _) => Content::Udp(from, port),
        (Transport::Port(Protocol::Sctp, port), _) => Content::Sctp(from, port),
        (Transport::Other(1), IpAddr::V4(_)) | (Transport::Other(58), IpAddr::V6(_)) => {
            Content::Echo(from)
        }
        // These have ports, are headers of IPv6 itself, or belong to nobody.
        (
            Transport::Other(
                0 | 6 | 17 | 43 | 44 | 51 | 59 | 60 | 132 | 135 | 136 | 139 | 140 | 255,
            ),
            _,
        ) => {
            return None;
        }
        (Transport::Other(number), _) => Content::Bare(number),
    })
}

/// Returns the node of a cluster that has the most policed pods.
#[must_use]
pub fn busiest_node(cluster: &Cluster) -> Option<Arc<str>> {
    let mut pods: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    for pod in cluster.pods.values().filter(|pod| pod.is_policed()) {
        if let Some(node) = &pod.node {
            *pods.entry(node).or_default() += 1;
        }
    }
    let (node, _) = pods.into_iter().max_by_key(|(_, count)| *count)?;
    Some(node.clone())
}
