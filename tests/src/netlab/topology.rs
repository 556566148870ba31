//! Wires the namespaces of a lab: pods to their node, nodes and external hosts to the fabric, all of it routed.
//!
//! ```text
//!   pod eth0 ──veth── p10 node eth0 ──veth── h10 fabric h11 ──veth── eth0 external
//! ```
//!
//! A pod reaches everything through a link-local gateway on its node's end of the veth, as in Calico; there is no
//! bridge, so every packet between two pods passes the forward path of both nodes (of one, on one node).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::io;
use std::thread;
use std::time::Instant;

use super::namespace::{Namespace, set};
use super::rtnetlink::{Batch, GATEWAY_MAC, HOST_MAC, LinkEnd, Route, is_settled};

/// The number of a host's own interface, `eth0`.
const ETH0: u32 = 2;
/// The number of the first interface of a gateway that leads to a host.
const FIRST_PORT: u32 = 10;
/// How many hosts find each other by neighbour discovery; the kernel keeps at most 1024 discovered neighbours for
/// the whole machine, so hosts after these have stated ones.
const DISCOVERING: usize = 200;

/// The gateway's addresses on every link.
const GATEWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
];
/// The addresses of a node on its link to the fabric, beside its own: there even if it has none of a family.
const NODE_UPLINK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 1, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)),
];

/// A host to be attached to a gateway: a pod to its node, a node or an external host to the fabric.
#[derive(Debug)]
pub(super) struct Attachment<'a> {
    /// The host's namespace.
    pub(super) host: &'a Namespace,
    /// What the host owns.
    pub(super) addresses: &'a [IpAddr],
    /// What lies behind the host: the pods of a node.
    pub(super) behind: Vec<IpAddr>,
    /// What the host is.
    pub(super) role: Role,
}

impl<'a> Attachment<'a> {
    /// A pod, or a host outside the cluster.
    pub(super) const fn end(host: &'a Namespace, addresses: &'a [IpAddr]) -> Self {
        Self { host, addresses, behind: Vec::new(), role: Role::End }
    }

    /// A node with its pods behind it.
    pub(super) const fn router(
        host: &'a Namespace,
        addresses: &'a [IpAddr],
        behind: Vec<IpAddr>,
    ) -> Self {
        Self { host, addresses, behind, role: Role::Router }
    }
}

/// What a namespace is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// A pod or an external host: an end of conversations.
    End,
    /// A node or the fabric: forwards packets.
    Router,
}

/// Makes a namespace ready: settings first, because links inherit them at their creation.
pub(super) fn make_namespace(role: Role) -> io::Result<Namespace> {
    let namespace = Namespace::create()?;
    namespace.run(|| {
        for conf in ["default", "all"] {
            set(&format!("ipv4/conf/{conf}/rp_filter"), "0")?;
            set(&format!("ipv6/conf/{conf}/accept_dad"), "0")?;
            set(&format!("ipv6/conf/{conf}/accept_ra"), "0")?;
            set(&format!("ipv6/conf/{conf}/disable_ipv6"), "0")?;
        }
        // A refusal must be seen for every probe that was refused, not for some each second.
        set("ipv4/icmp_ratelimit", "0")?;
        set("ipv6/icmp/ratelimit", "0")?;
        match role {
            Role::End => {}
            Role::Router => {
                set("ipv4/ip_forward", "1")?;
                set("ipv6/conf/all/forwarding", "1")?;
                set("ipv6/conf/default/forwarding", "1")?;
            }
        }
        let mut batch = Batch::default();
        batch.up(1); // Loopback.
        batch.send()
    })??;
    Ok(namespace)
}

/// Attaches hosts to their gateway. `sends_from` is the gateway's own address per family, if it has one.
pub(super) fn attach(
    gateway: &Namespace,
    sends_from: &[IpAddr],
    hosts: &[Attachment<'_>],
) -> io::Result<()> {
    let mut gateway_side = Batch::default();
    for (index, host) in hosts.iter().enumerate() {
        let port = u32::try_from(index).map_err(io::Error::other)?.saturating_add(FIRST_PORT);
        wire_host(gateway, host, port, index)?;
        gateway_side.up(port);
        gateway_side.patient_discovery(port);
        for address in GATEWAY {
            gateway_side.address(port, address);
        }
        for address in host.addresses {
            let source = sends_from.iter().copied().find(|own| own.is_ipv4() == address.is_ipv4());
            gateway_side.route(Route { to: Some(*address), via: None, interface: port, source });
            if is_stated(*address, index) {
                gateway_side.neighbour(port, *address, HOST_MAC);
            }
        }
        if host.role == Role::Router {
            for uplink in NODE_UPLINK {
                gateway_side.neighbour(port, uplink, HOST_MAC);
            }
        }
        for address in &host.behind {
            let via = same_family(NODE_UPLINK, *address);
            gateway_side.route(Route {
                to: Some(*address),
                via: Some(via),
                interface: port,
                source: None,
            });
        }
    }
    gateway.run(|| gateway_side.send())?
}

/// Makes the veth pair from the host's namespace and configures the host's end.
fn wire_host(
    gateway: &Namespace,
    host: &Attachment<'_>,
    port: u32,
    index: usize,
) -> io::Result<()> {
    let prefix = match host.role {
        Role::End => "p",
        Role::Router => "n",
    };
    let name = format!("{prefix}{port}");
    host.host.run(|| {
        let mut batch = Batch::default();
        batch.veth(
            &LinkEnd { name: "eth0", interface: ETH0, mac: HOST_MAC },
            &LinkEnd { name: &name, interface: port, mac: GATEWAY_MAC },
            gateway.handle(),
        );
        batch.up(ETH0);
        batch.patient_discovery(ETH0);
        for address in host.addresses {
            batch.address(ETH0, *address);
        }
        if host.role == Role::Router {
            for address in NODE_UPLINK {
                batch.address(ETH0, address);
            }
        }
        for via in GATEWAY {
            let source = host.addresses.iter().copied().find(|own| own.is_ipv4() == via.is_ipv4());
            if is_stated(via, index) {
                batch.neighbour(ETH0, via, GATEWAY_MAC);
            }
            batch.route(Route { to: None, via: Some(via), interface: ETH0, source });
        }
        batch.send()
    })?
}

/// Waits until the links of every namespace carry packets and the addresses can be used.
pub(super) fn settle<'a>(
    namespaces: impl Iterator<Item = &'a Namespace>,
    patience: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    for namespace in namespaces {
        namespace.run(|| {
            while !is_settled()? {
                if Instant::now() > deadline {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "links or addresses stay unusable",
                    ));
                }
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        })??;
    }
    Ok(())
}

/// IPv4 neighbours are all stated, since policy never sees ARP; IPv6 ones are discovered, since policy sees that
/// (NP-115) and must let it pass.
fn is_stated(address: IpAddr, index: usize) -> bool {
    address.is_ipv4() || index >= DISCOVERING
}

fn same_family([v4, v6]: [IpAddr; 2], other: IpAddr) -> IpAddr {
    if other.is_ipv4() { v4 } else { v6 }
}
