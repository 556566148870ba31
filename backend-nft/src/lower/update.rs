//! A delta carried out on what was lowered: what changes in the table, and in which order it may.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt::{self, Display};
use core::net::IpAddr;

use netpol_core::engine::{Create, Delete, Delta, EndpointChange, MemberChange, Switch};
use netpol_core::ir::{Direction, Endpoint, Family, PeerSetId, PipelineId, Ruleset};
use netpol_core::net::AddressSet;

use super::binding::{Bindings, Redirect, keeps_keys, moves_addresses, one_side};
use super::builder::{Builder, LARGE};
use super::left::Left;
use super::state::{Log, Lowering, Object};
use super::version::{unversioned, versioned};
use super::{GENERATION, STAMP, frame_of_stamp, own, own_addresses, own_pairs};
use crate::script::{Chain, Elements, Name};

/// What a delta changes in the table.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Objects that come and go.
    pub(crate) log: Log,
    /// Chains of the frame that have other rules now.
    pub(crate) frame: BTreeSet<Name>,
    /// Addresses that are led to other chains beside them.
    pub(crate) redirects: Vec<Redirect>,
    /// What either means for whom.
    pub(crate) bindings: Bindings,
    /// Pairs of own addresses that come.
    pub(crate) pairs: Vec<Edit>,
    /// What was left must go first: some of the names are given again.
    pub(crate) in_the_way: Vec<Object>,
    /// Members that come and go.
    pub(crate) joins: Vec<Edit>,
    pub(crate) leaves: Vec<Edit>,
    /// Whether members are looked up where order decides.
    pub(crate) is_ordered: bool,
    /// What lets nothing pass unjudged that was judged before.
    pub(crate) generation: Option<Edit>,
    /// What members and the frame have to do with one another.
    pub(crate) order: Order,
}

/// In which order members and the frame change.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Order {
    /// Only one of the two changes.
    #[default]
    Apart,
    /// A pod comes: it is policed, then others know it.
    FrameThenJoins,
    /// A pod goes: others forget it as it is no longer policed.
    WithLeaves,
}

/// Members of a set that come or go.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) set: Name,
    pub(crate) joins: Elements,
    pub(crate) leaves: Elements,
    pub(crate) sides: Sides,
}

/// By which pipelines a set is looked up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sides {
    pub(crate) egress: bool,
    pub(crate) ingress: bool,
}

/// One of the two lists of a change.
type Addresses = fn(&MemberChange) -> &AddressSet;

/// How a delta is carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// Members are edited in the sets that hold them, in this order.
    Edit(Order),
    /// The sets are made anew beside, with what asks about them, and the frame switches to it whole.
    MakeAnew,
}

/// What tells a set from the one that it was.
struct Edited<'a> {
    name: &'a Name,
    change: &'a MemberChange,
}

impl Display for Edited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        self.change.joins.iter().try_for_each(|address| write!(f, " +{address}"))?;
        self.change.leaves.iter().try_for_each(|address| write!(f, " -{address}"))
    }
}

/// The delta cannot be taken apart into steps of which each is one look-up or one switch of rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Indivisible;

impl Builder<'_> {
    /// Returns whether the pairs of own addresses are those that there are.
    fn has_own_pairs(&self) -> bool {
        [Family::V4, Family::V6].into_iter().all(|family| {
            let [same, _] = own_pairs(self.ruleset, family);
            self.state.table.sets.get(own_addresses(family)) == Some(&same)
        })
    }
}

impl Lowering {
    /// Gives the rules another generation, if it counts: nothing that was judged before passes unjudged. Returns the edit of the
    /// set that holds it.
    pub(crate) fn restamp(&mut self) -> Option<Edit> {
        let [before, after] = [self.stamp?, self.stamp?.next()];
        self.stamp = Some(after);
        let set = Name::from(GENERATION);
        let [leaves, joins] =
            [before, after].map(|stamp| Elements::Marks(alloc::vec![stamp.value]));
        self.table.sets.insert(set.clone(), joins.clone());
        Some(Edit { set, joins, leaves, sides: Sides::default() })
    }

