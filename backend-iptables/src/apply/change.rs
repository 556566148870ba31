//! A delta as steps that the kernel takes one after the other: pure, so that a model can take them too.
//!
//! A flow is allowed if the source's egress and the destination's ingress allow it. What every step keeps: what both the old
//! and the new ruleset allow is allowed, what both deny is denied.
//!
//! - *Only members change.* [`Switch::split`] says when joins may come before leaves, and why. Where an address joins and
//!   leaves, packets on their way are waited for in between: one could look for it where it is not yet, then where it is no
//!   more.
//! - *Pods come*, with addresses that no pod had. Before, their own side allowed everything, so old is what the others'
//!   side said. They are bound first, then join: on the way stands the new own side with the old other side, which is
//!   between the two. In strict mode everything was denied, and is until they are known, which comes last.
//! - *Pods go.* The other way round: first they are unknown, then they leave, then they are bound no more.
//! - A packet looks up one set after the other, so that it can see one as it was before a step and another as it is after the
//!   next. Where that would be neither old nor new, packets on their way are waited for between the two: one that was not
//!   bound yet would find what joined; one that was known, or a member, would find itself bound no more; and one that the
//!   root of a search led there would find no leaf.
//! - *Everything else* is switched by rules that name other editions of the sets that change. Where pods only come, or only
//!   go, members still change in place, after or before the switch, since nothing above hangs on how pods are bound.
//!
//! A single change of a single set is atomic whatever its place; where order decides, that is all that is done in place.
//! Flows between two pods that come in one delta are judged as if one came after the other.
//!
//! [`Switch::split`]: netpol_core::engine::Switch::split

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::backend::Established;
use netpol_core::engine::{Create, Delete, Delta, EndpointChange};
use netpol_core::ir::{Direction, Endpoint, Family, PeerSelector, PeerSet, PeerSetId, Ruleset};

use super::held::Held;
use crate::lower::Memory;
use crate::lower::role::Role;
use crate::restore::{Member, Name};
use crate::{Iptables, OwnAddress};

/// With more unsettled addresses than this the rules are switched, which settles all.
const UNSETTLED: usize = 1024;

/// One change of one set, or a pause.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Op {
    /// Members join.
    Add(Name, BTreeSet<Member>),
    /// Members leave.
    Delete(Name, BTreeSet<Member>),
    /// Packets on their way are waited for.
    Grace,
}

/// What is to be done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Plan {
    /// In place, first.
    pub(super) before: Vec<Op>,
    /// New rules in between, with this memory.
    pub(super) rules: Option<Memory>,
    /// In place, last.
    pub(super) after: Vec<Op>,
}

/// What kind of change of endpoints a delta has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pods {
    /// None.
    Same,
    /// Pods come, with addresses that nobody had.
    Come,
    /// Pods go, and nobody gets their addresses.
    Go,
    /// Anything else.
    Mixed,
}

/// Returns what a delta takes; `None` where it cannot be told.
pub(super) fn plan(
    held: &Held,
    options: &Iptables,
    ruleset: &Ruleset,
    delta: &Delta,
) -> Option<Plan> {
    let change = Change { held, options, ruleset, delta, pods: pods(&delta.switch.endpoints) };
    change.plan()
}

struct Change<'a> {
    held: &'a Held,
    options: &'a Iptables,
    ruleset: &'a Ruleset,
    delta: &'a Delta,
    pods: Pods,
}

