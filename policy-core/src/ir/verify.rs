//! The invariants of a [`Ruleset`], in one list:
//!
//! - closed references: what is referred to is there, and what is there is referred to;
//! - content ids: every pipeline and set stands under the digest of its content;
//! - one owner: no address belongs to two endpoints, and each endpoint's addresses ascend;
//! - canonical order: NetworkPolicy blocks ascend by policy;
//! - tiers: NetworkPolicy rules accept, Admin and Baseline blocks are of ClusterNetworkPolicies and not empty, every
//!   block has its pipeline's direction;
//! - no dead rules: a port set is never empty.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::{
    Action, Direction, PeerSetId, Peers, Pipeline, PipelineId, PolicyKind, Ports, RuleBlock,
    Ruleset,
};
use crate::model::ObjectRef;

/// An invariant that does not hold.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
#[non_exhaustive]
pub enum Violated {
    /// An endpoint refers to a pipeline that is not there.
    #[error("endpoint {0} refers to missing pipeline {1}")]
    MissingPipeline(ObjectRef, PipelineId),
    /// An endpoint's pipeline is of the other direction.
    #[error("endpoint {0} has pipeline {1} for {2}, which is of the other direction")]
    WrongDirection(ObjectRef, PipelineId, Direction),
    /// An address belongs to two endpoints, or is listed twice or out of order.
    #[error("endpoint {0} does not own its addresses alone and in order")]
    Addresses(ObjectRef),
    /// No endpoint refers to a pipeline.
    #[error("no endpoint refers to pipeline {0}")]
    UnusedPipeline(PipelineId),
    /// A pipeline stands under another id than its content's.
    #[error("pipeline {0} has other content than its id says")]
    PipelineId(PipelineId),
    /// A pipeline's blocks are in a tier they do not belong to, out of order, or of the other direction.
    #[error("pipeline {0} has misplaced blocks")]
    MisplacedBlock(PipelineId),
    /// A rule refers to a peer set that is not there.
    #[error("pipeline {0} refers to missing peer set {1}")]
    MissingPeerSet(PipelineId, PeerSetId),
    /// A rule has an empty port set.
    #[error("pipeline {0} has a rule that can match nothing")]
    DeadRule(PipelineId),
    /// No rule refers to a peer set.
    #[error("no rule refers to peer set {0}")]
    UnusedPeerSet(PeerSetId),
    /// A peer set stands under another id than its selector's.
    #[error("peer set {0} has another selector than its id says")]
    PeerSetId(PeerSetId),
}

/// Returns every invariant that does not hold; none for whatever `compile` makes.
#[must_use]
pub fn verify(ruleset: &Ruleset) -> Vec<Violated> {
    let mut found = BTreeSet::new();
    let mut used_pipelines = BTreeSet::new();
    let mut owned = BTreeSet::new();
    for endpoint in ruleset.endpoints() {
        let ascending = endpoint.addresses.is_sorted_by(|a, b| a < b);
        let mut alone = true;
        for address in &endpoint.addresses {
            alone &= owned.insert(*address);
        }
        if !ascending || !alone || endpoint.addresses.is_empty() {
            found.insert(Violated::Addresses(endpoint.pod.clone()));
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let id = endpoint.pipeline(direction);
            used_pipelines.insert(id);
            match ruleset.pipeline(id) {
                None => found.insert(Violated::MissingPipeline(endpoint.pod.clone(), id)),
                Some(pipeline) if pipeline.direction != direction => {
                    found.insert(Violated::WrongDirection(endpoint.pod.clone(), id, direction))
                }
                Some(_) => false,
            };
        }
    }
    let mut used_sets = BTreeSet::new();
    for (id, pipeline) in ruleset.pipelines() {
        if !used_pipelines.contains(&id) {
            found.insert(Violated::UnusedPipeline(id));
        }
        if pipeline.id() != id {
            found.insert(Violated::PipelineId(id));
        }
        if !blocks_in_place(pipeline) {
            found.insert(Violated::MisplacedBlock(id));
        }
        for (_, rule) in pipeline.rules() {
            if let Peers::Set(set) = rule.peers {
                used_sets.insert(set);
                if ruleset.peer_set(set).is_none() {
                    found.insert(Violated::MissingPeerSet(id, set));
                }
            }
            if matches!(&rule.ports, Ports::Set(ports) if ports.is_empty()) {
                found.insert(Violated::DeadRule(id));
            }
        }
    }
    for (id, set) in ruleset.peer_sets() {
        if !used_sets.contains(&id) {
            found.insert(Violated::UnusedPeerSet(id));
        }
        if set.id() != id {
            found.insert(Violated::PeerSetId(id));
        }
    }
    found.into_iter().collect()
}

fn blocks_in_place(pipeline: &Pipeline) -> bool {
    let ordered = |blocks: &[alloc::sync::Arc<RuleBlock>]| {
        blocks.iter().all(|block| {
            block.policy().kind == PolicyKind::ClusterNetworkPolicy && !block.rules().is_empty()
        })
    };
    let network_policy = pipeline.network_policy.as_deref().unwrap_or_default();
    ordered(&pipeline.admin)
        && ordered(&pipeline.baseline)
        && pipeline.blocks().all(|block| block.direction() == pipeline.direction)
        && network_policy.is_sorted_by(|a, b| a.policy() < b.policy())
        && network_policy.iter().all(|block| {
            block.policy().kind == PolicyKind::NetworkPolicy
                && block.rules().iter().all(|rule| rule.action == Action::Accept)
        })
        && pipeline.network_policy.as_ref().is_none_or(|blocks| !blocks.is_empty())
}
