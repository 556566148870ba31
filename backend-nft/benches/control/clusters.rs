//! Clusters of the sizes that are asked for: pods of one node, policies on them, and peers elsewhere.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use netpol_core::compile::Options;
use netpol_core::engine::{Engine, Event};
use netpol_core::ir::Scope;
use netpol_core::model::{
    Field, LabelSelector, Labels, Namespace, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule,
    Node, ObjectMeta, ObjectRef, Phase, Pod, PolicyPort, PolicyPortNumber, PolicyType, Position,
    Protocol,
};

const NODE: &str = "n1";
const NAMESPACE: &str = "perf";

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Pods of the node.
    pub(crate) local: usize,
    /// Policies; pod *p* is selected by those whose number leaves *p* when divided by the number of pods.
    pub(crate) policies: usize,
    /// Rules of a policy, each for a port of its own.
    pub(crate) rules: usize,
    /// Groups of peers. Rule after rule speaks of the next group.
    pub(crate) groups: usize,
    /// Peers of a group.
    pub(crate) members: usize,
}

impl Size {
    /// Returns an engine that has heard of all of it.
    pub(crate) fn engine(self) -> Engine {
        let options = Options { scope: Scope::Node(NODE.into()), ..Options::default() };
        let mut engine = Engine::new(options);
        let namespace = Namespace::new(NAMESPACE, Labels::default());
        let mut events = vec![Event::PutNamespace(namespace)];
        for (name, last) in [(NODE, 1), ("n2", 2)] {
            let meta =
                ObjectMeta { object: ObjectRef::cluster_scoped(name), ..ObjectMeta::default() };
            let addresses = vec![IpAddr::V4(Ipv4Addr::new(192, 168, 0, last))];
            events.push(Event::PutNode(Node { meta, addresses, ..Node::default() }));
        }
        let local = |index| Event::PutPod(pod("local", index, NODE, ("local", index), 0x0a00_0001));
        events.extend((0..self.local).map(local));
        events.extend((0..self.groups * self.members).map(|index| self.joins(index)));
        events.extend((0..self.policies).map(|index| self.policy(index, 1000)));
        events.push(Event::InSync);
        engine.apply_batch(events);
        engine
    }

    /// Peer `index` comes.
    pub(crate) fn joins(self, index: usize) -> Event {
        let group = ("group", index / self.members);
        Event::PutPod(pod("remote", index, "n2", group, 0x0a40_0000))
    }

    /// Peer `index` goes.
    pub(crate) fn leaves(index: usize) -> Event {
        Event::DeletePod(ObjectRef::new(NAMESPACE, &format!("remote-{index}")))
    }

    /// The address of peer `index`.
    pub(crate) fn address(index: usize) -> Ipv4Addr {
        address(0x0a40_0000, index)
    }

    /// Policy `index`, whose rules are for the ports from `port` on.
    pub(crate) fn policy(self, index: usize, port: usize) -> Event {
        let rules = (0..self.rules).map(|number| {
            let group = (index * self.rules + number) % self.groups;
            rule(group, u16::try_from(port + number).unwrap())
        });
        let name = format!("policy-{index}");
        Event::PutNetworkPolicy(NetworkPolicy {
            meta: ObjectMeta::new(NAMESPACE, &name, Labels::default()),
            pod_selector: Field::Given(labelled("local", index % self.local)),
            policy_types: Field::Given(vec![PolicyType::Ingress]),
            ingress: Field::Given(rules.collect()),
            ..NetworkPolicy::default()
        })
    }
}

fn labelled(key: &str, value: usize) -> LabelSelector {
    LabelSelector::labels([(key, value.to_string())])
}

fn address(first: u32, index: usize) -> Ipv4Addr {
    Ipv4Addr::from(first + u32::try_from(index).unwrap())
}

fn pod(name: &str, index: usize, node: &str, (key, value): (&str, usize), first: u32) -> Pod {
    let labels = Labels::from_iter([(key, value.to_string())]);
    Pod {
        meta: ObjectMeta::new(NAMESPACE, &format!("{name}-{index}"), labels),
        node: Some(node.into()),
        phase: Phase::Running,
        addresses: vec![address(first, index).into()],
        ..Pod::default()
    }
}

fn rule(group: usize, port: u16) -> NetworkPolicyRule {
    let peer = NetworkPolicyPeer {
        pod_selector: Field::Given(labelled("group", group)),
        ..NetworkPolicyPeer::default()
    };
    let port = PolicyPort {
        protocol: Field::Given(Protocol::Tcp),
        port: Field::Given(PolicyPortNumber::Number(NonZeroU16::new(port).unwrap())),
        position: Position::default(),
    };
    NetworkPolicyRule {
        peers: Field::Given(vec![peer]),
        ports: Field::Given(vec![port]),
        position: Position::default(),
    }
}
