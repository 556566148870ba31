//! What a node may have to enforce: one server among a hundred pods, and more and more policies or peers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Family, Ruleset, Scope};
use netpol_core::model::{
    Cluster, Field, LabelSelector, Labels, Namespace, NetworkPolicy, NetworkPolicyPeer,
    NetworkPolicyRule, Node, ObjectMeta, ObjectRef, Phase, Pod, PolicyPort, PolicyPortNumber,
    PolicyType, Position, Protocol,
};

/// The node whose rules are measured.
pub(crate) const NODE: &str = "n1";
/// The port that every source may reach.
pub(crate) const PORT: u16 = 40_000;
/// Pods on the node.
const LOCAL: u32 = 100;
/// Peers of a policy where policies are many.
const GROUP: u32 = 10;
/// As many of the peers send.
const SOURCES: u32 = 64;

/// Policies and peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shape {
    /// As many policies over the hundred pods of the node, each with ten peers of its own.
    Policies(u32),
    /// As many policies, all of them of the server.
    Stacked(u32),
    /// One policy, which lets in as many peers.
    Peers(u32),
    /// One policy on the server and one on the client, which is a pod of the node too.
    BothEnds,
}

impl Shape {
    /// What the table calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Policies(_) => "policies of the node",
            Self::Stacked(_) => "policies of the server",
            Self::Peers(_) => "peers of one policy",
            Self::BothEnds => "both ends judged",
        }
    }

    pub(crate) const fn size(self) -> u32 {
        match self {
            Self::Policies(size) | Self::Stacked(size) | Self::Peers(size) => size,
            Self::BothEnds => 2,
        }
    }

    /// Returns the number of pods elsewhere.
    const fn remotes(self) -> u32 {
        match self {
            Self::Policies(policies) | Self::Stacked(policies) => policies * GROUP,
            Self::Peers(peers) => peers,
            Self::BothEnds => 0,
        }
    }

    /// Returns the pod of the node that policy `index` selects, and how many before it select that one too.
    const fn subject(self, index: u32) -> (u32, u32) {
        match self {
            Self::Policies(_) => (index % LOCAL, index / LOCAL),
            Self::Stacked(_) => (0, index),
            Self::Peers(_) | Self::BothEnds => (0, 0),
        }
    }

    /// Returns the port of policy `index`: of a pod's policies every tenth is for `PORT`, the others for ports below and
    /// above it, so that whoever walks them in order has many to pass.
    const fn port(self, index: u32) -> u16 {
        let (_, before) = self.subject(index);
        if before.is_multiple_of(10) {
            return PORT;
        }
        let port = (1 + before * 7919 % 65_000) as u16;
        if port == PORT { u16::MAX } else { port }
    }

    /// Returns the addresses that may reach the server, evenly from all there are.
    pub(crate) fn sources(self, family: Family) -> Vec<IpAddr> {
        let all: Vec<u32> = match self {
            Self::Policies(policies) | Self::Stacked(policies) => (0..policies)
                .filter(|index| self.subject(*index).0 == 0 && self.port(*index) == PORT)
                .flat_map(|index| index * GROUP..(index + 1) * GROUP)
                .collect(),
            Self::Peers(peers) => (0..peers).collect(),
            Self::BothEnds => return vec![local(1, family)],
        };
        let count = all.len().min(SOURCES as usize);
        (0..count).map(|number| remote(all[number * all.len() / count], family)).collect()
    }

    /// Returns the rules of the node.
    pub(crate) fn ruleset(self) -> Ruleset {
        let options = Options { scope: Scope::Node(NODE.into()), ..Options::default() };
        compile(&self.cluster(), &options).ruleset
    }

    fn cluster(self) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.namespaces.insert("perf".into(), Namespace::new("perf", Labels::default()));
        for (name, last) in [(NODE, 1), ("n2", 2)] {
            let meta =
                ObjectMeta { object: ObjectRef::cluster_scoped(name), ..ObjectMeta::default() };
            let address = IpAddr::V4(Ipv4Addr::new(192, 168, 0, last));
            let node = Node { meta, addresses: vec![address], ..Node::default() };
            cluster.nodes.insert(name.into(), node);
        }
        let mut add = |name: &str, node: &str, labels: &[(&str, String)], addresses| {
            let labels = Labels::from_iter(labels.iter().map(|(key, value)| (*key, value.clone())));
            let pod = Pod {
                meta: ObjectMeta::new("perf", name, labels),
                node: Some(node.into()),
                phase: Phase::Running,
                addresses,
                ..Pod::default()
            };
            cluster.pods.insert(pod.meta.object.clone(), pod);
        };
        for index in 0..LOCAL {
            let labels = [("local", index.to_string())];
            add(&format!("local-{index}"), NODE, &labels, both(index, local));
        }
        for index in 0..self.remotes() {
            let labels = [("app", "client".into()), ("group", (index / GROUP).to_string())];
            add(&format!("remote-{index}"), "n2", &labels, both(index, remote));
        }
        for policy in self.policies() {
            cluster.network_policies.insert(policy.meta.object.clone(), policy);
        }
        cluster
    }

    fn policies(self) -> Vec<NetworkPolicy> {
        match self {
            Self::Policies(policies) | Self::Stacked(policies) => (0..policies)
                .map(|index| {
                    let name = format!("policy-{index}");
                    let from = LabelSelector::labels([("group", index.to_string())]);
                    ingress(&name, self.subject(index).0, from, self.port(index))
                })
                .collect(),
            Self::Peers(_) => {
                vec![ingress("policy", 0, LabelSelector::labels([("app", "client")]), PORT)]
            }
            Self::BothEnds => {
                let pod = |index: u32| LabelSelector::labels([("local", index.to_string())]);
                let server = ingress("server", 0, pod(1), PORT);
                let client = NetworkPolicy {
                    meta: ObjectMeta::new("perf", "client", Labels::default()),
                    pod_selector: Field::Given(pod(1)),
                    policy_types: Field::Given(vec![PolicyType::Egress]),
                    egress: Field::Given(vec![rule(pod(0), PORT)]),
                    ..NetworkPolicy::default()
                };
                vec![server, client]
            }
        }
    }
}

