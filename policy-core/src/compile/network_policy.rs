//! NetworkPolicies to rule blocks.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

use super::context::Context;
use super::peers::Ends;
use super::pipelines::{Bindings, Slot};
use super::pods::{Row, index};
use super::{Diagnostic, Effect};
use crate::ir::{
    Action, Direction, NamespaceScope, Origin, PolicyKind, PolicyRef, Ports, Rule, RuleBlock,
    Selector,
};
use crate::model::{
    Field, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PeerKind, PolicyPort,
    PolicyPortNumber, PortName, Protocol,
};
use crate::net::{PortSet, PrefixSet};

/// Compiles every NetworkPolicy, in order of name.
pub(super) fn compile_all(context: &mut Context<'_>, bindings: &mut Bindings) {
    let cluster = context.cluster;
    for policy in cluster.network_policies.values() {
        compile(context, bindings, policy);
    }
}

fn compile(context: &mut Context<'_>, bindings: &mut Bindings, policy: &NetworkPolicy) {
    let object = policy.meta.object.clone();
    let own_namespace = NamespaceScope::One(object.namespace.clone());
    let origin = Arc::new(PolicyRef {
        kind: PolicyKind::NetworkPolicy,
        object,
        uid: policy.meta.uid.clone(),
    });
    let subject = match &policy.pod_selector {
        // NP-002: absent, null and `{}` select every pod of the namespace.
        Field::Absent | Field::Null => Some(Selector::everything()),
        Field::Given(selector) if !selector.is_unreadable() => Some(Selector::from(selector)),
        Field::Given(_) | Field::Unreadable => None,
    };
    let selected = subject.clone().unwrap_or_default();
    let mut rows = context.select(&own_namespace, &selected);
    rows.retain(|row| context.pods.row(*row).is_some_and(|row| row.in_scope));
    if subject.is_none() {
        let effect = Effect::Isolates;
        context.report(Diagnostic::UnreadablePolicy {
            policy: origin.clone(),
            field: "spec.podSelector",
            effect,
        });
    }
    if policy.policy_types.is_unreadable() {
        let effect = Effect::Isolates;
        context.report(Diagnostic::UnreadablePolicy {
            policy: origin.clone(),
            field: "spec.policyTypes",
            effect,
        });
    }
    if rows.is_empty() {
        return;
    }
    let types = policy.effective_types();
    let nothing = Field::Absent;
    for (direction, isolates, rules) in [
        (Direction::Ingress, types.ingress, &policy.ingress),
        (Direction::Egress, types.egress, &policy.egress),
    ] {
        if !isolates {
            continue; // NP-024: rules of an unlisted direction are inert.
        }
        // DEC-16: a policy whose subject cannot be read isolates its namespace and allows nothing.
        let rules = if subject.is_some() { rules } else { &nothing };
        let block = Block { policy: &origin, direction, rules };
        block.bind(context, bindings, &rows);
    }
}

/// One direction of one policy.
struct Block<'a> {
    policy: &'a Arc<PolicyRef>,
    direction: Direction,
    rules: &'a Field<Vec<NetworkPolicyRule>>,
}

/// The numbers that the port names of a policy have on one subject, by rule.
type Resolution = Vec<PortSet>;

