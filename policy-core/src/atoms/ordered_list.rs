//! What a backend walks where the atoms of a pipeline would be too many.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::cost::{Bound, Cost};
use crate::ir::Transport;
use crate::ir::{
    Action, Direction, OtherProtocols, OwnNodeEgress, Peers, Pipeline, Ports, Reason, Rule,
    RuleBlock, Settings, SideDecision, Situation, Verdict,
};

/// A pipeline whose atoms exceed the bound, as short ordered lists.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Fallback {
    /// What the atoms would have cost.
    pub cost: Cost,
    /// What they were allowed to.
    pub bound: Bound,
    /// For traffic with nothing special about it.
    pub ordinary: OrderedList,
    /// For a pod that reaches itself through a Service.
    pub hairpin: OrderedList,
    /// For the pod's own node at the other end.
    pub own_node: OrderedList,
}

impl Fallback {
    pub(super) fn new(pipeline: &Pipeline, settings: Settings, cost: Cost, bound: Bound) -> Self {
        let list = |situation| OrderedList::new(pipeline, situation, settings);
        Self {
            cost,
            bound,
            ordinary: list(Situation::Ordinary),
            hairpin: list(Situation::Hairpin),
            own_node: list(Situation::OwnNode),
        }
    }

    /// Returns the list of a situation.
    #[must_use]
    pub const fn list(&self, situation: Situation) -> &OrderedList {
        match situation {
            Situation::Ordinary => &self.ordinary,
            Situation::Hairpin => &self.hairpin,
            Situation::OwnNode => &self.own_node,
        }
    }
}

/// A pipeline in one situation as one list: from the top, the first entry that matches says what then. Tiers, and rules
/// that an earlier one of their tier always forestalls, are gone.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct OrderedList {
    /// The decision on protocols without ports, where it does not depend on the rules.
    pub others: Option<SideDecision>,
    /// The entries.
    pub entries: Vec<Entry>,
    /// The decision where no entry matches.
    pub end: SideDecision,
}

/// One entry of an [`OrderedList`].
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a backend lowers every part of an entry")]
pub struct Entry {
    /// The other end.
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
    /// What if both match.
    pub then: Then,
}

/// What an entry that matches leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a backend must know every way to go on")]
pub enum Then {
    /// A final decision.
    Decide(SideDecision),
    /// The entry of this index, always a later one; past the last entry, the end.
    GoTo(usize),
}

impl OrderedList {
    /// Lays out a pipeline.
    #[must_use]
    pub fn new(pipeline: &Pipeline, situation: Situation, settings: Settings) -> Self {
        let allow = |reason| SideDecision { verdict: Verdict::Allow, reason };
        let others = (settings.other_protocols == OtherProtocols::Pass)
            .then(|| allow(Reason::UnjudgedProtocol));
        if situation == Situation::OwnNode && pipeline.direction == Direction::Ingress {
            return Self { others, entries: Vec::new(), end: allow(Reason::OwnNode) };
        }
        let mut entries = Vec::new();
        push_tier(&mut entries, &pipeline.admin, OnPass::LeaveTier);
        let end = match (&pipeline.network_policy, situation, settings.own_node_egress) {
            (None, _, _) => {
                push_tier(&mut entries, &pipeline.baseline, OnPass::LeaveTier);
                allow(Reason::NotIsolated)
            }
            (Some(_), Situation::Hairpin, _) => allow(Reason::Hairpin),
            (Some(_), Situation::OwnNode, OwnNodeEgress::Allow) => allow(Reason::OwnNode),
            (Some(blocks), Situation::OwnNode, OwnNodeEgress::Enforce)
            | (Some(blocks), Situation::Ordinary, _) => {
                push_tier(&mut entries, blocks, OnPass::Accept);
                SideDecision { verdict: Verdict::Deny, reason: Reason::Isolated }
            }
        };
        Self { others, entries, end }
    }

    /// Decides by walking the list. `matches` says whether the other end is one of an entry's peers.
    #[must_use]
    pub fn decide(&self, transport: Transport, matches: impl Fn(Peers) -> bool) -> &SideDecision {
        if let (Some(others), Transport::Other(_)) = (&self.others, transport) {
            return others;
        }
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            let matched = entry.ports.contains(transport) && matches(entry.peers);
            at = match (matched, &entry.then) {
                (false, _) => at + 1,
                (true, Then::Decide(decision)) => return decision,
                (true, Then::GoTo(later)) => *later,
            };
        }
        &self.end
    }
}

/// What Pass means in a tier. NetworkPolicies have none: there every rule that matches accepts.
#[derive(Clone, Copy, Eq, PartialEq)]
enum OnPass {
    LeaveTier,
    Accept,
}

fn push_tier(entries: &mut Vec<Entry>, blocks: &[Arc<RuleBlock>], on_pass: OnPass) {
    let mut kept: Vec<(&RuleBlock, &Rule)> = Vec::new();
    for block in blocks {
        for rule in block.rules() {
            if !kept.iter().any(|(_, earlier)| forestalls(earlier, rule)) {
                kept.push((block, rule));
            }
        }
    }
    let behind = entries.len() + kept.len();
    entries.extend(kept.into_iter().map(|(block, rule)| {
        let verdict = match (on_pass, rule.action) {
            (OnPass::Accept, _) | (OnPass::LeaveTier, Action::Accept) => Some(Verdict::Allow),
            (OnPass::LeaveTier, Action::Deny) => Some(Verdict::Deny),
            (OnPass::LeaveTier, Action::Pass) => None,
        };
        let reason = || Reason::Rule(block.origin(rule));
        let then = verdict.map_or(Then::GoTo(behind), |verdict| {
            Then::Decide(SideDecision { verdict, reason: reason() })
        });
        Entry { peers: rule.peers, ports: rule.ports.clone(), then }
    }));
}

/// Returns whether `earlier` matches all that `later` does, whoever the members of the sets are.
fn forestalls(earlier: &Rule, later: &Rule) -> bool {
    let peers = earlier.peers == Peers::Any || earlier.peers == later.peers;
    peers
        && match (&earlier.ports, &later.ports) {
            (Ports::Any, _) => true,
            (Ports::Set(_), Ports::Any) => false,
            (Ports::Set(earlier), Ports::Set(later)) => later.difference(earlier).is_empty(),
        }
}
