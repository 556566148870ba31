//! NetworkPolicies to plans.

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
    Field, LabelSelector, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PeerKind,
    PolicyPort, PolicyPortNumber, PortName, Protocol,
};
use crate::net::{PortSet, PrefixSet};

/// Digests a NetworkPolicy.
pub(crate) fn plan(policy: &NetworkPolicy) -> Plan {
    let object = policy.meta.object.clone();
    let own_namespace = NamespaceScope::One(object.namespace.clone());
    let uid = policy.meta.uid.clone();
    let origin = Arc::new(PolicyRef { kind: PolicyKind::NetworkPolicy, object, uid });
    let subject = match &policy.pod_selector {
        // NP-002: absent, null and `{}` select every pod of the namespace.
        Field::Absent | Field::Null => Some(Selector::everything()),
        Field::Given(selector) if !selector.is_unreadable() => Some(Selector::from(selector)),
        Field::Given(_) | Field::Unreadable => None,
    };
    let mut diagnostics = Vec::new();
    let mut isolates = |field| {
        let (policy, effect) = (origin.clone(), Effect::Isolates);
        diagnostics.push(Diagnostic::UnreadablePolicy { policy, field, effect });
    };
    if subject.is_none() {
        isolates("spec.podSelector");
    }
    if policy.policy_types.is_unreadable() {
        isolates("spec.policyTypes");
    }
    let types = policy.effective_types();
    let nothing = Field::Absent;
    let mut sides = Vec::new();
    for (direction, isolates, rules) in [
        (Direction::Ingress, types.ingress, &policy.ingress),
        (Direction::Egress, types.egress, &policy.egress),
    ] {
        if !isolates {
            continue; // NP-024: rules of an unlisted direction are inert.
        }
        // DEC-16: a policy whose subject cannot be read isolates its namespace and allows nothing.
        let rules = if subject.is_some() { rules } else { &nothing };
        let planner = Planner { policy: &origin, direction, diagnostics: Vec::new() };
        sides.push(Arc::new(planner.side(rules)));
    }
    let subject = Some((own_namespace, subject.unwrap_or_default()));
    Plan { policy: origin, priority: 0, subject, diagnostics, sides }
}

/// Digests one direction of one policy.
struct Planner<'a> {
    policy: &'a Arc<PolicyRef>,
    direction: Direction,
    diagnostics: Vec<Diagnostic>,
}

