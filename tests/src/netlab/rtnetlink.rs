//! The few rtnetlink messages that wire a lab: links, addresses, routes, neighbours.
//!
//! See rtnetlink(7). Interface numbers are chosen by us, so nothing has to be looked up.

use core::net::IpAddr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::sys;

/// Messages of one batch; bounded so that the answers fit the socket's buffer.
const BATCH: usize = 64;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const VETH_INFO_PEER: u16 = 1;
const NLA_F_NESTED: u16 = 1 << 15;
const IFF_RUNNING: u32 = 0x40;
const IFF_UP: u32 = 0x1;

/// The hardware address of every link's gateway end, as on a Calico node: each link is point to point.
pub(super) const GATEWAY_MAC: [u8; 6] = [0xee; 6];
/// The hardware address of every link's other end.
pub(super) const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// Where a route leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    /// The destination; `None` is the default route of the gateway's family.
    pub(super) to: Option<IpAddr>,
    /// The next hop; `None` means the destination is on the link.
    pub(super) via: Option<IpAddr>,
    /// The interface.
    pub(super) interface: u32,
    /// The address to send from where the sender does not say.
    pub(super) source: Option<IpAddr>,
}

/// One end of a veth pair.
#[derive(Debug)]
pub(super) struct LinkEnd<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Its number.
    pub(super) interface: u32,
    /// Its hardware address.
    pub(super) mac: [u8; 6],
}

/// Messages collected for the namespace of the thread that sends them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: Vec<Vec<u8>>,
}

