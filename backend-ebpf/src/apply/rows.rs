//! The rows of the maps, in the kernel's bytes (`bpf/judge.h`).

use alloc::collections::BTreeSet;
use core::net::IpAddr;
use std::io;

use ipnet::IpNet;

use super::sys::{Map, Shape};
use crate::image::{Class, MapImage, PodRow, PortRow, PortsId};
use crate::lower::Garbage;

/// `enum bpf_map_type`.
pub(super) const HASH: u32 = 1;
pub(super) const ARRAY: u32 = 2;
const LPM_TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`, which tries must have.
const NO_PREALLOC: u32 = 1;

/// `struct address`.
const ADDRESS: u32 = 20;

/// The maps that are not tables of ours, by their place in what [`tables`] returns.
pub(super) const NETWORKS: usize = 0;
pub(super) const PODS: usize = 1;
pub(super) const POLICIES: usize = 2;
pub(super) const PORTS: usize = 3;
/// Their numbers in the program's source.
pub(super) const NUMBERS: [u8; 5] = [1, 2, 3, 5, 6];

/// How many classes a row of networks had before the latest.
pub(super) const HISTORY: usize = 7;

/// The rows of one map.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    shape: Shape,
    /// The values are histories.
    is_versioned: bool,
    keys: Vec<u8>,
    values: Vec<u8>,
    pub(super) rows: usize,
}

impl Table {
    pub(super) const fn new(name: &'static str, kind: u32, key: u32, value: u32) -> Self {
        let flags = if kind == LPM_TRIE { NO_PREALLOC } else { 0 };
        let shape = Shape { kind, key, value, flags };
        Self { name, shape, is_versioned: false, keys: Vec::new(), values: Vec::new(), rows: 0 }
    }

    fn versioned(self) -> Self {
        Self { is_versioned: true, ..self }
    }

    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.keys.extend(key);
        self.values.extend(value);
        self.rows += 1;
    }

    /// Makes a map of so many rows.
    pub(super) fn create(&self, rows: usize) -> io::Result<Map> {
        let rows = u32::try_from(rows.max(1)).map_err(io::Error::other)?;
        Map::create(&format!("np_{}", self.name), self.shape, rows)
    }

    /// Writes the rows.
    pub(super) fn write(&self, map: &Map) -> io::Result<()> {
        match self.rows {
            0 => Ok(()),
            1 => map.update(&self.keys, &self.values),
            rows => {
                let rows = u32::try_from(rows).map_err(io::Error::other)?;
                map.update_batch(&self.keys, &self.values, rows)
            }
        }
    }

    /// Returns whether a map of so many rows holds these for a packet of this version, and nothing else but `garbage`.
    pub(super) fn is_in(
        &self,
        map: &Map,
        room: usize,
        version: u64,
        garbage: &Self,
    ) -> io::Result<bool> {
        let sized = |size: u32| usize::try_from(size).unwrap_or(1);
        let (key, value) = (sized(self.shape.key), sized(self.shape.value));
        let room = u32::try_from(room.max(1)).map_err(io::Error::other)?;
        let (keys, values) = map.lookup_batch(room)?;
        let in_force = |value: &[u8]| {
            if self.is_versioned { in_force(value, version) } else { value }.to_vec()
        };
        let rows = |keys: &'_ [u8], values: &'_ [u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
            let values = values.chunks_exact(value).map(in_force);
            keys.chunks_exact(key).map(<[u8]>::to_vec).zip(values).collect()
        };
        let (mut found, mut expected) = (rows(&keys, &values), rows(&self.keys, &self.values));
        found.sort_unstable();
        expected.sort_unstable();
        if self.shape.kind == ARRAY {
            // An array has all of its rows always; those that nothing refers to do not matter.
            return Ok(expected.iter().all(|row| found.binary_search(row).is_ok()));
        }
        let garbage: BTreeSet<&[u8]> = garbage.keys.chunks_exact(key).collect();
        let wanted: BTreeSet<&[u8]> = expected.iter().map(|(key, _)| key.as_slice()).collect();
        let is_garbage = |key: &[u8]| garbage.contains(key) && !wanted.contains(key);
        found.retain(|(key, _)| !is_garbage(key));
        Ok(found == expected)
    }

    /// Deletes the rows with these keys.
    pub(super) fn delete(&self, map: &Map) -> io::Result<()> {
        let size = usize::try_from(self.shape.key).unwrap_or(1);
        let mut keys = self.keys.as_slice();
        while !keys.is_empty() {
            let deleted = map.delete_batch(keys)?;
            // Where it ended early, the next one was not there.
            keys = keys.get((deleted + 1) * size..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The classes of a network: the latest first, each with the version since which it counts, and what was before all.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    since: [u64; HISTORY],
    classes: [Class; HISTORY + 1],
}

impl History {
    /// One class since ever.
    pub(super) const fn always(class: Class) -> Self {
        Self { since: [0; HISTORY], classes: [class; HISTORY + 1] }
    }

    /// Returns whether another class has room.
    pub(super) fn has_room(&self) -> bool {
        self.since.last() == Some(&0)
    }

    /// Another class from a version on.
    pub(super) fn then(mut self, version: u64, class: Class) -> Self {
        self.since.rotate_right(1);
        self.classes.rotate_right(1);
        if let (Some(since), Some(latest)) = (self.since.first_mut(), self.classes.first_mut()) {
            (*since, *latest) = (version, class);
        }
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let since = self.since.into_iter().flat_map(u64::to_ne_bytes);
        since.chain(self.classes.into_iter().flat_map(u32::to_ne_bytes)).collect()
    }
}

/// Returns the class in a history that counts.
fn in_force(value: &[u8], version: u64) -> &[u8] {
    let (since, classes) = value.split_at_checked(8 * HISTORY).unwrap_or_default();
    let began = |since: &[u8]| {
        since.first_chunk::<8>().is_some_and(|since| version >= u64::from_ne_bytes(*since))
    };
    let place = since.chunks_exact(8).position(began).unwrap_or(HISTORY);
    classes.chunks_exact(4).nth(place).unwrap_or_default()
}

/// Tables without rows.
pub(super) fn tables() -> [Table; 5] {
    [
        Table::new("networks", LPM_TRIE, 4 + ADDRESS, 88).versioned(),
        Table::new("pods", ARRAY, 4, 24),
        Table::new("policies", ARRAY, 4, 8),
        Table::new("ports", HASH, 8, 4),
        Table::new("ranges", LPM_TRIE, 4 + ADDRESS, 4),
    ]
}

/// Returns the rows of an image.
pub(super) fn of_image(image: &MapImage) -> [Table; 5] {
    let [mut networks, mut pods, mut policies, mut ports, mut ranges] = tables();
    for (network, class) in &image.networks {
        push_network(&mut networks, network, &History::always(*class));
    }
    // What hosts refer to that are no pods of ours.
    push_pod(&mut pods, 0, &PodRow::default());
    for (number, row) in &image.pods {
        push_pod(&mut pods, *number, row);
    }
    for (number, policy) in &image.policies {
        push_policy(&mut policies, *number, policy.default.bits());
    }
    for (list, rows) in &image.ports {
        push_ports(&mut ports, *list, rows);
    }
    if image.is_strict() {
        for network in image.ranges.cidrs() {
            ranges.push(&encode_network(&network), &1_u32.to_ne_bytes());
        }
    }
    [networks, pods, policies, ports, ranges]
}

/// Returns the rows that garbage names, their values left open.
pub(super) fn of_garbage(garbage: &Garbage) -> [Table; 5] {
    let mut tables = tables();
    let [networks, _, _, ports, _] = &mut tables;
    for network in &garbage.networks {
        push_network(networks, network, &History::always(0));
    }
    for (list, rows) in &garbage.ports {
        push_ports(ports, *list, rows);
    }
    tables
}

pub(super) fn push_network(table: &mut Table, network: &IpNet, history: &History) {
    table.push(&encode_network(network), &history.bytes());
}

pub(super) fn push_pod(table: &mut Table, number: u32, row: &PodRow) {
    let PodRow { ingress, egress, ingress_of_hairpin, egress_of_hairpin, egress_to_node } = *row;
    let value = [ingress, egress, ingress_of_hairpin, egress_of_hairpin, egress_to_node, 0];
    let value: Vec<u8> = value.into_iter().flat_map(u32::to_ne_bytes).collect();
    table.push(&number.to_ne_bytes(), &value);
}

pub(super) fn push_policy(table: &mut Table, number: u32, word: u64) {
    table.push(&number.to_ne_bytes(), &word.to_ne_bytes());
}

/// Returns the key of a word.
pub(super) fn word_key((policy, class): (u32, Class)) -> u64 {
    u64::from(policy) << 32 | u64::from(class)
}

pub(super) fn push_ports(table: &mut Table, list: PortsId, rows: &[PortRow]) {
    for (place, row) in (0_u32..).zip(rows) {
        let [a, b, c, d] = list.to_ne_bytes();
        let [low, high] = row.port.to_ne_bytes();
        let key = [a, b, c, d, row.protocol.number(), row.prefix, low, high];
        table.push(&key, &(u32::from(row.allow) | place << 1).to_ne_bytes());
    }
}

/// Writes `struct address`.
pub(super) fn encode_address(address: IpAddr) -> [u8; 20] {
    let mut bytes = [0; 20];
    let (family, rest) = bytes.split_at_mut(4);
    match address {
        IpAddr::V4(address) => {
            family.copy_from_slice(&4_u32.to_ne_bytes());
            for (to, from) in rest.iter_mut().zip(address.octets()) {
                *to = from;
            }
        }
        IpAddr::V6(address) => {
            family.copy_from_slice(&6_u32.to_ne_bytes());
            rest.copy_from_slice(&address.octets());
        }
    }
    bytes
}

/// Reads `struct address`.
pub(super) fn decode_address(bytes: &[u8]) -> Option<IpAddr> {
    let (family, rest) = bytes.split_first_chunk::<4>()?;
    let rest = rest.first_chunk::<16>()?;
    match u32::from_ne_bytes(*family) {
        4 => Some(IpAddr::from(*rest.first_chunk::<4>()?)),
        6 => Some(IpAddr::from(*rest)),
        _ => None,
    }
}

/// Writes `struct network_key`.
fn encode_network(network: &IpNet) -> [u8; 24] {
    let mut bytes = [0; 24];
    let prefix = 32 + u32::from(network.prefix_len());
    let (length, address) = bytes.split_at_mut(4);
    length.copy_from_slice(&prefix.to_ne_bytes());
    address.copy_from_slice(&encode_address(network.addr()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::{decode_address, encode_address};

    /// NP-068.
    #[test]
    fn an_ipv4_address_inside_an_ipv6_one_is_another_address() {
        let v4 = encode_address("10.0.0.1".parse().unwrap());
        for v6 in ["::ffff:10.0.0.1", "::10.0.0.1", "a00:1::"] {
            let v6 = encode_address(v6.parse().unwrap());
            assert_ne!(v4, v6);
            assert_ne!(decode_address(&v4), decode_address(&v6));
        }
    }

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for text in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::7"] {
            let address = text.parse().unwrap();
            assert_eq!(decode_address(&encode_address(address)), Some(address));
        }
    }
}