    /// Returns the chain by which connections get the generation that passes, if they get another one. No packet may be under
    /// way that was judged before the last change that closed something.
    pub(crate) fn ratification(&self) -> Option<(Name, Chain)> {
        self.stamping().filter(|_| self.stamp != self.written)
    }

    /// Returns the chain by which connections get the generation that passes.
    pub(crate) fn stamping(&self) -> Option<(Name, Chain)> {
        frame_of_stamp(self.stamp?).into_iter().find(|(name, _)| **name == *STAMP)
    }

    /// Returns whether the next generation is of the other half of all there are, of which connections may not get one any
    /// more.
    pub(crate) fn is_about_to_cross(&self) -> bool {
        self.stamp.is_some_and(|stamp| stamp.is_high() != stamp.next().is_high())
    }

    /// Remembers that nothing of what was left is there any more.
    pub(crate) fn forget_left(&mut self) {
        self.left = Left::default();
    }

    /// Remembers that connections get the generation that passes.
    pub(crate) fn ratify(&mut self) {
        if let Some((name, chain)) = self.ratification() {
            self.put_frame(&name, chain);
            self.written = self.stamp;
        }
    }

    /// Carries out a delta that leads to `ruleset`.
    ///
    /// # Errors
    /// The change must be made otherwise. The lowering is then as before.
    pub(crate) fn update(
        &mut self,
        ruleset: &Ruleset,
        delta: &Delta,
    ) -> Result<Changes, Indivisible> {
        let way = self.way(ruleset, delta)?;
        let mut changes = Changes::default();
        for create in &delta.create {
            match create {
                Create::Pipeline(id, pipeline) => self.learn(*id, pipeline),
                Create::PeerSet(..) => {} // Comes with the first chain that looks it up.
            }
        }
        let again = match way {
            Way::Edit(order) => {
                changes.order = order;
                BTreeSet::new()
            }
            Way::MakeAnew => self.make_anew(ruleset, &delta.switch.members),
        };
        let rebinds = !delta.switch.endpoints.is_empty() || !delta.switch.nodes.is_empty();
        if rebinds || way == Way::MakeAnew {
            self.rebind(ruleset, &delta.switch, &again, &mut changes);
        }
        for delete in &delta.delete {
            match delete {
                Delete::Pipeline(id) => self.forget(*id),
                Delete::PeerSet(_) => {} // Went with the last chain that looked it up.
            }
        }
        changes.log = core::mem::take(&mut self.log);
        if !changes.log.clashing.is_empty() {
            let older = self.left.objects().filter(|object| !changes.log.removed.contains(object));
            changes.in_the_way = older.chain(changes.log.clashing.iter().cloned()).collect();
            self.left.keep(&changes.log.removed);
        }
        // Where order decides, who joins may be denied.
        let is_ordered = self.is_ordered(&delta.switch.members);
        (changes.joins, changes.leaves) =
            self.members(ruleset, &delta.switch.members, &changes.log);
        let closes = !changes.leaves.is_empty()
            || !changes.frame.is_empty()
            || !changes.redirects.is_empty()
            || is_ordered && !changes.joins.is_empty();
        if closes {
            changes.generation = self.restamp();
        }
        changes.is_ordered = is_ordered;
        Ok(changes)
    }

    /// Gives the sets that hold members that change other names, under which they will be made with the members they are to
    /// have. Returns the pipelines that ask about them, which are lowered again.
    fn make_anew(&mut self, ruleset: &Ruleset, members: &[MemberChange]) -> BTreeSet<PipelineId> {
        for change in members {
            for name in self.holders.get(&change.set).into_iter().flatten() {
                let plain = unversioned(name);
                // The old name counts too: a set may come back to the members that it had.
                let content = Edited { name, change };
                self.versions.names.insert(plain.into(), versioned(plain, &content));
            }
        }
        let own = own(ruleset);
        if self.own != own {
            self.own = own;
            return self.forget_entries();
        }
        self.forget_entries_of(&members.iter().map(|change| change.set).collect())
    }

