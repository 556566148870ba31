//! Large, regular clusters for benchmarks, after kube-burner's network-policy workload: namespaces × pods × policies,
//! where no two rules ask for the same namespaces or the same networks.
//!
//! Pod number *r* of a namespace carries the labels `1` to *r*, so that the label *k* selects all but the first *k* − 1
//! pods; namespaces are chosen by name. Odd policies are of ingress, even ones of egress. Everything is a pure function of
//! the arguments.
#![expect(
    clippy::exhaustive_structs,
    reason = "a profile is written as a literal; a new dimension must reach each one"
)]

use alloc::format;
use alloc::string::ToString as _;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::num::NonZeroU16;

use ipnet::{IpNet, Ipv4Net};
use netpol_core::model::{
    Cidr, Cluster, Container, ContainerPort, Field, IpBlock, LabelSelector, Labels,
    NAMESPACE_NAME_LABEL, Namespace, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, Node,
    ObjectMeta, Operator, Phase, Pod, PolicyPort, PolicyPortNumber, PolicyType, Position, Protocol,
    Requirement,
};

/// How large each namespace and each policy is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Profile {
    /// Pods of a namespace.
    pub pods_per_namespace: usize,
    /// Pods of its namespace that a policy selects.
    pub local_pods: usize,
    /// Rules of a policy that select pods; each has one peer.
    pub pod_selectors: usize,
    /// Namespaces that such a peer selects.
    pub remote_namespaces: usize,
    /// Pods that it selects in each of them.
    pub remote_pods: usize,
    /// Single ports of every rule.
    pub single_ports: usize,
    /// Port ranges of every rule.
    pub port_ranges: usize,
    /// Networks of a policy; each is a rule of its own.
    pub cidrs: usize,
    /// Excepts of each network.
    pub excepts: usize,
}

/// One of everything.
pub const MINIMAL: Profile = Profile {
    pods_per_namespace: 10,
    local_pods: 2,
    pod_selectors: 1,
    remote_namespaces: 1,
    remote_pods: 1,
    single_ports: 1,
    port_ranges: 0,
    cidrs: 1,
    excepts: 0,
};

/// Several of everything: 50 remote pods a rule.
pub const MEDIUM: Profile = Profile {
    pods_per_namespace: 20,
    local_pods: 10,
    pod_selectors: 2,
    remote_namespaces: 5,
    remote_pods: 10,
    single_ports: 2,
    port_ranges: 1,
    cidrs: 3,
    excepts: 1,
};

const PODS_PER_NODE: usize = 100;

/// Makes a cluster of that many pods and NetworkPolicies; both families, and a node for every 100 pods.
#[must_use]
pub fn cluster(pods: usize, policies: usize, profile: Profile) -> Cluster {
    let mut cluster = Cluster::default();
    let namespaces = pods.div_ceil(profile.pods_per_namespace.max(1)).max(1);
    let names: Vec<Arc<str>> =
        (0..namespaces).map(|index| format!("perf-{index}").into()).collect();
    for name in &names {
        let labels = Labels::from_iter([("workload", "network-policy-perf")]);
        cluster.namespaces.insert(name.clone(), Namespace::new(name, labels));
    }
    add_nodes(&mut cluster, pods.div_ceil(PODS_PER_NODE));
    // Shared, so that a benchmark's memory is not that of its input.
    let words = Words {
        numbers: (1..=profile.pods_per_namespace.max(1)).map(|n| n.to_string().into()).collect(),
        yes: "true".into(),
    };
    for (index, namespace) in (0..pods).zip(names.iter().cycle()) {
        let pod = pod(index, index / namespaces + 1, namespace, &words);
        cluster.pods.insert(pod.meta.object.clone(), pod);
    }
    let mut remotes = Combinations { namespaces: names.len(), step: 0 };
    for (index, namespace) in (0..policies).zip(names.iter().cycle()) {
        let number = index / namespaces + 1;
        let policy = policy(number, namespace, profile, &names, &mut remotes);
        cluster.network_policies.insert(policy.meta.object.clone(), policy);
    }
    cluster
}

