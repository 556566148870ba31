//! Traffic to judge.

use core::fmt;
use core::net::IpAddr;

use crate::model::Protocol;

/// The first packet of a connection, after destination NAT and before source NAT (NP-150). Replies belong to
/// connection tracking and are never judged (NP-160).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// What is inside.
    pub transport: Transport,
    /// What the client dialled; matters only for a pod that reaches itself.
    pub dialled: Dialled,
}

impl Flow {
    /// A flow to an address that the client dialled itself.
    #[must_use]
    pub const fn new(source: IpAddr, destination: IpAddr, transport: Transport) -> Self {
        Self { source, destination, transport, dialled: Dialled::Address }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.source, self.destination, self.transport)
    }
}

/// The part of a packet behind the IP header.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Transport {
    /// A protocol with ports, and the destination port in host order.
    Port(Protocol, u16),
    /// Any other protocol by its IP number (1 is ICMP, 58 ICMPv6): matched only by rules without ports (DEC-02).
    Other(u8),
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(f, "{port}/{protocol}"),
            Self::Other(1) => f.write_str("ICMP"),
            Self::Other(58) => f.write_str("ICMPv6"),
            Self::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// Whether the client dialled the address itself or a Service in front of it (NP-120, NP-121, CNP-019).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Dialled {
    /// The destination address.
    #[default]
    Address,
    /// A Service whose destination NAT led there.
    Service,
}

/// An IP family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
