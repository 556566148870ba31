//! One set of maps in the kernel, filled, and the program that looks into them.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ipnet::IpNet;
use netpol_core::ir::Verdict;

use super::btf::Kernel;
use super::error::LoadError;
use super::hosts::Hosts;
use super::mapped::{Ring, Version};
use super::program::{JUDGE, NETFILTER, TC, TC_JUDGE};
use super::rows::{self, History};
use super::sys::{self, Map, Shape};
use super::table::{ARRAY, MAPPABLE, Seed, Table};
use super::tc::{Connections, Side, Surroundings, Tables};
use crate::Established;
use crate::image::{Hook, Host, MapImage, PodRow, Rows};
use crate::lower::{Garbage, Patch};

/// `enum bpf_map_type`.
const PER_PROCESSOR_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const RING: u32 = 27;

/// The numbers of the other maps in the program's source.
const HOSTS: u8 = 0;
const WORDS: u8 = 4;
const HOST_ROWS: u8 = 0x20;
const CHECKED: u8 = 7;
const COUNTS: u8 = 8;
const DENIED: u8 = 9;
const RATE: u8 = 10;
const STATE: u8 = 12;

/// How many checked connections are known at once; one that is forgotten is judged again.
const CONNECTIONS: u32 = 1 << 16;

/// How many rows of hosts may be replaced until every packet must be waited for.
pub(super) const MOST_REPLACED: usize = 8192;

/// How often a table is tried with other seeds.
const SEEDS: u32 = 4;

/// The bytes of the ring of denied packets: a power of two, and of pages up to 64 KiB a multiple.
const RING_SIZE: u32 = 1 << 17;

/// One set of maps in the kernel, and the program that looks into them. No packet meets it before a hook leads to it;
/// [`ask`](Self::ask) shows it packets that nobody sent.
#[derive(Debug)]
pub struct Loaded {
    /// In the order of `rows::tables`.
    maps: Vec<Map>,
    hosts: Hosts,
    words: Table,
    /// How many rows each may have.
    room: Rows,
    /// How many of these were left when it was filled.
    spare: Rows,
    counts: Map,
    rate: Map,
    ring: Ring,
    version: Version,
    program: OwnedFd,
    /// What only the front end at interfaces looks at.
    surroundings: Option<Tables>,
}

/// Where a program is to run, and what it finds there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// The netfilter front end.
    Netfilter(&'a Kernel, &'a Checked),
    /// The front end at interfaces.
    Interfaces(&'a Connections, &'a Surroundings),
}

/// What a set of maps begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    pub(super) version: u64,
    pub(super) established: Established,
    /// The largest numbers of a pod and of a policy.
    pub(super) largest: (u32, u32),
}

impl Loaded {
    /// Loads an image.
    ///
    /// # Errors
    /// Names the map or the program that was refused; nothing is left in the kernel.
    pub fn load(kernel: &Kernel, image: &MapImage) -> Result<Self, LoadError> {
        let largest = |last: Option<&u32>| last.copied().unwrap_or(0);
        let (pods, policies) = (image.pods.keys().next_back(), image.policies.keys().next_back());
        let beginning = Beginning {
            version: 1,
            established: Established::Keep,
            largest: (largest(pods), largest(policies)),
        };
        Self::load_as(Place::Netfilter(kernel, &Checked::create()?), image, beginning)
    }

