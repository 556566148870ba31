//! Label selectors (NP-040..NP-048).

use netpol_core::model::{LabelSelector, Operator, Requirement, Violation, validate_label_key};

use super::decode::{Reader, as_is};
use super::path::Path;
use super::tree::Node;

const OPERATORS: [Operator; 4] =
    [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist];

pub(super) fn selector(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<LabelSelector> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["matchLabels", "matchExpressions"]);
    let wrap = violation_kind(reader);
    let match_labels = reader
        .field(&fields, "matchLabels", |reader, node, path| reader.label_map(node, path, wrap));
    let match_expressions = reader.field(&fields, "matchExpressions", |reader, node, path| {
        reader.list(node, path, requirement)
    });
    Some(LabelSelector { match_labels, match_expressions, position: node.position })
}

/// In a ClusterNetworkPolicy the CRD lets bad selectors through, so that the rule has a number of its own.
fn violation_kind(reader: &Reader<'_>) -> fn(Violation) -> Violation {
    if reader.in_cluster_policy() {
        |violation| Violation::ClusterSelector(Box::new(violation))
    } else {
        as_is
    }
}

fn requirement(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Requirement> {
    let wrap = violation_kind(reader);
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["key", "operator", "values"]);
    let key = reader.optional(&fields, "key", Reader::text).unwrap_or_else(|| "".into());
    // A missing key is an empty one, and that is no label key; a key of another type was reported already.
    let key_entry = fields.entry("key");
    let position = key_entry.map_or(fields.position, |entry| entry.value.position);
    let wrong_type = key_entry
        .is_some_and(|entry| key.is_empty() && !entry.value.is_null() && !is_empty(&entry.value));
    if let (Err(reason), false) = (validate_label_key(&key), wrong_type) {
        let violation = Violation::InvalidLabelKey { key: key.to_string(), reason };
        reader.report(position, &path.key("key"), wrap(violation));
    }
    let operator = operator(reader, &fields, wrap);
    let values = reader.optional(&fields, "values", |reader, node, path| {
        reader.list(node, path, |reader, node, path| {
            let value = reader.text(node, path)?;
            reader.check_label_value(&value, node.position, path, wrap);
            Some(value)
        })
    });
    // Values that could not be read count as given.
    let has_values = fields.entry("values").is_some_and(|entry| match &entry.value.value {
        super::tree::Value::Sequence(items) => !items.is_empty(),
        super::tree::Value::Scalar(_) | super::tree::Value::Mapping(_) => !entry.value.is_null(),
    });
    let operator = operator?;
    let position = fields.entry("values").map_or(fields.position, |entry| entry.value.position);
    match operator {
        Operator::In | Operator::NotIn if !has_values => {
            reader.report(position, &path.key("values"), wrap(Violation::MissingValues(operator)));
        }
        Operator::Exists | Operator::DoesNotExist if has_values => {
            reader.report(
                position,
                &path.key("values"),
                wrap(Violation::UnexpectedValues(operator)),
            );
        }
        Operator::In | Operator::NotIn | Operator::Exists | Operator::DoesNotExist => {}
    }
    Some(Requirement { key, operator, values: values.unwrap_or_default(), position: node.position })
}

fn operator(
    reader: &mut Reader<'_>,
    fields: &super::decode::Fields<'_, '_, '_>,
    wrap: fn(Violation) -> Violation,
) -> Option<Operator> {
    let Some(entry) = fields.entry("operator").filter(|entry| !entry.value.is_null()) else {
        reader.report(
            fields.position,
            &fields.path.key("operator"),
            wrap(Violation::MissingOperator),
        );
        return None;
    };
    let path = fields.path.key("operator");
    let text = reader.string(&entry.value, &path)?;
    let operator = OPERATORS.into_iter().find(|operator| operator.as_str() == text);
    if operator.is_none() {
        reader.report(
            entry.value.position,
            &path,
            wrap(Violation::UnknownOperator(text.to_owned())),
        );
    }
    operator
}

fn is_empty(node: &Node<'_>) -> bool {
    matches!(&node.value, super::tree::Value::Scalar(scalar) if scalar.text.is_empty())
}
