//! Which interface leads to a pod.

use alloc::collections::BTreeSet;
use core::fmt::Debug;
use core::net::IpAddr;
use std::io;

use netpol_core::model::ObjectRef;
use netpol_core::net::PrefixSet;

use super::super::conntrack::Message;
use super::netlink::{DUMP, ask, attribute, number};

/// An interface, on the node's side, that packets from and to a pod pass.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "embedders write it as a literal")]
pub struct Interface {
    /// Its number in the network namespace of the node.
    pub index: u32,
    /// It leads to this pod and nobody else: what comes out of it and goes back into it is of the pod's own (NP-121).
    pub is_alone: bool,
}

/// Why a pod's interface is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// No route that is more than the default leads to the address.
    #[error("no route of its own leads to `{0}`")]
    NoRoute(IpAddr),
    /// What the route leads to is not what a pod is at the other end of: a bridge, say, behind which its own interface is.
    #[error("interface {index}, to which the route to `{address}` leads, is of kind `{kind}`")]
    Kind {
        /// The pod's address.
        address: IpAddr,
        /// The interface.
        index: u32,
        /// What it is; empty for one of hardware.
        kind: String,
    },
    /// The kernel does not say.
    #[error("the kernel does not tell the way to `{address}`")]
    Kernel {
        /// The pod's address.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not say what routes there are.
    #[error("the kernel does not tell the routes")]
    Routes(#[source] io::Error),
    /// No veth pair leads to an interface that has the address.
    #[error("no veth pair leads to `{0}`")]
    NoPeer(IpAddr),
    /// The kernel does not say what interfaces there are.
    #[error("the kernel does not tell the interfaces")]
    Links(#[source] io::Error),
    /// The embedder does not know.
    #[error("{0}")]
    Unknown(String),
}

/// Knows which interfaces lead to pods. Called in the network namespace of the node.
pub trait Interfaces: Debug + Send + Sync {
    /// Returns the interfaces of a pod with these addresses.
    ///
    /// # Errors
    /// If one cannot be told.
    fn of(&self, pod: &ObjectRef, addresses: &[IpAddr]) -> Result<Vec<Interface>, InterfaceError>;

    /// Strict mode: returns the interfaces of whoever else has addresses in these ranges.
    ///
    /// # Errors
    /// If one cannot be told.
    fn of_unknown(&self, ranges: &PrefixSet) -> Result<Vec<u32>, InterfaceError>;
}

/// Looks where the routes to a pod's addresses lead: to a veth pair, its other end in the pod.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has nothing to say")]
pub struct ByRoute;

impl Interfaces for ByRoute {
    fn of(&self, _: &ObjectRef, addresses: &[IpAddr]) -> Result<Vec<Interface>, InterfaceError> {
        let mut found: Vec<Interface> = Vec::new();
        for address in addresses {
            let interface = by_route(*address)?;
            if found.iter().all(|other| other.index != interface.index) {
                found.push(interface);
            }
        }
        Ok(found)
    }

    fn of_unknown(&self, ranges: &PrefixSet) -> Result<Vec<u32>, InterfaceError> {
        let mut found = BTreeSet::new();
        for family in [2, 10] {
            for (address, index) in routes(family).map_err(InterfaceError::Routes)? {
                if ranges.contains(address) && !found.contains(&index) {
                    let kind =
                        kind(index).map_err(|source| InterfaceError::Kernel { address, source })?;
                    if kind != "veth" {
                        return Err(InterfaceError::Kind { address, index, kind });
                    }
                    found.insert(index);
                }
            }
        }
        Ok(found.into_iter().collect())
    }
}

fn by_route(address: IpAddr) -> Result<Interface, InterfaceError> {
    let failed = |source| InterfaceError::Kernel { address, source };
    let Some(Route { interface, is_host, is_direct }) = route(address).map_err(failed)? else {
        return Err(InterfaceError::NoRoute(address));
    };
    let kind = kind(interface).map_err(failed)?;
    if kind != "veth" {
        return Err(InterfaceError::Kind { address, index: interface, kind });
    }
    Ok(Interface { index: interface, is_alone: is_host && is_direct })
}

struct Route {
    interface: u32,
    /// It is of this address alone.
    is_host: bool,
    /// No other host is on the way.
    is_direct: bool,
}

const GET_ROUTE: u16 = 26;
const UNICAST: u8 = 1;
const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;

/// Returns the route that the kernel takes to an address; none if it is the default or leads nowhere.
fn route(address: IpAddr) -> io::Result<Option<Route>> {
    /// `RTM_F_FIB_MATCH`: the route, not what it comes to for this address.
    const MATCH: u32 = 0x2000;
    const GATEWAY: u16 = 5;
    const VIA: u16 = 18;
    let (family, length, bytes) = match address {
        IpAddr::V4(address) => (2, 32, address.octets().to_vec()),
        IpAddr::V6(address) => (10, 128, address.octets().to_vec()),
    };
    let mut body = vec![family, length, 0, 0, 0, 0, 0, 0];
    body.extend(MATCH.to_ne_bytes());
    Message(&mut body).attribute(DESTINATION, &bytes);
    let answers = match ask(GET_ROUTE, 0, &body) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
            ) =>
        {
            return Ok(None);
        }
        other => other?,
    };
    let route = answers.first().and_then(|answer| {
        let [_, prefix, _, _, _, _, _, kind, ..] = *answer.first_chunk::<12>()?;
        let rest = answer.get(12..)?;
        let interface = attribute(rest, INTERFACE).and_then(number)?;
        let is_direct = attribute(rest, GATEWAY).or(attribute(rest, VIA)).is_none();
        (kind == UNICAST && prefix > 0).then_some(Route {
            interface,
            is_host: prefix == length,
            is_direct,
        })
    });
    Ok(route)
}

