//! A cluster made of network namespaces, built from the same objects as everything else, that sends real packets.
//!
//! ```text
//!   Cluster ──Plan::for_cluster──▶ Plan ──Lab::build──▶ Lab ──probe──▶ what really arrives
//!                                                        │
//!                                                     in_node: a backend applies its rules here
//! ```
//!
//! Nothing outside the lab's own namespaces is touched, and nothing of it has a name: a namespace is an open file of
//! this process, so the kernel removes all of it when the process ends, however it ends.
//!
//! IPv4 neighbours are stated, IPv6 ones discovered (the first 200 hosts of each gateway): a backend that stops
//! neighbour discovery is seen to break IPv6 (NP-115).

mod connection;
mod conntrack;
mod crowd;
mod engine;
mod error;
mod frame;
mod kernel_test;
mod namespace;
mod netlink;
mod packet;
mod plan;
mod privilege;
mod probe;
mod rtnetlink;
mod sending;
mod socket;
mod sys;
mod topology;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::fmt;
use core::net::IpAddr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::thread;

use netpol_core::model::ObjectRef;

pub use connection::Connection;
pub use crowd::{Crowd, HEARD, Place};
pub use error::LabError;
pub use frame::{Between, Content, Packet};
pub use kernel_test::{did_not_run, enter_fresh_network, in_fresh_network, kernel_test};
pub use plan::{HostPod, Plan, PlannedNode, PlannedPod, is_routable};
pub use privilege::{Availability, Privilege, Unavailable, bpf_file_system};
pub use probe::{Observation, Patience, Probe, Refusal, Traffic};

use error::Step as _;
use namespace::Namespace;
use topology::{Attachment, Role};

/// A running cluster of namespaces. Dropping it removes it.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    nodes: BTreeMap<Arc<str>, HostId>,
    pods: BTreeMap<ObjectRef, HostId>,
    owners: BTreeMap<IpAddr, HostId>,
    open_files: u64,
    fabric: Namespace,
}

/// One namespace that owns addresses.
#[derive(Debug)]
struct Host {
    namespace: Namespace,
    addresses: Vec<IpAddr>,
    /// Counts the source ports given out, so that no two probes look like one connection to conntrack.
    ports_used: AtomicU32,
}

/// An index into the hosts of a lab.
type HostId = usize;

/// Where a probe or connection comes from.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "the three kinds of hosts that a lab has")]
pub enum End {
    /// The host outside the cluster that owns this address.
    External(IpAddr),
    /// A node's host network.
    Node(Arc<str>),
    /// A pod; on the host network, its node.
    Pod(ObjectRef),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::External(address) => write!(f, "external host {address}"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Pod(pod) => write!(f, "pod {pod}"),
        }
    }
}

impl Lab {
    /// Builds the cluster and waits until its network carries packets. Raises this process's limit of open files to
    /// the most it may have, since each namespace and each probe is one.
    ///
    /// # Errors
    /// If the plan contradicts itself or the kernel refuses a step; what was built until then is gone.
    pub fn build(plan: &Plan) -> Result<Self, LabError> {
        plan.check()?;
        let open_files =
            sys::raise_open_files().step(|| "raise the limit of open files".to_owned())?;
        let fabric = topology::make_namespace(Role::Router)
            .step(|| "make the fabric's namespace".to_owned())?;
        let mut lab = Self {
            hosts: make_hosts(plan)?,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            owners: BTreeMap::new(),
            open_files,
            fabric,
        };
        lab.index(plan);
        lab.wire(plan)?;
        let namespaces = lab.hosts.iter().map(|host| &host.namespace).chain([&lab.fabric]);
        topology::settle(namespaces, Duration::from_secs(20))
            .step(|| "wait for the links".to_owned())?;
        Ok(lab)
    }

    /// Runs work on a thread inside a node's namespace. Sockets opened and processes started there belong to the node:
    /// the place where a backend applies its rules.
    ///
    /// # Errors
    /// If there is no such node, or the kernel refuses a thread.
    pub fn in_node<T: Send>(
        &self,
        node: &str,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        let id = self
            .nodes
            .get(node)
            .copied()
            .ok_or_else(|| LabError::Unknown(format!("node {node}")))?;
        self.run(id, work)
    }

    /// Runs work on a thread inside a pod's namespace (its node's, for a pod on the host network).
    ///
    /// # Errors
    /// If there is no such pod, or the kernel refuses a thread.
    pub fn in_pod<T: Send>(
        &self,
        pod: &ObjectRef,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        self.in_end(&End::Pod(pod.clone()), work)
    }

    /// Runs work on a thread inside the namespace of any end.
    ///
    /// # Errors
    /// If there is no such end, or the kernel refuses a thread.
    pub fn in_end<T: Send>(
        &self,
        end: &End,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        self.run(self.host_id(end)?, work)
    }