    /// Loads an image, to share what is known of connections with those before it.
    pub(super) fn load_as(
        place: Place<'_>,
        image: &MapImage,
        beginning: Beginning,
    ) -> Result<Self, LoadError> {
        let room = room(image, beginning.largest);
        let seed = Seed::random();
        let (hosts, words, seed) = filled(image, &room, seed)?;
        let tables = rows::of_image(image);
        let mut maps = Vec::with_capacity(tables.len());
        for (table, room) in tables.iter().zip(by_map(&room)) {
            let refused = |source| LoadError::Map { map: table.name, rows: room, source };
            let map = table.create(room).map_err(refused)?;
            table.write(&map).map_err(refused)?;
            maps.push(map);
        }
        let create = |name: &'static str, kind, key, value, flags, rows| {
            let shape = Shape { kind, key, value, flags };
            Map::create(&format!("np_{name}"), shape, rows)
                .map_err(|source| refused(name, rows, source))
        };
        let counters = u32::try_from(room.counters).unwrap_or(u32::MAX);
        let counts = create("counts", PER_PROCESSOR_ARRAY, 4, 16, 0, counters)?;
        let rate = create("rate", PER_PROCESSOR_ARRAY, 4, 24, 0, 1)?;
        let denied = create("denied", RING, 0, 0, 0, RING_SIZE)?;
        let state = create("state", ARRAY, 4, 48, MAPPABLE, 1)?;
        let surroundings = match place {
            Place::Netfilter(..) => None,
            Place::Interfaces(_, surroundings) => Some(Tables::create(surroundings, image, seed)?),
        };
        let keeps = u32::from(beginning.established == Established::Keep);
        let mut value = beginning.version.to_ne_bytes().to_vec();
        value.extend(keeps.to_ne_bytes());
        value.extend(u32::from(image.is_strict()).to_ne_bytes());
        value.extend(seed.0.into_iter().flat_map(u64::to_ne_bytes));
        let masks = surroundings.as_ref().map_or([0, 0], Tables::masks);
        let masks = [hosts.places().mask(), words.mask()].into_iter().chain(masks);
        value.extend(masks.flat_map(u32::to_ne_bytes));
        let refused_state = |source| refused("state", 1, source);
        state.update(&0_u32.to_ne_bytes(), &value).map_err(refused_state)?;
        let version = Version::of(state.descriptor()).map_err(refused_state)?;
        let size = usize::try_from(RING_SIZE).unwrap_or(0);
        let ring = Ring::of(denied.descriptor(), size);
        let ring = ring.map_err(|source| refused("denied", RING_SIZE, source))?;
        let mut descriptors: Vec<(u8, BorrowedFd<'_>)> =
            rows::NUMBERS.into_iter().zip(maps.iter().map(Map::descriptor)).collect();
        descriptors.extend([
            (HOSTS, hosts.places().map().descriptor()),
            (HOST_ROWS, hosts.rows().descriptor()),
            (WORDS, words.map().descriptor()),
            (COUNTS, counts.descriptor()),
            (DENIED, denied.descriptor()),
            (RATE, rate.descriptor()),
            (STATE, state.descriptor()),
        ]);
        let program = match place {
            Place::Netfilter(kernel, checked) => {
                descriptors.push((CHECKED, checked.0.descriptor()));
                JUDGE.load(NETFILTER, Some(kernel), &descriptors)?
            }
            Place::Interfaces(connections, _) => {
                descriptors.extend(connections.descriptors());
                descriptors.extend(surroundings.iter().flat_map(Tables::descriptors));
                TC_JUDGE.load(TC, None, &descriptors)?
            }
        };
        let spare = spare(&room, image, beginning.largest);
        Ok(Self {
            maps,
            hosts,
            words,
            room,
            spare,
            counts,
            rate,
            ring,
            version,
            program,
            surroundings,
        })
    }

    pub(super) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    pub(super) const fn version(&self) -> &Version {
        &self.version
    }

    /// What packets at interfaces meet besides policies.
    pub(super) const fn surroundings(&self) -> Option<&Tables> {
        self.surroundings.as_ref()
    }

    pub(super) const fn surroundings_mut(&mut self) -> Option<&mut Tables> {
        self.surroundings.as_mut()
    }

    pub(super) const fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Returns whether all of an image, and garbage beside it, has room.
    pub(super) fn has_room(
        &self,
        image: &MapImage,
        garbage: [&Garbage; 2],
        largest: (u32, u32),
    ) -> bool {
        let needed = image.rows();
        let beside = |of: fn(&Garbage) -> usize| garbage.into_iter().map(of).sum::<usize>();
        let of = |number: u32| usize::try_from(number).unwrap_or(usize::MAX).saturating_add(1);
        let ports = |garbage: &Garbage| garbage.ports.values().map(Vec::len).sum();
        needed.hosts + beside(|garbage| garbage.hosts.len()) <= self.room.hosts
            && needed.networks + beside(|garbage| garbage.networks.len()) <= self.room.networks
            && of(largest.0) <= self.room.pods
            && of(largest.1) <= self.room.policies
            && needed.words + beside(|garbage| garbage.words.len()) <= self.room.words
            && needed.ports + beside(ports) <= self.room.ports
            && needed.counters <= self.room.counters
    }

