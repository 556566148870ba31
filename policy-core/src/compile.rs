//! Objects to [`Ruleset`]: selectors become addresses, names become ports, defaults become explicit.
//!
//! `compile` never fails. What is odd in one object fails closed there and then, alone, and is told as a [`Diagnostic`]
//! (DEC-16).

mod diagnostic;

pub use diagnostic::{Diagnostic, Effect};

use alloc::vec::Vec;

use crate::ir::{Ruleset, Scope, Settings};

/// What to compile for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a new choice must reach every embedder")]
pub struct Options {
    /// Whose pods are policed.
    pub scope: Scope,
    /// Choices of the embedder.
    pub settings: Settings,
}

/// The result of [`compile`].
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "two parts, and there will be no third")]
pub struct Compiled {
    /// What must be enforced.
    pub ruleset: Ruleset,
    /// What was odd, and what each oddity does to traffic; sorted.
    pub diagnostics: Vec<Diagnostic>,
}

/// Compiles a snapshot of the cluster.
#[must_use]
pub fn compile(_cluster: &crate::model::Cluster, options: &Options) -> Compiled {
    let parts = crate::ir::Parts { scope: options.scope.clone(), settings: options.settings, ..Default::default() };
    Compiled { ruleset: Ruleset::new(parts), diagnostics: Vec::new() }
}
