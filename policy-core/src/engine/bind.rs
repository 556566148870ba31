//! Classes to rule blocks, blocks to pipelines, pipelines to endpoints: each content once.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::Borrow;

use super::Engine;
use super::flush::Rebuild;
use super::interner::Interner;
use super::peers::Maker;
use super::policies::{Class, Made};
use super::slab::{Id, NONE};
use crate::compile::pipelines::Slot;
use crate::compile::plan::{Plan, Side};
use crate::ir::{Direction, Endpoint, Pipeline, PipelineId, RuleBlock, RuleBlockId};

pub(super) type Blocks = Interner<Block>;

/// A rule block, held by the classes it was made for.
#[derive(Clone, Debug)]
pub(super) struct Block {
    id: RuleBlockId,
    pub(super) block: Arc<RuleBlock>,
    /// The sets its rules refer to, one entry for each rule.
    sets: Box<[Id]>,
}

impl Borrow<RuleBlockId> for Block {
    fn borrow(&self) -> &RuleBlockId {
        &self.id
    }
}

pub(super) type Pipelines = Interner<Bound>;

/// A pipeline, held by the endpoints that are bound to it.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    key: PipelineKey,
    id: PipelineId,
}

/// Blocks are interned by content, so equal pipelines have equal keys.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct PipelineKey {
    direction: Direction,
    blocks: Box<[(Slot, Id)]>,
}

impl Borrow<PipelineKey> for Bound {
    fn borrow(&self) -> &PipelineKey {
        &self.key
    }
}

impl Engine {
    /// Makes the blocks of a policy that are not made yet, or all of them.
    pub(super) fn rebuild(&mut self, id: Id, rebuild: Rebuild) {
        let Some(policy) = self.policies.slab.get_mut(id) else { return };
        let plan = policy.plan.clone();
        let retired = core::mem::take(&mut policy.retired);
        let mut sides = core::mem::take(&mut policy.sides);
        let mut changed = !retired.is_empty();
        for (side, classes) in plan.sides.iter().zip(&mut sides) {
            for class in classes.iter_mut() {
                let is_due = rebuild == Rebuild::All || matches!(class.made, Made::Not);
                let made = match class.pods {
                    0 => Made::Not,
                    _ if is_due => self.make(id, &plan, side, class),
                    _ => continue,
                };
                changed |= class.pods > 0 && !same_block(&class.made, &made);
                let old = core::mem::replace(&mut class.made, made);
                self.drop_made(id, old);
            }
            classes.retain(|class| class.pods > 0);
            classes.shrink_to_fit();
        }
        retired.into_iter().for_each(|class| self.drop_class(id, class));
        let Some(policy) = self.policies.slab.get_mut(id) else { return };
        policy.sides = sides;
        if changed && rebuild == Rebuild::All {
            policy.pods.iter().for_each(|pod| self.work.bind(*pod));
        }
    }

    fn make(&mut self, policy: Id, plan: &Plan, side: &Side, class: &Class) -> Made {
        let mut maker = Maker { engine: self, policy, sets: Vec::new(), tallies: Vec::new() };
        let block = side.block(&plan.policy, &class.resolution, &mut maker);
        let Maker { mut sets, tallies, .. } = maker;
        let block = block.map(|block| {
            let (id, held) = (block.id(), core::mem::take(&mut sets));
            let mut surplus = Some(held);
            let number = self.blocks.acquire(&id, || {
                let sets = surplus.take().unwrap_or_default().into();
                Block { id, block: Arc::new(block), sets }
            });
            sets = surplus.unwrap_or_default(); // The block that was there holds its own.
            number
        });
        sets.into_iter().for_each(|set| self.release_set(set));
        Made::Block { block, tallies }
    }

    pub(super) fn drop_class(&mut self, policy: Id, class: Class) {
        self.drop_made(policy, class.made);
    }

    fn drop_made(&mut self, policy: Id, made: Made) {
        let Made::Block { block, tallies } = made else { return };
        // Pipelines still go by the block's number: let go of it when they are gone.
        self.work.dropped_blocks.extend(block);
        tallies.into_iter().for_each(|tally| self.release_tally(tally, policy));
    }

