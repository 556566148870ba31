//! A node, with everybody else behind two links: many pods behind one, the rest of the world behind the other.
//!
//! ```text
//!   pods ──veth── node ──veth── world
//! ```
//!
//! Nobody there has a network stack: packets are made by hand, with any source, and whatever arrives is seen. That makes a
//! packet cost microseconds, so that a ruleset can be asked thousands of them; what a [`Lab`](super::Lab) has and this
//! has not are answers, unless they are made by hand too.

use alloc::collections::BTreeSet;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::UdpSocket;
use std::thread;

use super::error::Step as _;
use super::frame::{Packet, number_in, number_of};
use super::namespace::{Namespace, set};
use super::rtnetlink::{Batch, GATEWAY_MAC, HOST_MAC, LinkEnd, Route};
use super::topology::{Role, make_namespace, settle};
use super::{LabError, conntrack, sys};

/// The numbers of the links, the same at both of their ends.
const LINKS: [(Place, u32, &str); 2] = [(Place::Pods, 10, "pods"), (Place::World, 11, "world")];
const LOOPBACK: u32 = 1;
/// The next hop behind each link. Nobody has its hardware address, so that no stack beyond the link looks at a packet.
const NEXT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)),
];
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// The protocols of which the node hears what is meant for itself.
pub const HEARD: [u8; 11] = [1, 2, 6, 17, 47, 50, 58, 89, 103, 132, 253];

/// Where packets are sent from and seen.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "the three places there are")]
pub enum Place {
    /// The node itself.
    Node,
    /// The pods of the node.
    Pods,
    /// Everything else.
    World,
}

/// A node and two links. Dropping it removes it.
#[derive(Debug)]
pub struct Crowd {
    node: Namespace,
    links: [(Place, File); 2],
    /// Send what the node sends, by family.
    senders: [UdpSocket; 2],
    /// Receive what is meant for the node: whether of IPv4, and the protocol.
    receivers: Vec<(UdpSocket, bool, u8)>,
    own: BTreeSet<IpAddr>,
    pods: BTreeSet<IpAddr>,
}

impl Crowd {
    /// Builds a node without addresses and without pods.
    ///
    /// # Errors
    /// If the kernel refuses a step.
    pub fn build() -> Result<Self, LabError> {
        build().step(|| "build a node with two links".to_owned())
    }

    /// Gives the node these addresses and these pods, in place of those it had, and has it forget every connection.
    ///
    /// # Errors
    /// If the kernel refuses a step.
    pub fn settle(
        &mut self,
        own: BTreeSet<IpAddr>,
        pods: BTreeSet<IpAddr>,
    ) -> Result<(), LabError> {
        let mut batch = Batch::default();
        let [(_, to_pods, _), _] = LINKS;
        self.own.difference(&own).for_each(|address| batch.no_address(LOOPBACK, *address));
        self.pods.difference(&pods).for_each(|address| batch.no_route(*address));
        own.difference(&self.own).for_each(|address| batch.address(LOOPBACK, *address));
        for address in pods.difference(&self.pods) {
            let via = Some(next(*address));
            let to = Some(*address);
            batch.route(Route { to, via, interface: to_pods, source: None });
        }
        let done = self.node.run(|| {
            batch.send()?;
            conntrack::forget_all()
        });
        done.and_then(|done| done).step(|| "give the node its pods".to_owned())?;
        (self.own, self.pods) = (own, pods);
        Ok(())
    }

