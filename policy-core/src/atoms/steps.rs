//! A pipeline laid out for folding: its rules in order, and which of them each peer set brings in.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::canvas::{Canvas, Stroke};
use super::pieces::Pieces;
use crate::ir::{
    Action, Direction, OtherProtocols, OwnNodeEgress, PeerSetId, Peers, Pipeline, Ports, Reason,
    RuleBlock, Settings, SideDecision, Situation, Verdict,
};

/// A rule with what it decides.
#[derive(Clone, Debug)]
struct Step {
    tier: Tier,
    ports: Ports,
    stroke: Stroke,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tier {
    Admin,
    NetworkPolicy,
    Baseline,
}

/// The rules of a pipeline that can decide anything, in order.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    direction: Direction,
    settings: Settings,
    isolated: bool,
    steps: Vec<Step>,
    /// Steps for everybody, ascending.
    everybody: Vec<u32>,
    /// The sets of the pipeline, ascending, and the steps for their members, ascending.
    sets: Vec<(PeerSetId, Vec<u32>)>,
}

impl Steps {
    pub(super) fn new(pipeline: &Pipeline, settings: Settings) -> Self {
        let mut steps = Vec::new();
        let mut everybody = Vec::new();
        let mut sets: BTreeMap<PeerSetId, Vec<u32>> = BTreeMap::new();
        let mut push = |tier: Tier, blocks: &[Arc<RuleBlock>]| {
            for (block, rule) in blocks.iter().flat_map(|b| b.rules().iter().map(move |r| (b, r))) {
                let reason = Reason::Rule(block.origin(rule));
                let stroke = match (tier, rule.action) {
                    (Tier::NetworkPolicy, _) | (_, Action::Accept) => {
                        Stroke::Decide(SideDecision { verdict: Verdict::Allow, reason })
                    }
                    (_, Action::Deny) => {
                        Stroke::Decide(SideDecision { verdict: Verdict::Deny, reason })
                    }
                    (_, Action::Pass) => Stroke::LeaveTier,
                };
                let number = u32::try_from(steps.len()).unwrap_or(u32::MAX);
                match rule.peers {
                    Peers::Any => everybody.push(number),
                    Peers::Set(id) => sets.entry(id).or_default().push(number),
                }
                steps.push(Step { tier, ports: rule.ports.clone(), stroke });
            }
        };
        push(Tier::Admin, &pipeline.admin);
        match &pipeline.network_policy {
            Some(blocks) => push(Tier::NetworkPolicy, blocks),
            None => push(Tier::Baseline, &pipeline.baseline),
        }
        Self {
            direction: pipeline.direction,
            settings,
            isolated: pipeline.network_policy.is_some(),
            steps,
            everybody,
            sets: sets.into_iter().collect(),
        }
    }

    /// Returns the sets that the rules name, ascending.
    pub(super) fn sets(&self) -> impl ExactSizeIterator<Item = PeerSetId> + '_ {
        self.sets.iter().map(|(id, _)| *id)
    }

    /// Returns how many port ranges the rules for everybody have.
    pub(super) fn ranges_of_everybody(&self) -> usize {
        self.ranges(&self.everybody)
    }

    /// Returns how many port ranges the rules for the members of each set have.
    pub(super) fn ranges_of_sets(&self) -> impl Iterator<Item = (PeerSetId, usize)> + '_ {
        self.sets.iter().map(|(id, steps)| (*id, self.ranges(steps)))
    }

    fn ranges(&self, steps: &[u32]) -> usize {
        let ports = |step: &Step| match &step.ports {
            Ports::Any => 0,
            Ports::Set(ports) => ports.ranges().count(),
        };
        self.get(steps).map(ports).sum()
    }

    fn get<'a>(&'a self, steps: &'a [u32]) -> impl Iterator<Item = &'a Step> + 'a {
        steps.iter().filter_map(|step| self.steps.get(*step as usize))
    }

    /// Returns the steps for the members of these sets, given by their place among the pipeline's, ascending.
    pub(super) fn of_members(&self, sets: &[u32]) -> Vec<u32> {
        let lists = sets.iter().filter_map(|set| self.sets.get(*set as usize));
        let mut steps: Vec<u32> =
            lists.flat_map(|(_, steps)| steps).chain(&self.everybody).copied().collect();
        steps.sort_unstable();
        steps
    }

    /// Folds these steps: the decision on all traffic that their peers match, as [`decide`](crate::ir::decide) would say
    /// at every single port.
    pub(super) fn fold(&self, steps: &[u32], situation: Situation) -> Pieces {
        let others = (self.settings.other_protocols == OtherProtocols::Pass)
            .then_some(SideDecision { verdict: Verdict::Allow, reason: Reason::UnjudgedProtocol });
        if situation == Situation::OwnNode && self.direction == Direction::Ingress {
            let decision = SideDecision { verdict: Verdict::Allow, reason: Reason::OwnNode };
            return Pieces::uniform(&decision, others.unwrap_or_else(|| decision.clone()));
        }
        let of = |tier: Tier| self.get(steps).filter(move |step| step.tier == tier);
        let mut canvas = Canvas::new(self.get(steps).map(|step| &step.ports));
        let mut paint = |tier: Tier| {
            canvas.tier(of(tier).map(|step| (&step.ports, &step.stroke)));
        };
        paint(Tier::Admin);
        let end = match (self.isolated, situation, self.settings.own_node_egress) {
            (false, _, _) => {
                paint(Tier::Baseline);
                SideDecision { verdict: Verdict::Allow, reason: Reason::NotIsolated }
            }
            (true, Situation::Hairpin, _) => {
                SideDecision { verdict: Verdict::Allow, reason: Reason::Hairpin }
            }
            (true, Situation::OwnNode, OwnNodeEgress::Allow) => {
                SideDecision { verdict: Verdict::Allow, reason: Reason::OwnNode }
            }
            (true, Situation::OwnNode, OwnNodeEgress::Enforce) | (true, Situation::Ordinary, _) => {
                paint(Tier::NetworkPolicy);
                SideDecision { verdict: Verdict::Deny, reason: Reason::Isolated }
            }
        };
        canvas.finish(&end, others)
    }
}
