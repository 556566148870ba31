//! What every policy's compilation shares: the pods, the indexes, the peer sets made so far.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::ops::Range;

use hashbrown::HashMap;

use super::Diagnostic;
use super::index::LabelIndex;
use super::plan::{NameQuery, World};
use super::pods::{Pods, Row, index};
use crate::ir::{NamespaceScope, PeerSelector, PeerSet, PeerSetId, Selector};
use crate::model::{Cluster, Node, Protocol};

/// State of one compilation.
pub(super) struct Context<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) pods: &'a Pods<'a>,
    pod_labels: LabelIndex<'a>,
    namespace_labels: LabelIndex<'a>,
    namespaces: HashMap<Selector, Arc<[u32]>>,
    ids: HashMap<PeerSelector, PeerSetId>,
    peer_sets: BTreeMap<PeerSetId, Arc<PeerSet>>,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        pods: &'a Pods<'a>,
        diagnostics: Vec<Diagnostic>,
    ) -> Self {
        Self {
            cluster,
            pods,
            pod_labels: LabelIndex::new(pods.rows.iter().map(|row| &row.pod.meta.labels)),
            namespace_labels: LabelIndex::new(
                pods.namespaces.iter().map(|row| row.labels.labels()),
            ),
            namespaces: HashMap::new(),
            ids: HashMap::new(),
            peer_sets: BTreeMap::new(),
            diagnostics,
        }
    }

    /// Returns the rows of the pods in `namespaces` that match `selector`, ascending.
    pub(super) fn select(&mut self, namespaces: &NamespaceScope, selector: &Selector) -> Vec<Row> {
        match namespaces {
            NamespaceScope::One(name) => {
                self.pod_labels.select(self.pods.of_namespace(name), selector)
            }
            NamespaceScope::Matching(namespaces) if namespaces.is_everything() => {
                self.pod_labels.select(0..index(self.pods.rows.len()), selector)
            }
            NamespaceScope::Matching(namespaces) => {
                let mut rows = Vec::new();
                for namespace in self.matching_namespaces(namespaces).iter() {
                    let Some(range) = self.namespace_rows(*namespace) else { continue };
                    rows.extend(self.pod_labels.select(range, selector));
                }
                rows
            }
        }
    }

    fn matching_namespaces(&mut self, selector: &Selector) -> Arc<[u32]> {
        if let Some(known) = self.namespaces.get(selector) {
            return known.clone();
        }
        let all = 0..index(self.pods.namespaces.len());
        let matching: Arc<[u32]> = self.namespace_labels.select(all, selector).into();
        self.namespaces.insert(selector.clone(), matching.clone());
        matching
    }

    fn namespace_rows(&self, namespace: u32) -> Option<Range<Row>> {
        self.pods.namespaces.get(namespace as usize).map(|namespace| namespace.rows.clone())
    }

    fn members(&mut self, selector: PeerSelector) -> PeerSet {
        let mut networks = crate::net::PrefixSet::default();
        let addresses = match &selector {
            PeerSelector::Pods { namespaces, pods, port } => {
                let rows = self.select(namespaces, pods);
                let rows = rows.into_iter().filter_map(|row| self.pods.row(row));
                let resolves = |row: &&super::pods::PodRow<'_>| {
                    port.as_ref().is_none_or(|port| {
                        row.pod
                            .named_ports(&port.name)
                            .any(|resolved| resolved == (port.protocol, port.number))
                    })
                };
                rows.filter(resolves).flat_map(|row| row.addresses.iter().copied()).collect()
            }
            PeerSelector::Nodes(selector) => {
                let matches = |node: &&Node| selector.matches(&node.meta.labels);
                self.cluster
                    .nodes
                    .values()
                    .filter(matches)
                    .flat_map(|node| node.addresses.iter().copied())
                    .collect()
            }
            PeerSelector::Networks(ranges) => {
                networks = ranges.clone();
                crate::net::AddressSet::default()
            }
            PeerSelector::PodsInNetworks(ranges, port) => self
                .pods
                .rows
                .iter()
                .filter(|row| {
                    row.pod
                        .named_ports(&port.name)
                        .any(|resolved| resolved == (port.protocol, port.number))
                })
                .flat_map(|row| {
                    row.addresses.iter().copied().filter(|address| ranges.contains(*address))
                })
                .collect(),
        };
        PeerSet { selector, addresses, networks }
    }

    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub(super) fn finish(self) -> (BTreeMap<PeerSetId, Arc<PeerSet>>, Vec<Diagnostic>) {
        (self.peer_sets, self.diagnostics)
    }
}

impl World for Context<'_> {
    fn peer_set(&mut self, selector: PeerSelector) -> PeerSetId {
        if let Some(known) = self.ids.get(&selector) {
            return *known;
        }
        let id = selector.id();
        let set = self.members(selector.clone());
        self.ids.insert(selector, id);
        self.peer_sets.insert(id, Arc::new(set));
        id
    }

    fn numbers(&mut self, query: &NameQuery<'_>) -> BTreeSet<(Protocol, NonZeroU16)> {
        let rows = self.select(query.namespaces, query.pods);
        let rows = rows.into_iter().filter_map(|row| self.pods.row(row));
        let inside = rows.filter(|row| {
            query.networks.is_none_or(|networks| {
                row.addresses.iter().any(|address| networks.contains(*address))
            })
        });
        inside.flat_map(|row| row.pod.named_ports(query.name)).collect()
    }
}
