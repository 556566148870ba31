//! Disjoint decision atoms, for backends that look up instead of scanning.
//!
//! ```text
//!   peer sets ──▶ Classes:  address ──▶ class            (exact addresses first, then ranges)
//!   pipeline  ──▶ Atoms:    class × protocol × port ──▶ decision and origin, or a Fallback list
//! ```
//!
//! [`Classes`] partitions all addresses by the peer sets in use that hold them: what no rule can tell apart is one class,
//! whatever its labels. [`Atoms`] folds a pipeline for each class: except, overlap, tiers, Pass, union and default are
//! done with, and what is left is disjoint. Both are exact, and proven against [`decide`](crate::ir::decide).

mod allowed;
mod canvas;
mod change;
mod classes;
mod cost;
mod interner;
mod ordered_list;
mod pieces;
mod ranges;
mod refinement;
mod steps;
mod table;

pub use allowed::Allowed;
pub use change::{Change, Listed, MovedAddress, MovedRange, UnknownSet};
pub use classes::{ClassId, Classes};
pub use cost::{Bound, Cost};
pub use ordered_list::{Entry, Fallback, OrderedList, Then};
pub use pieces::{Piece, Pieces};
pub use table::{Atoms, Verdicts};

#[cfg(test)]
mod tests;
