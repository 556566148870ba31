//! Pod, as far as policy looks at it, and the workload it stands for.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::num::NonZeroU16;

use super::{Kind, ObjectMeta, Protocol};

/// A pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// Identity and labels.
    pub meta: ObjectMeta,
    /// `spec.nodeName`, once scheduled.
    pub node: Option<Arc<str>>,
    /// `spec.hostNetwork`: shares the node's addresses, is no subject and no selector peer (DEC-05, CNP-013).
    pub host_network: bool,
    /// `status.phase`.
    pub phase: Phase,
    /// `metadata.deletionTimestamp` is set; still policed until the address is gone (NP-138).
    pub terminating: bool,
    /// `status.podIPs`, or `status.podIP` where the list is missing (NP-134). Empty: not known (yet).
    pub addresses: Vec<IpAddr>,
    /// The containers whose ports names resolve against (NP-091).
    pub containers: Vec<Container>,
    /// The workload this pod stands for when manifests are read offline (OFF-008); `None` for a real pod.
    pub workload: Option<Workload>,
}

/// `status.phase`. Only the finished ones matter: they have lost their address (NP-137, DEC-07).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Accepted, containers not all started. Policed as soon as it has an address (NP-136).
    Pending,
    /// Running.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Not known, or not stated in a manifest.
    #[default]
    Unknown,
}

impl Phase {
    /// Returns whether the pod has ended.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Pending | Self::Running | Self::Unknown => false,
        }
    }
}

/// What sort of container it is; a plain init container's ports resolve no name (DEC-08).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Container {
    /// An entry of `containers`.
    Main(Vec<ContainerPort>),
    /// An entry of `initContainers` with `restartPolicy: Always`.
    Sidecar(Vec<ContainerPort>),
    /// Another entry of `initContainers`.
    Init(Vec<ContainerPort>),
}

/// An entry of a container's `ports`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ContainerPort {
    /// `name`, if given.
    pub name: Option<Arc<str>>,
    /// `containerPort`.
    pub port: NonZeroU16,
    /// `protocol`; TCP when left out (NP-093).
    pub protocol: Protocol,
}

impl Pod {
    /// Returns whether NetworkPolicy and ClusterNetworkPolicy look at this pod at all: not on the host network, not
    /// finished (NP-131, NP-137).
    #[must_use]
    pub const fn is_policed(&self) -> bool {
        !self.host_network && !self.phase.is_finished()
    }

    /// Returns the container ports that names resolve against: main containers and sidecars (DEC-08).
    pub fn resolvable_ports(&self) -> impl Iterator<Item = &ContainerPort> {
        self.containers
            .iter()
            .filter_map(|container| match container {
                Container::Main(ports) | Container::Sidecar(ports) => Some(ports),
                Container::Init(_) => None,
            })
            .flatten()
    }

    /// Returns the numbers of the container ports of that name, with their protocols (NP-092: all of them).
    pub fn named_ports<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (Protocol, NonZeroU16)> + 'a {
        self.resolvable_ports()
            .filter(move |port| port.name.as_deref() == Some(name))
            .map(|port| (port.protocol, port.port))
    }
}

/// A workload whose template a pod was made from.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Workload {
    /// Its kind.
    pub kind: Kind,
    /// Its name; the namespace is the pod's.
    pub name: Arc<str>,
    /// `spec.replicas`, or 1.
    pub replicas: u32,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.name, self.kind)
    }
}
