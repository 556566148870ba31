//! Smaller cases: whatever can be taken away from the objects, one thing at a time.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use netpol_core::ir::{Dialled, OtherProtocols, OwnNodeEgress};
use netpol_core::model::{
    Cluster, ClusterDestination, ClusterNetworkPolicy, ClusterPeer, ClusterRule, ClusterSubject,
    Container, Field, IpBlock, LabelSelector, Labels, NAMESPACE_NAME_LABEL, Namespace,
    NamespacedPods, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, Node, Phase, Pod,
    PolicyPort, Requirement,
};

use super::Case;

/// Takes things away for as long as `fails` stays true.
pub fn shrink(case: Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let mut smallest = case;
    loop {
        let Some(smaller) = reductions(&smallest).into_iter().find(&mut fails) else {
            return smallest;
        };
        smallest = smaller;
    }
}

/// Returns every case that is one step smaller, the largest steps first. Following any of them ends.
#[must_use]
pub fn reductions(case: &Case) -> Vec<Case> {
    let mut smaller = Vec::new();
    let flows = case.flows.len();
    if flows > 1 {
        let halves = case.flows.split_at(flows / 2);
        for half in [halves.0, halves.1] {
            smaller.push(Case { flows: half.to_vec(), ..case.clone() });
        }
    }
    smaller
        .extend(cluster(&case.cluster).into_iter().map(|cluster| Case { cluster, ..case.clone() }));
    if case.settings.own_node_egress == OwnNodeEgress::Enforce {
        let mut plain = case.clone();
        plain.settings.own_node_egress = OwnNodeEgress::Allow;
        smaller.push(plain);
    }
    if case.settings.other_protocols == OtherProtocols::Pass {
        let mut plain = case.clone();
        plain.settings.other_protocols = OtherProtocols::Judge;
        smaller.push(plain);
    }
    if let [flow] = case.flows.as_slice()
        && flow.dialled == Dialled::Service
    {
        let mut plain = *flow;
        plain.dialled = Dialled::Address;
        smaller.push(Case { flows: [plain].into(), ..case.clone() });
    }
    smaller
}

/// Shrinks one field of a struct: `parts!(value, field by shrinker, …)`.
macro_rules! parts {
    ($value:expr, $($field:ident by $shrink:expr),+ $(,)?) => {{
        let mut smaller = Vec::new();
        $(smaller.extend($shrink(&$value.$field).into_iter().map(|part| {
            let mut whole = $value.clone();
            whole.$field = part;
            whole
        }));)+
        smaller
    }};
}

fn cluster(cluster: &Cluster) -> Vec<Cluster> {
    parts!(
        cluster,
        cluster_network_policies by |map| entries(map, cluster_network_policy),
        network_policies by |map| entries(map, network_policy),
        pods by |map| entries(map, pod),
        nodes by |map| entries(map, node),
        services by |map| entries(map, nothing),
        namespaces by |map| entries(map, namespace),
    )
}

fn nothing<T>(_: &T) -> Vec<T> {
    Vec::new()
}

/// Without one entry, or with one entry smaller.
fn entries<K: Clone + Ord, V: Clone>(
    map: &BTreeMap<K, V>,
    shrink: impl Fn(&V) -> Vec<V>,
) -> Vec<BTreeMap<K, V>> {
    let without = map.keys().map(|key| {
        let mut smaller = map.clone();
        smaller.remove(key);
        smaller
    });
    let with = map.iter().flat_map(|(key, value)| {
        shrink(value).into_iter().map(|value| {
            let mut smaller = map.clone();
            smaller.insert(key.clone(), value);
            smaller
        })
    });
    without.chain(with).collect()
}

/// Without one item, or with one item smaller.
fn items<T: Clone>(list: &[T], shrink: impl Fn(&T) -> Vec<T>) -> Vec<Vec<T>> {
    let without = (0..list.len()).map(|index| {
        let mut smaller = list.to_vec();
        smaller.remove(index);
        smaller
    });
    let with = list.iter().enumerate().flat_map(|(index, item)| {
        shrink(item).into_iter().map(move |item| (index, item)).collect::<Vec<_>>()
    });
    let with = with.map(|(index, item)| {
        let mut smaller = list.to_vec();
        if let Some(place) = smaller.get_mut(index) {
            *place = item;
        }
        smaller
    });
    without.chain(with).collect()
}

