//! One family cut into ranges, each with its class.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::interner::Interner;
use crate::net::Point;

/// An address as an integer.
pub(super) trait Address: Point {
    fn address(self) -> IpAddr;
    /// The smallest list of networks that holds the addresses from `self` to `high`.
    fn networks(self, high: Self) -> Vec<IpNet>;
}

impl Address for u32 {
    fn address(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self))
    }

    fn networks(self, high: Self) -> Vec<IpNet> {
        let subnets = Ipv4Subnets::new(Ipv4Addr::from(self), Ipv4Addr::from(high), 0);
        subnets.map(IpNet::V4).collect()
    }
}

impl Address for u128 {
    fn address(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self))
    }

    fn networks(self, high: Self) -> Vec<IpNet> {
        let subnets = Ipv6Subnets::new(Ipv6Addr::from(self), Ipv6Addr::from(high), 0);
        subnets.map(IpNet::V6).collect()
    }
}

/// A family whole, as ranges by their first address. Each range is one use of its class.
///
/// INVARIANT (complete): the family's first address starts a range; upheld by every constructor and `update`.
/// INVARIANT (merged): neighbours are of different classes; upheld likewise.
#[derive(Clone, Debug)]
pub(super) struct Ranges<T>(BTreeMap<T, u32>);

/// A range that went from one class to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved<T> {
    pub(super) low: T,
    pub(super) high: T,
    pub(super) from: u32,
    pub(super) to: u32,
}

impl<T: Address> Ranges<T> {
    /// Cuts the family by ranges of sets, given by index. Costs a sort, and the members at every cut.
    pub(super) fn new(ranges: impl Iterator<Item = (u32, (T, T))>, classes: &mut Interner) -> Self {
        // A set's own ranges never touch, so at one point it either enters or leaves.
        let mut turns: Vec<(T, u32)> = Vec::new();
        for (set, (low, high)) in ranges {
            turns.push((low, set));
            turns.extend(high.successor().map(|behind| (behind, set)));
        }
        turns.sort_unstable();
        let mut starts = BTreeMap::new();
        let mut inside: Vec<u32> = Vec::new();
        let mut current = None;
        let mut turns = turns.into_iter().peekable();
        let mut start = T::MIN;
        loop {
            while let Some((_, set)) = turns.next_if(|(point, _)| *point == start) {
                match inside.binary_search(&set) {
                    Ok(place) => {
                        inside.remove(place);
                    }
                    Err(place) => inside.insert(place, set),
                }
            }
            let class = classes.acquire(&inside);
            if current == Some(class) {
                classes.release(class);
            } else {
                starts.insert(start, class);
                current = Some(class);
            }
            match turns.peek() {
                Some((next, _)) => start = *next,
                None => return Self(starts),
            }
        }
    }

    pub(super) fn class_at(&self, point: T) -> u32 {
        self.0.range(..=point).next_back().map_or(0, |(_, class)| *class)
    }

    /// Returns every range with its class, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (T, T, u32)> + '_ {
        let ends = self.0.keys().skip(1).filter_map(|next| next.predecessor()).chain([T::MAX]);
        self.0.iter().zip(ends).map(|((low, class), high)| (*low, high, *class))
    }

    /// Gives the addresses from `low` to `high` the vectors that `change` makes of theirs.
    pub(super) fn update(
        &mut self,
        low: T,
        high: T,
        classes: &mut Interner,
        change: impl Fn(&[u32]) -> Option<Vec<u32>>,
    ) -> Vec<Moved<T>> {
        self.cut(low, classes);
        if let Some(behind) = high.successor() {
            self.cut(behind, classes);
        }
        let mut starts: Vec<T> = self.0.range(low..=high).map(|(start, _)| *start).collect();
        let mut moved = Vec::new();
        let ends = starts.iter().skip(1).filter_map(|next| next.predecessor()).chain([high]);
        for (start, end) in starts.iter().copied().zip(ends) {
            let Some(class) = self.0.get_mut(&start) else { continue };
            let Some(vector) = change(classes.vector(*class)) else { continue };
            let to = classes.acquire(&vector);
            classes.release(*class);
            moved.push(Moved { low: start, high: end, from: *class, to });
            *class = to;
        }
        starts.extend(high.successor());
        starts.into_iter().for_each(|start| self.heal(start, classes));
        moved
    }

    /// Makes a range start at `point`.
    fn cut(&mut self, point: T, classes: &mut Interner) {
        let class = self.class_at(point);
        self.0.entry(point).or_insert_with(|| {
            classes.retain(class);
            class
        });
    }

    /// Joins the range that starts at `point` to the one before it, if they are of one class.
    fn heal(&mut self, point: T, classes: &mut Interner) {
        let before = point.predecessor().map(|before| self.class_at(before));
        if let Some(class) = self.0.get(&point).copied()
            && before == Some(class)
        {
            self.0.remove(&point);
            classes.release(class);
        }
    }
}
