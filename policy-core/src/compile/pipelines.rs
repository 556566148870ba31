//! Which blocks apply to which pod, and the pipelines that come of it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

use super::pods::{Pods, Row, index};
use crate::ir::{Direction, Endpoint, Pipeline, PipelineId, RuleBlock};
use crate::model::Tier;

/// A tier of one direction. The order is the one bindings are sorted in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Slot {
    Admin(Direction),
    NetworkPolicy(Direction),
    Baseline(Direction),
}

impl Slot {
    pub(crate) const fn ordered(tier: Tier, direction: Direction) -> Self {
        match tier {
            Tier::Admin => Self::Admin(direction),
            Tier::Baseline => Self::Baseline(direction),
        }
    }

    pub(crate) const fn direction(self) -> Direction {
        match self {
            Self::Admin(direction) | Self::NetworkPolicy(direction) | Self::Baseline(direction) => {
                direction
            }
        }
    }
}

/// Blocks and the pods they are bound to, in the order policies apply.
#[derive(Default)]
pub(super) struct Bindings {
    blocks: Vec<Arc<RuleBlock>>,
    bound: Vec<(Row, Slot, u32)>,
}

impl Bindings {
    /// Takes a block and returns its number.
    pub(super) fn add(&mut self, block: RuleBlock) -> u32 {
        let number = index(self.blocks.len());
        self.blocks.push(Arc::new(block));
        number
    }

    /// Binds a block to a pod, behind those bound before.
    pub(super) fn bind(&mut self, row: Row, slot: Slot, block: u32) {
        self.bound.push((row, slot, block));
    }

    /// Gives each pod of the scope its two pipelines; pods with the same blocks share them.
    pub(super) fn into_endpoints(
        mut self,
        pods: &Pods<'_>,
    ) -> (Vec<Endpoint>, BTreeMap<PipelineId, Arc<Pipeline>>) {
        // Stable, so that the order policies apply in survives within a slot.
        self.bound.sort_by_key(|(row, slot, _)| (*row, *slot));
        let mut pipelines = Pipelines::new(self.blocks);
        let mut endpoints = Vec::new();
        let mut bound = self.bound.as_slice();
        for (row, pod) in (0_u32..).zip(&pods.rows) {
            let own = bound.partition_point(|(of, _, _)| *of <= row);
            let (own, rest) = bound.split_at(own);
            bound = rest;
            if !pod.in_scope {
                continue;
            }
            endpoints.push(Endpoint {
                pod: pod.pod.meta.object.clone(),
                node: pod.pod.node.clone(),
                addresses: pod.addresses.clone(),
                ingress: pipelines.intern(Direction::Ingress, own),
                egress: pipelines.intern(Direction::Egress, own),
            });
        }
        (endpoints, pipelines.made)
    }
}

/// The pipelines made so far, each under the blocks it was made of.
struct Pipelines {
    blocks: Vec<Arc<RuleBlock>>,
    known: HashMap<(Direction, Vec<(Slot, u32)>), PipelineId>,
    made: BTreeMap<PipelineId, Arc<Pipeline>>,
}

impl Pipelines {
    fn new(blocks: Vec<Arc<RuleBlock>>) -> Self {
        Self { blocks, known: HashMap::new(), made: BTreeMap::new() }
    }

    fn intern(&mut self, direction: Direction, bound: &[(Row, Slot, u32)]) -> PipelineId {
        let own = bound.iter().filter(|(_, slot, _)| slot.direction() == direction);
        let key: Vec<(Slot, u32)> = own.map(|(_, slot, block)| (*slot, *block)).collect();
        let key = (direction, key);
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let pipeline = self.make(direction, &key.1);
        let id = pipeline.id();
        self.known.insert(key, id);
        self.made.insert(id, Arc::new(pipeline));
        id
    }

    fn make(&self, direction: Direction, bound: &[(Slot, u32)]) -> Pipeline {
        let mut pipeline = Pipeline::open(direction);
        for (slot, block) in bound {
            let Some(block) = self.blocks.get(*block as usize).cloned() else { continue };
            pipeline.add(*slot, block);
        }
        pipeline
    }
}

impl Pipeline {
    /// Adds a block behind those of its tier.
    pub(crate) fn add(&mut self, slot: Slot, block: Arc<RuleBlock>) {
        match slot {
            Slot::Admin(_) => self.admin.push(block),
            Slot::NetworkPolicy(_) => self.network_policy.get_or_insert_default().push(block),
            Slot::Baseline(_) => self.baseline.push(block),
        }
    }
}