/// Absent, or given and smaller. Null becomes absent.
fn optional<T: Clone>(field: &Field<T>, shrink: impl Fn(&T) -> Vec<T>) -> Vec<Field<T>> {
    match field {
        Field::Absent => Vec::new(),
        Field::Null | Field::Unreadable => [Field::Absent].into(),
        Field::Given(value) => core::iter::once(Field::Absent)
            .chain(shrink(value).into_iter().map(Field::Given))
            .collect(),
    }
}

/// The plain value, unless it is that already.
fn plain<T: Clone + PartialEq>(value: &T, plain: T) -> Vec<T> {
    if *value == plain { Vec::new() } else { [plain].into() }
}

fn labels(labels: &Labels) -> Vec<Labels> {
    let mut smaller: Vec<Labels> = entries(&labels.0, nothing).into_iter().map(Labels).collect();
    // Never the label that is always there (NP-142).
    smaller.retain(|smaller| {
        smaller.value(NAMESPACE_NAME_LABEL) == labels.value(NAMESPACE_NAME_LABEL)
    });
    smaller
}

fn namespace(namespace: &Namespace) -> Vec<Namespace> {
    meta_labels(namespace, |namespace| &mut namespace.meta.labels)
}

fn meta_labels<T: Clone>(object: &T, of: impl Fn(&mut T) -> &mut Labels) -> Vec<T> {
    let mut object = object.clone();
    let smaller = labels(of(&mut object));
    smaller
        .into_iter()
        .map(|labels| {
            let mut smaller = object.clone();
            *of(&mut smaller) = labels;
            smaller
        })
        .collect()
}

fn node(node: &Node) -> Vec<Node> {
    let mut smaller = parts!(node, addresses by |list: &Vec<_>| items(list, nothing));
    smaller.extend(meta_labels(node, |node| &mut node.meta.labels));
    smaller
}

fn pod(pod: &Pod) -> Vec<Pod> {
    let mut smaller = parts!(
        pod,
        containers by |list: &Vec<_>| items(list, container),
        addresses by |list: &Vec<_>| items(list, nothing),
        node by |node| plain(node, None),
        host_network by |on: &bool| plain(on, false),
        phase by |phase| plain(phase, Phase::Running),
        terminating by |on: &bool| plain(on, false),
    );
    smaller.extend(meta_labels(pod, |pod| &mut pod.meta.labels));
    if pod.meta.created.is_some() {
        let mut ageless = pod.clone();
        ageless.meta.created = None;
        smaller.push(ageless);
    }
    smaller
}

fn container(container: &Container) -> Vec<Container> {
    let (wrap, ports): (fn(_) -> Container, _) = match container {
        Container::Main(ports) => (Container::Main, ports),
        Container::Sidecar(ports) => (Container::Sidecar, ports),
        Container::Init(ports) => (Container::Init, ports),
    };
    items(ports, nothing).into_iter().map(wrap).collect()
}

fn selector(selector: &LabelSelector) -> Vec<LabelSelector> {
    parts!(
        selector,
        match_labels by |field| optional(field, |pairs| entries(pairs, nothing)),
        match_expressions by |field| optional(field, |list: &Vec<_>| items(list, |requirement: &Requirement| {
            parts!(requirement, values by |values: &Vec<_>| {
                // In and NotIn keep a value (VAL-030).
                if values.len() > 1 { items(values, nothing) } else { Vec::new() }
            })
        })),
    )
}

fn network_policy(policy: &NetworkPolicy) -> Vec<NetworkPolicy> {
    let mut smaller = parts!(
        policy,
        ingress by |field| optional(field, |rules: &Vec<_>| items(rules, rule)),
        egress by |field| optional(field, |rules: &Vec<_>| items(rules, rule)),
        pod_selector by |field| optional(field, selector),
        policy_types by |field| optional(field, |types: &Vec<_>| items(types, nothing)),
    );
    smaller.extend(meta_labels(policy, |policy| &mut policy.meta.labels));
    smaller
}

