//! A document as a tree of nodes that know where they were written.
//!
//! The reader is built on `saphyr-parser`: it is maintained, pure Rust and small, and hands out events with spans, so that
//! keys, nulls and list entries keep their line and column and the typing of scalars stays ours. `serde-saphyr` and
//! `serde_norway` give positions only through serde wrappers and decide scalar types themselves; `serde_yaml` is archived;
//! `yaml-rust` is unmaintained; `libyaml` bindings bring C.

use alloc::borrow::Cow;
use std::collections::{HashMap, HashSet};

use netpol_core::model::Position;
use saphyr_parser::{Event, ScalarStyle, Tag};

use super::Limits;
use super::error::Problem;
use super::scalar::{Scalar, ScalarKind};

/// A value of a document and its place.
#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    pub(super) position: Position,
    pub(super) value: Value<'t>,
}

#[derive(Clone, Debug)]
pub(super) enum Value<'t> {
    Scalar(Scalar<'t>),
    Sequence(Vec<Node<'t>>),
    Mapping(Vec<Entry<'t>>),
}

/// A key of a mapping with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry<'t> {
    pub(super) key: Cow<'t, str>,
    pub(super) key_kind: ScalarKind,
    pub(super) key_position: Position,
    pub(super) value: Node<'t>,
}

impl Node<'_> {
    pub(super) const fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(Scalar { kind: ScalarKind::Null, .. }))
    }

    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.value, Value::Sequence(items) if items.is_empty())
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::Scalar(_) => 1,
            Value::Sequence(items) => items.iter().fold(1, |sum, item| sum + item.size()),
            Value::Mapping(entries) => {
                entries.iter().fold(1, |sum, entry| sum + entry.value.size())
            }
        }
    }
}

/// Puts the events of one document together, within limits.
pub(super) struct Builder<'t> {
    limits: Limits,
    open: Vec<Open<'t>>,
    anchors: HashMap<usize, (Node<'t>, usize)>,
    nodes: usize,
    copied: usize,
    has_duplicates: bool,
    /// Whether the scalar at hand was written without quotes.
    is_plain: bool,
}

/// A collection whose end has not come yet.
struct Open<'t> {
    anchor: usize,
    position: Position,
    content: Content<'t>,
}

/// A key that waits for its value.
struct Key<'t> {
    scalar: Scalar<'t>,
    position: Position,
    /// A plain `<<`: the value is merged in.
    is_merge: bool,
}

enum Content<'t> {
    Sequence(Vec<Node<'t>>),
    Mapping { entries: Vec<Entry<'t>>, key: Option<Key<'t>>, merges: Vec<Node<'t>> },
}

impl<'t> Builder<'t> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            copied: 0,
            has_duplicates: false,
            is_plain: false,
        }
    }

    /// Takes an event; returns the root once it is complete.
    pub(super) fn event(
        &mut self,
        event: Event<'t>,
        position: Position,
    ) -> Result<Option<Node<'t>>, Problem> {
        match event {
            Event::Alias(id) => {
                self.is_plain = false;
                let node = self.alias(id, position)?;
                self.complete(node, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = scalar_kind(&text, style, tag.as_deref())?;
                self.is_plain = style == ScalarStyle::Plain;
                let position = self.scalar_position(&text, kind, position);
                self.complete(
                    Node { position, value: Value::Scalar(Scalar { text, kind }) },
                    anchor,
                )
            }
            Event::SequenceStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "seq")?;
                self.push(Open { anchor, position, content: Content::Sequence(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "map")?;
                let content =
                    Content::Mapping { entries: Vec::new(), key: None, merges: Vec::new() };
                self.push(Open { anchor, position, content })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {
                Err(Problem::Syntax("unexpected end of the document".to_owned()))
            }
        }
    }

    /// Returns whether some mapping so far has a key twice.
    pub(super) const fn has_duplicates(&self) -> bool {
        self.has_duplicates
    }

    fn push(&mut self, open: Open<'t>) -> Result<Option<Node<'t>>, Problem> {
        if self.open.len() >= self.limits.depth {
            return Err(Problem::TooDeep { limit: self.limits.depth });
        }
        if let Some(Open { content: Content::Mapping { key: None, .. }, .. }) = self.open.last() {
            return Err(Problem::Syntax("a mapping key must be a scalar".to_owned()));
        }
        self.open.push(open);
        Ok(None)
    }

    fn close(&mut self) -> Result<Option<Node<'t>>, Problem> {
        let Some(Open { anchor, position, content }) = self.open.pop() else {
            return Err(Problem::Syntax("unexpected end of a collection".to_owned()));
        };
        let value = match content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { mut entries, merges, .. } => {
                self.has_duplicates |= duplicate_keys(&entries).next().is_some();
                for merge in merges {
                    merge_into(&mut entries, merge)?;
                }
                Value::Mapping(entries)
            }
        };
        self.complete(Node { position, value }, anchor)
    }

    /// Hands a finished node to the collection it belongs to, or out.
    fn complete(&mut self, node: Node<'t>, anchor: usize) -> Result<Option<Node<'t>>, Problem> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(Problem::TooManyNodes { limit: self.limits.nodes });
        }
        if anchor != 0 {
            let size = node.size();
            self.charge_copy(size)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut() {
            None => return Ok(Some(node)),
            Some(Open { content: Content::Sequence(items), .. }) => items.push(node),
            Some(Open { content: Content::Mapping { entries, key, merges }, .. }) => {
                match (key.take(), node.value) {
                    (None, Value::Scalar(scalar)) => {
                        let is_merge = self.is_plain && scalar.text == "<<";
                        *key = Some(Key { scalar, position: node.position, is_merge });
                    }
                    (None, Value::Sequence(_) | Value::Mapping(_)) => {
                        return Err(Problem::Syntax("a mapping key must be a scalar".to_owned()));
                    }
                    (Some(Key { is_merge: true, .. }), value) => {
                        merges.push(Node { value, ..node });
                    }
                    (Some(Key { scalar, position, .. }), value) => {
                        let value = Node { value, ..node };
                        entries.push(Entry {
                            key: scalar.text,
                            key_kind: scalar.kind,
                            key_position: position,
                            value,
                        });
                    }
                }
            }
        }
        Ok(None)
    }

    fn alias(&mut self, id: usize, position: Position) -> Result<Node<'t>, Problem> {
        let Some(size) = self.anchors.get(&id).map(|(_, size)| *size) else {
            let reason =
                "the alias names an anchor that is not complete, or of an earlier document";
            return Err(Problem::Syntax(reason.to_owned()));
        };
        self.charge_copy(size)?;
        let node = self.anchors.get(&id).map(|(node, _)| node.clone());
        node.map(|node| Node { position, ..node })
            .ok_or_else(|| Problem::Syntax("unknown anchor".to_owned()))
    }

    /// Aliases copy; a document may not grow without bound by them ("billion laughs").
    fn charge_copy(&mut self, size: usize) -> Result<(), Problem> {
        self.copied = self.copied.saturating_add(size);
        if self.copied > self.limits.copied_nodes {
            return Err(Problem::TooManyAliases { limit: self.limits.copied_nodes });
        }
        Ok(())
    }

    /// A value that was left out stands where its key stands.
    fn scalar_position(&self, text: &str, kind: ScalarKind, position: Position) -> Position {
        match self.open.last() {
            Some(Open { content: Content::Mapping { key: Some(key), .. }, .. })
                if text.is_empty() && kind == ScalarKind::Null =>
            {
                key.position
            }
            Some(_) | None => position,
        }
    }
}

