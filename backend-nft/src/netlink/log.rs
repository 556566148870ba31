//! Packets that rules report: netfilter's log (NFLOG).

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::io;

use netpol_core::ir::{Flow, Transport};
use netpol_core::model::Protocol;

use super::batch::Failure;
use super::message::{ACK, Attributes, ERROR, Writer, messages};
use super::socket::Socket;

/// `NFNL_SUBSYS_ULOG` with `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG`.
const PACKET: u16 = 4 << 8;
const CONFIGURE: u16 = 4 << 8 | 1;
/// Enough of a packet for its addresses and ports behind IPv6 extension headers, in bytes.
const COPIED: u32 = 256;
/// Room for what was not read yet, in bytes.
const ROOM: i32 = 1 << 20;

/// Hears what rules report to one group.
#[derive(Debug)]
pub(crate) struct Log {
    socket: Socket,
    next: Option<u32>,
}

/// One reported packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reported {
    /// What the rule begins its reports with.
    pub(crate) prefix: String,
    pub(crate) flow: Flow,
    pub(crate) source_port: Option<u16>,
}

impl Log {
    /// Listens to a group from now on. Only one can at a time.
    pub(crate) fn open(group: u16) -> io::Result<Self> {
        let socket = Socket::open()?;
        socket.make_room(ROOM);
        let ask = |flags, kind, value: &[u8]| {
            let mut writer = Writer::default();
            writer.raw_message(CONFIGURE, flags, 1, (0, group), |writer| {
                writer.bytes_attribute(kind, value);
            });
            socket.send(writer.bytes())?;
            let datagram = socket.receive().map_err(|_| io::Error::from(io::ErrorKind::Other))?;
            let answer = messages(&datagram).find(|message| message.number == ERROR);
            match answer.as_ref().and_then(super::batch::refusal) {
                Some(refusal) => Err(refusal.error),
                None => Ok(()),
            }
        };
        ask(ACK, 1, &[1])?; // NFULNL_CFG_CMD_BIND
        let [a, b, c, d] = COPIED.to_be_bytes();
        ask(ACK, 2, &[a, b, c, d, 2, 0])?; // NFULNL_COPY_PACKET
        ask(ACK, 4, &5_u32.to_be_bytes())?; // Told after 50 ms at the latest,
        ask(ACK, 5, &32_u32.to_be_bytes())?; // or when there are 32.
        ask(ACK, 6, &1_u16.to_be_bytes())?; // NFULNL_CFG_F_SEQ
        Ok(Self { socket, next: None })
    }

    /// Takes in what was reported since the last time, and how many reports were lost. Does not wait.
    pub(crate) fn hear(&mut self) -> Result<(Vec<Reported>, u64), Failure> {
        let (mut reported, mut lost) = (Vec::new(), 0);
        loop {
            let datagram = match self.socket.receive_now() {
                Ok(Some(datagram)) => datagram,
                Ok(None) => return Ok((reported, lost)),
                // There was no room; the numbers of those that follow say how many it were.
                Err(Failure::Outdated) => continue,
                Err(failure) => return Err(failure),
            };
            for message in messages(&datagram).filter(|message| message.number == PACKET) {
                let attributes = message.attributes();
                if let Some(number) = attributes.number(12) {
                    let missed = self.next.map_or(0, |next| number.wrapping_sub(next));
                    lost += u64::from(missed);
                    self.next = Some(number.wrapping_add(1));
                }
                match read(attributes) {
                    Some(report) => reported.push(report),
                    None => lost += 1,
                }
            }
        }
    }
}

fn read(attributes: Attributes<'_>) -> Option<Reported> {
    let prefix = attributes.text(10)?.into();
    let (flow, source_port) = packet(attributes.find(9)?)?;
    Some(Reported { prefix, flow, source_port })
}

/// Reads the ends of a packet; fragments behind the first have no ports and are none.
fn packet(bytes: &[u8]) -> Option<(Flow, Option<u16>)> {
    let (source, destination, number, transport): (IpAddr, IpAddr, _, _) = match bytes.first()? >> 4
    {
        4 => {
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 4] = *bytes.get(at..)?.first_chunk()?;
                Some(Ipv4Addr::from(octets).into())
            };
            let length = usize::from(bytes.first()? & 0xf) * 4;
            (address(12)?, address(16)?, *bytes.get(9)?, bytes.get(length..)?)
        }
        6 => {
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = *bytes.get(at..)?.first_chunk()?;
                Some(Ipv6Addr::from(octets).into())
            };
            let (mut number, mut rest) = (*bytes.get(6)?, bytes.get(40..)?);
            while matches!(number, 0 | 43 | 44 | 51 | 60) {
                let words = usize::from(*rest.get(1)?);
                let length = match number {
                    44 => 8,
                    51 => (words + 2) * 4,
                    _ => (words + 1) * 8,
                };
                (number, rest) = (*rest.first()?, rest.get(length..)?);
            }
            (address(8)?, address(24)?, number, rest)
        }
        _ => return None,
    };
    let port = |at: usize| transport.get(at..)?.first_chunk().copied().map(u16::from_be_bytes);
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number);
    Some(match protocol {
        Some(protocol) => {
            let transport = Transport::Port(protocol, port(2)?);
            (Flow::new(source, destination, transport), port(0))
        }
        None => (Flow::new(source, destination, Transport::Other(number)), None),
    })
}

#[cfg(test)]
mod tests {
    use netpol_core::ir::{Flow, Transport};
    use netpol_core::model::Protocol;

    use super::packet;

    #[test]
    fn ports_are_found_behind_options_and_extension_headers() {
        // IPv4 with one word of options, UDP 9 → 53.
        let mut four =
            vec![0x46, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1];
        four.extend([0, 9, 0, 53, 0, 8, 0, 0]);
        let ends = |from: &str, to: &str| (from.parse().unwrap(), to.parse().unwrap());
        let (from, to) = ends("10.0.0.1", "10.0.0.2");
        let flow = Flow::new(from, to, Transport::Port(Protocol::Udp, 53));
        assert_eq!(packet(&four), Some((flow, Some(9))));
        // IPv6 with destination options and a fragment header, TCP 9 → 80.
        let mut six = vec![0x60, 0, 0, 0, 0, 24, 60, 64];
        let (from, to) = ends("fd00::1", "fd00::2");
        let octets = |text: &str| text.parse::<core::net::Ipv6Addr>().unwrap().octets();
        six.extend(octets("fd00::1"));
        six.extend(octets("fd00::2"));
        six.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        six.extend([6, 0, 0, 1, 0, 0, 0, 1]);
        six.extend([0, 9, 0, 80]);
        let flow = Flow::new(from, to, Transport::Port(Protocol::Tcp, 80));
        assert_eq!(packet(&six), Some((flow, Some(9))));
        for end in 0..six.len() {
            assert_eq!(packet(&six[..end]), None);
        }
    }
}