    /// Returns whether garbage takes up half of what was left. A change that then needs more would have to wait for every
    /// packet; and numbers that are garbage are not given out again, so that it could find none.
    pub(super) fn is_littered(&self, garbage: &Garbage) -> bool {
        let Garbage { hosts, networks, words, ports, policies, pods, counters } = garbage;
        let counters: usize = counters.iter().map(|(_, count)| count_of(*count)).sum();
        let ports: usize = ports.values().map(Vec::len).sum();
        [
            (hosts.len(), self.spare.hosts),
            (networks.len(), self.spare.networks),
            (words.len(), self.spare.words),
            (ports, self.spare.ports),
            (policies.len(), self.spare.policies),
            (pods.len(), self.spare.pods),
            (counters, self.spare.counters),
        ]
        .into_iter()
        .any(|(garbage, spare)| garbage > spare / 2)
            || self.surroundings.as_ref().is_some_and(Tables::is_littered)
    }

    /// Returns whether the tables have places for what a change writes.
    pub(super) fn has_places(&self, patch: &Patch) -> bool {
        self.hosts.has_room(patch.hosts.len()) && self.words.has_room(patch.words.len())
    }

    /// Writes what a change needs, so that it is in force as soon as the version is this. `networks` are those of the
    /// patch, `image` what it leads to.
    pub(super) fn prepare(
        &mut self,
        patch: &Patch,
        image: &MapImage,
        networks: &[(IpNet, History)],
        version: u64,
    ) -> Result<(), LoadError> {
        let [mut table_of_networks, mut pods, mut policies, mut ports, _] = rows::tables();
        for (list, rows) in &patch.ports {
            rows::push_ports(&mut ports, *list, rows);
        }
        for (number, word) in &patch.policies {
            rows::push_policy(&mut policies, *number, word.bits());
        }
        for (number, row) in &patch.pods {
            rows::push_pod(&mut pods, *number, row);
        }
        for (network, history) in networks {
            rows::push_network(&mut table_of_networks, network, history);
        }
        let write = |table: &rows::Table, map: usize| {
            let Some(map) = self.maps.get(map) else { return Ok(()) };
            table.write(map).map_err(|source| LoadError::Map {
                map: table.name,
                rows: table.rows,
                source,
            })
        };
        write(&ports, rows::PORTS)?;
        write(&policies, rows::POLICIES)?;
        let refused = |map, rows| move |source| LoadError::Map { map, rows, source };
        for (key, word) in &patch.words {
            let put = self.words.put(rows::word_key(*key), word.bits());
            put.map_err(refused("words", patch.words.len()))?;
        }
        write(&pods, rows::PODS)?;
        for (address, _, now) in &patch.hosts {
            let put = self.hosts.put(*address, version, now, &policies_of(image, now));
            put.map_err(refused("hosts", patch.hosts.len()))?;
        }
        write(&table_of_networks, rows::NETWORKS)
    }

    /// Deletes rows that no packet is judged by any more, and gives free what was deleted the last time. Every packet
    /// has been waited for.
    pub(super) fn sweep(&mut self, garbage: &Garbage) -> io::Result<()> {
        self.hosts.rested()?;
        self.words.rested()?;
        self.surroundings.as_mut().map_or(Ok(()), Tables::rested)?;
        garbage.hosts.iter().try_for_each(|address| self.hosts.remove(*address))?;
        let words = &mut self.words;
        garbage.words.iter().try_for_each(|key| words.remove(rows::word_key(*key)).map(drop))?;
        let tables = rows::of_garbage(garbage);
        tables.iter().zip(&self.maps).try_for_each(|(table, map)| table.delete(map))?;
        let blocks = garbage.counters.iter();
        let mut counters = blocks.flat_map(|(first, count)| *first..first.saturating_add(*count));
        counters.try_for_each(|counter| self.counts.clear(&counter.to_ne_bytes()))
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

    /// Loads an image for the front end at interfaces, with a table of connections of its own.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_at_interfaces(
        image: &MapImage,
        surroundings: &Surroundings,
    ) -> Result<Self, LoadError> {
        let connections = Connections::create(None)?;
        let largest = |last: Option<&u32>| last.copied().unwrap_or(0);
        let (pods, policies) = (image.pods.keys().next_back(), image.policies.keys().next_back());
        let beginning = Beginning {
            version: 1,
            established: Established::Recheck,
            largest: (largest(pods), largest(policies)),
        };
        Self::load_as(Place::Interfaces(&connections, surroundings), image, beginning)
    }

