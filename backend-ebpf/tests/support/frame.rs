//! Flows as Ethernet frames, plain or dressed up.

use core::net::IpAddr;

use netpol_conformance::generate::Random;
use netpol_core::ir::{Flow, Transport};

/// How a flow's first packet looks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Dress {
    /// Nothing special.
    Plain,
    /// IPv4 options or IPv6 extension headers before the transport header.
    Headers,
    /// The first of several fragments.
    FirstFragment,
    /// A fragment without the transport header.
    LaterFragment,
    /// It ends before the ports, or before the end of the headers.
    Cut,
    /// Headers that say nonsense: an IPv4 header of less than 20 bytes, more IPv6 extension headers than anybody sends.
    Absurd,
    /// Neighbour discovery between the two.
    NeighbourDiscovery,
}

/// Extension headers: hop-by-hop, routing, destination options, authentication, a fragment header of no fragment.
const EXTENSIONS: [u8; 5] = [0, 43, 60, 51, 44];

/// Makes a frame; none where the dress does not fit the flow.
pub(crate) fn frame(flow: &Flow, dress: Dress, random: &mut Random) -> Option<Vec<u8>> {
    let (protocol, mut payload) = payload(flow.transport, random);
    let has_ports = matches!(flow.transport, Transport::Port(..));
    match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (mut words, mut fragment) = (5, 0);
            match dress {
                Dress::Plain => {}
                Dress::Headers => words = random.between(6, 15),
                Dress::FirstFragment => fragment = 0x2000,
                Dress::LaterFragment => {
                    fragment = random.pick([0, 0x2000])
                        | u16::try_from(random.between(1, 0x1fff)).unwrap();
                    payload = bytes(random, 24);
                }
                Dress::Cut if has_ports => {
                    words = random.between(5, 15);
                    payload.truncate(random.below(4));
                }
                Dress::Absurd if has_ports => words = random.below(5),
                Dress::Cut | Dress::Absurd | Dress::NeighbourDiscovery => return None,
            }
            // Do not fragment, and the bit without meaning, are in the way of careless masks.
            fragment |= random.pick([0, 0x4000, 0x8000, 0xc000]);
            let mut frame = vec![0; 12];
            frame.extend([0x08, 0x00, 0x40 | u8::try_from(words).unwrap()]);
            frame.extend(bytes(random, 5));
            frame.extend(fragment.to_be_bytes());
            frame.extend([64, protocol]);
            frame.extend(bytes(random, 2));
            frame.extend(source.octets());
            frame.extend(destination.octets());
            frame.extend(bytes(random, words.max(5) * 4 - 20));
            frame.extend(payload);
            Some(frame)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut headers: Vec<(u8, Vec<u8>)> = Vec::new();
            let mut next = protocol;
            match dress {
                Dress::Plain => {}
                Dress::Headers => headers = extensions(random, 1, 7),
                Dress::FirstFragment => headers = extensions(random, 0, 3),
                Dress::LaterFragment => {
                    headers = extensions(random, 0, 3);
                    payload = bytes(random, 24);
                }
                Dress::Cut if has_ports || protocol == 58 => {
                    headers = extensions(random, 0, 7);
                    payload.truncate(if has_ports { random.below(4) } else { 0 });
                }
                Dress::Absurd => headers = extensions(random, 8, 12),
                Dress::NeighbourDiscovery => {
                    headers = extensions(random, 0, 2);
                    next = 58;
                    payload = bytes(random, 24);
                    payload[0] = u8::try_from(random.between(133, 137)).unwrap();
                }
                Dress::Cut => return None,
            }
            let offset = match dress {
                Dress::FirstFragment => Some(1),
                Dress::LaterFragment => {
                    let place = u16::try_from(random.between(1, 0x1fff)).unwrap() << 3;
                    Some(place | random.pick([0, 1]))
                }
                Dress::Plain
                | Dress::Headers
                | Dress::Cut
                | Dress::Absurd
                | Dress::NeighbourDiscovery => None,
            };
            if let Some(offset) = offset {
                let mut header = vec![0, 0];
                header.extend(offset.to_be_bytes());
                header.extend(bytes(random, 4));
                headers.push((44, header));
            }
            let kinds: Vec<u8> = headers.iter().map(|(kind, _)| *kind).chain([next]).collect();
            let mut frame = vec![0; 12];
            frame.extend([0x86, 0xdd, 0x60]);
            frame.extend(bytes(random, 5));
            frame.extend([kinds[0], 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            for ((_, mut header), next) in headers.into_iter().zip(&kinds[1..]) {
                header[0] = *next;
                frame.extend(header);
            }
            frame.extend(payload);
            if dress == Dress::Cut && kinds.len() > 1 && random.one_in(2) {
                // Somewhere in the headers: at least four bytes short of the transport header.
                let end = frame.len() - frame.len().min(8) / 2;
                frame.truncate(random.between(54, end.max(54)));
            }
            Some(frame)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

/// Returns extension headers, their first byte left out.
fn extensions(random: &mut Random, low: usize, high: usize) -> Vec<(u8, Vec<u8>)> {
    let count = random.between(low, high);
    (0..count)
        .map(|_| {
            let kind = random.pick(EXTENSIONS);
            let units = random.below(4);
            let mut header = match kind {
                44 => bytes(random, 8),
                51 => bytes(random, (units + 2) * 4),
                _ => bytes(random, (units + 1) * 8),
            };
            if kind == 44 {
                header[2] = 0;
                header[3] &= 0x06;
            } else {
                header[1] = u8::try_from(units).unwrap();
            }
            (kind, header)
        })
        .collect()
}

fn payload(transport: Transport, random: &mut Random) -> (u8, Vec<u8>) {
    let mut payload = bytes(random, 20);
    match transport {
        Transport::Port(protocol, port) => {
            payload[2..4].copy_from_slice(&port.to_be_bytes());
            (protocol.number(), payload)
        }
        Transport::Other(number) => {
            payload[0] = if number == 58 { 128 } else { 8 };
            (number, payload)
        }
    }
}

fn bytes(random: &mut Random, count: usize) -> Vec<u8> {
    (0..count).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
}
