//! What a policy says of a class, in 64 bits.

use netpol_core::ir::Verdict;
use netpol_core::model::Protocol;

/// The number of a port list, from 1.
pub type PortsId = u32;

/// The number of a counter.
pub type CounterId = u32;

/// Port lists are fewer than this.
pub(crate) const MAX_LISTS: usize = 1 << 20;

const COUNTER: u64 = (1 << 21) - 1;

/// Counters are fewer than this.
pub(crate) const MAX_COUNTERS: usize = 1 << 21;

/// What a policy says of one class of addresses.
///
/// ```text
///   bits 0..=15    bit 16 - n: the port list has rows whose prefix is n bits long
///   bit  16        protocols without ports pass
///   bits 17..=19   TCP, UDP, SCTP: ports without a row pass
///   bits 20..=22   TCP, UDP, SCTP: the port list has rows
///   bits 23..=43   the first counter: of protocols without ports, then of TCP's, UDP's and SCTP's ports without a row,
///                  then of each row
///   bits 44..=63   the number of the port list
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Word(u64);

const fn place(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

impl Word {
    /// Nothing passes.
    pub const NOTHING: Self = Self(0);
    /// Everything passes.
    pub const EVERYTHING: Self = Self(0b1111 << 16);

    /// Returns the bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Lets protocols without ports pass.
    pub(crate) const fn with_others(self) -> Self {
        Self(self.0 | 1 << 16)
    }

    /// Lets the ports of a protocol pass that have no row.
    pub(crate) const fn with_default(self, protocol: Protocol) -> Self {
        Self(self.0 | 1 << (17 + place(protocol)))
    }

    /// Says that the port list has rows for a protocol, with prefixes of this length.
    pub(crate) const fn with_rows(self, protocol: Protocol, prefix: u8) -> Self {
        Self(self.0 | 1 << (20 + place(protocol)) | (1 << 16) >> prefix)
    }

    /// Names the port list.
    pub(crate) const fn with_ports(self, ports: PortsId) -> Self {
        Self(self.0 | (ports as u64) << 44)
    }

    /// Says where what it decides is counted.
    pub(crate) const fn with_counter(self, counter: CounterId) -> Self {
        Self(self.bare().0 | (counter as u64 & COUNTER) << 23)
    }

    /// Returns the word without its counter: what passes.
    pub(crate) const fn bare(self) -> Self {
        Self(self.0 & !(COUNTER << 23))
    }

    /// Returns the first counter.
    #[must_use]
    pub const fn counter(self) -> CounterId {
        (self.0 >> 23 & COUNTER) as CounterId
    }

    /// Returns what happens to protocols without ports.
    #[must_use]
    pub const fn others(self) -> Verdict {
        verdict(self.0 >> 16 & 1 == 1)
    }

    /// Returns what happens to the ports of a protocol that have no row.
    #[must_use]
    pub const fn default(self, protocol: Protocol) -> Verdict {
        verdict(self.0 >> (17 + place(protocol)) & 1 == 1)
    }

    /// Returns whether ports of a protocol have rows.
    #[must_use]
    pub const fn has_rows(self, protocol: Protocol) -> bool {
        self.0 >> (20 + place(protocol)) & 1 == 1
    }

    /// Returns the lengths of the prefixes that the port list has rows of, longest first.
    pub fn prefixes(self) -> impl Iterator<Item = u8> {
        (0..16).filter(move |bit| self.0 >> bit & 1 == 1).map(|bit| 16 - bit)
    }

    /// Returns the number of the port list; 0 for none.
    #[must_use]
    pub const fn ports(self) -> PortsId {
        (self.0 >> 44) as PortsId
    }
}

const fn verdict(allow: bool) -> Verdict {
    if allow { Verdict::Allow } else { Verdict::Deny }
}
