//! From nodes to values, collecting every error on the way instead of stopping at the first.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use std::collections::HashSet;

use core::net::IpAddr;
use core::num::NonZeroU16;

use netpol_core::model::{
    Cidr, CidrError, Field, HadHostBits, ObjectRef, Position, Protocol, Source, Violation,
    validate_label_key, validate_label_value,
};

use super::error::{Problem, ReadError, is_cluster_policy};
use super::hint::{did_you_mean, near_miss};
use super::note::{Note, Remark};
use super::path::Path;
use super::scalar::{Scalar, ScalarKind};
use super::tree::{Entry, Node, Value};
use super::{HostBits, ReadOptions};

/// The state of reading: where we are, what was found so far.
pub(super) struct Reader<'o> {
    pub(super) options: &'o ReadOptions,
    pub(super) file: Arc<str>,
    pub(super) document: u32,
    pub(super) object: Option<(String, ObjectRef)>,
    pub(super) errors: Vec<ReadError>,
    pub(super) notes: Vec<Note>,
    strings: HashSet<Arc<str>>,
}

/// The fields of a mapping, with its place.
#[derive(Clone, Copy)]
pub(super) struct Fields<'n, 't, 'p> {
    pub(super) entries: &'n [Entry<'t>],
    pub(super) position: Position,
    pub(super) path: &'p Path<'p>,
}

