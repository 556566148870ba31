//! `networking.k8s.io/v1` NetworkPolicy.

use alloc::vec::Vec;

use super::{Field, IpBlock, LabelSelector, ObjectMeta, PolicyPort, Position};

/// A NetworkPolicy: namespaced, allow-only, isolating per direction (NP-001..NP-009).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkPolicy {
    /// Identity and source.
    pub meta: ObjectMeta,
    /// `spec.podSelector`; unset selects every pod of the namespace, as `{}` does (NP-002).
    pub pod_selector: Field<LabelSelector>,
    /// `spec.policyTypes`; use [`NetworkPolicy::effective_types`] for its meaning.
    pub policy_types: Field<Vec<PolicyType>>,
    /// `spec.ingress`; unset and empty both mean: no rule, deny all (NP-030, NP-031).
    pub ingress: Field<Vec<NetworkPolicyRule>>,
    /// `spec.egress`; likewise.
    pub egress: Field<Vec<NetworkPolicyRule>>,
}

/// An entry of `policyTypes`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PolicyType {
    /// Isolates for ingress.
    Ingress,
    /// Isolates for egress.
    Egress,
}

/// The directions a policy isolates.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EffectiveTypes {
    /// Isolates for ingress.
    pub ingress: bool,
    /// Isolates for egress.
    pub egress: bool,
}

impl NetworkPolicy {
    /// Returns the directions the policy isolates, with the server's defaulting (NP-020, NP-021, NP-022).
    ///
    /// Unreadable types isolate both directions (fail closed).
    #[must_use]
    pub fn effective_types(&self) -> EffectiveTypes {
        let has_egress_rules = self.egress.is_unreadable()
            || self.egress.given().is_some_and(|rules| !rules.is_empty());
        match &self.policy_types {
            Field::Given(types) if !types.is_empty() => EffectiveTypes {
                ingress: types.contains(&PolicyType::Ingress),
                egress: types.contains(&PolicyType::Egress),
            },
            Field::Absent | Field::Null | Field::Given(_) => {
                EffectiveTypes { ingress: true, egress: has_egress_rules }
            }
            Field::Unreadable => EffectiveTypes { ingress: true, egress: true },
        }
    }
}

/// An entry of `ingress` or `egress`: peers AND ports (NP-008).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkPolicyRule {
    /// `from` or `to`; unset and empty both mean everybody, inside the cluster and outside (NP-030, NP-032).
    pub peers: Field<Vec<NetworkPolicyPeer>>,
    /// `ports`; unset and empty both mean every port of every protocol (NP-081).
    pub ports: Field<Vec<PolicyPort>>,
    /// Where it was written.
    pub position: Position,
}

/// An entry of `from` or `to`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkPolicyPeer {
    /// `podSelector`.
    pub pod_selector: Field<LabelSelector>,
    /// `namespaceSelector`.
    pub namespace_selector: Field<LabelSelector>,
    /// `ipBlock`.
    pub ip_block: Field<IpBlock>,
    /// Where it was written.
    pub position: Position,
}

/// What a peer means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerKind<'a> {
    /// Pods of the policy's own namespace (NP-050).
    PodsOfOwnNamespace(&'a LabelSelector),
    /// Every pod of the matching namespaces (NP-051).
    Namespaces(&'a LabelSelector),
    /// Matching pods inside matching namespaces (NP-052).
    PodsOfNamespaces {
        /// Which namespaces.
        namespaces: &'a LabelSelector,
        /// Which of their pods.
        pods: &'a LabelSelector,
    },
    /// Addresses (NP-065).
    IpBlock(&'a IpBlock),
    /// Nothing this version knows, or a combination that cannot be: matches nothing (NP-060).
    Unknown,
}

impl NetworkPolicyPeer {
    /// Returns the peer that means these pods of the policy's own namespace (NP-050).
    #[must_use]
    pub fn pods(selector: LabelSelector) -> Self {
        Self { pod_selector: Field::Given(selector), ..Self::default() }
    }

    /// Returns what the peer means; an `ipBlock` beside a selector is [`PeerKind::Unknown`] (NP-056).
    #[must_use]
    pub const fn kind(&self) -> PeerKind<'_> {
        if self.pod_selector.is_unreadable()
            || self.namespace_selector.is_unreadable()
            || self.ip_block.is_unreadable()
        {
            return PeerKind::Unknown;
        }
        match (self.namespace_selector.given(), self.pod_selector.given(), self.ip_block.given()) {
            (None, Some(pods), None) => PeerKind::PodsOfOwnNamespace(pods),
            (Some(namespaces), None, None) => PeerKind::Namespaces(namespaces),
            (Some(namespaces), Some(pods), None) => PeerKind::PodsOfNamespaces { namespaces, pods },
            (None, None, Some(block)) => PeerKind::IpBlock(block),
            (None, None, None) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => PeerKind::Unknown,
        }
    }
}
