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
