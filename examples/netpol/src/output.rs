//! How answers look: colour, and which stream is for what.

pub(crate) mod progress;
pub(crate) mod table;

use core::fmt;
use std::io::{self, IsTerminal as _, Write as _};

pub(crate) use netpol_text::Style;

use crate::cli::Color;

/// Says something about the run on standard error. Nobody listening there is no reason to stop.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Follows `--color`; `auto` colours a terminal, unless `NO_COLOR` is set.
pub(crate) fn style(color: Color) -> Style {
    let is_colored = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            !refused && io::stdout().is_terminal()
        }
    };
    if is_colored { Style::colored() } else { Style::plain() }
}
