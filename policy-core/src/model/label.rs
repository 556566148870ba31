//! Labels and label selectors (NP-040..NP-048).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::{Field, Position};

/// The label every namespace carries with its own name (NP-142).
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Labels of an object: key to value, byte for byte (NP-044).
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Labels(pub BTreeMap<Arc<str>, Arc<str>>);

impl Labels {
    /// Returns the value of `key`, if the object carries it.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(AsRef::as_ref)
    }

    /// Returns whether there is no label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{key}={value}")?;
        }
        Ok(())
    }
}

/// Operator of a selector requirement; no others exist (NP-048).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Operator {
    /// The key is present and its value is listed.
    In,
    /// The key is absent, or its value is not listed (NP-042).
    NotIn,
    /// The key is present, whatever its value.
    Exists,
    /// The key is absent.
    DoesNotExist,
}

impl Operator {
    /// Returns the operator as the API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "In",
            Self::NotIn => "NotIn",
            Self::Exists => "Exists",
            Self::DoesNotExist => "DoesNotExist",
        }
    }
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Requirement {
    /// The label key.
    pub key: Arc<str>,
    /// How the label is compared.
    pub operator: Operator,
    /// Values for `In` and `NotIn`; empty for the others.
    pub values: Vec<Arc<str>>,
    /// Where it was written.
    pub position: Position,
}

impl Requirement {
    /// Returns whether `labels` satisfy the requirement, by the truth table of NP-041.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.value(&self.key);
        let listed =
            || value.is_some_and(|value| self.values.iter().any(|listed| **listed == *value));
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// A label selector: every `matchLabels` pair AND every `matchExpressions` entry (NP-040).
///
/// The empty selector matches everything (NP-045). An unreadable part makes the whole selector match nothing.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LabelSelector {
    /// `matchLabels`.
    pub match_labels: Field<BTreeMap<Arc<str>, Arc<str>>>,
    /// `matchExpressions`.
    pub match_expressions: Field<Vec<Requirement>>,
    /// Where it was written.
    pub position: Position,
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for LabelSelector {
    /// Returns the selector with these `matchLabels`.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self {
            match_labels: Field::Given(Labels::from_iter(pairs).0),
            match_expressions: Field::Absent,
            position: Position::default(),
        }
    }
}

impl LabelSelector {
    /// Returns whether `labels` satisfy the selector.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        if self.is_unreadable() {
            return false;
        }
        let pairs = self.match_labels.given().into_iter().flatten();
        let mut requirements = self.match_expressions.given().into_iter().flatten();
        pairs.into_iter().all(|(key, value)| labels.value(key) == Some(value.as_ref()))
            && requirements.all(|requirement| requirement.matches(labels))
    }

    /// Returns whether any part of the selector could not be read.
    #[must_use]
    pub const fn is_unreadable(&self) -> bool {
        self.match_labels.is_unreadable() || self.match_expressions.is_unreadable()
    }

    /// Returns whether the selector has no requirement, and so matches everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_unreadable()
            && self.match_labels.given().is_none_or(BTreeMap::is_empty)
            && self.match_expressions.given().is_none_or(Vec::is_empty)
    }

    /// A selector of equalities.
    #[must_use]
    pub fn labels<K: Into<Arc<str>>, V: Into<Arc<str>>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { match_labels: Field::Given(pairs), ..Self::default() }
    }
}

impl fmt::Display for LabelSelector {
    /// Writes the selector as `kubectl get -l` takes it; `{}` for the empty one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unreadable() {
            return f.write_str("(unreadable selector)");
        }
        if self.is_empty() {
            return f.write_str("{}");
        }
        let mut separator = "";
        for (key, value) in self.match_labels.given().into_iter().flatten() {
            write!(f, "{separator}{key}={value}")?;
            separator = ",";
        }
        for requirement in self.match_expressions.given().into_iter().flatten() {
            f.write_str(separator)?;
            separator = ",";
            let key = &requirement.key;
            match requirement.operator {
                Operator::In => write!(f, "{key} in ({})", requirement.values.join(","))?,
                Operator::NotIn => write!(f, "{key} notin ({})", requirement.values.join(","))?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

/// Why a label key or value is not valid (VAL-033, VAL-034).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LabelError {
    /// The name part of a key is empty.
    #[error("the name part is empty")]
    EmptyName,
    /// The prefix before `/` is empty.
    #[error("the prefix before `/` is empty")]
    EmptyPrefix,
    /// More than one `/`.
    #[error("more than one `/`")]
    TwoSlashes,
    /// Longer than allowed; the limit in characters.
    #[error("longer than {0} characters")]
    TooLong(usize),
    /// The prefix is not a DNS subdomain.
    #[error(
        "the prefix is not a DNS subdomain (lower-case letters, digits, `-` and `.`, alphanumeric at both ends of each part)"
    )]
    BadPrefix,
    /// Characters outside `A-Za-z0-9-_.`, or not alphanumeric at both ends.
    #[error(
        "only letters, digits, `-`, `_` and `.` are allowed, with a letter or digit at both ends"
    )]
    BadCharacters,
}

/// Checks a label key: `[prefix/]name` (VAL-033).
///
/// # Errors
/// Says what is wrong with the key.
pub fn validate_label_key(key: &str) -> Result<(), LabelError> {
    let name = match key.split_once('/') {
        None => key,
        Some((_, name)) if name.contains('/') => return Err(LabelError::TwoSlashes),
        Some(("", _)) => return Err(LabelError::EmptyPrefix),
        Some((prefix, name)) => {
            if prefix.len() > 253 {
                return Err(LabelError::TooLong(253));
            }
            if !super::meta::is_dns_subdomain(prefix) {
                return Err(LabelError::BadPrefix);
            }
            name
        }
    };
    if name.is_empty() {
        return Err(LabelError::EmptyName);
    }
    validate_label_value(name)
}

/// Checks a label value: empty, or up to 63 characters (VAL-034).
///
/// # Errors
/// Says what is wrong with the value.
pub fn validate_label_value(value: &str) -> Result<(), LabelError> {
    if value.len() > 63 {
        return Err(LabelError::TooLong(63));
    }
    let bytes = value.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    let ends_fine = ends.iter().flatten().all(|byte| byte.is_ascii_alphanumeric());
    let inside_fine =
        bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if ends_fine && inside_fine { Ok(()) } else { Err(LabelError::BadCharacters) }
}