fn add_nodes(cluster: &mut Cluster, nodes: usize) {
    for index in 0..nodes {
        let name: Arc<str> = format!("node-{index}").into();
        let mut meta = ObjectMeta::default();
        meta.object.name = name.clone();
        let [.., high, low] = u32::try_from(index).unwrap_or_default().to_be_bytes();
        let addresses = [
            IpAddr::V4(Ipv4Addr::new(192, 168, high, low)),
            IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, u16::from(high), u16::from(low))),
        ];
        let node = Node { meta, addresses: addresses.into(), pod_cidrs: Vec::new() };
        cluster.nodes.insert(name, node);
    }
}

/// Label keys and values that most pods share.
struct Words {
    numbers: Vec<Arc<str>>,
    yes: Arc<str>,
}

fn pod(index: usize, replica: usize, namespace: &Arc<str>, words: &Words) -> Pod {
    let mut labels = Labels::from_iter([("app", "perf".to_string()), ("num", replica.to_string())]);
    labels.0.extend(
        words.numbers.iter().take(replica).map(|number| (number.clone(), words.yes.clone())),
    );
    let [top, high, mid, low] = u32::try_from(index + 1).unwrap_or_default().to_be_bytes();
    let port = |name: &str, number| ContainerPort {
        name: Some(name.into()),
        port: number,
        protocol: Protocol::Tcp,
    };
    Pod {
        meta: ObjectMeta::new(namespace, &format!("test-pod-{replica}"), labels),
        node: Some(format!("node-{}", index / PODS_PER_NODE).into()),
        phase: Phase::Running,
        addresses: [
            IpAddr::V4(Ipv4Addr::new(10, high, mid, low)),
            IpAddr::V6(Ipv6Addr::new(
                0xfd00,
                0,
                0,
                0,
                0,
                0,
                u16::from_be_bytes([top, high]),
                u16::from_be_bytes([mid, low]),
            )),
        ]
        .into(),
        containers: [Container::Main([port("http", number(8080))].into())].into(),
        ..Pod::default()
    }
}

fn policy(
    number: usize,
    namespace: &Arc<str>,
    profile: Profile,
    names: &[Arc<str>],
    remotes: &mut Combinations,
) -> NetworkPolicy {
    let selectors = (0..profile.pod_selectors).map(|_| NetworkPolicyPeer {
        namespace_selector: Field::Given(by_name(&remotes.next(profile.remote_namespaces, names))),
        pod_selector: Field::Given(last_pods(profile.remote_pods, profile)),
        ..NetworkPolicyPeer::default()
    });
    let blocks = (0..profile.cidrs).map(|index| NetworkPolicyPeer {
        ip_block: Field::Given(network((number - 1) * profile.cidrs + index, profile.excepts)),
        ..NetworkPolicyPeer::default()
    });
    let rules: Vec<NetworkPolicyRule> = selectors
        .chain(blocks)
        .map(|peer| NetworkPolicyRule {
            peers: Field::Given([peer].into()),
            ports: Field::Given(ports(profile)),
            position: Position::default(),
        })
        .collect();
    let (kind, policy_type) = if number % 2 == 1 {
        ("ingress", PolicyType::Ingress)
    } else {
        ("egress", PolicyType::Egress)
    };
    let mut policy = NetworkPolicy {
        meta: ObjectMeta::new(namespace, &format!("{kind}-{number}"), Labels::default()),
        pod_selector: Field::Given(last_pods(profile.local_pods, profile)),
        policy_types: Field::Given([policy_type].into()),
        ..NetworkPolicy::default()
    };
    match policy_type {
        PolicyType::Ingress => policy.ingress = Field::Given(rules),
        PolicyType::Egress => policy.egress = Field::Given(rules),
    }
    policy
}

