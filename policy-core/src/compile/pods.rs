//! The policed pods as rows, and which of them owns each address.

use alloc::collections::BTreeMap;
use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::net::IpAddr;
use core::ops::Range;

use hashbrown::HashMap;

use super::Diagnostic;
use crate::ir::Scope;
use crate::model::{Cluster, Labels, Namespace, Phase, Pod};

/// Index of a row.
pub(super) type Row = u32;

/// Every policed pod that owns an address, by namespace and name, so that the pods of a namespace are neighbours.
pub(super) struct Pods<'a> {
    pub(super) rows: Vec<PodRow<'a>>,
    /// Every namespace that is declared or has pods, by name.
    pub(super) namespaces: Vec<NamespaceRow<'a>>,
    by_name: HashMap<&'a str, u32>,
}

/// A policed pod.
pub(super) struct PodRow<'a> {
    pub(super) pod: &'a Pod,
    /// The addresses it owns, ascending; at least one.
    pub(super) addresses: Vec<IpAddr>,
    /// Whether the scope polices it.
    pub(super) in_scope: bool,
}

/// A namespace and its pods.
pub(super) struct NamespaceRow<'a> {
    pub(super) labels: NamespaceLabels<'a>,
    pub(super) rows: Range<Row>,
}

/// Labels of a namespace that is there, or of one that is only mentioned (OFF-003).
pub(super) enum NamespaceLabels<'a> {
    Declared(&'a Labels),
    Mentioned(Labels),
}

impl NamespaceLabels<'_> {
    pub(super) const fn labels(&self) -> &Labels {
        match self {
            Self::Declared(labels) => labels,
            Self::Mentioned(labels) => labels,
        }
    }
}

impl<'a> Pods<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        scope: &Scope,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let owners = owners(cluster, diagnostics);
        let mut rows: Vec<PodRow<'a>> = Vec::with_capacity(cluster.pods.len());
        let mut spans: BTreeMap<&'a str, Range<Row>> = BTreeMap::new();
        for pod in cluster.pods.values().filter(|pod| pod.is_policed()) {
            let owns = |address: &IpAddr| {
                owners.get(address).is_some_and(|owner| core::ptr::eq(*owner, pod))
            };
            let mut addresses: Vec<IpAddr> = pod.addresses.iter().copied().filter(owns).collect();
            addresses.sort_unstable();
            addresses.dedup();
            if addresses.is_empty() {
                continue; // NP-135: nothing to enforce yet.
            }
            let in_scope = match scope {
                Scope::Cluster => true,
                Scope::Node(name) => pod.node.as_ref() == Some(name),
            };
            let row = index(rows.len());
            let span = spans.entry(&pod.meta.object.namespace).or_insert(row..row);
            span.end = row + 1;
            rows.push(PodRow { pod, addresses, in_scope });
        }
        let mut namespaces: BTreeMap<&'a str, NamespaceRow<'a>> = BTreeMap::new();
        for (name, namespace) in &cluster.namespaces {
            let rows = spans.remove(name.as_ref()).unwrap_or_default();
            let labels = NamespaceLabels::Declared(&namespace.meta.labels);
            namespaces.insert(name, NamespaceRow { labels, rows });
        }
        for (name, rows) in spans {
            diagnostics.push(Diagnostic::MissingNamespace(name.to_string()));
            let labels = NamespaceLabels::Mentioned(Namespace::mentioned(name).meta.labels);
            namespaces.insert(name, NamespaceRow { labels, rows });
        }
        let by_name = namespaces
            .keys()
            .enumerate()
            .map(|(position, name)| (*name, index(position)))
            .collect();
        Self { rows, namespaces: namespaces.into_values().collect(), by_name }
    }

    /// Returns the rows of one namespace; none if it has no policed pod.
    pub(super) fn of_namespace(&self, name: &str) -> Range<Row> {
        self.by_name
            .get(name)
            .and_then(|position| self.namespaces.get(*position as usize))
            .map_or(0..0, |namespace| namespace.rows.clone())
    }

    pub(super) fn row(&self, row: Row) -> Option<&PodRow<'a>> {
        self.rows.get(row as usize)
    }
}

/// A count as a row number. A cluster with 2³² objects does not fit into memory, so this never saturates.
pub(super) fn index(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// One live owner per address: a pod that runs and stays before others, then the newest, then the first by name (NP-140).
/// So a pod that is being deleted never keeps its address from the one that got it next.
fn owners<'a>(cluster: &'a Cluster, diagnostics: &mut Vec<Diagnostic>) -> HashMap<IpAddr, &'a Pod> {
    let strength =
        |pod: &Pod| (pod.phase == Phase::Running && !pod.terminating, pod.meta.created.clone());
    let mut owners: HashMap<IpAddr, &'a Pod> = HashMap::with_capacity(cluster.pods.len());
    let mut contested: BTreeMap<IpAddr, Vec<&'a Pod>> = BTreeMap::new();
    for pod in cluster.pods.values().filter(|pod| pod.is_policed()) {
        for address in &pod.addresses {
            match owners.get(address) {
                None => {
                    owners.insert(*address, pod);
                }
                Some(first) if core::ptr::eq(*first, pod) => {}
                Some(first) => {
                    contested.entry(*address).or_insert_with(|| alloc::vec![*first]).push(pod);
                }
            }
        }
    }
    for (address, claimants) in contested {
        // Claimants ascend by name, and max_by_key takes the last of equals: so count names from the end.
        let winner = claimants
            .iter()
            .enumerate()
            .max_by_key(|(position, pod)| (strength(pod), Reverse(*position)));
        let Some((_, winner)) = winner else { continue };
        owners.insert(address, winner);
        for loser in claimants.iter().filter(|pod| !core::ptr::eq(**pod, *winner)) {
            diagnostics.push(Diagnostic::AddressClash {
                address,
                owner: winner.meta.object.clone(),
                loser: loser.meta.object.clone(),
            });
        }
    }
    owners
}
