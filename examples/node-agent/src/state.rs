//! What was told and is not enforced yet.

use alloc::collections::BTreeMap;
use std::collections::HashSet;
use std::time::Instant;

use netpol_core::model::{Kind, ObjectRef};
use netpol_k8s::watch::{Change, KINDS, kind_of};

/// The changes that wait, in order, and which objects there are.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Changes that the engine has not heard.
    pub(crate) waiting: Vec<Change>,
    objects: BTreeMap<Kind, HashSet<ObjectRef>>,
    /// Everything was listed once.
    pub(crate) is_synced: bool,
    /// When the first change was heard that is not enforced yet.
    pub(crate) oldest: Option<Instant>,
}

impl State {
    pub(crate) fn take(&mut self, change: Change, heard: Instant) {
        if let Some(kind) = kind_of(&change) {
            let objects = self.objects.entry(kind).or_default();
            match named(&change) {
                Named::There(object) => objects.insert(object),
                Named::Gone(object) => objects.remove(&object),
            };
        } else {
            self.is_synced = true;
        }
        self.waiting.push(change);
        self.oldest.get_or_insert(heard);
    }

    /// Whether something waits that may be enforced.
    pub(crate) const fn is_due(&self) -> bool {
        self.is_synced && self.oldest.is_some()
    }

    /// How many objects of each kind there are.
    pub(crate) fn counts(&self) -> [(Kind, usize); 5] {
        KINDS.map(|kind| (kind, self.objects.get(&kind).map_or(0, HashSet::len)))
    }
}

/// What a change says of which object.
enum Named {
    Gone(ObjectRef),
    There(ObjectRef),
}

fn named(change: &Change) -> Named {
    let cluster_scoped =
        |name: &alloc::sync::Arc<str>| ObjectRef { name: name.clone(), ..ObjectRef::default() };
    match change {
        Change::PutPod(pod) => Named::There(pod.meta.object.clone()),
        Change::PutNamespace(namespace) => Named::There(namespace.meta.object.clone()),
        Change::PutNode(node) => Named::There(node.meta.object.clone()),
        Change::PutNetworkPolicy(policy) => Named::There(policy.meta.object.clone()),
        Change::PutClusterNetworkPolicy(policy) => Named::There(policy.meta.object.clone()),
        Change::DeletePod(object) | Change::DeleteNetworkPolicy(object) => {
            Named::Gone(object.clone())
        }
        Change::DeleteNamespace(name)
        | Change::DeleteNode(name)
        | Change::DeleteClusterNetworkPolicy(name) => Named::Gone(cluster_scoped(name)),
        Change::InSync => Named::Gone(ObjectRef::default()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use netpol_core::model::{Kind, Labels, ObjectMeta, Pod};
    use netpol_k8s::watch::Change;

    use super::State;

    #[test]
    fn nothing_is_due_before_everything_was_listed() {
        let mut state = State::default();
        let meta = ObjectMeta::new("x", "a", Labels::default());
        let pod = Pod { meta, ..Pod::default() };
        let object = pod.meta.object.clone();
        state.take(Change::PutPod(pod), Instant::now());
        assert!(!state.is_due());
        state.take(Change::InSync, Instant::now());
        assert!(state.is_due());
        assert_eq!(state.counts()[0], (Kind::Pod, 1));
        state.take(Change::DeletePod(object), Instant::now());
        assert_eq!(state.counts()[0], (Kind::Pod, 0));
    }
}
