//! What the program counted and told, resolved to flows, policies and rules.

use alloc::collections::BTreeMap;
use std::io;

use netpol_core::backend::{Cause, Counter, Denial, Denials};
use netpol_core::ir::{Direction, Flow, Transport, Verdict};
use netpol_core::model::Protocol;

use super::mapped::Ring;
use super::rows::decode_address;
use crate::image::CounterId;
use crate::lower::{Lowering, Told};

/// Returns every cause that can decide, with its packets and their bytes.
pub(super) fn counters(lowering: &Lowering, counts: &[(u64, u64)]) -> io::Result<Vec<Counter>> {
    let mut sums: BTreeMap<(Direction, Verdict, Cause), (u64, u64)> = BTreeMap::new();
    for (counter, told) in lowering.told() {
        let place = usize::try_from(counter).map_err(io::Error::other)?;
        let (packets, bytes) = counts.get(place).copied().unwrap_or_default();
        let sum = sums.entry((told.direction, told.verdict, told.cause)).or_default();
        *sum = (sum.0.saturating_add(packets), sum.1.saturating_add(bytes));
    }
    let counter = |((direction, verdict, cause), (packets, bytes))| Counter {
        direction,
        verdict,
        cause,
        packets,
        bytes,
    };
    Ok(sums.into_iter().map(counter).collect())
}

/// `struct denial`, read.
struct Event {
    version: u64,
    flow: Flow,
    source_port: Option<u16>,
    direction: Direction,
    counter: CounterId,
    /// Everything that was to be seen of the packet was seen.
    is_whole: bool,
}

/// `enum content`.
const WITH_PORT: u8 = 1;
const WITHOUT_PORT: u8 = 2;

impl Event {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<8>()?;
        let (source, rest) = rest.split_first_chunk::<20>()?;
        let (destination, rest) = rest.split_first_chunk::<20>()?;
        let (counter, rest) = rest.split_first_chunk::<4>()?;
        let [a, b, c, d, protocol, content, is_ingress] = *rest.first_chunk::<7>()?;
        let (source_port, port) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        let with_ports = Protocol::ALL.into_iter().find(|known| known.number() == protocol);
        let transport = with_ports
            .map_or(Transport::Other(protocol), |protocol| Transport::Port(protocol, port));
        Some(Self {
            version: u64::from_ne_bytes(*version),
            flow: Flow::new(decode_address(source)?, decode_address(destination)?, transport),
            source_port: (content == WITH_PORT).then_some(source_port),
            direction: if is_ingress == 0 { Direction::Egress } else { Direction::Ingress },
            counter: u32::from_ne_bytes(*counter),
            is_whole: matches!(content, WITH_PORT | WITHOUT_PORT),
        })
    }
}

/// Takes the denied packets out of a ring.
pub(super) fn drain(
    lowering: &Lowering,
    ring: &mut Ring,
    versions: (u64, u64),
    to: &mut Denials,
) -> io::Result<()> {
    let mut events = Vec::new();
    ring.drain(|bytes| events.extend(Event::read(bytes)))?;
    if events.is_empty() {
        return Ok(());
    }
    let told = lowering.told();
    for event in events {
        let cause = cause(lowering, &told, &event, versions);
        let Event { flow, source_port, direction, .. } = event;
        let Some(cause) = cause else {
            // Of a policy that is gone: nothing says any more which it was.
            to.lost += 1;
            continue;
        };
        to.flows.push(Denial { flow, source_port, direction, cause });
    }
    Ok(())
}

/// Returns what denied a packet: what the policy says of just this, where it is the same policy still, else what its
/// counter counts.
fn cause(
    lowering: &Lowering,
    told: &BTreeMap<CounterId, Told>,
    event: &Event,
    (first, version): (u64, u64),
) -> Option<Cause> {
    let told = told.get(&event.counter)?;
    // Each change raises the version by one.
    if event.version < first.saturating_add(told.since) {
        return None;
    }
    let peer = match event.direction {
        Direction::Ingress => event.flow.source,
        Direction::Egress => event.flow.destination,
    };
    let exactly = told
        .policy
        .filter(|_| event.is_whole && event.version == version)
        .and_then(|policy| lowering.denied_by(policy, peer, event.flow.transport));
    Some(exactly.unwrap_or_else(|| told.cause.clone()))
}
