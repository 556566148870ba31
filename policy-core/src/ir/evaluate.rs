//! The one evaluator: every verdict, explanation, matrix and lowering test is a view of [`decide`].

use core::fmt;

use super::{
    Action, Dialled, Direction, Endpoint, Flow, Origin, OtherProtocols, OwnNodeEgress, Peers,
    Pipeline, Rule, RuleBlock, Ruleset, Settings, Transport,
};
use alloc::sync::Arc;

/// Whether traffic may pass. There is no default: a forgotten verdict must not be an open one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// It may.
    Allow,
    /// It is dropped (DEC-14).
    Deny,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// Why one side came to its verdict.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// No policed pod of this scope is at this end (NP-010, NP-131, NP-137).
    NotPoliced,
    /// A pod reaches itself by its own address (NP-120, CNP-019).
    SelfTraffic,
    /// A pod reaches itself through a Service; its NetworkPolicies always let it (NP-121, DEC-03).
    Hairpin,
    /// From the pod's own node, or to it (NP-125, NP-127, DEC-01).
    OwnNode,
    /// A protocol that the settings let pass unjudged (DEC-02).
    UnjudgedProtocol,
    /// A rule matched.
    Rule(Origin),
    /// NetworkPolicies isolate the pod in this direction and none of their rules matched (NP-005).
    Isolated,
    /// Strict mode, and the address is a pod's that is not known yet.
    UnknownPod,
    /// No rule matched and no NetworkPolicy isolates the pod: the cluster's default (NP-003, CNP-033).
    NotIsolated,
}

impl Reason {
    /// Returns the rule that decided, if one did.
    #[must_use]
    pub const fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Rule(origin) => Some(origin),
            Self::NotPoliced
            | Self::SelfTraffic
            | Self::Hairpin
            | Self::OwnNode
            | Self::UnjudgedProtocol
            | Self::UnknownPod
            | Self::Isolated
            | Self::NotIsolated => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPoliced => f.write_str("no policed pod at this end"),
            Self::SelfTraffic => f.write_str("a pod always reaches itself"),
            Self::Hairpin => f.write_str("a pod reaches itself through a Service"),
            Self::OwnNode => f.write_str("the pod's own node"),
            Self::UnjudgedProtocol => f.write_str("protocols without ports pass by configuration"),
            Self::Rule(origin) => fmt::Display::fmt(origin, f),
            Self::UnknownPod => f.write_str("an address of pods that no known pod owns"),
            Self::Isolated => f.write_str("isolated, and no rule matches"),
            Self::NotIsolated => f.write_str("not isolated"),
        }
    }
}

/// One side's verdict.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct SideDecision {
    /// The verdict.
    pub verdict: Verdict,
    /// What made it.
    pub reason: Reason,
}

impl SideDecision {
    const fn allow(reason: Reason) -> Self {
        Self { verdict: Verdict::Allow, reason }
    }

    const fn deny(reason: Reason) -> Self {
        Self { verdict: Verdict::Deny, reason }
    }
}

/// The verdict on a flow, with both sides: allowed only if both allow (NP-006).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// The source pod's egress.
    pub egress: SideDecision,
    /// The destination pod's ingress.
    pub ingress: SideDecision,
}

/// What is special about the two ends of a flow, as one side sees it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Situation {
    /// Nothing.
    Ordinary,
    /// The pod reaches itself through a Service.
    Hairpin,
    /// The other end is the pod's own node.
    OwnNode,
}

/// Decides one direction of one pod's traffic. `matches` says of a rule whether its peers and ports hold the traffic.
///
/// This is `side` of the reference algorithm (semantics 0.1) on the IR.
#[must_use]
pub fn decide(
    pipeline: &Pipeline,
    situation: Situation,
    settings: Settings,
    matches: impl Fn(&Rule) -> bool,
) -> SideDecision {
    if situation == Situation::OwnNode && pipeline.direction == Direction::Ingress {
        return SideDecision::allow(Reason::OwnNode); // NP-125: all tiers; CNP ingress cannot name nodes (CNP-042).
    }
    if let Some(decision) = ordered_tier(&pipeline.admin, &matches) {
        return decision;
    }
    if let Some(blocks) = &pipeline.network_policy {
        return match (situation, settings.own_node_egress) {
            (Situation::Hairpin, _) => SideDecision::allow(Reason::Hairpin),
            (Situation::OwnNode, OwnNodeEgress::Allow) => SideDecision::allow(Reason::OwnNode),
            (Situation::OwnNode, OwnNodeEgress::Enforce) | (Situation::Ordinary, _) => {
                first_match(blocks, &matches)
                    .map_or(SideDecision::deny(Reason::Isolated), |(block, rule)| {
                        SideDecision::allow(Reason::Rule(block.origin(rule)))
                    })
            }
        };
    }
    ordered_tier(&pipeline.baseline, &matches).unwrap_or(SideDecision::allow(Reason::NotIsolated))
}

