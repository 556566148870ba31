//! What sets and verdict maps hold.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_core::ir::Family;
use netpol_core::net::Intervals;

use super::Verdict;

/// The members of a set; the variant is its type.
///
/// Lists ascend without repetition. Exact members live in hash sets and can be edited one by one; ranges live in
/// interval sets, which are replaced and never edited.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "an encoder must know every type")]
pub enum Elements {
    /// `ipv4_addr`.
    V4(BTreeSet<Ipv4Addr>),
    /// `ipv6_addr`.
    V6(BTreeSet<Ipv6Addr>),
    /// `ipv4_addr . ipv4_addr`.
    V4Pairs(Vec<(Ipv4Addr, Ipv4Addr)>),
    /// `ipv6_addr . ipv6_addr`.
    V6Pairs(Vec<(Ipv6Addr, Ipv6Addr)>),
    /// `ipv4_addr`, interval.
    V4Ranges(Intervals<u32>),
    /// `ipv6_addr`, interval.
    V6Ranges(Intervals<u128>),
    /// `inet_proto`.
    Protocols(Vec<u8>),
    /// `inet_proto . inet_service`.
    ProtocolPorts(Vec<(u8, u16)>),
    /// `inet_service`, interval.
    Ports(Intervals<u16>),
    /// `mark`.
    Marks(Vec<u32>),
}

/// The verdicts of a map; the variant is its key's type.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "an encoder must know every type")]
pub enum Targets {
    /// `ipv4_addr`.
    V4(BTreeMap<Ipv4Addr, Verdict>),
    /// `ipv6_addr`.
    V6(BTreeMap<Ipv6Addr, Verdict>),
    /// `inet_service`, interval: disjoint ranges, ascending.
    Ports(Vec<((u16, u16), Verdict)>),
}

impl Elements {
    /// A set of single addresses: those of the family.
    pub(crate) fn of_family(family: Family, addresses: impl Iterator<Item = IpAddr>) -> Self {
        match family {
            Family::V4 => Self::V4(
                addresses
                    .filter_map(|address| match address {
                        IpAddr::V4(address) => Some(address),
                        IpAddr::V6(_) => None,
                    })
                    .collect(),
            ),
            Family::V6 => Self::V6(
                addresses
                    .filter_map(|address| match address {
                        IpAddr::V6(address) => Some(address),
                        IpAddr::V4(_) => None,
                    })
                    .collect(),
            ),
        }
    }

    /// Takes addresses in and out of a set of single addresses.
    #[cfg(feature = "apply")]
    pub(crate) fn edit(&mut self, joins: &Self, leaves: &Self) {
        match (self, joins, leaves) {
            (Self::V4(members), Self::V4(joins), Self::V4(leaves)) => {
                members.extend(joins);
                for address in leaves {
                    members.remove(address);
                }
            }
            (Self::V6(members), Self::V6(joins), Self::V6(leaves)) => {
                members.extend(joins);
                for address in leaves {
                    members.remove(address);
                }
            }
            (_, _, _) => {}
        }
    }

