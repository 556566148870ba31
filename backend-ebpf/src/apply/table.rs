//! Hash tables in arrays of the kernel that are memory of ours, too (`bpf/table.h`).
//!
//! The kernel's own hash maps give the memory of a row to another one at once, and replace a row by putting one in and
//! taking one out, so that a look-up can miss both. Here a value is replaced by one store, and a place that is given up
//! is given to nobody before every packet that may know it is through.

use alloc::collections::BTreeMap;
use core::hash::{BuildHasher as _, Hasher as _};
use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::hash::RandomState;
use std::io;

use super::mapped::{Access, Memory};
use super::sys::{Map, Shape};

/// `BPF_MAP_TYPE_ARRAY`, `BPF_F_MMAPABLE`.
pub(super) const ARRAY: u32 = 2;
pub(super) const MAPPABLE: u32 = 1 << 10;

/// What is no key: nothing, and nothing behind it.
const EMPTY: u64 = 0;
/// Nothing any more, for packets to come.
const GONE: u64 = 1;
/// Nothing any more, for any packet.
const FREE: u64 = 2;

/// No key is farther from where it belongs.
const PROBES: u32 = 32;

/// The bytes of a place: key and value.
const PLACE: usize = 16;

/// What nobody can know who chooses addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(pub(super) [u64; 2]);

impl Seed {
    pub(super) fn random() -> Self {
        Self([(); 2].map(|()| RandomState::new().build_hasher().finish()))
    }

    /// Returns what stands for an address. Two addresses rarely have one.
    pub(super) fn digest(self, address: IpAddr) -> u64 {
        let Self([first, second]) = self;
        let (family, low, high) = match address {
            IpAddr::V4(address) => (4, u64::from(u32::from_ne_bytes(address.octets())), 0),
            IpAddr::V6(address) => {
                let bits = u128::from_ne_bytes(address.octets());
                let [low, high] = [bits, bits >> 64].map(|half| half & u128::from(u64::MAX));
                (6, u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0))
            }
        };
        let mixed = mixed(low ^ first).wrapping_add(high).wrapping_add(second ^ family);
        self::mixed(mixed) | 1 << 63
    }
}

const fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    number ^ number >> 32
}

/// There is no room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full;

impl From<Full> for io::Error {
    fn from(_: Full) -> Self {
        io::ErrorKind::StorageFull.into()
    }
}

/// A table from keys to values. Keys are above 2.
#[derive(Debug)]
pub(super) struct Table {
    map: Map,
    memory: Memory,
    mask: u32,
    seed: Seed,
    /// How many places are not [`EMPTY`].
    used: usize,
    /// The places that are [`GONE`].
    resting: Vec<u32>,
}

impl Table {
    /// Makes an empty table with room for so many keys: a quarter of its places, so that none is far from where it belongs.
    pub(super) fn create(name: &str, rows: usize, seed: Seed) -> io::Result<Self> {
        let places = rows.max(256).checked_mul(4).and_then(usize::checked_next_power_of_two);
        let places = places.ok_or(io::ErrorKind::InvalidInput)?;
        let entries = u32::try_from(places).map_err(io::Error::other)?;
        let shape = Shape { kind: ARRAY, key: 4, value: 16, flags: MAPPABLE };
        let map = Map::create(name, shape, entries)?;
        let memory = Memory::new(map.descriptor(), 0, places * PLACE, Access::Write)?;
        Ok(Self { map, memory, mask: entries - 1, seed, used: 0, resting: Vec::new() })
    }

    pub(super) const fn map(&self) -> &Map {
        &self.map
    }

    pub(super) const fn mask(&self) -> u32 {
        self.mask
    }

