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

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::net::IpAddr;

use netpol_core::backend::LowerError;
use netpol_core::ir::{Family, Ruleset};

use crate::restore::{RestoreInput, Topology};
use builder::Builder;

/// Lowers a ruleset.
pub(crate) fn lower(ruleset: &Ruleset) -> Result<RestoreInput, LowerError> {
    let mut builder = Builder::new(ruleset);
    let v4 = builder.filter(Family::V4)?;
    let v6 = builder.filter(Family::V6)?;
    Ok(RestoreInput { sets: builder.into_sets(), v4, v6, topology: topology(ruleset) })
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
