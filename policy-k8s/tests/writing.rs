//! What is written is read back as the same objects, apart from their places.
#![expect(
    clippy::panic,
    reason = "test support: the lints know tests, but not the functions they share"
)]

use netpol_core::model::{
    Cluster, Container, Kind, LabelSelector, Namespace, ObjectRef, Pod, Position, Source, Workload,
};
use netpol_k8s::manifest::{ReadOptions, read_str, write_yaml};
use rstest::rstest;

#[track_caller]
fn read(text: &str) -> Cluster {
    match read_str("f.yaml", text, &ReadOptions::default()) {
        Ok(manifests) => manifests.cluster,
        Err(errors) => panic!("{errors}\nin\n{text}"),
    }
}

/// Takes every place out.
fn placeless(cluster: &Cluster) -> String {
    let text = format!("{cluster:#?}");
    let is_place = |line: &&str| {
        let line = line.trim_start();
        !(line.starts_with("line: ")
            || line.starts_with("column: ")
            || line.starts_with("document: "))
    };
    text.lines().filter(is_place).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn check(text: &str) {
    let first = read(text);
    let written = write_yaml(&first);
    let second = read(&written);
    assert_eq!(placeless(&first), placeless(&second), "{written}");
    assert_eq!(written, write_yaml(&second));
}

fn policy(spec: &str) -> String {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: ns}\n";
    format!("{head}spec: {spec}\n")
}

#[rstest]
#[case("{}")]
#[case("{podSelector: null, ingress: null, egress: null, policyTypes: null}")]
#[case("{podSelector: {}, ingress: [], egress: [], policyTypes: []}")]
#[case("{podSelector: {matchLabels: null, matchExpressions: null}}")]
#[case("{podSelector: {matchLabels: {}, matchExpressions: []}}")]
#[case("{podSelector: {matchLabels: {a: 'yes', b: '1', 'c': '', d.e/f: 1.2.3}}}")]
#[case(
    "{podSelector: {matchExpressions: [{key: 'y', operator: In, values: ['', '0x1']}, {key: b, operator: DoesNotExist}]}}"
)]
#[case("{ingress: [{}, {from: null, ports: null}, {from: [], ports: []}]}")]
#[case(
    "{ingress: [{from: [{podSelector: {}, namespaceSelector: null}, {ipBlock: {cidr: '::/0', except: ['fd00::/8']}}]}]}"
)]
#[case(
    "{egress: [{ports: [{}, {port: 1}, {port: 1, endPort: 1}, {port: web, protocol: SCTP}, {port: null, protocol: null}]}]}"
)]
#[case("{egress: [{to: [{namespaceSelector: {}}]}], policyTypes: [Egress, Ingress]}")]
fn a_network_policy_survives(#[case] spec: &str) {
    check(&policy(spec));
}

#[test]
fn everything_else_survives() {
    check(include_str!("corpus/valid-cluster-policy.yaml"));
    check(include_str!("corpus/valid-list.json"));
    check(include_str!("corpus/valid-workloads.yaml"));
    check(include_str!("corpus/valid-network-policy.yaml"));
    check(
        "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: ns, uid: '1', creationTimestamp: 2024-01-01T00:00:00Z, deletionTimestamp: 2024-01-02T00:00:00Z, labels: {a: 'no'}}
spec:
  nodeName: n1
  hostNetwork: true
  initContainers: [{name: a, ports: [{containerPort: 1}]}, {name: b, restartPolicy: Always, ports: [{containerPort: 2, name: b, protocol: UDP}]}]
  containers: [{name: c}, {name: d, ports: [{containerPort: 3}]}]
status: {phase: Succeeded, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {team: a}}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {role: worker}}
spec: {podCIDRs: [10.0.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
",
    );
}

#[test]
fn a_workload_with_an_address_is_written_as_a_pod() {
    let mut pod = Pod {
        workload: Some(Workload { kind: Kind::Deployment, name: "web".into(), replicas: 2 }),
        containers: vec![Container::Main(vec![])],
        ..Pod::default()
    };
    pod.meta.object = ObjectRef::new("ns", "web");
    let mut cluster = Cluster::default();
    cluster.pods.insert(pod.meta.object.clone(), pod.clone());
    assert!(write_yaml(&cluster).contains("kind: Deployment"));
    pod.addresses = vec!["10.0.0.1".parse().unwrap()];
    cluster.pods.insert(pod.meta.object.clone(), pod);
    assert!(write_yaml(&cluster).contains("kind: Pod"));
}

#[test]
fn a_written_policy_reads_well() {
    let mut cluster = read(&policy(
        "{podSelector: {matchLabels: {app: 'yes'}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80, endPort: 81}]}]}",
    ));
    cluster
        .namespaces
        .insert("ns".into(), Namespace { declared: true, ..Namespace::mentioned("ns") });
    assert_eq!(
        write_yaml(&cluster),
        "\
apiVersion: v1
kind: Namespace
metadata:
  name: ns
  labels:
    kubernetes.io/metadata.name: ns
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  namespace: ns
spec:
  podSelector:
    matchLabels:
      app: \"yes\"
  ingress:
    - from:
        - podSelector: {}
      ports:
        - port: 80
          endPort: 81
"
    );
}

#[test]
fn places_do_not_matter_to_what_is_written() {
    let mut cluster = read(&policy("{podSelector: {}}"));
    let written = write_yaml(&cluster);
    for policy in cluster.network_policies.values_mut() {
        policy.meta.source = Source::default();
        policy.pod_selector = netpol_core::model::Field::Given(LabelSelector {
            position: Position::default(),
            ..LabelSelector::default()
        });
    }
    assert_eq!(write_yaml(&cluster), written);
}
