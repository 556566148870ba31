//! Namespaces, and the namespace selectors that policies use.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::Borrow;

use super::index::{EVERYWHERE, Postings, SelectorIndex};
use super::interner::Interner;
use super::labels::{LabelSets, Matcher, Symbols};
use super::selections::NamespaceSelector;
use super::slab::Id;
use crate::model::Operator;

/// A namespace that is declared, has pods, or is some policy's own.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    pub(super) name: Arc<str>,
    pub(super) is_declared: bool,
    /// Its labels; only the automatic one where it is not declared (OFF-003). `None` until they are first set.
    pub(super) labels: Option<Id>,
    /// Its pods that own an address.
    pub(super) pods: BTreeSet<Id>,
    /// Those of the scope; empty where the scope is the cluster.
    pub(super) local: BTreeSet<Id>,
}

impl Borrow<str> for Namespace {
    fn borrow(&self) -> &str {
        &self.name
    }
}

/// The namespaces and the selectors that look for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespaces {
    pub(super) all: Interner<Namespace>,
    pub(super) selectors: Interner<NamespaceSelector>,
    pub(super) index: SelectorIndex,
    pub(super) postings: Postings,
}

impl Namespaces {
    /// Returns the namespace selectors that match labels, ascending.
    pub(super) fn matched(&self, labels: &[(Id, Id)]) -> Vec<Id> {
        let mut found = Vec::new();
        self.index.candidates(&[EVERYWHERE], labels, |id| {
            let selector = self.selectors.get(id);
            if selector.is_some_and(|selector| selector.matcher.matches(labels)) {
                found.push(id);
            }
        });
        found.sort_unstable();
        found
    }

    /// Holds a namespace selector. Returns whether it is new.
    pub(super) fn take_selector(
        &mut self,
        symbols: &mut Symbols,
        labels: &LabelSets,
        matcher: &Matcher,
        few: usize,
    ) -> (Id, bool) {
        if let Some(id) = self.selectors.find(matcher) {
            self.selectors.retain(id);
            return (id, false);
        }
        let matching = self.matching(symbols, labels, matcher);
        let anchor = self.index.anchor(EVERYWHERE, matcher);
        let is_wide = matching.len() > few;
        let id = self.selectors.acquire(matcher, || NamespaceSelector {
            matcher: matcher.clone(),
            matching,
            is_wide,
            anchor,
            subjects: Vec::new(),
            peers: Vec::new(),
        });
        self.index.file(EVERYWHERE, matcher, anchor, id);
        (id, true)
    }

    /// Lets go of a namespace selector.
    pub(super) fn give_back_selector(&mut self, symbols: &mut Symbols, id: Id) {
        if let Some(gone) = self.selectors.release::<Matcher>(id) {
            self.index.unfile(EVERYWHERE, &gone.matcher, gone.anchor, id);
            gone.matcher.give_back(symbols);
        }
    }

    fn matching(
        &mut self,
        symbols: &mut Symbols,
        labels: &LabelSets,
        matcher: &Matcher,
    ) -> BTreeSet<Id> {
        let Self { all, postings, .. } = self;
        let of = |namespace: &Namespace| namespace.labels.map(|id| labels.labels(id));
        let by_value = || matcher.demands().iter().filter(|demand| demand.operator == Operator::In);
        for demand in by_value() {
            let listed = all.iter().filter_map(|(id, namespace)| Some((id, of(namespace)?)));
            postings.index(symbols, demand.key, listed);
        }
        let matches =
            |id: &Id| all.get(*id).and_then(of).is_some_and(|labels| matcher.matches(labels));
        let mut found = BTreeSet::new();
        match by_value().min_by_key(|demand| postings.count(demand)) {
            Some(narrowest) => postings.carriers(narrowest, |id| {
                found.extend(matches(&id).then_some(id));
            }),
            None => found.extend(all.iter().map(|(id, _)| id).filter(matches)),
        }
        found
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let namespaces = self.all.iter().map(|(_, namespace)| {
            super::memory::text_bytes(&namespace.name)
                + super::memory::btree_bytes::<Id>(namespace.pods.len())
                + super::memory::btree_bytes::<Id>(namespace.local.len())
        });
        let selectors = self.selectors.iter().map(|(_, selector)| selector.heap_bytes());
        self.all.heap_bytes()
            + self.selectors.heap_bytes()
            + self.index.heap_bytes()
            + self.postings.heap_bytes()
            + namespaces.sum::<usize>()
            + selectors.sum::<usize>()
    }
}
