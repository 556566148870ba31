//! What can go wrong with a lab itself; that a packet does not arrive is an observation, not an error.

use core::net::IpAddr;
use std::io;

use netpol_core::model::ObjectRef;

use super::{End, Observation, Probe};

/// Why a lab could not be planned, built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Two ends of the plan own one address.
    #[error("address `{address}` belongs to both {first} and {second}")]
    AddressTwice {
        /// The address.
        address: IpAddr,
        /// Who has it.
        first: String,
        /// Who has it too.
        second: String,
    },
    /// An address that no packet can be routed to: loopback, multicast, link-local, unspecified, or IPv4-mapped.
    #[error("address `{address}` of {owner} cannot be routed to")]
    AddressUnroutable {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        owner: String,
    },
    /// Two nodes or two pods have one name.
    #[error("{0} is in the plan twice")]
    NameTwice(End),
    /// The two ends of a probe have no address family in common.
    #[error("{from} has no address of the family of `{to}`")]
    NoAddressOfFamily {
        /// The source.
        from: String,
        /// The destination.
        to: IpAddr,
    },
    /// A connection that is to stay open was not established.
    #[error("no connection {probe}: {observation}")]
    NotOpened {
        /// What was tried.
        probe: Probe,
        /// What was seen.
        observation: Observation,
    },
    /// A pod that the cluster's network would hold has no address.
    #[error("pod {pod} has no address; addresses are assigned before a lab is planned")]
    PodWithoutAddress {
        /// The pod.
        pod: ObjectRef,
    },
    /// A pod is on no node, or on one that is not in the plan.
    #[error("pod {pod} is on no node of the plan (`spec.nodeName` is `{node}`)")]
    PodWithoutNode {
        /// The pod.
        pod: ObjectRef,
        /// The node it names; empty if none.
        node: String,
    },
    /// A protocol number that a raw packet cannot carry, or that has its own kind of probe.
    #[error("protocol {0} cannot be probed as a bare protocol")]
    Protocol(u8),
    /// The kernel refused a step.
    #[error("cannot {step}")]
    System {
        /// What was tried.
        step: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No namespace of that name.
    #[error("the lab has no {0}")]
    Unknown(String),
}

/// Says which step an error of the kernel stopped.
pub(super) trait Step<T> {
    /// Wraps the error; the text completes "cannot …".
    fn step(self, step: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|source| LabError::System { step: step(), source })
    }
}
