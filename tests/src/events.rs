//! Sequences of events for the incremental engine, and what they leave behind.
//!
//! Events put objects that the adversarial generator makes ([`generate`]), so that they meet again under
//! the same few names, labels and addresses: pods are relabelled, finish, move to other nodes and hosts' networks and take
//! over addresses; namespaces and policies change and go in any order, before and after what depends on them.
#![expect(
    clippy::exhaustive_structs,
    clippy::exhaustive_enums,
    reason = "plain inputs that suites write as literals and take apart"
)]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use netpol_core::compile::Options;
use netpol_core::engine::{Event, Tuning};
use netpol_core::ir::{Flow, OtherProtocols, OwnNodeEgress, Scope, Settings};
use netpol_core::model::{
    Cluster, ClusterNetworkPolicy, Field, Namespace, NetworkPolicy, Node, ObjectRef, Phase, Pod,
};

use crate::generate::{self, Case, Oddities, Random, Shape};

/// What happens to an engine.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most are single events")]
pub enum Happening {
    /// One event.
    Event(Event),
    /// Events that arrive together.
    Batch(Vec<Event>),
    /// A new engine is told of everything there is, in an order that hangs on the number, then of [`Event::InSync`].
    Restart(u64),
}

/// What happens to an engine, one thing after the other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Script {
    /// What the engine is made for.
    pub options: Options,
    /// Which ways it goes.
    pub tuning: Tuning,
    /// What happens.
    pub happenings: Vec<Happening>,
    /// Flows between ends that occur.
    pub flows: Vec<Flow>,
}

impl Script {
    /// Makes the script of a seed, with about so many events.
    #[must_use]
    pub fn new(seed: u64, events: usize) -> Self {
        let mut random = Random::seeded(seed);
        let shape = shape(&mut random);
        let mut cases: Vec<Case> =
            (0..3).map(|number| generate::case(seed.wrapping_mul(31) + number, shape)).collect();
        let mut happenings = Vec::new();
        // Some engines start full, some empty, and some are in sync only later.
        if random.one_in(2)
            && let Some(case) = cases.first()
        {
            happenings.push(Happening::Batch(listing(&case.cluster, random.bits())));
        }
        if !random.one_in(4) {
            happenings.push(Happening::Event(Event::InSync));
        }
        let mut count = 0;
        while count < events {
            if random.one_in(40) {
                // New versions of everything.
                let case = generate::case(random.bits(), shape);
                let place = random.below(cases.len());
                if let Some(old) = cases.get_mut(place) {
                    *old = case;
                }
            }
            let happening = happening(&mut random, &cases);
            count += happening.len();
            happenings.push(happening);
        }
        let scope = match random.below(3) {
            0 => Scope::Cluster,
            _ => Scope::Node(random.pick(["n0", "n1", "n2"]).into()),
        };
        let settings = Settings {
            own_node_egress: OwnNodeEgress::Enforce,
            other_protocols: random.pick([OtherProtocols::Judge, OtherProtocols::Pass]),
        };
        let flows = cases.into_iter().flat_map(|case| case.flows).collect();
        let mut tuning = Tuning::default();
        if !random.one_in(4) {
            tuning.few_pods = random.below(4);
            tuning.few_namespaces = random.below(3);
        }
        Self {
            options: Options { scope, settings, ..Options::default() },
            tuning,
            happenings,
            flows,
        }
    }

    /// A script of pods that change their labels, one to three at a time, under NetworkPolicies only: what backends without
    /// transactions over several sets may take apart, or may not.
    #[must_use]
    pub fn relabels(seed: u64, events: usize) -> Self {
        let mut random = Random::seeded(seed);
        let shape = Shape {
            pods: 8,
            network_policies: 10,
            cluster_network_policies: 0,
            flows: 500,
            oddities: Oddities::Valid,
        };
        let mut case = generate::case(seed, shape);
        for policy in case.cluster.network_policies.values_mut() {
            policy.pod_selector = Field::Absent; // So that labels decide who is a peer and nothing else.
        }
        let others: Vec<Case> =
            (0..4).map(|number| generate::case(seed.wrapping_mul(31) + number, shape)).collect();
        let mut happenings =
            alloc::vec![Happening::Batch(puts(&case.cluster)), Happening::Event(Event::InSync)];
        for _ in 0..events {
            let changed = (0..random.between(1, 3)).filter_map(|_| {
                let mut pod = any(&mut random, &case.cluster.pods)?;
                let other = random.pick_from(&others)?;
                pod.meta.labels = any(&mut random, &other.cluster.pods)?.meta.labels;
                Some(Event::PutPod(pod))
            });
            happenings.push(Happening::Batch(changed.collect()));
        }
        let options =
            Options { scope: Scope::Cluster, settings: case.settings, ..Options::default() };
        Self { options, tuning: Tuning::default(), happenings, flows: case.flows }
    }

