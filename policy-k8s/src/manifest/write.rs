//! From the model back to manifests, so that a failing case can be printed and saved.

use netpol_core::model::{
    Cidr, Cluster, ClusterDestination, ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterRule,
    ClusterSubject, Container, ContainerPort, Field, IpBlock, Kind, LabelSelector, Labels,
    Namespace, NamespacedPods, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, Node,
    ObjectMeta, Phase, Pod, PolicyPort, PolicyPortNumber, PolicyType, Protocol, Requirement,
    Workload,
};

use super::yaml::Yaml;

/// Writes what policy looks at (namespaces, nodes, pods, both kinds of policy) as manifests in one multi-document text.
///
/// Reading the text gives the same objects, apart from their places. What only reports look at (Services, Endpoints,
/// Ingresses) is left out. A pod that stands for a workload is written as the workload, unless it has an address or a
/// phase, which only a pod can have. Parts that could not be read once ([`Field::Unreadable`] and the `Unknown` variants)
/// are written as text that is an error when read again: there is no manifest that means them.
#[must_use]
pub fn write_yaml(cluster: &Cluster) -> String {
    let declared = cluster.namespaces.values().filter(|namespace| namespace.declared);
    let documents = declared
        .map(namespace)
        .chain(cluster.nodes.values().map(node))
        .chain(cluster.pods.values().map(pod_or_workload))
        .chain(cluster.network_policies.values().map(network_policy))
        .chain(cluster.cluster_network_policies.values().map(cluster_network_policy));
    documents.map(|document| format!("{document}\n")).collect::<Vec<_>>().join("---\n")
}

fn object(api_version: &str, kind: Kind, metadata: Yaml, rest: [(&str, Option<Yaml>); 2]) -> Yaml {
    let [spec, status] = rest;
    Yaml::map([
        ("apiVersion", Some(Yaml::text(api_version))),
        ("kind", Some(Yaml::text(kind))),
        ("metadata", Some(metadata)),
        spec,
        status,
    ])
}

fn metadata(meta: &ObjectMeta, terminating: Option<Yaml>) -> Yaml {
    let namespace = &meta.object.namespace;
    Yaml::map([
        ("name", Some(Yaml::text(&meta.object.name))),
        ("namespace", (!namespace.is_empty()).then(|| Yaml::text(namespace))),
        ("uid", meta.uid.as_ref().map(Yaml::text)),
        ("creationTimestamp", meta.created.as_ref().map(Yaml::text)),
        ("deletionTimestamp", terminating),
        ("labels", labels(&meta.labels)),
    ])
}

fn labels(labels: &Labels) -> Option<Yaml> {
    (!labels.is_empty()).then(|| pairs(&labels.0))
}

fn pairs<K: ToString, V: core::fmt::Display>(pairs: impl IntoIterator<Item = (K, V)>) -> Yaml {
    Yaml::Map(pairs.into_iter().map(|(key, value)| (key.to_string(), Yaml::text(value))).collect())
}

fn filled(items: Vec<Yaml>) -> Option<Yaml> {
    (!items.is_empty()).then_some(Yaml::List(items))
}

fn namespace(namespace: &Namespace) -> Yaml {
    object(
        "v1",
        Kind::Namespace,
        metadata(&namespace.meta, None),
        [("spec", None), ("status", None)],
    )
}

fn node(node: &Node) -> Yaml {
    let cidrs = filled(node.pod_cidrs.iter().map(Yaml::text).collect());
    let spec = cidrs.map(|cidrs| Yaml::map([("podCIDRs", Some(cidrs))]));
    let address = |address| {
        Yaml::map([
            ("type", Some(Yaml::text("InternalIP"))),
            ("address", Some(Yaml::text(address))),
        ])
    };
    let addresses = filled(node.addresses.iter().map(address).collect());
    let status = addresses.map(|addresses| Yaml::map([("addresses", Some(addresses))]));
    object("v1", Kind::Node, metadata(&node.meta, None), [("spec", spec), ("status", status)])
}

fn pod_or_workload(pod: &Pod) -> Yaml {
    let template_like = pod.addresses.is_empty() && pod.phase == Phase::Unknown && !pod.terminating;
    match &pod.workload {
        Some(owner) if template_like => workload(pod, owner),
        Some(_) | None => real_pod(pod),
    }
}

fn real_pod(pod: &Pod) -> Yaml {
    // Any time says that deletion has begun.
    let terminating = pod.terminating.then(|| Yaml::text("1970-01-01T00:00:00Z"));
    let phase = match pod.phase {
        Phase::Pending => Some("Pending"),
        Phase::Running => Some("Running"),
        Phase::Succeeded => Some("Succeeded"),
        Phase::Failed => Some("Failed"),
        Phase::Unknown => None,
    };
    let addresses =
        pod.addresses.iter().map(|address| Yaml::map([("ip", Some(Yaml::text(address)))]));
    let status = Yaml::map([
        ("phase", phase.map(Yaml::text)),
        ("podIP", pod.addresses.first().map(Yaml::text)),
        ("podIPs", filled(addresses.collect())),
    ]);
    let metadata = metadata(&pod.meta, terminating);
    object("v1", Kind::Pod, metadata, [("spec", Some(pod_spec(pod))), ("status", Some(status))])
}

