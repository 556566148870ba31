//! From a pod's address to its pipeline, in logarithmically many look-ups.
//!
//! The search is over pipelines, and what it looks up are sets of the addresses that are bound to them: a pod that comes
//! or goes changes members of sets, and no rule.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use netpol_core::backend::{Cause, LowerError};
use netpol_core::ir::PipelineId;

use super::builder::Builder;
use super::pipeline::Place;
use super::role::Role;
use crate::restore::{Account, Key, Match, Rule, Target};

/// Up to this many pipelines are asked for one by one.
const LEAF: usize = 8;
/// The search branches no deeper than this: nf_tables follows 16 jumps and no more.
const DEPTH: u32 = 7;

/// A pipeline that judges.
pub(super) struct Entry {
    pub(super) id: PipelineId,
    pub(super) target: Target,
}

impl Builder<'_> {
    /// Returns rules that send each address to its pipeline, and drop every other.
    ///
    /// Every step is a goto, so that the return of a pipeline leads behind the jump that led here. Branches part by the bits
    /// of ids, which are digests: even, and another pipeline moves only what is on its way.
    pub(super) fn dispatch(
        &mut self,
        entries: &[Entry],
        place: Place,
    ) -> Result<Vec<Rule>, LowerError> {
        self.search(entries, place, 0, 0)
    }

    fn search(
        &mut self,
        entries: &[Entry],
        place: Place,
        bit: u32,
        depth: u32,
    ) -> Result<Vec<Rule>, LowerError> {
        if entries.len() <= LEAF || bit >= u128::BITS || depth >= DEPTH {
            let mut rules = Vec::with_capacity(entries.len().saturating_add(1));
            for entry in entries {
                let condition = self.bound(core::slice::from_ref(entry), place)?;
                rules.push(Rule::new(vec![condition], entry.target.clone()));
            }
            // Guard: an address that led here has a pipeline.
            let account = Account { direction: place.direction(), cause: Cause::Guard };
            rules.push(Rule::always(Target::Drop).because(Some(Arc::new(account))));
            return Ok(rules);
        }
        // INVARIANT (canonical order): the ruleset's pipelines ascend by id.
        let is_left =
            |entry: &Entry| (u128::from_be_bytes(*entry.id.as_bytes()) << bit).leading_ones() == 0;
        let (left, right) = entries.split_at(entries.partition_point(is_left));
        let next = bit.saturating_add(1);
        if left.is_empty() || right.is_empty() {
            return self.search(entries, place, next, depth);
        }
        let condition = self.bound(left, place)?;
        let depth = depth.saturating_add(1);
        let left = self.search(left, place, next, depth)?;
        let left = self.chain("D", place.letters(), left)?;
        let right = self.search(right, place, next, depth)?;
        let right = self.chain("D", place.letters(), right)?;
        Ok(vec![Rule::new(vec![condition], Target::Goto(left)), Rule::always(Target::Goto(right))])
    }

    /// Returns the match of every address that is bound to one of the pipelines.
    pub(super) fn bound(&mut self, entries: &[Entry], place: Place) -> Result<Match, LowerError> {
        let pipelines: BTreeSet<PipelineId> = entries.iter().map(|entry| entry.id).collect();
        let name = self.set(Role::Bound(place.direction(), Arc::new(pipelines)))?;
        Ok(Match::In(name, Key::Address(place.subject())))
    }
}
