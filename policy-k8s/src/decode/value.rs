//! Policies are read from trees: they are few, and what cannot be read must not take the rest with it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::num::NonZeroU16;

use netpol_core::model::{Cidr, Field, LabelSelector, Operator, Position, Requirement};
use serde_json::{Map, Value};

use super::Odd;

/// The fields of a mapping, where they are, and where to tell what is odd.
pub(super) struct Fields<'v> {
    map: &'v Map<String, Value>,
    path: String,
}

/// Collects oddities.
pub(super) struct Reader<'o> {
    pub(super) oddities: &'o mut Vec<Odd>,
}

impl<'v> Fields<'v> {
    #[cfg(feature = "watch")]
    pub(super) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    pub(super) fn value(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

impl Reader<'_> {
    pub(super) fn odd(&mut self, path: &str, problem: impl Into<String>, effect: &'static str) {
        self.oddities.push(Odd { path: path.to_owned(), problem: problem.into(), effect });
    }

    pub(super) fn unreadable(&mut self, path: &str, problem: impl Into<String>) {
        self.odd(path, problem, "it fails closed");
    }

    pub(super) fn mapping<'v>(&mut self, value: &'v Value, path: &str) -> Option<Fields<'v>> {
        match value {
            Value::Object(map) => Some(Fields { map, path: path.to_owned() }),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                self.unreadable(path, "not a mapping");
                None
            }
        }
    }

    /// Returns the first field that this version does not know. What it may mean cannot be guessed, so whatever holds it
    /// is unreadable.
    pub(super) fn unknown(&mut self, fields: &Fields<'_>, known: &[&str]) -> bool {
        let unknown = fields
            .map
            .iter()
            .find(|(name, value)| !known.contains(&name.as_str()) && !value.is_null());
        if let Some((name, _)) = unknown {
            self.unreadable(&fields.key(name), "this version does not know the field");
        }
        unknown.is_some()
    }

    pub(super) fn field<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        read: impl FnOnce(&mut Self, &Value, &str) -> Option<T>,
    ) -> Field<T> {
        match fields.map.get(name) {
            None => Field::Absent,
            Some(Value::Null) => Field::Null,
            Some(value) => {
                read(self, value, &fields.key(name)).map_or(Field::Unreadable, Field::Given)
            }
        }
    }

    /// Reads a list whose items stand for themselves when they cannot be read, through `unreadable`.
    pub(super) fn list<T>(
        &mut self,
        value: &Value,
        path: &str,
        mut read: impl FnMut(&mut Self, &Value, &str) -> T,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = value else {
            self.unreadable(path, "not a list");
            return None;
        };
        let items = items.iter().enumerate();
        Some(items.map(|(index, item)| read(self, item, &format!("{path}[{index}]"))).collect())
    }

    pub(super) fn text<'v>(&mut self, value: &'v Value, path: &str) -> Option<&'v str> {
        let text = value.as_str();
        if text.is_none() {
            self.unreadable(path, "not a string");
        }
        text
    }

    pub(super) fn port(&mut self, value: &Value, path: &str) -> Option<NonZeroU16> {
        let port = value.as_u64().and_then(|number| u16::try_from(number).ok());
        let port = port.and_then(NonZeroU16::new);
        if port.is_none() {
            self.unreadable(path, format!("`{value}` is not a port"));
        }
        port
    }

    /// Reads a CIDR as older servers do, whose objects survive: host bits are masked away (NP-071).
    pub(super) fn cidr(&mut self, value: &Value, path: &str) -> Option<Cidr> {
        match Cidr::parse_masking(self.text(value, path)?) {
            Ok((cidr, _)) => Some(cidr),
            Err(error) => {
                self.unreadable(path, error.to_string());
                None
            }
        }
    }

    /// Reads a label selector; one that is only partly readable is unreadable as a whole.
    pub(super) fn selector(&mut self, value: &Value, path: &str) -> Option<LabelSelector> {
        let fields = self.mapping(value, path)?;
        if self.unknown(&fields, &["matchLabels", "matchExpressions"]) {
            return None;
        }
        let match_labels = self.field(&fields, "matchLabels", |reader, value, path| {
            let fields = reader.mapping(value, path)?;
            let mut labels: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
            for (key, value) in fields.map {
                let value = reader.text(value, &fields.key(key))?;
                labels.insert(key.as_str().into(), value.into());
            }
            Some(labels)
        });
        let match_expressions = self.field(&fields, "matchExpressions", |reader, value, path| {
            let list = reader.list(value, path, Self::requirement)?;
            list.into_iter().collect::<Option<Vec<Requirement>>>()
        });
        (!match_labels.is_unreadable() && !match_expressions.is_unreadable()).then(|| {
            LabelSelector { match_labels, match_expressions, position: Position::default() }
        })
    }

    fn requirement(&mut self, value: &Value, path: &str) -> Option<Requirement> {
        let fields = self.mapping(value, path)?;
        if self.unknown(&fields, &["key", "operator", "values"]) {
            return None;
        }
        let key = self.text(fields.value("key").unwrap_or(&Value::Null), &fields.key("key"))?;
        let path = fields.key("operator");
        let operator = match self.text(fields.value("operator").unwrap_or(&Value::Null), &path)? {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                self.unreadable(&path, format!("`{other}` is not an operator"));
                return None;
            }
        };
        let values = self.field(&fields, "values", |reader, value, path| {
            let list = reader
                .list(value, path, |reader, value, path| reader.text(value, path).map(Arc::from))?;
            list.into_iter().collect::<Option<Vec<Arc<str>>>>()
        });
        if values.is_unreadable() {
            return None;
        }
        let values = values.given().cloned().unwrap_or_default();
        let needs_values = matches!(operator, Operator::In | Operator::NotIn);
        if needs_values == values.is_empty() {
            self.unreadable(fields.path(), "operator and number of values do not fit");
            return None;
        }
        Some(Requirement { key: key.into(), operator, values, position: Position::default() })
    }
}
