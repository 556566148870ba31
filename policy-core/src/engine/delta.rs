//! The change from one ruleset to the next.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString as _;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::ir::Direction;
use crate::ir::{Endpoint, PeerSet, PeerSetId, Peers, Pipeline, PipelineId, PolicyKind, Ruleset};
use crate::model::ObjectRef;
use crate::net::AddressSet;

/// The change from one ruleset to the next, in the order that is safe: make, switch, break.
///
/// # Why one switch
///
/// A verdict hangs on the pipelines of two endpoints and on memberships in many sets at once, and with ordered tiers
/// there is no order of single steps that is always safe. Let egress of P be `Accept(A), Deny(B), Accept(C)` and that of
/// Q `Accept(B), Deny(A), Accept(C)`, and let an address move from {A, B} to {C}. Old and new ruleset both allow P and Q
/// to reach it. Whichever of A and B it leaves first, either Q or P is denied on the way (it still is in the other's
/// denied set), and joining C first does not help, for C comes last. Likewise, when one change closes the source's side
/// and another opens the destination's, either order of the two rebindings can open for a moment what both the old and the
/// new ruleset deny, or deny what both allow.
///
/// So a delta is three transactions. [`create`](Self::create) makes what nothing refers to yet: nobody can see it.
/// [`switch`](Self::switch) is one atomic step. [`delete`](Self::delete) removes what nothing refers to any more. Every
/// prefix is safe: before the switch every flow is judged by the old ruleset, after it by the new one. A backend that
/// cannot change several objects in one step asks [`Switch::split`] whether this switch can be taken apart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a backend must carry out every part")]
pub struct Delta {
    /// Peer sets with their whole content, then pipelines, in an order in which each refers only to what is there.
    pub create: Vec<Create>,
    /// One atomic step.
    pub switch: Switch,
    /// Pipelines, then peer sets, to which nothing refers any more.
    pub delete: Vec<Delete>,
}

/// Something new that nothing refers to yet.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a backend must carry out every kind")]
pub enum Create {
    /// A peer set, with its members.
    PeerSet(PeerSetId, Arc<PeerSet>),
    /// A pipeline.
    Pipeline(PipelineId, Arc<Pipeline>),
}

/// Something old that nothing refers to any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a backend must carry out every kind")]
pub enum Delete {
    /// A pipeline.
    Pipeline(PipelineId),
    /// A peer set.
    PeerSet(PeerSetId),
}

/// What changes in one step.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a backend must carry out every part")]
pub struct Switch {
    /// Endpoints that come, go, move or are bound to other pipelines, by pod.
    pub endpoints: Vec<EndpointChange>,
    /// Members that join and leave sets which both rulesets have, by set.
    pub members: Vec<MemberChange>,
    /// Nodes of the scope whose addresses change, by name.
    pub nodes: Vec<NodeChange>,
}

/// An endpoint before and after; one of the two is there.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "before and after, and there will be no third")]
pub struct EndpointChange {
    /// What was there; `None` for a new endpoint.
    pub before: Option<Arc<Endpoint>>,
    /// What is there now; `None` for one that goes.
    pub after: Option<Arc<Endpoint>>,
}

/// Members that join and leave one set.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a backend must carry out every part")]
pub struct MemberChange {
    /// The set.
    pub set: PeerSetId,
    /// Addresses that become members.
    pub joins: AddressSet,
    /// Addresses that cease to be.
    pub leaves: AddressSet,
}

/// A node's addresses before and after.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "before and after, and there will be no third")]
pub struct NodeChange {
    /// Its name.
    pub name: Arc<str>,
    /// What they were; `None` if the node was not there.
    pub before: Option<Vec<IpAddr>>,
    /// What they are; `None` if the node is gone.
    pub after: Option<Vec<IpAddr>>,
}

