//! Who reaches whom, on classes of pods instead of pod × pod.
//!
//! Two endpoints are of one class if the same pipelines judge them and every peer set in use treats them alike; two
//! addresses outside the cluster, if every range in use does. The classes are those of
//! [`atoms`](crate::atoms), and each cell is what their pieces let pass.
//!
//! A pod to itself is always allowed (NP-120), a node to its pods too (NP-125), and neither stands in the matrix
//! (OFF-010).
#![expect(
    clippy::exhaustive_structs,
    reason = "reports are read field by field; a new one must reach every reader"
)]

mod classes;

pub use crate::atoms::Allowed;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

use crate::atoms::{Atoms, ClassId, Classes, Verdicts};
use crate::ir::{Family, PipelineId, Ruleset, Situation};
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
        let classes = Classes::of_ruleset(ruleset);
        let pods = classes::pods(ruleset, &classes, family);
        let externals = classes::externals(&classes, family);
        let mut sides = Sides { ruleset, classes: &classes, known: HashMap::new() };
        let mut cells = BTreeMap::new();
        for (source, from) in pods.iter().enumerate() {
            for (destination, to) in pods.iter().enumerate() {
                let egress = sides.allowed(from.egress, to.class);
                let ingress = sides.allowed(to.ingress, from.class);
                insert(
                    &mut cells,
                    Party::Pods(source),
                    Party::Pods(destination),
                    egress.intersection(&ingress),
                );
            }
            for (external, to) in externals.iter().enumerate() {
                let (pods, external) = (Party::Pods(source), Party::External(external));
                let egress = sides.allowed(from.egress, to.class);
                insert(&mut cells, pods, external, Allowed::clone(&egress));
                let ingress = sides.allowed(from.ingress, to.class);
                insert(&mut cells, external, pods, Allowed::clone(&ingress));
            }
        }
        Self {
            family,
            pods: pods.into_iter().map(|class| class.members).collect(),
            externals: externals.into_iter().map(|class| class.addresses).collect(),
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

/// What each pipeline lets pass for each class, folded once.
struct Sides<'a> {
    ruleset: &'a Ruleset,
    classes: &'a Classes,
    known: HashMap<PipelineId, Verdicts>,
}

impl Sides<'_> {
    fn allowed(&mut self, pipeline: PipelineId, peer: ClassId) -> Arc<Allowed> {
        let Self { ruleset, classes, known } = self;
        if let Some(verdicts) = known.get(&pipeline) {
            return verdicts.allowed(peer).clone();
        }
        // INVARIANT (closed references) says that the pipeline is there; without it nothing passes.
        let Some(content) = ruleset.pipeline(pipeline) else { return Arc::default() };
        let atoms = Atoms::unbounded(content, ruleset.settings(), classes);
        let verdicts = atoms.without_origin(Situation::Ordinary);
        let allowed = verdicts.allowed(peer).clone();
        known.insert(pipeline, verdicts);
        allowed
    }
}
