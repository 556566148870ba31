//! The clusters that the figures are of, each named after where it comes from.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use netpol_conformance::generate::Random;
use netpol_core::compile::Options;
use netpol_core::engine::Event;
use netpol_core::ir::Scope;
use netpol_core::model::{
    Cidr, Field, IpBlock, LabelSelector, Labels, Namespace, NetworkPolicy, NetworkPolicyPeer,
    NetworkPolicyRule, ObjectMeta, Phase, Pod, PolicyPort, PolicyPortNumber, PolicyType, Position,
};

/// A cluster, kind by kind.
#[derive(Clone, Default)]
pub(crate) struct Workload {
    pub(crate) options: Options,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) policies: Vec<NetworkPolicy>,
}

impl Workload {
    /// Returns the puts of every object, kinds one after another, and the end of the listing.
    pub(crate) fn into_events(self) -> impl Iterator<Item = Event> {
        let namespaces = self.namespaces.into_iter().map(Event::PutNamespace);
        let pods = self.pods.into_iter().map(Event::PutPod);
        let policies = self.policies.into_iter().map(Event::PutNetworkPolicy);
        namespaces.chain(pods).chain(policies).chain([Event::InSync])
    }
}

/// Words said once and shared, as a client's cache shares them or not; here so that a figure is the engine's memory.
#[derive(Default)]
pub(crate) struct Words(std::collections::HashMap<String, Arc<str>>);

impl Words {
    pub(crate) fn word(&mut self, text: String) -> Arc<str> {
        self.0.entry(text).or_insert_with_key(|text| text.as_str().into()).clone()
    }
}

pub(crate) fn node_scope() -> Options {
    Options { scope: Scope::Node("here".into()), ..Options::default() }
}

pub(crate) fn address(index: usize) -> IpAddr {
    let [_, high, mid, low] = u32::try_from(index + 1).unwrap().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, high, mid, low))
}

pub(crate) fn pod(
    namespace: &str,
    name: &str,
    index: usize,
    labels: Labels,
    is_local: bool,
) -> Pod {
    let created = Some("2026-01-01T00:00:00Z".into());
    Pod {
        meta: ObjectMeta { created, ..ObjectMeta::new(namespace, name, labels) },
        node: Some(if is_local { "here".into() } else { format!("node-{}", index / 50).into() }),
        phase: Phase::Running,
        addresses: vec![address(index)],
        ..Pod::default()
    }
}

pub(crate) fn equals(pairs: &[(&str, &str)]) -> Field<LabelSelector> {
    Field::Given(LabelSelector::labels(pairs.iter().copied()))
}

pub(crate) fn peer(
    namespaces: Option<&[(&str, &str)]>,
    pods: &[(&str, &str)],
) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: namespaces.map(equals).unwrap_or_default(),
        pod_selector: equals(pods),
        ..NetworkPolicyPeer::default()
    }
}

pub(crate) fn rule(peers: Vec<NetworkPolicyPeer>, port: u16) -> NetworkPolicyRule {
    let port = PolicyPort {
        port: Field::Given(PolicyPortNumber::Number(port.try_into().unwrap())),
        ..PolicyPort::default()
    };
    NetworkPolicyRule {
        peers: Field::Given(peers),
        ports: Field::Given(vec![port]),
        position: Position::default(),
    }
}

pub(crate) fn policy(
    namespace: &str,
    name: &str,
    subject: &[(&str, &str)],
    ingress: Vec<NetworkPolicyRule>,
    egress: Vec<NetworkPolicyRule>,
) -> NetworkPolicy {
    let types = [(PolicyType::Ingress, &ingress), (PolicyType::Egress, &egress)];
    let types: Vec<PolicyType> =
        types.into_iter().filter(|(_, rules)| !rules.is_empty()).map(|(kind, _)| kind).collect();
    NetworkPolicy {
        meta: ObjectMeta::new(namespace, name, Labels::default()),
        pod_selector: equals(subject),
        policy_types: Field::Given(types),
        ingress: Field::Given(ingress),
        egress: Field::Given(egress),
    }
}