    /// Returns the number of members, a range counting one.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::V4(members) => members.len(),
            Self::V6(members) => members.len(),
            Self::V4Pairs(members) => members.len(),
            Self::V6Pairs(members) => members.len(),
            Self::V4Ranges(members) => members.iter().len(),
            Self::V6Ranges(members) => members.iter().len(),
            Self::Protocols(members) => members.len(),
            Self::ProtocolPorts(members) => members.len(),
            Self::Ports(members) => members.iter().len(),
            Self::Marks(members) => members.len(),
        }
    }

    /// Returns whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the set holds ranges.
    #[must_use]
    pub const fn is_interval(&self) -> bool {
        match self {
            Self::V4Ranges(_) | Self::V6Ranges(_) | Self::Ports(_) => true,
            Self::V4(_)
            | Self::V6(_)
            | Self::V4Pairs(_)
            | Self::V6Pairs(_)
            | Self::Protocols(_)
            | Self::Marks(_)
            | Self::ProtocolPorts(_) => false,
        }
    }

    /// Returns whether the set holds single addresses, as sets of peers do.
    #[cfg(feature = "apply")]
    pub(crate) const fn is_exact_addresses(&self) -> bool {
        match self {
            Self::V4(_) | Self::V6(_) => true,
            Self::V4Ranges(_)
            | Self::V6Ranges(_)
            | Self::Ports(_)
            | Self::V4Pairs(_)
            | Self::V6Pairs(_)
            | Self::Protocols(_)
            | Self::Marks(_)
            | Self::ProtocolPorts(_) => false,
        }
    }

    /// Returns the members that `other` does not have. A set of another type has none of them, and ranges are compared
    /// as a whole.
    #[cfg(feature = "apply")]
    pub(crate) fn without(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::V4(ours), Self::V4(theirs)) => {
                Self::V4(ours.difference(theirs).copied().collect())
            }
            (Self::V6(ours), Self::V6(theirs)) => {
                Self::V6(ours.difference(theirs).copied().collect())
            }
            (Self::V4Pairs(ours), Self::V4Pairs(theirs)) => Self::V4Pairs(difference(ours, theirs)),
            (Self::V6Pairs(ours), Self::V6Pairs(theirs)) => Self::V6Pairs(difference(ours, theirs)),
            (Self::Protocols(ours), Self::Protocols(theirs)) => {
                Self::Protocols(difference(ours, theirs))
            }
            (Self::ProtocolPorts(ours), Self::ProtocolPorts(theirs)) => {
                Self::ProtocolPorts(difference(ours, theirs))
            }
            (Self::Marks(ours), Self::Marks(theirs)) => Self::Marks(difference(ours, theirs)),
            (ours, _) => ours.clone(),
        }
    }

    /// Returns the members that are single addresses.
    #[cfg(feature = "apply")]
    pub(crate) fn addresses(&self) -> Box<dyn Iterator<Item = IpAddr> + '_> {
        match self {
            Self::V4(members) => Box::new(members.iter().copied().map(IpAddr::from)),
            Self::V6(members) => Box::new(members.iter().copied().map(IpAddr::from)),
            Self::V4Pairs(_)
            | Self::V6Pairs(_)
            | Self::V4Ranges(_)
            | Self::V6Ranges(_)
            | Self::Protocols(_)
            | Self::ProtocolPorts(_)
            | Self::Marks(_)
            | Self::Ports(_) => Box::new(core::iter::empty()),
        }
    }

    /// Returns whether the address of a packet is a member.
    pub(crate) fn contains_address(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(members), IpAddr::V4(address)) => members.contains(&address),
            (Self::V6(members), IpAddr::V6(address)) => members.contains(&address),
            (Self::V4Ranges(members), IpAddr::V4(address)) => members.contains(address.into()),
            (Self::V6Ranges(members), IpAddr::V6(address)) => members.contains(address.into()),
            (_, IpAddr::V4(_) | IpAddr::V6(_)) => false,
        }
    }

    /// Returns whether the port of a packet is a member.
    pub(super) fn contains_port(&self, port: u16) -> bool {
        matches!(self, Self::Ports(members) if members.contains(port))
    }

    /// Returns whether the protocol of a packet is a member.
    pub(super) fn contains_protocol(&self, protocol: u8) -> bool {
        matches!(self, Self::Protocols(members) if members.contains(&protocol))
    }

    /// Returns whether the protocol and port of a packet together are a member.
    pub(super) fn contains_protocol_port(&self, protocol: u8, port: u16) -> bool {
        matches!(self, Self::ProtocolPorts(members) if members.binary_search(&(protocol, port)).is_ok())
    }

    /// Returns whether both addresses of a packet together are a member.
    pub(super) fn contains_pair(&self, source: IpAddr, destination: IpAddr) -> bool {
        match (self, source, destination) {
            (Self::V4Pairs(members), IpAddr::V4(source), IpAddr::V4(destination)) => {
                members.binary_search(&(source, destination)).is_ok()
            }
            (Self::V6Pairs(members), IpAddr::V6(source), IpAddr::V6(destination)) => {
                members.binary_search(&(source, destination)).is_ok()
            }
            (_, IpAddr::V4(_) | IpAddr::V6(_), IpAddr::V4(_) | IpAddr::V6(_)) => false,
        }
    }
}

