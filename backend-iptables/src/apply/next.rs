//! The program that comes after the one in force, with other rules.

use alloc::collections::BTreeMap;

use netpol_core::backend::LowerError;
use netpol_core::ir::{Family, Ruleset};

use super::held::{Fill, Held};
use crate::Iptables;
use crate::lower::role::Role;
use crate::lower::{Layout, Memory, check_capacity};
use crate::restore::{Elements, Name, other_edition};

/// What must be made before the rules are switched, and what is in force then.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) layout: Layout,
    /// In which families rules change.
    pub(super) changed: [bool; 2],
    /// Sets that are not there yet. Those that are there hold what they should.
    pub(super) made: BTreeMap<Name, Elements>,
    pub(super) fills: BTreeMap<Name, Fill>,
}

impl Next {
    pub(super) fn new(
        options: &Iptables,
        held: &Held,
        ruleset: &Ruleset,
        memory: Memory,
    ) -> Result<Self, LowerError> {
        let before = memory.generations;
        let next = Memory { generations: before.map(|number| number.wrapping_add(1)), ..memory };
        let mut layout = Layout::after(Some(&held.layout), ruleset, options, next)?;
        let is_there = |first: &Name| layout.roles.contains_key(&other_edition(first));
        layout.memory.second.retain(is_there);
        let mut changed = [false; 2];
        let families = held.layout.filters.iter().zip(&mut layout.filters).zip(&mut changed);
        let generations = layout.memory.generations.iter_mut().zip(before);
        for (((old, new), changed), (generation, before)) in families.zip(generations) {
            *changed = !old.is_alike(new);
            if !*changed {
                *generation = before;
                new.clone_from(old);
            }
        }
        let mut made = BTreeMap::new();
        let mut fills = BTreeMap::new();
        for (name, (family, role)) in &layout.roles {
            let [v4, v6] = changed;
            let settles = *role == Role::Unsettled && if *family == Family::V4 { v4 } else { v6 };
            if let Some(fill) = held.fills.get(name) {
                // New rules settle everything.
                let members = if settles { 0 } else { fill.members };
                fills.insert(name.clone(), Fill { members, ..*fill });
            } else {
                let elements = role.elements(ruleset, *family);
                check_capacity(name, elements.len())?;
                fills.insert(name.clone(), Fill::of(&elements));
                made.insert(name.clone(), elements);
            }
        }
        Ok(Self { layout, changed, made, fills })
    }
}
