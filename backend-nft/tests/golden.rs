//! The exact text of a few programs, so that a change of the lowering is seen and read.
#![expect(clippy::unwrap_used, reason = "test support")]

extern crate alloc;

use alloc::sync::Arc;

use core::num::NonZeroU16;

use expect_test::{ExpectFile, expect_file};
use netpol_core::backend::Backend as _;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{OtherProtocols, OwnNodeEgress, Scope, Settings};
use netpol_core::model::{
    Cidr, Cluster, ClusterAction, ClusterDestination, ClusterNetworkPolicy, ClusterPeer,
    ClusterPort, ClusterRule, ClusterSubject, Field, IpBlock, LabelSelector, Labels, Namespace,
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, Node, ObjectMeta, ObjectRef, Pod,
    PolicyPort, PolicyPortNumber, PolicyType, Position, Protocol, Tier,
};
use netpol_nft::Nft;

/// A shop of three pods on one node, and a database on another.
fn shop() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.namespaces.insert("shop".into(), Namespace::new("shop", Labels::default()));
    for (name, address) in [("n1", "192.168.0.1"), ("n2", "192.168.0.2")] {
        let meta = ObjectMeta { object: ObjectRef::cluster_scoped(name), ..ObjectMeta::default() };
        let node = Node { meta, addresses: vec![address.parse().unwrap()], ..Node::default() };
        cluster.nodes.insert(name.into(), node);
    }
    for (name, node, addresses) in [
        ("web", "n1", ["10.0.1.1", "fd00::1:1"]),
        ("api", "n1", ["10.0.1.2", "fd00::1:2"]),
        ("batch", "n1", ["10.0.1.3", "fd00::1:3"]),
        ("db", "n2", ["10.0.2.1", "fd00::2:1"]),
    ] {
        let labels = Labels([("app".into(), name.into())].into());
        let pod = Pod {
            meta: ObjectMeta::new("shop", name, labels),
            node: Some(node.into()),
            addresses: addresses.map(|address| address.parse().unwrap()).to_vec(),
            ..Pod::default()
        };
        cluster.pods.insert(ObjectRef::new("shop", name), pod);
    }
    cluster
}

fn app(name: &str) -> LabelSelector {
    LabelSelector::labels([("app", name)])
}

fn pods(name: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Field::Given(app(name)), ..NetworkPolicyPeer::default() }
}

fn block(cidr: &str, except: &[&str]) -> NetworkPolicyPeer {
    let block = IpBlock {
        cidr: Cidr::parse(cidr).unwrap(),
        except: except.iter().map(|cidr| Cidr::parse(cidr).unwrap()).collect(),
        position: Position::default(),
    };
    NetworkPolicyPeer { ip_block: Field::Given(block), ..NetworkPolicyPeer::default() }
}

fn port(protocol: Protocol, low: u16, high: u16) -> PolicyPort {
    let number = |port| NonZeroU16::new(port).unwrap();
    PolicyPort {
        protocol: Field::Given(protocol),
        port: Field::Given(PolicyPortNumber::Range(number(low), number(high))),
        position: Position::default(),
    }
}

fn rule(peers: Vec<NetworkPolicyPeer>, ports: Vec<PolicyPort>) -> NetworkPolicyRule {
    let given = |ports: Vec<_>| if ports.is_empty() { Field::Absent } else { Field::Given(ports) };
    NetworkPolicyRule { peers: Field::Given(peers), ports: given(ports), ..Default::default() }
}

fn ingress(name: &str, subject: &str, rules: Vec<NetworkPolicyRule>) -> NetworkPolicy {
    NetworkPolicy {
        meta: ObjectMeta::new("shop", name, Labels::default()),
        pod_selector: Field::Given(app(subject)),
        policy_types: Field::Given(vec![PolicyType::Ingress]),
        ingress: Field::Given(rules),
        egress: Field::Absent,
    }
}

fn egress(name: &str, subject: &str, rules: Vec<NetworkPolicyRule>) -> NetworkPolicy {
    NetworkPolicy {
        policy_types: Field::Given(vec![PolicyType::Egress]),
        egress: Field::Given(rules),
        ingress: Field::Absent,
        ..ingress(name, subject, Vec::new())
    }
}

