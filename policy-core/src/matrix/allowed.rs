//! What may pass on one side, as a set.

use alloc::vec::Vec;
use core::fmt;

use crate::ir::{
    OtherProtocols, PeerSetId, Peers, Pipeline, Ports, Rule, Settings, Situation, Transport,
    Verdict, decide,
};
use crate::model::Protocol;
use crate::net::PortSet;

/// A set of traffic: ports, and everything without ports.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Allowed {
    /// The destination ports.
    pub ports: PortSet,
    /// Protocols without ports: they are judged alike, all or none (DEC-02).
    pub others: bool,
}

impl Allowed {
    /// Returns whether everything may pass.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.others && self.ports.is_all()
    }

    /// Returns whether nothing may pass.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        !self.others && self.ports.is_empty()
    }

    /// Returns what both let pass.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self { ports: self.ports.intersection(&other.ports), others: self.others && other.others }
    }

    /// Asks the evaluator at every place where its answer can change: the ends of the port ranges of rules whose peers
    /// match.
    pub(super) fn by(
        pipeline: &Pipeline,
        settings: Settings,
        contains: impl Fn(PeerSetId) -> bool,
    ) -> Self {
        let peers_match = |rule: &Rule| match rule.peers {
            Peers::Any => true,
            Peers::Set(id) => contains(id),
        };
        let verdict = |transport: Transport| {
            let matches = |rule: &Rule| rule.ports.contains(transport) && peers_match(rule);
            decide(pipeline, Situation::Ordinary, settings, matches).verdict
        };
        let mut ranges = Vec::new();
        for protocol in Protocol::ALL {
            let mut starts = alloc::vec![0_u16];
            for (_, rule) in pipeline.rules().filter(|(_, rule)| peers_match(rule)) {
                if let Ports::Set(ports) = &rule.ports {
                    for (low, high) in ports.of(protocol).iter() {
                        starts.push(low);
                        starts.extend(high.checked_add(1));
                    }
                }
            }
            starts.sort_unstable();
            starts.dedup();
            let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
            let pieces = starts.iter().copied().zip(ends);
            let open = pieces
                .filter(|(low, _)| verdict(Transport::Port(protocol, *low)) == Verdict::Allow);
            ranges.extend(open.map(|(low, high)| (protocol, low, high)));
        }
        let others = settings.other_protocols == OtherProtocols::Pass
            || verdict(Transport::Other(1)) == Verdict::Allow;
        Self { ports: PortSet::from_ranges(ranges), others }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_everything(), self.others) {
            (true, _) => f.write_str("all"),
            (false, true) => write!(f, "{} and protocols without ports", self.ports),
            (false, false) => fmt::Display::fmt(&self.ports, f),
        }
    }
}