fn rule(rule: &NetworkPolicyRule) -> Vec<NetworkPolicyRule> {
    parts!(
        rule,
        peers by |field| optional(field, |peers: &Vec<_>| items(peers, peer)),
        ports by |field| optional(field, |ports: &Vec<_>| items(ports, |port: &PolicyPort| parts!(
            port,
            protocol by |field| optional(field, nothing),
            port by |field| optional(field, nothing),
        ))),
    )
}

fn peer(peer: &NetworkPolicyPeer) -> Vec<NetworkPolicyPeer> {
    let smaller = parts!(
        peer,
        pod_selector by |field| optional(field, selector),
        namespace_selector by |field| optional(field, selector),
        ip_block by |field| optional(field, |block: &IpBlock| {
            parts!(block, except by |list: &Vec<_>| items(list, nothing))
        }),
    );
    // A peer keeps something to be (VAL-020).
    let is_empty = |peer: &NetworkPolicyPeer| {
        peer.pod_selector.is_unset()
            && peer.namespace_selector.is_unset()
            && peer.ip_block.is_unset()
    };
    smaller.into_iter().filter(|smaller| is_empty(peer) || !is_empty(smaller)).collect()
}

fn cluster_network_policy(policy: &ClusterNetworkPolicy) -> Vec<ClusterNetworkPolicy> {
    let mut smaller = parts!(
        policy,
        ingress by |rules: &Vec<_>| items(rules, cluster_rule),
        egress by |rules: &Vec<_>| items(rules, cluster_rule),
        subject by subject,
        priority by |priority: &u16| plain(priority, 0),
    );
    smaller.extend(meta_labels(policy, |policy| &mut policy.meta.labels));
    smaller
}

fn subject(subject: &ClusterSubject) -> Vec<ClusterSubject> {
    match subject {
        ClusterSubject::Namespaces(namespaces) => {
            selector(namespaces).into_iter().map(ClusterSubject::Namespaces).collect()
        }
        ClusterSubject::Pods(both) => {
            namespaced_pods(both).into_iter().map(ClusterSubject::Pods).collect()
        }
        ClusterSubject::Unknown => Vec::new(),
    }
}

fn namespaced_pods(both: &NamespacedPods) -> Vec<NamespacedPods> {
    parts!(
        both,
        namespace_selector by |field| optional(field, selector),
        pod_selector by selector,
    )
}

fn cluster_rule(rule: &ClusterRule) -> Vec<ClusterRule> {
    parts!(
        rule,
        // A list that is there keeps an item (CNP-022, VAL-C-04).
        peers by |peers: &Vec<_>| non_empty(items(peers, cluster_peer)),
        protocols by |field| optional(field, |ports: &Vec<_>| non_empty(items(ports, nothing))),
        name by |name| plain(name, None),
    )
}

fn non_empty<T>(mut lists: Vec<Vec<T>>) -> Vec<Vec<T>> {
    lists.retain(|list| !list.is_empty());
    lists
}

fn cluster_peer(peer: &ClusterPeer) -> Vec<ClusterPeer> {
    parts!(peer, destination by |destination: &ClusterDestination| match destination {
        ClusterDestination::Namespaces(namespaces) => {
            selector(namespaces).into_iter().map(ClusterDestination::Namespaces).collect()
        }
        ClusterDestination::Pods(both) => {
            namespaced_pods(both).into_iter().map(ClusterDestination::Pods).collect()
        }
        ClusterDestination::Nodes(nodes) => {
            selector(nodes).into_iter().map(ClusterDestination::Nodes).collect()
        }
        ClusterDestination::Networks(networks) => non_empty(items(networks, nothing))
            .into_iter()
            .map(ClusterDestination::Networks)
            .collect(),
        ClusterDestination::DomainNames(names) => non_empty(items(names, nothing))
            .into_iter()
            .map(ClusterDestination::DomainNames)
            .collect(),
        ClusterDestination::Unknown => Vec::new(),
    })
}
