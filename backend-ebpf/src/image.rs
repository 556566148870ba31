//! The contents of the program's maps, and a model of how the program evaluates them.
//!
//! ```text
//!   hosts       address            ──▶ class (or: ask networks), and which pod it is
//!   networks    address, by prefix ──▶ class          (nothing found is class 0)
//!   pods        pod                ──▶ its policies by direction and situation
//!   words       policy, class      ──▶ word           (nothing found: the policy's default word)
//!   ports       port list, protocol, prefix of the port ──▶ allow or deny
//!   ranges      address, by prefix                    (strict mode: whoever is here is a known pod or nobody)
//! ```

mod evaluate;
mod text;
mod word;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::ir::PipelineId;
use netpol_core::model::{ObjectRef, Protocol};
use netpol_core::net::PrefixSet;

pub(crate) use evaluate::class_in;
pub use evaluate::{Content, Hook, Packet};
pub use word::{CounterId, PortsId, Word};
pub(crate) use word::{MAX_COUNTERS, MAX_LISTS};

/// Everything that the program looks up, as maps from keys to values.
///
/// INVARIANT (closed): every pod that a host names is there, every policy that a pod names, and every port list that a
/// word names; upheld by `lower`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MapImage {
    pub(crate) hosts: BTreeMap<IpAddr, Host>,
    /// The longest that holds an address counts. None of them is a single address.
    pub(crate) networks: BTreeMap<IpNet, Class>,
    /// By number, from 1.
    pub(crate) pods: BTreeMap<PodNumber, PodRow>,
    /// By number, from 1.
    pub(crate) policies: BTreeMap<PolicyNumber, Policy>,
    pub(crate) words: BTreeMap<(PolicyNumber, Class), Word>,
    pub(crate) ports: BTreeMap<PortsId, Vec<PortRow>>,
    /// The rows of all port lists.
    pub(crate) port_rows: usize,
    /// Strict mode: the addresses of pods. Empty without it.
    pub(crate) ranges: PrefixSet,
    /// How many counters there are.
    pub(crate) counters: CounterId,
    pub(crate) topology: Topology,
}

/// The number of a class of addresses.
pub type Class = u32;

/// The number of a pod with its policies; 0 is none.
pub type PodNumber = u32;

/// Strict mode: the pod of addresses of pods that no known pod owns.
pub(crate) const NOBODY: PodNumber = 1;

/// The number of a policy; 0 lets everything pass without looking.
pub type PolicyNumber = u32;

/// What is known of one address.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the row of a map")]
pub struct Host {
    /// Its class, where it is not that of the network it lies in.
    pub class: Option<Class>,
    /// The pod; two addresses with one number belong to the same pod. 0 where no policy asks anything of it and there is
    /// no strict mode.
    pub pod: PodNumber,
    /// Strict mode: it is one of a node of the scope.
    pub is_node: bool,
}

/// The policies of a pod.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the row of a map")]
pub struct PodRow {
    /// Judges traffic towards the pod.
    pub ingress: PolicyNumber,
    /// Judges traffic from the pod.
    pub egress: PolicyNumber,
    /// Judges traffic towards the pod that the pod itself sent to a Service (NP-121, CNP-019).
    pub ingress_of_hairpin: PolicyNumber,
    /// Judges traffic from the pod that a Service leads back to it (NP-121, CNP-019).
    pub egress_of_hairpin: PolicyNumber,
    /// Judges traffic from the pod to its own node (DEC-01).
    pub egress_to_node: PolicyNumber,
}

/// What a policy says of every class without a word of its own, and where it comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the row of a map, and its name")]
pub struct Policy {
    /// The word of every class without one of its own.
    pub default: Word,
    /// The first pipeline that is this policy; none for what unknown pods may not do.
    pub pipeline: Option<PipelineId>,
}

/// One row of a port list: ports with a common prefix that differ from the protocol's default.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "the row of a map")]
pub struct PortRow {
    /// The protocol.
    pub protocol: Protocol,
    /// How many leading bits of the port count, 1 to 16.
    pub prefix: u8,
    /// The port in host order, the other bits zero.
    pub port: u16,
    /// Whether these ports pass.
    pub allow: bool,
}

impl PortRow {
    /// Returns the last port.
    pub(crate) fn last(&self) -> u16 {
        self.port | u16::MAX.checked_shr(self.prefix.into()).unwrap_or(0)
    }
}

/// Where pods are: what decides which hook a flow's packets pass. The kernel knows it by itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Topology {
    /// By address: the pod, and its node.
    pub(crate) pods: BTreeMap<IpAddr, Place>,
    /// The addresses of the nodes of the scope.
    pub(crate) nodes: BTreeMap<Arc<str>, Vec<IpAddr>>,
}

/// A pod, and its node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) pod: ObjectRef,
    pub(crate) node: Option<Arc<str>>,
}

impl Topology {
    /// Returns whether an address is one of the node of the pod at another.
    pub(crate) fn is_own_node(&self, place: Option<&Place>, address: IpAddr) -> bool {
        let node = place.and_then(|place| self.nodes.get(place.node.as_ref()?));
        node.is_some_and(|own| own.contains(&address))
    }
}

/// How many rows each map has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "one number a map")]
pub struct Rows {
    /// Addresses with a class of their own, of pods with policies, and in strict mode of pods and nodes.
    pub hosts: usize,
    /// Networks.
    pub networks: usize,
    /// Pods with policies.
    pub pods: usize,
    /// Policies.
    pub policies: usize,
    /// Words that are not their policy's default.
    pub words: usize,
    /// Rows of port lists.
    pub ports: usize,
    /// Networks of pods' addresses, in strict mode.
    pub ranges: usize,
    /// Counters.
    pub counters: usize,
}

impl MapImage {
    /// Returns how many rows each map has.
    #[must_use]
    pub fn rows(&self) -> Rows {
        Rows {
            hosts: self.hosts.len(),
            networks: self.networks.len(),
            pods: self.pods.len(),
            policies: self.policies.len(),
            words: self.words.len(),
            ports: self.port_rows,
            ranges: if self.is_strict() { self.ranges.cidrs().len() } else { 0 },
            counters: usize::try_from(self.counters).unwrap_or(usize::MAX),
        }
    }

    pub(crate) const fn is_strict(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// Returns what is known of an address.
    pub(crate) fn host(&self, address: IpAddr) -> Host {
        self.hosts.get(&address).copied().unwrap_or_default()
    }

    /// Strict mode: returns whether an address of pods belongs to no known one.
    #[must_use]
    pub fn is_unknown(&self, address: IpAddr) -> bool {
        let host = self.host(address);
        host.pod == 0 && !host.is_node && self.ranges.contains(address)
    }
}
