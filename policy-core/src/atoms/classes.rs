//! The partition of all addresses by the peer sets that hold them.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::interner::{Interner, index, union};
use super::ranges::{Address, Ranges};
use super::refinement::Refinement;
use crate::ir::{Family, PeerSet, PeerSetId, Peers, Pipeline, Ruleset};
use crate::net::PrefixSet;

/// A small number for the addresses that the same peer sets hold.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClassId(pub(super) u32);

impl ClassId {
    /// The class of addresses that no peer set holds. It is always there.
    pub const NOBODY: Self = Self(0);

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ClassId {
    /// Writes `c` and the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// All addresses of both families, partitioned into classes: two addresses are of one class exactly if the same of the
/// peer sets in use hold both.
///
/// The number of classes follows the sets in use, not the labels in the cluster. Memory follows the addresses, and for
/// each class the sets that hold it: thousands of wide ranges that overlap everywhere cost their square. A look-up asks the table of exact
/// addresses first, then the ranges; both are disjoint in themselves. Numbers are a function of the sets for
/// [`Classes::new`], and of the sets and the changes since afterwards.
///
/// INVARIANT (union): an address's class has the members of its exact sets and of its range; upheld by every change.
#[derive(Clone, Debug)]
pub struct Classes {
    /// Look-up only, never iterated, so that order cannot leak.
    pub(super) sets: HashMap<PeerSetId, u32>,
    /// By set index; `None` for indexes without a set.
    pub(super) slots: Vec<Option<Slot>>,
    /// Indexes without a set, for the next one.
    pub(super) vacant: BTreeSet<u32>,
    /// Indexes without a set that resting classes may still speak of.
    pub(super) departed: Vec<u32>,
    /// Numbers of the classes.
    pub(super) classes: Interner,
    /// Numbers of the vectors that exact addresses have of their own, without their range's.
    pub(super) groups: Interner,
    /// Addresses that some set holds as such. Each is one use of its group and of its class.
    pub(super) exact: BTreeMap<IpAddr, Placed>,
    /// The same addresses by group, in no order: each knows its place here.
    pub(super) members: Vec<Vec<IpAddr>>,
    pub(super) v4: Ranges<u32>,
    pub(super) v6: Ranges<u128>,
}

/// A set in use.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) id: PeerSetId,
    pub(super) networks: PrefixSet,
    /// The classes that it holds, ascending.
    pub(super) holds: Vec<u32>,
    /// The groups that it holds, ascending.
    pub(super) groups: Vec<u32>,
}

impl Slot {
    pub(super) fn new(id: PeerSetId, networks: PrefixSet) -> Self {
        Self { id, networks, holds: Vec::new(), groups: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) group: u32,
    pub(super) class: u32,
    /// Its place among the members of the group.
    pub(super) place: usize,
}

impl Default for Classes {
    fn default() -> Self {
        Self::new([])
    }
}

impl Classes {
    /// Partitions by these sets. Costs their members and ranges, not sets × addresses.
    #[must_use]
    pub fn new<'a>(sets: impl IntoIterator<Item = (PeerSetId, &'a PeerSet)>) -> Self {
        let sets: BTreeMap<PeerSetId, &PeerSet> = sets.into_iter().collect();
        let numbered = || (0_u32..).zip(sets.values());
        let (mut classes, mut groups) = (Interner::new(), Interner::new());
        let v4 = numbered()
            .flat_map(|(set, content)| content.networks.v4().iter().map(move |range| (set, range)));
        let v6 = numbered()
            .flat_map(|(set, content)| content.networks.v6().iter().map(move |range| (set, range)));
        let (v4, v6) = (Ranges::new(v4, &mut classes), Ranges::new(v6, &mut classes));

        let mut refinement = Refinement::new();
        numbered().for_each(|(set, content)| refinement.refine(set, content.addresses.iter()));
        let mut exact = Vec::new();
        let mut members = Vec::new();
        let mut group_of: HashMap<u32, u32> = HashMap::new();
        let mut class_of: HashMap<(u32, u32), u32> = HashMap::new();
        for (address, node) in refinement.places() {
            let group = *group_of
                .entry(node)
                .and_modify(|group| groups.retain(*group))
                .or_insert_with(|| groups.acquire(&refinement.vector(node)));
            let range = range_class(&v4, &v6, address);
            let class = *class_of
                .entry((group, range))
                .and_modify(|class| classes.retain(*class))
                .or_insert_with(|| {
                    let vector = union(groups.vector(group), classes.vector(range));
                    classes.acquire(&vector)
                });
            let place = enlist(&mut members, group, address);
            exact.push((address, Placed { group, class, place }));
        }

        let slots = sets.iter().map(|(id, content)| Some(Slot::new(*id, content.networks.clone())));
        let mut built = Self {
            slots: slots.collect(),
            sets: sets.keys().copied().zip(0_u32..).collect(),
            vacant: BTreeSet::new(),
            departed: Vec::new(),
            classes,
            groups,
            exact: exact.into_iter().collect(),
            members,
            v4,
            v6,
        };
        built.turn();
        built
    }

