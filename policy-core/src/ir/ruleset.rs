//! The root of the IR.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;

use super::store::Store;
use super::{Direction, PeerSet, PeerSetId, Pipeline, PipelineId};
use crate::model::ObjectRef;
use crate::net::PrefixSet;

/// Whose pods are policed.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// Every pod of the cluster.
    #[default]
    Cluster,
    /// The pods of one node, by name.
    Node(Arc<str>),
}

/// What the embedder chose where the semantics leave a choice.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Settings {
    /// Traffic from a pod to its own node (DEC-01).
    pub own_node_egress: OwnNodeEgress,
    /// Protocols other than TCP, UDP and SCTP (DEC-02).
    pub other_protocols: OtherProtocols,
}

/// Whether NetworkPolicies judge traffic from a pod to its own node (NP-127). ClusterNetworkPolicies always do.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum OwnNodeEgress {
    /// It always passes them.
    #[default]
    Allow,
    /// Like any other egress.
    Enforce,
}

/// What happens to protocols without ports in an isolated direction (NP-114).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum OtherProtocols {
    /// Rules without ports match them, as they match everything.
    #[default]
    Judge,
    /// They always pass.
    Pass,
}

/// A policed pod as addresses, bound to its two pipelines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// The pod.
    pub pod: ObjectRef,
    /// The node it runs on, once scheduled.
    pub node: Option<Arc<str>>,
    /// The addresses it owns, ascending. Each address of a ruleset has at most one owner (NP-140).
    pub addresses: Vec<IpAddr>,
    /// What happens to traffic towards it.
    pub ingress: PipelineId,
    /// What happens to traffic from it.
    pub egress: PipelineId,
}

impl Endpoint {
    /// Returns the pipeline of a direction.
    #[must_use]
    pub const fn pipeline(&self, direction: Direction) -> PipelineId {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// What one scope must enforce.
///
/// INVARIANT (closed references): every pipeline and peer set that is referred to is there, and every one that is there
/// is referred to. INVARIANT (one owner): no address belongs to two endpoints. Both are upheld by `compile` and checked
/// by [`verify`](super::verify).
#[derive(Clone, Debug)]
pub struct Ruleset {
    scope: Scope,
    settings: Settings,
    pod_ranges: PrefixSet,
    nodes: BTreeMap<Arc<str>, Vec<IpAddr>>,
    endpoints: BTreeMap<ObjectRef, Arc<Endpoint>>,
    pipelines: Store<PipelineId, Pipeline>,
    peer_sets: Store<PeerSetId, PeerSet>,
    /// Derived from `endpoints`: look-up only, never iterated, so that order cannot leak.
    owners: HashMap<IpAddr, Arc<Endpoint>>,
}

/// Equal content; the index follows from it.
impl PartialEq for Ruleset {
    fn eq(&self, other: &Self) -> bool {
        self.scope == other.scope
            && self.settings == other.settings
            && self.pod_ranges == other.pod_ranges
            && self.nodes == other.nodes
            && self.endpoints == other.endpoints
            && self.pipelines == other.pipelines
            && self.peer_sets == other.peer_sets
    }
}

impl Eq for Ruleset {}

/// The parts of a [`Ruleset`].
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Whose pods are policed.
    pub scope: Scope,
    /// Choices.
    pub settings: Settings,
    /// Strict mode: the addresses that only pods of the scope may have. Traffic from or to one of them that no endpoint
    /// owns and that is no address of a node of the scope is dropped, so that a pod whose policies are not known yet
    /// talks to nobody. Empty: off.
    pub pod_ranges: PrefixSet,
    /// Addresses of the nodes of the scope, by name: what makes traffic own-node traffic in [`Ruleset::verdict`].
    pub nodes: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The pipelines.
    pub pipelines: BTreeMap<PipelineId, Arc<Pipeline>>,
    /// The peer sets.
    pub peer_sets: BTreeMap<PeerSetId, Arc<PeerSet>>,
}

impl Ruleset {
    /// Puts parts together. Call [`verify`](super::verify) on parts from outside.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { scope, settings, pod_ranges, nodes, endpoints, pipelines, peer_sets } = parts;
        let endpoints: BTreeMap<ObjectRef, Arc<Endpoint>> = endpoints
            .into_iter()
            .map(|endpoint| (endpoint.pod.clone(), Arc::new(endpoint)))
            .collect();
        let mut owners = HashMap::with_capacity(endpoints.len());
        for endpoint in endpoints.values() {
            for address in &endpoint.addresses {
                owners.entry(*address).or_insert_with(|| endpoint.clone());
            }
        }
        let (pipelines, peer_sets) = (Store::new(pipelines), Store::new(peer_sets));
        Self { scope, settings, pod_ranges, nodes, endpoints, pipelines, peer_sets, owners }
    }

