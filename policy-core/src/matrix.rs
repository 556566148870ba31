//! Who reaches whom, on classes of pods instead of pod × pod.
//!
//! Two endpoints are of one class if the same pipelines judge them and every peer set in use treats them alike; two
//! addresses outside the cluster, if every range in use does. Each cell is found by asking the one evaluator
//! ([`decide`](crate::ir::decide)) at every port where an answer can change.
//!
//! A pod to itself is always allowed (NP-120), a node to its pods too (NP-125), and neither stands in the matrix
//! (OFF-010).
#![expect(
    clippy::exhaustive_structs,
    reason = "reports are read field by field; a new one must reach every reader"
)]

mod allowed;
mod classes;

pub use allowed::Allowed;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hashbrown::HashMap;

use self::classes::{Class, Classes, ExternalClass};
use crate::ir::{Family, PipelineId, Ruleset};
use crate::model::ObjectRef;
use crate::net::PrefixSet;

/// The connections of a ruleset of cluster scope in one address family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Matrix {
    /// The family.
    pub family: Family,
    /// The classes of pods, ordered by their first member.
    pub pods: Vec<Vec<ObjectRef>>,
    /// The classes of addresses outside the cluster, ordered by their first address. Together they are the whole family.
    pub externals: Vec<PrefixSet>,
    /// What may pass from one party to another; a pair that is not here may exchange nothing. From a class to itself:
    /// between two different members.
    pub cells: BTreeMap<(Party, Party), Allowed>,
}

/// A row or column.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "an end is inside the cluster or outside")]
pub enum Party {
    /// Index into [`Matrix::pods`].
    Pods(usize),
    /// Index into [`Matrix::externals`].
    External(usize),
}

impl Matrix {
    /// Computes the matrix.
    #[must_use]
    pub fn new(ruleset: &Ruleset, family: Family) -> Self {
        let classes = Classes::new(ruleset, family);
        let mut sides = Sides { ruleset, known: HashMap::new() };
        let mut cells = BTreeMap::new();
        for (source, from) in classes.pods.iter().enumerate() {
            for (destination, to) in classes.pods.iter().enumerate() {
                let egress = sides.allowed(from.egress, Key::Pods(destination), &to.class);
                let ingress = sides.allowed(to.ingress, Key::Pods(source), &from.class);
                insert(
                    &mut cells,
                    Party::Pods(source),
                    Party::Pods(destination),
                    egress.intersection(&ingress),
                );
            }
            for (external, to) in classes.externals.iter().enumerate() {
                let egress = sides.allowed(from.egress, Key::External(external), &to.class);
                insert(&mut cells, Party::Pods(source), Party::External(external), egress);
                let ingress = sides.allowed(from.ingress, Key::External(external), &to.class);
                insert(&mut cells, Party::External(external), Party::Pods(source), ingress);
            }
        }
        Self {
            family,
            pods: classes.pods.into_iter().map(|class| class.members).collect(),
            externals: classes
                .externals
                .into_iter()
                .map(|class: ExternalClass| class.addresses)
                .collect(),
            cells,
        }
    }

    /// Returns what may pass between two parties.
    #[must_use]
    pub fn allowed(&self, source: Party, destination: Party) -> Allowed {
        self.cells.get(&(source, destination)).cloned().unwrap_or_default()
    }
}

fn insert(
    cells: &mut BTreeMap<(Party, Party), Allowed>,
    source: Party,
    destination: Party,
    allowed: Allowed,
) {
    if !allowed.is_nothing() {
        cells.insert((source, destination), allowed);
    }
}

/// Which class a side is asked about.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
enum Key {
    Pods(usize),
    External(usize),
}

/// What each pipeline lets pass for each class, asked once.
struct Sides<'a> {
    ruleset: &'a Ruleset,
    known: HashMap<(PipelineId, Key), Allowed>,
}

impl Sides<'_> {
    fn allowed(&mut self, pipeline: PipelineId, key: Key, peer: &Class) -> Allowed {
        if let Some(known) = self.known.get(&(pipeline, key)) {
            return known.clone();
        }
        let allowed = self.ruleset.pipeline(pipeline).map_or_else(Allowed::default, |pipeline| {
            Allowed::by(pipeline, self.ruleset.settings(), |set| peer.contains(set))
        });
        self.known.insert((pipeline, key), allowed.clone());
        allowed
    }
}
