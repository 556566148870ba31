//! Many cases in a row from one seed, and the first failure made small.

use alloc::string::String;
use core::fmt;
use std::env;

use super::{Case, Shape, case, shrink};

/// Cases of consecutive seeds, until enough flows have been judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Campaign {
    /// Of which kind the cases are.
    pub shape: Shape,
    /// The first seed; each case takes the next.
    pub seed: u64,
    /// How many flows to judge at least.
    pub flows: u64,
}

/// What a campaign without failure did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Report {
    /// The first seed.
    pub seed: u64,
    /// Number of clusters.
    pub clusters: u64,
    /// Number of flows on them.
    pub flows: u64,
}

/// The first case that failed, made small.
#[derive(Debug, thiserror::Error)]
#[error(
    "a case of seed {seed} fails (repeat with NETPOL_SEED={seed} NETPOL_FLOWS=1):\n{case}\n{why}"
)]
pub struct Failure {
    /// The seed that made the case before it was shrunk.
    pub seed: u64,
    /// The smallest case that still fails.
    pub case: Case,
    /// What is wrong with it.
    pub why: String,
}

/// A variable of the environment that is not a number.
#[derive(Debug, thiserror::Error)]
#[error("{variable} is `{text}`, not a number")]
pub struct NotANumber {
    variable: &'static str,
    text: String,
}

impl Campaign {
    /// A campaign of so many flows, unless `NETPOL_SEED` and `NETPOL_FLOWS` say otherwise.
    ///
    /// # Errors
    /// Says which variable is not a number.
    pub fn from_env(shape: Shape, flows: u64) -> Result<Self, NotANumber> {
        let number = |variable, default| match env::var(variable) {
            Err(_) => Ok(default),
            Ok(text) => text.parse().map_err(|_| NotANumber { variable, text }),
        };
        Ok(Self { shape, seed: number("NETPOL_SEED", 1)?, flows: number("NETPOL_FLOWS", flows)? })
    }

    /// Runs `check` on case after case; it says what is wrong with a case, if anything is.
    ///
    /// # Errors
    /// Returns the first case that fails, after shrinking it.
    pub fn run(self, check: impl Fn(&Case) -> Option<String>) -> Result<Report, Box<Failure>> {
        let mut report = Report { seed: self.seed, clusters: 0, flows: 0 };
        while report.flows < self.flows {
            let seed = self.seed.wrapping_add(report.clusters);
            let case = case(seed, self.shape);
            if check(&case).is_some() {
                let case = shrink(case, |case| check(case).is_some());
                let why = check(&case).unwrap_or_default();
                return Err(Box::new(Failure { seed, case, why }));
            }
            report.clusters += 1;
            report.flows += u64::try_from(case.flows.len()).unwrap_or(u64::MAX).max(1);
        }
        Ok(report)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, clusters, flows } = self;
        write!(f, "NETPOL_SEED={seed}: {flows} flows on {clusters} clusters")
    }
}
