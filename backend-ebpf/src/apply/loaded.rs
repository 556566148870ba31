//! One ruleset in the kernel: its maps, filled, and the program that looks into them.

use core::net::IpAddr;
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use netpol_core::ir::Verdict;

use super::btf::Kernel;
use super::error::LoadError;
use super::program::JUDGE;
use super::sys::{self, Map, Shape};
use crate::image::{EndpointRow, Hook, MapImage, PortRow, PortsId};

/// `enum bpf_map_type`.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`, which tries must have.
const NO_PREALLOC: u32 = 1;

/// The number of the map of checked connections in the program's source.
const CHECKED: u8 = 7;
/// How many checked connections are known at once; one that is forgotten is judged again.
const CONNECTIONS: u32 = 1 << 16;

/// `struct address`.
const ADDRESS: u32 = 20;

/// One ruleset in the kernel: its maps, and the program that looks into them. No packet meets it before a hook leads to
/// it; [`ask`](Self::ask) shows it packets that nobody sent.
#[derive(Debug)]
pub struct Loaded {
    maps: Vec<(u8, Map)>,
    program: OwnedFd,
}

impl Loaded {
    /// Loads an image.
    ///
    /// # Errors
    /// Names the map or the program that was refused; nothing is left in the kernel.
    pub fn load(kernel: &Kernel, image: &MapImage) -> Result<Self, LoadError> {
        Self::load_as(kernel, image, &Checked::create()?, 0)
    }

    /// Loads an image as the ruleset of this number, which shares the notes on connections with those before it.
    pub(super) fn load_as(
        kernel: &Kernel,
        image: &MapImage,
        checked: &Checked,
        generation: u64,
    ) -> Result<Self, LoadError> {
        let tables = tables(image);
        let mut maps = Vec::with_capacity(tables.len());
        for (number, table) in (0..).zip(&tables) {
            maps.push((number, table.load()?));
        }
        let mut descriptors: Vec<(u8, BorrowedFd<'_>)> =
            maps.iter().map(|(number, map)| (*number, map.descriptor())).collect();
        descriptors.push((CHECKED, checked.0.descriptor()));
        let program = JUDGE.load(kernel, &descriptors, generation)?;
        Ok(Self { maps, program })
    }

    pub(super) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Shows the program a packet that opens a connection, as Ethernet frame, and returns what it does with it.
    ///
    /// # Errors
    /// If the kernel does not run the program: it takes only frames with a whole IP header without options.
    pub fn ask(&self, hook: Hook, frame: &[u8]) -> io::Result<Verdict> {
        let outcome = sys::test_run(self.program(), frame, &context(hook, frame), 1)?;
        // NF_ACCEPT; everything else is no passage.
        Ok(if outcome.returned == 1 { Verdict::Allow } else { Verdict::Deny })
    }

    /// Shows the program the same frame many times, and returns how long it takes for one.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn time(&self, hook: Hook, frame: &[u8], repeat: u32) -> io::Result<Duration> {
        let outcome = sys::test_run(self.program(), frame, &context(hook, frame), repeat)?;
        Ok(Duration::from_nanos(outcome.duration.into()))
    }

    /// Returns whether all maps have the rows of the image.
    pub(super) fn holds(&self, image: &MapImage) -> io::Result<bool> {
        for (table, (_, map)) in tables(image).iter().zip(&self.maps) {
            if !table.is_in(map)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the names of the maps whose rows are not those of the image.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn differences(&self, image: &MapImage) -> io::Result<Vec<&'static str>> {
        let mut names = Vec::new();
        for (table, (_, map)) in tables(image).iter().zip(&self.maps) {
            if !table.is_in(map)? {
                names.push(table.name);
            }
        }
        Ok(names)
    }
}

/// By connection, the number of the ruleset that last let it pass. Shared by all rulesets of a network namespace.
#[derive(Debug)]
pub(super) struct Checked(Map);

impl Checked {
    /// Makes an empty map.
    pub(super) fn create() -> Result<Self, LoadError> {
        let shape = Shape { kind: LRU_HASH, key: 8, value: 8, flags: 0 };
        Map::create("np_checked", shape, CONNECTIONS).map(Self).map_err(|source| LoadError::Map {
            map: "checked",
            rows: usize::try_from(CONNECTIONS).unwrap_or(usize::MAX),
            source,
        })
    }
}

/// The beginning of the kernel's `struct nf_hook_state`.
fn context(hook: Hook, frame: &[u8]) -> [u8; 56] {
    let mut context = [0; 56];
    let is_v6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
    let [number, family, ..] = &mut context;
    *number = match hook {
        Hook::LocalIn => 1,
        Hook::Forward => 2,
    };
    *family = if is_v6 { 10 } else { 2 };
    context
}

/// The rows of one map, in the kernel's bytes.
struct Table {
    name: &'static str,
    shape: Shape,
    keys: Vec<u8>,
    values: Vec<u8>,
    rows: usize,
}

impl Table {
    const fn new(name: &'static str, kind: u32, key: u32, value: u32) -> Self {
        let flags = if kind == LPM_TRIE { NO_PREALLOC } else { 0 };
        let shape = Shape { kind, key, value, flags };
        Self { name, shape, keys: Vec::new(), values: Vec::new(), rows: 0 }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.keys.extend(key);
        self.values.extend(value);
        self.rows += 1;
    }

