//! The few rtnetlink messages that wire a lab: links, addresses, routes, neighbours.
//!
//! See rtnetlink(7). Interface numbers are chosen by us, so nothing has to be looked up.

use core::net::IpAddr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::netlink::{self, Message, NLM_F_CREATE, NLM_F_EXCL, word};

const VETH_INFO_PEER: u16 = 1;
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
    messages: Vec<Message>,
}

impl Batch {
    /// Makes a veth pair with one end here and the other in another namespace.
    pub(super) fn veth(&mut self, here: &LinkEnd<'_>, there: &LinkEnd<'_>, namespace: &OwnedFd) {
        let mut message = Message::new(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        link_header(&mut message, here.interface, 0);
        link_end(&mut message, here);
        message.nested(libc::IFLA_LINKINFO, |info| {
            info.attribute(libc::IFLA_INFO_KIND, b"veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    link_header(peer, there.interface, 0);
                    link_end(peer, there);
                    peer.attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.messages.push(message);
    }

    /// Brings an interface up.
    pub(super) fn up(&mut self, interface: u32) {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        link_header(&mut message, interface, IFF_UP);
        self.messages.push(message);
    }

    /// Gives an interface an address, as the whole of its network.
    pub(super) fn address(&mut self, interface: u32, address: IpAddr) {
        let mut message = Message::new(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
        let flags = if address.is_ipv6() {
            0x02 /* IFA_F_NODAD */
        } else {
            0
        };
        message.raw(&[family(address), width(address), flags, libc::RT_SCOPE_UNIVERSE]);
        message.raw(&interface.to_ne_bytes());
        message.address(libc::IFA_LOCAL, address);
        message.address(libc::IFA_ADDRESS, address);
        self.messages.push(message);
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
        message.raw(&[
            family(of_family),
            length,
            0,
            0,
            libc::RT_TABLE_MAIN,
            RTPROT_STATIC,
            scope,
            libc::RTN_UNICAST,
        ]);
        let flags = if route.via.is_some() { RTNH_F_ONLINK } else { 0 };
        message.raw(&flags.to_ne_bytes());
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
        self.messages.push(message);
    }

    /// Takes an address away again.
    pub(super) fn no_address(&mut self, interface: u32, address: IpAddr) {
        let mut message = Message::new(libc::RTM_DELADDR, 0);
        message.raw(&[family(address), width(address), 0, libc::RT_SCOPE_UNIVERSE]);
        message.raw(&interface.to_ne_bytes());
        message.address(libc::IFA_LOCAL, address);
        message.address(libc::IFA_ADDRESS, address);
        self.messages.push(message);
    }

    /// Takes the route to an address away again.
    pub(super) fn no_route(&mut self, to: IpAddr) {
        let mut message = Message::new(libc::RTM_DELROUTE, 0);
        let anywhere = 255; // RT_SCOPE_NOWHERE matches every scope.
        message.raw(&[family(to), width(to), 0, 0, libc::RT_TABLE_MAIN, 0, anywhere, 0]);
        message.raw(&[0; 4]);
        message.address(libc::RTA_DST, to);
        self.messages.push(message);
    }

    /// States the hardware address of a neighbour for good.
    pub(super) fn neighbour(&mut self, interface: u32, address: IpAddr, mac: [u8; 6]) {
        let mut message = Message::new(libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL);
        message.raw(&[family(address), 0, 0, 0]);
        message.raw(&interface.to_ne_bytes());
        message.raw(&libc::NUD_PERMANENT.to_ne_bytes());
        message.raw(&[0, 0]);
        message.address(libc::NDA_DST, address);
        message.attribute(libc::NDA_LLADDR, &mac);
        self.messages.push(message);
    }

    /// Lets an interface keep many packets for an IPv6 neighbour that is still being discovered: many flows may begin at
    /// once.
    pub(super) fn patient_discovery(&mut self, interface: u32) {
        const RTM_SETNEIGHTBL: u16 = 67;
        const NDTA_NAME: u16 = 1;
        const NDTA_PARMS: u16 = 6;
        const NDTPA_IFINDEX: u16 = 1;
        const NDTPA_QUEUE_LENBYTES: u16 = 14;
        let mut message = Message::new(RTM_SETNEIGHTBL, 0);
        message.raw(&[10, 0, 0, 0]); // AF_INET6
        message.attribute(NDTA_NAME, b"ndisc_cache\0");
        message.nested(NDTA_PARMS, |parameters| {
            parameters.attribute(NDTPA_IFINDEX, &interface.to_ne_bytes());
            parameters.attribute(NDTPA_QUEUE_LENBYTES, &(8_u32 << 20).to_ne_bytes());
        });
        self.messages.push(message);
    }

    /// Sends everything into the namespace of the calling thread and waits for the kernel's consent.
    pub(super) fn send(self) -> io::Result<()> {
        netlink::send(libc::NETLINK_ROUTE, &self.messages, |_| false)
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
    let links = netlink::dump(libc::NETLINK_ROUTE, libc::RTM_GETLINK, &[0; 16])?;
    let running = |message: &Vec<u8>| {
        word(message, 8).is_some_and(|flags| flags & IFF_UP == 0 || flags & IFF_RUNNING != 0)
    };
    if !links.iter().all(running) {
        return Ok(false);
    }
    let tentative = |message: &Vec<u8>| {
        message.get(2).is_some_and(|flags| flags & 0x40 /* IFA_F_TENTATIVE */ != 0)
    };
    Ok(!netlink::dump(libc::NETLINK_ROUTE, libc::RTM_GETADDR, &[0; 16])?.iter().any(tentative))
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    family.try_into().unwrap_or(0)
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `struct ifinfomsg`.
fn link_header(message: &mut Message, interface: u32, flags: u32) {
    message.raw(&[0; 4]);
    message.raw(&interface.to_ne_bytes());
    message.raw(&flags.to_ne_bytes());
    message.raw(&flags.to_ne_bytes()); // The mask of flags to change.
}

fn link_end(message: &mut Message, end: &LinkEnd<'_>) {
    let mut name = end.name.as_bytes().to_vec();
    name.push(0);
    message.attribute(libc::IFLA_IFNAME, &name);
    message.attribute(libc::IFLA_ADDRESS, &end.mac);
}
