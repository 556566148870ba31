//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy (CNP-…).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU16;

use super::{Cidr, Field, LabelSelector, ObjectMeta, Position, Protocol};

/// A ClusterNetworkPolicy: cluster-scoped, ordered, with Accept, Deny and Pass (CNP-001).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterNetworkPolicy {
    /// Identity and source; the namespace is empty.
    pub meta: ObjectMeta,
    /// `spec.tier`.
    pub tier: Tier,
    /// `spec.priority`, 0 to 1000; lower is stronger (CNP-004).
    pub priority: u16,
    /// `spec.subject`.
    pub subject: ClusterSubject,
    /// `spec.ingress`, in order (CNP-015).
    pub ingress: Vec<ClusterRule>,
    /// `spec.egress`, in order.
    pub egress: Vec<ClusterRule>,
}

/// Where a ClusterNetworkPolicy stands relative to NetworkPolicies (CNP-030).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Tier {
    /// Before NetworkPolicies.
    Admin,
    /// After them, for pods none of them selects in that direction (CNP-032, DEC-11).
    Baseline,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "Admin",
            Self::Baseline => "Baseline",
        })
    }
}

/// Pods chosen by the labels of their namespace and their own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamespacedPods {
    /// `namespaceSelector`; unset selects every namespace (CNP-011, in contrast to NP-050).
    pub namespace_selector: Field<LabelSelector>,
    /// `podSelector`, required; `{}` selects all.
    pub pod_selector: LabelSelector,
}

/// The pods a ClusterNetworkPolicy applies to; hostNetwork pods never (CNP-010, CNP-013).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClusterSubject {
    /// All pods of matching namespaces.
    Namespaces(LabelSelector),
    /// Matching pods.
    Pods(NamespacedPods),
    /// A subject this version does not know: selects nothing.
    Unknown,
}

/// What a ClusterNetworkPolicy rule does with traffic it matches.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ClusterAction {
    /// Allows, finally for this direction (CNP-017).
    Accept,
    /// Drops, finally (CNP-016).
    Deny,
    /// Leaves the tier (CNP-020).
    Pass,
}

impl fmt::Display for ClusterAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        })
    }
}

/// One rule, ingress or egress.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterRule {
    /// `name`, if given.
    pub name: Option<Arc<str>>,
    /// `action`.
    pub action: ClusterAction,
    /// `from` or `to`: at least one (CNP-022).
    pub peers: Vec<ClusterPeer>,
    /// `protocols`; unset means all traffic, ICMP included (CNP-052).
    pub protocols: Field<Vec<ClusterPort>>,
    /// Where it was written.
    pub position: Position,
}

/// An entry of `from` or `to`, with its place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterPeer {
    /// What it matches.
    pub destination: ClusterDestination,
    /// Where it was written.
    pub position: Position,
}

/// What a ClusterNetworkPolicy peer matches. Ingress knows the first two only (CNP-040, CNP-042).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClusterDestination {
    /// All pods of matching namespaces.
    Namespaces(LabelSelector),
    /// Matching pods.
    Pods(NamespacedPods),
    /// Nodes by label: their addresses (CNP-045).
    Nodes(LabelSelector),
    /// Address ranges, cluster-internal ones included (CNP-044).
    Networks(Vec<Cidr>),
    /// DNS names; carried, never enforced: an Accept rule over them matches nothing (CNP-046, DEC-13).
    DomainNames(Vec<Arc<str>>),
    /// A peer this version does not know: fails closed by action (CNP-041).
    Unknown,
}

/// An entry of `protocols`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ClusterPort {
    /// `tcp|udp|sctp.destinationPort`: `start..=end`.
    Range(Protocol, NonZeroU16, NonZeroU16),
    /// `destinationNamedPort`: number and protocol of the container port of that name (CNP-054).
    Named(Arc<str>),
    /// An entry this version does not know: matches nothing under Accept, everything under Deny and Pass.
    Unknown,
}