/// One of the transactions of a delta.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a backend must carry out every kind")]
pub enum Step<'a> {
    /// May be carried out beside others, in any number of transactions.
    Create(&'a Create),
    /// One transaction.
    Switch(&'a Switch),
    /// May be carried out beside others, in any number of transactions.
    Delete(&'a Delete),
}

/// Single steps that may stand for a [`Switch`]: carried out one by one, all joins before any leave.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a backend must carry out both")]
pub struct Split {
    /// Addresses that become members, with their set. First, in any order.
    pub joins: Vec<(PeerSetId, IpAddr)>,
    /// Addresses that cease to be. Then, in any order.
    pub leaves: Vec<(PeerSetId, IpAddr)>,
}

/// Why a delta does not fit a ruleset: it was made for another one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// A set or pipeline to create is there already.
    #[error("{0} to create is there already")]
    AlreadyThere(alloc::string::String),
    /// A set or pipeline to change or delete is not there.
    #[error("{0} is not there")]
    Missing(alloc::string::String),
    /// An endpoint is not what the delta says it was.
    #[error("endpoint {0} is not what the delta says it was")]
    Endpoint(ObjectRef),
    /// A node's addresses are not what the delta says they were.
    #[error("the addresses of node `{0}` are not what the delta says they were")]
    Node(Arc<str>),
    /// An address that joins is a member already, or one that leaves is none.
    #[error("the members of {0} are not what the delta says they were")]
    Members(PeerSetId),
}

impl Delta {
    /// Returns whether nothing changes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.create.is_empty() && self.switch.is_empty() && self.delete.is_empty()
    }

    /// Returns the steps in the order they must be taken. Any prefix of them is safe to stop at.
    pub fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let switch = (!self.switch.is_empty()).then_some(Step::Switch(&self.switch));
        let create = self.create.iter().map(Step::Create);
        create.chain(switch).chain(self.delete.iter().map(Step::Delete))
    }
}

impl Switch {
    /// Returns whether nothing changes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.members.is_empty() && self.nodes.is_empty()
    }

    /// Takes the switch apart, if single steps are as safe as one: for backends without transactions over several sets.
    ///
    /// `ruleset` is the one before or the one after the switch. `None` where endpoints or nodes change too, where a set
    /// is used outside the NetworkPolicy tier, or where one end of a flow could open before the other closes.
    ///
    /// Why it is safe otherwise: the NetworkPolicy tier is a union of accepting rules, so a side that only it and
    /// unchanged tiers decide can only open by joins and close by leaves. With joins first, a side on the way allows
    /// what the old or the new ruleset lets it allow, no more and no less. Both sides must allow a flow, and they could
    /// each allow it on the strength of a different ruleset: one because it does not close yet, the other because it
    /// opens already. That takes one address that leaves a set of one direction and another, of the same family, that
    /// joins a set of the other direction; such switches are not split. (One address alone is at one end of a flow only:
    /// what a pod sends to itself is not judged.)
    ///
    /// Costs a pass over the rules of the ruleset, unless there is nothing to look at.
    #[must_use]
    pub fn split(&self, ruleset: &Ruleset) -> Option<Split> {
        if !self.endpoints.is_empty() || !self.nodes.is_empty() {
            return None;
        }
        let changes: BTreeMap<PeerSetId, &MemberChange> =
            self.members.iter().map(|change| (change.set, change)).collect();
        let [mut opening, mut closing] = [Ends::default(), Ends::default()];
        for pipeline in ruleset.any_pipelines() {
            for (block, rule) in pipeline.rules() {
                let Peers::Set(set) = rule.peers else { continue };
                let Some(change) = changes.get(&set) else { continue };
                if block.policy().kind != PolicyKind::NetworkPolicy {
                    return None;
                }
                opening.add(pipeline.direction, set, &change.joins);
                closing.add(pipeline.direction, set, &change.leaves);
            }
        }
        if opening.meets(&closing) {
            return None;
        }
        let all = |of: fn(&MemberChange) -> &AddressSet| {
            let each = |change| of(change).iter().map(|address| (change.set, address));
            self.members.iter().flat_map(each).collect()
        };
        Some(Split { joins: all(|change| &change.joins), leaves: all(|change| &change.leaves) })
    }
}

/// Addresses that join sets, or leave them, by the direction the sets are used in.
#[derive(Debug, Default)]
struct Ends {
    seen: BTreeSet<(Direction, PeerSetId)>,
    ingress: BTreeSet<IpAddr>,
    egress: BTreeSet<IpAddr>,
}

impl Ends {
    fn add(&mut self, direction: Direction, set: PeerSetId, addresses: &AddressSet) {
        if !self.seen.insert((direction, set)) {
            return;
        }
        match direction {
            Direction::Ingress => self.ingress.extend(addresses.iter()),
            Direction::Egress => self.egress.extend(addresses.iter()),
        }
    }

