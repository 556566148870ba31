//! What a pipeline says in one situation, whoever says it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use netpol_core::ir::{
    Action, Direction, Origin, OwnNodeEgress, Peers, Pipeline, Ports, Rule, RuleBlock, Settings,
    Situation,
};

/// What a policy says: the rules of pipelines without their names. Pipelines with one key are one policy for as long as
/// both are there, whoever becomes a member of the sets that they name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct PolicyKey {
    pub(super) direction: Direction,
    admin: Vec<Clause>,
    rest: Rest,
}

/// A rule without its name.
type Clause = (Action, Peers, Ports);

/// What comes behind the admin tier.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Rest {
    /// Everything passes.
    Open,
    /// NetworkPolicies isolate.
    Isolated(Vec<Clause>),
    /// They do not.
    Baseline(Vec<Clause>),
}

fn clauses(blocks: &[Arc<RuleBlock>]) -> impl Iterator<Item = Clause> + '_ {
    let clause = |rule: &Rule| (rule.action, rule.peers, rule.ports.clone());
    blocks.iter().flat_map(|block| block.rules()).map(clause)
}

/// Returns the names of the rules that can decide, in an order that pipelines with one key share.
pub(super) fn origins(pipeline: &Pipeline) -> Vec<Origin> {
    let blocks = pipeline.admin.iter();
    let blocks = blocks.chain(pipeline.network_policy.as_ref().unwrap_or(&pipeline.baseline));
    blocks.flat_map(|block| block.rules().iter().map(|rule| block.origin(rule))).collect()
}

impl PolicyKey {
    /// Returns what a pipeline says in a situation.
    pub(super) fn new(pipeline: &Pipeline, situation: Situation, settings: Settings) -> Self {
        let rest = match (&pipeline.network_policy, situation, settings.own_node_egress) {
            (None, _, _) => Rest::Baseline(clauses(&pipeline.baseline).collect()),
            (Some(_), Situation::Hairpin, _)
            | (Some(_), Situation::OwnNode, OwnNodeEgress::Allow) => Rest::Open,
            (Some(blocks), Situation::Ordinary, _)
            | (Some(blocks), Situation::OwnNode, OwnNodeEgress::Enforce) => {
                Rest::Isolated(clauses(blocks).collect())
            }
        };
        Self { direction: pipeline.direction, admin: clauses(&pipeline.admin).collect(), rest }
    }

    /// Returns whether no rule can decide anything, and all passes.
    pub(super) fn is_open(&self) -> bool {
        let passes = |clauses: &[Clause]| clauses.iter().all(|clause| clause.0 == Action::Pass);
        passes(&self.admin)
            && match &self.rest {
                Rest::Open => true,
                Rest::Isolated(_) => false,
                Rest::Baseline(clauses) => passes(clauses),
            }
    }
}