impl Batch {
    /// Makes a veth pair with one end here and the other in another namespace.
    pub(super) fn veth(&mut self, here: &LinkEnd<'_>, there: &LinkEnd<'_>, namespace: &OwnedFd) {
        let mut message = Message::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        message.link_header(here.interface, 0);
        message.link_end(here);
        message.nested(libc::IFLA_LINKINFO, |info| {
            info.attribute(libc::IFLA_INFO_KIND, b"veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.link_header(there.interface, 0);
                    peer.link_end(there);
                    peer.attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.messages.push(message.bytes);
    }

    /// Brings an interface up.
    pub(super) fn up(&mut self, interface: u32) {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.link_header(interface, IFF_UP);
        self.messages.push(message.bytes);
    }

    /// Gives an interface an address, as the whole of its network.
    pub(super) fn address(&mut self, interface: u32, address: IpAddr) {
        let mut message = Message::new(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
        let flags = if address.is_ipv6() {
            0x02 /* IFA_F_NODAD */
        } else {
            0
        };
        message.bytes.extend([family(address), width(address), flags, libc::RT_SCOPE_UNIVERSE]);
        message.bytes.extend(interface.to_ne_bytes());
        message.address(libc::IFA_LOCAL, address);
        message.address(libc::IFA_ADDRESS, address);
        self.messages.push(message.bytes);
    }

    /// Adds a route; the next hop need not be on a network of the interface.
    pub(super) fn route(&mut self, route: Route) {
        const RTPROT_STATIC: u8 = 4;
        const RTNH_F_ONLINK: u32 = 4;
        let Some(of_family) = route.to.or(route.via) else { return };
        let mut message = Message::new(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
        let scope = if route.via.is_some() || of_family.is_ipv6() {
            libc::RT_SCOPE_UNIVERSE
        } else {
            libc::RT_SCOPE_LINK
        };
        let length = route.to.map_or(0, width);
        message.bytes.extend([
            family(of_family),
            length,
            0,
            0,
            libc::RT_TABLE_MAIN,
            RTPROT_STATIC,
            scope,
            libc::RTN_UNICAST,
        ]);
        message.bytes.extend(if route.via.is_some() { RTNH_F_ONLINK } else { 0 }.to_ne_bytes());
        if let Some(to) = route.to {
            message.address(libc::RTA_DST, to);
        }
        if let Some(via) = route.via {
            message.address(libc::RTA_GATEWAY, via);
        }
        if let Some(source) = route.source {
            message.address(libc::RTA_PREFSRC, source);
        }
        message.attribute(libc::RTA_OIF, &route.interface.to_ne_bytes());
        self.messages.push(message.bytes);
    }

    /// States the hardware address of a neighbour for good.
    pub(super) fn neighbour(&mut self, interface: u32, address: IpAddr, mac: [u8; 6]) {
        let mut message = Message::new(libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL);
        message.bytes.extend([family(address), 0, 0, 0]);
        message.bytes.extend(interface.to_ne_bytes());
        message.bytes.extend(libc::NUD_PERMANENT.to_ne_bytes());
        message.bytes.extend([0, 0]);
        message.address(libc::NDA_DST, address);
        message.attribute(libc::NDA_LLADDR, &mac);
        self.messages.push(message.bytes);
    }

    /// Sends everything into the namespace of the calling thread and waits for the kernel's consent.
    pub(super) fn send(self) -> io::Result<()> {
        let mut socket = sys::netlink(libc::NETLINK_ROUTE)?;
        for chunk in self.messages.chunks(BATCH) {
            let mut packet = Vec::new();
            for message in chunk {
                finish(message, &mut packet);
            }
            socket.write_all(&packet)?;
            await_acknowledgements(&mut socket, chunk.len())?;
        }
        Ok(())
    }
}

/// Makes a veth pair in the calling thread's namespace, to see whether that is possible.
pub(super) fn try_veth() -> io::Result<()> {
    let here: OwnedFd = File::open("/proc/thread-self/ns/net")?.into();
    let mut batch = Batch::default();
    let end = |name, interface| LinkEnd { name, interface, mac: HOST_MAC };
    batch.veth(&end("try0", 10), &end("try1", 11), &here);
    batch.send()
}

/// Returns whether every link of the calling thread's namespace carries packets and every address is usable.
pub(super) fn is_settled() -> io::Result<bool> {
    let links = dump(libc::RTM_GETLINK)?;
    let running = |message: &Vec<u8>| {
        word(message, 8).is_some_and(|flags| flags & IFF_UP == 0 || flags & IFF_RUNNING != 0)
    };
    if !links.iter().all(running) {
        return Ok(false);
    }
    let tentative = |message: &Vec<u8>| {
        message.get(2).is_some_and(|flags| flags & 0x40 /* IFA_F_TENTATIVE */ != 0)
    };
    Ok(!dump(libc::RTM_GETADDR)?.iter().any(tentative))
}

/// Returns the bodies of every message that answers a dump.
fn dump(kind: u16) -> io::Result<Vec<Vec<u8>>> {
    let mut socket = sys::netlink(libc::NETLINK_ROUTE)?;
    let mut message = Message::new(kind, NLM_F_DUMP);
    message.link_header(0, 0);
    let mut packet = Vec::new();
    finish(&message.bytes, &mut packet);
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

fn await_acknowledgements(socket: &mut File, mut missing: usize) -> io::Result<()> {
    while missing > 0 {
        for (kind, body) in receive(socket)? {
            if kind == NLMSG_ERROR {
                refusal(&body)?;
                missing = missing.saturating_sub(1);
            }
        }
    }
    Ok(())
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

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    word.try_into().ok().map(u32::from_ne_bytes)
}

/// Writes the length of a message and appends it to a packet.
fn finish(message: &[u8], packet: &mut Vec<u8>) {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    packet.extend(length.to_ne_bytes());
    packet.extend(message.iter().skip(4));
    packet.resize(packet.len().next_multiple_of(4), 0);
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    family.try_into().unwrap_or(0)
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A message under construction. INVARIANT (aligned): every header and attribute ends on four bytes.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        bytes.extend([0; 8]);
        Self { bytes }
    }

    /// `struct ifinfomsg`.
    fn link_header(&mut self, interface: u32, flags: u32) {
        self.bytes.extend([0; 4]);
        self.bytes.extend(interface.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes()); // The mask of flags to change.
    }

    fn link_end(&mut self, end: &LinkEnd<'_>) {
        let mut name = end.name.as_bytes().to_vec();
        name.push(0);
        self.attribute(libc::IFLA_IFNAME, &name);
        self.attribute(libc::IFLA_ADDRESS, &end.mac);
    }

    fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self { bytes: Vec::new() };
        fill(&mut inner);
        self.attribute(kind | NLA_F_NESTED, &inner.bytes);
    }
}