    /// Returns whether so many keys more are likely to find a place.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let places = usize::try_from(self.mask).unwrap_or(0) + 1;
        self.used.saturating_add(more) <= places / 3
    }

    /// Returns how many places wait to be given free.
    pub(super) fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Returns whether this and nothing else is in there.
    pub(super) fn holds(&self, mut expected: BTreeMap<u64, u64>) -> io::Result<bool> {
        for entry in self.entries() {
            let (key, value) = entry?;
            if expected.remove(&key) != Some(value) {
                return Ok(false);
            }
        }
        Ok(expected.is_empty())
    }

    /// Returns the value of a key.
    pub(super) fn get(&self, key: u64) -> io::Result<Option<u64>> {
        match self.find(key)? {
            (Some(place), _) => Ok(Some(self.value(place)?.load(Ordering::Relaxed))),
            (None, _) => Ok(None),
        }
    }

    /// Gives a key a value, in one step.
    pub(super) fn put(&mut self, key: u64, value: u64) -> io::Result<()> {
        match self.find(key)? {
            (Some(place), _) => self.value(place)?.store(value, Ordering::Release),
            (None, Some(place)) => {
                if self.key(place)?.load(Ordering::Relaxed) == EMPTY {
                    self.used += 1;
                }
                self.value(place)?.store(value, Ordering::Relaxed);
                self.key(place)?.store(key, Ordering::Release);
            }
            (None, None) => return Err(Full.into()),
        }
        Ok(())
    }

    /// Takes a key away. Returns the value it had.
    pub(super) fn remove(&mut self, key: u64) -> io::Result<Option<u64>> {
        let (Some(place), _) = self.find(key)? else { return Ok(None) };
        let value = self.value(place)?.load(Ordering::Relaxed);
        self.key(place)?.store(GONE, Ordering::Release);
        self.resting.push(place);
        Ok(Some(value))
    }

    /// Gives free what was taken away before every packet was waited for.
    pub(super) fn rested(&mut self) -> io::Result<()> {
        for place in core::mem::take(&mut self.resting) {
            self.key(place)?.store(FREE, Ordering::Release);
            // Where nothing follows, nothing leads past here.
            let mut place = place;
            while self.key(place.wrapping_add(1) & self.mask)?.load(Ordering::Relaxed) == EMPTY
                && self.key(place)?.load(Ordering::Relaxed) == FREE
            {
                self.key(place)?.store(EMPTY, Ordering::Release);
                self.used -= 1;
                place = place.wrapping_sub(1) & self.mask;
            }
        }
        Ok(())
    }

    /// Returns every key and its value.
    pub(super) fn entries(&self) -> impl Iterator<Item = io::Result<(u64, u64)>> + '_ {
        let entry = |place| {
            let key = self.key(place)?.load(Ordering::Acquire);
            Ok((key, self.value(place)?.load(Ordering::Relaxed)))
        };
        let is_key = |entry: &io::Result<(u64, u64)>| !matches!(entry, Ok((EMPTY..=FREE, _)));
        (0..=self.mask).map(entry).filter(is_key)
    }

    /// Returns the place of a key, and else one that it may have.
    fn find(&self, key: u64) -> io::Result<(Option<u32>, Option<u32>)> {
        let Seed([first, _]) = self.seed;
        let at = u32::try_from(mixed(key ^ first) & u64::from(u32::MAX)).unwrap_or(0);
        let mut vacant = None;
        for probe in 0..PROBES {
            let place = at.wrapping_add(probe) & self.mask;
            match self.key(place)?.load(Ordering::Relaxed) {
                found if found == key => return Ok((Some(place), None)),
                EMPTY => return Ok((None, vacant.or(Some(place)))),
                FREE => vacant = vacant.or(Some(place)),
                _ => {}
            }
        }
        Ok((None, vacant))
    }

    fn key(&self, place: u32) -> io::Result<&AtomicU64> {
        self.memory.long(usize::try_from(place).unwrap_or(usize::MAX / PLACE) * PLACE)
    }

    fn value(&self, place: u32) -> io::Result<&AtomicU64> {
        self.memory.long(usize::try_from(place).unwrap_or(usize::MAX / PLACE) * PLACE + 8)
    }
}
