//! What the engine holds, in bytes.

use alloc::sync::Arc;
use core::net::IpAddr;

use super::Engine;
use crate::ir::{Endpoint, PeerSet, Pipeline, Rule, RuleBlock};
use crate::model::ObjectRef;

/// Estimates of the heap an engine holds, by component, from counts, capacities and the layout of the containers.
///
/// They leave out what an allocator adds; the benchmarks hold them against a counting allocator.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// Strings of labels, port names and nodes, label sets and selectors.
    pub labels: usize,
    /// Pods, their addresses, and the index from label to pod.
    pub pods: usize,
    /// Namespaces and namespace selectors.
    pub namespaces: usize,
    /// Selections and the index from label to selection.
    pub selections: usize,
    /// Policies as plans, and which pods they apply to.
    pub policies: usize,
    /// Members of the peer sets in use.
    pub members: usize,
    /// The rest of the ruleset: endpoints, pipelines, rule blocks, selectors of peer sets.
    pub ruleset: usize,
}

impl MemoryUse {
    /// Returns the sum.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.labels
            + self.pods
            + self.namespaces
            + self.selections
            + self.policies
            + self.members
            + self.ruleset
    }
}

/// A B-tree's nodes have room for eleven, and are two thirds full on average.
pub(super) const fn btree_bytes<T>(len: usize) -> usize {
    if len == 0 { 0 } else { len.div_ceil(8) * (11 * size_of::<T>() + 16) }
}

/// A shared text: two counters and the bytes.
pub(super) fn text_bytes(text: &Arc<str>) -> usize {
    2 * size_of::<usize>() + text.len()
}

pub(super) fn of(engine: &Engine) -> MemoryUse {
    let symbols = engine.symbols.iter().map(|(_, text)| text_bytes(text));
    let sets = || engine.ruleset.any_peer_sets();
    let members = sets().map(|set| set.addresses.heap_bytes()).sum();
    let endpoints = engine.ruleset.endpoints().map(|endpoint| {
        2 * size_of::<usize>()
            + size_of::<Endpoint>()
            + size_of_val::<[IpAddr]>(&endpoint.addresses)
            + endpoint.addresses.len() * (size_of::<IpAddr>() + size_of::<usize>())
            + size_of::<(ObjectRef, usize)>() * 3 / 2
    });
    let blocks = engine
        .blocks
        .iter()
        .map(|(_, block)| size_of::<RuleBlock>() + size_of_val::<[Rule]>(block.block.rules()) + 96);
    let pipelines = engine.ruleset.any_pipelines().map(|pipeline| {
        size_of::<Pipeline>() + pipeline.blocks().count() * (size_of::<usize>() + 8) + 64
    });
    MemoryUse {
        labels: engine.symbols.heap_bytes() + symbols.sum::<usize>() + engine.labels.heap_bytes(),
        pods: engine.pods.heap_bytes()
            + engine.pods.claims.heap_bytes()
            + engine.pods.postings.heap_bytes(),
        namespaces: engine.namespaces.heap_bytes(),
        selections: engine.subjects.heap_bytes() + engine.peers.heap_bytes(),
        policies: engine.policies.heap_bytes(),
        members,
        ruleset: engine.blocks.heap_bytes()
            + engine.pipelines.heap_bytes()
            + endpoints.sum::<usize>()
            + blocks.sum::<usize>()
            + pipelines.sum::<usize>()
            + sets().count() * (size_of::<PeerSet>() + 160),
    }
}
