//! ClusterNetworkPolicies to plans.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::peers::Ends;
use super::pipelines::Slot;
use super::plan::{Plan, PlannedRule, PortQuery, Side};
use super::pods::index;
use super::{Diagnostic, Effect};
use crate::ir::{
    Action, Direction, NamespaceScope, Origin, PolicyKind, PolicyRef, Ports, Selector,
};
use crate::model::{
    ClusterAction, ClusterDestination, ClusterNetworkPolicy, ClusterPort, ClusterRule,
    ClusterSubject, Field, LabelSelector, NamespacedPods,
};
use crate::net::{PortSet, PrefixSet};

/// Digests a ClusterNetworkPolicy.
pub(crate) fn plan(policy: &ClusterNetworkPolicy) -> Plan {
    let object = policy.meta.object.clone();
    let uid = policy.meta.uid.clone();
    let origin = Arc::new(PolicyRef { kind: PolicyKind::ClusterNetworkPolicy, object, uid });
    let subject = match &policy.subject {
        ClusterSubject::Namespaces(namespaces) if !namespaces.is_unreadable() => {
            Some((NamespaceScope::Matching(namespaces.into()), Selector::everything()))
        }
        ClusterSubject::Pods(pods) => {
            namespaced(pods).map(|(namespaces, pods)| (NamespaceScope::Matching(namespaces), pods))
        }
        ClusterSubject::Namespaces(_) | ClusterSubject::Unknown => None,
    };
    let (mut diagnostics, mut sides) = (Vec::new(), Vec::new());
    if subject.is_some() {
        for (direction, rules) in
            [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)]
        {
            let planner = Planner { policy: &origin, direction, diagnostics: Vec::new() };
            sides.push(Arc::new(planner.side(Slot::ordered(policy.tier, direction), rules)));
        }
    } else {
        let (policy, field, effect) = (origin.clone(), "spec.subject", Effect::SelectsNothing);
        diagnostics.push(Diagnostic::UnreadablePolicy { policy, field, effect });
    }
    Plan { policy: origin, priority: policy.priority, subject, diagnostics, sides }
}

/// Says which policies of one tier and priority can touch the same traffic with different actions (DEC-12).
///
/// The plans come in the order they apply. `share` says whether two apply to a common pod; where actions do not differ,
/// nobody asks.
pub(crate) fn ties<'a, P: Copy>(
    plans: impl IntoIterator<Item = (&'a Plan, P)>,
    share: impl Fn(P, P) -> bool,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut tied: Vec<(&Plan, P)> = Vec::new();
    let place = |plan: &Plan| (plan.sides.first().map(|side| side.slot), plan.priority);
    for (plan, pods) in plans {
        if plan.sides.is_empty() {
            continue; // Applies to no pod.
        }
        tied.retain(|(other, _)| place(other) == place(plan));
        for (other, theirs) in &tied {
            if differ(other, plan) && share(*theirs, pods) {
                let (first, second) = (other.policy.clone(), plan.policy.clone());
                let priority = plan.priority;
                found.push(Diagnostic::PriorityTie { first, second, priority });
            }
        }
        tied.push((plan, pods));
    }
    found
}

fn differ(one: &Plan, other: &Plan) -> bool {
    one.sides.iter().any(|left| {
        let right = other.side(left.direction()).into_iter().flat_map(|side| &side.actions);
        right.into_iter().any(|right| left.actions.iter().any(|left| left != right))
    })
}

/// CNP-011: a missing namespaceSelector means every namespace.
fn namespaced(pods: &NamespacedPods) -> Option<(Selector, Selector)> {
    let namespaces = match &pods.namespace_selector {
        Field::Absent | Field::Null => Selector::everything(),
        Field::Given(selector) => readable(selector)?,
        Field::Unreadable => return None,
    };
    Some((namespaces, readable(&pods.pod_selector)?))
}

fn readable(selector: &LabelSelector) -> Option<Selector> {
    (!selector.is_unreadable()).then(|| selector.into())
}

/// Digests one direction of one policy.
struct Planner<'a> {
    policy: &'a Arc<PolicyRef>,
    direction: Direction,
    diagnostics: Vec<Diagnostic>,
}

