//! The lowered program: what the restore commands read, as a typed tree.
//!
//! The tree holds only what the lowering needs, so that everything in it can be printed, compared with the kernel's listing
//! and evaluated exactly. Names outside the frame are content: chains of one name hold the same rules, sets of one name what
//! the same peer sets, ports or pipelines ask for, whatever members those have at the moment.

mod evaluate;
mod name;
mod set;
mod text;

pub(crate) use name::{chain_name, collision, other_edition, set_name};
pub use set::{Elements, Member};
pub use text::Sets;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::backend::Cause;
use netpol_core::ir::{Direction, Family};
use netpol_core::model::Protocol;

/// The name of a chain or a set.
pub type Name = Arc<str>;

/// What every chain and set of ours begins with.
pub const PREFIX: &str = "NETPOL-";

/// The input of `ipset restore`, `iptables-restore --noflush` and `ip6tables-restore --noflush`, in this order.
///
/// `Display` writes all three, each under a comment that names its reader.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RestoreInput {
    pub(crate) sets: BTreeMap<Name, Elements>,
    pub(crate) v4: Filter,
    pub(crate) v6: Filter,
    pub(crate) topology: Topology,
}

impl RestoreInput {
    /// Returns the sets. Their `Display` is the input of `ipset restore`.
    #[must_use]
    pub const fn sets(&self) -> Sets<'_> {
        Sets(&self.sets)
    }

    /// Returns the chains of a family. Their `Display` is the input of `iptables-restore --noflush`, or of
    /// `ip6tables-restore --noflush`.
    #[must_use]
    pub const fn filter(&self, family: Family) -> &Filter {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// Where addresses are, which a kernel knows by itself and a model of it must be told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Topology {
    /// Every endpoint's addresses, with the endpoint's number and the addresses of its node.
    pub(crate) pods: BTreeMap<IpAddr, (usize, Arc<[IpAddr]>)>,
}

/// Our chains in the table `filter` of one family.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Filter {
    /// The chains, by name. What stays the same from one program to the next is shared.
    pub chains: BTreeMap<Name, Arc<[Rule]>>,
}

impl Filter {
    /// Returns whether the rules are the same but for the mark of settled connections.
    #[cfg(feature = "apply")]
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        self.chains.len() == other.chains.len()
            && self.chains.iter().zip(&other.chains).all(|((own, ours), (name, theirs))| {
                own == name && (Arc::ptr_eq(ours, theirs) || are_alike(ours, theirs))
            })
    }
}

#[cfg(feature = "apply")]
fn are_alike(ours: &[Rule], theirs: &[Rule]) -> bool {
    ours.len() == theirs.len()
        && ours.iter().zip(theirs).all(|(ours, theirs)| ours.is_alike(theirs))
}

/// A built-in chain that leads into ours by its first rule.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "a writer must know every hook")]
pub enum Hook {
    /// Packets that pass through the node.
    Forward,
    /// Packets that end on the node.
    Input,
}

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 2] = [Self::Forward, Self::Input];

    /// Returns the name of the built-in chain.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "FORWARD",
            Self::Input => "INPUT",
        }
    }

    /// Returns the name of the chain of ours that it jumps to.
    #[must_use]
    pub const fn chain(self) -> &'static str {
        match self {
            Self::Forward => "NETPOL-FORWARD",
            Self::Input => "NETPOL-INPUT",
        }
    }
}

/// Matches, all of which must hold, and what happens then.
///
/// INVARIANT (canonical order): the matches ascend, which is the order in which the kernel's listing writes them; upheld
/// by its only constructor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    matches: Vec<Match>,
    target: Target,
    comment: Option<Arc<str>>,
    /// What it counts for, where it decides.
    account: Option<Arc<Account>>,
}

impl Rule {
    pub(crate) fn new(mut matches: Vec<Match>, target: Target) -> Self {
        matches.sort();
        Self { matches, target, comment: None, account: None }
    }

    /// A rule for every packet.
    pub(crate) const fn always(target: Target) -> Self {
        Self { matches: Vec::new(), target, comment: None, account: None }
    }

    pub(crate) fn with_comment(self, comment: Option<Arc<str>>) -> Self {
        Self { comment, ..self }
    }

