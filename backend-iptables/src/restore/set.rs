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
    /// `hash:ip`. It takes every address but 0.0.0.0 and ::.
    Addresses(Family, Vec<IpAddr>),
    /// `hash:net`: disjoint networks, none of them the whole family.
    Networks(Family, Vec<IpNet>),
    /// `hash:ip,port`. As for addresses.
    AddressPorts(Family, Vec<(IpAddr, Protocol, u16)>),
}

/// A member of a set. `Display` as in the listing of ipset.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "a writer must know every type")]
pub enum Member {
    /// Of a `hash:ip`.
    Address(IpAddr),
    /// Of a `hash:net`.
    Network(IpNet),
    /// Of a `hash:ip,port`.
    AddressPort(IpAddr, Protocol, u16),
}

impl Elements {
    /// Returns the number of members.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Addresses(_, members) => members.len(),
            Self::Networks(_, members) => members.len(),
            Self::AddressPorts(_, members) => members.len(),
        }
    }

    /// Returns whether there is no member.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
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

    /// Returns the members in order.
    pub fn iter(&self) -> impl Iterator<Item = Member> + '_ {
        let (addresses, networks, ports): (&[_], &[_], &[_]) = match self {
            Self::Addresses(_, members) => (members, &[], &[]),
            Self::Networks(_, members) => (&[], members, &[]),
            Self::AddressPorts(_, members) => (&[], &[], members),
        };
        let addresses = addresses.iter().copied().map(Member::Address);
        let networks = networks.iter().copied().map(Member::Network);
        let ports = ports
            .iter()
            .map(|(address, protocol, port)| Member::AddressPort(*address, *protocol, *port));
        addresses.chain(networks).chain(ports)
    }

    /// Returns a set of this type with other members; those of other types are left out.
    #[cfg(feature = "apply")]
    pub(crate) fn with(&self, all: impl IntoIterator<Item = Member>) -> Self {
        let mut set = match self {
            Self::Addresses(family, _) => Self::Addresses(*family, Vec::new()),
            Self::Networks(family, _) => Self::Networks(*family, Vec::new()),
            Self::AddressPorts(family, _) => Self::AddressPorts(*family, Vec::new()),
        };
        for member in all {
            match (&mut set, member) {
                (Self::Addresses(_, members), Member::Address(address)) => members.push(address),
                (Self::Networks(_, members), Member::Network(net)) => members.push(net),
                (Self::AddressPorts(_, members), Member::AddressPort(address, protocol, port)) => {
                    members.push((address, protocol, port));
                }
                (Self::Addresses(..) | Self::Networks(..) | Self::AddressPorts(..), _) => {}
            }
        }
        set
    }

    /// Returns how many buckets the set begins with.
    pub(crate) fn size(&self) -> usize {
        self.len().next_power_of_two().max(64)
    }

    /// Returns how many members the set has room for: twice what it begins with.
    pub(crate) fn room(&self) -> usize {
        self.size().saturating_mul(2).max(65536)
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