    /// Has the node forget every connection.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget_connections(&self) -> Result<(), LabError> {
        let done = self.node.run(conntrack::forget_all).and_then(|done| done);
        done.step(|| "have the node forget its connections".to_owned())
    }

    /// Returns what the node tracks of connections from or to a port, as `/proc/net/nf_conntrack` writes it: which end the
    /// kernel takes for the one that opened it, and what it is marked with.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn tracked(&self, port: u16) -> Result<Vec<String>, LabError> {
        let table = self.node.run(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
        let table = match table.and_then(|table| table) {
            // Nobody tracks connections.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            table => table.step(|| "read what connections there are".to_owned())?,
        };
        let port = format!("port={port} ");
        Ok(table.lines().filter(|line| line.contains(&port)).map(ToOwned::to_owned).collect())
    }

    /// Has connections that nobody answers or uses be forgotten after so many seconds.
    ///
    /// # Errors
    /// If the kernel does not track connections.
    pub fn forget_after(&self, seconds: u32) -> Result<(), LabError> {
        let settings = ["udp_timeout", "icmp_timeout", "icmpv6_timeout", "tcp_timeout_syn_sent"];
        let done = self.node.run(|| {
            settings.iter().try_for_each(|setting| {
                set(&format!("netfilter/nf_conntrack_{setting}"), &seconds.to_string())
            })
        });
        done.and_then(|done| done).step(|| "shorten the memory of the node".to_owned())
    }

    /// Runs work on a thread inside the node's namespace: where a backend applies its rules.
    ///
    /// # Errors
    /// If the kernel refuses a thread.
    pub fn in_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.node.run(work).step(|| "enter the node".to_owned())
    }

    /// Returns where an address is.
    #[must_use]
    pub fn place(&self, address: IpAddr) -> Place {
        if self.own.contains(&address) {
            Place::Node
        } else if self.pods.contains(&address) {
            Place::Pods
        } else {
            Place::World
        }
    }

    /// Sends a packet from where its source is. What the node itself may not send is lost like any other.
    ///
    /// # Errors
    /// If the kernel refuses for another reason than a policy.
    pub fn send(&self, packet: &Packet) -> Result<(), LabError> {
        let bytes = packet.to_bytes();
        let place = self.place(packet.source);
        let sent = match self.links.iter().find(|(link, _)| *link == place) {
            Some((_, link)) => send_frame(link, packet.source.is_ipv4(), &bytes),
            None => {
                let [v4, v6] = &self.senders;
                let sender = if packet.source.is_ipv4() { v4 } else { v6 };
                match sender.send_to(&bytes, SocketAddr::new(packet.destination, 0)) {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                    other => other.map(drop),
                }
            }
        };
        sent.step(|| format!("send {packet:?}"))
    }

    /// Hands out the numbers of the packets that have arrived since the last call, and where.
    pub fn receive(&self, mut arrived: impl FnMut(Place, u32)) {
        let mut buffer = [0; 512];
        for (place, link) in &self.links {
            let mut link = link;
            while let Ok(count) = link.read(&mut buffer) {
                // Behind the Ethernet header.
                if let Some(number) = buffer.get(14..count).and_then(number_of) {
                    arrived(*place, number);
                }
            }
        }
        for (socket, is_ipv4, protocol) in &self.receivers {
            while let Ok((count, _)) = socket.recv_from(&mut buffer) {
                let packet = buffer.get(..count).unwrap_or_default();
                // Those of IPv4 hand out the IP header too.
                let number =
                    if *is_ipv4 { number_of(packet) } else { number_in(false, *protocol, packet) };
                if let Some(number) = number {
                    arrived(Place::Node, number);
                }
            }
        }
    }
}

fn send_frame(link: &File, is_ipv4: bool, packet: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(packet.len() + 14);
    frame.extend(GATEWAY_MAC);
    frame.extend(HOST_MAC);
    frame.extend(if is_ipv4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(packet);
    let mut link = link;
    loop {
        match link.write(&frame) {
            Err(error) if is_full(&error) => thread::yield_now(),
            other => return other.map(drop),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn next(address: IpAddr) -> IpAddr {
    let [v4, v6] = NEXT;
    if address.is_ipv4() { v4 } else { v6 }
}

fn build() -> io::Result<Crowd> {
    let node = make_namespace(Role::Router)?;
    let outside = make_namespace(Role::End)?;
    node.run(|| {
        // Pods behind one link would be told of each other.
        set("ipv4/conf/default/send_redirects", "0")?;
        set("ipv4/conf/all/send_redirects", "0")
    })??;
    let any = |is_ipv4| {
        let address: IpAddr =
            if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        SocketAddr::new(address, 0)
    };
    outside.run(|| {
        let mut batch = Batch::default();
        for (_, number, name) in LINKS {
            let end = |mac| LinkEnd { name, interface: number, mac };
            batch.veth(&end(HOST_MAC), &end(GATEWAY_MAC), node.handle());
            batch.up(number);
        }
        batch.send()
    })??;
    node.run(|| {
        let mut batch = Batch::default();
        for (place, number, _) in LINKS {
            batch.up(number);
            for via in NEXT {
                batch.neighbour(number, via, NOBODY);
                if place == Place::World {
                    batch.route(Route {
                        to: None,
                        via: Some(via),
                        interface: number,
                        source: None,
                    });
                }
            }
        }
        batch.send()
    })??;
    settle([&node, &outside].into_iter(), core::time::Duration::from_secs(20))?;
    let links = outside.run(|| {
        let [pods, world] =
            LINKS.map(|(place, number, _)| sys::packet_socket(number).map(|link| (place, link)));
        Ok::<_, io::Error>([pods?, world?])
    })??;
    let (senders, receivers) = node.run(|| {
        let sender = |is_ipv4| sys::header_socket(any(is_ipv4)).map(UdpSocket::from);
        let mut receivers = Vec::new();
        for is_ipv4 in [true, false] {
            for protocol in HEARD {
                let socket = sys::protocol_socket(any(is_ipv4), protocol)?;
                receivers.push((UdpSocket::from(socket), is_ipv4, protocol));
            }
        }
        Ok::<_, io::Error>(([sender(true)?, sender(false)?], receivers))
    })??;
    Ok(Crowd { node, links, senders, receivers, own: BTreeSet::new(), pods: BTreeSet::new() })
}
