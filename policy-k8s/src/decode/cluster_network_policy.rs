//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
//!
//! Unreadable parts fail closed by action (CNP-041): an Accept matches nothing, a Deny or Pass everything.

use alloc::sync::Arc;

use netpol_core::model::{
    ClusterAction, ClusterDestination, ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterRule,
    ClusterSubject, Field, NamespacedPods, Position, Protocol, Tier,
};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;

use super::Odd;
use super::metadata::Metadata;
use super::value::{Fields, Reader};

#[derive(Deserialize)]
struct Wire {
    metadata: Metadata,
    spec: Value,
}

/// Which peers a rule can have (CNP-042).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    From,
    To,
}

pub(crate) fn read(
    text: &str,
    oddities: &mut Vec<Odd>,
) -> Result<ClusterNetworkPolicy, serde_json::Error> {
    let Wire { metadata, spec } = serde_json::from_str(text)?;
    let mut reader = Reader { oddities };
    let fields = reader.mapping(&spec, "spec");
    let fields = fields.ok_or_else(|| serde_json::Error::custom("`spec` is not a mapping"))?;
    let known = ["tier", "priority", "subject", "ingress", "egress"];
    let is_newer = reader.unknown(&fields, &known);
    let place = place(&mut reader, &fields);
    let subject = fields.value("subject").and_then(|value| subject(&mut reader, value));
    if subject.is_none() {
        reader.odd("spec.subject", "cannot be read", "it applies to no pod");
    }
    let mut ingress = rules(&mut reader, &fields, "ingress", Side::From);
    let mut egress = rules(&mut reader, &fields, "egress", Side::To);
    if place.is_none() || is_newer {
        // Where it stands, or what else it means, is not known. Its denials are kept, at the front.
        ingress.retain(|rule| rule.action == ClusterAction::Deny);
        egress.retain(|rule| rule.action == ClusterAction::Deny);
    }
    let (tier, priority) = place.unwrap_or((Tier::Admin, 0));
    Ok(ClusterNetworkPolicy {
        meta: metadata.into_meta(),
        tier,
        priority,
        subject: subject.unwrap_or(ClusterSubject::Unknown),
        ingress,
        egress,
    })
}