impl<'n, 't> Fields<'n, 't, '_> {
    pub(super) fn entry(&self, name: &str) -> Option<&'n Entry<'t>> {
        self.entries.iter().find(|entry| entry.key == name)
    }

    /// Returns the entries of `names` that are there and not null.
    pub(super) fn given(&self, names: &[&'static str]) -> Vec<&'static str> {
        let is_given =
            |name: &&&'static str| self.entry(name).is_some_and(|entry| !entry.value.is_null());
        names.iter().filter(is_given).copied().collect()
    }
}

impl<'o> Reader<'o> {
    pub(super) fn new(options: &'o ReadOptions) -> Self {
        Self {
            options,
            file: "".into(),
            document: 0,
            object: None,
            errors: Vec::new(),
            notes: Vec::new(),
            strings: HashSet::new(),
        }
    }

    pub(super) fn source(&self, position: Position) -> Source {
        Source { file: Some(self.file.clone()), document: self.document, position }
    }

    pub(super) fn report(
        &mut self,
        position: Position,
        path: &Path<'_>,
        problem: impl Into<Problem>,
    ) {
        let limit = self.options.limits.errors;
        if self.errors.len() > limit {
            return;
        }
        let mut problem = problem.into();
        if self.errors.len() == limit {
            problem = Problem::TooManyErrors { limit };
        }
        let (file, object) = (self.file.clone(), self.object.clone());
        self.errors.push(ReadError {
            file,
            document: self.document,
            position,
            object,
            path: path.to_string(),
            problem,
        });
    }

    pub(super) const fn is_full(&self) -> bool {
        self.errors.len() > self.options.limits.errors
    }

    pub(super) fn note(&mut self, position: Position, path: &Path<'_>, remark: Remark) {
        let (file, object) = (self.file.clone(), self.object.clone());
        self.notes.push(Note { file, position, object, path: path.to_string(), remark });
    }

    /// Returns the text as a shared string; the same text is kept once.
    pub(super) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.strings.insert(new.clone());
        new
    }

    pub(super) fn wrong_type(&mut self, node: &Node<'_>, path: &Path<'_>, expected: &'static str) {
        let found = match &node.value {
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Scalar(scalar) => describe(scalar, expected),
        };
        self.report(node.position, path, Problem::WrongType { expected, found });
    }

    // Mappings.

    pub(super) fn mapping<'n, 't, 'p>(
        &mut self,
        node: &'n Node<'t>,
        path: &'p Path<'p>,
    ) -> Option<Fields<'n, 't, 'p>> {
        match &node.value {
            Value::Mapping(entries) => Some(Fields { entries, position: node.position, path }),
            Value::Scalar(_) | Value::Sequence(_) => {
                self.wrong_type(node, path, "a mapping");
                None
            }
        }
    }

    /// Reports every field that is not `known` (VAL-004, VAL-C-12).
    pub(super) fn only(&mut self, fields: &Fields<'_, '_, '_>, known: &[&'static str]) {
        for entry in fields.entries {
            if !known.contains(&entry.key.as_ref()) {
                let did_you_mean = did_you_mean(&entry.key, known);
                let problem = Problem::UnknownField { name: entry.key.to_string(), did_you_mean };
                self.report(entry.key_position, &fields.path.key(&entry.key), problem);
            }
        }
    }

    /// Reports fields that look like one we read, in a kind whose fields we do not all know.
    pub(super) fn no_misspelled(
        &mut self,
        fields: &Fields<'_, '_, '_>,
        read: &[&'static str],
        others: &[&str],
    ) {
        for entry in fields.entries {
            if read.contains(&entry.key.as_ref()) || others.contains(&entry.key.as_ref()) {
                continue;
            }
            if let Some(meant) = near_miss(&entry.key, read) {
                let did_you_mean = Some(format!("`{meant}`"));
                let problem = Problem::UnknownField { name: entry.key.to_string(), did_you_mean };
                self.report(entry.key_position, &fields.path.key(&entry.key), problem);
            }
        }
    }

    /// Reads a field, keeping absent and null apart. `decode` returns `None` only after it has reported an error.
    pub(super) fn field<T>(
        &mut self,
        fields: &Fields<'_, '_, '_>,
        name: &str,
        decode: impl FnOnce(&mut Self, &Node<'_>, &Path<'_>) -> Option<T>,
    ) -> Field<T> {
        let Some(entry) = fields.entry(name) else { return Field::Absent };
        if entry.value.is_null() {
            return Field::Null;
        }
        decode(self, &entry.value, &fields.path.key(name)).map_or(Field::Unreadable, Field::Given)
    }

    /// Reads a field where absent and null mean the same.
    pub(super) fn optional<T>(
        &mut self,
        fields: &Fields<'_, '_, '_>,
        name: &str,
        decode: impl FnOnce(&mut Self, &Node<'_>, &Path<'_>) -> Option<T>,
    ) -> Option<T> {
        match self.field(fields, name, decode) {
            Field::Given(value) => Some(value),
            Field::Absent | Field::Null | Field::Unreadable => None,
        }
    }

    // Lists.

    /// Reads a list; null entries are errors (NP-033, DEC-17).
    pub(super) fn list<T>(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        mut each: impl FnMut(&mut Self, &Node<'_>, &Path<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Sequence(items) = &node.value else {
            self.wrong_type(node, path, "a list");
            return None;
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            if item.is_null() {
                self.report(item.position, &path, Violation::NullItem);
            } else {
                values.extend(each(self, item, &path));
            }
        }
        Some(values)
    }

    /// Reads an optional list where absent, null and empty mean the same.
    pub(super) fn list_field<T>(
        &mut self,
        fields: &Fields<'_, '_, '_>,
        name: &str,
        each: impl FnMut(&mut Self, &Node<'_>, &Path<'_>) -> Option<T>,
    ) -> Vec<T> {
        self.optional(fields, name, |reader, node, path| reader.list(node, path, each))
            .unwrap_or_default()
    }

    // Scalars.

    pub(super) fn string<'n>(&mut self, node: &'n Node<'_>, path: &Path<'_>) -> Option<&'n str> {
        match &node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Text, text }) => Some(text),
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type(node, path, "a string");
                None
            }
        }
    }

    pub(super) fn text(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<Arc<str>> {
        let text = self.string(node, path)?;
        Some(self.intern(text))
    }

    pub(super) fn boolean(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<bool> {
        match &node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Boolean(value), .. }) => Some(*value),
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type(node, path, "`true` or `false`");
                None
            }
        }
    }

    pub(super) fn integer(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<i64> {
        match &node.value {
            Value::Scalar(Scalar { kind: ScalarKind::Integer(value), .. }) => Some(*value),
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type(node, path, "a whole number in plain decimal");
                None
            }
        }
    }

    pub(super) fn port_number(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        out_of_range: fn(i64) -> Violation,
    ) -> Option<NonZeroU16> {
        let number = self.integer(node, path)?;
        let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
        if port.is_none() {
            self.report(node.position, path, out_of_range(number));
        }
        port
    }

    pub(super) fn protocol(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<Protocol> {
        let text = self.string(node, path)?;
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == text);
        if protocol.is_none() {
            self.report(node.position, path, Violation::UnknownProtocol(text.to_owned()));
        }
        protocol
    }

    pub(super) fn address(&mut self, node: &Node<'_>, path: &Path<'_>) -> Option<IpAddr> {
        let text = self.string(node, path)?;
        let address = text.parse().ok().filter(|address| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
        });
        if address.is_none() {
            self.report(node.position, path, Problem::InvalidAddress(text.to_owned()));
        }
        address
    }

    pub(super) fn cidr(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        violation: fn(CidrError) -> Violation,
    ) -> Option<Cidr> {
        let text = self.string(node, path)?;
        let parsed = match self.options.host_bits {
            HostBits::Reject => Cidr::parse(text).map(|cidr| (cidr, HadHostBits::No)),
            HostBits::Mask => Cidr::parse_masking(text),
        };
        match parsed {
            Ok((cidr, HadHostBits::No)) => Some(cidr),
            Ok((cidr, HadHostBits::Yes)) => {
                self.note(
                    node.position,
                    path,
                    Remark::HostBitsMasked { written: text.to_owned(), cidr },
                );
                Some(cidr)
            }
            Err(error) => {
                self.report(node.position, path, violation(error));
                None
            }
        }
    }

    // Labels.

    /// Reads a map of labels, checking keys and values (VAL-033, VAL-034) and their types (VAL-006).
    pub(super) fn label_map(
        &mut self,
        node: &Node<'_>,
        path: &Path<'_>,
        wrap: fn(Violation) -> Violation,
    ) -> Option<BTreeMap<Arc<str>, Arc<str>>> {
        let fields = self.mapping(node, path)?;
        let mut labels = BTreeMap::new();
        for entry in fields.entries {
            let path = path.key(&entry.key);
            self.label_key_type(entry, &path);
            if let Err(reason) = validate_label_key(&entry.key) {
                let key = entry.key.to_string();
                self.report(
                    entry.key_position,
                    &path,
                    wrap(Violation::InvalidLabelKey { key, reason }),
                );
            }
            let Some(value) = self.text(&entry.value, &path) else { continue };
            self.check_label_value(&value, entry.value.position, &path, wrap);
            let key = self.intern(&entry.key);
            labels.insert(key, value);
        }
        Some(labels)
    }

    /// A bare `y:` as a label key is the boolean true to `kubectl`, and becomes the key `true`.
    fn label_key_type(&mut self, entry: &Entry<'_>, path: &Path<'_>) {
        match entry.key_kind {
            // A plain decimal integer is written back as it was.
            ScalarKind::Text | ScalarKind::Integer(_) => {}
            ScalarKind::Null | ScalarKind::Boolean(_) | ScalarKind::Number => {
                let found =
                    format!("the {} `{}`; put it in quotes", entry.key_kind.as_str(), entry.key);
                self.report(
                    entry.key_position,
                    path,
                    Problem::WrongType { expected: "a string as key", found },
                );
            }
        }
    }

    pub(super) fn check_label_value(
        &mut self,
        value: &str,
        position: Position,
        path: &Path<'_>,
        wrap: fn(Violation) -> Violation,
    ) {
        if let Err(reason) = validate_label_value(value) {
            let value = value.to_owned();
            self.report(position, path, wrap(Violation::InvalidLabelValue { value, reason }));
        }
    }

    /// Whether the object at hand is one of the cluster-scoped policies.
    pub(super) fn in_cluster_policy(&self) -> bool {
        self.object.as_ref().is_some_and(|(kind, _)| is_cluster_policy(kind))
    }
}

/// Leaves a violation as it is.
pub(super) const fn as_is(violation: Violation) -> Violation {
    violation
}

/// Names a scalar's type and text, and what to do about it.
fn describe(scalar: &Scalar<'_>, expected: &str) -> String {
    let (kind, text) = (scalar.kind.as_str(), shortened(&scalar.text));
    let hint = match scalar.kind {
        ScalarKind::Null => return "null".to_owned(),
        ScalarKind::Boolean(_) | ScalarKind::Integer(_) | ScalarKind::Number
            if expected == "a string" =>
        {
            "; put it in quotes"
        }
        ScalarKind::Text
            if ScalarKind::of_plain(&scalar.text) != ScalarKind::Text
                && !expected.starts_with("a map") =>
        {
            "; write it without quotes"
        }
        ScalarKind::Boolean(_) | ScalarKind::Integer(_) | ScalarKind::Number | ScalarKind::Text => {
            ""
        }
    };
    format!("the {kind} `{text}`{hint}")
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