/// Felix's start of a node: 250,000 remote and 200 local pods, 100 namespaces, 10,000 policies × 5 rules, one node.
pub(crate) fn snapshot(pods: usize, policies: usize) -> Workload {
    let mut words = Words::default();
    let mut random = Random::seeded(1);
    let (namespaces, local) = (100, 200);
    let mut made = Workload { options: node_scope(), ..Workload::default() };
    for namespace in 0..namespaces {
        let labels = Labels::from_iter([("team", format!("t{}", namespace % 10))]);
        made.namespaces.push(Namespace::new(&format!("ns-{namespace}"), labels));
    }
    for index in 0..pods + local {
        let namespace = format!("ns-{}", index % namespaces);
        let labels = Labels::from_iter([
            (words.word("app".into()), words.word(format!("app-{}", random.below(20)))),
            (words.word("tier".into()), words.word(format!("tier-{}", random.below(4)))),
            (words.word("version".into()), words.word(format!("v{}", random.below(50)))),
            (words.word("pod-template-hash".into()), words.word(format!("{}", index / 5))),
        ]);
        let name = format!("app-{}-{index}", index / 5);
        made.pods.push(pod(&namespace, &name, index, labels, index < local));
    }
    for index in 0..policies {
        let namespace = format!("ns-{}", index % namespaces);
        let app = format!("app-{}", index / namespaces % 20);
        let rules = (0..5).map(|number| {
            let (team, app) = (format!("t{}", random.below(10)), random.below(20));
            let app = format!("app-{app}");
            let port = 8000 + u16::try_from(number).unwrap();
            rule(vec![peer(Some(&[("team", &team)]), &[("app", &app)])], port)
        });
        let rules = rules.collect();
        made.policies.push(policy(
            &namespace,
            &format!("p-{index}"),
            &[("app", &app)],
            rules,
            vec![],
        ));
    }
    made
}

/// Isolated customers: a namespace, a pod with 15 labels and a policy each; only their own pods, and DNS.
pub(crate) fn customers(namespaces: usize) -> Workload {
    let mut words = Words::default();
    let mut made = Workload { options: node_scope(), ..Workload::default() };
    for index in 0..namespaces {
        let namespace = format!("customer-{index}");
        made.namespaces.push(Namespace::new(&namespace, Labels::default()));
        let labels = (0..15).map(|key| {
            let value = if key < 2 { format!("{key}-{index}") } else { format!("{}", index % 7) };
            (words.word(format!("label-{key}")), words.word(value))
        });
        made.pods.push(pod(
            &namespace,
            "pod",
            index,
            labels.collect(),
            index % (namespaces / 100).max(1) == 0,
        ));
        let own = || peer(None, &[]);
        let dns = NetworkPolicyPeer {
            ip_block: Field::Given(IpBlock {
                cidr: Cidr::parse("10.96.0.10/32").unwrap(),
                except: Vec::new(),
                position: Position::default(),
            }),
            ..NetworkPolicyPeer::default()
        };
        let all = |peers| NetworkPolicyRule {
            peers: Field::Given(peers),
            ..NetworkPolicyRule::default()
        };
        let (ingress, egress) =
            (vec![all(vec![own()])], vec![all(vec![own()]), rule(vec![dns], 53)]);
        made.policies.push(policy(&namespace, "isolate", &[], ingress, egress));
    }
    made
}

/// Antrea's `TestInitXLargeScaleWithSmallNamespaces`: four pods and three policies a namespace, the whole cluster.
pub(crate) fn antrea_xlarge(namespaces: usize) -> Workload {
    let mut words = Words::default();
    let mut made = Workload::default();
    for namespace in 0..namespaces {
        let name = format!("ns-{namespace}");
        made.namespaces.push(Namespace::new(&name, Labels::from_iter([("app", name.as_str())])));
        for number in 0..4 {
            let labels = Labels::from_iter([
                (words.word("app-1".into()), words.word("scale-1".into())),
                (words.word(format!("app-{}", number / 2 + 2)), words.word("scale".into())),
            ]);
            made.pods.push(pod(
                &name,
                &format!("pod-{number}"),
                namespace * 4 + number,
                labels,
                false,
            ));
        }
        let app = |key: &str, value: &str| {
            (
                vec![rule(vec![peer(None, &[(key, value)])], 80)],
                vec![rule(vec![peer(None, &[(key, value)])], 80)],
            )
        };
        let mut deny = policy(&name, "default-deny", &[], vec![], vec![]);
        deny.policy_types = Field::Given(vec![PolicyType::Ingress, PolicyType::Egress]);
        made.policies.push(deny);
        let (ingress, egress) = app("app-1", "scale-1");
        made.policies.push(policy(&name, "np-1", &[("app-1", "scale-1")], ingress, egress));
        let (ingress, egress) = app("app-2", "scale");
        made.policies.push(policy(&name, "np-2", &[("app-2", "scale")], ingress, egress));
    }
    made
}

