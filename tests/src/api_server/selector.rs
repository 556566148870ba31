//! `labelSelector` and `fieldSelector` of lists and watches.

use serde_json::Value;

use super::resource::{Origin, Resource};
use super::status::Status;

/// Which objects a request asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Empty: every namespace.
    pub(super) namespace: String,
    labels: Vec<Label>,
    fields: Vec<Field>,
}

#[derive(Clone, Debug)]
enum Label {
    Exists(String),
    In(String, Vec<String>),
    Missing(String),
    NotIn(String, Vec<String>),
}

#[derive(Clone, Debug)]
struct Field {
    pointer: String,
    value: String,
    is: Is,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Is {
    Equal,
    Other,
}

impl Filter {
    pub(super) fn parse(
        resource: &Resource,
        namespace: &str,
        labels: &str,
        fields: &str,
    ) -> Result<Self, Status> {
        let labels = split(labels).into_iter().map(label).collect::<Result<_, _>>()?;
        let fields = split(fields)
            .into_iter()
            .map(|text| field(resource, text))
            .collect::<Result<_, _>>()?;
        Ok(Self { namespace: namespace.to_owned(), labels, fields })
    }

    /// Whether something is asked of the objects themselves.
    pub(super) fn has_selectors(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    pub(super) fn admits(&self, object: &Value) -> bool {
        let of = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let label = |key: &str| {
            let labels = object.pointer("/metadata/labels");
            labels.and_then(|labels| labels.get(key)).and_then(Value::as_str)
        };
        let listed = |key: &str, values: &[String]| {
            label(key).is_some_and(|value| values.iter().any(|listed| listed == value))
        };
        (self.namespace.is_empty() || of("/metadata/namespace") == Some(&self.namespace))
            && self.labels.iter().all(|requirement| match requirement {
                Label::Exists(key) => label(key).is_some(),
                Label::In(key, values) => listed(key, values),
                Label::Missing(key) => label(key).is_none(),
                Label::NotIn(key, values) => !listed(key, values),
            })
            && self.fields.iter().all(|field| {
                let equal = of(&field.pointer).unwrap_or_default() == field.value;
                equal == (field.is == Is::Equal)
            })
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let parts = text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn label(text: &str) -> Result<Label, Status> {
    let values = |list: &str| {
        let list = list.trim().trim_start_matches('(').trim_end_matches(')');
        list.split(',').map(|value| value.trim().to_owned()).collect()
    };
    if let Some((key, list)) = text.split_once(" notin ") {
        return Ok(Label::NotIn(key.trim().to_owned(), values(list)));
    }
    if let Some((key, list)) = text.split_once(" in ") {
        return Ok(Label::In(key.trim().to_owned(), values(list)));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Label::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = text.split_once('=') {
        let value = value.trim_start_matches('=').trim().to_owned();
        return Ok(Label::In(key.trim().to_owned(), vec![value]));
    }
    match text.strip_prefix('!') {
        Some(key) => Ok(Label::Missing(key.trim().to_owned())),
        None if text.contains(['(', ')', ' ']) => {
            Err(Status::bad_request(format!("unable to parse requirement: {text}")))
        }
        None => Ok(Label::Exists(text.to_owned())),
    }
}

fn field(resource: &Resource, text: &str) -> Result<Field, Status> {
    let (name, value, is) = match (text.split_once("!="), text.split_once('=')) {
        (Some((name, value)), _) => (name, value, Is::Other),
        (None, Some((name, value))) => (name, value.trim_start_matches('='), Is::Equal),
        (None, None) => return Err(Status::bad_request(format!("invalid selector: {text}"))),
    };
    let known = match (resource.kind, name) {
        (_, "metadata.name" | "metadata.namespace") => true,
        ("Pod", "spec.nodeName" | "status.phase" | "status.podIP") => {
            resource.origin == Origin::BuiltIn
        }
        _ => false,
    };
    if !known {
        return Err(Status::bad_request(format!("field label not supported: {name}")));
    }
    let pointer = format!("/{}", name.replace('.', "/"));
    Ok(Field { pointer, value: value.to_owned(), is })
}