impl Change<'_> {
    fn plan(&self) -> Option<Plan> {
        if self.is_odd() {
            return None;
        }
        let members = self.members()?;
        let new_rules = self.needs_rules();
        let in_place = self.may_change_members(&members);
        let unsettled = self.unsettle(&members);
        let fits = |name: &Option<Name>| {
            let fill = name.as_ref().and_then(|name| self.held.fills.get(name));
            let joins = unsettled.iter().map(Op::len).sum::<usize>();
            fill.is_none_or(|fill| fill.members + joins <= UNSETTLED)
        };
        let mut plan = Plan::default();
        if in_place
            && !new_rules
            && self.pods != Pods::Mixed
            && self.held.index.unsettled.iter().all(fits)
        {
            plan.before = unsettled;
            match self.pods {
                Pods::Same | Pods::Mixed => plan.before.extend(joins_then_leaves(&members)),
                Pods::Come => {
                    plan.before.extend(self.bind());
                    let joins = joins(&members);
                    plan.before.extend((!joins.is_empty()).then_some(Op::Grace));
                    plan.before.extend(joins);
                    plan.before.extend(self.acquaintance());
                }
                Pods::Go => {
                    let mut first = self.acquaintance();
                    first.extend(leaves(&members));
                    first.extend((!first.is_empty()).then_some(Op::Grace));
                    plan.before.extend(first);
                    plan.before.extend(self.unbind());
                }
            }
            return Some(plan);
        }
        let mut memory = self.memory();
        let mut changed: BTreeSet<Name> = self.bound_sets();
        if self.held.index.known.iter().any(Option::is_some) {
            changed.extend(self.owner_sets());
        }
        match self.pods {
            Pods::Come if in_place => plan.after = joins(&members),
            Pods::Go if in_place => {
                plan.before = unsettled;
                plan.before.extend(leaves(&members));
            }
            Pods::Same | Pods::Come | Pods::Go | Pods::Mixed => {
                changed.extend(members.into_keys());
            }
        }
        for name in changed {
            memory.turn(&name);
        }
        plan.rules = Some(memory);
        Some(plan)
    }

    /// Returns whether there is an address that sets hold in other ways than others.
    fn is_odd(&self) -> bool {
        let switch = &self.delta.switch;
        let endpoints = switch.endpoints.iter().flat_map(|change| [&change.before, &change.after]);
        let pods = endpoints.flatten().flat_map(|endpoint| endpoint.addresses.iter().copied());
        let members = switch
            .members
            .iter()
            .flat_map(|change| change.joins.iter().chain(change.leaves.iter()));
        pods.chain(members).any(|address| address.is_unspecified())
    }

    /// Returns whether rules change, not only members.
    fn needs_rules(&self) -> bool {
        let Delta { create, switch, delete } = self.delta;
        let strict = self.held.index.known.iter().any(Option::is_some);
        let endpoints =
            || switch.endpoints.iter().flat_map(|change| [&change.before, &change.after]).flatten();
        // A pod with two addresses of one family has rules of its own.
        let several = |endpoint: &Endpoint| {
            let v4 = endpoint.addresses.iter().filter(|address| address.is_ipv4()).count();
            v4 > 1 || endpoint.addresses.len().saturating_sub(v4) > 1
        };
        !create.is_empty()
            || !delete.is_empty()
            || strict && !switch.nodes.is_empty()
            || self.options.own_address == OwnAddress::List && !switch.endpoints.is_empty()
            || endpoints().any(|endpoint| several(endpoint))
            || self.families_change()
    }

    /// Returns whether a family comes into use, or out of it.
    fn families_change(&self) -> bool {
        [Family::V4, Family::V6]
            .into_iter()
            .zip(self.counts())
            .zip(self.held.addresses)
            .any(|((_, after), before)| (after == 0) != (before == 0))
    }

    /// Returns how many addresses of pods there are in each family after the change.
    fn counts(&self) -> [usize; 2] {
        counted(self.held.addresses, &self.delta.switch.endpoints)
    }

    /// Returns the members that join and leave each set of peers; `None` where a peer set is not known to us.
    fn members(&self) -> Option<BTreeMap<Name, Turnover>> {
        let changes = &self.delta.switch.members;
        let created: BTreeSet<PeerSetId> = self
            .delta
            .create
            .iter()
            .filter_map(|create| match create {
                Create::PeerSet(id, _) => Some(*id),
                Create::Pipeline(..) => None,
            })
            .collect();
        let mut toggled: BTreeSet<(PeerSetId, IpAddr)> = BTreeSet::new();
        let mut touched: BTreeMap<&Name, BTreeSet<IpAddr>> = BTreeMap::new();
        for change in changes {
            if created.contains(&change.set) {
                return None;
            }
            for address in change.joins.iter().chain(change.leaves.iter()) {
                toggled.insert((change.set, address));
            }
            let deleted = self.delta.delete.contains(&Delete::PeerSet(change.set));
            let set = self.ruleset.peer_set(change.set);
            let is_pods = |set: &PeerSet| !matches!(set.selector, PeerSelector::Networks(_));
            if !set.map_or(deleted, is_pods) {
                return None;
            }
            for name in self.held.index.by_peers.get(&change.set).into_iter().flatten() {
                let addresses = touched.entry(name).or_default();
                addresses.extend(change.joins.iter().chain(change.leaves.iter()));
            }
        }
        let now = |id: PeerSetId, address: IpAddr| {
            self.ruleset.peer_set(id).is_some_and(|set| set.addresses.contains(address))
        };
        let mut members = BTreeMap::new();
        for (name, addresses) in touched {
            let (family, role) = self.held.role(name)?;
            let mut turnover = Turnover::default();
            for address in addresses.into_iter().filter(|address| Family::of(*address) == *family) {
                let after = role.made_by(address, |id| now(id, address));
                let before = role
                    .made_by(address, |id| now(id, address) != toggled.contains(&(id, address)));
                turnover.joins.extend(after.difference(&before));
                turnover.leaves.extend(before.difference(&after));
            }
            if !turnover.joins.is_empty() || !turnover.leaves.is_empty() {
                members.insert(name.clone(), turnover);
            }
        }
        Some(members)
    }

    /// Returns whether the members may change in place, in the order that the kind of change asks for.
    fn may_change_members(&self, members: &BTreeMap<Name, Turnover>) -> bool {
        let changes = &self.delta.switch.members;
        let one_step = [Family::V4, Family::V6].into_iter().all(|family| {
            let of_family =
                |name: &Name| self.held.role(name).is_some_and(|(own, _)| *own == family);
            let own = members.iter().filter(|(name, _)| of_family(name));
            own.map(|(_, turnover)| turnover.joins.len() + turnover.leaves.len()).sum::<usize>()
                <= 1
        });
        let ordered = changes.iter().any(|change| self.held.index.ordered.contains(&change.set));
        let joins = changes.iter().any(|change| !change.joins.is_empty());
        let leaves = changes.iter().any(|change| !change.leaves.is_empty());
        match self.pods {
            Pods::Mixed => changes.is_empty(),
            Pods::Same if one_step => true,
            Pods::Same if joins && leaves => {
                self.delta.create.is_empty()
                    && self.delta.delete.is_empty()
                    && self.delta.switch.split(self.ruleset).is_some()
            }
            Pods::Same => !ordered,
            Pods::Come => !leaves && self.are_of_these_pods() && (!ordered || one_step),
            Pods::Go => !joins && self.are_of_these_pods() && (!ordered || one_step),
        }
    }

    /// Returns whether only addresses of the pods that change are members that change.
    fn are_of_these_pods(&self) -> bool {
        let endpoints = self.delta.switch.endpoints.iter();
        let own: BTreeSet<IpAddr> = endpoints
            .flat_map(|change| [&change.before, &change.after])
            .flatten()
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect();
        let mut changes = self.delta.switch.members.iter();
        changes.all(|change| {
            change.joins.iter().chain(change.leaves.iter()).all(|address| own.contains(&address))
        })
    }

    /// Returns the steps after which connections are judged anew of whatever may be denied now.
    fn unsettle(&self, members: &BTreeMap<Name, Turnover>) -> Vec<Op> {
        if self.options.established == Established::Keep {
            return Vec::new();
        }
        let switch = &self.delta.switch;
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for change in &switch.members {
            addresses.extend(change.leaves.iter());
            if self.held.index.ordered.contains(&change.set) {
                addresses.extend(change.joins.iter());
            }
        }
        let _ = members;
        let endpoints = switch.endpoints.iter().flat_map(|change| [&change.before, &change.after]);
        addresses
            .extend(endpoints.flatten().flat_map(|endpoint| endpoint.addresses.iter().copied()));
        let [v4, v6] = &self.held.index.unsettled;
        [(v4, true), (v6, false)]
            .into_iter()
            .filter_map(|(name, is_v4)| {
                let own = addresses.iter().filter(|address| address.is_ipv4() == is_v4);
                let own: BTreeSet<Member> = own.copied().map(Member::Address).collect();
                Some(Op::Add(name.clone()?, own)).filter(|op| op.len() > 0)
            })
            .collect()
    }

    /// Returns the steps that bind pods that come, leaf before root.
    fn bind(&self) -> Vec<Op> {
        let bindings = self.bindings();
        bindings.into_iter().map(|(_, name, members)| Op::Add(name, members)).collect()
    }

    /// Returns the steps that unbind pods that go, root before leaf. The root of one search may be within another.
    fn unbind(&self) -> Vec<Op> {
        let bindings = self.bindings();
        let root = |name: &Name| match self.held.role(name) {
            Some((_, Role::Bound(direction, pipelines)))
                if self.held.index.roots.contains(name) =>
            {
                Some((*direction, pipelines.len()))
            }
            Some(_) | None => None,
        };
        let sizes: BTreeSet<_> = bindings.iter().filter_map(|(_, name, _)| root(name)).collect();
        let mut levels: BTreeMap<usize, Vec<Op>> = BTreeMap::new();
        for (_, name, members) in bindings {
            let level = root(&name).map_or(usize::MAX, |(direction, size)| {
                sizes.iter().filter(|(own, other)| *own == direction && *other > size).count()
            });
            levels.entry(level).or_default().push(Op::Delete(name, members));
        }
        let mut steps = Vec::new();
        for level in levels.into_values() {
            steps.extend((!steps.is_empty()).then_some(Op::Grace));
            steps.extend(level);
        }
        steps
    }

    /// Returns the sets by which pods that change are bound, leaf before root, with the number of their pipelines.
    fn bindings(&self) -> Vec<(usize, Name, BTreeSet<Member>)> {
        let mut bindings: Vec<(usize, Name, BTreeSet<Member>)> = Vec::new();
        for endpoint in self.pods_that_change() {
            for (place, name, member) in self.bound(endpoint) {
                match bindings.iter_mut().find(|(_, known, _)| *known == name) {
                    Some((_, _, members)) => {
                        members.insert(member);
                    }
                    None => bindings.push((place, name, [member].into())),
                }
            }
        }
        // Sets of as many pipelines stand beside each other, never in one way.
        bindings.sort_by_key(|(place, _, _)| *place);
        bindings
    }

    /// Returns the sets that an endpoint's addresses are bound by, each with the number of its pipelines.
    fn bound(&self, endpoint: &Endpoint) -> Vec<(usize, Name, Member)> {
        let mut bound = Vec::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            let key = (direction, endpoint.pipeline(direction));
            for name in self.held.index.by_pipeline.get(&key).into_iter().flatten() {
                let Some((family, Role::Bound(_, pipelines))) = self.held.role(name) else {
                    continue; // INVARIANT: the index names sets of this role.
                };
                for address in
                    endpoint.addresses.iter().filter(|address| Family::of(**address) == *family)
                {
                    bound.push((pipelines.len(), name.clone(), Member::Address(*address)));
                }
            }
        }
        bound
    }

    fn pods_that_change(&self) -> impl Iterator<Item = &Endpoint> {
        let endpoints = self.delta.switch.endpoints.iter();
        endpoints.flat_map(|change| [&change.before, &change.after]).flatten().map(AsRef::as_ref)
    }

    /// Returns the steps of strict mode: who comes is known, who goes is known no more.
    fn acquaintance(&self) -> Vec<Op> {
        let [v4, v6] = &self.held.index.known;
        let op = |(name, is_v4): (&Option<Name>, bool)| {
            let nodes: BTreeSet<IpAddr> =
                self.ruleset.nodes().values().flatten().copied().collect();
            let addresses =
                self.pods_that_change().flat_map(|endpoint| endpoint.addresses.iter().copied());
            let own =
                addresses.filter(|address| address.is_ipv4() == is_v4 && !nodes.contains(address));
            let own: BTreeSet<Member> = own.map(Member::Address).collect();
            let name = name.clone().filter(|_| !own.is_empty())?;
            Some(if self.pods == Pods::Go { Op::Delete(name, own) } else { Op::Add(name, own) })
        };
        [(v4, true), (v6, false)].into_iter().filter_map(op).collect()
    }

    /// Returns the sets of bound addresses that change.
    fn bound_sets(&self) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        for EndpointChange { before, after } in &self.delta.switch.endpoints {
            let [before, after] = [before, after].map(|endpoint| {
                let bound =
                    endpoint.as_ref().map(|endpoint| self.bound(endpoint)).unwrap_or_default();
                bound.into_iter().map(|(_, name, member)| (name, member)).collect::<BTreeSet<_>>()
            });
            names.extend(before.symmetric_difference(&after).map(|(name, _)| name.clone()));
        }
        names
    }

    /// Returns the sets of owned addresses.
    fn owner_sets(&self) -> BTreeSet<Name> {
        let switch = &self.delta.switch;
        let owners = |role: &Role| match role {
            Role::Known => !switch.endpoints.is_empty() || !switch.nodes.is_empty(),
            Role::Nodes => !switch.nodes.is_empty(),
            Role::Bound(..)
            | Role::Networks(_)
            | Role::Peers(_)
            | Role::Ports(_)
            | Role::Unsettled => false,
        };
        let roles = self.held.layout.roles.iter();
        roles.filter(|(_, (_, role))| owners(role)).map(|(name, _)| name.clone()).collect()
    }

    /// Returns the memory for the rules that come.
    fn memory(&self) -> Memory {
        let mut memory = self.held.layout.memory.clone();
        for delete in &self.delta.delete {
            match delete {
                Delete::PeerSet(id) => {
                    memory.apart.remove(id);
                }
                Delete::Pipeline(_) => {}
            }
        }
        for create in &self.delta.create {
            match create {
                Create::PeerSet(id, _) => memory.learn(self.ruleset, *id),
                Create::Pipeline(..) => {}
            }
        }
        memory
    }
}

