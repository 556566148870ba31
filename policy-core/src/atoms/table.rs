//! The atoms of one pipeline.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::{HashMap, HashSet};

use super::cost::{Bound, Cost};
use super::ordered_list::Fallback;
use super::pieces::Pieces;
use super::steps::Steps;
use super::{Allowed, ClassId, Classes};
use crate::ir::{Pipeline, Settings, Situation};

/// For every class and situation the final decision on all traffic, as disjoint pieces.
///
/// Classes that the pipeline cannot tell apart share their pieces. Most classes are held by none of the pipeline's sets:
/// they have the pieces of [`ClassId::NOBODY`], the default, and no row.
#[derive(Clone, Debug)]
pub struct Atoms {
    steps: Steps,
    default: Arc<Judged>,
    /// By the class; those that some set of the pipeline holds.
    rows: BTreeMap<ClassId, Arc<Judged>>,
    /// By the sets of the pipeline that hold the class. Look-up only, never iterated, so that order cannot leak.
    known: HashMap<Arc<[u32]>, Arc<Judged>>,
}

/// What classes have in common that the same sets of a pipeline hold. Pieces equal to the default's are the default's.
#[derive(Debug)]
struct Judged {
    /// Those sets, by their place among the pipeline's.
    sets: Arc<[u32]>,
    ordinary: Arc<Pieces>,
    hairpin: Arc<Pieces>,
    own_node: Arc<Pieces>,
}

impl Judged {
    fn new(steps: &Steps, sets: &[u32]) -> Self {
        let of_members = steps.of_members(sets);
        let ordinary = Arc::new(steps.fold(&of_members, Situation::Ordinary));
        let pieces = |situation| {
            let pieces = steps.fold(&of_members, situation);
            if pieces == *ordinary { ordinary.clone() } else { Arc::new(pieces) }
        };
        let (hairpin, own_node) = (pieces(Situation::Hairpin), pieces(Situation::OwnNode));
        Self { sets: sets.into(), ordinary, hairpin, own_node }
    }

    fn sharing(mut self, default: &Self) -> Self {
        let Self { sets: _, ordinary, hairpin, own_node } = &mut self;
        for (pieces, of_default) in [
            (ordinary, &default.ordinary),
            (hairpin, &default.hairpin),
            (own_node, &default.own_node),
        ] {
            if pieces == of_default {
                *pieces = of_default.clone();
            }
        }
        self
    }

    const fn of(&self, situation: Situation) -> &Arc<Pieces> {
        match situation {
            Situation::Ordinary => &self.ordinary,
            Situation::Hairpin => &self.hairpin,
            Situation::OwnNode => &self.own_node,
        }
    }
}

impl Atoms {
    /// Estimates what the atoms of a pipeline cost, from above and without building them.
    #[must_use]
    pub fn estimate(pipeline: &Pipeline, settings: Settings, classes: &Classes) -> Cost {
        Cost::estimate(&Steps::new(pipeline, settings), classes)
    }

    /// Folds a pipeline whose peer sets are all among those of `classes`.
    ///
    /// # Errors
    /// If the estimate exceeds the bound: the same pipeline as ordered lists, and the numbers.
    pub fn new(
        pipeline: &Pipeline,
        settings: Settings,
        classes: &Classes,
        bound: Bound,
    ) -> Result<Self, Box<Fallback>> {
        let steps = Steps::new(pipeline, settings);
        let cost = Cost::estimate(&steps, classes);
        if cost.pieces > bound.max_pieces {
            return Err(Box::new(Fallback::new(pipeline, settings, cost, bound)));
        }
        Ok(Self::folded(steps, classes))
    }

    /// Folds a pipeline, whatever it costs.
    #[must_use]
    pub fn unbounded(pipeline: &Pipeline, settings: Settings, classes: &Classes) -> Self {
        Self::folded(Steps::new(pipeline, settings), classes)
    }

    fn folded(steps: Steps, classes: &Classes) -> Self {
        let default = Arc::new(Judged::new(&steps, &[]));
        let mut held: Vec<(ClassId, u32)> = Vec::new();
        for (place, set) in (0_u32..).zip(steps.sets()) {
            held.extend(classes.held_by(set).map(|class| (class, place)));
        }
        held.sort_unstable();
        let mut atoms = Self { steps, default, rows: BTreeMap::new(), known: HashMap::new() };
        let mut sets = Vec::new();
        for of_class in held.chunk_by(|(one, _), (other, _)| one == other) {
            sets.clear();
            sets.extend(of_class.iter().map(|(_, place)| *place));
            if let Some((class, _)) = of_class.first() {
                atoms.put(*class, &sets);
            }
        }
        atoms
    }

