//! ClusterNetworkPolicies to rule blocks.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

use super::context::Context;
use super::peers::Ends;
use super::pipelines::{Bindings, Slot};
use super::pods::{Row, index};
use super::{Diagnostic, Effect};
use crate::ir::{
    Action, Direction, NamespaceScope, Origin, Peers, PolicyKind, PolicyRef, Ports, Rule,
    RuleBlock, Selector,
};
use crate::model::{
    ClusterAction, ClusterDestination, ClusterNetworkPolicy, ClusterPort, ClusterRule,
    ClusterSubject, Field, LabelSelector, NamespacedPods,
};
use crate::net::{PortSet, PrefixSet};

/// Compiles every ClusterNetworkPolicy in the order they apply: by tier, priority and name (CNP-004, DEC-12).
pub(super) fn compile_all(context: &mut Context<'_>, bindings: &mut Bindings) {
    let mut policies: Vec<&ClusterNetworkPolicy> =
        context.cluster.cluster_network_policies.values().collect();
    policies.sort_by_key(|policy| (policy.tier, policy.priority)); // Stable: names ascend already.
    let mut tied: Vec<Applied<'_>> = Vec::new();
    for policy in policies {
        let applied = compile(context, bindings, policy);
        tied.retain(|other| {
            (other.policy.tier, other.policy.priority) == (policy.tier, policy.priority)
        });
        tied.iter().for_each(|other| report_tie(context, other, &applied));
        tied.push(applied);
    }
}

/// A policy with the pods it applies to.
struct Applied<'a> {
    policy: &'a ClusterNetworkPolicy,
    origin: Arc<PolicyRef>,
    rows: Vec<Row>,
}

/// DEC-12: a tie is worth a word only where both policies can touch the same traffic with different actions.
fn report_tie(context: &mut Context<'_>, first: &Applied<'_>, second: &Applied<'_>) {
    let (one, other) = (first.policy, second.policy);
    let share_pods = || first.rows.iter().any(|row| second.rows.binary_search(row).is_ok());
    let differ = |left: &[ClusterRule], right: &[ClusterRule]| {
        left.iter().any(|left| right.iter().any(|right| left.action != right.action))
    };
    if (differ(&one.ingress, &other.ingress) || differ(&one.egress, &other.egress)) && share_pods()
    {
        let (first, second, priority) = (first.origin.clone(), second.origin.clone(), one.priority);
        context.report(Diagnostic::PriorityTie { first, second, priority });
    }
}

fn compile<'a>(
    context: &mut Context<'_>,
    bindings: &mut Bindings,
    policy: &'a ClusterNetworkPolicy,
) -> Applied<'a> {
    let object = policy.meta.object.clone();
    let origin = Arc::new(PolicyRef {
        kind: PolicyKind::ClusterNetworkPolicy,
        object,
        uid: policy.meta.uid.clone(),
    });
    let subject = match &policy.subject {
        ClusterSubject::Namespaces(namespaces) if !namespaces.is_unreadable() => {
            Some((NamespaceScope::Matching(namespaces.into()), Selector::everything()))
        }
        ClusterSubject::Pods(pods) => namespaced(pods),
        ClusterSubject::Namespaces(_) | ClusterSubject::Unknown => None,
    };
    let Some((namespaces, pods)) = subject else {
        let effect = Effect::SelectsNothing;
        context.report(Diagnostic::UnreadablePolicy {
            policy: origin.clone(),
            field: "spec.subject",
            effect,
        });
        return Applied { policy, origin, rows: Vec::new() };
    };
    let mut rows = context.select(&namespaces, &pods);
    rows.retain(|row| context.pods.row(*row).is_some_and(|row| row.in_scope));
    for (direction, rules) in
        [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)]
    {
        let block = Block { policy: &origin, direction, rules };
        block.bind(context, bindings, Slot::ordered(policy.tier, direction), &rows);
    }
    Applied { policy, origin, rows }
}

