//! Why a flow is allowed or denied: both sides, tier by tier, rule by rule, and how near each rule came.
//!
//! An explanation is a view of the one evaluator ([`decide`](crate::ir::decide)): the verdict and the deciding rule come
//! from there, and a rule "matches" here exactly where [`Ruleset::rule_matches`] says so.
#![expect(
    clippy::exhaustive_structs,
    reason = "reports are read field by field; a new one must reach every reader"
)]

mod miss;
mod places;

pub use miss::Miss;
pub use places::{Place, place};

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use self::miss::misses;
use crate::ir::{
    Action, Decision, Direction, Flow, Origin, PolicyRef, RuleBlock, Ruleset, SideDecision, Verdict,
};
use crate::model::{Cluster, ObjectRef};

/// The verdict on a flow with everything that led to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// The flow.
    pub flow: Flow,
    /// The verdict on both sides.
    pub verdict: Verdict,
    /// The source's side.
    pub egress: Side,
    /// The destination's side.
    pub ingress: Side,
}

/// One side of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Side {
    /// Which side.
    pub direction: Direction,
    /// The pod that is judged, if a policed pod is at this end.
    pub subject: Option<ObjectRef>,
    /// The other end.
    pub peer: End,
    /// The verdict and its reason.
    pub decision: SideDecision,
    /// Every policy that selects the subject in this direction, in the order they apply.
    pub policies: Vec<PolicyTrace>,
}

/// Who is at one end of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "an address is a pod's, a node's or nobody's")]
pub enum End {
    /// A policed pod.
    Pod(ObjectRef),
    /// A node, or a pod on its network.
    Node(Arc<str>),
    /// An address outside the cluster.
    External(IpAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => fmt::Display::fmt(pod, f),
            Self::Node(node) => write!(f, "node/{node}"),
            Self::External(address) => fmt::Display::fmt(address, f),
        }
    }
}

/// The tiers a flow passes, in order (CNP-030).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "the API defines these three")]
pub enum TierName {
    /// Admin tier.
    Admin,
    /// NetworkPolicies.
    NetworkPolicy,
    /// Baseline tier.
    Baseline,
}

impl fmt::Display for TierName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "Admin",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Baseline => "Baseline",
        })
    }
}

/// What one policy had to say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyTrace {
    /// Its tier.
    pub tier: TierName,
    /// The policy.
    pub policy: Arc<PolicyRef>,
    /// Where it was written.
    pub place: Place,
    /// Its rules of this direction, each peer on its own, in order.
    pub rules: Vec<RuleTrace>,
}

/// How one rule, or one peer of it, met the flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleTrace {
    /// Policy, direction, rule and peer.
    pub origin: Origin,
    /// What the rule does where it matches.
    pub action: Action,
    /// Where the peer, or else the rule, was written.
    pub place: Place,
    /// What kept it from matching; empty where it matches.
    pub misses: Vec<Miss>,
    /// Whether this is the rule that decided.
    pub decided: bool,
}

impl Side {
    /// Returns the NetworkPolicies that isolate the subject.
    pub fn isolated_by(&self) -> impl Iterator<Item = &PolicyTrace> {
        self.policies.iter().filter(|policy| policy.tier == TierName::NetworkPolicy)
    }

    /// Returns the rules that came nearest to allowing what was denied: accepting rules with the fewest misses.
    #[must_use]
    pub fn nearest(&self) -> Vec<&RuleTrace> {
        let rules = self.policies.iter().flat_map(|policy| &policy.rules);
        let accepting =
            rules.filter(|rule| rule.action == Action::Accept && !rule.misses.is_empty());
        let fewest = accepting.clone().map(|rule| rule.misses.len()).min().unwrap_or(0);
        accepting.filter(|rule| rule.misses.len() == fewest).collect()
    }
}

