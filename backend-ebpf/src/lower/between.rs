//! The change that leads from what is lowered to a ruleset.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::net::IpAddr;

use netpol_core::engine::{
    Create, Delete, Delta, EndpointChange, MemberChange, NodeChange, Switch,
};
use netpol_core::ir::{Endpoint, Ruleset};
use netpol_core::model::ObjectRef;

use super::{Binding, Lowering};

impl Lowering {
    /// Returns the change that leads to a ruleset; none if it differs in what no change changes: settings, and the
    /// addresses that pods may have. Costs a look at all of it.
    #[must_use]
    pub fn delta_to(&self, ruleset: &Ruleset) -> Option<Delta> {
        if self.settings != ruleset.settings() || self.image.ranges != *ruleset.pod_ranges() {
            return None;
        }
        let mut delta = Delta::default();
        for (id, set) in ruleset.peer_sets() {
            let Some(before) = self.classes.members(id) else {
                delta.create.push(Create::PeerSet(id, Arc::new(set.clone())));
                continue;
            };
            if before.iter().copied().eq(set.addresses.iter()) {
                continue;
            }
            let before: BTreeSet<IpAddr> = before.into_iter().collect();
            let after: BTreeSet<IpAddr> = set.addresses.iter().collect();
            let (joins, leaves) = (after.difference(&before), before.difference(&after));
            let joins = joins.copied().collect();
            delta.switch.members.push(MemberChange {
                set: id,
                joins,
                leaves: leaves.copied().collect(),
            });
        }
        for (id, pipeline) in ruleset.pipelines() {
            if !self.pipelines.contains_key(&id) {
                delta.create.push(Create::Pipeline(id, Arc::new(pipeline.clone())));
            }
        }
        let pipelines = self.pipelines.keys().filter(|id| ruleset.pipeline(**id).is_none());
        delta.delete.extend(pipelines.copied().map(Delete::Pipeline));
        let sets = self.classes.sets().filter(|id| ruleset.peer_set(*id).is_none());
        delta.delete.extend(sets.map(Delete::PeerSet));
        self.rebind(ruleset, &mut delta.switch);
        let nodes = &self.image.topology.nodes;
        let names: BTreeSet<_> = nodes.keys().chain(ruleset.nodes().keys()).collect();
        for name in names {
            let (before, after) = (nodes.get(name).cloned(), ruleset.nodes().get(name).cloned());
            if before != after {
                delta.switch.nodes.push(NodeChange { name: name.clone(), before, after });
            }
        }
        Some(delta)
    }

    fn rebind(&self, ruleset: &Ruleset, switch: &mut Switch) {
        for after in ruleset.endpoints() {
            let before =
                self.endpoints.get(&after.pod).map(|bound| self.endpoint(&after.pod, bound));
            if before.as_ref().is_none_or(|before| !is_same(before, after)) {
                let after = Some(Arc::new(after.clone()));
                switch.endpoints.push(EndpointChange { before: before.map(Arc::new), after });
            }
        }
        let gone = self.endpoints.iter().filter(|(pod, _)| ruleset.endpoint(pod).is_none());
        let gone = gone.map(|(pod, bound)| Some(Arc::new(self.endpoint(pod, bound))));
        switch.endpoints.extend(gone.map(|before| EndpointChange { before, after: None }));
    }

    fn endpoint(&self, pod: &ObjectRef, bound: &Binding) -> Endpoint {
        let places = bound.addresses.iter().filter_map(|at| self.image.topology.pods.get(at));
        let mut own = places.filter(|place| place.pod == *pod);
        Endpoint {
            pod: pod.clone(),
            node: own.next().and_then(|place| place.node.clone()),
            addresses: bound.addresses.clone(),
            ingress: bound.ingress,
            egress: bound.egress,
        }
    }
}

/// Returns whether two are the same as far as packets can tell: where a pod without addresses is does not matter.
fn is_same(one: &Endpoint, other: &Endpoint) -> bool {
    one == other
        || one.addresses.is_empty()
            && Endpoint { node: None, ..one.clone() } == Endpoint { node: None, ..other.clone() }
}
