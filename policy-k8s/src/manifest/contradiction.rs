//! Selectors that can match nothing (NP-046).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;

use netpol_core::model::{LabelSelector, Operator};

/// What a selector demands of one key.
#[derive(Default)]
struct Demand<'s> {
    /// The values that are left, once some requirement lists any.
    allowed: Option<BTreeSet<&'s str>>,
    refused: BTreeSet<&'s str>,
    present: bool,
    absent: bool,
}

impl<'s> Demand<'s> {
    fn one_of(&mut self, values: BTreeSet<&'s str>) {
        self.present = true;
        self.allowed = Some(match self.allowed.take() {
            Some(allowed) => allowed.intersection(&values).copied().collect(),
            None => values,
        });
    }

    fn is_impossible(&self) -> bool {
        let none_left =
            self.allowed.as_ref().is_some_and(|allowed| allowed.is_subset(&self.refused));
        none_left || (self.present && self.absent)
    }
}

/// Returns the first key on which no value and no absence can satisfy the selector.
pub(super) fn contradiction(selector: &LabelSelector) -> Option<Arc<str>> {
    let mut demands: BTreeMap<&Arc<str>, Demand<'_>> = BTreeMap::new();
    for (key, value) in selector.match_labels.given().into_iter().flatten() {
        demands.entry(key).or_default().one_of(BTreeSet::from([value.as_ref()]));
    }
    for requirement in selector.match_expressions.given().into_iter().flatten() {
        let demand = demands.entry(&requirement.key).or_default();
        let values = requirement.values.iter().map(AsRef::as_ref);
        match requirement.operator {
            Operator::In => demand.one_of(values.collect()),
            Operator::NotIn => demand.refused.extend(values),
            Operator::Exists => demand.present = true,
            Operator::DoesNotExist => demand.absent = true,
        }
    }
    demands.into_iter().find(|(_, demand)| demand.is_impossible()).map(|(key, _)| key.clone())
}