/// Selects the last `count` pods of a full namespace.
fn last_pods(count: usize, profile: Profile) -> LabelSelector {
    let label = (profile.pods_per_namespace + 1).saturating_sub(count).max(1);
    LabelSelector::labels([(label.to_string(), "true")])
}

fn by_name(names: &[Arc<str>]) -> LabelSelector {
    let requirement = Requirement {
        key: NAMESPACE_NAME_LABEL.into(),
        operator: Operator::In,
        values: names.to_vec(),
        position: Position::default(),
    };
    LabelSelector {
        match_expressions: Field::Given([requirement].into()),
        ..LabelSelector::default()
    }
}

/// The sets of namespaces one after another, each different from the ones before for as long as there are any.
struct Combinations {
    namespaces: usize,
    step: usize,
}

impl Combinations {
    fn next(&mut self, count: usize, names: &[Arc<str>]) -> Vec<Arc<str>> {
        // Start and stride together are new each time until namespaces² sets have been made.
        let start = self.step % self.namespaces;
        let stride = self.step / self.namespaces % self.namespaces + 1;
        self.step += 1;
        let mut chosen: Vec<Arc<str>> = (0..count.min(self.namespaces))
            .filter_map(|index| names.get((start + index * stride) % self.namespaces).cloned())
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}

/// The /24 number `index` of the world outside, with /28s cut out.
fn network(index: usize, excepts: usize) -> IpBlock {
    let [_, high, mid, low] = u32::try_from(index).unwrap_or_default().to_be_bytes();
    let net = |last, prefix| {
        let address = Ipv4Addr::new(high.saturating_add(1), mid, low, last);
        Ipv4Net::new(address, prefix)
            .map_or(Cidr::host(IpAddr::V4(address)), |net| Cidr::from(IpNet::V4(net)))
    };
    let except = (0..excepts.min(16)).filter_map(|part| u8::try_from(part * 16).ok());
    IpBlock {
        cidr: net(0, 24),
        except: except.map(|last| net(last, 28)).collect(),
        position: Position::default(),
    }
}

fn ports(profile: Profile) -> Vec<PolicyPort> {
    let singles =
        (0..profile.single_ports).map(|index| PolicyPortNumber::Number(number(1000 + index)));
    let ranges = (0..profile.port_ranges).map(|index| {
        PolicyPortNumber::Range(number(5000 + index * 200), number(5099 + index * 200))
    });
    singles
        .chain(ranges)
        .map(|port| PolicyPort {
            protocol: Field::Given(Protocol::Tcp),
            port: Field::Given(port),
            position: Position::default(),
        })
        .collect()
}

fn number(port: usize) -> NonZeroU16 {
    u16::try_from(port).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_has_the_size_that_was_asked_for_and_is_always_the_same() {
        for profile in [MINIMAL, MEDIUM] {
            let made = cluster(1000, 100, profile);
            assert_eq!((made.pods.len(), made.network_policies.len()), (1000, 100));
            assert_eq!(made, cluster(1000, 100, profile));
        }
    }

    #[test]
    fn every_policy_selects_its_local_pods() {
        let made = cluster(1000, 100, MEDIUM);
        for policy in made.network_policies.values() {
            let selector = policy.pod_selector.given().expect("given");
            let pods = made.pods.values().filter(|pod| {
                pod.meta.object.namespace == policy.meta.object.namespace
                    && selector.matches(&pod.meta.labels)
            });
            assert_eq!(pods.count(), MEDIUM.local_pods);
        }
    }

    #[test]
    fn addresses_are_unique() {
        let made = cluster(70_000, 0, MINIMAL);
        let mut addresses: Vec<IpAddr> =
            made.pods.values().flat_map(|pod| pod.addresses.iter().copied()).collect();
        let all = addresses.len();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), all);
    }
}
