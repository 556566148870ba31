//! What the rules counted and reported.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_core::backend::{Counter, Denial, Denials, SyncError};
use netpol_core::ir::{Flow, Transport, Verdict};
use netpol_core::model::Protocol;

use super::FAMILIES;
use super::variant::Variant;
use crate::lower::Layout;
use crate::netlink::{Log, Packet};
use crate::restore::{Account, Filter, Reported, Target};

/// Packets and bytes.
type Count = (u64, u64);

/// Returns what was counted for every account of the rules in force.
pub(super) fn counters(variant: Variant, layout: &Layout) -> Result<Vec<Counter>, SyncError> {
    let mut sums: BTreeMap<(&Account, Verdict), Count> = BTreeMap::new();
    for (family, filter) in FAMILIES.into_iter().zip(&layout.filters) {
        add(&mut sums, filter, &counts(&variant.counters(family)?));
    }
    let counters = sums.into_iter().map(|((account, verdict), (packets, bytes))| Counter {
        direction: account.direction,
        verdict,
        cause: account.cause.clone(),
        packets,
        bytes,
    });
    Ok(counters.collect())
}

fn add<'a>(
    sums: &mut BTreeMap<(&'a Account, Verdict), Count>,
    filter: &'a Filter,
    counts: &BTreeMap<String, Vec<Count>>,
) {
    for (name, rules) in &filter.chains {
        let counts = counts.get(name.as_ref()).map_or(&[][..], Vec::as_slice);
        // Where somebody else changed the chain nothing can be told of it.
        let counts = if counts.len() == rules.len() { counts } else { &[] };
        let counts = counts.iter().copied().chain(core::iter::repeat((0, 0)));
        for (rule, (packets, bytes)) in rules.iter().zip(counts) {
            let Some(account) = rule.account() else { continue };
            let verdict = match rule.target() {
                Target::Return => Verdict::Allow,
                Target::Drop
                | Target::Goto(_)
                | Target::Jump(_)
                | Target::Mark(_)
                | Target::Log(..) => Verdict::Deny,
            };
            let sum = sums.entry((account, verdict)).or_default();
            sum.0 = sum.0.saturating_add(packets);
            sum.1 = sum.1.saturating_add(bytes);
        }
    }
}

/// Reads what `iptables-save -c` writes: the counts of every rule of ours, in order.
fn counts(text: &str) -> BTreeMap<String, Vec<Count>> {
    let mut counts: BTreeMap<String, Vec<Count>> = BTreeMap::new();
    for line in text.lines() {
        let Some((count, rule)) = line.strip_prefix('[').and_then(|line| line.split_once("] -A "))
        else {
            continue;
        };
        let name = rule.split(' ').next().unwrap_or_default();
        if let Some((packets, bytes)) = count.split_once(':')
            && let (Ok(packets), Ok(bytes)) = (packets.parse(), bytes.parse())
        {
            counts.entry(name.into()).or_default().push((packets, bytes));
        }
    }
    counts
}

/// Takes the reports that have come.
pub(super) fn denials(log: &Log, layout: &Layout) -> Result<Denials, SyncError> {
    let mut denials = Denials::default();
    let each = |packet: Packet| {
        // Reports of rules that are no longer in force name what is not known any more.
        let Some(reported) = layout.reports.get(packet.prefix.as_str()) else { return };
        denials.flows.extend(denial(&packet.bytes, reported));
    };
    let lost =
        log.take(each).map_err(|error| SyncError::refused("the log of denied packets", error))?;
    denials.lost = lost;
    Ok(denials)
}

/// Reads the head of a packet.
fn denial(packet: &[u8], reported: &Reported) -> Option<Denial> {
    let head = match packet.first()? >> 4 {
        4 => v4(packet)?,
        6 => v6(packet)?,
        _ => return None,
    };
    let ports = head
        .rest
        .first_chunk::<4>()
        .map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
    let protocol = match head.protocol {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        132 => Some(Protocol::Sctp),
        _ => None,
    };
    // What is judged is the way the connection was opened.
    let (source, destination, ports) = if reported.is_answer {
        (head.destination, head.source, ports.map(|(source, destination)| (destination, source)))
    } else {
        (head.source, head.destination, ports)
    };
    let (transport, source_port) = match (protocol, ports) {
        (Some(protocol), Some((source, destination))) => {
            (Transport::Port(protocol, destination), Some(source))
        }
        (Some(_) | None, _) => (Transport::Other(head.protocol), None),
    };
    Some(Denial {
        flow: Flow::new(source, destination, transport),
        source_port,
        direction: reported.account.direction,
        cause: reported.account.cause.clone(),
    })
}

/// What is read of the network header.
struct Head<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    rest: &'a [u8],
}

fn v4(packet: &[u8]) -> Option<Head<'_>> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let [first, _, _, _, _, _, _, _, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let length = usize::from(first & 15).saturating_mul(4);
    Some(Head {
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol,
        rest: packet.get(length..)?,
    })
}

fn v6(packet: &[u8]) -> Option<Head<'_>> {
    /// Hop-by-hop options, routing, fragment, destination options.
    const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];
    let mut protocol = *packet.get(6)?;
    let source = Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?);
    let destination = Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?);
    let mut rest = packet.get(40..)?;
    while EXTENSIONS.contains(&protocol) {
        let &[next, length] = rest.first_chunk::<2>()?;
        let eights = if protocol == 44 { 1 } else { usize::from(length).saturating_add(1) };
        rest = rest.get(eights.saturating_mul(8)..)?;
        protocol = next;
    }
    Some(Head { source: source.into(), destination: destination.into(), protocol, rest })
}
