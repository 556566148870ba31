//! Sets of ports per transport protocol.

use alloc::vec::Vec;
use core::fmt;

use super::Intervals;
use crate::model::Protocol;

/// A set of (protocol, port) pairs. Ports are 0 to 65535 in host order: "every port of a protocol" includes 0, which a
/// packet can carry although no object can name it.
///
/// It never holds traffic without ports (ICMP and the like): that is `Ports::Any`'s privilege (DEC-02).
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortSet {
    tcp: Intervals<u16>,
    udp: Intervals<u16>,
    sctp: Intervals<u16>,
}

impl PortSet {
    /// Every port of every protocol.
    #[must_use]
    pub fn all() -> Self {
        Self { tcp: Intervals::all(), udp: Intervals::all(), sctp: Intervals::all() }
    }

    /// The union of ranges, both ends included.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = (Protocol, u16, u16)>) -> Self {
        let (mut tcp, mut udp, mut sctp) = (Vec::new(), Vec::new(), Vec::new());
        for (protocol, low, high) in ranges {
            match protocol {
                Protocol::Tcp => tcp.push((low, high)),
                Protocol::Udp => udp.push((low, high)),
                Protocol::Sctp => sctp.push((low, high)),
            }
        }
        Self {
            tcp: Intervals::from_ranges(tcp),
            udp: Intervals::from_ranges(udp),
            sctp: Intervals::from_ranges(sctp),
        }
    }

    /// Returns the ports of one protocol.
    #[must_use]
    pub const fn of(&self, protocol: Protocol) -> &Intervals<u16> {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
            Protocol::Sctp => &self.sctp,
        }
    }

    /// Returns every range with its protocol, in the order of the normal form.
    pub fn ranges(&self) -> impl Iterator<Item = (Protocol, u16, u16)> + '_ {
        Protocol::ALL.into_iter().flat_map(|protocol| {
            self.of(protocol).iter().map(move |(low, high)| (protocol, low, high))
        })
    }

    /// Returns whether the pair is a member.
    #[must_use]
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.of(protocol).contains(port)
    }

    /// Returns whether there is no member.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty() && self.sctp.is_empty()
    }

    /// Returns whether every pair is a member.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.tcp.is_all() && self.udp.is_all() && self.sctp.is_all()
    }

    /// Returns the members of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, Intervals::union)
    }

    /// Returns the members of both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, Intervals::intersection)
    }

    /// Returns the members that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, Intervals::difference)
    }

    fn combine(
        &self,
        other: &Self,
        with: fn(&Intervals<u16>, &Intervals<u16>) -> Intervals<u16>,
    ) -> Self {
        Self {
            tcp: with(&self.tcp, &other.tcp),
            udp: with(&self.udp, &other.udp),
            sctp: with(&self.sctp, &other.sctp),
        }
    }
}

impl fmt::Display for PortSet {
    /// Writes `TCP 80,443 UDP 53`; a protocol with every port stands alone; `nothing` for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        let mut separator = "";
        for protocol in Protocol::ALL {
            let ports = self.of(protocol);
            if ports.is_empty() {
                continue;
            }
            write!(f, "{separator}{protocol}")?;
            separator = " ";
            if ports.is_all() {
                continue;
            }
            for (index, (low, high)) in ports.iter().enumerate() {
                f.write_str(if index == 0 { " " } else { "," })?;
                if low == high { write!(f, "{low}")? } else { write!(f, "{low}-{high}")? }
            }
        }
        Ok(())
    }
}