impl Planner<'_> {
    fn side(mut self, slot: Slot, list: &[ClusterRule]) -> Side {
        let mut actions: Vec<Action> = list.iter().map(|rule| action(rule.action)).collect();
        actions.sort_unstable();
        actions.dedup();
        let rules = list
            .iter()
            .enumerate()
            .filter_map(|(position, rule)| self.rule(index(position), rule))
            .collect();
        Side { slot, rules, actions, diagnostics: self.diagnostics }
    }

    fn rule(&mut self, position: u32, rule: &ClusterRule) -> Option<PlannedRule> {
        let mut action = action(rule.action);
        let numbers = match &rule.protocols {
            Field::Absent | Field::Null => Ports::Any, // CNP-052
            Field::Given(ports) if !ports.is_empty() && !ports.contains(&ClusterPort::Unknown) => {
                let ranges = ports.iter().filter_map(|port| match port {
                    ClusterPort::Range(protocol, low, high) => {
                        Some((*protocol, low.get(), high.get()))
                    }
                    ClusterPort::Named(_) | ClusterPort::Unknown => None,
                });
                Ports::Set(Arc::new(PortSet::from_ranges(ranges)))
            }
            // Ports that cannot be read, or cannot be (VAL-C-04), fail closed as peers do (CNP-041).
            Field::Given(_) | Field::Unreadable => {
                if action == Action::Accept {
                    self.unreadable(position, None, Effect::MatchesNothing);
                    return None;
                }
                self.unreadable(position, None, Effect::MatchesEverything);
                action = Action::Deny;
                Ports::Any
            }
        };
        let mut ends: Vec<(Option<u32>, Ends)> = Vec::with_capacity(rule.peers.len());
        for (peer, destination) in (0_u32..).zip(rule.peers.iter().map(|peer| &peer.destination)) {
            match self.ends(destination, action) {
                Readable::Ends(more) => ends.push((Some(peer), more)),
                Readable::Nothing => {
                    self.diagnostics
                        .push(Diagnostic::DomainNames(self.origin(position, Some(peer))));
                }
                Readable::No if action == Action::Accept => {
                    self.unreadable(position, Some(peer), Effect::MatchesNothing);
                    return None; // CNP-041: not only this peer but the whole rule.
                }
                Readable::No => {
                    // CNP-041: a Deny or Pass rule that cannot be read denies everything of its direction.
                    self.unreadable(position, Some(peer), Effect::MatchesEverything);
                    return Some(PlannedRule {
                        position,
                        action: Action::Deny,
                        numbers: Ports::Any,
                        names: Vec::new(),
                        ends: alloc::vec![(Some(peer), Ends::Any)],
                    });
                }
            }
        }
        let mut names: Vec<PortQuery> = named_ports(rule)
            .map(|name| PortQuery { protocol: None, name: name.clone() })
            .collect();
        // The order of `protocols` means nothing.
        names.sort_unstable();
        names.dedup();
        Some(PlannedRule { position, action, numbers, names, ends })
    }

    fn ends(&self, destination: &ClusterDestination, action: Action) -> Readable {
        let egress = self.direction == Direction::Egress;
        let ends = match destination {
            ClusterDestination::Namespaces(selector) => {
                readable(selector).map(|namespaces| Ends::Pods(namespaces, Selector::everything()))
            }
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

    fn unreadable(&mut self, rule: u32, peer: Option<u32>, effect: Effect) {
        let origin = self.origin(rule, peer);
        self.diagnostics.push(Diagnostic::Unreadable { origin, effect });
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

const fn action(action: ClusterAction) -> Action {
    match action {
        ClusterAction::Accept => Action::Accept,
        ClusterAction::Deny => Action::Deny,
        ClusterAction::Pass => Action::Pass,
    }
}

fn named_ports(rule: &ClusterRule) -> impl Iterator<Item = &Arc<str>> {
    rule.protocols.given().into_iter().flatten().filter_map(|port| match port {
        ClusterPort::Named(name) => Some(name),
        ClusterPort::Range(..) | ClusterPort::Unknown => None,
    })
}