/// Admin or Baseline: the first rule that matches decides; Pass leaves the tier (CNP-015, CNP-020, CNP-021).
fn ordered_tier(
    blocks: &[Arc<RuleBlock>],
    matches: &impl Fn(&Rule) -> bool,
) -> Option<SideDecision> {
    let (block, rule) = first_match(blocks, matches)?;
    match rule.action {
        Action::Accept => Some(SideDecision::allow(Reason::Rule(block.origin(rule)))),
        Action::Deny => Some(SideDecision::deny(Reason::Rule(block.origin(rule)))),
        Action::Pass => None,
    }
}

fn first_match<'a>(
    blocks: &'a [Arc<RuleBlock>],
    matches: &impl Fn(&Rule) -> bool,
) -> Option<(&'a RuleBlock, &'a Rule)> {
    blocks
        .iter()
        .find_map(|block| Some((block.as_ref(), block.rules().iter().find(|rule| matches(rule))?)))
}

impl Ruleset {
    /// Judges a flow on both sides, as far as this scope polices the ends.
    ///
    /// Costs the rules of the policies that select the two ends, each a look-up, whatever else the cluster holds.
    #[must_use]
    pub fn verdict(&self, flow: &Flow) -> Decision {
        let source = self.owner(flow.source);
        let destination = self.owner(flow.destination);
        let situation = match (source, destination) {
            (Some(source), Some(destination)) if source.pod == destination.pod => {
                match flow.dialled {
                    Dialled::Address => {
                        let side = SideDecision::allow(Reason::SelfTraffic);
                        return Decision {
                            verdict: Verdict::Allow,
                            egress: side.clone(),
                            ingress: side,
                        };
                    }
                    Dialled::Service => Situation::Hairpin,
                }
            }
            (Some(_) | None, Some(_) | None) => Situation::Ordinary,
        };
        let unknown = SideDecision::deny(Reason::UnknownPod);
        let egress = if self.is_unknown_pod(flow.source) {
            unknown.clone()
        } else {
            self.side(source, flow.destination, flow.transport, Direction::Egress, situation)
        };
        let ingress = if self.is_unknown_pod(flow.destination) && !self.is_node(flow.source) {
            unknown
        } else {
            self.side(destination, flow.source, flow.transport, Direction::Ingress, situation)
        };
        let both = egress.verdict == Verdict::Allow && ingress.verdict == Verdict::Allow;
        Decision { verdict: if both { Verdict::Allow } else { Verdict::Deny }, egress, ingress }
    }

    fn side(
        &self,
        subject: Option<&Endpoint>,
        peer: core::net::IpAddr,
        transport: Transport,
        direction: Direction,
        situation: Situation,
    ) -> SideDecision {
        let Some(subject) = subject else { return SideDecision::allow(Reason::NotPoliced) };
        if self.settings().other_protocols == OtherProtocols::Pass
            && matches!(transport, Transport::Other(_))
        {
            return SideDecision::allow(Reason::UnjudgedProtocol);
        }
        let Some(pipeline) = self.pipeline(subject.pipeline(direction)) else {
            // INVARIANT (closed references) forbids this; should it break, fail closed.
            return SideDecision::deny(Reason::Isolated);
        };
        let own_node = situation == Situation::Ordinary && self.is_own_node(subject, peer);
        let situation = if own_node { Situation::OwnNode } else { situation };
        decide(pipeline, situation, self.settings(), |rule| {
            self.rule_matches(rule, peer, transport)
        })
    }

    /// Returns whether a rule's peers and ports hold this traffic.
    #[must_use]
    pub fn rule_matches(&self, rule: &Rule, peer: core::net::IpAddr, transport: Transport) -> bool {
        rule.ports.contains(transport)
            && match rule.peers {
                Peers::Any => true,
                Peers::Set(id) => self.peer_set(id).is_some_and(|set| set.contains(peer)),
            }
    }
}