    fn put(&mut self, class: ClassId, sets: &[u32]) {
        let judged = match self.known.get(sets) {
            Some(judged) => judged.clone(),
            None => {
                let judged = Arc::new(Judged::new(&self.steps, sets).sharing(&self.default));
                self.known.insert(judged.sets.clone(), judged.clone());
                judged
            }
        };
        self.rows.insert(class, judged);
    }

    /// Takes in a class that was born ([`Change::born`](super::Change::born)).
    pub fn admit(&mut self, class: ClassId, classes: &Classes) {
        let sets: Vec<u32> = (0_u32..)
            .zip(self.steps.sets())
            .filter(|(_, set)| classes.holds(*set, class))
            .map(|(place, _)| place)
            .collect();
        self.dismiss(class);
        if !sets.is_empty() {
            self.put(class, &sets);
        }
    }

    /// Forgets a class that died ([`Change::died`](super::Change::died)).
    pub fn dismiss(&mut self, class: ClassId) {
        let Some(judged) = self.rows.remove(&class) else { return };
        // Two are left when no other row shares it: this one and the one in `known`.
        if Arc::strong_count(&judged) == 2 {
            self.known.remove(&judged.sets);
        }
    }

    /// Returns the pieces of a class.
    #[must_use]
    pub fn pieces(&self, class: ClassId, situation: Situation) -> &Arc<Pieces> {
        self.rows.get(&class).unwrap_or(&self.default).of(situation)
    }

    /// Returns the pieces of every class without a row.
    #[must_use]
    pub fn default_pieces(&self, situation: Situation) -> &Arc<Pieces> {
        self.default.of(situation)
    }

    /// Returns the classes whose pieces are not the default ones, ascending.
    pub fn rows(&self, situation: Situation) -> impl Iterator<Item = (ClassId, &Arc<Pieces>)> {
        self.rows
            .iter()
            .map(move |(class, judged)| (*class, judged.of(situation)))
            .filter(move |(_, pieces)| !Arc::ptr_eq(pieces, self.default.of(situation)))
    }

    /// Returns what the atoms really cost in a situation: rows and the default.
    #[must_use]
    pub fn cost(&self, situation: Situation) -> Cost {
        let mut cost = Cost::default();
        let rows = self.rows(situation).map(|(_, pieces)| pieces);
        for pieces in rows.chain([self.default_pieces(situation)]) {
            cost.classes += 1;
            cost.pieces_per_class = cost.pieces_per_class.max(pieces.len());
            cost.pieces += pieces.len();
        }
        cost
    }

    /// Returns the coarser form that only says what may pass. Equal answers are one value.
    #[must_use]
    pub fn without_origin(&self, situation: Situation) -> Verdicts {
        let mut coarse: HashMap<*const Pieces, Arc<Allowed>> = HashMap::new();
        let mut distinct: HashSet<Arc<Allowed>> = HashSet::new();
        let mut allowed = |pieces: &Arc<Pieces>| {
            let make = || distinct.get_or_insert(Arc::new(pieces.without_origin())).clone();
            coarse.entry(Arc::as_ptr(pieces)).or_insert_with(make).clone()
        };
        let default = allowed(self.default_pieces(situation));
        let rows = self.rows(situation).map(|(class, pieces)| (class, allowed(pieces)));
        let rows = rows.filter(|(_, allowed)| *allowed != default).collect();
        Verdicts { default, rows }
    }
}

/// For every class what may pass in one situation, whatever lets it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdicts {
    default: Arc<Allowed>,
    rows: BTreeMap<ClassId, Arc<Allowed>>,
}

impl Verdicts {
    /// Returns what may pass for a class.
    #[must_use]
    pub fn allowed(&self, class: ClassId) -> &Arc<Allowed> {
        self.rows.get(&class).unwrap_or(&self.default)
    }

    /// Returns what may pass for every class without a row.
    #[must_use]
    pub const fn default_allowed(&self) -> &Arc<Allowed> {
        &self.default
    }

    /// Returns the classes whose answer is not the default one, ascending.
    #[must_use]
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (ClassId, &Arc<Allowed>)> {
        self.rows.iter().map(|(class, allowed)| (*class, allowed))
    }
}
