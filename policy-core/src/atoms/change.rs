//! Keeping the partition as sets and their members come and go.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ClassId;
use super::classes::{Classes, Placed, Slot, enlist};
use super::interner::{index, union, with, without};
use super::ranges::{Address, Moved};
use crate::ir::{PeerSet, PeerSetId};

/// What a change did to the partition.
///
/// Applied in this order, every address has its old or its new class at every step: learn the classes born; put the
/// addresses that are listed exactly; move the ranges; take out the addresses that are listed by range; forget the
/// classes that died.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// Classes that are there now and were not before, ascending.
    pub born: Vec<ClassId>,
    /// Ranges that went to another class, ascending within a family. Exact addresses in them go by `addresses`.
    pub ranges: Vec<MovedRange>,
    /// Exact addresses that may have gone to another class, or into or out of the table of exact addresses. Where one
    /// address stands more than once, the last says where it is.
    pub addresses: Vec<MovedAddress>,
    /// Classes that were there before and are not now, ascending. Their numbers rest until [`Classes::recycle`].
    pub died: Vec<ClassId>,
}

/// A range that went from one class to another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "all there is to say of it")]
pub struct MovedRange {
    /// Its first address.
    pub low: IpAddr,
    /// Its last address.
    pub high: IpAddr,
    /// Its class before.
    pub from: ClassId,
    /// Its class now.
    pub to: ClassId,
}

/// An exact address and its class, which may be the one it had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "all there is to say of it")]
pub struct MovedAddress {
    /// The address.
    pub address: IpAddr,
    /// Its class before.
    pub from: ClassId,
    /// Its class now.
    pub to: ClassId,
    /// Where its class is to be read now.
    pub listed: Listed,
}

/// Where the class of an address is to be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "there are two tables")]
pub enum Listed {
    /// In the table of exact addresses ([`Classes::addresses`]).
    Exactly,
    /// It has the class of its range, and no place in the table of exact addresses.
    ByRange,
}

/// A set that the partition does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no peer set `{0}` is in use")]
#[expect(clippy::exhaustive_structs, reason = "the set is all there is to say")]
pub struct UnknownSet(pub PeerSetId);

impl Classes {
    /// Takes an address into a set. Costs the sets that hold it.
    ///
    /// # Errors
    /// If the set is not in use.
    pub fn join(&mut self, address: IpAddr, set: PeerSetId) -> Result<Change, UnknownSet> {
        let set = *self.sets.get(&set).ok_or(UnknownSet(set))?;
        Ok(self.change(|classes, change| {
            classes.regroup(address, |group| with(group, set), change);
        }))
    }

    /// Takes an address out of a set. Costs the sets that hold it.
    ///
    /// # Errors
    /// If the set is not in use.
    pub fn leave(&mut self, address: IpAddr, set: PeerSetId) -> Result<Change, UnknownSet> {
        let set = *self.sets.get(&set).ok_or(UnknownSet(set))?;
        Ok(self.change(|classes, change| {
            classes.regroup(address, |group| without(group, set), change);
        }))
    }

    /// Takes a set into use, with its members. Nothing happens if it is in use already.
    ///
    /// Costs its members and ranges, and the exact addresses that lie in the ranges.
    pub fn add_set(&mut self, id: PeerSetId, set: &PeerSet) -> Change {
        if self.sets.contains_key(&id) {
            return Change::default();
        }
        let next = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let number = self.vacant.pop_first().unwrap_or(next);
        let slot = Some(Slot::new(id, set.networks.clone()));
        match self.slots.get_mut(index(number)) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        self.sets.insert(id, number);
        self.change(|classes, change| {
            classes.redraw(&set.networks, |vector| with(vector, number), change);
            for address in set.addresses.iter() {
                classes.regroup(address, |group| with(group, number), change);
            }
        })
    }

    /// Takes a set out of use, with its members. Nothing happens if it is not in use.
    ///
    /// Costs its members and ranges, and the exact addresses that lie in the ranges.
    pub fn remove_set(&mut self, id: PeerSetId) -> Change {
        let Some(number) = self.sets.remove(&id) else { return Change::default() };
        let Some(Some(slot)) = self.slots.get(index(number)) else { return Change::default() };
        let (networks, members) = (slot.networks.clone(), self.members_of(slot));
        let change = self.change(|classes, change| {
            for address in members {
                classes.regroup(address, |group| without(group, number), change);
            }
            classes.redraw(&networks, |vector| without(vector, number), change);
        });
        // A dead class that rests still speaks of this index, so the index rests with it.
        if let Some(slot) = self.slots.get_mut(index(number)) {
            *slot = None;
        }
        self.departed.push(number);
        change
    }

