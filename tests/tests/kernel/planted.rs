//! Dataplanes with a planted bug: what holds every backend must not hold these.

use alloc::sync::Arc;

use netpol_core::backend::{Dataplane, SyncError};
use netpol_core::ir::{Parts, Peers, Pipeline, Ports, Rule, RuleBlock, Ruleset};

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Bug {
    /// The first pod with a policy is left alone.
    ForgetsAPod,
    /// Rules match everybody.
    ForgetsPeers,
    /// Rules match every port and protocol.
    ForgetsPorts,
    /// The last rule of every policy is left out.
    ForgetsRules,
    /// The first ruleset stays for ever.
    StandsStill,
    /// Every third change is not carried out.
    ForgetsChanges,
    /// The old rules go before the new ones come.
    OpensInBetween,
}

impl Bug {
    /// Those that show while nothing changes.
    pub(super) const AT_REST: [Self; 5] = [
        Self::ForgetsAPod,
        Self::ForgetsPeers,
        Self::ForgetsPorts,
        Self::ForgetsRules,
        Self::StandsStill,
    ];

    fn plant(self, ruleset: &Ruleset) -> Ruleset {
        let is_policed = |pipeline| ruleset.pipeline(pipeline).is_some_and(|it| !it.is_open());
        let mut endpoints: Vec<_> = ruleset.endpoints().cloned().collect();
        if self == Self::ForgetsAPod
            && let Some(first) = endpoints
                .iter()
                .position(|endpoint| is_policed(endpoint.ingress) || is_policed(endpoint.egress))
        {
            endpoints.remove(first);
        }
        Ruleset::new(Parts {
            scope: ruleset.scope().clone(),
            settings: ruleset.settings(),
            pod_ranges: ruleset.pod_ranges().clone(),
            nodes: ruleset.nodes().clone(),
            endpoints,
            pipelines: ruleset
                .pipelines()
                .map(|(id, pipeline)| (id, Arc::new(self.in_pipeline(pipeline))))
                .collect(),
            peer_sets: ruleset.peer_sets().map(|(id, set)| (id, Arc::new(set.clone()))).collect(),
        })
    }

    fn in_pipeline(self, pipeline: &Pipeline) -> Pipeline {
        let blocks = |blocks: &[Arc<RuleBlock>]| {
            blocks.iter().map(|block| Arc::new(self.in_block(block))).collect::<Vec<_>>()
        };
        Pipeline {
            direction: pipeline.direction,
            admin: blocks(&pipeline.admin),
            network_policy: pipeline.network_policy.as_deref().map(blocks),
            baseline: blocks(&pipeline.baseline),
        }
    }

    fn in_block(self, block: &RuleBlock) -> RuleBlock {
        let mut rules: Vec<Rule> = block.rules().to_vec();
        match self {
            Self::ForgetsRules => drop(rules.pop()),
            Self::ForgetsPeers => rules.iter_mut().for_each(|rule| rule.peers = Peers::Any),
            Self::ForgetsPorts => rules.iter_mut().for_each(|rule| rule.ports = Ports::Any),
            Self::ForgetsAPod | Self::StandsStill | Self::ForgetsChanges | Self::OpensInBetween => {
            }
        }
        RuleBlock::new(block.policy().clone(), block.direction(), rules)
    }
}

/// A dataplane that is given something else than what it should enforce.
#[derive(Debug)]
pub(super) struct Planted {
    inner: Box<dyn Dataplane + Send>,
    bug: Bug,
    synced: usize,
}

impl Planted {
    pub(super) fn new(inner: Box<dyn Dataplane + Send>, bug: Bug) -> Self {
        Self { inner, bug, synced: 0 }
    }
}

impl Dataplane for Planted {
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        self.synced += 1;
        match self.bug {
            Bug::StandsStill if self.synced > 1 => return Ok(()),
            Bug::ForgetsChanges if self.synced.is_multiple_of(3) => return Ok(()),
            Bug::OpensInBetween => self.inner.remove()?,
            Bug::StandsStill
            | Bug::ForgetsChanges
            | Bug::ForgetsAPod
            | Bug::ForgetsPeers
            | Bug::ForgetsPorts
            | Bug::ForgetsRules => {}
        }
        self.inner.sync(&self.bug.plant(ruleset))
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        self.inner.remove()
    }
}
