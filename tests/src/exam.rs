//! The kernel exam: what really passes through a backend's rules, against what the oracle says must pass.
//!
//! A backend takes this crate as a dev-dependency, gives its [`Dataplane`], and is asked about clusters: each node gets
//! its ruleset inside its own namespace, real packets are sent, and every observation is held against the oracle.
//! Allowed means that the traffic works both ways; denied means silence (DEC-14), so a refusal is a failure too.

mod packets;

use alloc::collections::BTreeSet;
use core::fmt;
use core::net::IpAddr;
use core::num::NonZeroU16;
use core::time::Duration;

use netpol_core::addresses::{AddressPlan, assign};
use netpol_core::backend::{Dataplane, SyncError};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Dialled, Flow, Scope, Settings, Transport, Verdict};
use netpol_core::model::{Cluster, Protocol};

use crate::netlab::{
    HostPod, Lab, LabError, Observation, Patience, Plan, PlannedNode, PlannedPod, Probe, Traffic,
    is_routable,
};
use crate::oracle;

pub use packets::{PacketExam, Subject, busiest_node};

/// How long is waited for what must pass and did not at first.
const PATIENT: Patience = Patience { timeout: Duration::from_secs(3), repeats: 1 };

/// A cluster of namespaces under examination.
#[derive(Debug)]
pub struct Exam {
    lab: Lab,
    nodes: Vec<alloc::sync::Arc<str>>,
    settings: Settings,
}

/// What an exam found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Flows that were sent and observed.
    pub asked: usize,
    /// Of these, how many the oracle denies.
    pub denied: usize,
    /// Flows that a lab cannot send: a pod to itself through a Service, port 0, a source that is no host.
    pub left_out: usize,
    /// Flows on which kernel and oracle differ.
    pub wrong: Vec<Disagreement>,
}

impl Report {
    /// Adds what another exam found.
    pub fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.denied += other.denied;
        self.left_out += other.left_out;
        self.wrong.extend(other.wrong);
    }
}

/// A flow on which the kernel does not do what the oracle says.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Disagreement {
    /// The flow.
    pub flow: Flow,
    /// What must happen.
    pub expected: Verdict,
    /// What happened.
    pub observed: Observation,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: must {}, {}", self.flow, self.expected, self.observed)
    }
}

/// Why an exam cannot be held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExamError {
    /// The lab.
    #[error("the lab failed")]
    Lab(#[from] LabError),
    /// The backend refused a ruleset.
    #[error("node {node}: the backend failed")]
    Sync {
        /// On which node.
        node: String,
        /// Why.
        source: SyncError,
    },
}

/// Gives every object what a lab needs: addresses, and a node of two for every pod that has none.
pub fn complete(cluster: &mut Cluster, flows: &[Flow]) {
    let reserved = flows.iter().flat_map(|flow| [flow.source, flow.destination]).collect();
    let plan = AddressPlan {
        nodes: vec!["node-1".into(), "node-2".into()],
        reserved,
        ..AddressPlan::default()
    };
    assign(cluster, &plan);
}

impl Exam {
    /// Builds a lab for a cluster whose pods have nodes and addresses ([`complete`]). Ends of `flows` that are neither
    /// pods nor nodes become hosts outside.
    ///
    /// # Errors
    /// If the lab cannot be built.
    pub fn new(cluster: &Cluster, settings: Settings, flows: &[Flow]) -> Result<Self, ExamError> {
        let plan = plan(cluster, settings, flows);
        let nodes = plan.nodes.iter().map(|node| node.name.clone()).collect();
        Ok(Self { lab: Lab::build(&plan)?, nodes, settings })
    }

    /// Returns the lab.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Enforces the policies of `cluster` on every node.
    ///
    /// # Errors
    /// Names the node on which the backend failed.
    pub fn enforce(
        &self,
        cluster: &Cluster,
        dataplane: &mut (dyn Dataplane + Send),
    ) -> Result<(), ExamError> {
        for node in &self.nodes {
            let options = Options {
                scope: Scope::Node(node.clone()),
                settings: self.settings,
                ..Options::default()
            };
            let ruleset = compile(cluster, &options).ruleset;
            self.lab
                .in_node(node, || dataplane.sync(&ruleset))?
                .map_err(|source| ExamError::Sync { node: node.to_string(), source })?;
        }
        Ok(())
    }

    /// Takes the rules off every node.
    ///
    /// # Errors
    /// Names the node on which the backend failed.
    pub fn remove(&self, dataplane: &mut (dyn Dataplane + Send)) -> Result<(), ExamError> {
        for node in &self.nodes {
            self.lab
                .in_node(node, || dataplane.remove())?
                .map_err(|source| ExamError::Sync { node: node.to_string(), source })?;
        }
        Ok(())
    }

