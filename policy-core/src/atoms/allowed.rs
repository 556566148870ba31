//! What may pass on one side, as a set.

use core::fmt;

use crate::ir::Transport;
use crate::net::PortSet;

/// A set of traffic: ports, and everything without ports.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "traffic has ports or has none")]
pub struct Allowed {
    /// The destination ports.
    pub ports: PortSet,
    /// Protocols without ports: they are judged alike, all or none (DEC-02).
    pub others: bool,
}

impl Allowed {
    /// Returns whether everything may pass.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.others && self.ports.is_all()
    }

    /// Returns whether nothing may pass.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        !self.others && self.ports.is_empty()
    }

    /// Returns what both let pass.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self { ports: self.ports.intersection(&other.ports), others: self.others && other.others }
    }

    /// Returns whether traffic of this kind may pass.
    #[must_use]
    pub fn contains(&self, transport: Transport) -> bool {
        match transport {
            Transport::Port(protocol, port) => self.ports.contains(protocol, port),
            Transport::Other(_) => self.others,
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_everything(), self.others) {
            (true, _) => f.write_str("all"),
            (false, true) => write!(f, "{} and protocols without ports", self.ports),
            (false, false) => fmt::Display::fmt(&self.ports, f),
        }
    }
}
