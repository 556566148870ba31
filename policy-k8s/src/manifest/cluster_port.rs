//! `protocols` of a ClusterNetworkPolicy rule (CNP-050..CNP-056), and `ports` of its v1alpha1 predecessors.

use core::num::NonZeroU16;

use netpol_core::model::{ClusterPort, PortName, Protocol, Violation};

use super::decode::{Fields, Reader};
use super::error::Problem;
use super::note::Remark;
use super::path::Path;
use super::tree::Node;

/// Whether the rule has peers that are addresses: those have no port names (CNP-055).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PeerAddresses {
    None,
    Some,
}

/// An entry of v1alpha2 `protocols`.
pub(super) fn protocol_entry(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    addresses: PeerAddresses,
) -> Option<ClusterPort> {
    const CHOICES: [(&str, Option<Protocol>); 4] = [
        ("tcp", Some(Protocol::Tcp)),
        ("udp", Some(Protocol::Udp)),
        ("sctp", Some(Protocol::Sctp)),
        ("destinationNamedPort", None),
    ];
    let names = CHOICES.map(|(name, _)| name);
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &names);
    let given = fields.given(&names);
    let chosen = CHOICES.iter().find(|(name, _)| given.as_slice() == [*name]);
    let Some((name, protocol)) = chosen else {
        let choices = "`tcp`, `udp`, `sctp` and `destinationNamedPort`";
        let violation =
            Violation::NotExactlyOne { what: "a protocol entry", choices, found: given.len() };
        reader.report(node.position, path, violation);
        return None;
    };
    reader.optional(&fields, name, |reader, node, path| match *protocol {
        Some(protocol) => destination_port(reader, node, path, protocol),
        None => named(reader, node, path, addresses),
    })
}

fn destination_port(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    protocol: Protocol,
) -> Option<ClusterPort> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["destinationPort"]);
    let Some(entry) = fields.entry("destinationPort").filter(|entry| !entry.value.is_null()) else {
        reader.report(node.position, path, Violation::EmptyProtocol(protocol));
        return None;
    };
    let path = path.key("destinationPort");
    let fields = reader.mapping(&entry.value, &path)?;
    reader.only(&fields, &["number", "range"]);
    let given = fields.given(&["number", "range"]);
    if given.len() != 1 {
        let choices = "`number` and `range`";
        let violation =
            Violation::NotExactlyOne { what: "`destinationPort`", choices, found: given.len() };
        reader.report(fields.position, &path, violation);
        return None;
    }
    let number = reader.optional(&fields, "number", number);
    let range = reader.optional(&fields, "range", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.only(&fields, &["start", "end"]);
        bounds(reader, &fields, Equal::Rejected)
    });
    let (start, end) = number.map(|number| (number, number)).or(range)?;
    Some(ClusterPort::Range(protocol, start, end))
}

/// An entry of v1alpha1 `ports`: the protocol defaults to TCP (ANP-002).
pub(super) fn port(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    addresses: PeerAddresses,
) -> Option<ClusterPort> {
    const NAMES: [&str; 3] = ["portNumber", "portRange", "namedPort"];
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &NAMES);
    let given = fields.given(&NAMES);
    if given.len() != 1 {
        let choices = "`portNumber`, `portRange` and `namedPort`";
        reader.report(
            node.position,
            path,
            Violation::NotExactlyOne { what: "a port", choices, found: given.len() },
        );
        return None;
    }
    let single = reader.optional(&fields, "portNumber", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.only(&fields, &["protocol", "port"]);
        let protocol = reader.optional(&fields, "protocol", Reader::protocol).unwrap_or_default();
        let port = required(reader, &fields, "port")?;
        Some(ClusterPort::Range(protocol, port, port))
    });
    let range = reader.optional(&fields, "portRange", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.only(&fields, &["protocol", "start", "end"]);
        let protocol = reader.optional(&fields, "protocol", Reader::protocol).unwrap_or_default();
        let (start, end) = bounds(reader, &fields, Equal::Accepted)?;
        Some(ClusterPort::Range(protocol, start, end))
    });
    let named = reader
        .optional(&fields, "namedPort", |reader, node, path| named(reader, node, path, addresses));
    single.or(range).or(named)
}

/// Whether a range may begin where it ends: not in v1alpha2 (CNP-051); in v1alpha1 it is a single port (ANP-004).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Equal {
    Accepted,
    Rejected,
}

fn bounds(
    reader: &mut Reader<'_>,
    fields: &Fields<'_, '_, '_>,
    equal: Equal,
) -> Option<(NonZeroU16, NonZeroU16)> {
    let start = required(reader, fields, "start");
    let end = required(reader, fields, "end");
    let (start, end) = (start?, end?);
    if start > end || (start == end && equal == Equal::Rejected) {
        let violation = Violation::EmptyPortRange { start: start.get(), end: end.get() };
        reader.report(fields.position, fields.path, violation);
        return None;
    }
    Some((start, end))
}

fn required(
    reader: &mut Reader<'_>,
    fields: &Fields<'_, '_, '_>,
    name: &'static str,
) -> Option<NonZeroU16> {
    let given = reader.field(fields, name, number);
    if given.is_unset() {
        reader.report(fields.position, &fields.path.key(name), Problem::MissingField(name));
    }
    given.given().copied()
}

fn number(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<NonZeroU16> {
    reader.port_number(node, path, Violation::ClusterPortOutOfRange)
}

fn named(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    addresses: PeerAddresses,
) -> Option<ClusterPort> {
    let name = reader.text(node, path)?;
    if addresses == PeerAddresses::Some {
        reader.report(node.position, path, Violation::NamedPortWithAddresses);
    }
    if name.is_empty() {
        reader.report(node.position, path, Violation::EmptyNamedPort);
        return None;
    }
    if PortName::try_new(&name).is_err() {
        reader.note(node.position, path, Remark::ImpossiblePortName(name.clone()));
    }
    Some(ClusterPort::Named(name))
}
