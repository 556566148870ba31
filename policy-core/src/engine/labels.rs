//! Strings, label sets and selectors as small numbers.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::interner::Interner;
use super::slab::Id;
use crate::ir::Selector;
use crate::model::{Labels, Operator};

/// The number of a string.
pub(super) type Symbol = Id;

/// Strings by number.
pub(super) type Symbols = Interner<Arc<str>>;

impl Symbols {
    pub(super) fn take(&mut self, text: &Arc<str>) -> Symbol {
        self.acquire::<str>(text, || text.clone())
    }

    pub(super) fn give_back(&mut self, symbol: Symbol) {
        self.release::<str>(symbol);
    }
}

/// Key and value.
pub(super) type Label = (Symbol, Symbol);

/// Label sets by number, each ascending by key symbol. Objects made from one template share theirs.
#[derive(Clone, Debug, Default)]
pub(super) struct LabelSets {
    sets: Interner<Box<[Label]>>,
    scratch: Vec<Label>,
}

impl LabelSets {
    pub(super) fn take(&mut self, symbols: &mut Symbols, labels: &Labels) -> Id {
        let mut list = core::mem::take(&mut self.scratch);
        list.extend(labels.0.iter().map(|(key, value)| (symbols.take(key), symbols.take(value))));
        list.sort_unstable();
        let mut new = false;
        let id = self.sets.acquire(list.as_slice(), || {
            new = true;
            list.as_slice().into()
        });
        if !new {
            give_back_all(symbols, &list);
        }
        list.clear();
        self.scratch = list;
        id
    }

    pub(super) fn give_back(&mut self, symbols: &mut Symbols, id: Id) {
        if let Some(list) = self.sets.release::<[Label]>(id) {
            give_back_all(symbols, &list);
        }
    }

    /// Returns the labels, ascending by key symbol.
    pub(super) fn labels(&self, id: Id) -> &[Label] {
        self.sets.get(id).map(AsRef::as_ref).unwrap_or_default()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let lists = self.sets.iter().map(|(_, list)| size_of_val::<[Label]>(list));
        self.sets.heap_bytes() + lists.sum::<usize>()
    }
}

fn give_back_all(symbols: &mut Symbols, labels: &[Label]) {
    for (key, value) in labels {
        symbols.give_back(*key);
        symbols.give_back(*value);
    }
}

/// A [`Selector`] over symbols. Equal selectors are equal matchers.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Matcher(Box<[Demand]>);

/// One requirement.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Demand {
    pub(super) key: Symbol,
    pub(super) operator: Operator,
    /// Ascending.
    pub(super) values: Box<[Symbol]>,
}

impl Matcher {
    pub(super) fn take(symbols: &mut Symbols, selector: &Selector) -> Self {
        let demand = |requirement: &crate::ir::SelectorRequirement| {
            let mut values: Box<[Symbol]> =
                requirement.values.iter().map(|value| symbols.take(value)).collect();
            values.sort_unstable();
            let key = symbols.take(&requirement.key);
            Demand { key, operator: requirement.operator, values }
        };
        Self(selector.requirements().iter().map(demand).collect())
    }

    pub(super) fn give_back(&self, symbols: &mut Symbols) {
        for demand in &self.0 {
            symbols.give_back(demand.key);
            demand.values.iter().for_each(|value| symbols.give_back(*value));
        }
    }

    pub(super) fn demands(&self) -> &[Demand] {
        &self.0
    }

    /// Returns whether labels satisfy every demand (NP-041).
    pub(super) fn matches(&self, labels: &[Label]) -> bool {
        self.0.iter().all(|demand| {
            let value = value(labels, demand.key);
            let listed = || value.is_some_and(|value| demand.values.binary_search(&value).is_ok());
            match demand.operator {
                Operator::In => listed(),
                Operator::NotIn => !listed(), // NP-042
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let values = self.0.iter().map(|demand| size_of_val::<[Symbol]>(&demand.values));
        size_of_val::<[Demand]>(&self.0) + values.sum::<usize>()
    }
}

fn value(labels: &[Label], key: Symbol) -> Option<Symbol> {
    let place = labels.binary_search_by_key(&key, |(key, _)| *key).ok()?;
    labels.get(place).map(|(_, value)| *value)
}