impl Targets {
    /// Returns the verdicts.
    pub(crate) fn verdicts(&self) -> Box<dyn Iterator<Item = &Verdict> + '_> {
        match self {
            Self::V4(entries) => Box::new(entries.values()),
            Self::V6(entries) => Box::new(entries.values()),
            Self::Ports(entries) => Box::new(entries.iter().map(|(_, verdict)| verdict)),
        }
    }

    /// The verdicts of some addresses.
    pub(crate) fn of_family<'a>(
        family: Family,
        entries: impl Iterator<Item = (&'a IpAddr, &'a Verdict)>,
    ) -> Self {
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        for (address, verdict) in entries {
            match address {
                IpAddr::V4(address) => drop(v4.insert(*address, verdict.clone())),
                IpAddr::V6(address) => drop(v6.insert(*address, verdict.clone())),
            }
        }
        match family {
            Family::V4 => Self::V4(v4),
            Family::V6 => Self::V6(v6),
        }
    }

    /// Takes the verdicts of another map of the same type.
    #[cfg(feature = "apply")]
    pub(crate) fn overwrite(&mut self, other: &Self) {
        match (self, other) {
            (Self::V4(ours), Self::V4(theirs)) => {
                ours.extend(theirs.iter().map(|(key, verdict)| (*key, verdict.clone())));
            }
            (Self::V6(ours), Self::V6(theirs)) => {
                ours.extend(theirs.iter().map(|(key, verdict)| (*key, verdict.clone())));
            }
            (_, _) => {}
        }
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::V4(entries) => entries.len(),
            Self::V6(entries) => entries.len(),
            Self::Ports(entries) => entries.len(),
        }
    }

    /// Returns whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the map's keys are ranges.
    #[cfg(feature = "apply")]
    pub(crate) const fn is_interval(&self) -> bool {
        match self {
            Self::Ports(_) => true,
            Self::V4(_) | Self::V6(_) => false,
        }
    }

    /// Returns the entries that `other` does not have, or has with another verdict.
    #[cfg(feature = "apply")]
    pub(crate) fn without(&self, other: &Self) -> Self {
        fn entries<K: Copy + Ord>(
            ours: &BTreeMap<K, Verdict>,
            theirs: &BTreeMap<K, Verdict>,
        ) -> BTreeMap<K, Verdict> {
            let differs = |(key, verdict): &(&K, &Verdict)| theirs.get(key) != Some(*verdict);
            ours.iter().filter(differs).map(|(key, verdict)| (*key, verdict.clone())).collect()
        }
        match (self, other) {
            (Self::V4(ours), Self::V4(theirs)) => Self::V4(entries(ours, theirs)),
            (Self::V6(ours), Self::V6(theirs)) => Self::V6(entries(ours, theirs)),
            (ours, _) => ours.clone(),
        }
    }

    /// Returns the verdict for an address.
    pub(super) fn of_address(&self, address: IpAddr) -> Option<&Verdict> {
        match (self, address) {
            (Self::V4(entries), IpAddr::V4(address)) => entries.get(&address),
            (Self::V6(entries), IpAddr::V6(address)) => entries.get(&address),
            (_, IpAddr::V4(_) | IpAddr::V6(_)) => None,
        }
    }

    /// Returns the verdict for a port.
    pub(super) fn of_port(&self, port: u16) -> Option<&Verdict> {
        let Self::Ports(entries) = self else { return None };
        let after = entries.partition_point(|((low, _), _)| *low <= port);
        let ((_, high), verdict) = entries.get(after.checked_sub(1)?)?;
        (port <= *high).then_some(verdict)
    }
}

/// Returns what only the first of two ascending lists has.
#[cfg(feature = "apply")]
fn difference<T: Copy + Ord>(ours: &[T], theirs: &[T]) -> Vec<T> {
    let mut theirs = theirs.iter().peekable();
    let only_ours = |member: &&T| {
        while theirs.next_if(|other| other < member).is_some() {}
        theirs.peek() != Some(member)
    };
    ours.iter().filter(only_ours).copied().collect()
}
