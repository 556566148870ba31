//! The contents of the program's maps, and a model of how the program evaluates them.
//!
//! ```text
//!   endpoints   address            ──▶ which pod it is, and its policies by direction and situation
//!   addresses   address            ──▶ class          (asked first)
//!   networks    address, by prefix ──▶ class          (then; nothing found is class 0)
//!   words       policy, class      ──▶ word           (nothing found: the policy's default word)
//!   ports       port list, protocol, prefix of the port ──▶ allow or deny
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

pub use evaluate::{Content, Hook, Packet};
pub use word::{PortsId, Word};

/// Everything that the program looks up, as maps from keys to values.
///
/// INVARIANT (closed): every policy that an endpoint names is there, and every port list that a word names; upheld by
/// `lower`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MapImage {
    pub(crate) endpoints: BTreeMap<IpAddr, EndpointRow>,
    pub(crate) addresses: BTreeMap<IpAddr, Class>,
    /// Disjoint networks, none of them a single address.
    pub(crate) networks: BTreeMap<IpNet, Class>,
    /// By the number of the policy, from 1.
    pub(crate) policies: Vec<Policy>,
    pub(crate) words: BTreeMap<(PolicyNumber, Class), Word>,
    pub(crate) ports: BTreeMap<PortsId, Vec<PortRow>>,
    pub(crate) topology: Topology,
}

/// The number of a class of addresses.
pub type Class = u32;

/// The number of a policy; 0 lets everything pass without looking.
pub type PolicyNumber = u32;

/// The policies of a pod, as found by one of its addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the row of a map")]
pub struct EndpointRow {
    /// The number of the pod; two addresses with one number belong to the same pod.
    pub number: u32,
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
    /// The first pipeline that is this policy.
    pub pipeline: PipelineId,
}

/// One row of a port list: ports with a common prefix that differ from the protocol's default.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
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

/// Where pods are: what decides which hook a flow's packets pass. The kernel knows it by itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Topology {
    /// By address: the pod, and the addresses of its node.
    pub(crate) pods: BTreeMap<IpAddr, (ObjectRef, Arc<[IpAddr]>)>,
}

/// How many rows each map has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "one number a map")]
pub struct Rows {
    /// Addresses of pods with policies.
    pub endpoints: usize,
    /// Addresses with a class of their own.
    pub addresses: usize,
    /// Networks.
    pub networks: usize,
    /// Policies.
    pub policies: usize,
    /// Words that are not their policy's default.
    pub words: usize,
    /// Rows of port lists.
    pub ports: usize,
}

impl MapImage {
    /// Returns how many rows each map has.
    #[must_use]
    pub fn rows(&self) -> Rows {
        Rows {
            endpoints: self.endpoints.len(),
            addresses: self.addresses.len(),
            networks: self.networks.len(),
            policies: self.policies.len(),
            words: self.words.len(),
            ports: self.ports.values().map(Vec::len).sum(),
        }
    }

    /// Returns a policy; none for 0.
    fn policy(&self, number: PolicyNumber) -> Option<&Policy> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        self.policies.get(index)
    }
}
