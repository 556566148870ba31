//! What is known of connections, whatever the ruleset.

use core::time::Duration;
use std::io;
use std::os::fd::BorrowedFd;

use super::super::error::LoadError;
use super::super::pins::Pins;
use super::super::sys::{Map, Shape};
use super::super::table::{ARRAY, Seed};

/// `BPF_MAP_TYPE_LRU_HASH`.
const LRU_HASH: u32 = 9;
const FLOWS: Shape = Shape { kind: LRU_HASH, key: 48, value: 32, flags: 0 };
/// What tags of connections and fragments are made with: one number for each half word of a key, one for the kind, one more.
const SECRET: Shape = Shape { kind: ARRAY, key: 4, value: 14 * 8, flags: 0 };
const FRAGMENTS: Shape = Shape { kind: LRU_HASH, key: 48, value: 24, flags: 0 };

/// `BPF_MAP_TYPE_PERCPU_ARRAY`.
const WORK: Shape = Shape { kind: 6, key: 4, value: 232, flags: 0 };

/// How many ends of connections are known at once: a connection between two pods of a node has two.
const MOST_FLOWS: u32 = 1 << 17;
/// Of how many datagrams fragments are awaited at once.
const MOST_FRAGMENTS: u32 = 1 << 13;

/// The numbers of the maps in the program's source.
const FLOWS_NUMBER: u8 = 0x30;
const FRAGMENTS_NUMBER: u8 = 0x31;
const WORK_NUMBER: u8 = 0x36;
const SECRET_NUMBER: u8 = 0x38;

/// The pins of the connections.
const FLOWS_PIN: &str = "flows";
const SECRET_PIN: &str = "secret";
pub(super) const PINS: [&str; 2] = [FLOWS_PIN, SECRET_PIN];

/// For how long connections are known without packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "embedders write it as a literal, with a default for the rest"
)]
pub struct Times {
    /// TCP and SCTP that nobody has answered. A minute.
    pub opening: Duration,
    /// TCP and SCTP otherwise. Two hours.
    pub open: Duration,
    /// TCP after an end or a reset. Half a minute.
    pub closing: Duration,
    /// UDP and echo that nobody has answered. Half a minute.
    pub unanswered: Duration,
    /// UDP, echo and protocols without ports otherwise. Three minutes.
    pub answered: Duration,
    /// Protocols without ports that nobody has answered. Half a minute.
    pub bare: Duration,
    /// The ports of a datagram of which fragments are missing. Half a minute.
    pub fragment: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Self {
            opening: Duration::from_secs(60),
            open: Duration::from_secs(2 * 60 * 60),
            closing: half_a_minute,
            unanswered: half_a_minute,
            answered: Duration::from_secs(180),
            bare: half_a_minute,
            fragment: half_a_minute,
        }
    }
}

impl Times {
    /// Writes `struct times`.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { opening, open, closing, unanswered, answered, bare, fragment } = *self;
        let all = [opening, open, closing, unanswered, answered, bare, fragment];
        // Half of the numbers are enough for centuries; the others would be times before now.
        let nanoseconds =
            |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 4);
        all.into_iter().flat_map(|time| nanoseconds(time).to_ne_bytes()).collect()
    }
}

/// The connections of pods, shared by all sets of maps of a network namespace.
#[derive(Debug)]
pub(crate) struct Connections {
    flows: Map,
    /// As long as `flows`, since what is in there is made with it.
    secret: Map,
    fragments: Map,
    /// What a processor knows of the packet that it judges.
    work: Map,
}

impl Connections {
    /// Makes empty maps, or takes over the connections that pins hold.
    pub(crate) fn create(pins: Option<&Pins>) -> Result<Self, LoadError> {
        let refused = |map, rows| move |source| LoadError::Map { map, rows, source };
        let kept = |name, pin| match pins {
            Some(pins) => pins.get(pin).map_err(refused(name, 0)),
            None => Ok(None),
        };
        let keep = |map: &Map, name, pin| match pins {
            Some(pins) => pins.put(pin, map.descriptor()).map_err(refused(name, 0)),
            None => Ok(()),
        };
        // Connections without their secret are none: what is known of them counts for nobody.
        let secret = match kept("secret", SECRET_PIN)? {
            Some(descriptor) => Map::from_descriptor(descriptor, SECRET),
            None => {
                let secret = new_secret().map_err(refused("secret", 1))?;
                keep(&secret, "secret", SECRET_PIN)?;
                secret
            }
        };
        let flows = match kept("flows", FLOWS_PIN)? {
            Some(descriptor) => Map::from_descriptor(descriptor, FLOWS),
            None => {
                let flows = Map::create("np_flows", FLOWS, MOST_FLOWS)
                    .map_err(refused("flows", 1 << 17))?;
                keep(&flows, "flows", FLOWS_PIN)?;
                flows
            }
        };
        let fragments = Map::create("np_fragments", FRAGMENTS, MOST_FRAGMENTS)
            .map_err(refused("fragments", 1 << 13))?;
        let work = Map::create("np_work", WORK, 1).map_err(refused("work", 1))?;
        Ok(Self { flows, secret, fragments, work })
    }

    /// Returns the maps, each with its number in the program's source.
    pub(crate) fn descriptors(&self) -> [(u8, BorrowedFd<'_>); 4] {
        [
            (FLOWS_NUMBER, self.flows.descriptor()),
            (SECRET_NUMBER, self.secret.descriptor()),
            (FRAGMENTS_NUMBER, self.fragments.descriptor()),
            (WORK_NUMBER, self.work.descriptor()),
        ]
    }
}

/// Draws the numbers. Filled before it has a pin, so that nobody takes over an empty one.
fn new_secret() -> io::Result<Map> {
    let secret = Map::create("np_secret", SECRET, 1)?;
    let numbers = [(); 7].map(|()| Seed::random().0);
    let bytes: Vec<u8> =
        numbers.as_flattened().iter().flat_map(|number| number.to_ne_bytes()).collect();
    secret.update(&0_u32.to_ne_bytes(), &bytes)?;
    Ok(secret)
}

#[cfg(all(test, feature = "kernel-tests"))]
mod tests;
