//! Ruleset to chains and sets: the frame, and who goes through which pipeline.
//!
//! ```text
//! FORWARD ─▶ NETPOL-FORWARD ─ replies, neighbour discovery: return
//!                 ├─ isolated source ─▶ NETPOL-EGRESS ─▶ the pipeline of the source
//!                 └─ isolated destination ─▶ NETPOL-INGRESS ─▶ the pipeline of the destination
//! INPUT ───▶ NETPOL-INPUT ─ … ─ isolated source ─▶ NETPOL-NODE ─▶ the pipeline of the source
//! ```
//!
//! A pipeline is gone to, never jumped to, so that its `RETURN` leads behind the jump into the dispatch: an accept of the
//! egress side comes to the ingress side and never past it (NP-006, CNP-017), and an accept of both comes to the rules of
//! others behind ours. A pipeline never falls through; what no dispatch rule knows is dropped.

mod builder;
mod dispatch;
mod frame;
mod pipeline;
mod step;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::backend::LowerError;
use netpol_core::ir::{Family, Ruleset};

use crate::OwnAddress;
use crate::restore::{Filter, Hook, Match, Name, RestoreInput, Target, Topology};
use builder::Builder;

/// Lowers a ruleset.
pub(crate) fn lower(
    ruleset: &Ruleset,
    own_address: OwnAddress,
) -> Result<RestoreInput, LowerError> {
    let mut builder = Builder::new(ruleset, own_address);
    let mut v4 = builder.filter(Family::V4)?;
    let mut v6 = builder.filter(Family::V6)?;
    let mut sets = builder.into_sets();
    let used: BTreeSet<Name> = [&mut v4, &mut v6].into_iter().flat_map(reached).collect();
    sets.retain(|name, _| used.contains(name));
    Ok(RestoreInput { sets, v4, v6, topology: topology(ruleset) })
}

/// Takes out the chains that no packet reaches, which were made for rules behind one that always matches; returns the
/// sets that are still looked up.
fn reached(filter: &mut Filter) -> BTreeSet<Name> {
    let (mut chains, mut sets) = (BTreeSet::new(), BTreeSet::new());
    let mut open: Vec<Name> = Hook::ALL.map(|hook| hook.chain().into()).into();
    while let Some(name) = open.pop() {
        for rule in filter.chains.get(&name).into_iter().flatten() {
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
                | Match::EstablishedOrRelated
                | Match::SameAddress(_) => None,
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
