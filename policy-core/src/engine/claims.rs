//! Which pod owns which address (NP-140).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;

use super::slab::Id;

/// The owner of every address that some policed pod claims, and all claimants of those that several do.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    v4: HashMap<Ipv4Addr, Id>,
    v6: HashMap<Ipv6Addr, Id>,
    contested: BTreeMap<IpAddr, Vec<Id>>,
}

impl Claims {
    pub(super) fn owner(&self, address: IpAddr) -> Option<Id> {
        match address {
            IpAddr::V4(address) => self.v4.get(&address).copied(),
            IpAddr::V6(address) => self.v6.get(&address).copied(),
        }
    }

    /// Returns every address with several claimants.
    pub(super) const fn contested(&self) -> &BTreeMap<IpAddr, Vec<Id>> {
        &self.contested
    }

    /// Returns whether every claimant owns what it claims.
    pub(super) fn is_peaceful(&self) -> bool {
        self.contested.is_empty()
    }

    /// Adds a claimant. Where there are several, [`Self::settle`] must choose.
    pub(super) fn add(&mut self, address: IpAddr, pod: Id) {
        match self.owner(address) {
            None => self.set(address, pod),
            Some(owner) => {
                self.contested.entry(address).or_insert_with(|| alloc::vec![owner]).push(pod);
            }
        }
    }

    /// Takes a claimant away. Where several are left, [`Self::settle`] must choose.
    pub(super) fn remove(&mut self, address: IpAddr, pod: Id) {
        let Some(claimants) = self.contested.get_mut(&address) else {
            match address {
                IpAddr::V4(address) => self.v4.remove(&address),
                IpAddr::V6(address) => self.v6.remove(&address),
            };
            return;
        };
        claimants.retain(|other| *other != pod);
        if let [last] = claimants.as_slice() {
            let last = *last;
            self.contested.remove(&address);
            self.set(address, last);
        }
    }

    /// Chooses the owner of a contested address.
    pub(super) fn settle(&mut self, address: IpAddr, choose: impl FnOnce(&[Id]) -> Option<Id>) {
        let Some(claimants) = self.contested.get(&address) else { return };
        if let Some(winner) = choose(claimants) {
            self.set(address, winner);
        }
    }

    fn set(&mut self, address: IpAddr, pod: Id) {
        match address {
            IpAddr::V4(address) => self.v4.insert(address, pod),
            IpAddr::V6(address) => self.v6.insert(address, pod),
        };
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let claimants = self.contested.values().map(|list| list.capacity() * size_of::<Id>());
        self.v4.allocation_size()
            + self.v6.allocation_size()
            + super::memory::btree_bytes::<(IpAddr, Vec<Id>)>(self.contested.len())
            + claimants.sum::<usize>()
    }
}