fn pod_spec(pod: &Pod) -> Yaml {
    let (mut main, mut init) = (Vec::new(), Vec::new());
    for (index, container) in pod.containers.iter().enumerate() {
        let (list, restart, ports) = match container {
            Container::Main(ports) => (&mut main, None, ports),
            Container::Sidecar(ports) => (&mut init, Some(Yaml::text("Always")), ports),
            Container::Init(ports) => (&mut init, None, ports),
        };
        list.push(Yaml::map([
            ("name", Some(Yaml::text(format_args!("c{index}")))),
            ("image", Some(Yaml::text("pause"))),
            ("restartPolicy", restart),
            ("ports", filled(ports.iter().map(container_port).collect())),
        ]));
    }
    Yaml::map([
        ("nodeName", pod.node.as_ref().map(Yaml::text)),
        ("hostNetwork", pod.host_network.then_some(Yaml::Boolean(true))),
        ("initContainers", filled(init)),
        ("containers", filled(main)),
    ])
}

fn container_port(port: &ContainerPort) -> Yaml {
    Yaml::map([
        ("name", port.name.as_ref().map(Yaml::text)),
        ("containerPort", Some(number(port.port.get()))),
        ("protocol", Some(Yaml::text(port.protocol))),
    ])
}

fn number(port: u16) -> Yaml {
    Yaml::Number(u32::from(port))
}

fn workload(pod: &Pod, owner: &Workload) -> Yaml {
    let api_version = match owner.kind {
        Kind::CronJob | Kind::Job => "batch/v1",
        Kind::ReplicationController => "v1",
        Kind::AdminNetworkPolicy
        | Kind::BaselineAdminNetworkPolicy
        | Kind::ClusterNetworkPolicy
        | Kind::DaemonSet
        | Kind::Deployment
        | Kind::Endpoints
        | Kind::EndpointSlice
        | Kind::Ingress
        | Kind::Namespace
        | Kind::NetworkPolicy
        | Kind::Node
        | Kind::Pod
        | Kind::ReplicaSet
        | Kind::Service
        | Kind::StatefulSet => "apps/v1",
    };
    let template = Yaml::map([
        ("metadata", Some(Yaml::map([("labels", labels(&pod.meta.labels))]))),
        ("spec", Some(pod_spec(pod))),
    ]);
    let replicas = (owner.replicas != 1).then_some(Yaml::Number(owner.replicas));
    let spec = Yaml::map([("replicas", replicas), ("template", Some(template))]);
    let spec = if owner.kind == Kind::CronJob {
        Yaml::map([("jobTemplate", Some(Yaml::map([("spec", Some(spec))])))])
    } else {
        spec
    };
    let mut meta = pod.meta.clone();
    meta.object.name = owner.name.clone();
    meta.labels = Labels::default();
    object(api_version, owner.kind, metadata(&meta, None), [("spec", Some(spec)), ("status", None)])
}

/// Absent, null, given, and what cannot be written.
fn field<T>(field: &Field<T>, write: impl FnOnce(&T) -> Yaml) -> Option<Yaml> {
    match field {
        Field::Absent => None,
        Field::Null => Some(Yaml::Null),
        Field::Given(value) => Some(write(value)),
        Field::Unreadable => Some(Yaml::text("(unreadable)")),
    }
}

fn list_field<T>(list: &Field<Vec<T>>, write: impl Fn(&T) -> Yaml) -> Option<Yaml> {
    field(list, |items| Yaml::list(items.iter().map(write)))
}

fn selector(selector: &LabelSelector) -> Yaml {
    Yaml::map([
        ("matchLabels", field(&selector.match_labels, |labels| pairs(labels))),
        ("matchExpressions", list_field(&selector.match_expressions, requirement)),
    ])
}

fn requirement(requirement: &Requirement) -> Yaml {
    Yaml::map([
        ("key", Some(Yaml::text(&requirement.key))),
        ("operator", Some(Yaml::text(requirement.operator.as_str()))),
        ("values", filled(requirement.values.iter().map(Yaml::text).collect())),
    ])
}

fn network_policy(policy: &NetworkPolicy) -> Yaml {
    let policy_type = |policy_type: &PolicyType| match policy_type {
        PolicyType::Ingress => Yaml::text("Ingress"),
        PolicyType::Egress => Yaml::text("Egress"),
    };
    let spec = Yaml::map([
        ("podSelector", field(&policy.pod_selector, selector)),
        ("policyTypes", list_field(&policy.policy_types, policy_type)),
        ("ingress", list_field(&policy.ingress, |rule| network_policy_rule(rule, "from"))),
        ("egress", list_field(&policy.egress, |rule| network_policy_rule(rule, "to"))),
    ]);
    let metadata = metadata(&policy.meta, None);
    object(
        "networking.k8s.io/v1",
        Kind::NetworkPolicy,
        metadata,
        [("spec", Some(spec)), ("status", None)],
    )
}

