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

    /// Adds and takes away members. An address in both lists is a member afterwards.
    ///
    /// Costs O(log n) and a move of memory for each of a few, O(n) in all for many.
    pub(crate) fn change(&mut self, joins: &Self, leaves: &Self) {
        change(&mut self.v4, &joins.v4, &leaves.v4);
        change(&mut self.v6, &joins.v6, &leaves.v6);
    }

    /// Returns the bytes held on the heap.
    pub(crate) const fn heap_bytes(&self) -> usize {
        self.v4.capacity() * size_of::<Ipv4Addr>() + self.v6.capacity() * size_of::<Ipv6Addr>()
    }
}

/// Up to so many changes are made one by one; a pass over the whole list costs as much as about that many moves of half
/// of it.
const ONE_BY_ONE: usize = 8;

fn change<T: Copy + Ord>(list: &mut Vec<T>, joins: &[T], leaves: &[T]) {
    if joins.len() + leaves.len() <= ONE_BY_ONE {
        for leave in leaves {
            if let Ok(place) = list.binary_search(leave) {
                list.remove(place);
            }
        }
        for join in joins {
            if let Err(place) = list.binary_search(join) {
                list.insert(place, *join);
            }
        }
        return;
    }
    let mut kept = Vec::with_capacity(list.len() + joins.len());
    let (mut joins, mut leaves) = (joins.iter().copied().peekable(), leaves.iter().peekable());
    for member in list.iter().copied() {
        while let Some(join) = joins.next_if(|join| *join < member) {
            kept.push(join);
        }
        let joins_too = joins.next_if_eq(&member).is_some();
        while leaves.next_if(|leave| **leave < member).is_some() {}
        if joins_too || leaves.next_if_eq(&&member).is_none() {
            kept.push(member);
        }
    }
    kept.extend(joins);
    *list = kept;
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

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;
    use core::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::AddressSet;

    fn addresses(most: usize) -> impl Strategy<Value = BTreeSet<IpAddr>> {
        let address = (0..40_u8).prop_map(|low| IpAddr::V4(Ipv4Addr::new(10, 0, 0, low)));
        proptest::collection::btree_set(address, 0..most)
    }

    proptest! {
        #[test]
        fn few_changes_and_many_come_to_the_same(
            members in addresses(30), joins in addresses(20), leaves in addresses(20),
        ) {
            let set = |addresses: &BTreeSet<IpAddr>| addresses.iter().copied().collect::<AddressSet>();
            let mut changed = set(&members);
            changed.change(&set(&joins), &set(&leaves));
            let expected: BTreeSet<IpAddr> =
                members.difference(&leaves).chain(&joins).copied().collect();
            prop_assert_eq!(changed.iter().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
