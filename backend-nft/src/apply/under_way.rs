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
//! So each transaction asks what of the ones before it a packet may not know:
//!
//! - *Rules* of the frame switch as a whole only for packets that began no earlier than the last transaction.
//! - *Members that join and leave* in the NetworkPolicy tier are bits of a formula that only rises with them, looked up on the
//!   source's side first: the destination in sets of egress, then the source in sets of ingress. A packet goes wrong only if
//!   it looked for an address where it was not yet and then where it is no more, or found one that left sets of egress and
//!   then another that joined sets of ingress.
//! - *Where order decides*, one look-up of one member is all that may be unsettled.
//! - *Chains that go* must have been left by everybody.
//!
//! What comes or goes in one set alone is one look-up of any packet: it waits for nothing, and nothing waits for it.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;

use crate::lower::Edit;
use crate::script::Name;

/// More addresses than this are not told apart.
const MANY: usize = 4096;

/// What packets under way may have seen otherwise than it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled {
    /// There was a transaction.
    any: bool,
    /// Where addresses joined and still are, and where they left.
    joined: BTreeMap<IpAddr, BTreeSet<Name>>,
    left: BTreeMap<IpAddr, BTreeSet<Name>>,
    /// Addresses that left sets of egress.
    left_egress: BTreeSet<IpAddr>,
    /// Some of it is looked up where order decides.
    is_ordered: bool,
    /// Too much to be told apart.
    is_much: bool,
}

/// What packets see of a transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen<'a> {
    /// Rules of the frame.
    pub(super) rules: bool,
    /// Entries of a dispatch map.
    pub(super) redirects: bool,
    pub(super) joins: &'a [Edit],
    pub(super) leaves: &'a [Edit],
    /// Members are looked up where order decides.
    pub(super) is_ordered: bool,
}

impl Unsettled {
    /// Returns whether packets that began before must be gone before this.
    pub(super) fn hinders(&self, seen: &Seen<'_>) -> bool {
        if seen.rules {
            return self.any;
        }
        let is_seen = seen.redirects || !seen.joins.is_empty() || !seen.leaves.is_empty();
        if self.is_much && is_seen {
            return true;
        }
        if seen.redirects {
            return !self.left.is_empty() || self.is_ordered;
        }
        if (seen.is_ordered || self.is_ordered) && self.is_more_than_one(seen) {
            return true;
        }
        self.has_moved(seen.leaves) || self.opens_behind(seen.joins)
    }

    /// Returns whether an address leaves a set that joined another one.
    fn has_moved(&self, leaves: &[Edit]) -> bool {
        leaves.iter().any(|edit| {
            let joined = edit.leaves.addresses().filter_map(|address| self.joined.get(&address));
            joined.flatten().any(|set| *set != edit.set)
        })
    }

    /// Returns whether an address joins a set of ingress when another one left one of egress.
    fn opens_behind(&self, joins: &[Edit]) -> bool {
        let differ = |one: IpAddr| {
            self.left_egress.iter().any(|other| *other != one && other.is_ipv4() == one.is_ipv4())
        };
        joins
            .iter()
            .filter(|edit| edit.sides.ingress)
            .flat_map(|edit| edit.joins.addresses())
            .any(differ)
    }

    /// Returns whether there would be more than one look-up of a packet unsettled.
    fn is_more_than_one(&self, seen: &Seen<'_>) -> bool {
        let before = self.joined.iter().chain(&self.left);
        let before = before.flat_map(|(address, sets)| sets.iter().map(move |set| (*address, set)));
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
        self.any = true;
        if self.is_much {
            return;
        }
        for edit in seen.joins {
            for address in edit.joins.addresses() {
                self.joined.entry(address).or_default().insert(edit.set.clone());
            }
        }
        for edit in seen.leaves {
            for address in edit.leaves.addresses() {
                self.left.entry(address).or_default().insert(edit.set.clone());
                // What came and went again made nothing good that goes now.
                if let Some(joined) = self.joined.get_mut(&address) {
                    joined.remove(&edit.set);
                }
                if edit.sides.egress {
                    self.left_egress.insert(address);
                }
            }
        }
        let is_seen = !seen.joins.is_empty() || !seen.leaves.is_empty();
        self.is_ordered |= seen.is_ordered && is_seen;
        self.is_much = self.joined.len() + self.left.len() > MANY;
    }

    /// There was a transaction, behind which nobody knows anything else than there is.
    pub(super) fn by_something() -> Self {
        Self { any: true, ..Self::default() }
    }

    /// Every packet is gone that began before now.
    pub(super) fn settle(&mut self) {
        *self = Self::default();
    }
}
