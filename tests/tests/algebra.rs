//! What must not change a verdict, and which way a change may go (NP-007, NP-009).
#![expect(clippy::panic, clippy::print_stderr, reason = "test support")]

extern crate alloc;

use alloc::sync::Arc;

use netpol_conformance::generate::{Campaign, Case, Random, Shape};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Flow, Reason, Ruleset, Scope, SideDecision, Verdict};
use netpol_core::model::{
    Cluster, ClusterDestination, Container, Field, LabelSelector, NetworkPolicy, NetworkPolicyRule,
    ObjectRef,
};

fn ruleset(case: &Case, cluster: &Cluster, scope: Scope) -> Ruleset {
    compile(cluster, &Options { scope, settings: case.settings, ..Options::default() }).ruleset
}

#[track_caller]
fn hold(check: impl Fn(&Case) -> Option<String>) {
    let flows = if cfg!(debug_assertions) { 20_000 } else { 200_000 };
    let campaign = Campaign::from_env(Shape { flows: 200, ..Shape::default() }, flows);
    match campaign.unwrap_or_else(|error| panic!("{error}")).run(check) {
        Ok(report) => eprintln!("{report}"),
        Err(failure) => panic!("{failure}"),
    }
}

/// The verdicts of both sides.
fn sides(ruleset: &Ruleset, flow: &Flow) -> (Verdict, Verdict) {
    let decision = ruleset.verdict(flow);
    (decision.egress.verdict, decision.ingress.verdict)
}

fn same_verdicts(case: &Case, changed: &Cluster) -> Option<String> {
    let before = ruleset(case, &case.cluster, Scope::Cluster);
    let after = ruleset(case, changed, Scope::Cluster);
    case.flows.iter().find_map(|flow| {
        let (was, is) = (sides(&before, flow), sides(&after, flow));
        (was != is).then(|| format!("{flow}: {was:?} became {is:?} with\n{changed:#?}"))
    })
}

/// Every list of rules of the cluster's NetworkPolicies.
fn rule_lists(cluster: &mut Cluster) -> impl Iterator<Item = &mut Vec<NetworkPolicyRule>> {
    cluster
        .network_policies
        .values_mut()
        .flat_map(|policy| [&mut policy.ingress, &mut policy.egress])
        .filter_map(given_mut)
}

const fn given_mut<T>(field: &mut Field<T>) -> Option<&mut T> {
    match field {
        Field::Given(value) => Some(value),
        Field::Absent | Field::Null | Field::Unreadable => None,
    }
}

#[test]
fn equal_objects_give_equal_bytes() {
    hold(|case| {
        let one = compile(&case.cluster, &Options::default());
        let other = compile(&case.cluster.clone(), &Options::default());
        let equal = one.ruleset.to_string() == other.ruleset.to_string()
            && one.ruleset == other.ruleset
            && one.diagnostics == other.diagnostics;
        (!equal).then(|| format!("{}\n\n{}", one.ruleset, other.ruleset))
    });
}

#[test]
fn order_that_means_nothing_leaves_no_trace_in_the_bytes() {
    hold(|case| {
        let mut reversed = case.cluster.clone();
        for pod in reversed.pods.values_mut() {
            pod.addresses.reverse();
            for container in &mut pod.containers {
                let (Container::Main(ports) | Container::Sidecar(ports) | Container::Init(ports)) =
                    container;
                ports.reverse();
            }
            pod.containers.reverse();
        }
        for node in reversed.nodes.values_mut() {
            node.addresses.reverse();
        }
        for selector in selectors(&mut reversed) {
            reverse_selector(selector);
        }
        for rules in rule_lists(&mut reversed) {
            for rule in rules {
                given_mut(&mut rule.ports).into_iter().for_each(|ports| ports.reverse());
                for peer in given_mut(&mut rule.peers).into_iter().flatten() {
                    given_mut(&mut peer.ip_block)
                        .into_iter()
                        .for_each(|block| block.except.reverse());
                }
            }
        }
        for policy in reversed.cluster_network_policies.values_mut() {
            for rule in policy.ingress.iter_mut().chain(&mut policy.egress) {
                given_mut(&mut rule.protocols).into_iter().for_each(|ports| ports.reverse());
                for peer in &mut rule.peers {
                    if let ClusterDestination::Networks(networks) = &mut peer.destination {
                        networks.reverse();
                    }
                }
            }
        }
        let one = ruleset(case, &case.cluster, Scope::Cluster).to_string();
        let other = ruleset(case, &reversed, Scope::Cluster).to_string();
        (one != other).then(|| format!("{one}\n\nbecame\n\n{other}"))
    });
}

