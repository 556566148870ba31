//! Numbers of the kernel's that move when somebody changes its rules.

use std::io;

use super::message::{Writer, messages};
use super::socket::Socket;

/// `NFNL_SUBSYS_NFTABLES`, with `NFT_MSG_NEWGEN` and `NFT_MSG_GETGEN`.
const NEW: u16 = 10 << 8 | 15;
const GET: u16 = 10 << 8 | 16;
/// `NFTA_GEN_ID`.
const ID: u16 = 1;

/// Returns the generation of nf_tables, which every change of anybody's raises.
pub(crate) fn generation(socket: &Socket) -> io::Result<u32> {
    let mut writer = Writer::default();
    writer.message(GET, 0, 1, (0, 0), |_| {});
    socket.send(writer.bytes())?;
    let datagram = socket.receive()?;
    let answer = messages(&datagram).find(|message| message.number == NEW);
    let id = answer.and_then(|message| message.attributes().number(ID));
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Has nf_tables free what was deleted from it, which it does in its own time, and with it the sets that this used: when a
/// socket to it is closed, the kernel waits for that. One that does not frees it soon after.
pub(crate) fn freed() {
    if let Ok(socket) = Socket::open() {
        // Only a socket that was used is closed in that way.
        let _ = generation(&socket);
    }
}
