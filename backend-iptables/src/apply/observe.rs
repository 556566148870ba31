//! What is there, and what should be, as near to it as can be.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use std::time::{SystemTime, UNIX_EPOCH};

use netpol_core::backend::{Difference, Drift, Established, LowerError};
use netpol_core::ir::{Family, Ruleset};

use super::held::Fill;
use super::rules::Chains;
use super::sets::{Listing, SPARE};
use super::variant::Variant;
use super::{FAMILIES, program_prefix};
use crate::Iptables;
use crate::lower::role::Role;
use crate::lower::{Layout, Memory, check_capacity, gathered};
use crate::restore::{Elements, Name, other_edition};

/// What is there.
pub(super) struct Observed {
    pub(super) sets: Listing,
    pub(super) chains: [Chains; 2],
}

/// What should be there.
pub(super) struct Wanted {
    pub(super) layout: Layout,
    pub(super) chains: [Chains; 2],
    pub(super) fills: BTreeMap<Name, Fill>,
    /// Sets that are not there as they should be, or not at all.
    sets: BTreeMap<Name, (State, Elements)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// There is no set of this name, or none that rules refer to.
    Missing,
    /// Rules refer to a set of this name, and to the other edition: somebody else was at it.
    Damaged,
}

impl Wanted {
    /// Chooses editions of sets and numbers of rules so that nothing changes that need not.
    pub(super) fn new(
        options: &Iptables,
        ruleset: &Ruleset,
        mut memory: Memory,
        there: &Observed,
    ) -> Result<Self, LowerError> {
        for ((family, chains), generation) in
            FAMILIES.into_iter().zip(&there.chains).zip(&mut memory.generations)
        {
            if let Some(value) = chains.mark(options.mark) {
                *generation = gathered(value, options.mark);
            } else if *generation == 0 {
                // Nobody knows what connections are marked with. The clock hardly ever says the same.
                *generation = clock(family);
            }
        }
        memory.second.clear();
        let named: BTreeSet<&str> = there.chains.iter().flat_map(Chains::names).collect();
        let first = Layout::new(ruleset, options, memory)?;
        let mut memory = first.memory.clone();
        let mut sets = BTreeMap::new();
        let mut fills = BTreeMap::new();
        for (name, (family, role)) in &first.roles {
            let elements = role.elements(ruleset, *family);
            check_capacity(name, elements.len())?;
            let other = other_edition(name);
            let state = |name: &Name| match there.sets.get(name.as_ref()) {
                None => Some(State::Missing),
                Some(set) => match &set.elements {
                    Some(Elements::Addresses(own, _))
                        if *role == Role::Unsettled && own == family =>
                    {
                        None
                    }
                    Some(present) if *present == elements => None,
                    Some(_) | None => Some(State::Damaged),
                },
            };
            let referred = |name: &Name| named.contains(name.as_ref());
            let (name, state) = match (state(name), state(&other)) {
                (None, Some(_)) => (name, None),
                (Some(_), None) => (&other, None),
                // Both hold the same: the one that is in use.
                (None, None) if referred(&other) && !referred(name) => (&other, None),
                (None, None) => (name, None),
                (Some(_), Some(_)) if !referred(name) => (name, Some(State::Missing)),
                (Some(_), Some(_)) if !referred(&other) => (&other, Some(State::Missing)),
                (Some(_), Some(_)) => (name, Some(State::Damaged)),
            };
            if *name == other {
                memory.turn(&other_edition(&other));
            }
            let mut fill = Fill::of(&elements);
            if let (None, Some(set)) = (state, there.sets.get(name.as_ref())) {
                fill.room = set.room;
                if *role == Role::Unsettled {
                    fill.members = set.elements.as_ref().map_or(0, Elements::len);
                }
            }
            fills.insert(name.clone(), fill);
            if let Some(state) = state {
                sets.insert(name.clone(), (state, elements));
            }
        }
        let layout =
            if memory == first.memory { first } else { Layout::new(ruleset, options, memory)? };
        let chains = chains(&layout);
        Ok(Self { layout, chains, fills, sets })
    }

    /// Gives another number to the rules of each family in which anything changes; returns which those are.
    pub(super) fn renew(
        &mut self,
        options: &Iptables,
        ruleset: &Ruleset,
        there: &Observed,
    ) -> Result<[bool; 2], LowerError> {
        let mut changed = [false; 2];
        let mut memory = self.layout.memory.clone();
        let of_family = |family: Family| {
            self.sets
                .keys()
                .any(|name| self.layout.roles.get(name).is_some_and(|(own, _)| *own == family))
        };
        for (((family, changed), generation), (there, wanted)) in FAMILIES
            .into_iter()
            .zip(&mut changed)
            .zip(&mut memory.generations)
            .zip(there.chains.iter().zip(&self.chains))
        {
            *changed = there != wanted || of_family(family);
            if *changed {
                *generation = generation.wrapping_add(1);
            }
        }
        if changed.contains(&true) && options.established == Established::Recheck {
            self.layout = Layout::new(ruleset, options, memory)?;
            self.chains = chains(&self.layout);
        }
        Ok(changed)
    }

    /// Returns the sets that must be made.
    pub(super) fn missing(&self) -> impl Iterator<Item = (&Name, &Elements)> {
        self.of(State::Missing)
    }

    /// Returns the sets that must be given other members under the same name.
    pub(super) fn damaged(&self) -> impl Iterator<Item = (&Name, &Elements)> {
        self.of(State::Damaged)
    }

    fn of(&self, wanted: State) -> impl Iterator<Item = (&Name, &Elements)> {
        let sets = self.sets.iter().filter(move |(_, (state, _))| *state == wanted);
        sets.map(|(name, (_, elements))| (name, elements))
    }

    /// Returns how what is there differs.
    pub(super) fn drift(
        &self,
        there: &Observed,
        variant: Variant,
        garbage: &BTreeSet<String>,
    ) -> Vec<Drift> {
        let mut drift = Vec::new();
        for name in self.sets.keys() {
            let other = other_edition(name);
            let is_there = |name: &Name| there.sets.contains_key(name.as_ref());
            let difference = if is_there(name) || is_there(&other) {
                Difference::Changed
            } else {
                Difference::Missing
            };
            drift.push(Drift { object: format!("set {name}"), difference });
        }
        for name in there.sets.keys() {
            let wanted = self.layout.roles.contains_key(name.as_str());
            let replaced = self.sets.contains_key(&other_edition(name));
            if !wanted && !replaced && !garbage.contains(name) && name != SPARE {
                let difference = Difference::Unexpected;
                drift.push(Drift { object: format!("set {name}"), difference });
            }
        }
        for ((family, there), wanted) in FAMILIES.into_iter().zip(&there.chains).zip(&self.chains) {
            let program = format!("{}-{variant}", program_prefix(family));
            drift.extend(there.drift(wanted, &program));
        }
        drift
    }
}

fn chains(layout: &Layout) -> [Chains; 2] {
    let [v4, v6] = &layout.filters;
    [Chains::of(v4), Chains::of(v6)]
}

fn clock(family: Family) -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Eighths of a second: the low bits count.
    let eighths = since.as_millis() / 125;
    let low = u32::try_from(eighths & 0xffff_ffff).unwrap_or_default();
    match family {
        Family::V4 => low,
        Family::V6 => low.wrapping_add(1),
    }
}
