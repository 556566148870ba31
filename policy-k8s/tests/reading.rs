//! What is read from manifests that are fine, and the remarks that come with them.

#![expect(
    clippy::panic,
    reason = "test support: the lints know tests, but not the functions they share"
)]

use std::fs;

use netpol_core::model::{
    Cluster, Container, Field, Kind, ObjectRef, Phase, PolicyPortNumber, Position, ServiceType,
};
use netpol_k8s::manifest::{HostBits, Manifests, ReadOptions, read_paths, read_str};
use rstest::rstest;

#[track_caller]
fn read(text: &str) -> Manifests {
    match read_str("f.yaml", text, &ReadOptions::default()) {
        Ok(manifests) => manifests,
        Err(errors) => panic!("{errors}\nin\n{text}"),
    }
}

fn policy(spec: &str) -> String {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: ns}\n";
    format!("{head}spec: {spec}\n")
}

fn remarks(manifests: &Manifests) -> Vec<&'static str> {
    manifests.notes.iter().filter_map(|note| note.remark.id()).collect()
}

fn pods(cluster: &Cluster) -> Vec<String> {
    cluster.pods.keys().map(ToString::to_string).collect()
}

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: pod, namespace: ns, labels: {app: a}}\n";

#[test]
fn absent_null_and_empty_stay_apart() {
    let read_spec = |spec: &str| {
        let manifests = read(&policy(spec));
        manifests.cluster.network_policies[&ObjectRef::new("ns", "p")].clone()
    };
    let absent = read_spec("{}");
    assert!(absent.pod_selector == Field::Absent && absent.ingress == Field::Absent);
    let null = read_spec("{podSelector: , ingress: ~, egress: null, policyTypes: }");
    assert!(
        null.pod_selector == Field::Null
            && null.ingress == Field::Null
            && null.policy_types == Field::Null
    );
    let empty = read_spec("{podSelector: {}, ingress: [], policyTypes: []}");
    assert!(empty.pod_selector.given().unwrap().is_empty());
    assert_eq!(
        (&empty.ingress, &empty.policy_types),
        (&Field::Given(vec![]), &Field::Given(vec![]))
    );
    let rule = read_spec("{ingress: [{from: , ports: []}]}").ingress.given().unwrap()[0].clone();
    assert_eq!((rule.peers, rule.ports), (Field::Null, Field::Given(vec![])));
}

#[test]
fn rules_peers_and_ports_know_where_they_stand() {
    let text = "\
# a comment
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  namespace: ns
spec:
  podSelector: {}
  ingress:
    - from:
        - podSelector: {matchLabels: {a: b}}
        - namespaceSelector:
            matchLabels: {a: b}
      ports:
        - {port: 80, endPort: 90}
        - port: http
          protocol: UDP
";
    let manifests = read(text);
    let policy = &manifests.cluster.network_policies[&ObjectRef::new("ns", "p")];
    assert_eq!(policy.meta.source.to_string(), "f.yaml:3:1");
    let at = |line, column| Position { line, column };
    let rule = &policy.ingress.given().unwrap()[0];
    assert_eq!(rule.position, at(11, 7));
    let peers = rule.peers.given().unwrap();
    assert_eq!((peers[0].position, peers[1].position), (at(12, 11), at(13, 11)));
    assert_eq!(peers[1].namespace_selector.given().unwrap().position, at(14, 13));
    let ports = rule.ports.given().unwrap();
    assert_eq!((ports[0].position, ports[1].position), (at(16, 11), at(17, 11)));
    assert!(
        matches!(ports[0].port, Field::Given(PolicyPortNumber::Range(start, end)) if start.get() == 80 && end.get() == 90)
    );
}

