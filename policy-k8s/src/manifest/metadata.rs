//! `metadata`: identity and labels (VAL-001..VAL-003).

use alloc::sync::Arc;

use netpol_core::model::{
    Labels, ObjectMeta, ObjectRef, Violation, is_dns_label, is_dns_subdomain,
};

use super::decode::{Fields, Reader, as_is};
use super::note::Remark;
use super::path::Path;
use super::tree::{Node, Value};

const KNOWN: &[&str] = &[
    "annotations",
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "initializers",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What a kind's names look like, and whether they live in a namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Naming {
    /// Cluster-scoped, a DNS subdomain.
    Cluster,
    /// A namespace: a DNS label.
    Namespace,
    /// Namespaced, a DNS subdomain.
    Namespaced,
    /// Namespaced, a DNS label.
    NamespacedLabel,
}

/// `metadata`, and what only some kinds look at.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub(super) meta: ObjectMeta,
    pub(super) terminating: bool,
    /// Kind and name of each owner.
    pub(super) owners: Vec<(Arc<str>, Arc<str>)>,
}

/// Returns the kind's object as far as it can be named at all, for messages.
pub(super) fn peek_name(
    root: &Fields<'_, '_, '_>,
    default_namespace: &str,
    naming: Naming,
) -> ObjectRef {
    let text = |name: &str| {
        let metadata = match root.entry("metadata").map(|entry| &entry.value.value) {
            Some(Value::Mapping(entries)) => entries,
            Some(Value::Scalar(_) | Value::Sequence(_)) | None => return None,
        };
        match metadata.iter().find(|entry| entry.key == name).map(|entry| &entry.value.value) {
            Some(Value::Scalar(scalar)) if !scalar.text.is_empty() => Some(scalar.text.to_string()),
            Some(_) | None => None,
        }
    };
    let name = text("name").unwrap_or_else(|| "(unnamed)".to_owned());
    match naming {
        Naming::Cluster | Naming::Namespace => ObjectRef::cluster_scoped(&name),
        Naming::Namespaced | Naming::NamespacedLabel => ObjectRef::new(
            &text("namespace").unwrap_or_else(|| default_namespace.to_owned()),
            &name,
        ),
    }
}

pub(super) fn metadata(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    naming: Naming,
) -> Option<Metadata> {
    let Some(entry) = root.entry("metadata").filter(|entry| !entry.value.is_null()) else {
        reader.report(root.position, &root.path.key("metadata"), Violation::MissingName);
        return None;
    };
    let path = root.path.key("metadata");
    let fields = reader.mapping(&entry.value, &path)?;
    reader.only(&fields, KNOWN);
    let name = name(reader, &fields, naming);
    let namespace = namespace(reader, &fields, naming);
    let labels = reader
        .optional(&fields, "labels", |reader, node, path| reader.label_map(node, path, as_is));
    reader.optional(&fields, "annotations", annotations);
    let uid = reader.optional(&fields, "uid", Reader::text);
    let created = reader.optional(&fields, "creationTimestamp", Reader::text);
    let terminating = reader.optional(&fields, "deletionTimestamp", Reader::text).is_some();
    let owners = reader.list_field(&fields, "ownerReferences", owner);
    let source = reader.source(root.position);
    let object = ObjectRef { namespace, name: name? };
    let labels = Labels(labels.unwrap_or_default());
    Some(Metadata {
        meta: ObjectMeta { object, uid, created, labels, source },
        terminating,
        owners,
    })
}

fn name(reader: &mut Reader<'_>, fields: &Fields<'_, '_, '_>, naming: Naming) -> Option<Arc<str>> {
    let path = fields.path.key("name");
    let Some(entry) = fields.entry("name").filter(|entry| !entry.value.is_null()) else {
        reader.report(fields.position, &path, Violation::MissingName);
        return None;
    };
    let name = reader.text(&entry.value, &path)?;
    let rule = match naming {
        _ if name.is_empty() => {
            reader.report(entry.value.position, &path, Violation::MissingName);
            return None;
        }
        Naming::Cluster | Naming::Namespaced if !is_dns_subdomain(&name) => SUBDOMAIN,
        Naming::Namespace | Naming::NamespacedLabel if !is_dns_label(&name) => LABEL,
        Naming::Cluster | Naming::Namespace | Naming::Namespaced | Naming::NamespacedLabel => {
            return Some(name);
        }
    };
    reader.report(
        entry.value.position,
        &path,
        Violation::InvalidName { name: name.to_string(), rule },
    );
    None
}

const SUBDOMAIN: &str = "use at most 253 lower-case letters, digits, `-` and `.`, alphanumeric at both ends of each part";
const LABEL: &str = "use at most 63 lower-case letters, digits and `-`, alphanumeric at both ends";

fn namespace(reader: &mut Reader<'_>, fields: &Fields<'_, '_, '_>, naming: Naming) -> Arc<str> {
    let path = fields.path.key("namespace");
    let namespace = reader
        .optional(fields, "namespace", Reader::text)
        .filter(|namespace| !namespace.is_empty());
    let position = fields.entry("namespace").map_or(fields.position, |entry| entry.value.position);
    match (naming, namespace) {
        (Naming::Cluster | Naming::Namespace, None) => "".into(),
        (Naming::Cluster | Naming::Namespace, Some(_)) => {
            reader.note(position, &path, Remark::NamespaceIgnored);
            "".into()
        }
        (Naming::Namespaced | Naming::NamespacedLabel, Some(namespace)) => {
            if !is_dns_label(&namespace) {
                let violation = Violation::InvalidName { name: namespace.to_string(), rule: LABEL };
                reader.report(position, &path, violation);
            }
            namespace
        }
        (Naming::Namespaced | Naming::NamespacedLabel, None) => {
            let namespace = reader.intern(&reader.options.default_namespace.clone());
            if namespace.is_empty() {
                reader.report(position, &path, Violation::MissingNamespace);
            } else {
                reader.note(position, &path, Remark::DefaultNamespace(namespace.clone()));
            }
            namespace
        }
    }
}

/// Annotations say nothing here, but a server refuses values that are no strings, and so does this reader.
fn annotations(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<()> {
    let fields = reader.mapping(node, path)?;
    for entry in fields.entries {
        reader.string(&entry.value, &path.key(&entry.key));
    }
    Some(())
}

fn owner(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<(Arc<str>, Arc<str>)> {
    let fields = reader.mapping(node, path)?;
    let kind = reader.optional(&fields, "kind", Reader::text)?;
    let name = reader.optional(&fields, "name", Reader::text)?;
    Some((kind, name))
}

/// The labels of a pod template (NP-047).
pub(super) fn template_labels(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<Labels> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, KNOWN);
    reader.optional(&fields, "annotations", annotations);
    reader
        .optional(&fields, "labels", |reader, node, path| reader.label_map(node, path, as_is))
        .map(Labels)
}