    /// Shows a packet to the program of the front end at interfaces, as Ethernet frame, and returns what it does with it.
    ///
    /// # Errors
    /// If the kernel does not run the program.
    pub fn ask_at(&self, side: Side, frame: &[u8]) -> io::Result<Verdict> {
        let outcome = sys::test_run(self.program(), frame, &side.context(), 1)?;
        // TC_ACT_UNSPEC; everything else is no passage, or none for those who come next.
        Ok(if outcome.returned == u32::MAX { Verdict::Allow } else { Verdict::Deny })
    }

    /// Shows the same frame to it many times, and returns how long it takes for one.
    ///
    /// # Errors
    /// As for [`ask_at`](Self::ask_at).
    pub fn time_at(&self, side: Side, frame: &[u8], repeat: u32) -> io::Result<Duration> {
        let outcome = sys::test_run(self.program(), frame, &side.context(), repeat)?;
        Ok(Duration::from_nanos(outcome.duration.into()))
    }

    /// Returns the names of the maps whose rows are not those of the image.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn differences(&self, image: &MapImage) -> io::Result<Vec<&'static str>> {
        self.differences_beside(image, &Garbage::default())
    }

    /// Returns the names of the maps whose rows are not those of the image, or garbage.
    pub(super) fn differences_beside(
        &self,
        image: &MapImage,
        garbage: &Garbage,
    ) -> io::Result<Vec<&'static str>> {
        let version = self.version.get()?;
        let mut names = Vec::new();
        let host = |at| image.hosts.get(&at).map(|host| (host, policies_of(image, host)));
        let is_old = |at| garbage.hosts.contains(&at);
        if !self.hosts.are(host, image.hosts.len(), is_old, version)? {
            names.push("hosts");
        }
        if !self.words_are(image, garbage)? {
            names.push("words");
        }
        let (tables, garbage) = (rows::of_image(image), rows::of_garbage(garbage));
        let tables = tables.iter().zip(&garbage).zip(&self.maps).zip(by_map(&self.room));
        for (((table, garbage), map), room) in tables {
            if !table.is_in(map, room, version, garbage)? {
                names.push(table.name);
            }
        }
        if let Some(tables) = &self.surroundings {
            names.extend(tables.differences()?);
        }
        Ok(names)
    }

    fn words_are(&self, image: &MapImage, garbage: &Garbage) -> io::Result<bool> {
        let mut seen = 0;
        for entry in self.words.entries() {
            let (key, word) = entry?;
            let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
            let key = (half(key >> 32), half(key));
            match image.words.get(&key) {
                Some(expected) if expected.bits() == word => seen += 1,
                None if garbage.words.contains(&key) => {}
                Some(_) | None => return Ok(false),
            }
        }
        Ok(seen == image.words.len())
    }

    /// Returns what the counters count, packets and bytes, each of all processors together.
    pub(super) fn counts(&self) -> io::Result<Vec<(u64, u64)>> {
        let rows = u32::try_from(self.room.counters).map_err(io::Error::other)?;
        let (keys, values) = self.counts.lookup_batch(rows)?;
        let each = values.len() / (keys.len() / 4).max(1);
        Ok(values
            .chunks_exact(each.max(1))
            .map(|values| (sum(values, 0, 16), sum(values, 8, 16)))
            .collect())
    }

    /// Returns how many denied packets the ring had no room for, since it was made.
    pub(super) fn lost(&self) -> io::Result<u64> {
        let value = self.rate.lookup(&0_u32.to_ne_bytes())?;
        Ok(value.map_or(0, |value| sum(&value, 16, 24)))
    }
}

