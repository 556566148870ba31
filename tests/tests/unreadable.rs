//! What this version cannot read fails closed, alone (DEC-16, NP-060, CNP-041). Manifests with such fields are rejected,
//! so the objects are made here; a live cluster with a newer API may serve them.
#![expect(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "test support")]

use netpol_conformance::oracle;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Flow, Settings, Transport, Verdict};
use netpol_core::model::{
    Cluster, ClusterAction, ClusterDestination, ClusterNetworkPolicy, ClusterPeer, ClusterPort,
    ClusterRule, ClusterSubject, Field, LabelSelector, NetworkPolicy, NetworkPolicyPeer,
    ObjectMeta, ObjectRef, Position, Protocol, Tier,
};
use netpol_k8s::manifest::{ReadOptions, read_str};
use rstest::rstest;

const MANIFESTS: &str = r"
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, status: {podIPs: [{ip: 10.0.0.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}, status: {podIPs: [{ip: 10.0.0.2}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: good, namespace: x}
spec:
  podSelector: {}
  ingress: [{from: [{podSelector: {}}], ports: [{port: 81}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: odd, namespace: x}
spec:
  podSelector: {}
  ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]
";

fn cluster() -> Cluster {
    read_str("odd.yaml", MANIFESTS, &ReadOptions::default()).expect("the manifests read").cluster
}

/// Judges x/a -> x/b on a TCP port by the oracle and the IR.
#[track_caller]
fn check(cluster: &Cluster, port: u16, expected: Verdict) {
    let transport = Transport::Port(Protocol::Tcp, port);
    let flow = Flow::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), transport);
    let compiled = compile(cluster, &Options::default());
    assert_eq!(oracle::allowed(cluster, Settings::default(), &flow), expected, "oracle, {flow}");
    assert_eq!(compiled.ruleset.verdict(&flow).verdict, expected, "IR, {flow}");
    assert!(!compiled.diagnostics.is_empty(), "nothing is said about it");
}

#[test]
fn what_can_be_read_works_before_anything_is_broken() {
    let transport = Transport::Port(Protocol::Tcp, 80);
    let flow = Flow::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), transport);
    assert_eq!(oracle::allowed(&cluster(), Settings::default(), &flow), Verdict::Allow);
}

#[rstest]
#[case::subject(|policy: &mut NetworkPolicy| policy.pod_selector = Field::Unreadable)]
#[case::rules(|policy: &mut NetworkPolicy| policy.ingress = Field::Unreadable)]
#[case::peers(|policy: &mut NetworkPolicy| rule(policy).peers = Field::Unreadable)]
#[case::ports(|policy: &mut NetworkPolicy| rule(policy).ports = Field::Unreadable)]
#[case::selector(|policy: &mut NetworkPolicy| peer(policy).pod_selector = Field::Unreadable)]
#[case::namespaces(|policy: &mut NetworkPolicy| peer(policy).namespace_selector = Field::Unreadable)]
#[case::block(|policy: &mut NetworkPolicy| peer(policy).ip_block = Field::Unreadable)]
#[case::empty_peer(|policy: &mut NetworkPolicy| peer(policy).pod_selector = Field::Absent)]
fn an_unreadable_part_of_a_network_policy_admits_nothing_and_isolates(
    #[case] spoil: fn(&mut NetworkPolicy),
) {
    let mut cluster = cluster();
    let name = ObjectRef::new("x", "odd");
    spoil(cluster.network_policies.get_mut(&name).expect("the policy is there"));
    check(&cluster, 80, Verdict::Deny);
    check(&cluster, 81, Verdict::Allow);
    // Alone, it still isolates.
    cluster.network_policies.retain(|policy, _| *policy == name);
    check(&cluster, 80, Verdict::Deny);
    check(&cluster, 81, Verdict::Deny);
}

#[test]
fn unreadable_types_isolate_both_directions() {
    let mut cluster = cluster();
    let name = ObjectRef::new("x", "odd");
    let policy = cluster.network_policies.get_mut(&name).expect("the policy is there");
    policy.policy_types = Field::Unreadable;
    // x/b admits both ports by its readable rules, x/a may open neither.
    check(&cluster, 80, Verdict::Deny);
    check(&cluster, 81, Verdict::Deny);
}

fn rule(policy: &mut NetworkPolicy) -> &mut netpol_core::model::NetworkPolicyRule {
    match &mut policy.ingress {
        Field::Given(rules) => &mut rules[0],
        Field::Absent | Field::Null | Field::Unreadable => panic!("the rule is there"),
    }
}

fn peer(policy: &mut NetworkPolicy) -> &mut NetworkPolicyPeer {
    match &mut rule(policy).peers {
        Field::Given(peers) => &mut peers[0],
        Field::Absent | Field::Null | Field::Unreadable => panic!("the peer is there"),
    }
}

/// CNP-041: an Accept with an unknown peer matches nothing, a Deny or Pass denies everything of its direction.
#[rstest]
#[case::accept(ClusterAction::Accept, Verdict::Allow)]
#[case::deny(ClusterAction::Deny, Verdict::Deny)]
#[case::pass(ClusterAction::Pass, Verdict::Deny)]
fn an_unknown_peer_of_a_cluster_policy_fails_closed(
    #[case] action: ClusterAction,
    #[case] verdict: Verdict,
) {
    // Port 81 is admitted by the NetworkPolicy, port 82 is not.
    let cluster = with_rule(action, ClusterDestination::Unknown, Field::Absent);
    check(&cluster, 81, verdict);
    check(&cluster, 82, Verdict::Deny);
}

#[rstest]
#[case::accept(ClusterAction::Accept, Verdict::Allow)]
#[case::deny(ClusterAction::Deny, Verdict::Deny)]
fn an_unknown_protocol_of_a_cluster_policy_fails_closed(
    #[case] action: ClusterAction,
    #[case] verdict: Verdict,
) {
    let everybody = || ClusterDestination::Namespaces(LabelSelector::default());
    let protocols = Field::Given(vec![ClusterPort::Unknown]);
    check(&with_rule(action, everybody(), protocols), 81, verdict);
    check(&with_rule(action, everybody(), Field::Unreadable), 81, verdict);
}

fn with_rule(
    action: ClusterAction,
    destination: ClusterDestination,
    protocols: Field<Vec<ClusterPort>>,
) -> Cluster {
    let mut cluster = cluster();
    let peers = vec![ClusterPeer { destination, position: Position::default() }];
    let rule = ClusterRule { name: None, action, peers, protocols, position: Position::default() };
    let policy = ClusterNetworkPolicy {
        meta: ObjectMeta { object: ObjectRef::cluster_scoped("new"), ..ObjectMeta::default() },
        tier: Tier::Admin,
        priority: 0,
        subject: ClusterSubject::Namespaces(LabelSelector::default()),
        ingress: vec![rule],
        egress: Vec::new(),
    };
    cluster.cluster_network_policies.insert("new".into(), policy);
    cluster
}
