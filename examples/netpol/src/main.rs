//! The `netpol` command: what do these manifests allow, why, and does a real kernel agree?
//!
//! Each subcommand is one file under `commands`; what they answer goes to standard output, everything about the way
//! there (warnings, progress, errors) to standard error. `outcome` holds the exit codes.

extern crate alloc;

mod cli;
mod commands;
mod evaluate;
mod input;
mod outcome;
mod output;
mod resolve;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let mut cli = cli::Cli::parse();
    cli.sort_out();
    outcome::report(commands::run(&cli))
}