/// Returns how many addresses there are in each family after a change.
pub(super) fn counted(before: [usize; 2], changes: &[EndpointChange]) -> [usize; 2] {
    let of = |endpoint: &Option<alloc::sync::Arc<Endpoint>>, is_v4: bool| {
        let addresses = endpoint.iter().flat_map(|endpoint| &endpoint.addresses);
        addresses.into_iter().filter(|address| address.is_ipv4() == is_v4).count()
    };
    let [v4, v6] = before;
    let after = |count: usize, is_v4| {
        let comes: usize = changes.iter().map(|change| of(&change.after, is_v4)).sum();
        let goes: usize = changes.iter().map(|change| of(&change.before, is_v4)).sum();
        count.saturating_add(comes).saturating_sub(goes)
    };
    [after(v4, true), after(v6, false)]
}

/// Members that join and leave a set.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Turnover {
    joins: BTreeSet<Member>,
    leaves: BTreeSet<Member>,
}

impl Op {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Add(_, members) | Self::Delete(_, members) => members.len(),
            Self::Grace => 0,
        }
    }
}

fn joins(members: &BTreeMap<Name, Turnover>) -> Vec<Op> {
    let some = members.iter().filter(|(_, turnover)| !turnover.joins.is_empty());
    some.map(|(name, turnover)| Op::Add(name.clone(), turnover.joins.clone())).collect()
}