/// Returns each entry whose key was there before, with the first one.
pub(super) fn duplicate_keys<'n, 't>(
    entries: &'n [Entry<'t>],
) -> impl Iterator<Item = (&'n Entry<'t>, &'n Entry<'t>)> {
    let mut seen: HashMap<&str, &Entry<'t>> = HashMap::new();
    // Most mappings are tiny, where looking back is faster than hashing.
    let small = entries.len() <= 12;
    entries.iter().enumerate().filter_map(move |(index, entry)| {
        let first = if small {
            entries.iter().take(index).find(|earlier| earlier.key == entry.key)
        } else {
            seen.get(entry.key.as_ref()).copied().or_else(|| {
                seen.insert(entry.key.as_ref(), entry);
                None
            })
        };
        first.map(|first| (first, entry))
    })
}

/// Adds the entries of a merge key's value that the mapping does not give itself.
fn merge_into<'t>(entries: &mut Vec<Entry<'t>>, source: Node<'t>) -> Result<(), Problem> {
    let refuse =
        || Problem::Syntax("the value of `<<` must be a mapping or a list of mappings".to_owned());
    let sources = match source.value {
        Value::Mapping(source) => vec![source],
        Value::Sequence(items) => {
            let mut sources = Vec::new();
            for item in items {
                let Value::Mapping(source) = item.value else { return Err(refuse()) };
                sources.push(source);
            }
            sources
        }
        Value::Scalar(_) => return Err(refuse()),
    };
    let mut present: HashSet<String> = entries.iter().map(|entry| entry.key.to_string()).collect();
    for entry in sources.into_iter().flatten() {
        if present.insert(entry.key.to_string()) {
            entries.push(entry);
        }
    }
    Ok(())
}

const CORE_TAG: &str = "tag:yaml.org,2002:";

fn scalar_kind(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<ScalarKind, Problem> {
    let Some(tag) = tag else {
        return Ok(if style == ScalarStyle::Plain {
            ScalarKind::of_plain(text)
        } else {
            ScalarKind::Text
        });
    };
    let plain = ScalarKind::of_plain(text);
    match (tag.handle.as_str(), tag.suffix.as_str(), plain) {
        (CORE_TAG, "str", _) => Ok(ScalarKind::Text),
        (CORE_TAG, "int", ScalarKind::Integer(_))
        | (CORE_TAG, "bool", ScalarKind::Boolean(_))
        | (CORE_TAG, "null", ScalarKind::Null) => Ok(plain),
        (_, _, _) => Err(Problem::UnsupportedTag(tag.to_string())),
    }
}

fn collection_tag(tag: Option<&Tag>, expected: &str) -> Result<(), Problem> {
    match tag {
        Some(tag) if tag.handle != CORE_TAG || tag.suffix != expected => {
            Err(Problem::UnsupportedTag(tag.to_string()))
        }
        Some(_) | None => Ok(()),
    }
}
