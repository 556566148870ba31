//! `networking.k8s.io/v1` NetworkPolicy (semantics section 16).

use netpol_core::model::{
    Cidr, CidrError, Field, IpBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule,
    PolicyPort, PolicyPortNumber, PolicyType, PortName, Violation,
};

use super::decode::{Fields, Reader};
use super::metadata::Metadata;
use super::note::Remark;
use super::path::Path;
use super::scalar::{Scalar, ScalarKind};
use super::selector::selector;
use super::tree::{Node, Value};

pub(super) fn network_policy(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
) -> Option<NetworkPolicy> {
    reader.only(root, &["apiVersion", "kind", "metadata", "spec", "status"]);
    let Some(entry) = root.entry("spec").filter(|entry| !entry.value.is_null()) else {
        // The server takes a missing spec for an empty one: it isolates every pod of the namespace.
        reader.note(root.position, &root.path.key("spec"), Remark::MissingPodSelector);
        return Some(NetworkPolicy { meta: metadata.meta, ..NetworkPolicy::default() });
    };
    let path = root.path.key("spec");
    let fields = reader.mapping(&entry.value, &path)?;
    reader.only(&fields, &["podSelector", "policyTypes", "ingress", "egress"]);
    let pod_selector = reader.field(&fields, "podSelector", selector);
    if pod_selector == Field::Absent {
        reader.note(fields.position, &path.key("podSelector"), Remark::MissingPodSelector);
    }
    let policy_types = reader.field(&fields, "policyTypes", policy_types);
    let ingress =
        reader.field(&fields, "ingress", |reader, node, path| rules(reader, node, path, "from"));
    let egress =
        reader.field(&fields, "egress", |reader, node, path| rules(reader, node, path, "to"));
    Some(NetworkPolicy { meta: metadata.meta, pod_selector, policy_types, ingress, egress })
}

fn policy_types(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<Vec<PolicyType>> {
    let types =
        reader.list(node, path, |reader, node, path| match reader.string(node, path)? {
            "Ingress" => Some(PolicyType::Ingress),
            "Egress" => Some(PolicyType::Egress),
            other => {
                reader.report(node.position, path, Violation::UnknownPolicyType(other.to_owned()));
                None
            }
        })?;
    if let Value::Sequence(items) = &node.value
        && items.len() > 2
    {
        reader.report(node.position, path, Violation::TooManyPolicyTypes(items.len()));
    }
    Some(types)
}

fn rules(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    peers_field: &'static str,
) -> Option<Vec<NetworkPolicyRule>> {
    reader.list(node, path, |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.only(&fields, &[peers_field, "ports"]);
        let peers =
            reader.field(&fields, peers_field, |reader, node, path| reader.list(node, path, peer));
        let ports =
            reader.field(&fields, "ports", |reader, node, path| reader.list(node, path, port));
        Some(NetworkPolicyRule { peers, ports, position: node.position })
    })
}

fn peer(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<NetworkPolicyPeer> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["podSelector", "namespaceSelector", "ipBlock"]);
    let pod_selector = reader.field(&fields, "podSelector", selector);
    let namespace_selector = reader.field(&fields, "namespaceSelector", selector);
    let block = reader.field(&fields, "ipBlock", ip_block);
    let selects = !pod_selector.is_unset() || !namespace_selector.is_unset();
    if !block.is_unset() && selects {
        let position = fields.entry("ipBlock").map_or(node.position, |entry| entry.key_position);
        reader.report(position, &path.key("ipBlock"), Violation::IpBlockWithSelector);
    } else if block.is_unset() && !selects {
        reader.report(node.position, path, Violation::EmptyPeer);
    }
    Some(NetworkPolicyPeer {
        pod_selector,
        namespace_selector,
        ip_block: block,
        position: node.position,
    })
}

fn ip_block(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<IpBlock> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["cidr", "except"]);
    let cidr = reader.field(&fields, "cidr", |reader, node, path| {
        reader.cidr(node, path, Violation::InvalidCidr)
    });
    if cidr.is_unset() {
        reader.report(fields.position, &path.key("cidr"), Violation::MissingCidr);
    }
    let cidr = cidr.given().copied();
    let except =
        reader.list_field(&fields, "except", |reader, node, path| except(reader, node, path, cidr));
    Some(IpBlock { cidr: cidr?, except, position: node.position })
}

fn except(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    cidr: Option<Cidr>,
) -> Option<Cidr> {
    // An empty entry is a bad one (VAL-027), not a missing `cidr`.
    let except = reader.cidr(node, path, |error| {
        let is_empty = error == CidrError::Empty;
        Violation::InvalidCidr(if is_empty { CidrError::Malformed(String::new()) } else { error })
    })?;
    if let Some(cidr) = cidr
        && !cidr.strictly_contains(except)
    {
        reader.report(node.position, path, Violation::ExceptOutsideCidr { except, cidr });
    }
    Some(except)
}

fn port(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<PolicyPort> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["protocol", "port", "endPort"]);
    let protocol = reader.field(&fields, "protocol", Reader::protocol);
    let port = reader.field(&fields, "port", port_or_name);
    let end = reader.field(&fields, "endPort", |reader, node, path| {
        reader.port_number(node, path, Violation::EndPortOutOfRange)
    });
    let port = with_end(reader, &fields, port, &end);
    Some(PolicyPort { protocol, port, position: node.position })
}

/// A number, or a container port's name. A quoted number is a name, and not a valid one (VAL-024).
fn port_or_name(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
) -> Option<PolicyPortNumber> {
    match &node.value {
        Value::Scalar(Scalar { kind: ScalarKind::Text, text }) => match PortName::try_new(text) {
            Ok(name) => Some(PolicyPortNumber::Name(name)),
            Err(reason) => {
                let violation = Violation::InvalidPortName { name: text.to_string(), reason };
                reader.report(node.position, path, violation);
                None
            }
        },
        Value::Scalar(Scalar { kind: ScalarKind::Integer(_), .. }) => {
            reader.port_number(node, path, Violation::PortOutOfRange).map(PolicyPortNumber::Number)
        }
        Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => {
            reader.wrong_type(node, path, "a port number in plain decimal, or a port name");
            None
        }
    }
}

fn with_end(
    reader: &mut Reader<'_>,
    fields: &Fields<'_, '_, '_>,
    port: Field<PolicyPortNumber>,
    end: &Field<core::num::NonZeroU16>,
) -> Field<PolicyPortNumber> {
    if end.is_unset() {
        return port;
    }
    let position = fields.entry("endPort").map_or(fields.position, |entry| entry.value.position);
    let violation = match (&port, end.given()) {
        (Field::Absent | Field::Null, _) => Violation::EndPortWithoutPort,
        (Field::Given(PolicyPortNumber::Name(name)), _) => {
            Violation::EndPortWithNamedPort(name.to_string())
        }
        (Field::Given(PolicyPortNumber::Number(start)), Some(end)) if end >= start => {
            return Field::Given(PolicyPortNumber::Range(*start, *end));
        }
        (
            Field::Given(PolicyPortNumber::Number(start) | PolicyPortNumber::Range(start, _)),
            Some(end),
        ) => Violation::EndPortBelowPort { start: start.get(), end: end.get() },
        (Field::Given(_), None) | (Field::Unreadable, _) => return port,
    };
    reader.report(position, &fields.path.key("endPort"), violation);
    port
}