#[rstest]
#[case::types("{podSelector: {}, policyTypes: []}", &["NP-021"])]
#[case::repeated_type("{podSelector: {}, policyTypes: [Ingress, Ingress]}", &["NP-025"])]
#[case::no_selector("{policyTypes: [Ingress]}", &["DEC-18"])]
#[case::null_selector("{podSelector: null}", &[])]
#[case::inert("{podSelector: {}, policyTypes: [Egress], ingress: [{}]}", &["NP-024"])]
#[case::open("{podSelector: {}, ingress: [{from: []}]}", &["NP-032"])]
#[case::repeated_peer("{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {a: b}}}, {podSelector: {matchLabels: {a: b}}}]}]}", &["VAL-040"])]
#[case::repeated_port("{podSelector: {}, ingress: [{ports: [{port: 1}, {port: 1}]}]}", &["VAL-040"])]
#[case::contradiction("{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: NotIn, values: [b]}]}}]}]}", &["NP-046"])]
#[case::absent_and_present("{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Exists}, {key: a, operator: DoesNotExist}]}}]}]}", &["NP-046"])]
#[case::own_namespace("{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}", &["NP-054"])]
#[case::or_for_and("{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}, {podSelector: {matchLabels: {a: b}}}]}]}", &["NP-053"])]
#[case::selects_nothing("{podSelector: {matchLabels: {app: other}}}", &["VAL-040"])]
#[case::unknown_namespace_labels("{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}]}]}", &["OFF-003"])]
#[case::namespace_by_name("{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ns}}}]}]}", &[])]
#[case::single_stack("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}", &[])]
fn a_valid_policy_that_may_not_mean_it_comes_with_a_remark(
    #[case] spec: &str,
    #[case] ids: &[&str],
) {
    let manifests = read(&format!("{POD}---\n{}", policy(spec)));
    assert_eq!(remarks(&manifests), ids, "{:#?}", manifests.notes);
}

#[test]
fn a_full_range_in_one_family_is_remarked_on_dual_stack() {
    let status = "status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}\n";
    let text = format!(
        "{POD}{status}---\n{}",
        policy("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}")
    );
    let manifests = read(&text);
    assert_eq!(remarks(&manifests), ["NP-068"]);
    let both = text.replace("0.0.0.0/0}}", "0.0.0.0/0}}, {ipBlock: {cidr: '::/0'}}");
    assert_eq!(remarks(&read(&both)), [""; 0]);
}

#[test]
fn a_missing_namespace_is_the_default_with_a_note() {
    let text = policy("{podSelector: {}}").replace(", namespace: ns", "");
    let manifests = read(&text);
    assert_eq!(manifests.cluster.network_policies.keys().next().unwrap().to_string(), "default/p");
    assert_eq!(remarks(&manifests), ["VAL-003", "VAL-040"]);
    let options = ReadOptions { default_namespace: "other".to_owned(), ..ReadOptions::default() };
    let manifests = read_str("f", &text, &options).unwrap();
    assert!(manifests.cluster.network_policies.contains_key(&ObjectRef::new("other", "p")));
    let options = ReadOptions { default_namespace: String::new(), ..ReadOptions::default() };
    let errors = read_str("f", &text, &options).unwrap_err();
    assert_eq!(errors.errors[0].id(), Some("VAL-003"));
}

#[test]
fn host_bits_are_masked_only_when_asked_for() {
    let text = policy("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.1.2.3/8}}]}]}");
    let options = ReadOptions { host_bits: HostBits::Mask, ..ReadOptions::default() };
    let manifests = read_str("f", &text, &options).unwrap();
    assert!(remarks(&manifests).contains(&"DEC-06"));
    let policy = &manifests.cluster.network_policies[&ObjectRef::new("ns", "p")];
    let peers = policy.egress.given().unwrap()[0].peers.given().unwrap();
    assert_eq!(peers[0].ip_block.given().unwrap().cidr.to_string(), "10.0.0.0/8");
    assert!(read_str("f", &text, &ReadOptions::default()).is_err());
}