/// Returns where each route of a family begins, and the interface that it leads to.
fn routes(family: u8) -> io::Result<Vec<(IpAddr, u32)>> {
    let mut body = vec![family];
    body.resize(12, 0);
    let answers = ask(GET_ROUTE, DUMP, &body)?;
    let routes = answers.iter().filter_map(|answer| {
        let [_, _, _, _, _, _, _, kind, ..] = *answer.first_chunk::<12>()?;
        let rest = answer.get(12..)?;
        let interface = attribute(rest, INTERFACE).and_then(number)?;
        let address = read_address(attribute(rest, DESTINATION)?)?;
        (kind == UNICAST).then_some((address, interface))
    });
    Ok(routes.collect())
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

pub(super) const GET_LINK: u16 = 18;
pub(super) const GET_ADDRESS: u16 = 22;

/// Returns the kind of an interface.
fn kind(interface: u32) -> io::Result<String> {
    const INFORMATION: u16 = 18;
    const KIND: u16 = 1;
    let mut body = vec![0; 4];
    body.extend(interface.to_ne_bytes());
    body.extend([0; 8]);
    let answers = ask(GET_LINK, 0, &body)?;
    let kind = answers
        .first()
        .and_then(|answer| attribute(attribute(answer.get(16..)?, INFORMATION)?, KIND));
    let kind = kind.map(|kind| kind.split(|byte| *byte == 0).next().unwrap_or_default());
    Ok(String::from_utf8_lossy(kind.unwrap_or_default()).into_owned())
}

/// Returns the number of the interface of a name.
fn named(name: &str) -> io::Result<Option<u32>> {
    const NAME: u16 = 3;
    let mut body = vec![0; 16];
    Message(&mut body).text(NAME, name);
    match ask(GET_LINK, 0, &body) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        other => Ok(other?.first().and_then(|answer| number(answer.get(4..)?))),
    }
}

/// Returns the addresses of the calling thread's network namespace: what packets for them come to is the node itself.
///
/// Not those of `kube-ipvs0`: they are Services', which lead elsewhere.
pub(crate) fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let services = named("kube-ipvs0")?;
    let answers = ask(GET_ADDRESS, DUMP, &[0; 8])?;
    let own = answers.iter().filter_map(|answer| {
        let interface = number(answer.get(4..)?)?;
        if services == Some(interface) {
            return None;
        }
        address_of(answer)
    });
    Ok(own.collect())
}

/// Returns the address that an answer about an address tells of.
pub(super) fn address_of(answer: &[u8]) -> Option<IpAddr> {
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let rest = answer.get(8..)?;
    let bytes = attribute(rest, LOCAL).or_else(|| attribute(rest, ADDRESS))?;
    read_address(bytes)
}

/// Returns the numbers of all interfaces.
pub(crate) fn all_interfaces() -> io::Result<Vec<u32>> {
    let answers = ask(GET_LINK, DUMP, &[0; 16])?;
    Ok(answers.iter().filter_map(|answer| number(answer.get(4..)?)).collect())
}