    pub(crate) fn because(self, account: Option<Arc<Account>>) -> Self {
        Self { account, ..self }
    }

    /// Returns what the rule's packets count for; `None` where it decides nothing, or lets pass what no policy is about.
    #[must_use]
    pub fn account(&self) -> Option<&Account> {
        self.account.as_deref()
    }

    #[cfg(feature = "apply")]
    fn is_alike(&self, other: &Self) -> bool {
        let same_match = |(ours, theirs): (&Match, &Match)| {
            ours == theirs || matches!((ours, theirs), (Match::Mark(_), Match::Mark(_)))
        };
        let same_target = self.target == other.target
            || matches!((&self.target, &other.target), (Target::Mark(_), Target::Mark(_)));
        same_target
            && (&self.comment, &self.account) == (&other.comment, &other.account)
            && self.matches.len() == other.matches.len()
            && self.matches.iter().zip(&other.matches).all(same_match)
    }

    /// Returns the conditions.
    #[must_use]
    pub fn matches(&self) -> &[Match] {
        &self.matches
    }

    /// Returns what happens.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Returns where the rule comes from, for people.
    #[must_use]
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }
}

/// What a decision counts for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "whose side, and why")]
pub struct Account {
    /// Of which side.
    pub direction: Direction,
    /// What decides.
    pub cause: Cause,
}

/// What a report of a denied packet is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reported {
    pub(crate) account: Arc<Account>,
    /// Whether the packet is an answer, so that its source is the destination that was judged.
    pub(crate) is_answer: bool,
}

/// A condition. A rule has at most one that names a protocol.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "a writer must know every match")]
pub enum Match {
    /// `-s` or `-d`.
    Within(End, IpNet),
    /// `-p`.
    Protocol(Protocol),
    /// `-p tcp -m tcp --dport` and its like: from the first to the second port, both included.
    Port(End, Protocol, u16, u16),
    /// `-p tcp -m multiport --dports` and its like: up to 15 ports, a range counting two.
    Ports(End, Protocol, Vec<(u16, u16)>),
    /// `-p ipv6-icmp -m icmp6 --icmpv6-type`.
    Icmpv6(u8),
    /// `-m conntrack --ctstate`.
    State(State),
    /// `-m connmark --mark`: the bits of the mask have this value.
    Mark(Mark),
    /// `-m bpf --bytecode`: source and destination are the same address of this family.
    SameAddress(Family),
    /// `-m set --match-set`.
    In(Name, Key),
    /// `-m set ! --match-set`.
    NotIn(Name, Key),
    /// `-m limit`: so many packets a second, and twice as many at once.
    Limit(u16),
}

/// What connection tracking knows of a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "a writer must know every state")]
pub enum State {
    /// Of a connection that both ends speak on, or about one.
    EstablishedOrRelated,
    /// Of a connection that both ends speak on.
    Established,
    /// An error about a connection, or one that another announced.
    Related,
    /// From the end that did not open the connection.
    Reply,
}

/// Bits of a connection's mark.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "a value and a mask")]
pub struct Mark {
    /// Their value; zero outside of the mask.
    pub value: u32,
    /// Which bits.
    pub mask: u32,
}

/// What of a packet is looked up.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "a writer must know every key")]
pub enum Key {
    /// `src` or `dst`.
    Address(End),
    /// `src,dst` and its like: the address of the first end with the protocol and the port of the second.
    AddressPort(End, End),
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

impl End {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// What a rule does.
///
/// There is no `ACCEPT`: it would pass by the destination's side, and by every rule of others behind ours.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "a writer must know every target")]
pub enum Target {
    /// `-j DROP`: ends the packet.
    Drop,
    /// `-j RETURN`: goes on behind the last jump.
    Return,
    /// `-g`: goes to a chain for good; a return from there is a return from here.
    Goto(Name),
    /// `-j`: goes to a chain, and comes back.
    Jump(Name),
    /// `-j CONNMARK`: sets the bits of the connection's mark, and goes on.
    Mark(Mark),
    /// `-j NFLOG`: reports the packet to a group with this prefix, and goes on.
    Log(u16, Arc<str>),
}
