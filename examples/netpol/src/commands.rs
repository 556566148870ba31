//! One file for each subcommand.

mod check;
mod compile;
mod explain;
mod lab;
mod lower;
mod matrix;
mod verdict;

use crate::cli::{Cli, Command};
use crate::outcome::Outcome;
use crate::output::{self, Style};

/// What every command gets from the options before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) style: Style,
    pub(crate) quiet: bool,
}

pub(crate) fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    let session = Session { style: output::style(cli.color), quiet: cli.quiet };
    match &cli.command {
        Command::Verdict(args) => verdict::run(session, args),
        Command::Explain(args) => explain::run(session, args),
        Command::Matrix(args) => matrix::run(session, args),
        Command::Lab(args) => lab::run(session, args),
        Command::Lower(args) => lower::run(session, args),
        Command::Check(args) => check::run(session, args),
        Command::Compile(args) => compile::run(session, args),
    }
}
