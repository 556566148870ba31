//! Which objects a selector matches, without looking at all of them.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use hashbrown::{HashMap, HashSet};

use crate::ir::Selector;
use crate::model::{Labels, Operator};

/// From a label to the rows that carry it, ascending. Holds only the keys that selectors ask for by value.
pub(super) struct LabelIndex<'a> {
    labels: Vec<&'a Labels>,
    rows: HashMap<(&'a str, &'a str), Vec<u32>>,
    indexed: HashSet<String>,
}

impl<'a> LabelIndex<'a> {
    pub(super) fn new(labels: impl IntoIterator<Item = &'a Labels>) -> Self {
        Self { labels: labels.into_iter().collect(), rows: HashMap::new(), indexed: HashSet::new() }
    }

    /// Returns the rows within `range` that match, ascending.
    ///
    /// Costs the rows that carry the rarest value the selector asks for, or the range where it asks for none.
    pub(super) fn select(&mut self, range: Range<u32>, selector: &Selector) -> Vec<u32> {
        let by_value = || {
            selector
                .requirements()
                .iter()
                .filter(|requirement| requirement.operator == Operator::In)
        };
        for requirement in by_value() {
            self.index_key(&requirement.key);
        }
        let all = &self.rows;
        let narrowest = by_value()
            .map(|requirement| {
                let lists = requirement
                    .values
                    .iter()
                    .map(|value| carriers(all, &range, (&requirement.key, value)));
                (lists.clone().map(<[u32]>::len).sum::<usize>(), lists)
            })
            .min_by_key(|(count, _)| *count);
        let matches = |row: &u32| {
            self.labels.get(*row as usize).is_some_and(|labels| selector.matches(labels))
        };
        match narrowest {
            Some((_, lists)) => {
                // A row carries one value per key, so the lists are disjoint.
                let mut rows: Vec<u32> = lists.flatten().copied().filter(matches).collect();
                rows.sort_unstable();
                rows
            }
            None if selector.is_everything() => range.collect(),
            None => range.filter(matches).collect(),
        }
    }

    fn index_key(&mut self, key: &str) {
        if self.indexed.contains(key) {
            return;
        }
        self.indexed.insert(key.into());
        for (row, labels) in (0_u32..).zip(&self.labels) {
            if let Some((key, value)) = labels.0.get_key_value(key) {
                self.rows.entry((key, value)).or_default().push(row);
            }
        }
    }
}

/// Returns the rows within `range` that carry the label.
fn carriers<'r>(
    rows: &'r HashMap<(&'r str, &'r str), Vec<u32>>,
    range: &Range<u32>,
    label: (&'r str, &'r str),
) -> &'r [u32] {
    let rows = rows.get(&label).map(Vec::as_slice).unwrap_or_default();
    let start = rows.partition_point(|row| *row < range.start);
    let end = rows.partition_point(|row| *row < range.end);
    rows.get(start..end).unwrap_or_default()
}
