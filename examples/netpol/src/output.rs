//! How answers look: colour, and which stream is for what.

pub(crate) mod progress;
pub(crate) mod table;

use core::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use netpol_core::ir::Verdict;

use crate::cli::Color;

/// Says something about the run on standard error. Nobody listening there is no reason to stop.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether and how to colour standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colored: bool,
}

impl Style {
    /// Follows `--color`; `auto` colours a terminal, unless `NO_COLOR` is set.
    pub(crate) fn new(color: Color) -> Self {
        let colored = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                !refused && io::stdout().is_terminal()
            }
        };
        Self { colored }
    }

    fn paint(self, code: &str, text: impl fmt::Display) -> String {
        if self.colored { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Writes a verdict, padded to the longer of the two.
    pub(crate) fn verdict(self, verdict: Verdict) -> String {
        match verdict {
            Verdict::Allow => self.paint("32", "allow"),
            Verdict::Deny => self.paint("31", "deny "),
        }
    }

    pub(crate) fn good(self, text: impl fmt::Display) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bad(self, text: impl fmt::Display) -> String {
        self.paint("31", text)
    }

    pub(crate) fn warning(self, text: impl fmt::Display) -> String {
        self.paint("33", text)
    }

    pub(crate) fn strong(self, text: impl fmt::Display) -> String {
        self.paint("1", text)
    }

    pub(crate) fn faint(self, text: impl fmt::Display) -> String {
        self.paint("2", text)
    }
}