    /// The names of the nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.keys()
    }

    /// The pods, in order, those on the host network too.
    pub fn pods(&self) -> impl Iterator<Item = &ObjectRef> {
        self.pods.keys()
    }

    /// The addresses of an end, in the order of the plan.
    ///
    /// # Errors
    /// If there is no such end.
    pub fn addresses(&self, end: &End) -> Result<&[IpAddr], LabError> {
        Ok(&self.host(self.host_id(end)?)?.addresses)
    }

    /// The end that owns an address.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<End> {
        let id = *self.owners.get(&address)?;
        let node = self
            .nodes
            .iter()
            .find(|(_, node)| **node == id)
            .map(|(name, _)| End::Node(name.clone()));
        let pod =
            || self.pods.iter().find(|(_, pod)| **pod == id).map(|(pod, _)| End::Pod(pod.clone()));
        Some(node.or_else(pod).unwrap_or(End::External(address)))
    }

    fn index(&mut self, plan: &Plan) {
        for (id, host) in self.hosts.iter().enumerate() {
            self.owners.extend(host.addresses.iter().map(|address| (*address, id)));
        }
        let names = plan.nodes.iter().map(|node| node.name.clone());
        self.nodes = names.zip(0..).collect();
        let pods = plan.pods.iter().map(|pod| pod.pod.clone());
        self.pods = pods.zip(plan.nodes.len()..).collect();
        for pod in &plan.host_pods {
            self.pods.extend(self.nodes.get(&pod.node).map(|id| (pod.pod.clone(), *id)));
        }
    }

    /// Attaches the nodes first: routes to pods name the node's addresses to send from.
    fn wire(&self, plan: &Plan) -> Result<(), LabError> {
        let (nodes, others) = self.hosts.split_at(plan.nodes.len().min(self.hosts.len()));
        let (pods, externals) = others.split_at(plan.pods.len().min(others.len()));
        let on = |node: &PlannedNode| {
            let name = node.name.clone();
            plan.pods
                .iter()
                .zip(pods)
                .filter(move |(pod, _)| pod.node == name)
                .map(|(_, host)| host)
        };
        let mut uplinks = Vec::new();
        for (node, host) in plan.nodes.iter().zip(nodes) {
            let behind = on(node).flat_map(|pod| pod.addresses.iter().copied()).collect();
            uplinks.push(Attachment::router(&host.namespace, &host.addresses, behind));
        }
        uplinks
            .extend(externals.iter().map(|host| Attachment::end(&host.namespace, &host.addresses)));
        topology::attach(&self.fabric, &[], &uplinks)
            .step(|| "attach the nodes to the fabric".to_owned())?;
        for (node, host) in plan.nodes.iter().zip(nodes) {
            let pods: Vec<Attachment<'_>> =
                on(node).map(|pod| Attachment::end(&pod.namespace, &pod.addresses)).collect();
            topology::attach(&host.namespace, &host.addresses, &pods)
                .step(|| format!("attach the pods of node {}", node.name))?;
        }
        Ok(())
    }

    fn run<T: Send>(&self, id: HostId, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.host(id)?.namespace.run(work).step(|| "enter a namespace".to_owned())
    }

    fn host(&self, id: HostId) -> Result<&Host, LabError> {
        self.hosts.get(id).ok_or_else(|| LabError::Unknown(format!("host {id}")))
    }

    fn host_id(&self, end: &End) -> Result<HostId, LabError> {
        match end {
            End::External(address) => self.owners.get(address),
            End::Node(name) => self.nodes.get(name),
            End::Pod(pod) => self.pods.get(pod),
        }
        .copied()
        .ok_or_else(|| LabError::Unknown(end.to_string()))
    }
}

impl Host {
    /// Returns a source port (or another number of 16 bits) that this host has not used for its last 50,000 probes.
    fn fresh_port(&self) -> u16 {
        let used = self.ports_used.fetch_add(1, Ordering::Relaxed);
        u16::try_from(used % 50_000).unwrap_or(0).saturating_add(10_000)
    }

    fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|own| own.is_ipv4() == other.is_ipv4())
    }
}

/// Makes the namespaces, in the order nodes, pods, external hosts; the kernel does it faster on several threads.
fn make_hosts(plan: &Plan) -> Result<Vec<Host>, LabError> {
    let nodes = plan.nodes.iter().map(|node| (Role::Router, node.addresses.clone()));
    let pods = plan.pods.iter().map(|pod| (Role::End, pod.addresses.clone()));
    let externals = plan.externals.iter().map(|address| (Role::End, vec![*address]));
    let wanted: Vec<(Role, Vec<IpAddr>)> = nodes.chain(pods).chain(externals).collect();
    let make = |(role, addresses): &(Role, Vec<IpAddr>)| {
        let namespace = topology::make_namespace(*role)?;
        Ok(Host { namespace, addresses: addresses.clone(), ports_used: AtomicU32::new(0) })
    };
    let share = wanted.len().div_ceil(4).max(1);
    let made: std::io::Result<Vec<Host>> = thread::scope(|scope| {
        let threads: Vec<_> = wanted
            .chunks(share)
            .map(|chunk| {
                scope.spawn(move || chunk.iter().map(make).collect::<Vec<std::io::Result<Host>>>())
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    made.step(|| format!("make {} namespaces", wanted.len()))
}
