//! Selections: asked, answered from the indexes, and let go.

use alloc::vec::Vec;

use super::Engine;
use super::index::EVERYWHERE;
use super::labels::{Demand, Label};
use super::selections::{Question, Reach};
use super::slab::Id;
use crate::ir::{NamespaceScope, Selector};
use crate::model::Operator;

/// Which pods count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Among {
    /// Every pod that owns an address.
    All,
    /// Those of the scope.
    Local,
}

impl Engine {
    /// Makes a question of selectors; it holds what it names until [`Self::drop_question`].
    pub(super) fn question(&mut self, namespaces: &NamespaceScope, pods: &Selector) -> Question {
        let pods = self.matcher(pods);
        let reach = match namespaces {
            NamespaceScope::One(name) => Reach::One(self.take_namespace(name)),
            NamespaceScope::Matching(selector) if selector.is_everything() => Reach::All,
            NamespaceScope::Matching(selector) => {
                let matcher = self.matcher(selector);
                let Self { namespaces, symbols, labels, tuning, .. } = self;
                let few = tuning.few_namespaces;
                let (id, is_new) = namespaces.take_selector(symbols, labels, &matcher, few);
                if !is_new {
                    matcher.give_back(symbols);
                }
                Reach::Matching(id)
            }
        };
        Question { reach, pods }
    }

    pub(super) fn drop_question(&mut self, question: &Question) {
        question.pods.give_back(&mut self.symbols);
        match question.reach {
            Reach::One(namespace) => self.give_back_namespace(namespace),
            Reach::All => {}
            Reach::Matching(selector) => {
                self.namespaces.give_back_selector(&mut self.symbols, selector);
            }
        }
    }

    /// Returns where selections of a reach are filed.
    pub(super) fn places(&self, reach: Reach) -> Vec<Id> {
        match reach {
            Reach::One(namespace) => alloc::vec![namespace],
            Reach::All => alloc::vec![EVERYWHERE],
            Reach::Matching(selector) => {
                let selector = self.namespaces.selectors.get(selector);
                selector.map(super::selections::NamespaceSelector::places).unwrap_or_default()
            }
        }
    }

    /// Returns the pods that a question selects.
    ///
    /// Costs the pods of the namespaces it reaches or those that carry the rarest value it asks for, whichever is less.
    pub(super) fn query(&mut self, question: &Question, among: Among) -> Vec<Id> {
        let among = if self.is_cluster_wide() { Among::All } else { among };
        let bound = self.bound(question.reach, among);
        let demands = question.pods.demands();
        let by_value = || demands.iter().filter(|demand| demand.operator == Operator::In);
        if bound > self.tuning.few_pods {
            by_value().for_each(|demand| self.index_pods(demand));
            let narrowest = by_value().min_by_key(|demand| self.pods.postings.count(demand));
            if let Some(narrowest) = narrowest
                && self.pods.postings.count(narrowest) < bound
            {
                let mut found = Vec::new();
                let is_all = demands.len() == 1;
                self.pods.postings.carriers(narrowest, |id| {
                    let selected = self.is_reached(question.reach, among, id)
                        && (is_all || question.pods.matches(self.labels_of(id)));
                    found.extend(selected.then_some(id));
                });
                return found;
            }
        }
        self.scan(question, among)
    }

    fn index_pods(&mut self, demand: &Demand) {
        if self.pods.postings.is_indexed(demand.key) {
            return;
        }
        let mut postings = core::mem::take(&mut self.pods.postings);
        let Self { symbols, pods, labels, .. } = self;
        let active = pods.slab.iter().filter(|(id, _)| pods.is_active(*id));
        let all = active.map(|(id, pod)| (id, labels.labels(pod.labels)));
        postings.index(symbols, demand.key, all);
        self.pods.postings = postings;
    }

    /// Returns how many pods a reach holds, or as many as are too many to count.
    fn bound(&self, reach: Reach, among: Among) -> usize {
        let of = |namespace: Id| self.pods_of(namespace, among).map_or(0, |pods| pods.len());
        match reach {
            Reach::One(namespace) => of(namespace),
            Reach::All => match among {
                Among::All => self.pods.active,
                Among::Local => self.pods.local.len(),
            },
            Reach::Matching(selector) => {
                let selector = self.namespaces.selectors.get(selector);
                let matching = selector.into_iter().flat_map(|selector| &selector.matching);
                matching.map(|namespace| of(*namespace)).sum()
            }
        }
    }

