//! What `compile` has to say about objects.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::net::IpAddr;

use crate::ir::{Origin, PolicyRef};
use crate::model::ObjectRef;

/// Something odd in an object, with its effect on traffic.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
#[non_exhaustive]
pub enum Diagnostic {
    /// Part of a policy cannot be read; it fails closed, alone (DEC-16, NP-060, CNP-041).
    #[error("{origin}: cannot be read in this version; {effect}")]
    Unreadable {
        /// Where.
        origin: Origin,
        /// What that does to traffic.
        effect: Effect,
    },
    /// A policy's subject or types cannot be read.
    #[error("{policy}: {field} cannot be read in this version; {effect}")]
    UnreadablePolicy {
        /// Which policy.
        policy: Arc<PolicyRef>,
        /// Which field.
        field: &'static str,
        /// What that does to traffic.
        effect: Effect,
    },
    /// DNS names are carried but not enforced (CNP-046).
    #[error("{0}: domainNames cannot be enforced by address; the rule matches nothing")]
    DomainNames(Origin),
    /// Two policies of one tier have the same priority; they apply in order of name (DEC-12).
    #[error(
        "{first} and {second} have the same tier and priority {priority}; they apply in order of name"
    )]
    PriorityTie {
        /// The one that applies first.
        first: Arc<PolicyRef>,
        /// The other.
        second: Arc<PolicyRef>,
        /// Their priority.
        priority: u16,
    },
    /// Two live pods claim one address; it belongs to one of them (NP-140).
    #[error("address {address} of pod {loser} belongs to pod {owner}")]
    AddressClash {
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: ObjectRef,
        /// Who claims it too.
        loser: ObjectRef,
    },
    /// A pod is in a namespace that is not there; its labels are taken as only the automatic one (OFF-003).
    #[error(
        "namespace `{0}` is mentioned by objects but not there; it is taken to have no labels of its own"
    )]
    MissingNamespace(String),
}

/// What an oddity does to traffic.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Effect {
    /// The part matches nothing.
    MatchesNothing,
    /// The part matches everything of its direction, since it denies or passes (CNP-041).
    MatchesEverything,
    /// The policy isolates its namespace's pods in both directions.
    Isolates,
    /// The policy applies to no pod.
    SelectsNothing,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MatchesNothing => "it matches nothing",
            Self::MatchesEverything => "it matches everything",
            Self::Isolates => "it isolates",
            Self::SelectsNothing => "it applies to no pod",
        })
    }
}