    /// Takes happenings away for as long as `fails` stays true.
    pub fn shrink(mut self, fails: impl Fn(&Self) -> bool) -> Self {
        let mut chunk = self.happenings.len().div_ceil(2).max(1);
        loop {
            let mut start = 0;
            let mut shorter = false;
            while start < self.happenings.len() {
                let mut smaller = self.clone();
                let end = (start + chunk).min(smaller.happenings.len());
                smaller.happenings.drain(start..end);
                if fails(&smaller) {
                    self = smaller;
                    shorter = true;
                } else {
                    start = end;
                }
            }
            if chunk == 1 && !shorter {
                return self;
            }
            chunk = chunk.div_ceil(2);
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} {:?}", self.options, self.tuning)?;
        self.happenings.iter().try_for_each(|happening| writeln!(f, "{happening:#?}"))
    }
}

impl Happening {
    /// Returns the number of events.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Event(_) | Self::Restart(_) => 1,
            Self::Batch(events) => events.len(),
        }
    }

    /// Returns whether nothing happens.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Carries an event out on the objects it tells of.
pub fn remember(cluster: &mut Cluster, event: &Event) {
    match event.clone() {
        Event::PutPod(pod) => drop(cluster.pods.insert(pod.meta.object.clone(), pod)),
        Event::DeletePod(object) => drop(cluster.pods.remove(&object)),
        Event::PutNamespace(namespace) => {
            cluster.namespaces.insert(namespace.name().clone(), namespace);
        }
        Event::DeleteNamespace(name) => drop(cluster.namespaces.remove(&name)),
        Event::PutNode(node) => drop(cluster.nodes.insert(node.name().clone(), node)),
        Event::DeleteNode(name) => drop(cluster.nodes.remove(&name)),
        Event::PutNetworkPolicy(policy) => {
            cluster.network_policies.insert(policy.meta.object.clone(), policy);
        }
        Event::DeleteNetworkPolicy(object) => drop(cluster.network_policies.remove(&object)),
        Event::PutClusterNetworkPolicy(policy) => {
            cluster.cluster_network_policies.insert(policy.meta.object.name.clone(), policy);
        }
        Event::DeleteClusterNetworkPolicy(name) => {
            cluster.cluster_network_policies.remove(&name);
        }
        Event::InSync => {}
    }
}

/// Returns a put for every object, in an order that hangs on the seed.
#[must_use]
pub fn listing(cluster: &Cluster, seed: u64) -> Vec<Event> {
    let mut events: Vec<Event> = puts(cluster);
    Random::seeded(seed).shuffle(&mut events);
    events
}

/// Returns a put for every object, kind by kind.
#[must_use]
pub fn puts(cluster: &Cluster) -> Vec<Event> {
    let policies = cluster.network_policies.values().cloned().map(Event::PutNetworkPolicy);
    let ordered =
        cluster.cluster_network_policies.values().cloned().map(Event::PutClusterNetworkPolicy);
    let namespaces = cluster.namespaces.values().cloned().map(Event::PutNamespace);
    let nodes = cluster.nodes.values().cloned().map(Event::PutNode);
    let pods = cluster.pods.values().cloned().map(Event::PutPod);
    namespaces.chain(nodes).chain(pods).chain(policies).chain(ordered).collect()
}

/// One event of a seed, hanging on nothing else.
#[must_use]
pub fn event(seed: u64) -> Event {
    let mut random = Random::seeded(seed);
    let shape = Shape { flows: 0, ..Shape::default() };
    let cases: Vec<Case> = (0..2).map(|_| generate::case(random.bits() % 4, shape)).collect();
    one(&mut random, &cases)
}

fn shape(random: &mut Random) -> Shape {
    let oddities = random.pick([Oddities::Valid, Oddities::Live]);
    random.pick([
        Shape { pods: 12, network_policies: 8, cluster_network_policies: 6, flows: 60, oddities },
        Shape { pods: 5, network_policies: 4, cluster_network_policies: 3, flows: 60, oddities },
        Shape { pods: 16, network_policies: 3, cluster_network_policies: 1, flows: 60, oddities },
        Shape { pods: 12, network_policies: 12, cluster_network_policies: 0, flows: 60, oddities },
    ])
}

fn happening(random: &mut Random, cases: &[Case]) -> Happening {
    match random.below(60) {
        0 => Happening::Restart(random.bits()),
        1 => Happening::Event(Event::InSync),
        2..=9 => {
            let mut events: Vec<Event> =
                (0..random.between(0, 12)).map(|_| one(random, cases)).collect();
            // Watches repeat themselves.
            if random.one_in(3) {
                let again: Vec<Event> =
                    events.iter().filter(|_| random.one_in(3)).cloned().collect();
                events.extend(again);
            }
            Happening::Batch(events)
        }
        _ => Happening::Event(one(random, cases)),
    }
}