    /// Puts an endpoint in, in place of the pod's old one. Returns that.
    ///
    /// Where an address moves from one endpoint to another, both are put; the order does not matter.
    pub(crate) fn put_endpoint(&mut self, endpoint: Arc<Endpoint>) -> Option<Arc<Endpoint>> {
        let before = self.endpoints.insert(endpoint.pod.clone(), endpoint.clone());
        if let Some(before) = &before {
            self.disown(before);
        }
        for address in &endpoint.addresses {
            self.owners.insert(*address, endpoint.clone());
        }
        before
    }

    /// Makes room for so many more addresses of endpoints, so that they are not moved while they come.
    pub(crate) fn reserve_owners(&mut self, addresses: usize) {
        self.owners.reserve(addresses);
    }

    /// Takes an endpoint out.
    pub(crate) fn remove_endpoint(&mut self, pod: &ObjectRef) -> Option<Arc<Endpoint>> {
        let before = self.endpoints.remove(pod)?;
        self.disown(&before);
        Some(before)
    }

    fn disown(&mut self, endpoint: &Endpoint) {
        for address in &endpoint.addresses {
            if self.owners.get(address).is_some_and(|owner| owner.pod == endpoint.pod) {
                self.owners.remove(address);
            }
        }
    }

    pub(crate) fn shared_endpoint(&self, pod: &ObjectRef) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(pod)
    }

    pub(crate) fn shared_endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    pub(crate) fn shared_pipelines(&self) -> impl Iterator<Item = (PipelineId, &Arc<Pipeline>)> {
        self.pipelines.sorted()
    }

    pub(crate) fn shared_peer_sets(&self) -> impl Iterator<Item = (PeerSetId, &Arc<PeerSet>)> {
        self.peer_sets.sorted()
    }

    /// Returns the pipelines in no order: for what adds up or looks for one.
    pub(crate) fn any_pipelines(&self) -> impl Iterator<Item = &Arc<Pipeline>> {
        self.pipelines.values()
    }

    /// Returns the peer sets in no order: for what adds up or looks for one.
    pub(crate) fn any_peer_sets(&self) -> impl Iterator<Item = &Arc<PeerSet>> {
        self.peer_sets.values()
    }

    pub(crate) fn put_pipeline(&mut self, id: PipelineId, pipeline: Arc<Pipeline>) {
        self.pipelines.insert(id, pipeline);
    }

    pub(crate) fn remove_pipeline(&mut self, id: PipelineId) -> Option<Arc<Pipeline>> {
        self.pipelines.remove(id)
    }

    pub(crate) fn shared_pipeline(&self, id: PipelineId) -> Option<&Arc<Pipeline>> {
        self.pipelines.get(id)
    }

    pub(crate) fn put_peer_set(&mut self, id: PeerSetId, set: Arc<PeerSet>) {
        self.peer_sets.insert(id, set);
    }

    pub(crate) fn remove_peer_set(&mut self, id: PeerSetId) -> Option<Arc<PeerSet>> {
        self.peer_sets.remove(id)
    }

    pub(crate) fn shared_peer_set(&self, id: PeerSetId) -> Option<&Arc<PeerSet>> {
        self.peer_sets.get(id)
    }

    /// Returns a set to change its members; a clone of the ruleset that shares the set keeps the old ones.
    pub(crate) fn peer_set_mut(&mut self, id: PeerSetId) -> Option<&mut PeerSet> {
        self.peer_sets.get_mut(id).map(Arc::make_mut)
    }

    /// Says what addresses a node of the scope has, or that it is gone. Returns what was said before.
    pub(crate) fn set_node(
        &mut self,
        name: &Arc<str>,
        addresses: Option<Vec<IpAddr>>,
    ) -> Option<Vec<IpAddr>> {
        match addresses {
            Some(addresses) => self.nodes.insert(name.clone(), addresses),
            None => self.nodes.remove(name),
        }
    }

    /// Returns whose pods are policed.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Returns the choices made.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// Returns the addresses that only pods of the scope may have; empty unless in strict mode ([`Parts::pod_ranges`]).
    #[must_use]
    pub const fn pod_ranges(&self) -> &PrefixSet {
        &self.pod_ranges
    }

    /// Returns whether an address is, in strict mode, that of a pod that is not known yet. What comes from there is
    /// dropped, and what goes there too, unless a node of the scope sends it.
    #[must_use]
    pub fn is_unknown_pod(&self, address: IpAddr) -> bool {
        self.pod_ranges.contains(address) && self.owner(address).is_none() && !self.is_node(address)
    }

    /// Returns whether an address is one of a node of the scope.
    pub(crate) fn is_node(&self, address: IpAddr) -> bool {
        self.nodes.values().any(|own| own.contains(&address))
    }

    /// Returns the nodes of the scope with their addresses, by name.
    #[must_use]
    pub const fn nodes(&self) -> &BTreeMap<Arc<str>, Vec<IpAddr>> {
        &self.nodes
    }

    /// Returns the endpoints, by pod.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.endpoints.values().map(AsRef::as_ref)
    }

    /// Returns the endpoint of a pod.
    #[must_use]
    pub fn endpoint(&self, pod: &ObjectRef) -> Option<&Endpoint> {
        self.endpoints.get(pod).map(AsRef::as_ref)
    }

    /// Returns the endpoint that owns an address.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&Endpoint> {
        self.owners.get(&address).map(AsRef::as_ref)
    }

    /// Returns the pipelines, by id.
    #[must_use]
    pub fn pipelines(&self) -> impl ExactSizeIterator<Item = (PipelineId, &Pipeline)> {
        self.pipelines.sorted().map(|(id, pipeline)| (id, pipeline.as_ref()))
    }

    /// Returns a pipeline.
    #[must_use]
    pub fn pipeline(&self, id: PipelineId) -> Option<&Pipeline> {
        self.pipelines.get(id).map(AsRef::as_ref)
    }

    /// Returns the peer sets, by id.
    #[must_use]
    pub fn peer_sets(&self) -> impl ExactSizeIterator<Item = (PeerSetId, &PeerSet)> {
        self.peer_sets.sorted().map(|(id, set)| (id, set.as_ref()))
    }

    /// Returns a peer set.
    #[must_use]
    pub fn peer_set(&self, id: PeerSetId) -> Option<&PeerSet> {
        self.peer_sets.get(id).map(AsRef::as_ref)
    }

    /// Returns whether `address` is one of the subject's own node (NP-129).
    ///
    /// A dataplane recognises its node by local origin; addresses stand in for that where no packet is there to look at.
    #[must_use]
    pub fn is_own_node(&self, subject: &Endpoint, address: IpAddr) -> bool {
        subject
            .node
            .as_ref()
            .and_then(|node| self.nodes.get(node))
            .is_some_and(|own| own.contains(&address))
    }
}