/// Adds up the 64 bits at an offset of each value of this size.
fn sum(values: &[u8], offset: usize, size: usize) -> u64 {
    let number = |value: &[u8]| {
        let bytes = value.get(offset..)?.first_chunk::<8>()?;
        Some(u64::from_ne_bytes(*bytes))
    };
    values.chunks_exact(size).filter_map(number).fold(0, u64::wrapping_add)
}

/// Returns how many rows each map gets, with room for what is likely to come: what does not fit later is loaded beside.
fn room(image: &MapImage, largest: (u32, u32)) -> Rows {
    let rows = image.rows();
    let more = |rows: usize| rows + rows / 4 + 1024;
    Rows {
        hosts: more(rows.hosts),
        networks: more(rows.networks * 2),
        pods: count_of(largest.0).saturating_add(1024),
        policies: count_of(largest.1).saturating_add(1024),
        words: more(rows.words),
        // A list is changed by another beside it.
        ports: more(rows.ports * 2),
        ranges: rows.ranges,
        counters: more(rows.counters * 2),
    }
}

/// Returns how many rows each map has left.
fn spare(room: &Rows, image: &MapImage, largest: (u32, u32)) -> Rows {
    let rows = image.rows();
    Rows {
        hosts: room.hosts.saturating_sub(rows.hosts),
        networks: room.networks.saturating_sub(rows.networks),
        pods: room.pods.saturating_sub(count_of(largest.0)),
        policies: room.policies.saturating_sub(count_of(largest.1)),
        words: room.words.saturating_sub(rows.words),
        ports: room.ports.saturating_sub(rows.ports),
        ranges: 0,
        counters: room.counters.saturating_sub(rows.counters),
    }
}

fn count_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// In the order of `rows::tables`.
const fn by_map(rows: &Rows) -> [usize; 5] {
    [rows.networks, rows.pods, rows.policies, rows.ports, rows.ranges]
}

/// Returns the policies of the pod that an address is.
fn policies_of(image: &MapImage, host: &Host) -> PodRow {
    image.pods.get(&host.pod).copied().unwrap_or_default()
}

/// Returns the tables of an image. Where keys crowd together, another seed spreads them.
fn filled(
    image: &MapImage,
    room: &Rows,
    mut seed: Seed,
) -> Result<(Hosts, Table, Seed), LoadError> {
    let fill = |seed| {
        let refused = |map, rows| move |source| LoadError::Map { map, rows, source };
        let hosts = || -> io::Result<Hosts> {
            let mut hosts = Hosts::create(room.hosts, MOST_REPLACED + 1024, seed)?;
            let mut all = image.hosts.iter();
            all.try_for_each(|(address, host)| {
                hosts.put(*address, 0, host, &policies_of(image, host))
            })?;
            Ok(hosts)
        };
        let words = || -> io::Result<Table> {
            let mut words = Table::create("np_words", room.words, seed)?;
            let mut all = image.words.iter();
            all.try_for_each(|(key, word)| words.put(rows::word_key(*key), word.bits()))?;
            Ok(words)
        };
        let hosts = hosts().map_err(refused("hosts", room.hosts))?;
        Ok((hosts, words().map_err(refused("words", room.words))?, seed))
    };
    for _ in 1..SEEDS {
        match fill(seed) {
            Err(LoadError::Map { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                seed = Seed::random();
            }
            outcome => return outcome,
        }
    }
    fill(seed)
}

fn refused(map: &'static str, rows: u32, source: io::Error) -> LoadError {
    LoadError::Map { map, rows: usize::try_from(rows).unwrap_or(usize::MAX), source }
}

/// By connection, the version of the ruleset that last let it pass. Shared by all sets of maps of a network namespace.
#[derive(Debug)]
pub(super) struct Checked(Map);

impl Checked {
    /// Makes an empty map.
    pub(super) fn create() -> Result<Self, LoadError> {
        let shape = Shape { kind: LRU_HASH, key: 8, value: 8, flags: 0 };
        Map::create("np_checked", shape, CONNECTIONS)
            .map(Self)
            .map_err(|source| refused("checked", CONNECTIONS, source))
    }
}

/// The beginning of the kernel's `struct nf_hook_state`.
pub(super) fn context(hook: Hook, frame: &[u8]) -> [u8; 56] {
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
