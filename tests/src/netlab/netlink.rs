//! Netlink messages: how they are written, sent and answered. See netlink(7).

use core::net::IpAddr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};

use super::sys;

/// Messages sent before their answers are read; bounded so that those fit the socket's buffer.
const BATCH: usize = 64;

pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_EXCL: u16 = 0x200;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;

/// Sends messages into the namespace of the calling thread and waits for the kernel's word on each; the first refusal
/// is returned unless `tolerated`.
pub(super) fn send(
    family: libc::c_int,
    messages: &[Message],
    tolerated: fn(&io::Error) -> bool,
) -> io::Result<()> {
    let mut socket = sys::netlink(family)?;
    for chunk in messages.chunks(BATCH) {
        let mut packet = Vec::new();
        for message in chunk {
            message.finish(&mut packet);
        }
        socket.write_all(&packet)?;
        let mut missing = chunk.len();
        while missing > 0 {
            for (_, body) in
                receive(&mut socket)?.into_iter().filter(|(kind, _)| *kind == NLMSG_ERROR)
            {
                refusal(&body)
                    .or_else(|error| if tolerated(&error) { Ok(()) } else { Err(error) })?;
                missing = missing.saturating_sub(1);
            }
        }
    }
    Ok(())
}

/// Returns the bodies of every message that answers a dump.
pub(super) fn dump(family: libc::c_int, kind: u16, header: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut socket = sys::netlink(family)?;
    let mut message = Message::new(kind, NLM_F_DUMP);
    message.raw(header);
    let mut packet = Vec::new();
    message.finish(&mut packet);
    socket.write_all(&packet)?;
    let mut bodies = Vec::new();
    loop {
        for (kind, body) in receive(&mut socket)? {
            match kind {
                NLMSG_DONE => return Ok(bodies),
                NLMSG_ERROR => refusal(&body)?,
                _ => bodies.push(body),
            }
        }
    }
}

fn refusal(body: &[u8]) -> io::Result<()> {
    match word(body, 0).map_or(0, u32::cast_signed) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

/// Reads one datagram and cuts it into messages: kind and body.
fn receive(socket: &mut File) -> io::Result<Vec<(u16, Vec<u8>)>> {
    let mut buffer = vec![0; 65_536];
    let count = socket.read(&mut buffer)?;
    buffer.truncate(count);
    let mut rest = buffer.as_slice();
    let mut messages = Vec::new();
    while let (Some(length), Some(kind)) =
        (word(rest, 0), rest.get(4..6).and_then(|kind| kind.try_into().ok()))
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = rest.get(16..length) else { break };
        messages.push((u16::from_ne_bytes(kind), body.to_vec()));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

/// Reads four bytes in the machine's order.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    word.try_into().ok().map(u32::from_ne_bytes)
}

/// A message under construction. INVARIANT (aligned): every header and attribute ends on four bytes.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Begins a message that asks for an answer.
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        bytes.extend([0; 8]);
        Self { bytes }
    }

    /// Adds bytes as they are: the header of a kind of message, a multiple of four.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Adds an attribute that is an address.
    pub(super) fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    /// Adds an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute made of attributes.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self { bytes: Vec::new() };
        fill(&mut inner);
        self.attribute(kind | NLA_F_NESTED, &inner.bytes);
    }

    /// Appends the message, with its length, to a packet.
    fn finish(&self, packet: &mut Vec<u8>) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        packet.extend(length.to_ne_bytes());
        packet.extend(self.bytes.iter().skip(4));
        packet.resize(packet.len().next_multiple_of(4), 0);
    }
}
