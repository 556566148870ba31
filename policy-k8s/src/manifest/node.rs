//! Namespace and Node.

use netpol_core::model::{Cidr, NAMESPACE_NAME_LABEL, Namespace, Node, Violation};

use super::decode::{Fields, Reader};
use super::metadata::Metadata;
use super::path::Path;
use super::tree;

/// A namespace with its automatic label (NP-142); another value there is an error (VAL-035).
pub(super) fn namespace(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
) -> Option<Namespace> {
    reader.no_misspelled(root, &["metadata"], &["spec", "status"]);
    let mut meta = metadata.meta;
    let name = meta.object.name.clone();
    if let Some(value) = meta.labels.value(NAMESPACE_NAME_LABEL)
        && *value != *name
    {
        let (path, value) = (root.path.key("metadata"), value.to_owned());
        let path = path.key("labels");
        let violation = Violation::NamespaceNameLabel { name: name.to_string(), value };
        reader.report(label_position(root), &path.key(NAMESPACE_NAME_LABEL), violation);
    }
    let key = reader.intern(NAMESPACE_NAME_LABEL);
    meta.labels.0.insert(key, name);
    Some(Namespace { meta, declared: true })
}

fn label_position(root: &Fields<'_, '_, '_>) -> netpol_core::model::Position {
    let inside = |node: &tree::Node<'_>, name: &str| match &node.value {
        tree::Value::Mapping(entries) => entries.iter().position(|entry| entry.key == name),
        tree::Value::Scalar(_) | tree::Value::Sequence(_) => None,
    };
    let mut node = root.entry("metadata").map(|entry| &entry.value);
    for name in ["labels", NAMESPACE_NAME_LABEL] {
        node = node.and_then(|node| match &node.value {
            tree::Value::Mapping(entries) => {
                inside(node, name).and_then(|index| entries.get(index)).map(|entry| &entry.value)
            }
            tree::Value::Scalar(_) | tree::Value::Sequence(_) => None,
        });
    }
    node.map_or(root.position, |node| node.position)
}

pub(super) fn node(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
) -> Option<Node> {
    reader.no_misspelled(root, &["metadata", "spec", "status"], &[]);
    let pod_cidrs = reader.optional(root, "spec", pod_cidrs).unwrap_or_default();
    let addresses = reader.optional(root, "status", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.no_misspelled(&fields, &["addresses"], &[]);
        Some(reader.list_field(&fields, "addresses", address))
    });
    // Names among the addresses say nothing about packets (CNP-045).
    let addresses = addresses.unwrap_or_default().into_iter().flatten().collect();
    Some(Node { meta: metadata.meta, addresses, pod_cidrs })
}

fn pod_cidrs(reader: &mut Reader<'_>, node: &tree::Node<'_>, path: &Path<'_>) -> Option<Vec<Cidr>> {
    let fields = reader.mapping(node, path)?;
    reader.no_misspelled(&fields, &["podCIDR", "podCIDRs"], &[]);
    let cidr = |reader: &mut Reader<'_>, node: &tree::Node<'_>, path: &Path<'_>| {
        reader.cidr(node, path, Violation::InvalidCidr)
    };
    let single = reader.optional(&fields, "podCIDR", cidr);
    let list = reader.list_field(&fields, "podCIDRs", cidr);
    Some(if list.is_empty() { single.into_iter().collect() } else { list })
}

fn address(
    reader: &mut Reader<'_>,
    node: &tree::Node<'_>,
    path: &Path<'_>,
) -> Option<Option<core::net::IpAddr>> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["address", "type"]);
    let kind = reader.optional(&fields, "type", Reader::text)?;
    match kind.as_ref() {
        "InternalIP" | "ExternalIP" => Some(reader.optional(&fields, "address", Reader::address)),
        _ => Some(None),
    }
}
