//! What packets at interfaces meet besides policies: the node's own addresses, Services, interfaces of single pods.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;
use std::io;
use std::os::fd::BorrowedFd;

use netpol_core::model::Protocol;

use super::super::error::LoadError;
use super::super::rows::{ARRAY, HASH, Table, encode_address};
use super::super::sys::Map;
use super::connections::Times;
use crate::image::MapImage;

/// An address and port that something on the node translates (kube-proxy, say), and what it translates them to: a cluster
/// address, an external one, or a node's address with a node port.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "embedders write it as a literal")]
pub struct Service {
    /// The address that is dialled.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port that is dialled.
    pub port: u16,
    /// The addresses and ports behind it.
    pub backends: Vec<(IpAddr, u16)>,
}

/// All of it, of one network namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests write it as a literal")]
pub struct Surroundings {
    /// The addresses of the node.
    pub own: BTreeSet<IpAddr>,
    /// The interfaces that lead to one pod and nobody else.
    pub alone: BTreeSet<u32>,
    /// The interfaces that packets with these source addresses come from, if they come from a pod.
    pub places: BTreeMap<IpAddr, u32>,
    /// What is translated.
    pub services: Vec<Service>,
    /// How long connections are known.
    pub times: Times,
}

/// `TARGETS` of the program.
const MOST_TARGETS: usize = 8;

/// The maps of it, and what they hold. Nothing changes them: what is new is loaded beside.
#[derive(Debug)]
pub(crate) struct Tables(Vec<(u8, Table, Map)>);

impl Tables {
    /// Writes all of it.
    pub(crate) fn create(surroundings: &Surroundings, image: &MapImage) -> Result<Self, LoadError> {
        let mut own = Table::new("own", HASH, 20, 4);
        for address in &surroundings.own {
            own.push(&encode_address(*address), &1_u32.to_ne_bytes());
        }
        let mut services = Table::new("services", HASH, 24, 8 + 12 * 8);
        for ((address, protocol, port), backends) in by_key(&surroundings.services) {
            let mut key = encode_address(address).to_vec();
            key.extend(port.to_ne_bytes());
            key.extend([protocol.number(), 0]);
            services.push(&key, &service(&backends, &surroundings.own, image));
        }
        let mut alone = Table::new("alone", HASH, 4, 4);
        for interface in &surroundings.alone {
            alone.push(&interface.to_ne_bytes(), &1_u32.to_ne_bytes());
        }
        let mut times = Table::new("times", ARRAY, 4, 56);
        times.push(&0_u32.to_ne_bytes(), &surroundings.times.encode());
        let mut places = Table::new("places", HASH, 20, 4);
        for (address, interface) in &surroundings.places {
            places.push(&encode_address(*address), &interface.to_ne_bytes());
        }
        let mut maps = Vec::new();
        let tables = [(0x32, own), (0x33, services), (0x34, alone), (0x35, times), (0x37, places)];
        for (number, table) in tables {
            let refused = |source| LoadError::Map { map: table.name, rows: table.rows, source };
            let map = table.create(table.rows).map_err(refused)?;
            table.write(&map).map_err(refused)?;
            maps.push((number, table, map));
        }
        Ok(Self(maps))
    }

    /// Returns the maps, each with its number in the program's source.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (u8, BorrowedFd<'_>)> {
        self.0.iter().map(|(number, _, map)| (*number, map.descriptor()))
    }

    /// Returns the names of the maps that do not hold what was written.
    pub(crate) fn differences(&self) -> io::Result<Vec<&'static str>> {
        let mut names = Vec::new();
        for (_, table, map) in &self.0 {
            let garbage = Table::new(table.name, HASH, 1, 1);
            if !table.is_in(map, table.rows, 0, &garbage)? {
                names.push(table.name);
            }
        }
        Ok(names)
    }
}

type Key = (IpAddr, Protocol, u16);

/// What is said of one address and port more than once is said of all that stands behind it.
fn by_key(services: &[Service]) -> BTreeMap<Key, BTreeSet<(IpAddr, u16)>> {
    let mut by_key: BTreeMap<Key, BTreeSet<(IpAddr, u16)>> = BTreeMap::new();
    for service in services {
        let key = (service.address, service.protocol, service.port);
        by_key.entry(key).or_default().extend(&service.backends);
    }
    by_key
}

/// Writes `struct service`: backends of one class and one port are one target.
fn service(
    backends: &BTreeSet<(IpAddr, u16)>,
    own: &BTreeSet<IpAddr>,
    image: &MapImage,
) -> Vec<u8> {
    // By class, port, and whether it is the node: the pods, 0 for those without a policy.
    let mut targets: BTreeMap<(u32, u16, bool), BTreeSet<(u32, IpAddr)>> = BTreeMap::new();
    for (address, port) in backends {
        let target = (image.class_of(*address), *port, own.contains(address));
        let pod = image.host(*address).pod;
        // Addresses of one pod are one; others without a number are told apart.
        let name = if pod == 0 { *address } else { IpAddr::from([0; 4]) };
        targets.entry(target).or_default().insert((pod, name));
    }
    let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    let mut value = count.to_ne_bytes().to_vec();
    value.extend([0; 4]);
    for ((class, port, is_node), pods) in targets.into_iter().take(MOST_TARGETS) {
        let only = pods.iter().next().filter(|_| pods.len() == 1).map_or(0, |(pod, _)| *pod);
        value.extend(class.to_ne_bytes());
        value.extend(only.to_ne_bytes());
        value.extend(port.to_ne_bytes());
        value.extend(u16::from(is_node).to_ne_bytes());
    }
    value.resize(8 + 12 * MOST_TARGETS, 0);
    value
}
