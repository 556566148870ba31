//! Has a node forget earlier packets of protocols without ports.
//!
//! Connection tracking knows such a "connection" by its two addresses and protocol alone, for ten minutes; a probe the
//! other way would count as the answer to the first one and pass as established. TCP, UDP, SCTP and ICMP probes need
//! none of this: each has a port or identifier of its own.

use core::net::IpAddr;
use std::fs;
use std::io;

use super::netlink::{self, Message};

/// Two addresses, and the protocol between them.
pub(super) type Tuple = (IpAddr, IpAddr, u8);

/// Forgets what was between these addresses, either way, in the namespace of the calling thread.
pub(super) fn forget(tuples: &[Tuple]) -> io::Result<()> {
    // Without rules that look at connections there is nothing to forget; asking would only load kernel modules.
    let tracked =
        fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap_or_default();
    if matches!(tracked.trim(), "" | "0") {
        return Ok(());
    }
    let messages: Vec<Message> = tuples
        .iter()
        .flat_map(|(from, to, number)| {
            [deletion(*from, *to, *number), deletion(*to, *from, *number)]
        })
        .collect();
    netlink::send(libc::NETLINK_NETFILTER, &messages, |error| {
        error.raw_os_error() == Some(libc::ENOENT)
    })
}

/// Forgets every connection of the calling thread's namespace.
pub(super) fn forget_all() -> io::Result<()> {
    const CT_DELETE: u16 = 1 << 8 | 2;
    let mut message = Message::new(CT_DELETE, 0);
    message.raw(&[0; 4]); // Of any family.
    netlink::send(libc::NETLINK_NETFILTER, &[message], |error| {
        // Nobody tracks connections.
        matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPROTONOSUPPORT | libc::ENOENT))
    })
}

/// `IPCTNL_MSG_CT_DELETE` of one tuple.
fn deletion(from: IpAddr, to: IpAddr, number: u8) -> Message {
    const CT_DELETE: u16 = 1 << 8 | 2;
    const CTA_TUPLE_ORIG: u16 = 1;
    const CTA_TUPLE_IP: u16 = 1;
    const CTA_TUPLE_PROTO: u16 = 2;
    const CTA_PROTO_NUM: u16 = 1;
    const CTA_PROTO_SRC_PORT: u16 = 2;
    const CTA_PROTO_DST_PORT: u16 = 3;
    // AF_INET and AF_INET6; IPv4 source and destination are attributes 1 and 2, IPv6 ones 3 and 4.
    let (family, source, destination) = if from.is_ipv4() { (2, 1, 2) } else { (10, 3, 4) };
    let mut message = Message::new(CT_DELETE, 0);
    message.raw(&[family, 0, 0, 0]);
    message.nested(CTA_TUPLE_ORIG, |tuple| {
        tuple.nested(CTA_TUPLE_IP, |ip| {
            ip.address(source, from);
            ip.address(destination, to);
        });
        tuple.nested(CTA_TUPLE_PROTO, |protocol| {
            protocol.attribute(CTA_PROTO_NUM, &[number]);
            // The kernel asks for ports where it knows the protocol (GRE) and ignores them elsewhere.
            protocol.attribute(CTA_PROTO_SRC_PORT, &[0, 0]);
            protocol.attribute(CTA_PROTO_DST_PORT, &[0, 0]);
        });
    });
    message
}