/// The server's address.
pub(crate) fn server(family: Family) -> IpAddr {
    local(0, family)
}

/// An address that no policy lets in.
pub(crate) fn outsider(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 200, 0, 1)),
    }
}

fn both(index: u32, address: impl Fn(u32, Family) -> IpAddr) -> Vec<IpAddr> {
    vec![address(index, Family::V4), address(index, Family::V6)]
}

/// The address of a pod of the node.
fn local(index: u32, family: Family) -> IpAddr {
    numbered(0x0a00_0001 + index, family)
}

/// The address of a pod elsewhere.
fn remote(index: u32, family: Family) -> IpAddr {
    numbered(0x0a40_0000 + index, family)
}

fn numbered(number: u32, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(number.into()),
        Family::V6 => IpAddr::V6((0xfd00_u128 << 112 | u128::from(number)).into()),
    }
}

fn ingress(name: &str, subject: u32, from: LabelSelector, port: u16) -> NetworkPolicy {
    NetworkPolicy {
        meta: ObjectMeta::new("perf", name, Labels::default()),
        pod_selector: Field::Given(LabelSelector::labels([("local", subject.to_string())])),
        policy_types: Field::Given(vec![PolicyType::Ingress]),
        ingress: Field::Given(vec![rule(from, port)]),
        ..NetworkPolicy::default()
    }
}

fn rule(peers: LabelSelector, port: u16) -> NetworkPolicyRule {
    let peer =
        NetworkPolicyPeer { pod_selector: Field::Given(peers), ..NetworkPolicyPeer::default() };
    let number = NonZeroU16::new(port).unwrap();
    let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| PolicyPort {
        protocol: Field::Given(protocol),
        port: Field::Given(PolicyPortNumber::Number(number)),
        position: Position::default(),
    });
    NetworkPolicyRule {
        peers: Field::Given(vec![peer]),
        ports: Field::Given(ports.into()),
        position: Position::default(),
    }
}
