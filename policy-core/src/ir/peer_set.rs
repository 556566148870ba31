//! The addresses a rule matches.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::{self, Write as _};
use core::net::IpAddr;
use core::num::NonZeroU16;

use super::{PeerSetId, Selector};
use crate::model::Protocol;
use crate::net::{AddressSet, PrefixSet};

/// The other ends a rule speaks of. An empty set is nobody, never everybody (that is `Peers::Any`).
///
/// Exact addresses of pods and nodes come and go with events; networks are content and never change under one id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerSet {
    /// What the set is the content of, and what names it.
    pub selector: PeerSelector,
    /// Addresses of the matching pods or nodes.
    pub addresses: AddressSet,
    /// Networks, excepts already cut out; empty unless the selector is one of networks.
    pub networks: PrefixSet,
}

impl PeerSet {
    /// Returns the id, the digest of the selector.
    #[must_use]
    pub fn id(&self) -> PeerSetId {
        self.selector.id()
    }

    /// Returns whether `address` is a member.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains(address) || self.networks.contains(address)
    }
}

/// What a peer set is named after.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PeerSelector {
    /// Policed pods by namespace and label (NP-050..NP-055, CNP-043), and by the number one of their port names
    /// resolves to where an egress rule names a port (NP-087, NP-088).
    Pods {
        /// Which namespaces.
        namespaces: NamespaceScope,
        /// Which of their pods.
        pods: Selector,
        /// Only pods on which the name resolves to this number.
        port: Option<ResolvedPort>,
    },
    /// Nodes by label: their addresses (CNP-045).
    Nodes(Selector),
    /// Address ranges (NP-065, CNP-044).
    Networks(PrefixSet),
    /// Policed pods whose address lies in the ranges and on which a port name resolves to this number (DEC-15).
    PodsInNetworks(PrefixSet, ResolvedPort),
}

/// Which namespaces a pod selector looks into.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NamespaceScope {
    /// One namespace by name: the policy's own (NP-050).
    One(Arc<str>),
    /// Namespaces by label.
    Matching(Selector),
}

/// A port name with the number it resolves to on the members of a set.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ResolvedPort {
    /// The container port's name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number on every member.
    pub number: NonZeroU16,
}

impl PeerSelector {
    /// Returns the id that names a set of this selector.
    #[must_use]
    pub fn id(&self) -> PeerSetId {
        // Room for what most selectors take, so that the text is not moved while it grows.
        let mut text = String::with_capacity(128);
        // Writing to a String cannot fail.
        let _ = write!(text, "{self}");
        PeerSetId::of(&text)
    }
}

impl fmt::Display for PeerSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { namespaces, pods, port } => {
                match namespaces {
                    NamespaceScope::One(name) => write!(f, "pods {pods} of namespace {name}")?,
                    NamespaceScope::Matching(selector) => {
                        write!(f, "pods {pods} of namespaces {selector}")?;
                    }
                }
                port.as_ref().map_or(Ok(()), |port| write!(f, " with {port}"))
            }
            Self::Nodes(selector) => write!(f, "nodes {selector}"),
            Self::Networks(networks) => write!(f, "networks {networks}"),
            Self::PodsInNetworks(networks, port) => {
                write!(f, "pods in networks {networks} with {port}")
            }
        }
    }
}

impl fmt::Display for ResolvedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}={}/{}", self.name, self.number, self.protocol)
    }
}