/// CNP-011: a missing namespaceSelector means every namespace.
fn namespaced(pods: &NamespacedPods) -> Option<(NamespaceScope, Selector)> {
    let namespaces = match &pods.namespace_selector {
        Field::Absent | Field::Null => Selector::everything(),
        Field::Given(selector) => readable(selector)?,
        Field::Unreadable => return None,
    };
    Some((NamespaceScope::Matching(namespaces), readable(&pods.pod_selector)?))
}

fn readable(selector: &LabelSelector) -> Option<Selector> {
    (!selector.is_unreadable()).then(|| selector.into())
}

/// One direction of one policy.
struct Block<'a> {
    policy: &'a Arc<PolicyRef>,
    direction: Direction,
    rules: &'a [ClusterRule],
}

impl Block<'_> {
    /// Makes the block and binds it to every selected pod; one block for each meaning the port names have on ingress
    /// (CNP-056). A policy whose rules match nothing does not appear (CNP-007).
    fn bind(&self, context: &mut Context<'_>, bindings: &mut Bindings, slot: Slot, rows: &[Row]) {
        let names: Vec<&Arc<str>> = match self.direction {
            Direction::Ingress => self.rules.iter().flat_map(named_ports).collect(),
            Direction::Egress => Vec::new(),
        };
        let mut blocks: HashMap<Vec<PortSet>, Option<u32>> = HashMap::new();
        for row in rows {
            let Some(pod) = context.pods.row(*row).map(|row| row.pod) else { continue };
            let numbers = |name: &&Arc<str>| {
                let ports = pod.named_ports(name);
                PortSet::from_ranges(
                    ports.map(|(protocol, number)| (protocol, number.get(), number.get())),
                )
            };
            let resolution: Vec<PortSet> = names.iter().map(numbers).collect();
            let block = match blocks.get(&resolution) {
                Some(block) => *block,
                None => {
                    let rules = self.compile(context, &resolution);
                    let block = RuleBlock::new(self.policy.clone(), self.direction, rules);
                    let block = (!block.rules().is_empty()).then(|| bindings.add(block));
                    blocks.insert(resolution, block);
                    block
                }
            };
            if let Some(block) = block {
                bindings.bind(*row, slot, block);
            }
        }
    }

    /// `resolution` holds the numbers of the block's port names on the subject, in the order they appear.
    fn compile(&self, context: &mut Context<'_>, resolution: &[PortSet]) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut resolved = resolution.iter();
        for (position, rule) in self.rules.iter().enumerate() {
            let own: Vec<&PortSet> = match self.direction {
                Direction::Ingress => resolved.by_ref().take(named_ports(rule).count()).collect(),
                Direction::Egress => Vec::new(),
            };
            self.rule(context, index(position), rule, &own, &mut rules);
        }
        rules
    }

    fn rule(
        &self,
        context: &mut Context<'_>,
        position: u32,
        rule: &ClusterRule,
        resolved: &[&PortSet],
        rules: &mut Vec<Rule>,
    ) {
        let mut action = match rule.action {
            ClusterAction::Accept => Action::Accept,
            ClusterAction::Deny => Action::Deny,
            ClusterAction::Pass => Action::Pass,
        };
        let numbers = match &rule.protocols {
            Field::Absent | Field::Null => Ports::Any, // CNP-052
            Field::Given(ports) if !ports.is_empty() && !ports.contains(&ClusterPort::Unknown) => {
                let ranges = ports.iter().filter_map(|port| match port {
                    ClusterPort::Range(protocol, low, high) => {
                        Some((*protocol, low.get(), high.get()))
                    }
                    ClusterPort::Named(_) | ClusterPort::Unknown => None,
                });
                let numbers = PortSet::from_ranges(ranges);
                Ports::Set(Arc::new(
                    resolved.iter().fold(numbers, |numbers, more| numbers.union(more)),
                ))
            }
            // Ports that cannot be read, or cannot be (VAL-C-04), fail closed as peers do (CNP-041).
            Field::Given(_) | Field::Unreadable => {
                let origin = self.origin(position, None);
                if action == Action::Accept {
                    context
                        .report(Diagnostic::Unreadable { origin, effect: Effect::MatchesNothing });
                    return;
                }
                context
                    .report(Diagnostic::Unreadable { origin, effect: Effect::MatchesEverything });
                action = Action::Deny;
                Ports::Any
            }
        };
        let mut ends: Vec<(u32, Ends)> = Vec::new();
        for (peer, destination) in (0_u32..).zip(rule.peers.iter().map(|peer| &peer.destination)) {
            match self.ends(destination, action) {
                Readable::Ends(more) => ends.push((peer, more)),
                Readable::Nothing => {
                    context.report(Diagnostic::DomainNames(self.origin(position, Some(peer))));
                }
                Readable::No if action == Action::Accept => {
                    let origin = self.origin(position, Some(peer));
                    context
                        .report(Diagnostic::Unreadable { origin, effect: Effect::MatchesNothing });
                    return; // CNP-041: not only this peer but the whole rule.
                }
                Readable::No => {
                    // CNP-041: a Deny or Pass rule that cannot be read denies everything of its direction.
                    let origin = self.origin(position, Some(peer));
                    context.report(Diagnostic::Unreadable {
                        origin,
                        effect: Effect::MatchesEverything,
                    });
                    let (peers, ports) = (Peers::Any, Ports::Any);
                    rules.push(Rule {
                        rule: position,
                        peer: Some(peer),
                        action: Action::Deny,
                        peers,
                        ports,
                    });
                    return;
                }
            }
        }
        let mut names: Vec<Arc<str>> = match self.direction {
            Direction::Ingress => Vec::new(),
            Direction::Egress => named_ports(rule).cloned().collect(),
        };
        // The order of `protocols` means nothing.
        names.sort_unstable();
        names.dedup();
        for (peer, ends) in ends {
            let made =
                |(peers, ports)| Rule { rule: position, peer: Some(peer), action, peers, ports };
            if !matches!(&numbers, Ports::Set(ports) if ports.is_empty()) {
                rules.push(made((ends.peers(context), numbers.clone())));
            }
            for name in &names {
                rules.extend(ends.resolve(context, name, None).into_iter().map(made));
            }
        }
    }

    fn ends(&self, destination: &ClusterDestination, action: Action) -> Readable {
        let egress = self.direction == Direction::Egress;
        let ends = match destination {
            ClusterDestination::Namespaces(selector) => readable(selector).map(|namespaces| {
                Ends::Pods(NamespaceScope::Matching(namespaces), Selector::everything())
            }),
            ClusterDestination::Pods(pods) => {
                namespaced(pods).map(|(namespaces, pods)| Ends::Pods(namespaces, pods))
            }
            // CNP-042: ingress knows pods only.
            ClusterDestination::Nodes(selector) if egress => readable(selector).map(Ends::Nodes),
            ClusterDestination::Networks(cidrs) if egress => {
                Some(Ends::Networks(PrefixSet::from_cidrs(cidrs)))
            }
            // DEC-13: names stand under Accept only; under another action they are a peer nobody can read.
            ClusterDestination::DomainNames(_) if egress && action == Action::Accept => {
                return Readable::Nothing;
            }
            ClusterDestination::Nodes(_)
            | ClusterDestination::Networks(_)
            | ClusterDestination::DomainNames(_)
            | ClusterDestination::Unknown => None,
        };
        ends.map_or(Readable::No, Readable::Ends)
    }

    fn origin(&self, rule: u32, peer: Option<u32>) -> Origin {
        Origin { policy: self.policy.clone(), direction: self.direction, rule, peer }
    }
}

/// What became of a peer.
enum Readable {
    Ends(Ends),
    /// Understood, but nothing can match it.
    Nothing,
    No,
}

fn named_ports(rule: &ClusterRule) -> impl Iterator<Item = &Arc<str>> {
    rule.protocols.given().into_iter().flatten().filter_map(|port| match port {
        ClusterPort::Named(name) => Some(name),
        ClusterPort::Range(..) | ClusterPort::Unknown => None,
    })
}
