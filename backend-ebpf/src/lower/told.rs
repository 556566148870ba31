//! What the program counts and tells, in the words of policies and rules.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use netpol_core::backend::Cause;
use netpol_core::ir::{
    Direction, Origin, Pipeline, PipelineId, PolicyRef, Reason, Transport, Verdict,
};

use super::key::origins;
use super::{
    GUARD_OF_EGRESS, GUARD_OF_INGRESS, Kept, Lowering, UNKNOWN_DESTINATION, UNKNOWN_SOURCE,
};
use crate::image::{CounterId, PolicyNumber};

/// What one counter counts.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Told {
    /// Of which side.
    pub direction: Direction,
    /// What was decided.
    pub verdict: Verdict,
    /// What decided.
    pub cause: Cause,
    /// The policy that it is of.
    pub policy: Option<PolicyNumber>,
    /// With which of the changes that were followed it came; before, the counter may have been another's.
    pub since: u64,
}

impl Lowering {
    /// Returns what the counters count that can count anything.
    #[must_use]
    pub fn told(&self) -> BTreeMap<CounterId, Told> {
        let fixed = |direction, cause| Told {
            direction,
            verdict: Verdict::Deny,
            cause,
            policy: None,
            since: 0,
        };
        let mut told = BTreeMap::from([
            (GUARD_OF_INGRESS, fixed(Direction::Ingress, Cause::Guard)),
            (GUARD_OF_EGRESS, fixed(Direction::Egress, Cause::Guard)),
        ]);
        if self.image.is_strict() {
            for place in 0..4 {
                let unknown = |direction| fixed(direction, Cause::UnknownPod);
                told.insert(UNKNOWN_DESTINATION + place, unknown(Direction::Ingress));
                told.insert(UNKNOWN_SOURCE + place, unknown(Direction::Egress));
            }
        }
        for (number, kept) in &self.policies {
            let names = Names::new(self, kept);
            let (direction, since) = (kept.key.direction, kept.since);
            for tally in kept.state.tallies().filter(|tally| !tally.reasons.is_empty()) {
                let cause = names.cause(tally.reasons.iter());
                let (verdict, policy) = (tally.verdict, Some(*number));
                told.insert(tally.counter, Told { direction, verdict, cause, policy, since });
            }
        }
        told
    }

    /// Returns why a policy denies this to a peer; nothing if it does not.
    #[must_use]
    pub fn denied_by(
        &self,
        policy: PolicyNumber,
        peer: core::net::IpAddr,
        transport: Transport,
    ) -> Option<Cause> {
        let kept = self.policies.get(&policy)?;
        let (lead, situation) = kept.state.lead;
        let class = self.classes.class_of(peer);
        let decision = self.leads.get(&lead)?.atoms.pieces(class, situation).decide(transport);
        (decision.verdict == Verdict::Deny)
            .then(|| Names::new(self, kept).cause([&decision.reason]))
    }
}

/// The names of what a policy says, by each pipeline that it is.
struct Names<'a> {
    lead: &'a [Origin],
    users: Vec<Vec<Origin>>,
    isolating: BTreeSet<Arc<PolicyRef>>,
}

impl<'a> Names<'a> {
    fn new(lowering: &'a Lowering, kept: &Kept) -> Self {
        let pipeline =
            |id: &PipelineId| lowering.pipelines.get(id).map(|lowered| &lowered.pipeline);
        let users: Vec<&Pipeline> = kept.users.keys().filter_map(pipeline).collect();
        let isolating = users
            .iter()
            .filter_map(|pipeline| pipeline.network_policy.as_ref())
            .flatten()
            .map(|block| block.policy().clone())
            .collect();
        let (lead, _) = kept.state.lead;
        let lead = lowering.leads.get(&lead).map_or(&[][..], |lead| &lead.origins);
        Self { lead, users: users.into_iter().map(origins).collect(), isolating }
    }

    /// Returns what the reasons are, as one cause.
    fn cause<'r>(&self, reasons: impl IntoIterator<Item = &'r Reason>) -> Cause {
        let mut rules = BTreeSet::new();
        let mut isolates = false;
        for reason in reasons {
            match reason {
                // Rules of pipelines with one key stand in one order.
                Reason::Rule(origin) => {
                    let place = self.lead.iter().position(|of_lead| of_lead == origin);
                    let place = place.unwrap_or(usize::MAX);
                    rules.extend(self.users.iter().filter_map(|user| user.get(place).cloned()));
                }
                Reason::Isolated => isolates = true,
                Reason::NotPoliced
                | Reason::SelfTraffic
                | Reason::Hairpin
                | Reason::OwnNode
                | Reason::UnjudgedProtocol
                | Reason::UnknownPod
                | Reason::NotIsolated => {}
            }
        }
        if !rules.is_empty() {
            Cause::Rules(rules.into_iter().collect())
        } else if isolates {
            Cause::Isolation(self.isolating.iter().cloned().collect())
        } else {
            Cause::Default
        }
    }
}