impl Block<'_> {
    /// Makes the block and binds it to every selected pod. Where ingress rules name ports, pods on which the names mean
    /// other numbers get another block (NP-086).
    fn bind(&self, context: &mut Context<'_>, bindings: &mut Bindings, rows: &[Row]) {
        let slot = Slot::NetworkPolicy(self.direction);
        if self.direction == Direction::Egress || !self.names_ports() {
            let rules = self.rules(context, &Vec::new());
            let block = bindings.add(RuleBlock::new(self.policy.clone(), self.direction, rules));
            rows.iter().for_each(|row| bindings.bind(*row, slot, block));
            return;
        }
        let mut blocks: HashMap<Resolution, u32> = HashMap::new();
        for row in rows {
            let resolution = self.resolution(context, *row);
            let block = match blocks.get(&resolution) {
                Some(block) => *block,
                None => {
                    let rules = self.rules(context, &resolution);
                    let block =
                        bindings.add(RuleBlock::new(self.policy.clone(), self.direction, rules));
                    blocks.insert(resolution, block);
                    block
                }
            };
            bindings.bind(*row, slot, block);
        }
    }

    fn list(&self) -> &[NetworkPolicyRule] {
        self.rules.given().map(Vec::as_slice).unwrap_or_default()
    }

    fn names_ports(&self) -> bool {
        let ports = self.list().iter().filter_map(|rule| rule.ports.given()).flatten();
        ports.into_iter().any(|port| named(port).is_some())
    }

    fn resolution(&self, context: &Context<'_>, row: Row) -> Resolution {
        let Some(row) = context.pods.row(row) else { return Vec::new() };
        let of_rule = |rule: &NetworkPolicyRule| {
            let names = rule.ports.given().into_iter().flatten().filter_map(named);
            PortSet::from_ranges(names.flat_map(|(protocol, name)| {
                row.pod
                    .named_ports(name.as_str())
                    .filter(move |(found, _)| *found == protocol)
                    .map(|(protocol, number)| (protocol, number.get(), number.get()))
            }))
        };
        self.list().iter().map(of_rule).collect()
    }

    fn rules(&self, context: &mut Context<'_>, resolution: &Resolution) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.rules.is_unreadable() {
            let (policy, effect) = (self.policy.clone(), Effect::MatchesNothing);
            let field = match self.direction {
                Direction::Ingress => "spec.ingress",
                Direction::Egress => "spec.egress",
            };
            context.report(Diagnostic::UnreadablePolicy { policy, field, effect });
        }
        for (position, rule) in self.list().iter().enumerate() {
            let resolved = resolution.get(position);
            self.rule(context, index(position), rule, resolved, &mut rules);
        }
        rules
    }

    fn rule(
        &self,
        context: &mut Context<'_>,
        position: u32,
        rule: &NetworkPolicyRule,
        resolved: Option<&PortSet>,
        rules: &mut Vec<Rule>,
    ) {
        let numbers = match &rule.ports {
            Field::Absent | Field::Null => Ports::Any, // NP-081
            Field::Given(ports) if ports.is_empty() => Ports::Any,
            Field::Given(ports) => {
                if ports
                    .iter()
                    .any(|port| port.protocol.is_unreadable() || port.port.is_unreadable())
                {
                    self.unreadable(context, position, None);
                }
                let numbers = PortSet::from_ranges(ports.iter().filter_map(number_range));
                Ports::Set(Arc::new(
                    resolved.map_or(numbers.clone(), |resolved| numbers.union(resolved)),
                ))
            }
            Field::Unreadable => return self.unreadable(context, position, None),
        };
        let mut names: Vec<(Protocol, Arc<str>)> = match self.direction {
            Direction::Ingress => Vec::new(), // Resolved on the subject already.
            Direction::Egress => {
                let ports = rule.ports.given().into_iter().flatten();
                ports
                    .filter_map(named)
                    .map(|(protocol, name)| (protocol, name.as_str().into()))
                    .collect()
            }
        };
        // The order of `ports` means nothing.
        names.sort_unstable();
        names.dedup();
        for (peer, ends) in self.ends(context, position, rule) {
            let made = |(peers, ports)| Rule {
                rule: position,
                peer,
                action: Action::Accept,
                peers,
                ports,
            };
            if !matches!(&numbers, Ports::Set(ports) if ports.is_empty()) {
                rules.push(made((ends.peers(context), numbers.clone())));
            }
            for (protocol, name) in &names {
                rules.extend(ends.resolve(context, name, Some(*protocol)).into_iter().map(made));
            }
        }
    }

    /// Returns the ends of a rule with the index of the peer they come from.
    fn ends(
        &self,
        context: &mut Context<'_>,
        position: u32,
        rule: &NetworkPolicyRule,
    ) -> Vec<(Option<u32>, Ends)> {
        match &rule.peers {
            // NP-030, NP-032: missing, null and `[]` all mean everybody.
            Field::Absent | Field::Null => alloc::vec![(None, Ends::Any)],
            Field::Given(peers) if peers.is_empty() => alloc::vec![(None, Ends::Any)],
            Field::Given(peers) => {
                let mut ends = Vec::with_capacity(peers.len());
                for (index, peer) in (0_u32..).zip(peers) {
                    match self.end(peer) {
                        Some(end) => ends.push((Some(index), end)),
                        None => self.unreadable(context, position, Some(index)),
                    }
                }
                ends
            }
            Field::Unreadable => {
                self.unreadable(context, position, None);
                Vec::new()
            }
        }
    }

    fn end(&self, peer: &NetworkPolicyPeer) -> Option<Ends> {
        let own = || NamespaceScope::One(self.policy.object.namespace.clone());
        let readable = |selector: &crate::model::LabelSelector| !selector.is_unreadable();
        match peer.kind() {
            PeerKind::PodsOfOwnNamespace(pods) if readable(pods) => {
                Some(Ends::Pods(own(), pods.into()))
            }
            PeerKind::Namespaces(namespaces) if readable(namespaces) => Some(Ends::Pods(
                NamespaceScope::Matching(namespaces.into()),
                Selector::everything(),
            )),
            PeerKind::PodsOfNamespaces { namespaces, pods }
                if readable(namespaces) && readable(pods) =>
            {
                Some(Ends::Pods(NamespaceScope::Matching(namespaces.into()), pods.into()))
            }
            PeerKind::IpBlock(block) => Some(Ends::Networks(PrefixSet::from_ip_block(block))),
            PeerKind::PodsOfOwnNamespace(_)
            | PeerKind::Namespaces(_)
            | PeerKind::PodsOfNamespaces { .. }
            | PeerKind::Unknown => None,
        }
    }

    fn unreadable(&self, context: &mut Context<'_>, rule: u32, peer: Option<u32>) {
        let origin = Origin { policy: self.policy.clone(), direction: self.direction, rule, peer };
        context.report(Diagnostic::Unreadable { origin, effect: Effect::MatchesNothing });
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
