//! Packets under way: what those that began a while ago may have seen otherwise than it is, and when they must be gone.
//!
//! The kernel changes a table in one moment, but a packet needs longer than that for its way, now and then much longer: its
//! processor may be taken away in the middle. What it finds:
//!
//! - Sets and maps are as they are at each look-up.
//! - Rules are those it began with until the next transaction but one. The kernel keeps two editions of a chain and lets
//!   them take turns, so that whoever began before the last transaction finds in every chain it enters what the next one
//!   puts there, a moment before that is in force; a chain that is deleted it finds empty.
//!
//! It asks the source's side first, then the destination's, and passes if both let it. So it never goes wrong where both let
//! it through all the time, and goes through where it must not only if it found the source's side before that *closed* and
//! the destination's behind where that *opened*, whether by one transaction or by several. In particular:
//!
//! - *A switch of rules* that opens one side and closes the other is one moment only for packets that began no earlier than
//!   the last transaction, and only until the next one. Any other may be read a moment early or late.
//! - *Members that join and leave* in the NetworkPolicy tier are bits of a formula that only rises with them. A packet may
//!   look for an address where it was not yet and then where it is no more, or find one that left sets of egress and
//!   then another that joined sets of ingress.
//! - *Where order decides*, one look-up of one member is all that may be unsettled.
//! - *Behind a pod that got another pipeline* packets may still be in the one before: what that asks about stays as it is.
//! - *Chains that go* must have been left by everybody.
//!
//! What comes or goes in one set alone is one look-up of any packet: it waits for nothing, and nothing waits for it.

use alloc::collections::BTreeMap;
use alloc::collections::BTreeSet;
use core::net::IpAddr;

use crate::lower::{Bindings, Edit};
use crate::script::Name;

/// More addresses than this are not told apart.
const MANY: usize = 4096;

/// What packets under way may have seen otherwise than it is, by the number of the transaction that made it so.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled {
    /// The number of the last transaction.
    last: u64,
    /// Every packet is gone that began before this one.
    settled: u64,
    /// Where addresses joined and still are, and where they left.
    joined: BTreeMap<IpAddr, BTreeMap<Name, u64>>,
    left: BTreeMap<IpAddr, BTreeMap<Name, u64>>,
    /// Addresses that left sets of egress.
    left_egress: BTreeMap<IpAddr, u64>,
    /// Pods that may send less.
    closed_egress: BTreeMap<IpAddr, u64>,
    /// Sets that pipelines ask about which pods had before.
    departed: BTreeMap<Name, u64>,
    /// Members are looked up where order decides.
    ordered: u64,
    /// Rules opened one side and closed the other, or it is too much to be told apart: everything waits.
    crossed: u64,
}

/// What packets see of a transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen<'a> {
    pub(super) switch: Switched<'a>,
    pub(super) joins: &'a [Edit],
    pub(super) leaves: &'a [Edit],
    /// Members are looked up where order decides.
    pub(super) is_ordered: bool,
}

/// How pods are led elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Switched<'a> {
    #[default]
    Nobody,
    /// By rules of the frame.
    ByRules(&'a Bindings),
    /// By entries of one side's dispatch maps.
    ByEntries(&'a Bindings),
}

impl<'a> Switched<'a> {
    const fn bindings(self) -> Option<&'a Bindings> {
        match self {
            Self::Nobody => None,
            Self::ByRules(bindings) | Self::ByEntries(bindings) => Some(bindings),
        }
    }
}

impl Seen<'_> {
    const fn has_edits(&self) -> bool {
        !self.joins.is_empty() || !self.leaves.is_empty()
    }

    /// Returns whether rules may open one side of a flow of which something closes the other.
    fn crosses(&self) -> bool {
        match self.switch {
            Switched::Nobody | Switched::ByEntries(_) => false,
            Switched::ByRules(bindings) => {
                bindings.is_more || bindings.crosses() || self.has_edits()
            }
        }
    }
}

impl Unsettled {
    /// Returns whether packets may be under way that began before the last transaction.
    pub(super) const fn any(&self) -> bool {
        self.last > self.settled
    }

    /// Returns the number of the last transaction.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Returns whether every packet is gone that began before a transaction.
    pub(super) const fn is_settled(&self, number: u64) -> bool {
        self.settled >= number
    }

    /// Returns whether packets that began before must be gone before this.
    pub(super) fn hinders(&self, seen: &Seen<'_>) -> bool {
        if self.crossed > self.settled {
            return true;
        }
        let bindings = seen.switch.bindings();
        if !self.any() || bindings.is_none() && !seen.has_edits() {
            return false;
        }
        if seen.crosses() {
            return true;
        }
        let is_ordered = self.ordered > self.settled;
        if bindings.is_some_and(|bindings| is_ordered || self.is_closed_before(bindings)) {
            return true;
        }
        if (seen.is_ordered || is_ordered) && seen.has_edits() && self.is_more_than_one(seen) {
            return true;
        }
        let both = seen.joins.iter().chain(seen.leaves);
        both.clone().any(|edit| self.departed.contains_key(&edit.set))
            || seen.is_ordered && !self.closed_egress.is_empty()
            || self.has_moved(seen.leaves)
            || self.opens_behind(seen.joins)
    }

    /// Returns whether pods that are led elsewhere may receive more from where something was closed that sent to them.
    fn is_closed_before(&self, bindings: &Bindings) -> bool {
        bindings.ingress.opens.iter().any(|pod| {
            let is_of_family = |other: &IpAddr| other.is_ipv4() == pod.is_ipv4();
            self.left_egress.contains_key(pod) || self.closed_egress.keys().any(is_of_family)
        })
    }