/// Every selector of the peers of NetworkPolicies.
fn selectors(cluster: &mut Cluster) -> Vec<&mut LabelSelector> {
    let mut selectors = Vec::new();
    for policy in cluster.network_policies.values_mut() {
        let NetworkPolicy { pod_selector, ingress, egress, .. } = policy;
        selectors.extend(given_mut(pod_selector));
        for rule in [ingress, egress].into_iter().filter_map(given_mut).flatten() {
            for peer in given_mut(&mut rule.peers).into_iter().flatten() {
                selectors.extend(given_mut(&mut peer.pod_selector));
                selectors.extend(given_mut(&mut peer.namespace_selector));
            }
        }
    }
    selectors
}

fn reverse_selector(selector: &mut LabelSelector) {
    if let Some(requirements) = given_mut(&mut selector.match_expressions) {
        requirements.reverse();
        requirements.iter_mut().for_each(|requirement| requirement.values.reverse());
    }
}

#[test]
fn reordering_rules_peers_and_ports_changes_no_verdict() {
    hold(|case| {
        let mut random = Random::seeded(7);
        let mut shuffled = case.cluster.clone();
        for rules in rule_lists(&mut shuffled) {
            random.shuffle(rules);
            for rule in rules {
                given_mut(&mut rule.peers).into_iter().for_each(|peers| random.shuffle(peers));
                given_mut(&mut rule.ports).into_iter().for_each(|ports| random.shuffle(ports));
            }
        }
        // Within one rule of a ClusterNetworkPolicy; the rules themselves have an order (CNP-015).
        for policy in shuffled.cluster_network_policies.values_mut() {
            for rule in policy.ingress.iter_mut().chain(&mut policy.egress) {
                random.shuffle(&mut rule.peers);
            }
        }
        same_verdicts(case, &shuffled)
    });
}

#[test]
fn repeating_policies_rules_peers_and_ports_changes_no_verdict() {
    hold(|case| {
        let mut doubled = case.cluster.clone();
        for rules in rule_lists(&mut doubled) {
            for rule in rules.iter_mut() {
                if let Some(peers) = given_mut(&mut rule.peers) {
                    peers.extend(peers.clone());
                }
                if let Some(ports) = given_mut(&mut rule.ports) {
                    ports.extend(ports.clone());
                }
            }
            rules.extend(rules.clone());
        }
        for policy in case.cluster.network_policies.values() {
            insert(&mut doubled, policy.clone(), "twin");
        }
        same_verdicts(case, &doubled)
    });
}

/// Adds a policy under its name with something behind it.
fn insert(cluster: &mut Cluster, mut policy: NetworkPolicy, behind: &str) {
    let ObjectRef { namespace, name } = &policy.meta.object;
    policy.meta.object = ObjectRef::new(namespace, &format!("{name}-{behind}"));
    cluster.network_policies.insert(policy.meta.object.clone(), policy);
}

#[test]
fn splitting_a_policy_into_one_for_each_rule_changes_no_verdict() {
    hold(|case| {
        let mut split = case.cluster.clone();
        for (object, policy) in &case.cluster.network_policies {
            let types = policy.effective_types();
            let mut without = policy.clone();
            // The split policies spell their types; the server would derive them from the rules (NP-021).
            let ingress = types.ingress.then_some(netpol_core::model::PolicyType::Ingress);
            let egress = types.egress.then_some(netpol_core::model::PolicyType::Egress);
            without.policy_types = Field::Given(ingress.into_iter().chain(egress).collect());
            (without.ingress, without.egress) = (Field::Absent, Field::Absent);
            for (index, rule) in policy.ingress.given().into_iter().flatten().enumerate() {
                let ingress = Field::Given([rule.clone()].into());
                let one = NetworkPolicy { ingress, ..without.clone() };
                insert(&mut split, one, &format!("ingress-{index}"));
            }
            for (index, rule) in policy.egress.given().into_iter().flatten().enumerate() {
                let egress = Field::Given([rule.clone()].into());
                let one = NetworkPolicy { egress, ..without.clone() };
                insert(&mut split, one, &format!("egress-{index}"));
            }
            split.network_policies.insert(object.clone(), without);
        }
        same_verdicts(case, &split)
    });
}

