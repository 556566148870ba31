//! What is known of addresses: a table from digests of addresses to rows, and the rows, older ones behind younger.
//!
//! INVARIANT (history): a row says the same as long as a packet may be looking at it. What is to be known of an address
//! from a version on stands in a row of its own, which names the row before; both stay until no packet can be judged by an
//! earlier version. Upheld by `put`, which writes only rows that nothing leads to, and by `rested`.

use core::net::IpAddr;
use core::sync::atomic::Ordering;
use std::io;

use super::mapped::{Access, Memory};
use super::rows::{decode_address, encode_address};
use super::sys::{Map, Shape};
use super::table::{ARRAY, Full, MAPPABLE, Seed, Table};
use crate::image::{Host, PodRow};

/// The bytes of a row (`struct host`).
const ROW: usize = 64;

const HAS_CLASS: u32 = 1 << 31;
const IS_NODE: u32 = 1 << 30;

/// What the kernel knows of addresses.
#[derive(Debug)]
pub(super) struct Hosts {
    places: Table,
    seed: Seed,
    map: Map,
    rows: Memory,
    /// How many rows there are. The first is that of hosts that nothing is known of.
    count: u32,
    /// Up to here, rows were in use once.
    next: u32,
    free: Vec<u32>,
    /// Rows of what was known before, which a packet may still be looking at.
    resting: Vec<u32>,
}

impl Hosts {
    /// Makes room for so many addresses, and for so many changes between two times that packets are waited for.
    pub(super) fn create(addresses: usize, changes: usize, seed: Seed) -> io::Result<Self> {
        let rows = addresses.saturating_add(changes).saturating_add(1);
        let count = u32::try_from(rows).map_err(io::Error::other)?;
        let shape = Shape { kind: ARRAY, key: 4, value: 64, flags: MAPPABLE };
        let map = Map::create("np_host_rows", shape, count)?;
        let memory = Memory::new(map.descriptor(), 0, rows * ROW, Access::Write)?;
        let places = Table::create("np_hosts", addresses, seed)?;
        let (free, resting) = (Vec::new(), Vec::new());
        Ok(Self { places, seed, map, rows: memory, count, next: 1, free, resting })
    }

    pub(super) const fn places(&self) -> &Table {
        &self.places
    }

    pub(super) const fn rows(&self) -> &Map {
        &self.map
    }

    /// Returns whether so many rows more have room.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let left = usize::try_from(self.count.saturating_sub(self.next)).unwrap_or(0);
        self.free.len() + left >= more && self.places.has_room(more)
    }

    /// Says what is known of an address from a version on.
    pub(super) fn put(
        &mut self,
        address: IpAddr,
        since: u64,
        host: &Host,
        policies: &PodRow,
    ) -> io::Result<()> {
        let key = self.seed.digest(address);
        let before = match self.places.get(key)? {
            None => None,
            Some(row) => {
                let row = u32::try_from(row).map_err(io::Error::other)?;
                if self.read(row)?.0 != Some(address) {
                    // Two addresses with one digest: another seed will tell them apart.
                    return Err(Full.into());
                }
                Some(row)
            }
        };
        let row = self.take()?;
        let previous = before.unwrap_or(0).to_ne_bytes();
        let mut bytes = encode_address(address).to_vec();
        bytes.extend(previous);
        let words = bytes.chunks_exact(8).filter_map(|word| word.first_chunk::<8>());
        let words = words
            .map(|word| u64::from_ne_bytes(*word))
            .chain([since, end(host)])
            .chain(policies_of(policies));
        for (place, word) in (0..).zip(words) {
            self.word(row, place)?.store(word, Ordering::Release);
        }
        self.places.put(key, row.into())?;
        self.resting.extend(before);
        Ok(())
    }

    /// Forgets an address of which nothing is known in any version that packets are judged by.
    pub(super) fn remove(&mut self, address: IpAddr) -> io::Result<()> {
        if let Some(row) = self.places.remove(self.seed.digest(address))? {
            self.resting.push(u32::try_from(row).map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Gives free what was given up before every packet was waited for.
    pub(super) fn rested(&mut self) -> io::Result<()> {
        self.free.append(&mut self.resting);
        self.places.rested()
    }

    /// Returns whether a packet of this version finds exactly this, nothing being known of `others`.
    pub(super) fn are<'a>(
        &self,
        hosts: impl Fn(IpAddr) -> Option<(&'a Host, PodRow)>,
        count: usize,
        others: impl Fn(IpAddr) -> bool,
        version: u64,
    ) -> io::Result<bool> {
        let mut seen = 0;
        for entry in self.places.entries() {
            let (key, row) = entry?;
            let mut row = u32::try_from(row).unwrap_or(u32::MAX);
            let (address, ..) = self.read(row)?;
            let Some(address) = address.filter(|address| self.seed.digest(*address) == key) else {
                return Ok(false);
            };
            let mut known = self.read(row)?;
            while known.2 > version && row != 0 {
                row = known.1;
                known = self.read(row)?;
            }
            match hosts(address) {
                Some((host, policies)) if known.3 == says(host, &policies) => seen += 1,
                None if known.3 == NOTHING && others(address) => {}
                Some(_) | None => return Ok(false),
            }
        }
        let (_, previous, since, unknown) = self.read(0)?;
        Ok(seen == count && previous == 0 && since == 0 && unknown == NOTHING)
    }

    /// Returns a row: its address, the row before, since when it counts, and what it says.
    fn read(&self, row: u32) -> io::Result<(Option<IpAddr>, u32, u64, [u64; 4])> {
        let word = |place| Ok::<_, io::Error>(self.word(row, place)?.load(Ordering::Acquire));
        let address = [word(0)?, word(1)?, word(2)?].map(u64::to_ne_bytes);
        let [_, _, third] = address;
        let [.., a, b, c, d] = third;
        let previous = u32::from_ne_bytes([a, b, c, d]);
        let says = [word(4)?, word(5)?, word(6)?, word(7)?];
        Ok((decode_address(address.as_flattened()), previous, word(3)?, says))
    }

    fn take(&mut self) -> Result<u32, Full> {
        if let Some(row) = self.free.pop() {
            return Ok(row);
        }
        if self.next >= self.count {
            return Err(Full);
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    fn word(&self, row: u32, place: usize) -> io::Result<&core::sync::atomic::AtomicU64> {
        let row = usize::try_from(row).unwrap_or(usize::MAX / ROW);
        self.rows.long(row.saturating_mul(ROW).saturating_add(place * 8))
    }
}

/// What a row says where nothing is known.
const NOTHING: [u64; 4] = [0; 4];

/// What a row says: the class, the number of the pod, its policies.
fn says(host: &Host, policies: &PodRow) -> [u64; 4] {
    let [first, second, third] = policies_of(policies);
    [end(host), first, second, third]
}

/// Writes class and pod.
fn end(host: &Host) -> u64 {
    let class = host.class.map_or(0, |class| HAS_CLASS | class);
    two(if host.is_node { class | IS_NODE } else { class }, host.pod)
}

/// Writes `struct pod`.
fn policies_of(pod: &PodRow) -> [u64; 3] {
    let PodRow { ingress, egress, ingress_of_hairpin, egress_of_hairpin, egress_to_node } = *pod;
    [two(ingress, egress), two(ingress_of_hairpin, egress_of_hairpin), two(egress_to_node, 0)]
}

/// Writes one number behind the other.
fn two(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}