    fn load(&self) -> Result<Map, LoadError> {
        let refused = |source| LoadError::Map { map: self.name, rows: self.rows, source };
        let rows = u32::try_from(self.rows).map_err(|error| refused(io::Error::other(error)))?;
        let name = format!("np_{}", self.name);
        let map = Map::create(&name, self.shape, rows.max(1)).map_err(refused)?;
        if rows > 0 {
            map.update_batch(&self.keys, &self.values, rows).map_err(refused)?;
        }
        Ok(map)
    }

    fn is_in(&self, map: &Map) -> io::Result<bool> {
        // One more than there must be, to see rows too many.
        let room = self.rows + 1;
        let (key, value) = (self.keys.len(), self.values.len());
        let sized = |size: u32| usize::try_from(size).unwrap_or(0);
        let mut keys = vec![0; key + sized(self.shape.key)];
        let mut values = vec![0; value + sized(self.shape.value)];
        let room = u32::try_from(room).map_err(io::Error::other)?;
        let rows = map.lookup_batch(&mut keys, &mut values, room)?;
        // An array has a row that nothing names, where it would be empty.
        if self.rows == 0 && self.shape.kind == ARRAY {
            return Ok(true);
        }
        let pairs = |keys: &[u8], values: &[u8], rows: usize| {
            let keys = keys.chunks_exact(sized(self.shape.key)).map(<[u8]>::to_vec);
            let values = values.chunks_exact(sized(self.shape.value)).map(<[u8]>::to_vec);
            let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = keys.zip(values).take(rows).collect();
            pairs.sort_unstable();
            pairs
        };
        Ok(usize::try_from(rows) == Ok(self.rows)
            && pairs(&keys, &values, self.rows) == pairs(&self.keys, &self.values, self.rows))
    }
}

/// Returns the maps in the order of their numbers.
fn tables(image: &MapImage) -> [Table; 6] {
    let mut endpoints = Table::new("endpoints", HASH, ADDRESS, 24);
    for (address, row) in &image.endpoints {
        endpoints.push(&encode_address(*address), &encode_endpoint(row));
    }
    let mut addresses = Table::new("addresses", HASH, ADDRESS, 4);
    for (address, class) in &image.addresses {
        addresses.push(&encode_address(*address), &class.to_ne_bytes());
    }
    let mut networks = Table::new("networks", LPM_TRIE, 4 + ADDRESS, 4);
    for (network, class) in &image.networks {
        let prefix = 32 + u32::from(network.prefix_len());
        let key = [&prefix.to_ne_bytes()[..], &encode_address(network.addr())].concat();
        networks.push(&key, &class.to_ne_bytes());
    }
    let mut policies = Table::new("policies", ARRAY, 4, 8);
    // Number 0 lets everything pass and is never looked up.
    policies.push(&0_u32.to_ne_bytes(), &0_u64.to_ne_bytes());
    for (number, policy) in (1_u32..).zip(&image.policies) {
        policies.push(&number.to_ne_bytes(), &policy.default.bits().to_ne_bytes());
    }
    let mut words = Table::new("words", HASH, 8, 8);
    for ((policy, class), word) in &image.words {
        let key = [policy.to_ne_bytes(), class.to_ne_bytes()].concat();
        words.push(&key, &word.bits().to_ne_bytes());
    }
    let mut ports = Table::new("ports", HASH, 8, 4);
    for (list, rows) in &image.ports {
        for row in rows {
            ports.push(&encode_port(*list, row), &u32::from(row.allow).to_ne_bytes());
        }
    }
    [endpoints, addresses, networks, policies, words, ports]
}

/// Writes `struct address`.
fn encode_address(address: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    match address {
        IpAddr::V4(address) => {
            bytes.extend(4_u32.to_ne_bytes());
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.extend(6_u32.to_ne_bytes());
            bytes.extend(address.octets());
        }
    }
    bytes.resize(20, 0);
    bytes
}

/// Writes `struct endpoint`.
fn encode_endpoint(row: &EndpointRow) -> Vec<u8> {
    let EndpointRow {
        number,
        ingress,
        egress,
        ingress_of_hairpin,
        egress_of_hairpin,
        egress_to_node,
    } = *row;
    [number, ingress, egress, ingress_of_hairpin, egress_of_hairpin, egress_to_node]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect()
}

/// Writes `struct port_key`.
fn encode_port(list: PortsId, row: &PortRow) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8);
    bytes.extend(list.to_ne_bytes());
    bytes.extend([row.protocol.number(), row.prefix]);
    bytes.extend(row.port.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::encode_address;

    /// NP-068.
    #[test]
    fn an_ipv4_address_inside_an_ipv6_one_is_another_address() {
        let v4 = encode_address("10.0.0.1".parse().unwrap());
        for v6 in ["::ffff:10.0.0.1", "::10.0.0.1", "a00:1::"] {
            assert_ne!(v4, encode_address(v6.parse().unwrap()));
        }
    }
}
