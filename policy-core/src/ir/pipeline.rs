//! What happens to one direction of a pod's traffic: rules in blocks, blocks in tiers, tiers in a pipeline.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use super::{PeerSetId, PipelineId, RuleBlockId, Transport};
use crate::model::{Kind, ObjectRef};
use crate::net::PortSet;

/// A direction, as seen from the subject.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// Towards the subject.
    Ingress,
    /// From the subject.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// What a rule does with traffic it matches.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Action {
    /// Allows this direction, finally (CNP-017); the only action of NetworkPolicy rules.
    Accept,
    /// Drops, finally (CNP-016).
    Deny,
    /// Leaves the tier (CNP-020).
    Pass,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Deny => "deny",
            Self::Pass => "pass",
        })
    }
}

/// The other end a rule asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Peers {
    /// Everybody, inside the cluster and outside.
    Any,
    /// The members of a set; of an empty set, nobody.
    Set(PeerSetId),
}

/// The ports a rule asks for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Ports {
    /// Every port of every protocol, and protocols without ports too (NP-081, DEC-02).
    Any,
    /// These ports; protocols without ports never match. Never empty in a ruleset: such a rule matches nothing and is
    /// left out.
    Set(Arc<PortSet>),
}

impl Ports {
    /// Returns whether traffic of this kind matches.
    #[must_use]
    pub fn contains(&self, transport: Transport) -> bool {
        match (self, transport) {
            (Self::Any, _) => true,
            (Self::Set(ports), Transport::Port(protocol, port)) => ports.contains(protocol, port),
            (Self::Set(_), Transport::Other(_)) => false,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Set(ports) => fmt::Display::fmt(ports, f),
        }
    }
}

/// One rule: who, what, and what then.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Rule {
    /// Index of the rule in the policy's `ingress` or `egress`, from 0.
    pub rule: u32,
    /// Index of the peer in the rule's `from` or `to`, from 0; `None` where the rule has no peers and means everybody.
    pub peer: Option<u32>,
    /// What it does.
    pub action: Action,
    /// The other end.
    pub peers: Peers,
    /// The destination ports.
    pub ports: Ports,
}

/// The kinds of policies rules come from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PolicyKind {
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// A NetworkPolicy.
    NetworkPolicy,
}

impl From<PolicyKind> for Kind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::ClusterNetworkPolicy => Self::ClusterNetworkPolicy,
            PolicyKind::NetworkPolicy => Self::NetworkPolicy,
        }
    }
}

/// Names a policy.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PolicyRef {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace (empty for a ClusterNetworkPolicy) and name.
    pub object: ObjectRef,
    /// `metadata.uid`, if known.
    pub uid: Option<Arc<str>>,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Kind::from(self.kind), f)?;
        f.write_str(" ")?;
        fmt::Display::fmt(&self.object, f)
    }
}

/// Where a rule comes from. It survives every lowering, so that a counter or a drop can be told as a policy and a rule.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Origin {
    /// The policy.
    pub policy: Arc<PolicyRef>,
    /// Which of its rule lists.
    pub direction: Direction,
    /// Index in that list, from 0.
    pub rule: u32,
    /// Index of the peer in the rule, from 0; `None` where the rule has no peers.
    pub peer: Option<u32>,
}

impl fmt::Display for Origin {
    /// Writes `NetworkPolicy ns/name ingress[0].from[1]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.rule)?;
        let list = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        self.peer.map_or(Ok(()), |peer| write!(f, ".{list}[{peer}]"))
    }
}

/// What one policy contributes to one direction of the pods it selects. Shared by every pipeline it stands in.
///
/// A NetworkPolicy's block may be empty: it isolates and allows nothing (NP-030).
///
/// INVARIANT (block digest): `id` is the digest of the other fields; upheld by [`RuleBlock::new`].
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleBlock {
    policy: Arc<PolicyRef>,
    direction: Direction,
    rules: Vec<Rule>,
    id: RuleBlockId,
}

impl RuleBlock {
    /// A block of rules in the order of the object, named ports resolved.
    #[must_use]
    pub fn new(policy: Arc<PolicyRef>, direction: Direction, rules: Vec<Rule>) -> Self {
        let mut block = Self { policy, direction, rules, id: RuleBlockId::of("") };
        // Room for what most rules take, so that the text is not moved while it grows.
        let mut text = String::with_capacity(128 + 96 * block.rules.len());
        // Writing to a String cannot fail.
        let _ = write!(text, "{block}");
        block.id = RuleBlockId::of(&text);
        block
    }

    /// Returns the policy.
    #[must_use]
    pub const fn policy(&self) -> &Arc<PolicyRef> {
        &self.policy
    }

    /// Returns the direction.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Returns the rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Returns the digest of the content.
    #[must_use]
    pub const fn id(&self) -> RuleBlockId {
        self.id
    }

    /// Returns where one of the block's rules comes from.
    #[must_use]
    pub fn origin(&self, rule: &Rule) -> Origin {
        Origin {
            policy: self.policy.clone(),
            direction: self.direction,
            rule: rule.rule,
            peer: rule.peer,
        }
    }
}

/// One direction's tiers, shared by every endpoint with the same policy result.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Pipeline {
    /// The direction.
    pub direction: Direction,
    /// Admin tier: blocks by priority, then name (DEC-12); the first rule that matches decides.
    pub admin: Vec<Arc<RuleBlock>>,
    /// NetworkPolicy tier. `None`: no NetworkPolicy isolates the pod in this direction. `Some`: isolated; the rules of
    /// all blocks are a union, and where none matches the traffic is denied. Sorted by policy.
    pub network_policy: Option<Vec<Arc<RuleBlock>>>,
    /// Baseline tier, reached only by pods that are not isolated (CNP-032).
    pub baseline: Vec<Arc<RuleBlock>>,
}

impl Pipeline {
    /// The pipeline of a pod that no policy selects: everything is allowed (NP-003).
    #[must_use]
    pub const fn open(direction: Direction) -> Self {
        Self { direction, admin: Vec::new(), network_policy: None, baseline: Vec::new() }
    }

    /// Returns whether no policy says anything, so that all traffic is allowed.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.admin.is_empty() && self.network_policy.is_none() && self.baseline.is_empty()
    }

    /// Returns every block, tier by tier.
    pub fn blocks(&self) -> impl Iterator<Item = &Arc<RuleBlock>> {
        self.admin.iter().chain(self.network_policy.iter().flatten()).chain(&self.baseline)
    }

    /// Returns every rule with its block, tier by tier.
    pub fn rules(&self) -> impl Iterator<Item = (&Arc<RuleBlock>, &Rule)> {
        self.blocks().flat_map(|block| block.rules().iter().map(move |rule| (block, rule)))
    }

    /// Returns the id: the digest of the direction and of the blocks tier by tier.
    #[must_use]
    pub fn id(&self) -> PipelineId {
        let mut text = String::with_capacity(40 * (self.admin.len() + self.baseline.len()) + 64);
        let mut tier = |name: &str, blocks: &[Arc<RuleBlock>]| {
            text.push_str(name);
            for block in blocks {
                // Writing to a String cannot fail.
                let _ = write!(text, " {}", block.id());
            }
        };
        tier(
            if self.direction == Direction::Ingress { "ingress admin" } else { "egress admin" },
            &self.admin,
        );
        match &self.network_policy {
            Some(blocks) => tier(" isolated", blocks),
            None => tier(" open", &[]),
        }
        tier(" baseline", &self.baseline);
        PipelineId::of(&text)
    }
}
