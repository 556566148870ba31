//! What a dataplane tells of what it enforces.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::ir::{Direction, Flow, Origin, PolicyRef, Verdict};

/// What was counted for one cause in one direction.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what a kernel counts")]
pub struct Counter {
    /// Of which side.
    pub direction: Direction,
    /// What was decided.
    pub verdict: Verdict,
    /// What decided.
    pub cause: Cause,
    /// How many packets.
    pub packets: u64,
    /// How many bytes they had, from the network header on; zero where the kernel does not count them.
    pub bytes: u64,
}

/// What decided, as exactly as the program tells it apart.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "every consumer must know all of them")]
pub enum Cause {
    /// One of these rules: those that are looked up together are counted together. Sorted, never empty.
    Rules(Vec<Origin>),
    /// One of these NetworkPolicies isolates, and none of their rules matches (NP-005). Sorted, never empty.
    Isolation(Vec<Arc<PolicyRef>>),
    /// No policy says anything of it: the cluster's default (NP-003).
    Default,
    /// Strict mode: an address of pods that no known pod owns.
    UnknownPod,
    /// A guard of the program: a packet met a state that is none of any ruleset, and was dropped.
    Guard,
}

/// A denied flow, as the kernel reported it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what a kernel reports")]
pub struct Denial {
    /// Source, destination and destination port, as judged: after destination NAT.
    pub flow: Flow,
    /// The source port, for protocols with ports.
    pub source_port: Option<u16>,
    /// Which side denied it.
    pub direction: Direction,
    /// What denied it.
    pub cause: Cause,
}

/// The denied flows of some time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the flows, and how many more there were")]
pub struct Denials {
    /// Those that were reported.
    pub flows: Vec<Denial>,
    /// How many reports were lost on the way to us, as far as the kernel says; what its rate limit held back is not known.
    pub lost: u64,
}

/// One of our objects in the kernel that is not as it should be.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "what and how")]
pub struct Drift {
    /// Which, by its name in the kernel.
    pub object: String,
    /// How it differs.
    pub difference: Difference,
}

/// How an object in the kernel differs from what it should be.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "every consumer must know all of them")]
pub enum Difference {
    /// It is not there.
    Missing,
    /// It is there, and should not be.
    Unexpected,
    /// It has another content.
    Changed,
}

impl core::fmt::Display for Drift {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let is = match self.difference {
            Difference::Missing => "is missing",
            Difference::Unexpected => "should not be there",
            Difference::Changed => "was changed",
        };
        write!(f, "{} {is}", self.object)
    }
}
