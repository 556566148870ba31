//! From a pod's address to its pipeline, in logarithmically many look-ups.

use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::backend::LowerError;

use super::builder::Builder;
use crate::restore::{End, Match, Rule, Target};

/// Up to this many pipelines are asked for one by one.
const LEAF: usize = 8;

/// The addresses that go through one pipeline.
pub(super) struct Entry {
    pub(super) pipeline: Target,
    pub(super) addresses: Vec<IpAddr>,
}

impl Builder<'_> {
    /// Returns rules that send each address to its pipeline, and drop every other.
    ///
    /// Every step is a goto, so that the return of a pipeline leads behind the jump that led here.
    pub(super) fn dispatch(
        &mut self,
        entries: &[Entry],
        end: End,
    ) -> Result<Vec<Rule>, LowerError> {
        if entries.len() <= LEAF {
            let mut rules = Vec::with_capacity(entries.len() + 1);
            for entry in entries {
                if let Some(condition) = self.any_of(entry.addresses.iter().copied(), end)? {
                    rules.push(Rule::new(vec![condition], entry.pipeline.clone()));
                }
            }
            // Guard: an address that led here has a pipeline.
            rules.push(Rule::always(Target::Drop));
            return Ok(rules);
        }
        let (left, right) = entries.split_at(entries.len() / 2);
        let condition = self.any_of_entries(left, end)?;
        let mut rules = Vec::new();
        if let Some(condition) = condition {
            let left = self.dispatch(left, end)?;
            let left = self.chain('D', left)?;
            rules.push(Rule::new(vec![condition], Target::Goto(left)));
        }
        let right = self.dispatch(right, end)?;
        let right = self.chain('D', right)?;
        rules.push(Rule::always(Target::Goto(right)));
        Ok(rules)
    }

    /// Returns the match of every address that has an entry.
    pub(super) fn any_of_entries(
        &mut self,
        entries: &[Entry],
        end: End,
    ) -> Result<Option<Match>, LowerError> {
        let addresses = entries.iter().flat_map(|entry| entry.addresses.iter().copied());
        self.any_of(addresses, end)
    }
}
