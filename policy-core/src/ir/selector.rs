//! Label selectors in canonical form.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::model::{LabelSelector, Labels, Operator};

/// A label selector in which equal meanings that differ only in spelling are equal values: `matchLabels` pairs are
/// `In` with one value, requirements and values are sorted and unique.
///
/// Empty matches everything; [`Selector::nothing`] matches nothing.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Selector(Vec<SelectorRequirement>);

/// One requirement: what NP-041 says of a key.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SelectorRequirement {
    /// The label key.
    pub key: Arc<str>,
    /// The comparison.
    pub operator: Operator,
    /// Values of `In` and `NotIn`, ascending and unique.
    pub values: Vec<Arc<str>>,
}

impl SelectorRequirement {
    /// Returns whether `labels` satisfy the requirement (NP-041).
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.value(&self.key);
        let listed = || {
            value.is_some_and(|value| {
                self.values.binary_search_by(|v| v.as_ref().cmp(value)).is_ok()
            })
        };
        match self.operator {
            Operator::In => listed(),
            // NP-042: an absent key satisfies NotIn.
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl Selector {
    /// The selector that matches everything.
    #[must_use]
    pub const fn everything() -> Self {
        Self(Vec::new())
    }

    /// A selector that matches nothing: what an unreadable selector becomes.
    #[must_use]
    pub fn nothing() -> Self {
        Self(alloc::vec![SelectorRequirement {
            key: "".into(),
            operator: Operator::In,
            values: Vec::new()
        }])
    }

    /// Takes requirements in any order.
    #[must_use]
    pub fn new(requirements: impl IntoIterator<Item = SelectorRequirement>) -> Self {
        let mut requirements: Vec<SelectorRequirement> = requirements
            .into_iter()
            .map(|mut requirement| {
                requirement.values.sort_unstable();
                requirement.values.dedup();
                requirement
            })
            .collect();
        requirements.sort_unstable();
        requirements.dedup();
        Self(requirements)
    }

    /// Returns the requirements, all of which must hold.
    #[must_use]
    pub fn requirements(&self) -> &[SelectorRequirement] {
        &self.0
    }

    /// Returns whether every object matches.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether `labels` satisfy every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

impl From<&LabelSelector> for Selector {
    fn from(selector: &LabelSelector) -> Self {
        if selector.is_unreadable() {
            return Self::nothing();
        }
        let equalities = selector.match_labels.given().into_iter().flatten().map(|(key, value)| {
            SelectorRequirement {
                key: key.clone(),
                operator: Operator::In,
                values: alloc::vec![value.clone()],
            }
        });
        let expressions =
            selector.match_expressions.given().into_iter().flatten().map(|requirement| {
                let values = match requirement.operator {
                    Operator::In | Operator::NotIn => requirement.values.clone(),
                    Operator::Exists | Operator::DoesNotExist => Vec::new(),
                };
                SelectorRequirement {
                    key: requirement.key.clone(),
                    operator: requirement.operator,
                    values,
                }
            });
        Self::new(equalities.chain(expressions))
    }
}

impl fmt::Display for Selector {
    /// Writes what `kubectl get -l` takes; `{}` for everything. Label syntax keeps the text free of ambiguity.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("{}");
        }
        for (index, SelectorRequirement { key, operator, values }) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            match (operator, values.as_slice()) {
                (Operator::In, [value]) => write!(f, "{key}={value}")?,
                (Operator::In, _) => write!(f, "{key} in ({})", values.join(","))?,
                (Operator::NotIn, _) => write!(f, "{key} notin ({})", values.join(","))?,
                (Operator::Exists, _) => write!(f, "{key}")?,
                (Operator::DoesNotExist, _) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}