fn place(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<(Tier, u16)> {
    let tier = match fields.value("tier").and_then(Value::as_str) {
        Some("Admin") => Some(Tier::Admin),
        Some("Baseline") => Some(Tier::Baseline),
        Some(_) | None => None,
    };
    let priority = fields.value("priority").and_then(Value::as_u64);
    let priority = priority.and_then(|number| u16::try_from(number).ok());
    let place = tier.zip(priority.filter(|priority| *priority <= 1000));
    if place.is_none() {
        reader.odd(
            "spec.tier",
            "tier or priority cannot be read",
            "only its Deny rules apply, before all other policies",
        );
    }
    place
}

fn subject(reader: &mut Reader<'_>, value: &Value) -> Option<ClusterSubject> {
    let fields = reader.mapping(value, "spec.subject")?;
    if reader.unknown(&fields, &["namespaces", "pods"]) {
        return None;
    }
    match (fields.value("namespaces"), fields.value("pods")) {
        (Some(value), None) => {
            reader.selector(value, "spec.subject.namespaces").map(ClusterSubject::Namespaces)
        }
        (None, Some(value)) => pods(reader, value, "spec.subject.pods").map(ClusterSubject::Pods),
        (None, None) | (Some(_), Some(_)) => None,
    }
}

fn pods(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<NamespacedPods> {
    let fields = reader.mapping(value, path)?;
    if reader.unknown(&fields, &["namespaceSelector", "podSelector"]) {
        return None;
    }
    let namespace_selector = reader.field(&fields, "namespaceSelector", Reader::selector);
    if namespace_selector.is_unreadable() {
        return None;
    }
    let pod_selector = fields.value("podSelector").unwrap_or(&Value::Null);
    let pod_selector = reader.selector(pod_selector, &fields.key("podSelector"))?;
    Some(NamespacedPods { namespace_selector, pod_selector })
}

fn rules(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    name: &'static str,
    side: Side,
) -> Vec<ClusterRule> {
    let read = |reader: &mut Reader<'_>, value: &Value, path: &str| rule(reader, value, path, side);
    match reader.field(fields, name, |reader, value, path| reader.list(value, path, read)) {
        Field::Given(rules) => rules,
        Field::Absent | Field::Null => Vec::new(),
        Field::Unreadable => vec![deny_all()],
    }
}

fn unknown_peer() -> Vec<ClusterPeer> {
    vec![ClusterPeer { destination: ClusterDestination::Unknown, position: Position::default() }]
}

/// What a rule becomes of which not even the action can be read.
fn deny_all() -> ClusterRule {
    ClusterRule {
        name: None,
        action: ClusterAction::Deny,
        peers: unknown_peer(),
        protocols: Field::Absent,
        position: Position::default(),
    }
}

fn rule(reader: &mut Reader<'_>, value: &Value, path: &str, side: Side) -> ClusterRule {
    let Some(fields) = reader.mapping(value, path) else { return deny_all() };
    let peers_field = match side {
        Side::From => "from",
        Side::To => "to",
    };
    let is_newer = reader.unknown(&fields, &["name", "action", peers_field, "protocols"]);
    let action = match fields.value("action").and_then(Value::as_str) {
        Some("Accept") => ClusterAction::Accept,
        Some("Deny") => ClusterAction::Deny,
        Some("Pass") => ClusterAction::Pass,
        Some(_) | None => {
            reader.odd(&fields.key("action"), "cannot be read", "the rule denies");
            return deny_all();
        }
    };
    let peers = reader.field(&fields, peers_field, |reader, value, path| {
        reader.list(value, path, |reader, value, path| {
            let destination = peer(reader, value, path, side);
            // Domain names can only be accepted: their addresses are never all known (DEC-13).
            let destination = destination.filter(|destination| {
                action == ClusterAction::Accept
                    || !matches!(destination, ClusterDestination::DomainNames(_))
            });
            let destination = destination.unwrap_or(ClusterDestination::Unknown);
            ClusterPeer { destination, position: Position::default() }
        })
    });
    let peers = match peers {
        Field::Given(peers) if !peers.is_empty() && !is_newer => peers,
        Field::Given(_) | Field::Absent | Field::Null | Field::Unreadable => unknown_peer(),
    };
    let protocols = reader
        .field(&fields, "protocols", |reader, value, path| reader.list(value, path, protocol));
    let name = fields.value("name").and_then(Value::as_str).map(Arc::from);
    ClusterRule { name, action, peers, protocols, position: Position::default() }
}

fn peer(
    reader: &mut Reader<'_>,
    value: &Value,
    path: &str,
    side: Side,
) -> Option<ClusterDestination> {
    let fields = reader.mapping(value, path)?;
    let known: &[&str] = match side {
        Side::From => &["namespaces", "pods"],
        Side::To => &["namespaces", "pods", "networks", "nodes", "domainNames"],
    };
    let given: Vec<&&str> = known.iter().filter(|name| fields.has(name)).collect();
    let is_newer = reader.unknown(&fields, known);
    let (&[name], false) = (given.as_slice(), is_newer) else {
        reader.unreadable(path, "not exactly one kind of peer that this version knows");
        return None;
    };
    let (value, path) = (fields.value(name)?, fields.key(name));
    match *name {
        "namespaces" => reader.selector(value, &path).map(ClusterDestination::Namespaces),
        "pods" => pods(reader, value, &path).map(ClusterDestination::Pods),
        "networks" => {
            let list = reader.list(value, &path, Reader::cidr)?;
            list.into_iter().collect::<Option<Vec<_>>>().map(ClusterDestination::Networks)
        }
        "nodes" => reader.selector(value, &path).map(ClusterDestination::Nodes),
        _ => {
            let names = reader.list(value, &path, |reader, value, path| {
                reader.text(value, path).map(Arc::from)
            })?;
            names.into_iter().collect::<Option<Vec<_>>>().map(ClusterDestination::DomainNames)
        }
    }
}

fn protocol(reader: &mut Reader<'_>, value: &Value, path: &str) -> ClusterPort {
    read_protocol(reader, value, path).unwrap_or(ClusterPort::Unknown)
}

fn read_protocol(reader: &mut Reader<'_>, value: &Value, path: &str) -> Option<ClusterPort> {
    const PROTOCOLS: [(&str, Protocol); 3] =
        [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
    let fields = reader.mapping(value, path)?;
    let is_newer = reader.unknown(&fields, &["tcp", "udp", "sctp", "destinationNamedPort"]);
    let given: Vec<_> = PROTOCOLS.iter().filter(|(name, _)| fields.has(name)).collect();
    let named = fields.value("destinationNamedPort");
    let (name, protocol) = match (given.as_slice(), named, is_newer) {
        ([], Some(name), false) => {
            let name = reader.text(name, path)?;
            return Some(ClusterPort::Named(name.into()));
        }
        (&[(name, protocol)], None, false) => (name, *protocol),
        (_, _, _) => {
            reader.unreadable(path, "not exactly one kind of protocol that this version knows");
            return None;
        }
    };
    let inside = reader.mapping(fields.value(name)?, &fields.key(name))?;
    if reader.unknown(&inside, &["destinationPort"]) {
        return None;
    }
    let path = inside.key("destinationPort");
    let port = reader.mapping(inside.value("destinationPort").unwrap_or(&Value::Null), &path)?;
    if reader.unknown(&port, &["number", "range"]) {
        return None;
    }
    match (port.value("number"), port.value("range")) {
        (Some(number), None) => {
            let number = reader.port(number, &port.key("number"))?;
            Some(ClusterPort::Range(protocol, number, number))
        }
        (None, Some(range)) => {
            let range = reader.mapping(range, &port.key("range"))?;
            let mut end_of = |name: &str| {
                reader.port(range.value(name).unwrap_or(&Value::Null), &range.key(name))
            };
            let (start, end) = (end_of("start")?, end_of("end")?);
            if start > end {
                reader.unreadable(range.path(), "the range ends before it starts");
                return None;
            }
            Some(ClusterPort::Range(protocol, start, end))
        }
        (None, None) | (Some(_), Some(_)) => {
            reader.unreadable(&path, "neither a number nor a range");
            None
        }
    }
}