impl Planner<'_> {
    fn side(mut self, rules: &Field<Vec<NetworkPolicyRule>>) -> Side {
        if rules.is_unreadable() {
            let (policy, effect) = (self.policy.clone(), Effect::MatchesNothing);
            let field = match self.direction {
                Direction::Ingress => "spec.ingress",
                Direction::Egress => "spec.egress",
            };
            self.diagnostics.push(Diagnostic::UnreadablePolicy { policy, field, effect });
        }
        let list = rules.given().map(Vec::as_slice).unwrap_or_default();
        let rules = list
            .iter()
            .enumerate()
            .filter_map(|(position, rule)| self.rule(index(position), rule))
            .collect();
        let slot = Slot::NetworkPolicy(self.direction);
        Side { slot, rules, actions: Vec::new(), diagnostics: self.diagnostics }
    }

    fn rule(&mut self, position: u32, rule: &NetworkPolicyRule) -> Option<PlannedRule> {
        let numbers = match &rule.ports {
            Field::Absent | Field::Null => Ports::Any, // NP-081
            Field::Given(ports) if ports.is_empty() => Ports::Any,
            Field::Given(ports) => {
                if ports
                    .iter()
                    .any(|port| port.protocol.is_unreadable() || port.port.is_unreadable())
                {
                    self.unreadable(position, None);
                }
                Ports::Set(Arc::new(PortSet::from_ranges(ports.iter().filter_map(number_range))))
            }
            Field::Unreadable => {
                self.unreadable(position, None);
                return None;
            }
        };
        let ports = rule.ports.given().into_iter().flatten();
        let mut names: Vec<PortQuery> = ports
            .filter_map(named)
            .map(|(protocol, name)| PortQuery {
                protocol: Some(protocol),
                name: name.as_str().into(),
            })
            .collect();
        // The order of `ports` means nothing.
        names.sort_unstable();
        names.dedup();
        let ends = self.ends(position, rule);
        Some(PlannedRule { position, action: Action::Accept, numbers, names, ends })
    }

    /// Returns the ends of a rule with the index of the peer they come from.
    fn ends(&mut self, position: u32, rule: &NetworkPolicyRule) -> Vec<(Option<u32>, Ends)> {
        match &rule.peers {
            // NP-030, NP-032: missing, null and `[]` all mean everybody.
            Field::Absent | Field::Null => alloc::vec![(None, Ends::Any)],
            Field::Given(peers) if peers.is_empty() => alloc::vec![(None, Ends::Any)],
            Field::Given(peers) => {
                let mut ends = Vec::with_capacity(peers.len());
                for (index, peer) in (0_u32..).zip(peers) {
                    match Self::end(peer) {
                        Some(end) => ends.push((Some(index), end)),
                        None => self.unreadable(position, Some(index)),
                    }
                }
                ends
            }
            Field::Unreadable => {
                self.unreadable(position, None);
                Vec::new()
            }
        }
    }

    fn end(peer: &NetworkPolicyPeer) -> Option<Ends> {
        let readable = |selector: &LabelSelector| !selector.is_unreadable();
        match peer.kind() {
            PeerKind::PodsOfOwnNamespace(pods) if readable(pods) => {
                Some(Ends::OwnPods(pods.into()))
            }
            PeerKind::Namespaces(namespaces) if readable(namespaces) => {
                Some(Ends::Pods(namespaces.into(), Selector::everything()))
            }
            PeerKind::PodsOfNamespaces { namespaces, pods }
                if readable(namespaces) && readable(pods) =>
            {
                Some(Ends::Pods(namespaces.into(), pods.into()))
            }
            PeerKind::IpBlock(block) => Some(Ends::Networks(PrefixSet::from_ip_block(block))),
            PeerKind::PodsOfOwnNamespace(_)
            | PeerKind::Namespaces(_)
            | PeerKind::PodsOfNamespaces { .. }
            | PeerKind::Unknown => None,
        }
    }

    fn unreadable(&mut self, rule: u32, peer: Option<u32>) {
        let origin = Origin { policy: self.policy.clone(), direction: self.direction, rule, peer };
        self.diagnostics.push(Diagnostic::Unreadable { origin, effect: Effect::MatchesNothing });
    }
}

/// Returns the protocol of an entry; TCP where it is left out (NP-083).
fn protocol(port: &PolicyPort) -> Option<Protocol> {
    match port.protocol {
        Field::Absent | Field::Null => Some(Protocol::Tcp),
        Field::Given(protocol) => Some(protocol),
        Field::Unreadable => None,
    }
}

fn named(port: &PolicyPort) -> Option<(Protocol, &PortName)> {
    match &port.port {
        Field::Given(PolicyPortNumber::Name(name)) => Some((protocol(port)?, name)),
        Field::Given(PolicyPortNumber::Number(_) | PolicyPortNumber::Range(..))
        | Field::Absent
        | Field::Null
        | Field::Unreadable => None,
    }
}

fn number_range(port: &PolicyPort) -> Option<(Protocol, u16, u16)> {
    let protocol = protocol(port)?;
    match &port.port {
        Field::Absent | Field::Null => Some((protocol, 0, u16::MAX)), // NP-084
        Field::Given(PolicyPortNumber::Number(number)) => {
            Some((protocol, number.get(), number.get()))
        }
        Field::Given(PolicyPortNumber::Range(low, high)) => Some((protocol, low.get(), high.get())),
        Field::Given(PolicyPortNumber::Name(_)) | Field::Unreadable => None,
    }
}