    /// Returns whether an address leaves a set that joined another one.
    fn has_moved(&self, leaves: &[Edit]) -> bool {
        leaves.iter().any(|edit| {
            let joined = edit.leaves.addresses().filter_map(|address| self.joined.get(&address));
            joined.flat_map(BTreeMap::keys).any(|set| *set != edit.set)
        })
    }

    /// Returns whether an address joins a set of ingress when another one left one of egress, or when it may send less itself.
    fn opens_behind(&self, joins: &[Edit]) -> bool {
        let behind = |one: IpAddr| {
            self.closed_egress.contains_key(&one)
                || self
                    .left_egress
                    .keys()
                    .any(|other| *other != one && other.is_ipv4() == one.is_ipv4())
        };
        joins
            .iter()
            .filter(|edit| edit.sides.ingress)
            .flat_map(|edit| edit.joins.addresses())
            .any(behind)
    }

    /// Returns whether there would be more than one look-up of a packet unsettled.
    fn is_more_than_one(&self, seen: &Seen<'_>) -> bool {
        let before = self.joined.iter().chain(&self.left);
        let before = before.flat_map(|(address, sets)| sets.keys().map(move |set| (*address, set)));
        let before: BTreeSet<(IpAddr, &Name)> = before.collect();
        let mut all = before.clone();
        for edit in seen.joins.iter().chain(seen.leaves) {
            let addresses = edit.joins.addresses().chain(edit.leaves.addresses());
            all.extend(addresses.map(|address| (address, &edit.set)));
        }
        let of = |is_v4| all.iter().filter(|(address, _)| address.is_ipv4() == is_v4).count();
        !before.is_empty() && (of(true) > 1 || of(false) > 1)
    }

    /// Remembers a transaction.
    pub(super) fn note(&mut self, seen: &Seen<'_>) {
        self.last += 1;
        let number = self.last;
        if seen.crosses() {
            self.crossed = number;
        }
        if let Some(bindings) = seen.switch.bindings() {
            self.closed_egress.extend(bindings.egress.closes.iter().map(|pod| (*pod, number)));
            self.departed.extend(bindings.departed.iter().map(|set| (set.clone(), number)));
        }
        for edit in seen.joins {
            for address in edit.joins.addresses() {
                self.joined.entry(address).or_default().insert(edit.set.clone(), number);
            }
        }
        for edit in seen.leaves {
            for address in edit.leaves.addresses() {
                self.left.entry(address).or_default().insert(edit.set.clone(), number);
                // What came and went again made nothing good that goes now.
                if let Some(joined) = self.joined.get_mut(&address) {
                    joined.remove(&edit.set);
                }
                if edit.sides.egress {
                    self.left_egress.insert(address, number);
                }
            }
        }
        if seen.is_ordered && seen.has_edits() {
            self.ordered = number;
        }
        let members = self.joined.len() + self.left.len();
        if members + self.closed_egress.len() + self.departed.len() > MANY {
            self.forget();
            self.crossed = number;
        }
    }

    /// There was something behind which nobody knows anything else than there is.
    pub(super) fn note_anything(&mut self) {
        self.forget();
        self.last += 1;
    }

    /// Every packet is gone that began before a transaction.
    pub(super) fn settle_until(&mut self, number: u64) {
        if number <= self.settled {
            return;
        }
        self.settled = number;
        if number >= self.last {
            self.forget();
            return;
        }
        for places in [&mut self.joined, &mut self.left] {
            for sets in places.values_mut() {
                sets.retain(|_, when| *when > number);
            }
            places.retain(|_, sets| !sets.is_empty());
        }
        self.left_egress.retain(|_, when| *when > number);
        self.closed_egress.retain(|_, when| *when > number);
        self.departed.retain(|_, when| *when > number);
    }

    /// Every packet is gone that began before now.
    pub(super) fn settle(&mut self) {
        self.settle_until(self.last);
    }

    fn forget(&mut self) {
        let Self { last, settled, crossed, .. } = *self;
        *self = Self { last, settled, crossed, ..Self::default() };
    }
}

impl Bindings {
    /// Returns whether a flow may have one side opened and the other closed.
    fn crosses(&self) -> bool {
        let meet = |ones: &BTreeSet<IpAddr>, others: &BTreeSet<IpAddr>| {
            let has = |is_v4| {
                let is_of_family = |address: &IpAddr| address.is_ipv4() == is_v4;
                ones.iter().any(is_of_family) && others.iter().any(is_of_family)
            };
            has(true) || has(false)
        };
        meet(&self.egress.closes, &self.ingress.opens)
            || meet(&self.egress.opens, &self.ingress.closes)
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::{MANY, Seen, Unsettled};
    use crate::lower::{Edit, Sides};
    use crate::script::Elements;

    #[test]
    fn behind_too_many_members_everything_waits_until_they_are_settled() {
        let mut unsettled = Unsettled::default();
        for number in 0..=u32::try_from(MANY).unwrap() {
            assert!(!unsettled.hinders(&Seen::default()), "{number}");
            let address: IpAddr = core::net::Ipv4Addr::from(number).into();
            let joins = Elements::of_family(netpol_core::ir::Family::V4, [address].into_iter());
            let leaves = joins.without(&joins);
            let sides = Sides { egress: true, ingress: true };
            let edits = [Edit { set: "s".into(), joins, leaves, sides }];
            unsettled.note(&Seen { joins: &edits, ..Seen::default() });
        }
        assert!(unsettled.hinders(&Seen::default()));
        unsettled.note(&Seen::default());
        unsettled.settle_until(unsettled.last() - 2);
        assert!(unsettled.hinders(&Seen::default()));
        unsettled.settle_until(unsettled.last() - 1);
        assert!(!unsettled.hinders(&Seen::default()) && unsettled.any());
    }
}
