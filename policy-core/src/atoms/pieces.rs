//! What one class may do at every port, as disjoint pieces.

use alloc::vec::Vec;

use super::Allowed;
use crate::ir::{SideDecision, Transport, Verdict};
use crate::model::Protocol;
use crate::net::PortSet;

/// A range of ports of one protocol that is decided alike, by one origin.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a backend lowers every part of a piece")]
pub struct Piece {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port.
    pub low: u16,
    /// The last port.
    pub high: u16,
    /// The final decision: tiers, union and default are folded in.
    pub decision: SideDecision,
}

/// The final decision on all traffic between a pipeline's pods and the addresses of one class.
///
/// INVARIANT (complete pieces): the pieces are disjoint and hold every port of every protocol; upheld by the fold.
/// INVARIANT (merged pieces): neighbours of one protocol differ in their decision; upheld by the fold.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Pieces {
    pub(super) ports: Vec<Piece>,
    pub(super) others: SideDecision,
}

impl Pieces {
    /// Decides everything alike.
    pub(super) fn uniform(decision: &SideDecision, others: SideDecision) -> Self {
        let ports = Protocol::ALL.into_iter().map(|protocol| Piece {
            protocol,
            low: 0,
            high: u16::MAX,
            decision: decision.clone(),
        });
        Self { ports: ports.collect(), others }
    }

    /// Returns the pieces by protocol and port, ascending.
    #[must_use]
    pub fn ports(&self) -> &[Piece] {
        &self.ports
    }

    /// Returns the decision on protocols without ports: they are decided alike (DEC-02).
    #[must_use]
    pub const fn others(&self) -> &SideDecision {
        &self.others
    }

    /// Returns how many pieces there are, protocols without ports being one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "pieces hold all traffic")]
    pub const fn len(&self) -> usize {
        self.ports.len() + 1
    }

    /// Returns the decision on traffic of this kind. Costs O(log n).
    #[must_use]
    pub fn decide(&self, transport: Transport) -> &SideDecision {
        let Transport::Port(protocol, port) = transport else { return &self.others };
        let after =
            self.ports.partition_point(|piece| (piece.protocol, piece.low) <= (protocol, port));
        let piece = after.checked_sub(1).and_then(|at| self.ports.get(at));
        // INVARIANT (complete pieces): there always is one.
        piece.map_or(&self.others, |piece| &piece.decision)
    }

    /// Returns what may pass, whatever lets it.
    #[must_use]
    pub fn without_origin(&self) -> Allowed {
        let open = self.ports.iter().filter(|piece| piece.decision.verdict == Verdict::Allow);
        Allowed {
            ports: PortSet::from_ranges(open.map(|piece| (piece.protocol, piece.low, piece.high))),
            others: self.others.verdict == Verdict::Allow,
        }
    }
}