#[test]
fn a_pod_is_read_with_all_that_policy_looks_at() {
    let manifests = read(
        "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  uid: 5c9d
  creationTimestamp: 2024-01-01T00:00:00Z
  deletionTimestamp: '2024-01-02T00:00:00Z'
  labels: {app: web}
  annotations: {note: 'anything goes'}
spec:
  nodeName: n1
  hostNetwork: false
  dnsPolicy: ClusterFirst
  initContainers:
    - {name: setup, ports: [{containerPort: 1, name: one}]}
    - {name: proxy, restartPolicy: Always, ports: [{containerPort: 15001, name: proxy}]}
  containers:
    - name: web
      image: nginx
      env: [{name: A, value: 'b'}]
      ports:
        - {name: http, containerPort: 8080, hostPort: 80}
        - {name: dns, containerPort: 53, protocol: UDP}
status:
  phase: Running
  podIP: 10.0.0.7
  podIPs: [{ip: 10.0.0.7}, {ip: 'fd00::7'}]
",
    );
    let pod = &manifests.cluster.pods[&ObjectRef::new("shop", "web")];
    assert_eq!((pod.phase, pod.terminating, pod.host_network), (Phase::Running, true, false));
    assert_eq!(pod.node.as_deref(), Some("n1"));
    assert_eq!(pod.meta.created.as_deref(), Some("2024-01-01T00:00:00Z"));
    assert_eq!(
        pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.7", "fd00::7"]
    );
    assert!(matches!(
        pod.containers.as_slice(),
        [Container::Main(_), Container::Init(_), Container::Sidecar(_)]
    ));
    assert_eq!(pod.named_ports("proxy").count(), 1);
    assert_eq!(pod.named_ports("one").count(), 0);
    assert_eq!(
        manifests.cluster.namespaces["shop"].meta.labels.to_string(),
        "kubernetes.io/metadata.name=shop"
    );
    assert!(!manifests.cluster.namespaces["shop"].declared);
}

#[rstest]
#[case::deployment("apps/v1", Kind::Deployment, "{replicas: 3, template: TEMPLATE}", 3)]
#[case::stateful_set("apps/v1", Kind::StatefulSet, "{template: TEMPLATE}", 1)]
#[case::daemon_set("apps/v1", Kind::DaemonSet, "{template: TEMPLATE}", 1)]
#[case::replica_set("apps/v1", Kind::ReplicaSet, "{replicas: 0, template: TEMPLATE}", 0)]
#[case::job("batch/v1", Kind::Job, "{template: TEMPLATE}", 1)]
#[case::cron_job("batch/v1", Kind::CronJob, "{jobTemplate: {spec: {template: TEMPLATE}}}", 1)]
#[case::replication_controller("v1", Kind::ReplicationController, "{template: TEMPLATE}", 1)]
fn a_workload_stands_for_its_pods(
    #[case] version: &str,
    #[case] kind: Kind,
    #[case] spec: &str,
    #[case] replicas: u32,
) {
    let template = "{metadata: {labels: {app: template}}, spec: {hostNetwork: true, containers: [{ports: [{name: a, containerPort: 1}]}]}}";
    let spec = spec.replace("TEMPLATE", template);
    let head = format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: w, namespace: ns, labels: {{app: own}}}}\n"
    );
    let manifests = read(&format!("{head}spec: {spec}\n"));
    let pod = &manifests.cluster.pods[&ObjectRef::new("ns", "w")];
    assert_eq!(pod.meta.labels.value("app"), Some("template"));
    assert!(pod.host_network);
    assert_eq!(pod.named_ports("a").count(), 1);
    let workload = pod.workload.as_ref().unwrap();
    assert_eq!((workload.kind, workload.replicas), (kind, replicas));
}

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: ns}\nspec: {template: {}}\n---\n";
const REPLICA_SET: &str = "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: web-1, namespace: ns, ownerReferences: [{kind: Deployment, name: web}]}\nspec: {template: {}}\n---\n";
const OWNED_POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-1-a, namespace: ns, ownerReferences: [{kind: ReplicaSet, name: web-1}]}\n";