    /// Lets the numbers of dead classes name other classes.
    ///
    /// Call it once nothing outside refers to them any more: a packet that read the old number must never meet the new
    /// class's rights.
    pub fn recycle(&mut self) {
        self.classes.recycle();
        self.vacant.extend(core::mem::take(&mut self.departed));
    }

    fn change(&mut self, make: impl FnOnce(&mut Self, &mut Change)) -> Change {
        let mut change = Change::default();
        make(self, &mut change);
        (change.born, change.died) = self.turn();
        change
    }

    /// Gives an address the sets of its own that `regroup` makes of them.
    fn regroup(
        &mut self,
        address: IpAddr,
        regroup: impl Fn(&[u32]) -> Option<Vec<u32>>,
        change: &mut Change,
    ) {
        let before = self.exact.get(&address).copied();
        let group = before.map_or(0, |at| at.group);
        let Some(vector) = regroup(self.groups.vector(group)) else { return };
        self.place(address, before, &vector, self.range_of(address), change);
    }

    /// Places an address that its own sets `own` hold, in a range of class `range`.
    fn place(
        &mut self,
        address: IpAddr,
        before: Option<Placed>,
        own: &[u32],
        range: u32,
        change: &mut Change,
    ) {
        let from = before.map_or(range, |at| at.class);
        if let Some(before) = before {
            self.delist(before);
        }
        let to = if own.is_empty() {
            self.exact.remove(&address);
            range
        } else {
            let class = self.classes.acquire(&union(own, self.classes.vector(range)));
            let group = self.groups.acquire(own);
            let place = enlist(&mut self.members, group, address);
            self.exact.insert(address, Placed { group, class, place });
            class
        };
        if let Some(before) = before {
            self.groups.release(before.group);
            self.classes.release(before.class);
        }
        let listed = if to == range { Listed::ByRange } else { Listed::Exactly };
        change.addresses.push(MovedAddress {
            address,
            from: ClassId(from),
            to: ClassId(to),
            listed,
        });
    }

    /// Takes an address out of the members of its group.
    fn delist(&mut self, Placed { group, place, .. }: Placed) {
        let Some(members) = self.members.get_mut(index(group)) else { return };
        if place < members.len() {
            members.swap_remove(place);
        }
        let moved = members.get(place).and_then(|moved| self.exact.get_mut(moved));
        if let Some(moved) = moved {
            moved.place = place;
        }
    }

    /// Gives the ranges of `networks` the vectors that `redraw` makes of theirs, and the exact addresses in them theirs.
    fn redraw(
        &mut self,
        networks: &crate::net::PrefixSet,
        redraw: impl Fn(&[u32]) -> Option<Vec<u32>>,
        change: &mut Change,
    ) {
        for (low, high) in networks.v4().iter() {
            let moved = self.v4.update(low, high, &mut self.classes, &redraw);
            change.ranges.extend(moved.into_iter().map(MovedRange::from));
            let (low, high) = (Ipv4Addr::from(low), Ipv4Addr::from(high));
            self.replace(IpAddr::V4(low), IpAddr::V4(high), change);
        }
        for (low, high) in networks.v6().iter() {
            let moved = self.v6.update(low, high, &mut self.classes, &redraw);
            change.ranges.extend(moved.into_iter().map(MovedRange::from));
            let (low, high) = (Ipv6Addr::from(low), Ipv6Addr::from(high));
            self.replace(IpAddr::V6(low), IpAddr::V6(high), change);
        }
    }

    /// Places the exact addresses from `low` to `high` again, after their ranges changed.
    fn replace(&mut self, low: IpAddr, high: IpAddr, change: &mut Change) {
        let inside: Vec<IpAddr> =
            self.exact.range(low..=high).map(|(address, _)| *address).collect();
        for address in inside {
            let Some(at) = self.exact.get(&address).copied() else { continue };
            let own = self.groups.vector(at.group).to_vec();
            self.place(address, Some(at), &own, self.range_of(address), change);
        }
    }
}

impl<T: Address> From<Moved<T>> for MovedRange {
    fn from(Moved { low, high, from, to }: Moved<T>) -> Self {
        Self { low: low.address(), high: high.address(), from: ClassId(from), to: ClassId(to) }
    }
}
