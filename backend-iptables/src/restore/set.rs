//! What sets hold.

use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::ir::Family;
use netpol_core::model::Protocol;

/// The members of a set, all of one family; the variant is its type. Lists ascend without repetition.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a writer must know every type")]
pub enum Elements {
    /// `hash:ip`.
    Addresses(Family, Vec<IpAddr>),
    /// `hash:net`: disjoint networks, none of them the whole family.
    Networks(Family, Vec<IpNet>),
    /// `hash:ip,port`.
    AddressPorts(Family, Vec<(IpAddr, Protocol, u16)>),
}

impl Elements {
    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Addresses(_, members) => members.len(),
            Self::Networks(_, members) => members.len(),
            Self::AddressPorts(_, members) => members.len(),
        }
    }

    /// Returns whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the family.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::Addresses(family, _)
            | Self::Networks(family, _)
            | Self::AddressPorts(family, _) => *family,
        }
    }

    /// Returns the type as ipset names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Addresses(..) => "hash:ip",
            Self::Networks(..) => "hash:net",
            Self::AddressPorts(..) => "hash:ip,port",
        }
    }

    /// Returns whether an address is a member.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Addresses(_, members) => members.binary_search(&address).is_ok(),
            Self::Networks(_, members) => {
                let after = members.partition_point(|net| net.network() <= address);
                let last = after.checked_sub(1).and_then(|index| members.get(index));
                last.is_some_and(|net| net.contains(&address))
            }
            Self::AddressPorts(..) => false,
        }
    }

    /// Returns whether an address with a port is a member.
    pub(super) fn contains_port(&self, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::AddressPorts(_, members) => {
                members.binary_search(&(address, protocol, port)).is_ok()
            }
            Self::Addresses(..) | Self::Networks(..) => false,
        }
    }
}