    /// Partitions by every peer set of a ruleset.
    #[must_use]
    pub fn of_ruleset(ruleset: &Ruleset) -> Self {
        Self::new(ruleset.peer_sets())
    }

    /// Partitions by the peer sets that these pipelines of a ruleset use.
    #[must_use]
    pub fn of_pipelines<'a>(
        ruleset: &Ruleset,
        pipelines: impl IntoIterator<Item = &'a Pipeline>,
    ) -> Self {
        let rules = pipelines.into_iter().flat_map(Pipeline::rules);
        Self::new(rules.filter_map(|(_, rule)| match rule.peers {
            Peers::Any => None,
            Peers::Set(id) => ruleset.peer_set(id).map(|set| (id, set)),
        }))
    }

    /// Returns the class of an address.
    #[must_use]
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        ClassId(self.exact.get(&address).map_or_else(|| self.range_of(address), |at| at.class))
    }

    /// Returns the class of the range that an address lies in: what it has unless it is an exact address.
    #[must_use]
    pub fn class_of_range(&self, address: IpAddr) -> ClassId {
        ClassId(self.range_of(address))
    }

    /// Returns the classes there are, ascending: those of some address or of some range, and [`ClassId::NOBODY`].
    pub fn iter(&self) -> impl Iterator<Item = ClassId> + '_ {
        self.classes.used().map(ClassId)
    }

    /// Returns how many classes there are; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a partition is never empty")]
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Returns whether a set holds the addresses of a class.
    #[must_use]
    pub fn holds(&self, set: PeerSetId, class: ClassId) -> bool {
        self.sets
            .get(&set)
            .is_some_and(|set| self.classes.vector(class.0).binary_search(set).is_ok())
    }

    /// Returns the sets that hold a class, ascending.
    #[must_use]
    pub fn sets_of(&self, class: ClassId) -> BTreeSet<PeerSetId> {
        let slots = self.classes.vector(class.0).iter().map(|set| self.slots.get(index(*set)));
        slots.flatten().flatten().map(|slot| slot.id).collect()
    }

    /// Returns the classes that a set holds, ascending.
    pub fn held_by(&self, set: PeerSetId) -> impl Iterator<Item = ClassId> + '_ {
        let slot = self.sets.get(&set).and_then(|set| self.slots.get(index(*set)));
        slot.into_iter().flatten().flat_map(|slot| slot.holds.iter().copied().map(ClassId))
    }

    /// Returns the sets in use, by their numbers.
    pub fn sets(&self) -> impl Iterator<Item = PeerSetId> + '_ {
        self.slots.iter().flatten().map(|slot| slot.id)
    }

    /// Returns the exact addresses of a set, ascending; none if it is not in use.
    #[must_use]
    pub fn members(&self, set: PeerSetId) -> Option<Vec<IpAddr>> {
        let Some(Some(slot)) = self.slots.get(index(*self.sets.get(&set)?)) else { return None };
        Some(self.members_of(slot))
    }

    pub(super) fn members_of(&self, slot: &Slot) -> Vec<IpAddr> {
        let groups = slot.groups.iter().filter_map(|group| self.members.get(index(*group)));
        let mut members: Vec<IpAddr> = groups.flatten().copied().collect();
        members.sort_unstable();
        members
    }

    /// Returns the table of exact addresses: those whose class is not that of their range, ascending.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, ClassId)> + '_ {
        self.exact
            .iter()
            .filter(|(address, at)| at.class != self.range_of(**address))
            .map(|(address, at)| (*address, ClassId(at.class)))
    }

    /// Returns every range of a family with its class, ascending: its first and its last address.
    pub fn ranges(&self, family: Family) -> impl Iterator<Item = (IpAddr, IpAddr, ClassId)> + '_ {
        let v4 = (family == Family::V4).then(|| self.v4.iter()).into_iter().flatten();
        let v6 = (family == Family::V6).then(|| self.v6.iter()).into_iter().flatten();
        v4.map(|(low, high, class)| (low.address(), high.address(), ClassId(class)))
            .chain(v6.map(|(low, high, class)| (low.address(), high.address(), ClassId(class))))
    }

    /// Returns the ranges of a family as disjoint networks, ascending, without those of [`ClassId::NOBODY`].
    ///
    /// A single address may stand here and in [`Classes::addresses`]: the latter is asked first.
    pub fn prefixes(&self, family: Family) -> impl Iterator<Item = (IpNet, ClassId)> + '_ {
        let v4 = (family == Family::V4).then(|| prefixes(&self.v4)).into_iter().flatten();
        let v6 = (family == Family::V6).then(|| prefixes(&self.v6)).into_iter().flatten();
        v4.chain(v6)
    }

    pub(super) fn range_of(&self, address: IpAddr) -> u32 {
        range_class(&self.v4, &self.v6, address)
    }

    /// Brings up to date what follows from which classes are in use, and says which were born and which died.
    pub(super) fn turn(&mut self) -> (Vec<ClassId>, Vec<ClassId>) {
        let (born, died) = self.groups.turned();
        self.hold(&born, &died, |classes| &classes.groups, |slot| &mut slot.groups);
        self.groups.recycle();
        let (born, died) = self.classes.turned();
        self.hold(&born, &died, |classes| &classes.classes, |slot| &mut slot.holds);
        let ids = |numbers: Vec<u32>| numbers.into_iter().map(ClassId).collect();
        (ids(born), ids(died))
    }

    /// Tells the sets which vectors they hold that were born or died.
    fn hold(
        &mut self,
        born: &[u32],
        died: &[u32],
        vectors: fn(&Self) -> &Interner,
        holds: fn(&mut Slot) -> &mut Vec<u32>,
    ) {
        for (number, is_born) in born
            .iter()
            .map(|number| (*number, true))
            .chain(died.iter().map(|number| (*number, false)))
        {
            let vector = vectors(self).vector(number).to_vec();
            for set in vector {
                let Some(Some(slot)) = self.slots.get_mut(index(set)) else { continue };
                let holds = holds(slot);
                match holds.binary_search(&number) {
                    Err(place) if is_born => holds.insert(place, number),
                    Ok(place) if !is_born => {
                        holds.remove(place);
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
}

/// Puts an address among the members of a group. Returns its place there.
pub(super) fn enlist(members: &mut Vec<Vec<IpAddr>>, group: u32, address: IpAddr) -> usize {
    if members.len() <= index(group) {
        members.resize(index(group) + 1, Vec::new());
    }
    let Some(members) = members.get_mut(index(group)) else { return 0 };
    members.push(address);
    members.len() - 1
}

fn range_class(v4: &Ranges<u32>, v6: &Ranges<u128>, address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => v4.class_at(u32::from(address)),
        IpAddr::V6(address) => v6.class_at(u128::from(address)),
    }
}

fn prefixes<T: Address>(ranges: &Ranges<T>) -> impl Iterator<Item = (IpNet, ClassId)> + '_ {
    ranges.iter().filter(|(_, _, class)| *class != 0).flat_map(|(low, high, class)| {
        low.networks(high).into_iter().map(move |network| (network, ClassId(class)))
    })
}
