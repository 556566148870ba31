//! All traffic as one line of cells, painted rule by rule.

use alloc::vec::Vec;

use super::pieces::{Piece, Pieces};
use crate::ir::{Ports, SideDecision};
use crate::model::Protocol;

/// What a rule does to the cells it matches.
#[derive(Clone, Debug)]
pub(super) enum Stroke {
    /// Decides them, finally.
    Decide(SideDecision),
    /// Shields them from the rest of the tier (CNP-020).
    LeaveTier,
}

/// Cells over the line of all traffic: the ports of each protocol after those of the one before, and behind them one
/// point for protocols without ports. Within a cell every rule matches all or nothing.
///
/// Every cell is painted once and then skipped, so painting costs the rules and the cells, not their product.
#[derive(Debug)]
pub(super) struct Canvas<'a> {
    /// Where the cells start, ascending, the first at 0.
    starts: Vec<u32>,
    decided: Vec<Option<&'a SideDecision>>,
}

const PORTS: u32 = 1 << 16;

/// The point of the protocols without ports.
const OTHERS: u32 = 3 * PORTS;

const fn base(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => PORTS,
        Protocol::Sctp => 2 * PORTS,
    }
}

/// Returns the parts of the line that ports match, last points included.
fn spans(ports: &Ports) -> impl Iterator<Item = (u32, u32)> + '_ {
    let (any, set) = match ports {
        Ports::Any => (Some((0, OTHERS)), None),
        Ports::Set(set) => (None, Some(set)),
    };
    let ranges = set.into_iter().flat_map(|set| set.ranges()).map(|(protocol, low, high)| {
        (base(protocol) + u32::from(low), base(protocol) + u32::from(high))
    });
    any.into_iter().chain(ranges)
}

impl<'a> Canvas<'a> {
    /// An empty canvas, with cells for rules of these ports.
    pub(super) fn new<'p>(ports: impl Iterator<Item = &'p Ports>) -> Self {
        let mut starts: Vec<u32> = Protocol::ALL.map(base).to_vec();
        starts.push(OTHERS);
        for ports in ports {
            starts.extend(spans(ports).flat_map(|(low, high)| [low, high + 1]));
        }
        starts.retain(|start| *start <= OTHERS);
        starts.sort_unstable();
        starts.dedup();
        let decided = alloc::vec![None; starts.len()];
        Self { starts, decided }
    }

    /// Paints one tier: of its rules in order, the first that matches a cell counts.
    pub(super) fn tier(&mut self, rules: impl Iterator<Item = (&'a Ports, &'a Stroke)>) {
        let mut open = Open::new(&self.decided);
        for (ports, stroke) in rules {
            if open.is_empty() {
                return;
            }
            for (low, high) in spans(ports) {
                let mut cell = open.from(self.starts.partition_point(|start| *start < low));
                while self.starts.get(cell).is_some_and(|start| *start <= high) {
                    if let (Stroke::Decide(decision), Some(decided)) =
                        (stroke, self.decided.get_mut(cell))
                    {
                        *decided = Some(decision);
                    }
                    open.close(cell);
                    cell = open.from(cell + 1);
                }
            }
        }
    }

    /// Gives every cell left over the decision `end`, protocols without ports the decision `others` if there is one, and
    /// joins neighbours that are decided alike.
    pub(super) fn finish(self, end: &SideDecision, others: Option<SideDecision>) -> Pieces {
        let Self { starts, decided } = self;
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([OTHERS]);
        let mut ports: Vec<Piece> = Vec::new();
        let mut portless = end;
        for ((low, high), decision) in starts.iter().copied().zip(ends).zip(&decided) {
            let decision = decision.unwrap_or(end);
            let protocol = Protocol::ALL.into_iter().rev().find(|protocol| base(*protocol) <= low);
            let Some(protocol) = protocol.filter(|_| low < OTHERS) else {
                portless = decision;
                continue;
            };
            let port = |point: u32| u16::try_from(point - base(protocol)).unwrap_or(u16::MAX);
            let (low, high) = (port(low), port(high));
            match ports.last_mut() {
                Some(last) if last.protocol == protocol && last.decision == *decision => {
                    last.high = high;
                }
                Some(_) | None => {
                    ports.push(Piece { protocol, low, high, decision: decision.clone() });
                }
            }
        }
        ports.shrink_to_fit();
        Pieces { ports, others: others.unwrap_or_else(|| portless.clone()) }
    }
}

/// The cells that a tier may still paint.
struct Open {
    /// For each cell, and for the end: itself if it is open, else a later one to go on from.
    next: Vec<usize>,
    left: usize,
}

impl Open {
    fn new(decided: &[Option<&SideDecision>]) -> Self {
        let cell = |(cell, decided): (usize, &Option<&SideDecision>)| {
            if decided.is_some() { cell + 1 } else { cell }
        };
        let next = decided.iter().enumerate().map(cell).chain([decided.len()]).collect();
        Self { next, left: decided.iter().filter(|decided| decided.is_none()).count() }
    }

    const fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Returns the first open cell from `cell` on, or the end; shortens the way for the next time.
    fn from(&mut self, cell: usize) -> usize {
        let mut found = cell;
        while let Some(next) = self.next.get(found).copied()
            && next != found
        {
            found = next;
        }
        let mut at = cell;
        while let Some(next) = self.next.get_mut(at)
            && *next != found
        {
            at = core::mem::replace(next, found);
        }
        found
    }

    fn close(&mut self, cell: usize) {
        if let Some(next) = self.next.get_mut(cell) {
            *next = cell + 1;
            self.left = self.left.saturating_sub(1);
        }
    }
}
