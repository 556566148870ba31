//! Colours.

use core::fmt;

use netpol_core::ir::Verdict;

/// Whether and how to colour.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colored: bool,
}

impl Style {
    /// Without colours.
    #[must_use]
    pub const fn plain() -> Self {
        Self { colored: false }
    }

    /// With colours, as a terminal shows them.
    #[must_use]
    pub const fn colored() -> Self {
        Self { colored: true }
    }

    fn paint(self, code: &str, text: impl fmt::Display) -> String {
        if self.colored { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Writes a verdict, padded to the longer of the two.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> String {
        match verdict {
            Verdict::Allow => self.paint("32", "allow"),
            Verdict::Deny => self.paint("31", "deny "),
        }
    }

    /// Paints what is allowed.
    #[must_use]
    pub fn good(self, text: impl fmt::Display) -> String {
        self.paint("32", text)
    }

    /// Paints what is denied.
    #[must_use]
    pub fn bad(self, text: impl fmt::Display) -> String {
        self.paint("31", text)
    }

    /// Paints a warning.
    #[must_use]
    pub fn warning(self, text: impl fmt::Display) -> String {
        self.paint("33", text)
    }

    /// Paints what matters.
    #[must_use]
    pub fn strong(self, text: impl fmt::Display) -> String {
        self.paint("1", text)
    }

    /// Paints what is aside.
    #[must_use]
    pub fn faint(self, text: impl fmt::Display) -> String {
        self.paint("2", text)
    }
}
