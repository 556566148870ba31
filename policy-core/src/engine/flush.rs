//! What events left to be made again, and the delta that comes of it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::net::IpAddr;

use super::Engine;
use super::delta::{Create, Delete, Delta, EndpointChange, MemberChange, NodeChange, Switch};
use super::peers::{Sign, Source};
use super::slab::Id;
use crate::ir::{Endpoint, PeerSetId, PipelineId};
use crate::model::ObjectRef;
use crate::net::AddressSet;

/// What is to be made again, and what was before.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    /// Whether the ruleset was empty before, so that nothing needs to be noted to tell new from old.
    pub(super) is_first: bool,
    /// Policies whose blocks are to be made; some more than once, some gone since.
    policies: Vec<(Id, Rebuild)>,
    /// Pods of the scope to bind again; some more than once, some gone since.
    pods: Vec<Id>,
    /// Addresses that pods bring to sets and take from them, in the order it happened.
    pub(super) members: BTreeMap<Id, Vec<(IpAddr, Sign)>>,
    /// Whether sets of nodes are to be filled again.
    pub(super) nodes_changed: bool,
    /// Endpoints as they were before.
    pub(super) endpoints: BTreeMap<ObjectRef, Option<Arc<Endpoint>>>,
    /// Addresses of nodes as they were before.
    pub(super) nodes: BTreeMap<Arc<str>, Option<Vec<IpAddr>>>,
    pub(super) created_sets: BTreeSet<PeerSetId>,
    pub(super) created_pipelines: BTreeSet<PipelineId>,
    pub(super) deleted_sets: Vec<PeerSetId>,
    pub(super) deleted_pipelines: Vec<PipelineId>,
    /// Pipelines and blocks to let go of when everything is bound.
    pub(super) dropped_pipelines: Vec<Id>,
    pub(super) dropped_blocks: Vec<Id>,
}

/// How much of a policy is to be made again.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Rebuild {
    /// Classes that are new; those without pods go.
    Missing,
    /// Every class.
    All,
}

impl Work {
    pub(super) fn rebuild(&mut self, policy: Id) {
        self.note_policy(policy, Rebuild::Missing);
    }

    pub(super) fn note_endpoint(&mut self, pod: &ObjectRef, before: Option<Arc<Endpoint>>) {
        if !self.is_first {
            self.endpoints.entry(pod.clone()).or_insert(before);
        }
    }

    pub(super) fn note_set(&mut self, id: PeerSetId) {
        if !self.is_first {
            self.created_sets.insert(id);
        }
    }

    pub(super) fn note_pipeline(&mut self, id: PipelineId) {
        if !self.is_first {
            self.created_pipelines.insert(id);
        }
    }

    pub(super) fn rebuild_all(&mut self, policy: Id) {
        self.note_policy(policy, Rebuild::All);
    }

    fn note_policy(&mut self, policy: Id, rebuild: Rebuild) {
        // The same policy is mostly noted several times in a row: once for each pod.
        if self.policies.last() != Some(&(policy, rebuild)) {
            self.policies.push((policy, rebuild));
        }
    }

    pub(super) fn bind(&mut self, pod: Id) {
        if self.pods.last() != Some(&pod) {
            self.pods.push(pod);
        }
    }

    /// Returns the policies noted, each once, ascending.
    fn take_policies(&mut self) -> Vec<(Id, Rebuild)> {
        let mut policies = core::mem::take(&mut self.policies);
        policies.sort_unstable_by_key(|(policy, rebuild)| (*policy, Reverse(*rebuild)));
        policies.dedup_by_key(|(policy, _)| *policy); // The most that was asked for comes first and stays.
        policies
    }

    /// Returns the pods noted, each once, ascending.
    fn take_pods(&mut self) -> Vec<Id> {
        let mut pods = core::mem::take(&mut self.pods);
        pods.sort_unstable();
        pods.dedup();
        pods
    }
}

impl Engine {
    /// Makes again what has to be, removes what nothing refers to any more, and says what changed.
    pub(super) fn flush(&mut self) -> Delta {
        if !self.is_live {
            self.work = Work::default(); // `go_live` notes everything there is.
            return Delta::default();
        }
        for (policy, rebuild) in self.work.take_policies() {
            self.rebuild(policy, rebuild);
        }
        for pod in self.work.take_pods() {
            self.bind(pod);
        }
        for pipeline in core::mem::take(&mut self.work.dropped_pipelines) {
            self.release_pipeline(pipeline);
        }
        for block in core::mem::take(&mut self.work.dropped_blocks) {
            self.release_block(block);
        }
        if core::mem::take(&mut self.work.nodes_changed) {
            self.refill_node_sets();
        }
        let members = self.change_members();
        if core::mem::take(&mut self.work.is_first) {
            return self.first_delta();
        }
        self.delta(members)
    }

