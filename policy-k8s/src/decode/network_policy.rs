//! `networking.k8s.io/v1` NetworkPolicy.

use netpol_core::model::{
    Field, IpBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyPort,
    PolicyPortNumber, PolicyType, PortName, Position, Protocol,
};
use serde::Deserialize;
use serde_json::Value;

use super::Odd;
use super::metadata::Metadata;
use super::value::{Fields, Reader};

#[derive(Deserialize)]
struct Wire {
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
}

pub(crate) fn read(
    text: &str,
    oddities: &mut Vec<Odd>,
) -> Result<NetworkPolicy, serde_json::Error> {
    let Wire { metadata, spec } = serde_json::from_str(text)?;
    let meta = metadata.into_meta();
    let mut reader = Reader { oddities };
    if spec.is_null() {
        // The server takes a missing spec for an empty one: it isolates every pod of the namespace.
        return Ok(NetworkPolicy { meta, ..NetworkPolicy::default() });
    }
    let Some(fields) = reader.mapping(&spec, "spec") else {
        let (pod_selector, policy_types) = (Field::Unreadable, Field::Unreadable);
        return Ok(NetworkPolicy { meta, pod_selector, policy_types, ..NetworkPolicy::default() });
    };
    let known = ["podSelector", "policyTypes", "ingress", "egress"];
    let is_newer = reader.unknown(&fields, &known);
    let pod_selector = reader.field(&fields, "podSelector", Reader::selector);
    let policy_types = reader.field(&fields, "policyTypes", policy_types);
    let mut ingress = reader
        .field(&fields, "ingress", |reader, value, path| reader.list(value, path, rule("from")));
    let mut egress =
        reader.field(&fields, "egress", |reader, value, path| reader.list(value, path, rule("to")));
    if is_newer {
        // What the field adds to or takes from the rules is not known: none of them allows anything.
        (ingress, egress) = (Field::Unreadable, Field::Unreadable);
    }
    Ok(NetworkPolicy { meta, pod_selector, policy_types, ingress, egress })
}

fn policy_types(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<Vec<PolicyType>> {
    let types =
        reader.list(value, path, |reader, value, path| match reader.text(value, path)? {
            "Ingress" => Some(PolicyType::Ingress),
            "Egress" => Some(PolicyType::Egress),
            other => {
                reader.unreadable(path, format!("`{other}` is not a policy type"));
                None
            }
        })?;
    types.into_iter().collect()
}

fn rule(
    peers_field: &'static str,
) -> impl FnMut(&mut Reader<'_>, &Value, &str) -> NetworkPolicyRule {
    move |reader, value, path| {
        let unreadable =
            || NetworkPolicyRule { peers: Field::Unreadable, ..NetworkPolicyRule::default() };
        // A null rule is what the server would serve as an empty one, which admits everybody (DEC-17); it never serves
        // null, so whoever did is not believed.
        let Some(fields) = reader.mapping(value, path) else { return unreadable() };
        if reader.unknown(&fields, &[peers_field, "ports"]) {
            return unreadable();
        }
        let peers = reader
            .field(&fields, peers_field, |reader, value, path| reader.list(value, path, peer));
        let ports =
            reader.field(&fields, "ports", |reader, value, path| reader.list(value, path, port));
        NetworkPolicyRule { peers, ports, position: Position::default() }
    }
}

fn peer(reader: &mut Reader<'_>, value: &Value, path: &str) -> NetworkPolicyPeer {
    let unreadable =
        || NetworkPolicyPeer { pod_selector: Field::Unreadable, ..NetworkPolicyPeer::default() };
    let Some(fields) = reader.mapping(value, path) else { return unreadable() };
    if reader.unknown(&fields, &["podSelector", "namespaceSelector", "ipBlock"]) {
        return unreadable();
    }
    NetworkPolicyPeer {
        pod_selector: reader.field(&fields, "podSelector", Reader::selector),
        namespace_selector: reader.field(&fields, "namespaceSelector", Reader::selector),
        ip_block: reader.field(&fields, "ipBlock", ip_block),
        position: Position::default(),
    }
}

/// A block of which an exception cannot be read is unreadable: without it, it would be wider than it was meant.
fn ip_block(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<IpBlock> {
    let fields = reader.mapping(value, path)?;
    if reader.unknown(&fields, &["cidr", "except"]) {
        return None;
    }
    let cidr = reader.cidr(fields.value("cidr").unwrap_or(&Value::Null), &fields.key("cidr"))?;
    let except = reader.field(&fields, "except", |reader, value, path| {
        let list = reader.list(value, path, Reader::cidr)?;
        list.into_iter().collect::<Option<Vec<_>>>()
    });
    if except.is_unreadable() {
        return None;
    }
    let except = except.given().cloned().unwrap_or_default();
    Some(IpBlock { cidr, except, position: Position::default() })
}

fn port(reader: &mut Reader<'_>, value: &Value, path: &str) -> PolicyPort {
    let unreadable = || PolicyPort { port: Field::Unreadable, ..PolicyPort::default() };
    let Some(fields) = reader.mapping(value, path) else { return unreadable() };
    if reader.unknown(&fields, &["protocol", "port", "endPort"]) {
        return unreadable();
    }
    let protocol = reader.field(&fields, "protocol", |reader, value, path| {
        let text = reader.text(value, path)?;
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == text);
        if protocol.is_none() {
            reader.unreadable(path, format!("`{text}` is not a protocol"));
        }
        protocol
    });
    let number = reader.field(&fields, "port", number_or_name);
    let port = with_end(reader, &fields, number);
    PolicyPort { protocol, port, position: Position::default() }
}

fn number_or_name(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<PolicyPortNumber> {
    let Value::String(text) = value else {
        return reader.port(value, path).map(PolicyPortNumber::Number);
    };
    match PortName::try_new(text) {
        Ok(name) => Some(PolicyPortNumber::Name(name)),
        Err(error) => {
            reader.unreadable(path, format!("`{text}`: {error}"));
            None
        }
    }
}

fn with_end(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    port: Field<PolicyPortNumber>,
) -> Field<PolicyPortNumber> {
    let end = reader.field(fields, "endPort", Reader::port);
    match (port, end) {
        (port, Field::Absent | Field::Null) => port,
        (Field::Given(PolicyPortNumber::Number(start)), Field::Given(end)) => {
            Field::Given(PolicyPortNumber::Range(start, end))
        }
        (_, Field::Given(_) | Field::Unreadable) => {
            reader.unreadable(&fields.key("endPort"), "there is no range it could end");
            Field::Unreadable
        }
    }
}
