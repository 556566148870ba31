//! A cluster in which something happens all the time, the same for the same seed: labels, pods, addresses, namespaces and
//! policies come, change and go under a few names.
//!
//! Every pod is on the one node, and the node stays as it is.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::net::IpAddr;

use netpol_conformance::events::{event, puts, remember};
use netpol_conformance::exam::Subject;
use netpol_conformance::generate::{self, Random, Shape};
use netpol_conformance::netlab::is_routable;
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::{Dialled, Flow, Ruleset, Settings, Transport, Verdict};
use netpol_core::model::{Cluster, Node, ObjectMeta, ObjectRef, Phase};

pub(super) const NODE: &str = "n0";
pub(super) const OWN: [&str; 2] = ["192.168.0.1", "fd01::1"];
const FLOWS: usize = 200;

/// The cluster, and the engine that follows it.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) engine: Engine,
    /// What may happen.
    pool: Vec<Event>,
    random: Random,
    temper: Temper,
    /// Flows between ends that occur.
    pub(super) flows: Vec<Flow>,
}

/// What happens in a world.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Temper {
    /// Anything, several things at once, under tiers: much of it can only be carried out as a whole.
    Wild,
    /// One thing at a time, to pods and NetworkPolicies: most of it are a few members that come and go.
    Calm,
}

impl World {
    /// A world in which one of `events` different things happens each time.
    pub(super) fn new(seed: u64, events: u64, temper: Temper) -> Self {
        let cluster_network_policies = if temper == Temper::Wild { 6 } else { 0 };
        let shape = Shape {
            pods: 16,
            network_policies: 10,
            cluster_network_policies,
            flows: 4000,
            ..Shape::default()
        };
        let generate::Case { mut cluster, flows, .. } = generate::case(seed, shape);
        let mut node = Node {
            addresses: OWN.map(|address| address.parse().unwrap()).into(),
            ..Node::default()
        };
        node.meta = ObjectMeta { object: ObjectRef::cluster_scoped(NODE), ..node.meta };
        cluster.nodes = [(Arc::from(NODE), node)].into();
        cluster.pods.values_mut().for_each(|pod| pod.node = Some(NODE.into()));
        let mut random = Random::seeded(seed);
        let pool = (0..events)
            .filter_map(|number| tame(event(seed.wrapping_mul(1_000_003) + number), temper))
            .collect();
        let mut flows: Vec<Flow> =
            flows.into_iter().filter(can_send).collect::<BTreeSet<_>>().into_iter().collect();
        random.shuffle(&mut flows);
        flows.truncate(FLOWS);
        // What a pod sends to itself through its node has been through a Service.
        flows.iter_mut().for_each(|flow| flow.dialled = Dialled::Service);
        let settings = Settings::default();
        let arc = Arc::from(NODE);
        let subject = Subject { cluster: &cluster, node: &arc, settings, pod_ranges: &[] };
        let mut engine = Engine::new(subject.options());
        engine.apply_batch(puts(&cluster).into_iter().chain([Event::InSync]));
        Self { cluster, engine, pool, random, temper, flows }
    }

    /// Has one thing happen that changes what must be enforced. Returns which of the pool.
    pub(super) fn change(&mut self) -> (Vec<usize>, Delta) {
        loop {
            let count = match self.temper {
                Temper::Wild => self.random.between(1, 3),
                Temper::Calm => 1,
            };
            let chosen: Vec<usize> =
                (0..count).map(|_| self.random.below(self.pool.len())).collect();
            let delta = self.carry_out(&chosen);
            if delta != Delta::default() {
                return (chosen, delta);
            }
        }
    }

    /// Has these things of the pool happen.
    pub(super) fn carry_out(&mut self, chosen: &[usize]) -> Delta {
        let events: Vec<Event> = chosen.iter().map(|index| self.pool[*index].clone()).collect();
        events.iter().for_each(|event| remember(&mut self.cluster, event));
        self.engine.apply_batch(events)
    }

