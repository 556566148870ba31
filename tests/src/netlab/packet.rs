//! The packets that the kernel does not make for us, and the mark by which a received one is known as ours.

use core::net::IpAddr;

/// Marks one probe: which call of the lab sent it, and its index there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mark {
    pub(super) call: u32,
    pub(super) index: u32,
}

impl Mark {
    /// The mark as it is written into a packet.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let [a, b, c, d] = self.call.to_be_bytes();
        let [e, f, g, h] = self.index.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// Reads a mark at the beginning of a payload.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        Some(Self { call: word(payload, 0)?, index: word(payload, 4)? })
    }
}

/// What a raw socket has received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Received {
    /// The probe itself.
    Probe(Mark),
    /// The answer to it.
    Answer(Mark),
}

/// Returns whether a protocol is a plain payload to IP: not one of the protocols with probes of their own, not an IPv6
/// extension header, and not what raw sockets take for themselves (255).
pub(super) const fn is_bare_protocol(number: u8) -> bool {
    !matches!(number, 0 | 1 | 6 | 17 | 43 | 44 | 51 | 58 | 59 | 60 | 132 | 135 | 255)
}

/// An echo request. The kernel fills in the checksum of ICMPv6.
pub(super) fn echo_request(to: IpAddr, identifier: u16, mark: Mark) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(mark.to_bytes());
    if to.is_ipv4() {
        let checksum = internet_checksum(&packet).to_be_bytes();
        packet.splice(2..4, checksum);
    }
    packet
}

/// An SCTP INIT (RFC 9260, 3.3.2); the mark is in its initiate tag and its first TSN.
pub(super) fn sctp_init(source: u16, destination: u16, mark: Mark) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(source.to_be_bytes());
    packet.extend(destination.to_be_bytes());
    packet.extend([0; 8]); // The verification tag of an INIT is 0; the checksum follows below.
    packet.extend([1, 0, 0, 20]); // INIT, no flags, 20 bytes.
    packet.extend(mark.call.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes()); // The receiver window.
    packet.extend([0, 1, 0, 1]); // One stream each way.
    packet.extend(mark.index.to_be_bytes());
    let checksum = crc32c(&packet).to_le_bytes();
    packet.splice(8..12, checksum);
    packet
}

/// A packet of a protocol that nobody understands; the four zero bytes make it a valid GRE header too.
pub(super) fn bare(mark: Mark) -> Vec<u8> {
    let mut packet = vec![0; 4];
    packet.extend(mark.to_bytes());
    packet
}

/// Reads what a raw socket has received. IPv4 ones hand out the IP header too.
pub(super) fn read(packet: &[u8], protocol: u8, on: IpAddr) -> Option<Received> {
    let payload = match on {
        IpAddr::V4(_) => packet.get(usize::from(packet.first()? & 15) * 4..)?,
        IpAddr::V6(_) => packet,
    };
    match protocol {
        1 | 58 => match payload.first()? {
            8 | 128 => Mark::read(payload.get(8..)?).map(Received::Probe),
            0 | 129 => Mark::read(payload.get(8..)?).map(Received::Answer),
            _ => None,
        },
        132 => Some(Received::Probe(Mark { call: word(payload, 16)?, index: word(payload, 28)? })),
        _ => Mark::read(payload.get(4..)?).map(Received::Probe),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// RFC 1071.
pub(super) fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum = sum.wrapping_add(u16::from_be_bytes([high, low]).into());
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// CRC-32C, bit by bit (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_gives_the_check_value_of_its_definition() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_echo_request_with_its_checksum_sums_to_zero() {
        let packet =
            echo_request("10.0.0.1".parse().unwrap(), 7, Mark { call: 0xdead_beef, index: 12 });
        assert_eq!(internet_checksum(&packet), 0);
    }

    #[test]
    fn a_mark_survives_each_kind_of_packet() {
        let mark = Mark { call: 0x0102_0304, index: 77 };
        let on = "fd00::1".parse().unwrap();
        assert_eq!(read(&sctp_init(1, 80, mark), 132, on), Some(Received::Probe(mark)));
        assert_eq!(read(&bare(mark), 47, on), Some(Received::Probe(mark)));
        assert_eq!(read(&echo_request(on, 1, mark), 58, on), Some(Received::Probe(mark)));
    }
}
