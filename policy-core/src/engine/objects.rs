//! Events to changed objects.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::Engine;
use super::event::Event;
use super::labels::Matcher;
use super::namespaces::Namespace;
use super::pods::{Addresses, Pod, View};
use super::slab::{Id, NONE};
use crate::compile::{cluster_network_policy, network_policy};
use crate::ir::PolicyKind;
use crate::model::{self, Labels, ObjectRef, Phase};

impl Engine {
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::PutPod(pod) => self.put_pod(&pod),
            Event::DeletePod(object) => self.delete_pod(&object),
            Event::PutNamespace(namespace) => self.put_namespace(&namespace),
            Event::DeleteNamespace(name) => self.delete_namespace(&name),
            Event::PutNode(node) => self.put_node(&node),
            Event::DeleteNode(name) => self.delete_node(&name),
            Event::PutNetworkPolicy(policy) => self.put_policy(network_policy::plan(&policy)),
            Event::DeleteNetworkPolicy(object) => {
                self.delete_policy(PolicyKind::NetworkPolicy, object);
            }
            Event::PutClusterNetworkPolicy(policy) => {
                self.put_policy(cluster_network_policy::plan(&policy));
            }
            Event::DeleteClusterNetworkPolicy(name) => {
                let object = ObjectRef { namespace: "".into(), name };
                self.delete_policy(PolicyKind::ClusterNetworkPolicy, object);
            }
            Event::InSync => self.go_live(),
        }
    }

    fn go_live(&mut self) {
        if self.is_live {
            return;
        }
        self.is_live = true;
        self.work.is_first = true;
        self.publish_nodes();
        let subjects = self.pods.slab.iter().filter(|(_, pod)| pod.subject.is_some());
        let mut addresses = 0;
        subjects.for_each(|(id, pod)| {
            addresses += pod.claimed.len();
            self.work.bind(id);
        });
        self.ruleset.reserve_owners(addresses);
        self.ask_for_all_subjects();
    }

    fn put_pod(&mut self, pod: &model::Pod) {
        let object = &pod.meta.object;
        let mut claimed = pod.addresses.clone();
        claimed.sort_unstable();
        claimed.dedup();
        if !pod.is_policed() || claimed.is_empty() {
            return self.delete_pod(object);
        }
        let namespace = self.take_namespace(&object.namespace);
        let labels = self.labels.take(&mut self.symbols, &pod.meta.labels);
        let ports = self.pods.take_ports(&mut self.symbols, pod);
        let mut symbol =
            |text: &Option<Arc<str>>| text.as_ref().map_or(NONE, |text| self.symbols.take(text));
        let (node, created) = (symbol(&pod.node), symbol(&pod.meta.created));
        let new = Pod {
            name: object.name.clone(),
            namespace,
            labels,
            ports,
            node,
            created,
            claimed: claimed.into(),
            stays: pod.phase == Phase::Running && !pod.terminating,
            subject: None,
        };
        let known = self.pods.find(namespace, &object.name);
        let unchanged = known.and_then(|id| self.pods.slab.get(id)).is_some_and(|old| {
            (old.labels, old.ports, old.node, old.created) == (labels, ports, node, created)
                && old.stays == new.stays
                && old.claimed == new.claimed
        });
        if unchanged {
            return self.forget(new);
        }
        match known {
            Some(id) => self.replace_pod(id, Some(new)),
            None => {
                // The claims come with `replace_pod`.
                let claimless = Pod { claimed: [].into(), ..new.clone() };
                let id = self.pods.insert(claimless);
                self.change_pod(id, Some(new), None); // Both held the same, once.
            }
        }
    }

    fn delete_pod(&mut self, object: &ObjectRef) {
        let namespace = self.namespaces.all.find::<str>(&object.namespace);
        let known = namespace.and_then(|namespace| self.pods.find(namespace, &object.name));
        if let Some(id) = known {
            self.replace_pod(id, None);
        }
    }

    fn replace_pod(&mut self, id: Id, new: Option<Pod>) {
        let before = self.view(id);
        if let Some(gone) = self.change_pod(id, new, before) {
            self.forget(gone);
        }
    }

    /// Changes a pod, its claims, and whatever follows for it and for those that claim the same addresses.
    /// Returns what the pod was before.
    fn change_pod(&mut self, id: Id, new: Option<Pod>, before: Option<View>) -> Option<Pod> {
        let old = self.pods.slab.get(id)?;
        let old_claims = old.claimed.clone();
        let new_claims = new.as_ref().map(|new| new.claimed.clone()).unwrap_or_default();
        let mut rivals = BTreeSet::new();
        for address in old_claims.iter().chain(&new_claims) {
            match self.pods.claims.contested().get(address) {
                Some(claimants) => rivals.extend(claimants),
                None => rivals.extend(self.pods.claims.owner(*address)),
            }
        }
        rivals.remove(&id);
        let mut changes: Vec<(Id, Option<View>, Option<View>)> =
            rivals.into_iter().map(|rival| (rival, self.view(rival), None)).collect();
        let old_claims =
            old_claims.iter().filter(|address| new_claims.binary_search(address).is_err());
        for address in old_claims.copied().collect::<Vec<_>>() {
            self.pods.claims.remove(address, id);
            self.settle(address);
        }
        let mut replaced = None;
        let place = self.pods.slab.get_mut(id)?;
        match new {
            Some(new) => {
                let old_claims = place.claimed.clone();
                let subject = place.subject.take();
                replaced = Some(core::mem::replace(place, Pod { subject, ..new }));
                for address in &new_claims {
                    if old_claims.binary_search(address).is_err() {
                        self.pods.claims.add(*address, id);
                    }
                    self.settle(*address);
                }
                changes.push((id, before, self.view(id)));
            }
            None => changes.push((id, before, None)),
        }
        for (rival, _, after) in &mut changes {
            if *rival != id {
                *after = self.view(*rival);
            }
        }
        self.transit(&changes);
        if replaced.is_some() {
            return replaced;
        }
        self.pods.remove(id)
    }

    /// Chooses the owner of an address that several claim: a pod that runs and stays before others, then the newest, then
    /// the first by name (NP-140).
    fn settle(&mut self, address: core::net::IpAddr) {
        let Self { pods, symbols, namespaces, .. } = self;
        let strength = |id: &Id| {
            let pod = pods.slab.get(*id)?;
            let created = symbols.get(pod.created).map(AsRef::<str>::as_ref);
            let namespace = namespaces.all.get(pod.namespace).map(|namespace| &namespace.name);
            let name = Reverse((namespace, &pod.name));
            Some((pod.stays, created, name))
        };
        pods.claims.settle(address, |claimants| {
            claimants.iter().copied().max_by(|one, other| strength(one).cmp(&strength(other)))
        });
    }

    /// Returns what policy sees of a pod; `None` if it owns no address.
    pub(super) fn view(&self, id: Id) -> Option<View> {
        let pod = self.pods.slab.get(id)?;
        let addresses: Addresses = self.pods.owned_by(id, pod).collect();
        (!addresses.is_empty()).then(|| View {
            namespace: pod.namespace,
            labels: pod.labels,
            ports: pod.ports,
            node: pod.node,
            is_local: self.is_cluster_wide() || pod.node == self.home,
            addresses,
        })
    }

    /// Lets go of what a pod held.
    fn forget(&mut self, pod: Pod) {
        self.labels.give_back(&mut self.symbols, pod.labels);
        self.pods.give_back_ports(&mut self.symbols, pod.ports);
        self.symbols.give_back(pod.node);
        self.symbols.give_back(pod.created);
        self.give_back_namespace(pod.namespace);
    }

    fn put_namespace(&mut self, namespace: &model::Namespace) {
        let id = self.hold_namespace(namespace.name());
        let Some(known) = self.namespaces.all.get_mut(id) else { return };
        if core::mem::replace(&mut known.is_declared, true) {
            self.give_back_namespace(id); // It was held already.
        }
        let labels = self.labels.take(&mut self.symbols, &namespace.meta.labels);
        self.relabel(id, labels);
    }

    fn delete_namespace(&mut self, name: &str) {
        let Some(id) = self.namespaces.all.find(name) else { return };
        let Some(known) = self.namespaces.all.get_mut(id) else { return };
        if !core::mem::replace(&mut known.is_declared, false) {
            return;
        }
        let labels = self.mentioned_labels(name);
        self.relabel(id, labels);
        self.give_back_namespace(id);
    }

    fn mentioned_labels(&mut self, name: &str) -> Id {
        let Labels(labels) = model::Namespace::mentioned(name).meta.labels;
        self.labels.take(&mut self.symbols, &Labels(labels))
    }

    /// Holds a namespace, which comes into being with the labels of one that is only mentioned (OFF-003).
    pub(super) fn take_namespace(&mut self, name: &Arc<str>) -> Id {
        let id = self.hold_namespace(name);
        if self.namespaces.all.get(id).is_some_and(|namespace| namespace.labels.is_none()) {
            let labels = self.mentioned_labels(name);
            self.relabel(id, labels);
        }
        id
    }

    fn hold_namespace(&mut self, name: &Arc<str>) -> Id {
        self.namespaces.all.acquire::<str>(name, || Namespace {
            name: name.clone(),
            is_declared: false,
            labels: None,
            pods: BTreeSet::new(),
            local: BTreeSet::new(),
        })
    }

    pub(super) fn give_back_namespace(&mut self, id: Id) {
        let Some(gone) = self.namespaces.all.release::<str>(id) else { return };
        let Some(labels) = gone.labels else { return };
        let list = self.labels.labels(labels);
        for selector in self.namespaces.matched(list) {
            // No selection is filed under a namespace that nobody holds but for selectors that match it.
            self.leave_namespace_selector(selector, id);
        }
        self.namespaces.postings.remove(id, self.labels.labels(labels));
        self.labels.give_back(&mut self.symbols, labels);
    }

    /// Gives a namespace labels. Only its pods are looked at, and only for selectors whose answer changes.
    fn relabel(&mut self, id: Id, labels: Id) {
        let Some(namespace) = self.namespaces.all.get_mut(id) else { return };
        let before = namespace.labels.replace(labels);
        if before == Some(labels) {
            return self.labels.give_back(&mut self.symbols, labels);
        }
        let matched = |labels: &[(Id, Id)]| self.namespaces.matched(labels);
        let old = before.map(|before| matched(self.labels.labels(before))).unwrap_or_default();
        let new = matched(self.labels.labels(labels));
        let differ: Vec<Id> = old
            .iter()
            .filter(|selector| new.binary_search(selector).is_err())
            .chain(new.iter().filter(|selector| old.binary_search(selector).is_err()))
            .copied()
            .collect();
        if !differ.is_empty() {
            self.regroup(id, &differ);
        }
        if let Some(before) = before {
            self.namespaces.postings.remove(id, self.labels.labels(before));
            self.labels.give_back(&mut self.symbols, before);
        }
        self.namespaces.postings.insert(id, self.labels.labels(labels));
    }

    /// Takes a matcher for a selector, to be held or given back.
    pub(super) fn matcher(&mut self, selector: &crate::ir::Selector) -> Matcher {
        Matcher::take(&mut self.symbols, selector)
    }
}
