//! How a run ends.

use std::io;
use std::process::ExitCode;

use crate::output::say;

/// The answer a run gave, as its exit code tells it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Outcome {
    /// 0: it holds.
    Holds,
    /// 1: a negative answer: a flow is denied, a manifest is wrong, packets disagree.
    Negative,
    /// 3: it hangs on something unknown, and `--strict` was given; or it could not be tried.
    Uncertain,
}

impl Outcome {
    pub(crate) const fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Uncertain, _) | (_, Self::Uncertain) => Self::Uncertain,
            (Self::Negative, _) | (_, Self::Negative) => Self::Negative,
            (Self::Holds, Self::Holds) => Self::Holds,
        }
    }
}

/// Turns the result of a command into the exit code; an error (2) is told on standard error.
pub(crate) fn report(result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Holds) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::from(1),
        Ok(Outcome::Uncertain) => ExitCode::from(3),
        // Whoever reads our output has seen enough (`netpol … | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("netpol: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Several things that are wrong as one error: a heading and a line each, or the one thing alone.
pub(crate) fn all_wrong(heading: &str, errors: &[String]) -> anyhow::Error {
    match errors {
        [only] => anyhow::Error::msg(only.clone()),
        several => anyhow::Error::msg(format!("{heading}:\n{}", several.join("\n"))),
    }
}