    /// The ruleset was empty: everything in it is new.
    fn first_delta(&mut self) -> Delta {
        self.work = Work::default();
        let ruleset = &self.ruleset;
        let sets = ruleset.shared_peer_sets().map(|(id, set)| Create::PeerSet(id, set.clone()));
        let pipelines =
            ruleset.shared_pipelines().map(|(id, pipeline)| Create::Pipeline(id, pipeline.clone()));
        let create = sets.chain(pipelines).collect();
        let endpoints = ruleset
            .shared_endpoints()
            .map(|endpoint| EndpointChange { before: None, after: Some(endpoint.clone()) })
            .collect();
        let nodes = ruleset.nodes().iter().map(|(name, addresses)| NodeChange {
            name: name.clone(),
            before: None,
            after: Some(addresses.clone()),
        });
        let switch = Switch { endpoints, members: Vec::new(), nodes: nodes.collect() };
        Delta { create, switch, delete: Vec::new() }
    }

    /// Notes how sets of nodes change. There are few, and nodes change seldom.
    fn refill_node_sets(&mut self) {
        for number in self.sets.of_nodes.clone() {
            let Some(set) = self.sets.slab.get(number) else { continue };
            let Source::Nodes(matcher) = &set.source else { continue };
            let after = self.node_addresses(matcher);
            let Some(before) = self.ruleset.peer_set(set.id).map(|set| &set.addresses) else {
                continue;
            };
            let left = before.iter().filter(|address| !after.contains(*address));
            let joined = after.iter().filter(|address| !before.contains(*address));
            let ops: Vec<(IpAddr, Sign)> = left
                .map(|address| (address, Sign::Minus))
                .chain(joined.map(|address| (address, Sign::Plus)))
                .collect();
            if !ops.is_empty() {
                self.work.members.insert(number, ops);
            }
        }
    }

    fn change_members(&mut self) -> Vec<MemberChange> {
        let mut changes = Vec::new();
        for (number, mut ops) in core::mem::take(&mut self.work.members) {
            let Some(id) = self.sets.slab.get(number).map(|set| set.id) else { continue };
            let Some(set) = self.ruleset.shared_peer_set(id) else { continue };
            ops.sort_by_key(|(address, _)| *address); // Stable: the last word on an address stays last.
            let last_words = ops.chunk_by(|one, other| one.0 == other.0).filter_map(<[_]>::last);
            let (mut joins, mut leaves) = (Vec::new(), Vec::new());
            for (address, sign) in last_words {
                match (sign, set.addresses.contains(*address)) {
                    (Sign::Plus, false) => joins.push(*address),
                    (Sign::Minus, true) => leaves.push(*address),
                    (Sign::Plus, true) | (Sign::Minus, false) => {}
                }
            }
            if joins.is_empty() && leaves.is_empty() {
                continue;
            }
            let joins: AddressSet = joins.into_iter().collect();
            let leaves: AddressSet = leaves.into_iter().collect();
            if let Some(set) = self.ruleset.peer_set_mut(id) {
                set.addresses.change(&joins, &leaves);
            }
            if !self.work.created_sets.contains(&id) {
                changes.push(MemberChange { set: id, joins, leaves });
            }
        }
        changes.sort_unstable_by_key(|change| change.set);
        changes
    }

    fn delta(&mut self, members: Vec<MemberChange>) -> Delta {
        let work = &mut self.work;
        let (sets, pipelines) =
            (core::mem::take(&mut work.created_sets), core::mem::take(&mut work.created_pipelines));
        let sets = sets
            .into_iter()
            .filter_map(|id| Some(Create::PeerSet(id, self.ruleset.shared_peer_set(id)?.clone())));
        let pipelines = pipelines
            .into_iter()
            .filter_map(|id| Some(Create::Pipeline(id, self.ruleset.shared_pipeline(id)?.clone())));
        let create = sets.chain(pipelines).collect();
        let endpoints =
            core::mem::take(&mut work.endpoints).into_iter().filter_map(|(pod, before)| {
                let after = self.ruleset.shared_endpoint(&pod).cloned();
                (before != after).then_some(EndpointChange { before, after })
            });
        let endpoints = endpoints.collect();
        let nodes = core::mem::take(&mut work.nodes).into_iter().filter_map(|(name, before)| {
            let after = self.ruleset.nodes().get(&name).cloned();
            (before != after).then_some(NodeChange { name, before, after })
        });
        let nodes = nodes.collect();
        let (mut pipelines, mut sets) =
            (core::mem::take(&mut work.deleted_pipelines), core::mem::take(&mut work.deleted_sets));
        pipelines.sort_unstable();
        sets.sort_unstable();
        let delete = pipelines
            .into_iter()
            .map(Delete::Pipeline)
            .chain(sets.into_iter().map(Delete::PeerSet))
            .collect();
        Delta { create, switch: Switch { endpoints, members, nodes }, delete }
    }
}
