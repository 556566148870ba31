//! The marks of the connections that the kernel tracks.

use alloc::vec::Vec;

use super::batch::Failure;
use super::message::{Attributes, DUMP, Received, Writer};
use super::socket::Socket;
use crate::script::Stamp;

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_GET`.
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
/// `CTA_TUPLE_ORIG`, `CTA_MARK`, `CTA_ZONE`, `CTA_MARK_MASK`.
const ORIGINAL: u16 = 1;
const MARK: u16 = 8;
const ZONE: u16 = 18;
const MASK: u16 = 21;

/// Which half of the generations is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Half {
    Lower,
    Upper,
    Both,
}

/// Takes generations out of the marks of all connections that carry one of a half, so that they can be used again.
///
/// # Errors
/// The connections cannot be listed.
pub(crate) fn clear(socket: &Socket, stamp: Stamp, half: Half) -> Result<(), Failure> {
    let bit = stamp.high_bit();
    let mut writer = Writer::default();
    writer.raw_message(GET, DUMP, 1, (0, 0), |writer| {
        let wanted = match half {
            Half::Lower => Some(0),
            Half::Upper => Some(bit),
            Half::Both => None,
        };
        if let Some(wanted) = wanted {
            writer.number(MARK, wanted);
            writer.number(MASK, bit);
        }
    });
    let mut found = Vec::new();
    socket.exchange(&writer, |message| {
        if let Some(connection) = Connection::read(&message, stamp.mask) {
            found.push(connection);
        }
    })?;
    for chunk in found.chunks(256) {
        let mut writer = Writer::default();
        for connection in chunk {
            writer.raw_message(NEW, 0, 0, (connection.family, 0), |writer| {
                writer.nested_bytes(ORIGINAL, &connection.original);
                if let Some(zone) = &connection.zone {
                    writer.bytes_attribute(ZONE, zone);
                }
                writer.number(MARK, 0);
                writer.number(MASK, stamp.mask);
            });
        }
        socket.tell(&writer)?;
    }
    Ok(())
}

/// What names a connection.
struct Connection {
    family: u8,
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
}

impl Connection {
    /// Reads a connection that carries a generation.
    fn read(message: &Received<'_>, mask: u32) -> Option<Self> {
        let attributes: Attributes<'_> = message.attributes();
        (attributes.number(MARK)? & mask != 0).then_some(())?;
        Some(Self {
            family: *message.body.first()?,
            original: attributes.find(ORIGINAL)?.to_vec(),
            zone: attributes.find(ZONE).map(<[u8]>::to_vec),
        })
    }
}
