//! Sets of addresses by range, both families apart.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::Intervals;
use crate::model::{Cidr, IpBlock};

/// A set of IPv4 and IPv6 addresses, excepts already cut out (NP-065, NP-069). The families never mix (NP-068).
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PrefixSet {
    v4: Intervals<u32>,
    v6: Intervals<u128>,
}

impl PrefixSet {
    /// Both families whole.
    #[must_use]
    pub fn all() -> Self {
        Self { v4: Intervals::all(), v6: Intervals::all() }
    }

    /// The union of networks.
    #[must_use]
    pub fn from_cidrs<'a>(cidrs: impl IntoIterator<Item = &'a Cidr>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for cidr in cidrs {
            match cidr.net() {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
            }
        }
        Self { v4: Intervals::from_ranges(v4), v6: Intervals::from_ranges(v6) }
    }

    /// The addresses of an `ipBlock`. An except outside the block cuts nothing.
    #[must_use]
    pub fn from_ip_block(block: &IpBlock) -> Self {
        Self::from_cidrs([&block.cidr]).difference(&Self::from_cidrs(&block.except))
    }

    /// The IPv4 ranges, ascending, in host order.
    #[must_use]
    pub const fn v4(&self) -> &Intervals<u32> {
        &self.v4
    }

    /// The IPv6 ranges, ascending, in host order.
    #[must_use]
    pub const fn v6(&self) -> &Intervals<u128> {
        &self.v6
    }

    /// A set of ranges.
    #[must_use]
    pub const fn from_intervals(v4: Intervals<u32>, v6: Intervals<u128>) -> Self {
        Self { v4, v6 }
    }

    /// Returns whether `address` is a member. Costs O(log n).
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(u32::from(address)),
            IpAddr::V6(address) => self.v6.contains(u128::from(address)),
        }
    }

    /// Returns whether there is no member.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Returns the members of either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self { v4: self.v4.union(&other.v4), v6: self.v6.union(&other.v6) }
    }

    /// Returns the members of both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self { v4: self.v4.intersection(&other.v4), v6: self.v6.intersection(&other.v6) }
    }

    /// Returns the members that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self { v4: self.v4.difference(&other.v4), v6: self.v6.difference(&other.v6) }
    }

    /// Returns the smallest list of disjoint networks that holds the set, IPv4 first, ascending.
    #[must_use]
    pub fn cidrs(&self) -> Vec<IpNet> {
        let v4 = self.v4.iter().flat_map(|(low, high)| {
            Ipv4Subnets::new(Ipv4Addr::from(low), Ipv4Addr::from(high), 0).map(IpNet::V4)
        });
        let v6 = self.v6.iter().flat_map(|(low, high)| {
            Ipv6Subnets::new(Ipv6Addr::from(low), Ipv6Addr::from(high), 0).map(IpNet::V6)
        });
        v4.chain(v6).collect()
    }
}

impl fmt::Display for PrefixSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, net) in self.cidrs().into_iter().enumerate() {
            let separator = if index > 0 { " " } else { "" };
            write!(f, "{separator}{net}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use core::net::IpAddr;

    use proptest::prelude::*;

    use super::PrefixSet;
    use crate::model::{Cidr, IpBlock, Position};

    /// Networks around one corner of each family, with /0, /32 and /128 among them.
    fn cidr() -> impl Strategy<Value = Cidr> {
        prop_oneof![
            (0..16_u32, prop_oneof![Just(0_u8), 24..=32_u8]).prop_map(|(host, length)| {
                Cidr::parse_masking(&alloc::format!("10.0.0.{host}/{length}")).unwrap().0
            }),
            (0..16_u32, prop_oneof![Just(0_u8), 120..=128_u8]).prop_map(|(host, length)| {
                Cidr::parse_masking(&alloc::format!("fd00::{host:x}/{length}")).unwrap().0
            }),
        ]
    }

    fn addresses() -> Vec<IpAddr> {
        let v4 = (0..40).map(|host| alloc::format!("10.0.0.{host}"));
        let v6 = (0..40).map(|host| alloc::format!("fd00::{host:x}"));
        let far = ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
            .map(ToString::to_string);
        v4.chain(v6).chain(far).map(|text| text.parse().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn an_ip_block_holds_its_cidr_without_its_excepts(
            cidr in cidr(), except in proptest::collection::vec(cidr(), 0..5),
        ) {
            let block = IpBlock { cidr, except, position: Position::default() };
            let set = PrefixSet::from_ip_block(&block);
            for address in addresses() {
                prop_assert_eq!(set.contains(address), block.contains(address), "{}", address);
            }
        }

        #[test]
        fn the_cidrs_of_a_set_are_disjoint_and_hold_the_same_addresses(cidrs in proptest::collection::vec(cidr(), 0..6)) {
            let set = PrefixSet::from_cidrs(&cidrs);
            let nets = set.cidrs();
            for address in addresses() {
                let holders = nets.iter().filter(|net| net.contains(&address)).count();
                prop_assert_eq!(holders, usize::from(set.contains(address)), "{}", address);
            }
            let again: Vec<Cidr> = nets.into_iter().map(Cidr::from).collect();
            prop_assert_eq!(PrefixSet::from_cidrs(&again), set);
        }
    }

    #[test]
    fn families_never_mix() {
        let set = PrefixSet::from_cidrs([&Cidr::all_ipv4()]);
        assert!(set.contains("8.8.8.8".parse().unwrap()));
        assert!(!set.contains("::ffff:8.8.8.8".parse().unwrap()));
    }
}