    /// Sends the flows and compares what is seen with the oracle.
    ///
    /// # Errors
    /// If the lab cannot send.
    pub fn ask(&self, cluster: &Cluster, flows: &[Flow]) -> Result<Report, ExamError> {
        let mut report = Report::default();
        let asked: BTreeSet<Flow> = flows.iter().copied().collect();
        let mut sent: Vec<(Flow, Probe)> = Vec::new();
        for flow in asked {
            match self.probe(&flow) {
                Some(probe) => sent.push((flow, probe)),
                None => report.left_out += 1,
            }
        }
        let probes: Vec<Probe> = sent.iter().map(|(_, probe)| probe.clone()).collect();
        let mut observations = self.lab.probe(&probes)?;
        let expected: Vec<Verdict> =
            sent.iter().map(|(flow, _)| oracle::allowed(cluster, self.settings, flow)).collect();
        // A machine under load can be too slow to answer in time. So what must pass and was silent is asked once more,
        // with more patience; a wrong denial stays one. What must be dropped and passed is wrong at once.
        let silent = |(index, verdict): (usize, &Verdict)| {
            let observed = observations.get(index).copied();
            (*verdict == Verdict::Allow && observed != Some(Observation::Passed)).then_some(index)
        };
        let again: Vec<usize> = expected.iter().enumerate().filter_map(silent).collect();
        if !again.is_empty() {
            let probes: Vec<Probe> =
                again.iter().filter_map(|index| probes.get(*index).cloned()).collect();
            for (index, seen) in again.iter().zip(self.lab.probe_with(&probes, PATIENT)?) {
                if let Some(observed) = observations.get_mut(*index) {
                    *observed = seen;
                }
            }
        }
        for (((flow, _), expected), observed) in sent.into_iter().zip(expected).zip(observations) {
            let right = match expected {
                Verdict::Allow => observed == Observation::Passed,
                Verdict::Deny => observed == Observation::TimedOut,
            };
            report.asked += 1;
            report.denied += usize::from(expected == Verdict::Deny);
            if !right {
                report.wrong.push(Disagreement { flow, expected, observed });
            }
        }
        Ok(report)
    }

    /// Returns the probe that sends a flow, if a lab can send it.
    fn probe(&self, flow: &Flow) -> Option<Probe> {
        if flow.dialled == Dialled::Service || flow.source.is_ipv4() != flow.destination.is_ipv4() {
            return None;
        }
        let traffic = traffic(flow.transport)?;
        let from = self.lab.owner(flow.source)?;
        self.lab.owner(flow.destination)?;
        Some(Probe { from, to: flow.destination, traffic })
    }
}

/// Returns what a lab sends for a transport; none for port 0 and for protocols it cannot make.
#[must_use]
pub fn traffic(transport: Transport) -> Option<Traffic> {
    Some(match transport {
        Transport::Port(Protocol::Tcp, port) => Traffic::Tcp(NonZeroU16::new(port)?),
        Transport::Port(Protocol::Udp, port) => Traffic::Udp(NonZeroU16::new(port)?),
        Transport::Port(Protocol::Sctp, port) => Traffic::Sctp(NonZeroU16::new(port)?),
        Transport::Other(1 | 58) => Traffic::Icmp,
        Transport::Other(number) => Traffic::Protocol(number),
    })
}

/// A lab has one owner for each address, as the cluster must have (NP-140): pods keep the addresses they own.
fn plan(cluster: &Cluster, settings: Settings, flows: &[Flow]) -> Plan {
    let ruleset =
        compile(cluster, &Options { scope: Scope::Cluster, settings, ..Options::default() })
            .ruleset;
    let mut plan = Plan::default();
    let mut known: BTreeSet<IpAddr> = BTreeSet::new();
    for endpoint in ruleset.endpoints() {
        if let Some(node) = endpoint.node.clone() {
            known.extend(&endpoint.addresses);
            plan.pods.push(PlannedPod {
                pod: endpoint.pod.clone(),
                node,
                addresses: endpoint.addresses.clone(),
            });
        }
    }
    for node in cluster.nodes.values() {
        let addresses =
            node.addresses.iter().copied().filter(|address| known.insert(*address)).collect();
        plan.nodes.push(PlannedNode { name: node.name().clone(), addresses });
    }
    for pod in cluster.pods.values().filter(|pod| pod.host_network && !pod.phase.is_finished()) {
        if let Some(node) = pod.node.clone() {
            plan.host_pods.push(HostPod { pod: pod.meta.object.clone(), node });
        }
    }
    let ends = flows.iter().flat_map(|flow| [flow.source, flow.destination]);
    plan.externals =
        ends.filter(|address| is_routable(*address) && known.insert(*address)).collect();
    plan
}