fn one(random: &mut Random, cases: &[Case]) -> Event {
    let empty = Cluster::default();
    let from = random.pick_from(cases).map_or(&empty, |case| &case.cluster);
    let other = random.pick_from(cases).map_or(&empty, |case| &case.cluster);
    for _ in 0..16 {
        let event = match random.below(24) {
            0..=9 => {
                any(random, &from.pods).map(|pod| Event::PutPod(changed_pod(random, pod, other)))
            }
            10 | 11 => any(random, &from.pods).map(|pod| Event::DeletePod(pod.meta.object)),
            12 | 13 => any(random, &from.namespaces)
                .map(|namespace| Event::PutNamespace(changed_namespace(random, namespace, other))),
            14 => any(random, &from.namespaces)
                .map(|namespace| Event::DeleteNamespace(namespace.name().clone())),
            15 => any(random, &from.nodes)
                .map(|node| Event::PutNode(changed_node(random, node, other))),
            16 => any(random, &from.nodes).map(|node| Event::DeleteNode(node.name().clone())),
            17..=19 => any(random, &from.network_policies)
                .map(|policy| Event::PutNetworkPolicy(changed_policy(random, policy, other))),
            20 => any(random, &from.network_policies)
                .map(|policy| Event::DeleteNetworkPolicy(policy.meta.object)),
            21 | 22 => any(random, &from.cluster_network_policies).map(|policy| {
                Event::PutClusterNetworkPolicy(changed_ordered_policy(random, policy, other))
            }),
            _ => any(random, &from.cluster_network_policies)
                .map(|policy| Event::DeleteClusterNetworkPolicy(policy.meta.object.name)),
        };
        if let Some(event) = event {
            return event;
        }
    }
    Event::DeletePod(ObjectRef::new("x", "nobody"))
}

fn any<K, V: Clone>(random: &mut Random, map: &alloc::collections::BTreeMap<K, V>) -> Option<V> {
    map.values().nth(random.below(map.len())).cloned()
}

/// The pod as it is, or with one thing about it as another pod has it.
fn changed_pod(random: &mut Random, mut pod: Pod, cluster: &Cluster) -> Pod {
    let Some(other) = any(random, &cluster.pods) else { return pod };
    match random.below(12) {
        0 => pod.meta.labels = other.meta.labels,
        1 => pod.phase = random.pick([Phase::Succeeded, Phase::Running, Phase::Pending]),
        2 => pod.node = other.node,
        3 => pod.host_network = !pod.host_network,
        4 => pod.addresses = other.addresses,
        5 => pod.containers = other.containers,
        6 => pod.terminating = !pod.terminating,
        7 => pod.addresses.extend(other.addresses),
        8 => pod.addresses.clear(),
        9 => pod.meta.created = other.meta.created,
        _ => {}
    }
    pod
}

fn changed_namespace(
    random: &mut Random,
    mut namespace: Namespace,
    cluster: &Cluster,
) -> Namespace {
    if let Some(other) = any(random, &cluster.namespaces)
        && random.one_in(2)
    {
        namespace = Namespace::new(&namespace.name().clone(), other.meta.labels);
    }
    namespace
}

fn changed_node(random: &mut Random, mut node: Node, cluster: &Cluster) -> Node {
    let Some(other) = any(random, &cluster.nodes) else { return node };
    match random.below(4) {
        0 => node.addresses = other.addresses,
        1 => node.meta.labels = other.meta.labels,
        _ => {}
    }
    node
}

fn changed_policy(
    random: &mut Random,
    mut policy: NetworkPolicy,
    cluster: &Cluster,
) -> NetworkPolicy {
    let Some(other) = any(random, &cluster.network_policies) else { return policy };
    match random.below(8) {
        0 => policy.pod_selector = other.pod_selector,
        1 => policy.policy_types = other.policy_types,
        2 => policy.ingress = other.ingress,
        3 => policy.egress = other.egress,
        4 => policy.meta.uid = random.pick([None, Some("1"), Some("2")]).map(Arc::from),
        _ => {}
    }
    policy
}

fn changed_ordered_policy(
    random: &mut Random,
    mut policy: ClusterNetworkPolicy,
    cluster: &Cluster,
) -> ClusterNetworkPolicy {
    let Some(other) = any(random, &cluster.cluster_network_policies) else { return policy };
    match random.below(8) {
        0 => policy.subject = other.subject,
        1 => policy.tier = other.tier,
        2 => policy.ingress = other.ingress,
        3 => policy.egress = other.egress,
        4 => policy.priority = other.priority,
        _ => {}
    }
    policy
}
