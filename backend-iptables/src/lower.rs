//! Ruleset to chains and sets: the frame, and who goes through which pipeline.
//!
//! ```text
//! FORWARD ─▶ NETPOL-FORWARD ─ settled connections, neighbour discovery: return
//!                 ├─ bound source ─▶ NETPOL-EGRESS ─▶ the pipeline of the source
//!                 ├─ bound destination ─▶ NETPOL-INGRESS ─▶ the pipeline of the destination
//!                 └─ the connection is settled: mark it
//! INPUT ───▶ NETPOL-INPUT ─ … ─ bound source ─▶ NETPOL-NODE ─▶ the pipeline of the source
//! ```
//!
//! A pipeline is gone to, never jumped to, so that its `RETURN` leads behind the jump into the dispatch: an accept of the
//! egress side comes to the ingress side and never past it (NP-006, CNP-017), and an accept of both comes to the rules of
//! others behind ours. A pipeline never falls through; what no dispatch rule knows is dropped.
//!
//! A connection is settled if its mark is the one of the rules in force, and neither of its addresses is among those that
//! changed since. Everything else is judged: by its opening packets, or with the ends exchanged by its answers.
//!
//! Which rules there are follows from the pipelines and from what peer sets are for, never from addresses: pods and peers
//! that come and go are members of sets.

mod builder;
mod dispatch;
mod frame;
mod pipeline;
pub(crate) mod role;
mod step;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::backend::LowerError;
use netpol_core::ir::{Family, PeerSetId, PipelineId, Ruleset};

use crate::restore::{
    Elements, Filter, Hook, Mark, Match, Name, Reported, RestoreInput, Target, Topology,
};
use crate::{Iptables, OwnAddress};
pub(crate) use builder::check_capacity;
use builder::{Builder, Lowered};
use pipeline::Place;
use role::Role;

/// A peer set of more addresses than this is never copied into a set of several.
const LARGE: usize = 1024;

/// What a lowering depends on besides the ruleset: choices that stand as long as what they are about.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Memory {
    /// Peer sets that are never copied into a set of several.
    pub(crate) apart: BTreeSet<PeerSetId>,
    /// Sets that are there in their second edition, by the name of the first.
    pub(crate) second: BTreeSet<Name>,
    /// Which rules of each family are in force: what a settled connection is marked with.
    pub(crate) generations: [u32; 2],
}

impl Memory {
    /// The memory of a beginning.
    pub(crate) fn fresh(ruleset: &Ruleset) -> Self {
        let mut memory = Self::default();
        for (id, _) in ruleset.peer_sets() {
            memory.learn(ruleset, id);
        }
        memory
    }

    /// Chooses for a peer set that was not there before.
    pub(crate) fn learn(&mut self, ruleset: &Ruleset, id: PeerSetId) {
        let Some(set) = ruleset.peer_set(id) else { return };
        let addresses = &set.addresses;
        // A hash:ip,port has no room for 0.0.0.0.
        let odd = addresses.v4().first().is_some_and(core::net::Ipv4Addr::is_unspecified)
            || addresses.v6().first().is_some_and(core::net::Ipv6Addr::is_unspecified);
        if addresses.len() > LARGE || odd {
            self.apart.insert(id);
        }
    }

    /// Lets a set's next edition be the other one.
    #[cfg(feature = "apply")]
    pub(crate) fn turn(&mut self, name: &str) {
        let other = crate::restore::other_edition(name);
        // The longer of the two names is the second edition's.
        let first: Name = if name.len() < other.len() { name.into() } else { other };
        if !self.second.remove(&first) {
            self.second.insert(first);
        }
    }

    fn is_apart(&self, id: PeerSetId) -> bool {
        self.apart.contains(&id)
    }

    fn edition(&self, name: Name) -> Name {
        if self.second.contains(&name) { crate::restore::other_edition(&name) } else { name }
    }

    /// Returns the mark of connections that the rules in force have judged.
    fn mark(&self, family: Family, mask: u32) -> Mark {
        let [v4, v6] = self.generations;
        let generation = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        Mark { value: deposited(generation, mask), mask }
    }
}

/// Spreads the low bits of a number over the bits of a mask. Never zero, which is what new connections have.
pub(crate) fn deposited(number: u32, mask: u32) -> u32 {
    let most = u32::MAX.checked_shr(mask.count_zeros()).unwrap_or_default();
    let mut number = if most == 0 { 0 } else { number % most + 1 };
    let (mut value, mut left) = (0, mask);
    while left != 0 {
        let bit = left & left.wrapping_neg();
        if number & 1 == 1 {
            value |= bit;
        }
        number >>= 1;
        left &= !bit;
    }
    value
}

