//! What atoms would cost, before they are built.

use alloc::vec::Vec;
use core::fmt;

use super::Classes;
use super::steps::Steps;

/// The size of a pipeline's atoms.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "a product and its factors")]
pub struct Cost {
    /// Classes that the pipeline may tell from [`ClassId::NOBODY`](super::ClassId::NOBODY), and that one.
    pub classes: usize,
    /// Pieces that one class may have at most, protocols without ports being one.
    pub pieces_per_class: usize,
    /// Pieces of all classes together.
    pub pieces: usize,
}

/// How large the atoms of one pipeline may get.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "plain input")]
pub struct Bound {
    /// Most pieces of all classes together, in one [`Situation`](crate::ir::Situation).
    pub max_pieces: usize,
}

impl Bound {
    /// No bound.
    pub const NONE: Self = Self { max_pieces: usize::MAX };
}

impl Default for Bound {
    /// A million: what 100 MB of hash map entries hold.
    fn default() -> Self {
        Self { max_pieces: 1_000_000 }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { classes, pieces_per_class, pieces } = self;
        write!(f, "{classes} classes of up to {pieces_per_class} pieces, {pieces} pieces in all")
    }
}

/// Pieces without any rule: one for each protocol with ports, and one for those without.
const PLAIN: usize = 4;

impl Cost {
    /// An upper bound. A port range adds at most two cuts, and only where the rule's set holds the class.
    pub(super) fn estimate(steps: &Steps, classes: &Classes) -> Self {
        let everybody = PLAIN + 2 * steps.ranges_of_everybody();
        let mut touched: Vec<_> = Vec::new();
        let (mut of_sets, mut widest) = (0_usize, everybody);
        for (set, ranges) in steps.ranges_of_sets() {
            let before = touched.len();
            touched.extend(classes.held_by(set));
            of_sets = of_sets.saturating_add(2 * ranges * (touched.len() - before));
            widest = widest.saturating_add(2 * ranges);
        }
        touched.sort_unstable();
        touched.dedup();
        let count = touched.len() + 1;
        let pieces = everybody.saturating_mul(count).saturating_add(of_sets);
        Self {
            classes: count,
            pieces_per_class: widest,
            pieces: pieces.min(widest.saturating_mul(count)),
        }
    }
}
