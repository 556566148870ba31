//! Exact addresses, both families apart.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A set of single addresses.
///
/// INVARIANT (sorted): both lists ascend without repetition; upheld by every constructor and by `insert`/`remove`.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AddressSet {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

impl AddressSet {
    /// Returns the IPv4 addresses, ascending.
    #[must_use]
    pub fn v4(&self) -> &[Ipv4Addr] {
        &self.v4
    }

    /// Returns the IPv6 addresses, ascending.
    #[must_use]
    pub fn v6(&self) -> &[Ipv6Addr] {
        &self.v6
    }

    /// Returns every address, IPv4 first, ascending.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.iter().copied().map(IpAddr::V4).chain(self.v6.iter().copied().map(IpAddr::V6))
    }

    /// Returns the number of addresses.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether `address` is a member. Costs O(log n).
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.binary_search(&address).is_ok(),
            IpAddr::V6(address) => self.v6.binary_search(&address).is_ok(),
        }
    }
}

impl FromIterator<IpAddr> for AddressSet {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut set = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(address) => set.v4.push(address),
                IpAddr::V6(address) => set.v6.push(address),
            }
        }
        set.v4.sort_unstable();
        set.v4.dedup();
        set.v4.shrink_to_fit();
        set.v6.sort_unstable();
        set.v6.dedup();
        set.v6.shrink_to_fit();
        set
    }
}