#[test]
fn adding_a_rule_never_takes_connectivity_away() {
    hold(|case| {
        // Seen from behind: without its last rule, a policy never allows more.
        let full = ruleset(case, &case.cluster, Scope::Cluster);
        let mut without = case.cluster.clone();
        for policy in without.network_policies.values_mut() {
            // Types are spelled, or they would change with the number of rules (NP-021).
            let types = policy.effective_types();
            let ingress = types.ingress.then_some(netpol_core::model::PolicyType::Ingress);
            let egress = types.egress.then_some(netpol_core::model::PolicyType::Egress);
            policy.policy_types = Field::Given(ingress.into_iter().chain(egress).collect());
        }
        for rules in rule_lists(&mut without) {
            rules.pop();
        }
        let fewer = ruleset(case, &without, Scope::Cluster);
        case.flows.iter().find_map(|flow| {
            let (many, few) = (sides(&full, flow), sides(&fewer, flow));
            // Allow orders before Deny.
            let wider = few.0 >= many.0 && few.1 >= many.1;
            (!wider).then(|| format!("{flow}: {few:?} with fewer rules, {many:?} with all"))
        })
    });
}

#[test]
fn adding_a_policy_denies_only_by_isolating_and_never_narrows_who_is_isolated_already() {
    hold(|case| {
        let after = ruleset(case, &case.cluster, Scope::Cluster);
        case.cluster.network_policies.keys().find_map(|added| {
            let mut without = case.cluster.clone();
            without.network_policies.remove(added);
            let before = ruleset(case, &without, Scope::Cluster);
            case.flows.iter().find_map(|flow| {
                let (was, is) = (before.verdict(flow), after.verdict(flow));
                let fine = lawful(&was.egress, &is.egress) && lawful(&was.ingress, &is.ingress);
                (!fine).then(|| format!("adding {added}: {flow}: {was:?} became {is:?}"))
            })
        })
    });
}

/// How a side may change when a policy is added.
fn lawful(was: &SideDecision, is: &SideDecision) -> bool {
    let newly_denied = was.verdict == Verdict::Allow && is.verdict == Verdict::Deny;
    match (&was.reason, &is.reason) {
        // Nobody but a pod that was not isolated loses anything, and only by becoming isolated.
        (Reason::NotIsolated | Reason::Rule(_), Reason::Isolated) if newly_denied => {
            match &was.reason {
                Reason::Rule(origin) => origin.policy.object.namespace.is_empty(),
                Reason::NotIsolated
                | Reason::NotPoliced
                | Reason::SelfTraffic
                | Reason::Hairpin
                | Reason::OwnNode
                | Reason::UnjudgedProtocol
                | Reason::UnknownPod
                | Reason::Isolated => true,
            }
        }
        (_, _) => !newly_denied,
    }
}

#[test]
fn the_rulesets_of_the_nodes_together_are_the_ruleset_of_the_cluster() {
    hold(|case| {
        let whole = ruleset(case, &case.cluster, Scope::Cluster);
        let nodes: Vec<&str> = vec!["n0", "n1", "n2", "ghost"];
        let parts: Vec<(Arc<str>, Ruleset)> = nodes
            .into_iter()
            .map(|name| (name.into(), ruleset(case, &case.cluster, Scope::Node(name.into()))))
            .collect();
        case.flows.iter().find_map(|flow| {
            let all = whole.verdict(flow);
            parts.iter().find_map(|(node, part)| {
                let on_node = |address| {
                    whole.owner(address).is_some_and(|owner| owner.node.as_ref() == Some(node))
                };
                let some = part.verdict(flow);
                let fine = |here: bool, whole: &SideDecision, part: &SideDecision| {
                    if here { whole == part } else { part.reason == Reason::NotPoliced }
                };
                let agree = fine(on_node(flow.source), &all.egress, &some.egress)
                    && fine(on_node(flow.destination), &all.ingress, &some.ingress);
                (!agree).then(|| format!("{flow} on {node}: {some:?}, in the cluster: {all:?}"))
            })
        })
    });
}