    /// Lets go of a block; where nobody else holds it, its sets are let go of too.
    pub(super) fn release_block(&mut self, id: Id) {
        if let Some(gone) = self.blocks.release::<RuleBlockId>(id) {
            gone.sets.iter().for_each(|set| self.release_set(*set));
        }
    }

    /// Binds a pod of the scope to its pipelines.
    pub(super) fn bind(&mut self, id: Id) {
        let Some(pod) = self.pods.slab.get(id) else { return };
        let Some(subject) = &pod.subject else { return };
        let Some(object) = self.object_of(id) else { return };
        let mut bound = Vec::new();
        for policy in &subject.policies {
            let Some(policy) = self.policies.slab.get(*policy) else { continue };
            let order = (policy.plan.priority, &policy.plan.policy.object);
            for (side, class) in policy.classes(|side| self.resolution(side, pod.ports)) {
                if let Made::Block { block: Some(block), .. } = &class.made {
                    bound.push((side.slot, order, *block));
                }
            }
        }
        // The order blocks apply in: by tier, priority and name (CNP-004, DEC-12).
        bound.sort_unstable();
        let of = |direction: Direction| {
            let own = bound.iter().filter(|(slot, _, _)| slot.direction() == direction);
            own.map(|(slot, _, block)| (*slot, *block)).collect::<Box<[(Slot, Id)]>>()
        };
        let (ingress, egress) = (of(Direction::Ingress), of(Direction::Egress));
        let addresses = self.pods.owned_by(id, pod).collect();
        let node = self.symbols.get(pod.node).cloned();
        let old = subject.pipelines;
        let ingress = self.pipeline(Direction::Ingress, ingress);
        let egress = self.pipeline(Direction::Egress, egress);
        self.work.dropped_pipelines.extend(old.into_iter().filter(|old| *old != NONE));
        if let Some(subject) = self.pods.slab.get_mut(id).and_then(|pod| pod.subject.as_mut()) {
            subject.pipelines = [ingress, egress];
        }
        let (Some(ingress), Some(egress)) =
            (self.pipelines.get(ingress), self.pipelines.get(egress))
        else {
            return;
        };
        let (ingress, egress) = (ingress.id, egress.id);
        let endpoint = Endpoint { pod: object, node, addresses, ingress, egress };
        if !self.work.is_first {
            let before = self.ruleset.shared_endpoint(&endpoint.pod);
            if before.is_some_and(|before| **before == endpoint) {
                return;
            }
        }
        let endpoint = Arc::new(endpoint);
        let before = self.ruleset.put_endpoint(endpoint.clone());
        self.work.note_endpoint(&endpoint.pod, before);
    }

    fn pipeline(&mut self, direction: Direction, blocks: Box<[(Slot, Id)]>) -> Id {
        let key = PipelineKey { direction, blocks };
        if let Some(known) = self.pipelines.find(&key) {
            self.pipelines.retain(known);
            return known;
        }
        let mut pipeline = Pipeline::open(direction);
        for (slot, block) in &key.blocks {
            let Some(block) = self.blocks.get(*block).map(|block| block.block.clone()) else {
                continue;
            };
            pipeline.add(*slot, block);
        }
        let id = pipeline.id();
        self.ruleset.put_pipeline(id, Arc::new(pipeline));
        self.work.note_pipeline(id);
        self.pipelines.acquire(&key, || Bound { key: key.clone(), id })
    }

    /// Lets go of a pipeline; where no other endpoint is bound to it, it goes.
    pub(super) fn release_pipeline(&mut self, id: Id) {
        let Some(gone) = self.pipelines.release::<PipelineKey>(id) else { return };
        self.ruleset.remove_pipeline(gone.id);
        if !self.work.created_pipelines.remove(&gone.id) {
            self.work.deleted_pipelines.push(gone.id);
        }
    }
}

fn same_block(one: &Made, other: &Made) -> bool {
    match (one, other) {
        (Made::Block { block: one, .. }, Made::Block { block: other, .. }) => one == other,
        (Made::Not, Made::Not | Made::Block { .. }) | (Made::Block { .. }, Made::Not) => false,
    }
}
