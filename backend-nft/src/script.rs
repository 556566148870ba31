//! The lowered program: nftables' own things as a typed tree.
//!
//! The tree holds only what the lowering needs, so that everything in it can be printed, encoded and evaluated exactly.
//! Names are content: two objects of one name hold the same rules or the same members' source.

#[cfg(not(all(test, feature = "apply")))]
mod evaluate;
#[cfg(all(test, feature = "apply"))]
pub(crate) mod evaluate;
mod set;
mod text;

#[cfg(feature = "apply")]
pub(crate) use text::TABLE;

pub use set::{Elements, Targets};

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_core::backend::Cause;
use netpol_core::ir::{self, Direction, Family};
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
    /// For how many members the sets of peers have room, by name: more than they hold, as members come one by one.
    pub rooms: BTreeMap<Name, u32>,
}

impl Table {
    /// Returns for how many members a set is declared; `None` for as many as come.
    ///
    /// The kernel makes the table of such a hash set once, which loads twice as fast as one that grows, and looks up faster.
    pub(crate) fn room(&self, name: &str, elements: &Elements) -> Option<u32> {
        match elements {
            Elements::V4(_) | Elements::V6(_) => {
                // Without a room of its own, a set is named by its members and never edited.
                Some(self.rooms.get(name).copied().unwrap_or_else(|| exact_room(elements.len())))
            }
            Elements::ProtocolPorts(_) => Some(exact_room(elements.len())),
            // One comes before another goes.
            Elements::Marks(_) => Some(2),
            // Ranges are no hash, protocols are a bitmap, and pairs are edited but seldom looked up.
            Elements::V4Ranges(_)
            | Elements::V6Ranges(_)
            | Elements::Ports(_)
            | Elements::Protocols(_)
            | Elements::V4Pairs(_)
            | Elements::V6Pairs(_) => None,
        }
    }
}

impl Targets {
    /// Returns for how many entries a map is declared; `None` for as many as come. Maps are never edited.
    pub(crate) fn room(&self) -> Option<u32> {
        match self {
            Self::V4(_) | Self::V6(_) => Some(exact_room(self.len())),
            Self::Ports(_) => None,
        }
    }
}

/// Returns the room of what is never edited. Zero would mean as many as come.
fn exact_room(members: usize) -> u32 {
    u32::try_from(members).unwrap_or(u32::MAX).max(1)
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
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Rule {
    /// The conditions, in the order of evaluation.
    pub matches: Vec<Match>,
    /// Under what the packets are counted for which it happens, if they are.
    pub counted: Option<Arc<Counted>>,
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
    /// `ct state related`: ICMP errors about a connection, and what a helper expects.
    Related,
    /// `ct direction reply`: against the direction in which the connection was opened.
    Reply,
    /// The bits of a mask in the connection's mark are in the set: it was judged by this generation of the rules.
    Stamped(u32, Name),
    /// `icmpv6 type 133-137`: solicitations, advertisements, redirects (NP-115).
    NeighbourDiscovery,
    /// The key is in the set.
    In(Key, Name),
    /// The key is not in the set.
    NotIn(Key, Name),
    /// The address lies in the range.
    Within(View, End, AddressRange),
    /// `meta l4proto`.
    Protocol(Protocol),
    /// The destination port of the protocol lies in the range, both ends included.
    Port(View, Protocol, u16, u16),
}

/// Where an address or port is read. For the packet that opens a connection both say the same.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "an encoder must know every view")]
pub enum View {
    /// From the packet's headers.
    Packet,
    /// From the connection that the packet belongs to, in the direction in which it was opened, whichever way the packet
    /// goes: `ct original saddr`, `ct reply saddr`. After destination NAT, before source NAT.
    Connection,
}

/// A generation of the rules, as it stands in the mark of the connections that they let through.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "bits, and their value")]
pub struct Stamp {
    /// The bits of the mark that are ours.
    pub mask: u32,
    /// Their value. Zero, which every new connection has, is no generation.
    pub value: u32,
}

/// What of a packet is looked up.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "an encoder must know every key")]
pub enum Key {
    /// `ip saddr` and its like.
    Address(View, Family, End),
    /// `ip saddr . ip daddr`.
    Addresses(View, Family),
    /// `tcp dport` and its like.
    Port(View, Protocol),
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
    /// Marks the connection as judged by a generation; ends nothing.
    Stamp(Stamp),
    /// Reports the packet, unless there were too many; ends nothing.
    Report(Report),
}

/// Reports of packets to user space, at a limited rate.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "an encoder must know all of it")]
pub struct Report {
    /// The group of netfilter's log.
    pub group: u16,
    /// How many packets a second, and as many more at once.
    pub per_second: u32,
    /// What each report begins with.
    pub prefix: Arc<str>,
}

/// What packets are counted under.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "what a counter tells")]
pub struct Counted {
    /// Which side decided.
    pub direction: Direction,
    /// What it decided.
    pub verdict: ir::Verdict,
    /// Why.
    pub cause: Cause,
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

impl Verdict {
    /// Returns the chain that it leads to.
    pub(crate) const fn chain(&self) -> Option<&Name> {
        match self {
            Self::Goto(chain) | Self::Jump(chain) => Some(chain),
            Self::Accept | Self::Drop => None,
        }
    }
}

impl Rule {
    /// Returns the sets, maps and chains that the rule names.
    pub(crate) fn references(&self) -> impl Iterator<Item = &Name> {
        let looked_up = self.matches.iter().filter_map(|condition| match condition {
            Match::In(_, set) | Match::NotIn(_, set) | Match::Stamped(_, set) => Some(set),
            Match::EstablishedOrRelated
            | Match::Related
            | Match::Reply
            | Match::NeighbourDiscovery
            | Match::Within(..)
            | Match::Protocol(_)
            | Match::Port(..) => None,
        });
        let led_to = match &self.statement {
            Statement::Verdict(verdict) => verdict.chain(),
            Statement::Map(_, map) => Some(map),
            Statement::Stamp(_) | Statement::Report(_) => None,
        };
        looked_up.chain(led_to)
    }

    /// A rule without a comment.
    pub(crate) const fn new(matches: Vec<Match>, statement: Statement) -> Self {
        Self { matches, counted: None, statement, comment: None }
    }

    /// The same rule, counting.
    pub(crate) fn counting(self, counted: Arc<Counted>) -> Self {
        Self { counted: Some(counted), ..self }
    }

    /// A rule that gives every packet a verdict.
    pub(crate) const fn always(verdict: Verdict) -> Self {
        Self::new(Vec::new(), Statement::Verdict(verdict))
    }
}
