//! Protocols and the `ports` entries of a NetworkPolicy rule (NP-080..NP-095).

use alloc::sync::Arc;
use core::fmt;
use core::num::NonZeroU16;

use super::{Field, Position};

/// A transport protocol that policy can name (NP-110).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// TCP, the default wherever a protocol may be left out (NP-083, NP-093).
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Every protocol, in the order of the normal form.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Returns the protocol as the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Returns the IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port name: 1–15 of `a-z 0-9 -`, at least one letter, no `-` at an end or doubled (VAL-024).
///
/// INVARIANT (valid name): upheld by [`PortName::try_new`].
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortName(Arc<str>);

/// Why a text is not a port name (VAL-024).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PortNameError {
    /// Empty or over 15 characters.
    #[error("must have 1 to 15 characters")]
    Length,
    /// Other characters than `a-z 0-9 -`.
    #[error("only lower-case letters, digits and `-` are allowed")]
    Characters,
    /// No letter: a quoted number.
    #[error("needs at least one letter; write a number without quotes")]
    NoLetter,
    /// `-` at an end, or twice in a row.
    #[error("`-` must stand between letters or digits, and never twice in a row")]
    Dash,
}

impl PortName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn try_new(text: &str) -> Result<Self, PortNameError> {
        if text.is_empty() || text.len() > 15 {
            return Err(PortNameError::Length);
        }
        if !text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        {
            return Err(PortNameError::Characters);
        }
        if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(PortNameError::NoLetter);
        }
        if text.starts_with('-') || text.ends_with('-') || text.contains("--") {
            return Err(PortNameError::Dash);
        }
        Ok(Self(text.into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `port` of a `ports` entry, with its `endPort`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PolicyPortNumber {
    /// A container port's name, resolved on the destination pod (NP-086..NP-089).
    Name(PortName),
    /// One number.
    Number(NonZeroU16),
    /// `port..=endPort`; equality is a range of one (NP-085). An end below the start matches nothing.
    Range(NonZeroU16, NonZeroU16),
}

/// One entry of `ports` in a NetworkPolicy rule.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PolicyPort {
    /// `protocol`; unset means TCP (NP-083).
    pub protocol: Field<Protocol>,
    /// `port` and `endPort`; unset means every port of the protocol (NP-084).
    pub port: Field<PolicyPortNumber>,
    /// Where it was written.
    pub position: Position,
}

impl PolicyPort {
    /// Returns the entry for one TCP port.
    #[must_use]
    pub fn tcp(port: NonZeroU16) -> Self {
        Self {
            protocol: Field::Given(Protocol::Tcp),
            port: Field::Given(PolicyPortNumber::Number(port)),
            position: Position::default(),
        }
    }
}