#[test]
fn a_workload_and_its_pods_count_once() {
    let listed = format!("{DEPLOYMENT}{REPLICA_SET}{OWNED_POD}");
    assert_eq!(pods(&read(&listed).cluster), ["ns/web"]);
    let manifests = read(&format!("{listed}status: {{podIP: 10.0.0.1}}\n"));
    assert_eq!(pods(&manifests.cluster), ["ns/web-1-a"], "a running pod says more than a template");
    assert_eq!(remarks(&manifests), ["OFF-008", "OFF-008"]);
    assert_eq!(
        pods(&read(OWNED_POD).cluster),
        ["ns/web-1-a"],
        "an owner that is not listed does not count"
    );
    assert_eq!(pods(&read(&format!("{REPLICA_SET}{OWNED_POD}")).cluster), ["ns/web-1"]);
}

#[test]
fn kinds_of_one_name_stay_apart_whatever_their_order() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: ns}\nspec: {template: {}}\n";
    let stateful_set = deployment.replace("Deployment", "StatefulSet");
    let forward = read(&format!("{deployment}---\n{stateful_set}"));
    let backward = read(&format!("{stateful_set}---\n{deployment}"));
    assert_eq!(pods(&forward.cluster), ["ns/web", "ns/web-statefulset"]);
    let kinds = |manifests: &Manifests| -> Vec<_> {
        manifests
            .cluster
            .pods
            .values()
            .map(|pod| pod.workload.clone().unwrap().to_string())
            .collect()
    };
    assert_eq!(kinds(&forward), ["web[Deployment]", "web[StatefulSet]"]);
    assert_eq!(kinds(&forward), kinds(&backward));
}

#[test]
fn nodes_services_endpoints_and_ingresses_are_read() {
    let cluster = read(
        "\
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {role: worker}}
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00:1::/64']}
status:
  addresses:
    - {type: InternalIP, address: 192.168.0.1}
    - {type: Hostname, address: n1}
    - {type: ExternalIP, address: 'fd00::1'}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec: {type: NodePort, selector: {app: web}, clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: http, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: ns, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
  - {addresses: [10.1.0.5], conditions: {ready: true}, targetRef: {kind: Pod, namespace: ns, name: web-a}}
  - {addresses: [10.1.0.6], conditions: {ready: false}}
ports: [{name: '', port: 8080, protocol: TCP}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: ns}
spec:
  ingressClassName: nginx
  rules: [{host: example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
",
    )
    .cluster;
    let node = &cluster.nodes["n1"];
    assert_eq!((node.addresses.len(), node.pod_cidrs.len()), (2, 2));
    let service = &cluster.services[&ObjectRef::new("ns", "web")];
    assert_eq!(
        (service.service_type, service.cluster_ips.len(), service.headless),
        (ServiceType::NodePort, 1, false)
    );
    let slice = &cluster.endpoints[0];
    assert_eq!(slice.service, ObjectRef::new("ns", "web"));
    assert_eq!(slice.addresses.len(), 1);
    assert_eq!(slice.addresses[0].pod, Some(ObjectRef::new("ns", "web-a")));
    assert_eq!(cluster.ingresses[&ObjectRef::new("ns", "web")].paths.len(), 1);
}

#[test]
fn v1alpha1_policies_are_converted_with_a_warning() {
    let head = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: default}\n";
    let spec = "spec:\n  priority: 5\n  subject: {namespaces: {}}\n  egress:\n    - action: Allow\n      to: [{networks: [10.0.0.0/8]}]\n      ports: [{portNumber: {port: 53}}, {portRange: {protocol: UDP, start: 1, end: 1}}]\n";
    let admin = format!("{head}{spec}");
    let baseline =
        admin.replace("kind: Admin", "kind: BaselineAdmin").replace("  priority: 5\n", "");
    let written = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: same}\nspec:\n  tier: Admin\n  priority: 5\n  subject: {namespaces: {}}\n  egress:\n    - action: Accept\n      to: [{networks: [10.0.0.0/8]}]\n      protocols: [{tcp: {destinationPort: {number: 53}}}, {udp: {destinationPort: {number: 1}}}]\n";
    let manifests = read(&format!("{admin}---\n{baseline}---\n{written}"));
    assert_eq!(remarks(&manifests).iter().filter(|id| **id == "ANP-001").count(), 2);
    let policies = &manifests.cluster.cluster_network_policies;
    let names: Vec<&str> = policies.keys().map(AsRef::as_ref).collect();
    assert_eq!(names, ["default", "default-baselineadminnetworkpolicy", "same"]);
    let (converted, direct) = (&policies["default"].egress[0], &policies["same"].egress[0]);
    assert_eq!((converted.action, &converted.protocols), (direct.action, &direct.protocols));
}

#[test]
fn lists_and_json_are_read() {
    let item =
        "{\"metadata\": {\"name\": \"p\", \"namespace\": \"ns\"}, \"spec\": {\"podSelector\": {}}}";
    let typed = format!(
        "{{\n\t\"kind\": \"NetworkPolicyList\",\n\t\"apiVersion\": \"networking.k8s.io/v1\",\n\t\"items\": [{item}]\n}}\n"
    );
    assert_eq!(read(&typed).cluster.network_policies.len(), 1);
    let item = "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"p\",\"namespace\":\"ns\",\"annotations\":{\"a\":\"\\u003c\\/ \\ud83d\\ude00\"}}}";
    let list = format!("{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{item}]}}");
    assert_eq!(read(&list).cluster.pods.len(), 1);
    assert_eq!(read("apiVersion: v1\nkind: List\nitems: []\n").cluster, Cluster::default());
}

#[test]
fn anchors_and_merge_keys_are_followed() {
    let text = "\
apiVersion: v1
kind: Pod
metadata: &meta
  name: pod
  namespace: ns
  labels: &labels {app: a, tier: b}
spec:
  containers:
    - &base {image: x, ports: [{containerPort: 80}]}
    - <<: *base
      image: y
";
    let pod = &read(text).cluster.pods[&ObjectRef::new("ns", "pod")];
    assert_eq!(pod.resolvable_ports().count(), 2);
}

#[test]
fn other_kinds_are_skipped_with_a_note() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: 'b'}\n---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {selector: all()}\n---\n# nothing\n";
    let manifests = read(text);
    assert_eq!(remarks(&manifests), ["OFF-005", "OFF-005"]);
    assert_eq!(
        manifests.notes[1].to_string(),
        "f.yaml:6:1: NetworkPolicy default/a: skipped: NetworkPolicy of `projectcalico.org/v3` says nothing about network policy (OFF-005)"
    );
}