fn cluster_policy(
    name: &str,
    tier: Tier,
    rules: Vec<(ClusterAction, ClusterDestination, Vec<ClusterPort>)>,
) -> (Arc<str>, ClusterNetworkPolicy) {
    let rule = |(action, destination, ports): (_, _, Vec<_>)| ClusterRule {
        name: None,
        action,
        peers: vec![ClusterPeer { destination, position: Position::default() }],
        protocols: if ports.is_empty() { Field::Absent } else { Field::Given(ports) },
        position: Position::default(),
    };
    let policy = ClusterNetworkPolicy {
        meta: ObjectMeta { object: ObjectRef::cluster_scoped(name), ..ObjectMeta::default() },
        tier,
        priority: 10,
        subject: ClusterSubject::Namespaces(LabelSelector::default()),
        ingress: Vec::new(),
        egress: rules.into_iter().map(rule).collect(),
    };
    (name.into(), policy)
}

fn with(policies: impl IntoIterator<Item = NetworkPolicy>) -> Cluster {
    let mut cluster = shop();
    cluster
        .network_policies
        .extend(policies.into_iter().map(|policy| (policy.meta.object.clone(), policy)));
    cluster
}

#[track_caller]
fn check(cluster: &Cluster, settings: Settings, expect: &ExpectFile) {
    let options = Options { scope: Scope::Node("n1".into()), settings, ..Options::default() };
    let compiled = compile(cluster, &options);
    assert_eq!(compiled.diagnostics, []);
    expect.assert_eq(&Nft::default().lower(&compiled.ruleset).unwrap().to_string());
}

#[test]
fn no_policy_leaves_only_the_frame() {
    check(&shop(), Settings::default(), &expect_file!["golden/no-policy.nft"]);
}

#[test]
fn pod_peers_networks_and_ports_become_sets() {
    let cluster = with([
        ingress(
            "web",
            "web",
            vec![
                rule(
                    vec![block("0.0.0.0/0", &["10.0.0.0/8"])],
                    vec![port(Protocol::Tcp, 80, 80), port(Protocol::Tcp, 443, 443)],
                ),
                rule(vec![pods("api"), pods("batch")], Vec::new()),
            ],
        ),
        ingress(
            "api",
            "api",
            vec![rule(
                vec![pods("web")],
                vec![port(Protocol::Tcp, 8000, 8999), port(Protocol::Sctp, 9, 9)],
            )],
        ),
        egress(
            "batch",
            "batch",
            vec![
                rule(vec![pods("db")], vec![port(Protocol::Tcp, 5432, 5432)]),
                rule(vec![block("fd00::/16", &[])], vec![port(Protocol::Udp, 53, 53)]),
            ],
        ),
        ingress("nobody", "batch", Vec::new()),
    ]);
    check(&cluster, Settings::default(), &expect_file!["golden/network-policies.nft"]);
}

#[test]
fn tiers_become_ordered_rules_and_reach_the_own_node() {
    let mut cluster = with([egress("api", "api", vec![rule(vec![pods("db")], Vec::new())])]);
    let number = |port| NonZeroU16::new(port).unwrap();
    cluster.cluster_network_policies.extend([
        cluster_policy(
            "guard-rails",
            Tier::Admin,
            vec![
                (
                    ClusterAction::Pass,
                    ClusterDestination::Nodes(LabelSelector::default()),
                    vec![ClusterPort::Range(Protocol::Tcp, number(443), number(443))],
                ),
                (
                    ClusterAction::Deny,
                    ClusterDestination::Nodes(LabelSelector::default()),
                    Vec::new(),
                ),
            ],
        ),
        cluster_policy(
            "default",
            Tier::Baseline,
            vec![(
                ClusterAction::Deny,
                ClusterDestination::Networks(vec![Cidr::parse("10.0.0.0/8").unwrap()]),
                Vec::new(),
            )],
        ),
    ]);
    check(&cluster, Settings::default(), &expect_file!["golden/tiers.nft"]);
    let strict =
        Settings { own_node_egress: OwnNodeEgress::Enforce, other_protocols: OtherProtocols::Pass };
    check(&cluster, strict, &expect_file!["golden/tiers-strict.nft"]);
}

#[test]
fn many_policies_with_ports_of_their_own_become_a_map() {
    let policies = (1..=9).map(|index| {
        let ports = vec![port(Protocol::Tcp, index * 100, index * 100 + 50)];
        ingress(&format!("p{index}"), "web", vec![rule(vec![pods(&format!("c{index}"))], ports)])
    });
    let wide = ingress(
        "wide",
        "web",
        vec![rule(
            (1..=5).map(|index| pods(&format!("c{index}"))).collect(),
            vec![port(Protocol::Tcp, 8000, 8000)],
        )],
    );
    check(&with(policies.chain([wide])), Settings::default(), &expect_file!["golden/by-port.nft"]);
}