/// Takes back from a mark the number that [`deposited`] made it of, or one that makes the same.
#[cfg(feature = "apply")]
pub(crate) fn gathered(value: u32, mask: u32) -> u32 {
    let (mut number, mut place, mut left) = (0_u32, 0, mask);
    while left != 0 {
        let bit = left & left.wrapping_neg();
        if value & bit != 0 {
            number |= 1_u32.checked_shl(place).unwrap_or_default();
        }
        place += 1;
        left &= !bit;
    }
    number.saturating_sub(1)
}

/// The rules, and what the sets that they name are for.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) memory: Memory,
    pub(crate) filters: [Filter; 2],
    pub(crate) roles: BTreeMap<Name, (Family, Role)>,
    pub(crate) reports: BTreeMap<Arc<str>, Reported>,
    /// What each pipeline became, so that the next layout need not make it again.
    lowered: BTreeMap<(Family, PipelineId, Place), Lowered>,
    /// Whether there are rules for single pods, which pipelines are not all that decides.
    names_pods: bool,
}

impl Layout {
    pub(crate) fn new(
        ruleset: &Ruleset,
        options: &Iptables,
        memory: Memory,
    ) -> Result<Self, LowerError> {
        Self::after(None, ruleset, options, memory)
    }

    /// Lowers what comes after another ruleset that was lowered with the same options, and differs from it by deltas only:
    /// pipelines that stay are taken over.
    pub(crate) fn after(
        earlier: Option<&Self>,
        ruleset: &Ruleset,
        options: &Iptables,
        memory: Memory,
    ) -> Result<Self, LowerError> {
        let names_pods = options.own_address == OwnAddress::List
            || ruleset.endpoints().any(|endpoint| {
                let v4 = endpoint.addresses.iter().filter(|address| address.is_ipv4()).count();
                v4 > 1 || endpoint.addresses.len().saturating_sub(v4) > 1
            });
        let earlier = earlier.filter(|earlier| !names_pods && !earlier.names_pods);
        let mut builder = Builder::new(ruleset, options, &memory, earlier);
        let mut filters = [builder.filter(Family::V4)?, builder.filter(Family::V6)?];
        let Builder { mut roles, reports, lowered, .. } = builder;
        let used: BTreeSet<Name> = filters.iter_mut().flat_map(reached).collect();
        roles.retain(|name, _| used.contains(name));
        Ok(Self { memory, filters, roles, reports, lowered, names_pods })
    }
}

/// Lowers a ruleset.
pub(crate) fn lower(
    ruleset: &Ruleset,
    options: &Iptables,
    memory: Memory,
) -> Result<RestoreInput, LowerError> {
    let Layout { filters: [v4, v6], roles, .. } = Layout::new(ruleset, options, memory)?;
    let mut sets: BTreeMap<Name, Elements> = BTreeMap::new();
    for (name, (family, role)) in roles {
        let elements = role.elements(ruleset, family);
        check_capacity(&name, elements.len())?;
        sets.insert(name, elements);
    }
    Ok(RestoreInput { sets, v4, v6, topology: topology(ruleset) })
}

/// Takes out the chains that no packet reaches, which were made for rules behind one that always matches; returns the
/// sets that are still looked up.
fn reached(filter: &mut Filter) -> BTreeSet<Name> {
    let (mut chains, mut sets) = (BTreeSet::new(), BTreeSet::new());
    let mut open: Vec<Name> = Hook::ALL.map(|hook| hook.chain().into()).into();
    while let Some(name) = open.pop() {
        for rule in filter.chains.get(&name).map_or(&[][..], |rules| rules) {
            if let Target::Goto(next) | Target::Jump(next) = rule.target()
                && !chains.contains(next)
            {
                open.push(next.clone());
            }
            sets.extend(rule.matches().iter().filter_map(|condition| match condition {
                Match::In(set, _) | Match::NotIn(set, _) => Some(set.clone()),
                Match::Within(..)
                | Match::Protocol(_)
                | Match::Port(..)
                | Match::Ports(..)
                | Match::Icmpv6(_)
                | Match::State(_)
                | Match::Mark(_)
                | Match::SameAddress(_)
                | Match::Limit(_) => None,
            }));
        }
        chains.insert(name);
    }
    filter.chains.retain(|name, _| chains.contains(name));
    sets
}

fn topology(ruleset: &Ruleset) -> Topology {
    let nodes: BTreeMap<&str, Arc<[IpAddr]>> = ruleset
        .nodes()
        .iter()
        .map(|(name, addresses)| (name.as_ref(), addresses.as_slice().into()))
        .collect();
    let mut pods = BTreeMap::new();
    for (number, endpoint) in ruleset.endpoints().enumerate() {
        let node = endpoint.node.as_deref().and_then(|name| nodes.get(name)).cloned();
        let node = node.unwrap_or_default();
        for address in &endpoint.addresses {
            pods.entry(*address).or_insert_with(|| (number, node.clone()));
        }
    }
    Topology { pods }
}