#[test]
fn folders_are_read_in_order_of_names_and_only_their_manifests() {
    let folder = std::env::temp_dir().join(format!("netpol-read-{}", std::process::id()));
    fs::create_dir_all(folder.join("b")).unwrap();
    let pod = |name: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: ns}}\n")
    };
    fs::write(folder.join("c.yaml"), pod("c")).unwrap();
    fs::write(folder.join("b/x.yml"), pod("x")).unwrap();
    fs::write(folder.join("a.txt"), "not a manifest").unwrap();
    let path = folder.to_str().unwrap();
    let manifests = read_paths(&[path], &ReadOptions::default());
    let missing = read_paths(&[format!("{path}/none.yaml")], &ReadOptions::default());
    let twice = read_paths(&[path, path], &ReadOptions::default());
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(pods(&manifests.unwrap().cluster), ["ns/c", "ns/x"]);
    assert!(missing.unwrap_err().to_string().contains("none.yaml: cannot be read"));
    assert_eq!(twice.unwrap_err().errors.len(), 2);
}

#[test]
fn ten_thousand_pods_are_read() {
    let pod = |index: u32| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p{index}\n  namespace: ns{}\n  labels: {{app: a{}, tier: b}}\nspec:\n  containers:\n    - name: c\n      ports: [{{containerPort: 80, name: http}}]\nstatus: {{phase: Running, podIP: 10.{}.{}.1}}\n",
            index % 100,
            index % 10,
            index / 250 % 250,
            index % 250
        )
    };
    let text: String = (0..10_000).map(pod).collect();
    assert_eq!(read(&text).cluster.pods.len(), 10_000);
}