    /// As [`change`](Self::change), but what would change the verdict on one of these flows does not happen. What changes
    /// nothing yet may happen before: whoever wants to have the same world must repeat that too.
    pub(super) fn change_keeping(&mut self, kept: &[(Flow, Verdict)]) -> Vec<usize> {
        let mut happened = Vec::new();
        loop {
            let chosen = self.random.below(self.pool.len());
            let mut cluster = self.cluster.clone();
            remember(&mut cluster, &self.pool[chosen]);
            if kept.iter().any(|(flow, verdict)| expected(&cluster, flow) != *verdict) {
                continue;
            }
            happened.push(chosen);
            if self.carry_out(&[chosen]) != Delta::default() {
                return happened;
            }
        }
    }

    pub(super) const fn ruleset(&self) -> &Ruleset {
        self.engine.snapshot()
    }

    /// The verdicts on the flows, as the engine's ruleset gives them: fast.
    pub(super) fn verdicts(&self) -> Vec<bool> {
        let ruleset = self.ruleset();
        self.flows.iter().map(|flow| ruleset.verdict(flow).verdict == Verdict::Allow).collect()
    }

    /// The verdicts on the flows, as the oracle gives them.
    pub(super) fn oracle(&self) -> Vec<bool> {
        self.flows.iter().map(|flow| expected(&self.cluster, flow) == Verdict::Allow).collect()
    }

    /// Every address that pods may ever have.
    pub(super) fn pod_addresses() -> BTreeSet<IpAddr> {
        let v4 = (0..24u8).map(|low| IpAddr::from([10, 0, low / 16, low % 16]));
        let v6 = (0..24u16).map(|low| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, low]));
        v4.chain(v6).filter(|address| is_routable(*address)).collect()
    }
}

/// What the oracle says.
pub(super) fn expected(cluster: &Cluster, flow: &Flow) -> Verdict {
    let node = Arc::from(NODE);
    Subject { cluster, node: &node, settings: Settings::default(), pod_ranges: &[] }.expected(flow)
}

/// Keeps nodes as they are, and every pod on the one.
fn tame(event: Event, temper: Temper) -> Option<Event> {
    match event {
        Event::PutNamespace(_)
        | Event::DeleteNamespace(_)
        | Event::PutClusterNetworkPolicy(_)
        | Event::DeleteClusterNetworkPolicy(_)
            if temper == Temper::Calm =>
        {
            None
        }
        Event::PutPod(mut pod) => {
            pod.node = Some(NODE.into());
            let has_own = |address: &IpAddr| OWN.contains(&address.to_string().as_str());
            if !pod.host_network {
                pod.addresses.retain(|address| !has_own(address));
            }
            if pod.phase == Phase::Pending {
                pod.phase = Phase::Running;
            }
            Some(Event::PutPod(pod))
        }
        Event::PutNode(_) | Event::DeleteNode(_) | Event::InSync => None,
        Event::DeletePod(_)
        | Event::PutNamespace(_)
        | Event::DeleteNamespace(_)
        | Event::PutNetworkPolicy(_)
        | Event::DeleteNetworkPolicy(_)
        | Event::PutClusterNetworkPolicy(_)
        | Event::DeleteClusterNetworkPolicy(_) => Some(event),
    }
}

fn can_send(flow: &Flow) -> bool {
    let is_own = |address: IpAddr| OWN.contains(&address.to_string().as_str());
    let echo = if flow.source.is_ipv4() { 1 } else { 58 };
    flow.source.is_ipv4() == flow.destination.is_ipv4()
        && flow.source != flow.destination
        && is_routable(flow.source)
        && is_routable(flow.destination)
        && !(is_own(flow.source) && is_own(flow.destination))
        && [flow.source, flow.destination]
            .into_iter()
            .any(|end| World::pod_addresses().contains(&end))
        && match flow.transport {
            Transport::Port(..) => true,
            Transport::Other(number) => number == echo,
        }
}
