//! What a policy asks for, digested: everything that follows from the object alone.
//!
//! A plan holds canonical selectors, cut-out networks and merged port numbers. What is left open is what hangs on other
//! objects: which pods a selector matches, and which numbers a port name has on them ([`World`]). The full compile and
//! the incremental engine both make their rule blocks from plans, by the same code.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::num::NonZeroU16;

use super::Diagnostic;
use super::peers::Ends;
use super::pipelines::Slot;
use crate::ir::{
    Action, Direction, NamespaceScope, PeerSelector, PeerSetId, PolicyRef, Ports, Rule, RuleBlock,
    Selector,
};
use crate::model::Protocol;
use crate::net::{PortSet, PrefixSet};

/// What a plan's open questions are put to.
pub(crate) trait World {
    /// Returns the id of the set of `selector`, making the set on first use.
    fn peer_set(&mut self, selector: PeerSelector) -> PeerSetId;

    /// Returns the numbers that a port name has on the pods of `query`.
    fn numbers(&mut self, query: &NameQuery<'_>) -> BTreeSet<(Protocol, NonZeroU16)>;
}

/// On which pods to resolve a port name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameQuery<'a> {
    pub(crate) namespaces: &'a NamespaceScope,
    pub(crate) pods: &'a Selector,
    /// Only pods with an address in here (DEC-15).
    pub(crate) networks: Option<&'a PrefixSet>,
    pub(crate) name: &'a Arc<str>,
}

/// One policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    pub(crate) policy: Arc<PolicyRef>,
    /// Priority of a ClusterNetworkPolicy, 0 for a NetworkPolicy.
    pub(crate) priority: u16,
    /// The pods it applies to; `None` applies to no pod.
    pub(crate) subject: Option<(NamespaceScope, Selector)>,
    /// What is odd about the policy whether or not it applies to a pod.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Its directions, ingress first. Policies made from one template may share them.
    pub(crate) sides: Vec<Arc<Side>>,
}

/// One direction of one policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Side {
    pub(crate) slot: Slot,
    pub(crate) rules: Vec<PlannedRule>,
    /// The actions its rules are written with, ascending (DEC-12).
    pub(crate) actions: Vec<Action>,
    /// What is odd about the rules; told where the policy applies to a pod.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// One rule, before its names are resolved.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct PlannedRule {
    pub(crate) position: u32,
    pub(crate) action: Action,
    /// The ports given by number.
    pub(crate) numbers: Ports,
    /// The ports given by name, ascending.
    pub(crate) names: Vec<PortQuery>,
    /// The other ends, each with the index of its peer.
    pub(crate) ends: Vec<(Option<u32>, Ends)>,
}

/// A port by name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct PortQuery {
    /// `None` takes every protocol (CNP-054).
    pub(crate) protocol: Option<Protocol>,
    pub(crate) name: Arc<str>,
}

/// The numbers that the port names of a side have on one subject: one set for each rule with names.
pub(crate) type Resolution = Vec<PortSet>;

impl Plan {
    /// Returns the side of a direction, if the policy has a say in it.
    pub(crate) fn side(&self, direction: Direction) -> Option<&Side> {
        self.sides.iter().map(AsRef::as_ref).find(|side| side.direction() == direction)
    }
}

/// Sides that say the same have the same hash; oddities, which name the policy, need not be looked at.
impl Hash for Side {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.slot.hash(state);
        self.rules.hash(state);
    }
}

impl Side {
    pub(crate) const fn direction(&self) -> Direction {
        self.slot.direction()
    }

    /// Returns whether the block depends on the subject: ingress names are resolved on it (NP-086, CNP-056).
    pub(crate) fn asks_subject(&self) -> bool {
        self.direction() == Direction::Ingress && self.rules.iter().any(|rule| rule.asks_subject())
    }

    /// Resolves the names of ingress rules on a subject, given its ports by name.
    pub(crate) fn resolution<I>(&self, ports: impl Fn(&str) -> I) -> Resolution
    where
        I: Iterator<Item = (Protocol, NonZeroU16)>,
    {
        if self.direction() == Direction::Egress {
            return Resolution::new();
        }
        let resolve = |rule: &PlannedRule| {
            PortSet::from_ranges(rule.names.iter().flat_map(|query| {
                ports(&query.name)
                    .filter(|(found, _)| query.accepts(*found))
                    .map(|(protocol, number)| (protocol, number.get(), number.get()))
            }))
        };
        self.rules.iter().filter(|rule| rule.asks_subject()).map(resolve).collect()
    }

    /// Makes the block for subjects with a resolution; `None` where nothing can match and that has no effect (CNP-007).
    pub(crate) fn block(
        &self,
        policy: &Arc<PolicyRef>,
        resolution: &[PortSet],
        world: &mut impl World,
    ) -> Option<RuleBlock> {
        let direction = self.direction();
        let mut rules = Vec::new();
        let mut resolved = resolution.iter();
        for rule in &self.rules {
            let own = match direction {
                Direction::Ingress if rule.asks_subject() => resolved.next(),
                Direction::Ingress | Direction::Egress => None,
            };
            rule.resolve(&policy.object.namespace, direction, own, world, &mut rules);
        }
        match self.slot {
            // An empty block isolates (NP-030).
            Slot::NetworkPolicy(_) => {}
            Slot::Admin(_) | Slot::Baseline(_) if rules.is_empty() => return None,
            Slot::Admin(_) | Slot::Baseline(_) => {}
        }
        Some(RuleBlock::new(policy.clone(), direction, rules))
    }
}

impl PlannedRule {
    const fn asks_subject(&self) -> bool {
        !self.names.is_empty()
    }

    fn resolve(
        &self,
        namespace: &Arc<str>,
        direction: Direction,
        resolved: Option<&PortSet>,
        world: &mut impl World,
        rules: &mut Vec<Rule>,
    ) {
        let numbers = match (&self.numbers, resolved) {
            (Ports::Set(numbers), Some(resolved)) if !resolved.is_empty() => {
                Ports::Set(Arc::new(numbers.union(resolved)))
            }
            (numbers @ (Ports::Any | Ports::Set(_)), _) => numbers.clone(),
        };
        let dead = matches!(&numbers, Ports::Set(ports) if ports.is_empty());
        for (peer, ends) in &self.ends {
            let (rule, peer, action) = (self.position, *peer, self.action);
            if !dead {
                let (peers, ports) = (ends.peers(namespace, world), numbers.clone());
                rules.push(Rule { rule, peer, action, peers, ports });
            }
            if direction == Direction::Egress {
                for query in &self.names {
                    for (peers, ports) in ends.resolve(namespace, world, query) {
                        rules.push(Rule { rule, peer, action, peers, ports });
                    }
                }
            }
        }
    }
}

impl PortQuery {
    pub(crate) fn accepts(&self, protocol: Protocol) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
    }
}
