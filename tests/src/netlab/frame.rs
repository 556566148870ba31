//! Packets made by hand, whole from the IP header on, each with a number by which it is known where it arrives.

use core::net::IpAddr;

use super::packet::{Mark, echo_request, internet_checksum, sctp_init};

/// Marks a packet as one of ours; not 0, since an SCTP tag must not be.
const CALL: u32 = 0x6e70_6f6c;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const DESTINATION_OPTIONS: u8 = 60;

/// A packet to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests write packets as literals")]
pub struct Packet {
    /// The source, whoever sends it.
    pub source: IpAddr,
    /// The destination, of the same family.
    pub destination: IpAddr,
    /// What is inside.
    pub content: Content,
    /// What stands between the IP header and the content.
    pub between: Between,
    /// The number by which it is known.
    pub number: u32,
}

/// What is inside a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "what can be made")]
pub enum Content {
    /// A TCP segment with these flags (2 is SYN, 16 ACK), from one port to another.
    Tcp(u16, u16, u8),
    /// A UDP datagram, from one port to another.
    Udp(u16, u16),
    /// An SCTP INIT, from one port to another.
    Sctp(u16, u16),
    /// An echo request of the family, with this identifier.
    Echo(u16),
    /// A packet of a protocol without ports.
    Bare(u8),
}

/// What stands between the IP header and the content.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "what can be made")]
pub enum Between {
    /// Nothing.
    #[default]
    Nothing,
    /// Options without meaning: of the header in IPv4, in a header of their own in IPv6.
    Options,
}

impl Packet {
    /// Writes the packet.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mark = Mark { call: CALL, index: self.number };
        let (protocol, mut content) = match self.content {
            Content::Tcp(from, to, flags) => (TCP, tcp(from, to, flags, mark)),
            Content::Udp(from, to) => (UDP, udp(from, to, mark)),
            Content::Sctp(from, to) => (SCTP, sctp_init(from, to, mark)),
            Content::Echo(identifier) => (
                if self.source.is_ipv4() { 1 } else { 58 },
                echo_request(self.destination, identifier, mark),
            ),
            Content::Bare(number) => (number, super::packet::bare(mark)),
        };
        let checksum_at = match (self.content, self.source) {
            (Content::Tcp(..), _) => Some(16),
            (Content::Udp(..), _) => Some(6),
            (Content::Echo(_), IpAddr::V6(_)) => Some(2),
            (Content::Echo(_) | Content::Sctp(..) | Content::Bare(_), _) => None,
        };
        if let Some(at) = checksum_at {
            let sum = self.checksum(protocol, &content);
            content.splice(at..at + 2, sum.to_be_bytes());
        }
        let mut packet = self.header(protocol, content.len());
        packet.extend(content);
        packet
    }

    fn header(&self, protocol: u8, content: usize) -> Vec<u8> {
        let options = match self.between {
            Between::Nothing => 0,
            Between::Options => 1,
        };
        let mut header = Vec::with_capacity(96);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = u16::try_from(20 + 4 * options + content).unwrap_or(u16::MAX);
                header.push(if options == 0 { 0x45 } else { 0x46 });
                header.push(0);
                header.extend(length.to_be_bytes());
                header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]); // Not to be fragmented.
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend([1; 4].iter().take(4 * options)); // No operation, four times.
                let sum = internet_checksum(&header).to_be_bytes();
                header.splice(10..12, sum);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let length = u16::try_from(8 * options + content).unwrap_or(u16::MAX);
                header.extend([0x60, 0, 0, 0]);
                header.extend(length.to_be_bytes());
                header.extend([if options == 0 { protocol } else { DESTINATION_OPTIONS }, 64]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend([protocol, 0, 1, 4, 0, 0, 0, 0].iter().take(8 * options)); // Padding.
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
        header
    }

    /// Over the content and the pseudo-header of the family.
    fn checksum(&self, protocol: u8, content: &[u8]) -> u16 {
        let mut summed = Vec::with_capacity(96);
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(v4) => summed.extend(v4.octets()),
                IpAddr::V6(v6) => summed.extend(v6.octets()),
            }
        }
        summed.extend(u32::try_from(content.len()).unwrap_or(0).to_be_bytes());
        summed.extend([0, 0, 0, protocol]);
        summed.extend(content);
        internet_checksum(&summed)
    }
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    let mut header = Vec::with_capacity(48);
    header.extend(from.to_be_bytes());
    header.extend(to.to_be_bytes());
    header
}

