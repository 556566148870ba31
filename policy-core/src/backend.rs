//! The seam: what a technology implements to enforce a [`Ruleset`].

mod report;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::error::Error;
use core::fmt::{Debug, Display};

pub use self::report::{Cause, Counter, Denial, Denials, Difference, Drift};
use crate::engine::Delta;
use crate::ir::{Flow, Ruleset, Verdict};

/// A technology that rulesets lower to. Pure: no kernel, no files.
pub trait Backend {
    /// The lowered output.
    type Program: Program;

    /// Lowers the whole ruleset, exactly or not at all.
    ///
    /// # Errors
    /// Names what does not fit, with numbers. No rule is ever dropped or approximated.
    fn lower(&self, ruleset: &Ruleset) -> Result<Self::Program, LowerError>;
}

/// Lowered output. `Display` is the text that the target's own tool would show or load.
pub trait Program: Debug + Display {
    /// Judges a flow as the target would, by a model of how the target evaluates.
    ///
    /// Says nothing of what the target takes care of itself: replies, related errors, neighbour discovery.
    fn verdict(&self, flow: &Flow) -> Verdict;
}

/// The kernel's side of a backend, in the network namespace of the thread that calls it. Synchronous and object-safe.
///
/// Keep the value: what some backends put into the kernel lasts only as long as it does, unless they are told to pin it.
pub trait Dataplane: Debug {
    /// Makes it so, from whatever state is there: empty, ours, an older version of ours, damaged.
    ///
    /// # Errors
    /// The previous ruleset stays in force; the error names our object and carries the cause.
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError>;

    /// Makes it so after one change: `delta` leads from the ruleset of the last call to `ruleset`.
    ///
    /// A backend that cannot apply deltas syncs, and says so; the result is the same, the cost is not.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    fn update(&mut self, ruleset: &Ruleset, delta: &Delta) -> Result<Updated, SyncError> {
        let _ = delta;
        self.sync(ruleset).map(|()| Updated::BySync)
    }

    /// Compares what is there with what `ruleset` asks for, without touching it. Empty: it holds.
    ///
    /// # Errors
    /// What is there cannot be read, or the backend does not offer it.
    fn verify(&mut self, ruleset: &Ruleset) -> Result<Vec<Drift>, SyncError> {
        let _ = ruleset;
        Err(not_offered("comparing what is enforced with what should be"))
    }

    /// Returns whether somebody else may have changed what is ours since the last call that looked at it or wrote it.
    /// Asks the kernel for nothing but what it told by itself, so that it can be called often.
    ///
    /// # Errors
    /// The kernel cannot be heard.
    fn may_have_drifted(&mut self) -> Result<bool, SyncError> {
        Ok(true)
    }

    /// Returns what was counted, for every rule in force that can decide: packets that were judged, which are those of
    /// new connections and, after a change, the next ones of open connections. What is replaced counts from zero again.
    ///
    /// # Errors
    /// The counters cannot be read, or the backend does not count.
    fn counters(&mut self) -> Result<Vec<Counter>, SyncError> {
        Err(not_offered("counting"))
    }

    /// Returns the denied flows that were reported since the last call. The kernel reports at a limited rate.
    ///
    /// # Errors
    /// The reports cannot be read, or the backend makes none.
    fn denials(&mut self) -> Result<Denials, SyncError> {
        Err(not_offered("reporting denied flows"))
    }

    /// Returns how many atoms the ruleset in force became: disjoint decisions by class of addresses, protocol and ports.
    /// `None` where the backend has rules instead. Asks the kernel nothing.
    fn atoms(&self) -> Option<usize> {
        None
    }

    /// Takes everything of ours back out. Idempotent.
    ///
    /// # Errors
    /// Says what could not be removed.
    fn remove(&mut self) -> Result<(), SyncError>;
}

fn not_offered(what: &str) -> SyncError {
    SyncError::Missing { what: what.into(), hint: "this backend does not offer it".into() }
}

/// What becomes of open connections that a later ruleset denies (NP-162, DEC-09).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third")]
pub enum Established {
    /// They stay open.
    Keep,
    /// Their next packet is the last, whichever way it goes.
    #[default]
    Recheck,
}

/// How an update was carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a dataplane applies deltas or it does not")]
pub enum Updated {
    /// The delta alone was applied.
    ByDelta,
    /// The whole ruleset was synced, since this backend does not apply deltas.
    BySync,
}

/// Why a ruleset cannot be lowered.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// The target has room for less.
    #[error("{object} needs {needed} {unit}, but the target has room for {limit}")]
    CapacityExceeded {
        /// Which of our objects.
        object: String,
        /// How much it needs.
        needed: usize,
        /// How much there is room for.
        limit: usize,
        /// What is counted.
        unit: &'static str,
    },
    /// The target cannot express something.
    #[error("{object}: the target cannot express {what}")]
    Unsupported {
        /// Which of our objects.
        object: String,
        /// What it asks for.
        what: &'static str,
    },
}

/// Why a change was not applied. The previous ruleset is in force.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The ruleset does not lower.
    #[error("the ruleset cannot be lowered")]
    Lower(#[from] LowerError),
    /// Something the target needs is not there: a kernel feature, a privilege, a program.
    #[error("{what} is missing: {hint}")]
    Missing {
        /// What.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The target refused a change.
    #[error("the kernel refused {object}")]
    Refused {
        /// Which of our objects.
        object: String,
        /// What it said.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl SyncError {
    /// The target refused `object`, with the cause.
    #[must_use]
    pub fn refused(
        object: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Refused { object: object.into(), source: Arc::from(source.into()) }
    }
}
