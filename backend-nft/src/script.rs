//! The lowered program: nftables' own things as a typed tree.
//!
//! The tree holds only what the lowering needs, so that everything in it can be printed, encoded and evaluated exactly.
//! Names are content: two objects of one name hold the same rules or the same members' source.

mod evaluate;
mod set;
mod text;

#[cfg(feature = "apply")]
pub(crate) use text::TABLE;

pub use set::{Elements, Targets};

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_core::ir::Family;
use netpol_core::model::Protocol;

/// The name of a chain, a set or a map.
pub type Name = Arc<str>;

/// A whole nftables program: one table. `Display` writes it as `nft list table` does, and `nft -f` loads that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Script {
    pub(crate) table: Table,
    pub(crate) topology: Topology,
}

impl Script {
    /// Returns the table.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }
}

/// Where addresses are, which a kernel knows by itself and a model of it must be told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Topology {
    /// Every endpoint's addresses, with the endpoint's number and the addresses of its node.
    pub(crate) pods: BTreeMap<IpAddr, (usize, Arc<[IpAddr]>)>,
    /// The addresses of every node of the scope.
    pub(crate) nodes: BTreeSet<IpAddr>,
}

/// The table, of family `inet`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Table {
    /// Sets, by name.
    pub sets: BTreeMap<Name, Elements>,
    /// Verdict maps, by name.
    pub maps: BTreeMap<Name, Targets>,
    /// Chains, by name.
    pub chains: BTreeMap<Name, Chain>,
}

/// A list of rules.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Chain {
    /// Where packets enter, for a base chain. Type `filter`, priority `filter` (0), policy `accept`: drops are rules,
    /// because a base chain's own policy is not in force while it is being replaced.
    pub hook: Option<Hook>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain sits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "an encoder must know every hook")]
pub enum Hook {
    /// Packets that pass through the node.
    Forward,
    /// Packets that end on the node.
    Input,
}

/// Matches, all of which must hold, and what happens then.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Rule {
    /// The conditions, in the order of evaluation.
    pub matches: Vec<Match>,
    /// What happens.
    pub statement: Statement,
    /// Where the rule comes from, for people; at most 128 bytes.
    pub comment: Option<Arc<str>>,
}

/// A condition.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "an encoder must know every match")]
pub enum Match {
    /// `ct state established,related`.
    EstablishedOrRelated,
    /// `icmpv6 type 133-137`: solicitations, advertisements, redirects (NP-115).
    NeighbourDiscovery,
    /// The key is in the set.
    In(Key, Name),
    /// The key is not in the set.
    NotIn(Key, Name),
    /// The address lies in the range.
    Within(End, AddressRange),
    /// `meta l4proto`.
    Protocol(Protocol),
    /// The destination port of the protocol lies in the range, both ends included.
    Port(Protocol, u16, u16),
}

/// What of a packet is looked up.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "an encoder must know every key")]
pub enum Key {
    /// `ip saddr` and its like.
    Address(Family, End),
    /// `ip saddr . ip daddr`.
    Addresses(Family),
    /// `tcp dport` and its like.
    Port(Protocol),
    /// `meta l4proto`.
    Protocol,
    /// `meta l4proto . th dport`.
    ProtocolPort,
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "there is no third")]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A range of addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "there is no third family")]
pub enum AddressRange {
    /// IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

/// What a rule does.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "an encoder must know every statement")]
pub enum Statement {
    /// A verdict.
    Verdict(Verdict),
    /// The verdict that a map holds for the key; none, if it holds none.
    Map(Key, Name),
}

/// A verdict in nftables' sense.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "an encoder must know every verdict")]
pub enum Verdict {
    /// Ends the evaluation of this table; the packet goes on.
    Accept,
    /// Ends the packet.
    Drop,
    /// Goes to a chain for good: where it ends, so does this one.
    Goto(Name),
    /// Goes to a chain, and comes back where that ends.
    Jump(Name),
}

impl Rule {
    /// A rule without a comment.
    pub(crate) const fn new(matches: Vec<Match>, statement: Statement) -> Self {
        Self { matches, statement, comment: None }
    }

    /// A rule that gives every packet a verdict.
    pub(crate) const fn always(verdict: Verdict) -> Self {
        Self::new(Vec::new(), Statement::Verdict(verdict))
    }
}