    /// Returns whether there are two addresses of one family, one of each, in different directions.
    fn meets(&self, other: &Self) -> bool {
        differ(&self.ingress, &other.egress) || differ(&self.egress, &other.ingress)
    }
}

fn differ(one: &BTreeSet<IpAddr>, other: &BTreeSet<IpAddr>) -> bool {
    [true, false].into_iter().any(|is_v4| {
        let of = |address: &&IpAddr| address.is_ipv4() == is_v4;
        // Where one side has two, or both have different ones, some pair differs.
        let (mut left, mut right) = (one.iter().filter(of), other.iter().filter(of));
        match (left.next(), left.next(), right.next(), right.next()) {
            (None, ..) | (_, _, None, _) => false,
            (Some(left), None, Some(right), None) => left != right,
            (Some(_), ..) => true,
        }
    })
}

impl EndpointChange {
    /// Returns the pod.
    #[must_use]
    pub fn pod(&self) -> Option<&ObjectRef> {
        self.after.as_ref().or(self.before.as_ref()).map(|endpoint| &endpoint.pod)
    }
}

impl Ruleset {
    /// Carries out a delta that was made for this ruleset.
    ///
    /// # Errors
    /// The delta was made for another ruleset. This one is then as it was: whatever does not fit is found before anything
    /// is changed.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), DeltaError> {
        self.check(delta)?;
        for create in &delta.create {
            match create {
                Create::PeerSet(id, set) => self.put_peer_set(*id, set.clone()),
                Create::Pipeline(id, pipeline) => self.put_pipeline(*id, pipeline.clone()),
            }
        }
        self.switch(&delta.switch);
        for delete in &delta.delete {
            match delete {
                Delete::Pipeline(id) => drop(self.remove_pipeline(*id)),
                Delete::PeerSet(id) => drop(self.remove_peer_set(*id)),
            }
        }
        Ok(())
    }

    fn check(&self, delta: &Delta) -> Result<(), DeltaError> {
        for create in &delta.create {
            match create {
                Create::PeerSet(id, _) if self.shared_peer_set(*id).is_some() => {
                    return Err(DeltaError::AlreadyThere(id.to_string()));
                }
                Create::Pipeline(id, _) if self.shared_pipeline(*id).is_some() => {
                    return Err(DeltaError::AlreadyThere(id.to_string()));
                }
                Create::PeerSet(..) | Create::Pipeline(..) => {}
            }
        }
        for change in &delta.switch.endpoints {
            let Some(pod) = change.pod() else { continue };
            if self.shared_endpoint(pod) != change.before.as_ref() {
                return Err(DeltaError::Endpoint(pod.clone()));
            }
        }
        for change in &delta.switch.nodes {
            if self.nodes().get(&change.name) != change.before.as_ref() {
                return Err(DeltaError::Node(change.name.clone()));
            }
        }
        for MemberChange { set, joins, leaves } in &delta.switch.members {
            let Some(members) = self.shared_peer_set(*set).map(|set| &set.addresses) else {
                return Err(DeltaError::Missing(set.to_string()));
            };
            if joins.iter().any(|address| members.contains(address))
                || leaves.iter().any(|address| !members.contains(address))
            {
                return Err(DeltaError::Members(*set));
            }
        }
        for delete in &delta.delete {
            match delete {
                Delete::Pipeline(id) if self.shared_pipeline(*id).is_none() => {
                    return Err(DeltaError::Missing(id.to_string()));
                }
                Delete::PeerSet(id) if self.shared_peer_set(*id).is_none() => {
                    return Err(DeltaError::Missing(id.to_string()));
                }
                Delete::Pipeline(_) | Delete::PeerSet(_) => {}
            }
        }
        Ok(())
    }

    fn switch(&mut self, switch: &Switch) {
        for EndpointChange { before, after } in &switch.endpoints {
            match (before, after) {
                (_, Some(after)) => drop(self.put_endpoint(after.clone())),
                (Some(before), None) => drop(self.remove_endpoint(&before.pod)),
                (None, None) => {}
            }
        }
        for MemberChange { set, joins, leaves } in &switch.members {
            if let Some(set) = self.peer_set_mut(*set) {
                set.addresses.change(joins, leaves);
            }
        }
        for NodeChange { name, after, .. } in &switch.nodes {
            self.set_node(name, after.clone());
        }
    }
}
