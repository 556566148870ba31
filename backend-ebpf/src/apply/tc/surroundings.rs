//! What packets at interfaces meet besides policies: the node's own addresses, Services, interfaces of single pods.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;
use std::io;
use std::os::fd::BorrowedFd;

use netpol_core::model::Protocol;

use super::super::error::LoadError;
use super::super::rows::{self, ARRAY, HASH, encode_address};
use super::super::sys::Map;
use super::super::table::{Seed, Table};
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

/// The numbers of the maps in the program's source.
const OWN: u8 = 0x32;
const SERVICES: u8 = 0x33;
const ALONE: u8 = 0x34;
const TIMES: u8 = 0x35;
const PLACES: u8 = 0x37;

/// How many interfaces more there may be until packets are waited for.
const MORE: usize = 1024;

/// The maps of it, and what they hold. What is known of pods' interfaces changes where it is, in tables of ours; what else is
/// new is loaded beside.
///
/// INVARIANT (ways): what packets find of interfaces is that of the ruleset in force, but for the moment of a change, when
/// it is less: an interface that is not known to be one pod's alone is taken for one that others share, and an address
/// belongs to the interface of the pod that it will be. Upheld by `meet` before, and `leave` after the ruleset's change.
#[derive(Debug)]
pub(crate) struct Tables {
    fixed: Vec<(u8, rows::Table, Map)>,
    alone: Table,
    places: Table,
    seed: Seed,
    holds: Surroundings,
}

impl Tables {
    /// Writes all of it.
    pub(crate) fn create(
        surroundings: &Surroundings,
        image: &MapImage,
        seed: Seed,
    ) -> Result<Self, LoadError> {
        let mut own = rows::Table::new("own", HASH, 20, 4);
        for address in &surroundings.own {
            own.push(&encode_address(*address), &1_u32.to_ne_bytes());
        }
        let mut services = rows::Table::new("services", HASH, 24, 8 + 12 * 8);
        for ((address, protocol, port), backends) in by_key(&surroundings.services) {
            let mut key = encode_address(address).to_vec();
            key.extend(port.to_ne_bytes());
            key.extend([protocol.number(), 0]);
            services.push(&key, &service(&backends, &surroundings.own, image));
        }
        let mut times = rows::Table::new("times", ARRAY, 4, 56);
        times.push(&0_u32.to_ne_bytes(), &surroundings.times.encode());
        let mut fixed = Vec::new();
        for (number, table) in [(OWN, own), (SERVICES, services), (TIMES, times)] {
            let refused = |source| LoadError::Map { map: table.name, rows: table.rows, source };
            let map = table.create(table.rows).map_err(refused)?;
            table.write(&map).map_err(refused)?;
            fixed.push((number, table, map));
        }
        let refused = |map, rows| move |source| LoadError::Map { map, rows, source };
        let room = |rows: usize| rows.saturating_mul(2).saturating_add(MORE);
        let (interfaces, addresses) =
            (room(surroundings.alone.len()), room(surroundings.places.len()));
        let Surroundings { own, services, times, .. } = surroundings.clone();
        let holds = Surroundings { own, services, times, ..Surroundings::default() };
        let mut tables = Self {
            fixed,
            alone: Table::create("np_alone", interfaces, seed)
                .map_err(refused("alone", interfaces))?,
            places: Table::create("np_places", addresses, seed)
                .map_err(refused("places", addresses))?,
            seed,
            holds,
        };
        let Surroundings { alone, places, .. } = surroundings;
        tables.meet(alone, places).map_err(refused("places", places.len()))?;
        tables.leave(alone, places).map_err(refused("alone", alone.len()))?;
        Ok(tables)
    }

    /// Returns the maps, each with its number in the program's source.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (u8, BorrowedFd<'_>)> {
        let tables = [(ALONE, &self.alone), (PLACES, &self.places)];
        let tables = tables.map(|(number, table)| (number, table.map().descriptor()));
        self.fixed.iter().map(|(number, _, map)| (*number, map.descriptor())).chain(tables)
    }

    /// How many places the two tables of ours have, less one.
    pub(crate) const fn masks(&self) -> [u32; 2] {
        [self.alone.mask(), self.places.mask()]
    }

    /// What is in there.
    pub(crate) const fn holds(&self) -> &Surroundings {
        &self.holds
    }

    /// Returns whether much of the room is taken by what is gone.
    pub(crate) fn is_littered(&self) -> bool {
        self.alone.resting() + self.places.resting() > MORE / 2
    }

    /// Writes what is to be there before the ruleset changes.
    pub(crate) fn meet(
        &mut self,
        alone: &BTreeSet<u32>,
        places: &BTreeMap<IpAddr, u32>,
    ) -> io::Result<()> {
        for interface in self.holds.alone.difference(alone) {
            self.alone.remove(interface_key(*interface))?;
        }
        self.holds.alone.retain(|interface| alone.contains(interface));
        for (address, interface) in places {
            if self.holds.places.get(address) != Some(interface) {
                self.places.put(self.seed.digest(*address), u64::from(*interface))?;
                self.holds.places.insert(*address, *interface);
            }
        }
        Ok(())
    }

    /// Writes the rest of it, after the ruleset has changed.
    pub(crate) fn leave(
        &mut self,
        alone: &BTreeSet<u32>,
        places: &BTreeMap<IpAddr, u32>,
    ) -> io::Result<()> {
        let gone = self.holds.places.keys().filter(|address| !places.contains_key(address));
        for address in gone {
            self.places.remove(self.seed.digest(*address))?;
        }
        self.holds.places.retain(|address, _| places.contains_key(address));
        for interface in alone {
            if self.holds.alone.insert(*interface) {
                self.alone.put(interface_key(*interface), 1)?;
            }
        }
        Ok(())
    }

    /// Gives free what was given up before every packet was waited for.
    pub(crate) fn rested(&mut self) -> io::Result<()> {
        self.alone.rested()?;
        self.places.rested()
    }

    /// Returns the names of the maps that do not hold what was written.
    pub(crate) fn differences(&self) -> io::Result<Vec<&'static str>> {
        let mut names = Vec::new();
        for (_, table, map) in &self.fixed {
            let garbage = rows::Table::new(table.name, HASH, 1, 1);
            if !table.is_in(map, table.rows, 0, &garbage)? {
                names.push(table.name);
            }
        }
        let Surroundings { alone, places, .. } = &self.holds;
        let alone = alone.iter().map(|interface| (interface_key(*interface), 1));
        if !self.alone.holds(alone.collect())? {
            names.push("alone");
        }
        let places = places
            .iter()
            .map(|(address, interface)| (self.seed.digest(*address), u64::from(*interface)));
        if !self.places.holds(places.collect())? {
            names.push("places");
        }
        Ok(names)
    }
}

/// The key of an interface, which is none of those that are no keys.
fn interface_key(interface: u32) -> u64 {
    1 << 32 | u64::from(interface)
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
