//! The cluster as far as it was told, and what of it is not enforced yet.

use std::time::Instant;

use netpol_core::model::{Cluster, Kind};
use netpol_k8s::watch::{self, Change};

/// Objects, and the changes that wait.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) cluster: Cluster,
    /// Everything was listed once.
    pub(crate) is_synced: bool,
    /// When the first change was heard that is not enforced yet.
    pub(crate) oldest: Option<Instant>,
}

impl State {
    /// Takes a change. What repeats what is known changes nothing.
    pub(crate) fn take(&mut self, change: Change, heard: Instant) {
        // The first rules are due even if there is no object at all: old ones may be in force.
        let is_end_of_list = change == Change::InSync;
        self.is_synced |= is_end_of_list;
        let changed = watch::apply(change, &mut self.cluster) || is_end_of_list;
        if changed {
            self.oldest.get_or_insert(heard);
        }
    }

    /// Whether something waits that may be enforced.
    pub(crate) const fn is_due(&self) -> bool {
        self.is_synced && self.oldest.is_some()
    }

    /// How many objects of each kind there are.
    pub(crate) fn counts(&self) -> [(Kind, usize); 5] {
        let cluster = &self.cluster;
        [
            (Kind::Pod, cluster.pods.len()),
            (Kind::Namespace, cluster.namespaces.len()),
            (Kind::Node, cluster.nodes.len()),
            (Kind::NetworkPolicy, cluster.network_policies.len()),
            (Kind::ClusterNetworkPolicy, cluster.cluster_network_policies.len()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use netpol_core::model::{Labels, ObjectMeta, Pod};
    use netpol_k8s::watch::Change;

    use super::State;

    #[test]
    fn nothing_is_due_before_everything_was_listed() {
        let mut state = State::default();
        let meta = ObjectMeta::new("x", "a", Labels::default());
        let pod = Pod { meta, ..Pod::default() };
        state.take(Change::PutPod(pod.clone()), Instant::now());
        assert!(!state.is_due());
        state.take(Change::InSync, Instant::now());
        assert!(state.is_due());
        state.oldest = None;
        state.take(Change::PutPod(pod), Instant::now());
        assert!(!state.is_due(), "what repeats what is known is no change");
    }
}
