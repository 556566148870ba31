//! What follows when what policy sees of some pods changes.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::Engine;
use super::peers::Sign;
use super::pods::{Subject, View};
use super::slab::{Id, NONE};
use crate::model::ObjectRef;

/// A pod, and what policy saw and sees of it.
pub(super) type Change = (Id, Option<View>, Option<View>);

/// The selections a pod was and is in.
struct Moves {
    peers: [Vec<Id>; 2],
    subjects: [Vec<Id>; 2],
}

impl Engine {
    /// Carries out changes that belong together: an address may go from one pod to another, so that everything is left
    /// before anything is joined.
    pub(super) fn transit(&mut self, changes: &[Change]) {
        let moves: Vec<Moves> =
            changes.iter().map(|(_, before, after)| self.moves(before, after)).collect();
        for ((id, before, after), moves) in changes.iter().zip(&moves) {
            if let Some(view) = before
                && before != after
            {
                self.leave_all(*id, view, after.as_ref(), moves);
            }
        }
        for ((id, before, after), moves) in changes.iter().zip(&moves) {
            if let Some(view) = after
                && before != after
            {
                self.join_all(*id, before.as_ref(), view, moves);
            }
        }
    }

    fn moves(&self, before: &Option<View>, after: &Option<View>) -> Moves {
        if before == after {
            return Moves { peers: [Vec::new(), Vec::new()], subjects: [Vec::new(), Vec::new()] };
        }
        let unmoved = match (before, after) {
            (Some(before), Some(after)) => before.labels == after.labels,
            (Some(_), None) | (None, Some(_)) | (None, None) => false,
        };
        let old = before.as_ref().map(|view| self.peers_of(view)).unwrap_or_default();
        let peers = match after {
            Some(_) if unmoved => [old.clone(), old],
            Some(view) => [old, self.peers_of(view)],
            None => [old, Vec::new()],
        };
        let of = |view: &Option<View>| {
            view.as_ref().map(|view| self.subjects_of(view)).unwrap_or_default()
        };
        Moves { peers, subjects: [of(before), of(after)] }
    }

    fn peers_of(&self, view: &View) -> Vec<Id> {
        let labels = self.labels.labels(view.labels);
        self.peers.of_pod(view.namespace, labels, |selector| self.spreads(selector, view.namespace))
    }

    fn subjects_of(&self, view: &View) -> Vec<Id> {
        if !view.is_local {
            return Vec::new();
        }
        let labels = self.labels.labels(view.labels);
        self.subjects
            .of_pod(view.namespace, labels, |selector| self.spreads(selector, view.namespace))
    }

    fn spreads(&self, selector: Id, namespace: Id) -> bool {
        let selector = self.namespaces.selectors.get(selector);
        selector.is_some_and(|selector| selector.matching.contains(&namespace))
    }

    fn leave_all(&mut self, id: Id, view: &View, after: Option<&View>, moves: &Moves) {
        let stays = after
            .is_some_and(|after| after.addresses == view.addresses && after.ports == view.ports);
        let [old, new] = &moves.peers;
        for selection in old {
            if !stays || new.binary_search(selection).is_err() {
                self.move_peer(*selection, core::iter::once(view), Sign::Minus);
            }
        }
        let stays = after.is_some_and(|after| after.ports == view.ports);
        let [old, new] = &moves.subjects;
        for selection in old {
            if !stays || new.binary_search(selection).is_err() {
                for policy in self.policies_of(*selection) {
                    self.leave_subject(policy, id, view.ports);
                }
            }
        }
        if after.is_none_or(|after| !same_lists(view, after)) {
            self.unlist(id, view);
        }
        if view.is_local && !after.is_some_and(|after| after.is_local) {
            self.drop_endpoint(id);
        }
    }

    fn join_all(&mut self, id: Id, before: Option<&View>, view: &View, moves: &Moves) {
        if before.is_none_or(|before| !same_lists(before, view)) {
            self.list(id, view);
        }
        if view.is_local {
            if let Some(pod) = self.pods.slab.get_mut(id)
                && pod.subject.is_none()
            {
                let subject = Subject { policies: BTreeSet::new(), pipelines: [NONE, NONE] };
                pod.subject = Some(Box::new(subject));
            }
            let unmoved = before.is_some_and(|before| {
                before.is_local && before.addresses == view.addresses && before.node == view.node
            });
            if !unmoved {
                self.work.bind(id);
            }
        }
        let stays = before
            .is_some_and(|before| before.addresses == view.addresses && before.ports == view.ports);
        let [old, new] = &moves.peers;
        for selection in new {
            if !stays || old.binary_search(selection).is_err() {
                self.move_peer(*selection, core::iter::once(view), Sign::Plus);
            }
        }
        let stays = before.is_some_and(|before| before.ports == view.ports);
        let [old, new] = &moves.subjects;
        for selection in new {
            if !stays || old.binary_search(selection).is_err() {
                for policy in self.policies_of(*selection) {
                    self.enter_subject(policy, id, view.ports);
                }
            }
        }
    }

    fn policies_of(&self, selection: Id) -> Vec<Id> {
        self.subjects.get(selection).map(|selection| selection.users.clone()).unwrap_or_default()
    }

    /// Adds a pod to the lists of those that own an address.
    fn list(&mut self, id: Id, view: &View) {
        let Self { pods, labels, namespaces, .. } = self;
        pods.postings.insert(id, labels.labels(view.labels));
        pods.active += 1;
        let Some(namespace) = namespaces.all.get_mut(view.namespace) else { return };
        namespace.pods.insert(id);
        if view.is_local && self.home != NONE {
            namespace.local.insert(id);
            pods.local.insert(id);
        }
    }

    fn unlist(&mut self, id: Id, view: &View) {
        let Self { pods, labels, namespaces, .. } = self;
        pods.postings.remove(id, labels.labels(view.labels));
        pods.active -= 1;
        let Some(namespace) = namespaces.all.get_mut(view.namespace) else { return };
        namespace.pods.remove(&id);
        if view.is_local && self.home != NONE {
            namespace.local.remove(&id);
            pods.local.remove(&id);
        }
    }

    /// A pod ceases to be one of the scope that owns an address. Its policies have left it already.
    fn drop_endpoint(&mut self, id: Id) {
        let Some(pod) = self.object_of(id) else { return };
        let Some(subject) = self.pods.slab.get_mut(id).and_then(|pod| pod.subject.take()) else {
            return;
        };
        self.work.dropped_pipelines.extend(subject.pipelines);
        if let Some(before) = self.ruleset.remove_endpoint(&pod) {
            self.work.note_endpoint(&pod, Some(before));
        }
    }

    pub(super) fn object_of(&self, id: Id) -> Option<ObjectRef> {
        let pod = self.pods.slab.get(id)?;
        let namespace = self.namespaces.all.get(pod.namespace)?;
        Some(ObjectRef { namespace: namespace.name.clone(), name: pod.name.clone() })
    }
}

fn same_lists(before: &View, after: &View) -> bool {
    (before.labels, before.is_local) == (after.labels, after.is_local)
}
