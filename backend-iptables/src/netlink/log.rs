//! The kernel's log of packets: what `NFLOG` reports to a group.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;
use std::io;

use super::message::{ACK, ERROR, Writer, messages};
use super::socket::Socket;

/// `NFNL_SUBSYS_ULOG`, with `NFULNL_MSG_PACKET` and `NFULNL_MSG_CONFIG`.
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = 4 << 8 | 1;
/// `NFULA_CFG_CMD` and `NFULA_CFG_MODE`.
const COMMAND: u16 = 1;
const MODE: u16 = 2;
/// `NFULA_CFG_QTHRESH`.
const TOGETHER: u16 = 5;
/// `NFULNL_CFG_CMD_BIND`.
const BIND: u8 = 1;
/// `NFULNL_COPY_PACKET`.
const COPY: u8 = 2;
/// How much of a packet is reported: its headers.
const HEAD: u32 = 128;
/// `NFULA_PAYLOAD` and `NFULA_PREFIX`.
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
/// Room for reports that were not fetched yet.
const ROOM: i32 = 1 << 20;

/// A listener to one group, in one network namespace. A group has one listener.
#[derive(Debug)]
pub(crate) struct Log(Socket);

/// A packet as it was reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Packet {
    /// What the rule says of it.
    pub(crate) prefix: String,
    /// From the network header on, cut.
    pub(crate) bytes: Vec<u8>,
}

impl Log {
    /// Listens to a group, in the network namespace of the calling thread.
    pub(crate) fn open(group: u16) -> io::Result<Self> {
        let socket = Socket::open()?;
        // More room is only convenient.
        let _ = socket.enlarge(ROOM);
        // Each report is sent at once: a group that is full or a second old would be sent late.
        let one = 1_u32.to_be_bytes();
        for (number, content) in [(COMMAND, &[BIND][..]), (MODE, &mode()), (TOGETHER, &one)] {
            let mut writer = Writer::default();
            writer.message(CONFIG, ACK, 1, (0, group), |writer| {
                writer.bytes_attribute(number, content);
            });
            socket.send(writer.bytes())?;
            let datagram = socket.receive()?;
            for message in messages(&datagram).filter(|message| message.number == ERROR) {
                let number = message
                    .body
                    .first_chunk()
                    .map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes));
                if number != 0 {
                    return Err(io::Error::from_raw_os_error(number.saturating_neg()));
                }
            }
        }
        Ok(Self(socket))
    }

    /// Takes what was reported since the last call; returns how often reports were lost.
    pub(crate) fn take(&self, mut each: impl FnMut(Packet)) -> io::Result<u64> {
        let mut lost = 0;
        loop {
            let datagram = match self.0.poll() {
                Ok(Some(datagram)) => datagram,
                Ok(None) => return Ok(lost),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    lost += 1;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for message in messages(&datagram).filter(|message| message.number == PACKET) {
                let attributes = message.attributes();
                if let (Some(prefix), Some(bytes)) =
                    (attributes.text(PREFIX), attributes.find(PAYLOAD))
                {
                    each(Packet { prefix: prefix.to_owned(), bytes: bytes.to_owned() });
                }
            }
        }
    }
}

/// `struct nfulnl_msg_config_mode`: how much, in which way, and a byte of padding.
fn mode() -> [u8; 6] {
    let [a, b, c, d] = HEAD.to_be_bytes();
    [a, b, c, d, COPY, 0]
}
