//! `ipBlock` (NP-065..NP-074) and the CIDRs in it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Position;

/// A network in CIDR notation with no host bits set.
///
/// INVARIANT (masked): every bit after the prefix length is zero; upheld by both constructors.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Cidr(IpNet);

/// Why a text is not a CIDR (VAL-026, VAL-027, VAL-029).
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CidrError {
    /// No text at all.
    #[error("must not be empty")]
    Empty,
    /// An address without a prefix length.
    #[error("`{0}` has no prefix length; write `{0}/{1}` for the single address")]
    NoPrefix(String, u8),
    /// Not an address and a prefix length.
    #[error("`{0}` is not a CIDR such as `10.0.0.0/8` or `2001:db8::/64`")]
    Malformed(String),
    /// The prefix length is longer than the family allows.
    #[error("prefix length of `{0}` is over {1}")]
    PrefixTooLong(String, u8),
    /// Leading zeros, which old parsers read as octal.
    #[error("`{0}` has leading zeros")]
    LeadingZeros(String),
    /// An IPv4 address inside an IPv6 one.
    #[error("`{0}` is an IPv4-mapped IPv6 address; write the IPv4 CIDR")]
    Ipv4Mapped(String),
    /// Bits are set after the prefix length.
    #[error("`{0}` has host bits set; did you mean the network `{1}` or the single address `{2}`?")]
    HostBits(String, IpNet, IpNet),
}

impl Cidr {
    /// Parses strictly, as API servers do from 1.36 on (NP-071, VAL-029).
    ///
    /// # Errors
    /// Says what is wrong with the text; for host bits, what may have been meant.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let net = Self::parse_with_host_bits(text)?;
        let masked = net.trunc();
        if masked == net {
            Ok(Self(masked))
        } else {
            let host = IpNet::from(net.addr());
            Err(CidrError::HostBits(text.into(), masked, host))
        }
    }

    /// Parses as older API servers do: host bits are masked away (DEC-06). Returns whether there were any.
    ///
    /// # Errors
    /// Says what else is wrong with the text.
    pub fn parse_masking(text: &str) -> Result<(Self, HadHostBits), CidrError> {
        let net = Self::parse_with_host_bits(text)?;
        let had = if net.trunc() == net { HadHostBits::No } else { HadHostBits::Yes };
        Ok((Self(net.trunc()), had))
    }

    fn parse_with_host_bits(text: &str) -> Result<IpNet, CidrError> {
        if text.is_empty() {
            return Err(CidrError::Empty);
        }
        let malformed = || CidrError::Malformed(text.into());
        let Some((address, prefix)) = text.split_once('/') else {
            return Err(match text.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => CidrError::NoPrefix(text.into(), 32),
                Ok(IpAddr::V6(_)) => CidrError::NoPrefix(text.into(), 128),
                Err(_) => malformed(),
            });
        };
        let zero_led = |part: &str| part.len() > 1 && part.starts_with('0');
        if zero_led(prefix) || (!address.contains(':') && address.split('.').any(zero_led)) {
            return Err(CidrError::LeadingZeros(text.into()));
        }
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= bits);
        let prefix = prefix.ok_or_else(|| CidrError::PrefixTooLong(text.into(), bits))?;
        match address {
            IpAddr::V4(v4) => Ipv4Net::new(v4, prefix).map(IpNet::V4).map_err(|_| malformed()),
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Err(CidrError::Ipv4Mapped(text.into()))
            }
            IpAddr::V6(v6) => Ipv6Net::new(v6, prefix).map(IpNet::V6).map_err(|_| malformed()),
        }
    }

    /// The network of `address` alone: /32 or /128.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// The whole family: `0.0.0.0/0`.
    #[must_use]
    pub fn all_ipv4() -> Self {
        Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)))
    }

    /// The whole family: `::/0`.
    #[must_use]
    pub fn all_ipv6() -> Self {
        Self(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)))
    }

    /// Returns the network.
    #[must_use]
    pub const fn net(self) -> IpNet {
        self.0
    }

    /// Returns whether `address` lies in the network; never across families (NP-068).
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Returns whether `inner` is strictly inside: same family, contained, longer prefix (NP-070).
    #[must_use]
    pub fn strictly_contains(self, inner: Self) -> bool {
        self.0.contains(&inner.0) && inner.0.prefix_len() > self.0.prefix_len()
    }
}

/// Whether a CIDR was written with bits after its prefix length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HadHostBits {
    /// It was exact.
    No,
    /// Bits were masked away.
    Yes,
}

impl From<IpNet> for Cidr {
    /// Masks host bits away.
    fn from(net: IpNet) -> Self {
        Self(net.trunc())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A range of addresses: `cidr` without every `except` (NP-065). `except` cuts only from its own block (NP-066).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IpBlock {
    /// The network.
    pub cidr: Cidr,
    /// Networks cut out of it; each strictly inside `cidr` when read strictly (NP-070).
    pub except: Vec<Cidr>,
    /// Where it was written.
    pub position: Position,
}

impl IpBlock {
    /// Returns whether the block holds `address`.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(address) && !self.except.iter().any(|except| except.contains(address))
    }
}