fn tcp(from: u16, to: u16, flags: u8, mark: Mark) -> Vec<u8> {
    let mut segment = ports(from, to);
    segment.extend(mark.index.to_be_bytes()); // Any sequence number will do.
    segment.extend([0; 4]);
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(mark.to_bytes());
    segment
}

fn udp(from: u16, to: u16, mark: Mark) -> Vec<u8> {
    let mut datagram = ports(from, to);
    datagram.extend([0, 16, 0, 0]);
    datagram.extend(mark.to_bytes());
    datagram
}

/// Reads the number of a packet that begins with its IP header; none if it is not one of ours, or an answer to one.
pub(super) fn number_of(packet: &[u8]) -> Option<u32> {
    match packet.first()? >> 4 {
        4 => number_in(true, *packet.get(9)?, packet.get(usize::from(packet.first()? & 15) * 4..)?),
        6 => match (*packet.get(6)?, packet.get(40..)?) {
            (DESTINATION_OPTIONS, rest) => number_in(false, *rest.first()?, rest.get(8..)?),
            (protocol, rest) => number_in(false, protocol, rest),
        },
        _ => None,
    }
}

/// Reads the number in what an IP packet of a family and protocol holds.
pub(super) fn number_in(is_ipv4: bool, protocol: u8, content: &[u8]) -> Option<u32> {
    let mark = match (protocol, is_ipv4) {
        (TCP, _) => Mark::read(content.get(usize::from(content.get(12)? >> 4) * 4..)?)?,
        (UDP, _) => Mark::read(content.get(8..)?)?,
        (SCTP, _) => Mark {
            call: Mark::read(content.get(16..)?)?.call,
            index: Mark::read(content.get(24..)?)?.index,
        },
        (1, true) | (58, false) => match content.first()? {
            8 | 128 => Mark::read(content.get(8..)?)?,
            _ => return None,
        },
        _ => Mark::read(content.get(4..)?)?,
    };
    (mark.call == CALL).then_some(mark.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_survives_every_kind_of_packet_and_every_checksum_is_right() {
        let contents = [
            Content::Tcp(40_000, 80, 2),
            Content::Udp(40_000, 53),
            Content::Sctp(40_000, 80),
            Content::Echo(7),
            Content::Bare(47),
        ];
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for content in contents {
                for between in [Between::Nothing, Between::Options] {
                    let packet = Packet {
                        source: source.parse().unwrap(),
                        destination: destination.parse().unwrap(),
                        content,
                        between,
                        number: 0x0102_0304,
                    };
                    let bytes = packet.to_bytes();
                    assert_eq!(number_of(&bytes), Some(0x0102_0304), "{packet:?}");
                    if source.contains('.') {
                        let header = usize::from(bytes[0] & 15) * 4;
                        assert_eq!(internet_checksum(&bytes[..header]), 0, "{packet:?}");
                        assert_eq!(usize::from(bytes[2]) << 8 | usize::from(bytes[3]), bytes.len());
                    } else {
                        let length = usize::from(bytes[4]) << 8 | usize::from(bytes[5]);
                        assert_eq!(length + 40, bytes.len());
                    }
                    if let Content::Tcp(..) | Content::Udp(..) = content {
                        let start = bytes.len() - if content == contents[0] { 28 } else { 16 };
                        let protocol = if content == contents[0] { TCP } else { UDP };
                        assert_eq!(packet.checksum(protocol, &bytes[start..]), 0, "{packet:?}");
                    }
                }
            }
        }
    }
}