    fn pods_of(&self, namespace: Id, among: Among) -> Option<&alloc::collections::BTreeSet<Id>> {
        let namespace = self.namespaces.all.get(namespace)?;
        Some(match among {
            Among::All => &namespace.pods,
            Among::Local => &namespace.local,
        })
    }

    fn scan(&self, question: &Question, among: Among) -> Vec<Id> {
        let matches = |id: &Id| question.pods.matches(self.labels_of(*id));
        let of = |namespace: &Id| {
            let pods = self.pods_of(*namespace, among).into_iter().flatten();
            pods.copied().filter(matches)
        };
        match question.reach {
            Reach::One(namespace) => of(&namespace).collect(),
            Reach::All => match among {
                Among::All => {
                    let all = self.pods.slab.iter().map(|(id, _)| id);
                    all.filter(|id| self.pods.is_active(*id)).filter(matches).collect()
                }
                Among::Local => self.pods.local.iter().copied().filter(matches).collect(),
            },
            Reach::Matching(selector) => {
                let selector = self.namespaces.selectors.get(selector);
                selector.into_iter().flat_map(|selector| &selector.matching).flat_map(of).collect()
            }
        }
    }

    fn is_reached(&self, reach: Reach, among: Among, id: Id) -> bool {
        let Some(pod) = self.pods.slab.get(id) else { return false };
        let counts = match among {
            Among::All => true,
            Among::Local => pod.subject.is_some(),
        };
        let reaches = match reach {
            Reach::One(namespace) => namespace == pod.namespace,
            Reach::All => true,
            Reach::Matching(selector) => {
                let selector = self.namespaces.selectors.get(selector);
                selector.is_some_and(|selector| selector.matching.contains(&pod.namespace))
            }
        };
        counts && reaches
    }

    pub(super) fn labels_of(&self, pod: Id) -> &[Label] {
        self.pods.slab.get(pod).map(|pod| self.labels.labels(pod.labels)).unwrap_or_default()
    }

    /// A namespace comes to be matched, or ceases to be, by some namespace selectors.
    pub(super) fn regroup(&mut self, namespace: Id, selectors: &[Id]) {
        let pods: Vec<Id> = self
            .namespaces
            .all
            .get(namespace)
            .map(|namespace| namespace.pods.iter().copied().collect())
            .unwrap_or_default();
        let views = pods.into_iter().filter_map(|id| Some((id, self.view(id)?)));
        let mut views: Vec<_> = views.collect();
        // Pods with the same labels are asked about once.
        views.sort_by_key(|(_, view)| view.labels);
        for selector in selectors {
            let Some(known) = self.namespaces.selectors.get(*selector) else { continue };
            let joins = !known.matching.contains(&namespace);
            let (subjects, peers) = (known.subjects.clone(), known.peers.clone());
            self.move_peers(&peers, &views, joins);
            for selection in &subjects {
                self.move_subjects(*selection, &views, joins);
            }
            if joins {
                self.join_namespace_selector(*selector, namespace);
            } else {
                self.leave_namespace_selector(*selector, namespace);
            }
        }
    }

    fn join_namespace_selector(&mut self, selector: Id, namespace: Id) {
        let Self { namespaces, subjects, peers, tuning, .. } = self;
        let Some(known) = namespaces.selectors.get_mut(selector) else { return };
        known.matching.insert(namespace);
        if known.is_wide {
            return;
        }
        if known.matching.len() <= tuning.few_namespaces {
            known.subjects.iter().for_each(|selection| subjects.file(*selection, namespace));
            known.peers.iter().for_each(|selection| peers.file(*selection, namespace));
            return;
        }
        known.is_wide = true;
        for namespace in known.matching.iter().filter(|other| **other != namespace) {
            known.subjects.iter().for_each(|selection| subjects.unfile(*selection, *namespace));
            known.peers.iter().for_each(|selection| peers.unfile(*selection, *namespace));
        }
        known.subjects.iter().for_each(|selection| subjects.file(*selection, EVERYWHERE));
        known.peers.iter().for_each(|selection| peers.file(*selection, EVERYWHERE));
    }

    pub(super) fn leave_namespace_selector(&mut self, selector: Id, namespace: Id) {
        let Self { namespaces, subjects, peers, .. } = self;
        let Some(known) = namespaces.selectors.get_mut(selector) else { return };
        if known.matching.remove(&namespace) && !known.is_wide {
            known.subjects.iter().for_each(|selection| subjects.unfile(*selection, namespace));
            known.peers.iter().for_each(|selection| peers.unfile(*selection, namespace));
        }
    }
}