fn network_policy_rule(rule: &NetworkPolicyRule, peers: &str) -> Yaml {
    Yaml::map([
        (peers, list_field(&rule.peers, peer)),
        ("ports", list_field(&rule.ports, policy_port)),
    ])
}

pub(super) fn peer(peer: &NetworkPolicyPeer) -> Yaml {
    Yaml::map([
        ("podSelector", field(&peer.pod_selector, selector)),
        ("namespaceSelector", field(&peer.namespace_selector, selector)),
        ("ipBlock", field(&peer.ip_block, ip_block)),
    ])
}

fn ip_block(block: &IpBlock) -> Yaml {
    let except = filled(block.except.iter().map(Yaml::text).collect());
    Yaml::map([("cidr", Some(Yaml::text(block.cidr))), ("except", except)])
}

pub(super) fn policy_port(port: &PolicyPort) -> Yaml {
    let end = match port.port.given() {
        Some(PolicyPortNumber::Range(_, end)) => Some(number(end.get())),
        Some(PolicyPortNumber::Name(_) | PolicyPortNumber::Number(_)) | None => None,
    };
    let start = field(&port.port, |port| match port {
        PolicyPortNumber::Name(name) => Yaml::text(name),
        PolicyPortNumber::Number(start) | PolicyPortNumber::Range(start, _) => number(start.get()),
    });
    Yaml::map([
        ("protocol", field(&port.protocol, |protocol| Yaml::text(protocol))),
        ("port", start),
        ("endPort", end),
    ])
}

fn cluster_network_policy(policy: &ClusterNetworkPolicy) -> Yaml {
    let subject = match &policy.subject {
        ClusterSubject::Namespaces(namespaces) => {
            Yaml::map([("namespaces", Some(selector(namespaces)))])
        }
        ClusterSubject::Pods(pods) => Yaml::map([("pods", Some(namespaced_pods(pods)))]),
        ClusterSubject::Unknown => unknown(),
    };
    let rules = |rules: &[ClusterRule], peers| {
        filled(rules.iter().map(|rule| cluster_rule(rule, peers)).collect())
    };
    let spec = Yaml::map([
        ("tier", Some(Yaml::text(policy.tier))),
        ("priority", Some(number(policy.priority))),
        ("subject", Some(subject)),
        ("ingress", rules(&policy.ingress, "from")),
        ("egress", rules(&policy.egress, "to")),
    ]);
    let api_version = "policy.networking.k8s.io/v1alpha2";
    let metadata = metadata(&policy.meta, None);
    object(
        api_version,
        Kind::ClusterNetworkPolicy,
        metadata,
        [("spec", Some(spec)), ("status", None)],
    )
}

/// What this version does not know stays an error when it is read again.
fn unknown() -> Yaml {
    Yaml::map([("unknown", Some(Yaml::Map(Vec::new())))])
}

fn cluster_rule(rule: &ClusterRule, peers: &str) -> Yaml {
    Yaml::map([
        ("name", rule.name.as_ref().map(Yaml::text)),
        ("action", Some(Yaml::text(rule.action))),
        (peers, Some(Yaml::list(rule.peers.iter().map(cluster_peer)))),
        ("protocols", list_field(&rule.protocols, cluster_port)),
    ])
}

fn cluster_peer(peer: &ClusterPeer) -> Yaml {
    let texts = |texts: Vec<Yaml>| Some(Yaml::List(texts));
    match &peer.destination {
        ClusterDestination::Namespaces(namespaces) => {
            Yaml::map([("namespaces", Some(selector(namespaces)))])
        }
        ClusterDestination::Pods(pods) => Yaml::map([("pods", Some(namespaced_pods(pods)))]),
        ClusterDestination::Nodes(nodes) => Yaml::map([("nodes", Some(selector(nodes)))]),
        ClusterDestination::Networks(networks) => Yaml::map([(
            "networks",
            texts(networks.iter().map(|network: &Cidr| Yaml::text(network)).collect()),
        )]),
        ClusterDestination::DomainNames(names) => {
            Yaml::map([("domainNames", texts(names.iter().map(Yaml::text).collect()))])
        }
        ClusterDestination::Unknown => unknown(),
    }
}

fn namespaced_pods(pods: &NamespacedPods) -> Yaml {
    Yaml::map([
        ("namespaceSelector", field(&pods.namespace_selector, selector)),
        ("podSelector", Some(selector(&pods.pod_selector))),
    ])
}

fn cluster_port(port: &ClusterPort) -> Yaml {
    match port {
        ClusterPort::Range(protocol, start, end) => {
            let name = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            let range = || {
                Yaml::map([("start", Some(number(start.get()))), ("end", Some(number(end.get())))])
            };
            let port = if start == end {
                Yaml::map([("number", Some(number(start.get())))])
            } else {
                Yaml::map([("range", Some(range()))])
            };
            Yaml::map([(name, Some(Yaml::map([("destinationPort", Some(port))])))])
        }
        ClusterPort::Named(name) => Yaml::map([("destinationNamedPort", Some(Yaml::text(name)))]),
        ClusterPort::Unknown => unknown(),
    }
}
