//! A packet whose way takes longer than a change of the table: a model of what the kernel shows it.
//!
//! Of each chain the kernel keeps two editions, and every transaction that comes into force makes the other one the current
//! one. A packet goes by the edition that was current when it began, in every chain that it enters. A transaction first writes
//! the edition that is not current, into every chain that it or the one before it changed, and then comes into force; sets
//! and maps change with that. A chain that is deleted is emptied first, as is a map; the members of a set outlive it.

#![expect(clippy::indexing_slicing, reason = "test support")]

use core::cell::Cell;
use core::hash::{Hash as _, Hasher as _};
use std::hash::DefaultHasher;

use netpol_core::ir::{self, Flow};

use super::{Ending, Packet, Way, walk};
use crate::script::{Chain, Elements, Hook, Stamp, Table, Targets};

/// What became of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Met {
    pub(crate) verdict: ir::Verdict,
    /// The generation that its connection got.
    pub(crate) stamp: Option<Stamp>,
}

/// When a packet is where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    /// The version in force when it began.
    pub(crate) began: usize,
    /// How much of its way it went then: look-ups and chains.
    pub(crate) halts: usize,
    /// Another version in force then, and until how much of its way.
    pub(crate) via: Option<(usize, usize)>,
    /// The version in force for the rest of its way.
    pub(crate) ends: usize,
    /// Whether the version behind that one is being written, and if so to which chains it was: any, to all for zero.
    pub(crate) ahead: Option<u64>,
    /// Whether what holds ranges has not been filled yet that came with that one.
    pub(crate) is_late: bool,
}

struct Across<'a> {
    versions: &'a [Table],
    course: Course,
    passed: Cell<usize>,
    stamp: Cell<Option<Stamp>>,
    empty: Elements,
}

/// Sends a packet along chains. Returns what became of it, and how long its way was.
pub(crate) fn send(versions: &[Table], hook: Hook, flow: &Flow, course: Course) -> (Met, usize) {
    let (passed, stamp) = (Cell::new(0), Cell::new(None));
    let way = Across { versions, course, passed, stamp, empty: Elements::Protocols(Vec::new()) };
    let packet = Packet::from(flow);
    let mut verdict = ir::Verdict::Allow;
    for chain in versions[course.began].chains.values().filter(|chain| chain.hook == Some(hook)) {
        if matches!(walk(&way, chain, &packet), Some(Ending::Drop)) {
            verdict = ir::Verdict::Deny;
            break;
        }
    }
    (Met { verdict, stamp: way.stamp.get() }, way.passed.get())
}

impl Across<'_> {
    /// Takes one step and returns the version in force.
    fn now(&self) -> usize {
        let passed = self.passed.get();
        self.passed.set(passed + 1);
        match self.course.via {
            _ if passed < self.course.halts => self.course.began,
            Some((version, until)) if passed < until => version,
            Some(_) | None => self.course.ends,
        }
    }

    fn is_written(&self, name: &str) -> bool {
        let is_chosen = |seed: u64| {
            let mut hasher = DefaultHasher::new();
            (seed, name).hash(&mut hasher);
            hasher.finish().is_multiple_of(2)
        };
        self.course.ahead.is_some_and(|seed| seed == 0 || is_chosen(seed))
    }

    const fn is_late(&self, now: usize) -> bool {
        self.course.is_late && now > 0 && now == self.course.ends
    }
}

impl Way for Across<'_> {
    fn chain(&self, name: &str) -> Option<&Chain> {
        let now = self.now();
        let is_of_its_edition = |version: usize| (version - self.course.began).is_multiple_of(2);
        let written = match now + 1 {
            next if now == self.course.ends
                && self.is_written(name)
                && next < self.versions.len()
                && is_of_its_edition(next) =>
            {
                next
            }
            _ if is_of_its_edition(now) => now,
            _ => now - 1,
        };
        self.versions[written].chains.get(name)
    }

    fn map(&self, name: &str) -> Option<&Targets> {
        let now = self.now();
        let map = self.versions[now].maps.get(name)?;
        let was_there = now > 0 && self.versions[now - 1].maps.contains_key(name);
        let is_empty = map.is_interval() && !was_there && self.is_late(now);
        (!is_empty).then_some(map)
    }

    fn set(&self, name: &str) -> Option<&Elements> {
        let now = self.now();
        let set = self.versions[..=now].iter().rev().find_map(|table| table.sets.get(name))?;
        let was_there = now > 0 && self.versions[now - 1].sets.contains_key(name);
        let is_empty = set.is_interval() && !was_there && self.is_late(now);
        Some(if is_empty { &self.empty } else { set })
    }

    fn marks(&self, stamp: Stamp) {
        self.stamp.set(Some(stamp));
    }
}