/// Antrea's `TestInitXLargeScaleWithOneSingleNamespace`: each policy selects one pod, by a label of its own.
pub(crate) fn one_namespace(count: usize) -> Workload {
    let mut made = Workload::default();
    made.namespaces.push(Namespace::new("ns", Labels::default()));
    for index in 0..count {
        let value = format!("{index:x}-{}", index * 7919 % 10_007);
        let labels = Labels::from_iter([("app-1", value.as_str()), ("app", "perf")]);
        made.pods.push(pod("ns", &format!("pod-{index}"), index, labels, false));
        let other = format!("{:x}-{}", (index + 1) % count, (index + 1) % count * 7919 % 10_007);
        let ingress = vec![rule(vec![peer(None, &[("app-1", &value)])], 80)];
        let egress = vec![rule(vec![peer(None, &[("app-1", &other)])], 80)];
        made.policies.push(policy(
            "ns",
            &format!("np-{index}"),
            &[("app-1", &value)],
            ingress,
            egress,
        ));
    }
    made
}

/// So many pods with `labels` labels each, and so many distinct selectors of peers, all in use on one node.
pub(crate) fn selectors(pods: usize, selectors: usize, labels: usize) -> Workload {
    let mut made = Workload { options: node_scope(), ..Workload::default() };
    let namespaces = 100;
    for namespace in 0..namespaces {
        let labels = Labels::from_iter([("team", format!("t{}", namespace % 10))]);
        made.namespaces.push(Namespace::new(&format!("ns-{namespace}"), labels));
    }
    let mut words = Words::default();
    for index in 0..pods {
        let labels = service_labels(&mut words, index, selectors, labels);
        let namespace = format!("ns-{}", index % namespaces);
        made.pods.push(pod(&namespace, &format!("pod-{index}"), index, labels, index < 100));
    }
    for index in 0..selectors {
        let service = format!("svc-{index}");
        let rules = vec![rule(vec![peer(Some(&[]), &[("service", &service)])], 80)];
        let namespace = format!("ns-{}", index % namespaces);
        made.policies.push(policy(&namespace, &format!("p-{index}"), &[], rules, vec![]));
    }
    made
}

pub(crate) fn service_labels(
    words: &mut Words,
    index: usize,
    selectors: usize,
    labels: usize,
) -> Labels {
    let service = words.word(format!("svc-{}", index % selectors.max(1)));
    let mut made = Labels::from_iter([(words.word("service".into()), service)]);
    for key in 1..labels {
        let value = words.word(format!("v{}", index % (key * 3 + 1)));
        made.0.insert(words.word(format!("label-{key}")), value);
    }
    made
}

/// So many pods in namespaces of 10,000, and so many selectors of pods in namespaces by label.
pub(crate) fn relabel(pods: usize, selectors: usize) -> Workload {
    let mut made = Workload { options: node_scope(), ..Workload::default() };
    let mut words = Words::default();
    for namespace in 0..pods / 10_000 {
        let labels = Labels::from_iter([("env", format!("e{namespace}"))]);
        made.namespaces.push(Namespace::new(&format!("ns-{namespace}"), labels));
        for number in 0..10_000 {
            let index = namespace * 10_000 + number;
            let labels = service_labels(&mut words, index, 10, 5);
            let name = format!("pod-{number}");
            made.pods.push(pod(&format!("ns-{namespace}"), &name, index, labels, index < 100));
        }
    }
    for index in 0..selectors {
        let (env, service) = (format!("e{}", index / 10), format!("svc-{}", index % 10));
        let rules = vec![rule(vec![peer(Some(&[("env", &env)]), &[("service", &service)])], 80)];
        made.policies.push(policy("ns-0", &format!("p-{index}"), &[], rules, vec![]));
    }
    made
}

/// Published as what a cluster of Cilium identities broke on: every pod has labels of its own, and one policy names all.
pub(crate) fn distinct_labels(pods: usize) -> Workload {
    let mut made = Workload { options: node_scope(), ..Workload::default() };
    made.namespaces.push(Namespace::new("ns", Labels::default()));
    for index in 0..pods {
        let own = format!("unique-{index}");
        let labels = Labels::from_iter([("job", own.as_str()), ("app", "spark")]);
        made.pods.push(pod("ns", &format!("pod-{index}"), index, labels, index < 100));
    }
    let rules = vec![rule(vec![peer(None, &[("app", "spark")])], 80)];
    made.policies.push(policy("ns", "hub", &[("app", "spark")], rules, vec![]));
    made
}