    /// Binds endpoints anew: those that changed, and those of some pipelines.
    fn rebind(
        &mut self,
        ruleset: &Ruleset,
        switch: &Switch,
        pipelines: &BTreeSet<PipelineId>,
        changes: &mut Changes,
    ) {
        let endpoints = &switch.endpoints;
        let both = endpoints.iter().flat_map(|change| change.before.iter().chain(&change.after));
        let touched: BTreeSet<IpAddr> =
            both.flat_map(|endpoint| &endpoint.addresses).copied().collect();
        let (bound, dispatched) = (self.bound(&touched), self.dispatched.clone());
        let again = || {
            let bound = |endpoint: &&Endpoint| {
                pipelines.contains(&endpoint.ingress) || pipelines.contains(&endpoint.egress)
            };
            ruleset.endpoints().filter(|_| !pipelines.is_empty()).filter(bound)
        };
        let before = endpoints.iter().filter_map(|change| change.before.as_deref());
        for before in before.chain(again()) {
            for address in &before.addresses {
                for (place, entries) in &mut self.dispatch {
                    if entries.remove(address).is_some() {
                        self.dispatched.remove(place);
                    }
                }
            }
        }
        let own_sets = |state: &Self| {
            [Family::V4, Family::V6].map(|family| {
                let name = own_addresses(family);
                state.table.sets.get(name).cloned().map(|pairs| (Name::from(name), pairs))
            })
        };
        let before = own_sets(self);
        let mut builder = Builder { ruleset, state: self };
        let after = endpoints.iter().filter_map(|change| change.after.as_deref());
        for after in after.chain(again()) {
            builder.bind(after);
        }
        builder.state.dispatch.retain(|_, entries| !entries.is_empty());
        let now = builder.state.bound(&touched);
        changes.bindings = Bindings::between(&bound, &now, &builder.state.table);
        // Strict mode asks who is known before it asks anything else.
        let is_strict = !ruleset.pod_ranges().is_empty();
        changes.bindings.is_more = !pipelines.is_empty()
            || !switch.nodes.is_empty()
            || is_strict && moves_addresses(switch);
        if keeps_keys(switch)
            && builder.has_own_pairs()
            && let Some(redirects) = one_side(&dispatched, &bound, &now)
        {
            builder.state.dispatched = dispatched;
            for Redirect { map, gone, new } in &redirects {
                builder.state.redirect(map, gone, new);
            }
            changes.redirects = redirects;
        }
        changes.frame = builder.frame();
        for (set, before) in before.into_iter().flatten() {
            let Some(after) = self.table.sets.get(&set) else { continue };
            let (joins, leaves) = (after.without(&before), before.without(after));
            let joins = self.left.join(&set, joins);
            if !joins.is_empty() {
                let none = joins.without(&joins);
                let sides = Sides::default();
                changes.pairs.push(Edit { set: set.clone(), joins, leaves: none, sides });
            }
            if !leaves.is_empty() {
                self.left.pairs.push((set, leaves));
            }
        }
    }