fn leaves(members: &BTreeMap<Name, Turnover>) -> Vec<Op> {
    let some = members.iter().filter(|(_, turnover)| !turnover.leaves.is_empty());
    some.map(|(name, turnover)| Op::Delete(name.clone(), turnover.leaves.clone())).collect()
}

fn joins_then_leaves(members: &BTreeMap<Name, Turnover>) -> Vec<Op> {
    let address = |member: &Member| match member {
        Member::Address(address) | Member::AddressPort(address, _, _) => *address,
        Member::Network(net) => net.network(),
    };
    let all = |of: fn(&Turnover) -> &BTreeSet<Member>| -> BTreeSet<IpAddr> {
        members.values().flat_map(|turnover| of(turnover).iter().map(address)).collect()
    };
    let (joining, leaving) = (all(|turnover| &turnover.joins), all(|turnover| &turnover.leaves));
    let mut ops = joins(members);
    if !joining.is_disjoint(&leaving) {
        ops.push(Op::Grace);
    }
    ops.extend(leaves(members));
    ops
}

fn pods(changes: &[EndpointChange]) -> Pods {
    let addresses = |endpoint: &Option<alloc::sync::Arc<Endpoint>>| -> Vec<IpAddr> {
        endpoint.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
    };
    let all_come = changes.iter().all(|change| addresses(&change.before).is_empty());
    let all_go = changes.iter().all(|change| addresses(&change.after).is_empty());
    match (all_come, all_go) {
        (true, true) => Pods::Same,
        (true, false) => Pods::Come,
        (false, true) => Pods::Go,
        (false, false) => Pods::Mixed,
    }
}

#[cfg(test)]
mod tests;