/// Explains the verdict of `ruleset` on `flow`. `cluster` must be what the ruleset was compiled from.
#[must_use]
pub fn explain(cluster: &Cluster, ruleset: &Ruleset, flow: &Flow) -> Explanation {
    let Decision { verdict, egress, ingress } = ruleset.verdict(flow);
    let side = |direction, decision| Explainer { cluster, ruleset, flow, direction }.side(decision);
    Explanation {
        flow: *flow,
        verdict,
        egress: side(Direction::Egress, egress),
        ingress: side(Direction::Ingress, ingress),
    }
}

struct Explainer<'a> {
    cluster: &'a Cluster,
    ruleset: &'a Ruleset,
    flow: &'a Flow,
    direction: Direction,
}

impl Explainer<'_> {
    fn side(&self, decision: SideDecision) -> Side {
        let (subject, peer) = match self.direction {
            Direction::Ingress => (self.flow.destination, self.flow.source),
            Direction::Egress => (self.flow.source, self.flow.destination),
        };
        let endpoint = self.ruleset.owner(subject);
        let pipeline =
            endpoint.and_then(|endpoint| self.ruleset.pipeline(endpoint.pipeline(self.direction)));
        let decided_by = decision.reason.origin();
        let mut policies = Vec::new();
        if let Some(pipeline) = pipeline {
            let network_policy = pipeline.network_policy.as_deref().unwrap_or_default();
            for (tier, blocks) in [
                (TierName::Admin, pipeline.admin.as_slice()),
                (TierName::NetworkPolicy, network_policy),
                (TierName::Baseline, pipeline.baseline.as_slice()),
            ] {
                policies
                    .extend(blocks.iter().map(|block| self.policy(tier, block, peer, decided_by)));
            }
        }
        Side {
            direction: self.direction,
            subject: endpoint.map(|endpoint| endpoint.pod.clone()),
            peer: end(self.cluster, self.ruleset, peer),
            decision,
            policies,
        }
    }

    fn policy(
        &self,
        tier: TierName,
        block: &RuleBlock,
        peer: IpAddr,
        decided_by: Option<&Origin>,
    ) -> PolicyTrace {
        let mut decided_by = decided_by.cloned();
        let mut rules: Vec<RuleTrace> = Vec::with_capacity(block.rules().len());
        for rule in block.rules() {
            let origin = block.origin(rule);
            let misses =
                misses(self.cluster, self.ruleset, &origin, rule, peer, self.flow.transport);
            // A named port makes several rules of one peer; the first that matches is the one that decided.
            let decided = misses.is_empty() && decided_by.as_ref() == Some(&origin);
            if decided {
                decided_by = None;
            }
            let place = place(self.cluster, &origin);
            rules.push(RuleTrace { origin, action: rule.action, place, misses, decided });
        }
        self.add_silent(block, &mut rules);
        let place = places::policy(self.cluster, block.policy());
        PolicyTrace { tier, policy: block.policy().clone(), place, rules }
    }

    /// Adds the rules of the object that can match nothing and so left no rule in the block.
    fn add_silent(&self, block: &RuleBlock, rules: &mut Vec<RuleTrace>) {
        for position in 0..places::rule_count(self.cluster, block) {
            if rules.iter().any(|rule| rule.origin.rule == position) {
                continue;
            }
            let origin = Origin {
                policy: block.policy().clone(),
                direction: self.direction,
                rule: position,
                peer: None,
            };
            let place = place(self.cluster, &origin);
            let action = places::action(self.cluster, &origin);
            rules.push(RuleTrace {
                origin,
                action,
                place,
                misses: alloc::vec![Miss::MatchesNothing],
                decided: false,
            });
        }
        rules.sort_by_key(|rule| (rule.origin.rule, rule.origin.peer));
    }
}

/// Says who has an address.
#[must_use]
pub fn end(cluster: &Cluster, ruleset: &Ruleset, address: IpAddr) -> End {
    if let Some(endpoint) = ruleset.owner(address) {
        return End::Pod(endpoint.pod.clone());
    }
    if let Some(node) = cluster.nodes.values().find(|node| node.addresses.contains(&address)) {
        return End::Node(node.name().clone());
    }
    match places::pod_with(cluster, address) {
        Some(pod) => End::Pod(pod.meta.object.clone()),
        None => End::External(address),
    }
}