    /// Edits sets of addresses.
    fn members(
        &mut self,
        ruleset: &Ruleset,
        members: &[MemberChange],
        log: &Log,
    ) -> (Vec<Edit>, Vec<Edit>) {
        let changed: BTreeMap<PeerSetId, &MemberChange> =
            members.iter().map(|change| (change.set, change)).collect();
        let mut sets: BTreeSet<Name> =
            changed.keys().filter_map(|id| self.holders.get(id)).flatten().cloned().collect();
        // What has just been made has its members.
        sets.retain(|set| !log.created.contains(&Object::Set(set.clone())));
        let (mut joining, mut leaving) = (Vec::new(), Vec::new());
        for name in sets {
            let Some(parts) = self.parts.get(&name) else { continue };
            let Some(present) = self.table.sets.get(&name) else { continue };
            let concerned = parts.iter().filter_map(|id| changed.get(id));
            let joins = concerned.clone().flat_map(|change| change.joins.iter());
            let joins: Vec<IpAddr> =
                joins.filter(|address| !present.contains_address(*address)).collect();
            let still = |address: &IpAddr| {
                parts.iter().any(|id| {
                    ruleset.peer_set(*id).is_some_and(|set| set.addresses.contains(*address))
                })
            };
            let leaves = concerned.flat_map(|change| change.leaves.iter());
            let leaves: Vec<IpAddr> = leaves.filter(|address| !still(address)).collect();
            let family = if matches!(present, Elements::V4(_)) { Family::V4 } else { Family::V6 };
            let joins = Elements::of_family(family, joins.into_iter());
            let leaves = Elements::of_family(family, leaves.into_iter());
            let none = Elements::of_family(family, core::iter::empty());
            let uses = || parts.iter().filter_map(|id| self.uses.get(id));
            let sides = Sides {
                egress: uses().any(|uses| uses.egress + uses.ordered > 0),
                ingress: uses().any(|uses| uses.ingress + uses.ordered > 0),
            };
            if let Some(present) = self.table.sets.get_mut(&name) {
                present.edit(&joins, &leaves);
            }
            if !joins.is_empty() {
                joining.push(Edit { set: name.clone(), joins, leaves: none.clone(), sides });
            }
            if !leaves.is_empty() {
                leaving.push(Edit { set: name, joins: none, leaves, sides });
            }
        }
        (joining, leaving)
    }

    /// Returns how a delta can be carried out so that no packet sees half of it.
    fn way(&self, ruleset: &Ruleset, delta: &Delta) -> Result<Way, Indivisible> {
        match self.order(ruleset, delta) {
            Ok(order) => Ok(Way::Edit(order)),
            Err(Indivisible) => {
                // Large sets are never copied.
                let is_small = |change: &MemberChange| {
                    let after = ruleset.peer_set(change.set).map_or(0, |set| set.addresses.len());
                    after + change.leaves.len() <= LARGE
                };
                let is_small = delta.switch.members.iter().all(is_small);
                if is_small { Ok(Way::MakeAnew) } else { Err(Indivisible) }
            }
        }
    }

    /// Returns an order in which the parts of a delta are safe one by one.
    ///
    /// In the NetworkPolicy tier members that join open and those that leave close, however often a packet looks them up on
    /// its way. Where order decides, only a change that is one look-up of any packet can be edited.
    fn order(&self, ruleset: &Ruleset, delta: &Delta) -> Result<Order, Indivisible> {
        let switch = &delta.switch;
        // Chains name the pairs of addresses that are of one pod.
        if !switch.endpoints.is_empty() && self.own != own(ruleset) {
            return Err(Indivisible);
        }
        if switch.members.is_empty() {
            return Ok(Order::default());
        }
        for change in &switch.members {
            // How sets are put together hangs on how large they are.
            let after = ruleset.peer_set(change.set).map_or(0, |set| set.addresses.len());
            let before = (after + change.leaves.len()).saturating_sub(change.joins.len());
            if (before > LARGE) != (after > LARGE) {
                return Err(Indivisible);
            }
        }
        if !self.has_room(&switch.members) {
            return Err(Indivisible);
        }
        if self.is_ordered(&switch.members) {
            let alone = switch.endpoints.is_empty()
                && switch.nodes.is_empty()
                && delta.create.is_empty()
                && delta.delete.is_empty();
            let edit = alone && self.is_one_look_up(&switch.members);
            return if edit { Ok(Order::Apart) } else { Err(Indivisible) };
        }
        let of = |addresses: &[IpAddr], members: Addresses| {
            switch
                .members
                .iter()
                .flat_map(|change| members(change).iter())
                .all(|address| addresses.contains(&address))
        };
        let none =
            |members: Addresses| switch.members.iter().all(|change| members(change).is_empty());
        match switch.endpoints.as_slice() {
            [] if switch.nodes.is_empty() && delta.create.is_empty() && delta.delete.is_empty() => {
                if self.opens_and_closes(&switch.members) {
                    return Err(Indivisible);
                }
                Ok(Order::Apart)
            }
            // Nobody is judged by its own membership, so what others know of it is another step than what it may do.
            [EndpointChange { before: None, after: Some(pod) }]
                if of(&pod.addresses, |change| &change.joins) && none(|change| &change.leaves) =>
            {
                Ok(Order::FrameThenJoins)
            }
            [EndpointChange { before: Some(pod), after: None }]
                if of(&pod.addresses, |change| &change.leaves) && none(|change| &change.joins) =>
            {
                Ok(Order::WithLeaves)
            }
            _ => Err(Indivisible),
        }
    }

    /// Returns whether all who join have room in the sets as they are.
    fn has_room(&self, members: &[MemberChange]) -> bool {
        let mut joining: BTreeMap<&Name, usize> = BTreeMap::new();
        for change in members {
            for name in self.holders.get(&change.set).into_iter().flatten() {
                let joins = match self.table.sets.get(name) {
                    Some(Elements::V6(_)) => change.joins.v6().len(),
                    Some(_) | None => change.joins.v4().len(),
                };
                *joining.entry(name).or_default() += joins;
            }
        }
        joining.into_iter().all(|(name, joins)| {
            let room = self.table.rooms.get(name).and_then(|room| usize::try_from(*room).ok());
            let present = self.table.sets.get(name).map_or(0, Elements::len);
            joins == 0 || room.is_none_or(|room| present + joins <= room)
        })
    }

    /// Returns whether a set that changes is looked up where order decides.
    fn is_ordered(&self, members: &[MemberChange]) -> bool {
        let uses = |change: &MemberChange| self.uses.get(&change.set);
        members.iter().filter_map(uses).any(|uses| uses.ordered > 0)
    }

    /// Returns whether no packet looks up more than one of the members: one address of a family, which is at one end of a flow,
    /// in one set, that every pipeline asks about at most once.
    fn is_one_look_up(&self, members: &[MemberChange]) -> bool {
        let [change] = members else { return false };
        self.uses.get(&change.set).is_none_or(|uses| uses.repeated == 0)
            && change.joins.v4().len() + change.leaves.v4().len() <= 1
            && change.joins.v6().len() + change.leaves.v6().len() <= 1
    }

    /// Returns whether one end of a flow could open before the other closes, as `Switch::split` has it: one address joins a set
    /// of one direction, and another leaves one of the other.
    fn opens_and_closes(&self, members: &[MemberChange]) -> bool {
        let ends = |direction: Direction, of: Addresses| {
            let used = members.iter().filter(|change| {
                self.uses.get(&change.set).is_some_and(|uses| match direction {
                    Direction::Ingress => uses.ingress > 0,
                    Direction::Egress => uses.egress > 0,
                })
            });
            used.flat_map(|change| of(change).iter()).collect::<BTreeSet<IpAddr>>()
        };
        if members.iter().all(|change| change.leaves.is_empty())
            || members.iter().all(|change| change.joins.is_empty())
        {
            return false;
        }
        let differ = |opening: &BTreeSet<IpAddr>, closing: &BTreeSet<IpAddr>| {
            opening.iter().any(|one| {
                closing.iter().any(|other| one != other && one.is_ipv4() == other.is_ipv4())
            })
        };
        let opening = |direction| ends(direction, |change| &change.joins);
        let closing = |direction| ends(direction, |change| &change.leaves);
        differ(&opening(Direction::Ingress), &closing(Direction::Egress))
            || differ(&opening(Direction::Egress), &closing(Direction::Ingress))
    }
}

#[cfg(test)]
mod tests;
