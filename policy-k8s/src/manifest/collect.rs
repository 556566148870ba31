//! Objects on their way into a cluster: none twice (OFF-004), workloads and their pods counted once (OFF-008), names
//! unique.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use std::collections::HashMap;

use netpol_core::model::{
    Cluster, ClusterNetworkPolicy, Endpoints, Ingress, Kind, Namespace, NetworkPolicy, Node,
    ObjectMeta, ObjectRef, Pod, Service, Source,
};

use super::decode::Reader;
use super::error::Problem;
use super::note::{Note, Remark};
use super::path::Path;

/// Kind and name of each owner; the namespace is the object's.
type Owners = Vec<(Arc<str>, Arc<str>)>;

#[derive(Debug, Default)]
pub(super) struct Collected {
    seen: HashMap<(Kind, ObjectRef), Source>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) nodes: Vec<Node>,
    pub(super) pods: Vec<(Pod, Owners)>,
    pub(super) workloads: Vec<(Pod, Owners)>,
    pub(super) network_policies: Vec<NetworkPolicy>,
    pub(super) cluster_policies: Vec<(Kind, ClusterNetworkPolicy)>,
    pub(super) services: Vec<Service>,
    pub(super) endpoints: Vec<Endpoints>,
    pub(super) ingresses: Vec<Ingress>,
}

impl Collected {
    /// Returns whether the object was not there before; reports it if it was, naming both places.
    pub(super) fn is_new(
        &mut self,
        reader: &mut Reader<'_>,
        kind: Kind,
        meta: &ObjectMeta,
    ) -> bool {
        match self.seen.get(&(kind, meta.object.clone())) {
            Some(first) => {
                let first = first.clone();
                reader.report(
                    meta.source.position,
                    &Path::Root,
                    Problem::DuplicateObject { first },
                );
                false
            }
            None => {
                self.seen.insert((kind, meta.object.clone()), meta.source.clone());
                true
            }
        }
    }

    pub(super) fn into_cluster(mut self, reader: &mut Reader<'_>) -> Cluster {
        let mut cluster = Cluster::default();
        self.count_once(&mut reader.notes);
        cluster.pods =
            self.pods.into_iter().map(|(pod, _)| (pod.meta.object.clone(), pod)).collect();
        name_workloads(self.workloads, &mut cluster.pods, &mut reader.notes);
        cluster.cluster_network_policies =
            name_cluster_policies(self.cluster_policies, &mut reader.notes);
        let objects = self.network_policies.into_iter();
        cluster.network_policies =
            objects.map(|policy| (policy.meta.object.clone(), policy)).collect();
        let objects = self.namespaces.into_iter();
        cluster.namespaces =
            objects.map(|namespace| (namespace.name().clone(), namespace)).collect();
        cluster.nodes = self.nodes.into_iter().map(|node| (node.name().clone(), node)).collect();
        cluster.services = self
            .services
            .into_iter()
            .map(|service| (service.meta.object.clone(), service))
            .collect();
        let objects = self.ingresses.into_iter();
        cluster.ingresses = objects.map(|ingress| (ingress.meta.object.clone(), ingress)).collect();
        cluster.endpoints = self.endpoints;
        cluster.mention_namespaces();
        cluster
    }

    /// Drops what is listed beside its owner (OFF-008). Where the pods of a workload are listed as they run, with an
    /// address or finished, they say more than its template and stand for it; otherwise the workload stands for them.
    fn count_once(&mut self, notes: &mut Vec<Note>) {
        let owners: HashMap<Owner, Owners> =
            self.workloads.iter().map(|(pod, owners)| (Owner::of(pod), owners.clone())).collect();
        let top_of = |namespace: &Arc<str>, of: &Owners| {
            let mut top: Option<Owner> = None;
            let mut current = of;
            // Chains are short (pod, ReplicaSet, Deployment); the bound is against a circle.
            for _ in 0..8 {
                let listed = current.iter().map(|(kind, name)| Owner::new(namespace, kind, name));
                let Some((owner, above)) =
                    listed.into_iter().find_map(|owner| owners.get_key_value(&owner))
                else {
                    break;
                };
                top = Some(owner.clone());
                current = above;
            }
            top
        };
        let is_live = |pod: &Pod| !pod.addresses.is_empty() || pod.phase.is_finished();
        let mut replaced: BTreeSet<Owner> = BTreeSet::new();
        for (pod, pod_owners) in &self.pods {
            if is_live(pod) && !pod_owners.is_empty() {
                replaced.extend(top_of(&pod.meta.object.namespace, pod_owners));
            }
        }
        self.pods.retain(|(pod, pod_owners)| {
            match top_of(&pod.meta.object.namespace, pod_owners) {
                Some(top) if !replaced.contains(&top) => {
                    notes.push(note(&pod.meta, Kind::Pod, top.remark()));
                    false
                }
                Some(_) | None => true,
            }
        });
        self.workloads.retain(|(pod, above)| {
            let own = Owner::of(pod);
            let kind = pod.workload.as_ref().map_or(Kind::Pod, |workload| workload.kind);
            let remark = match top_of(&pod.meta.object.namespace, above) {
                // A circle of owners: keep it.
                Some(top) if top != own => top.remark(),
                Some(_) | None if replaced.contains(&own) => Remark::CountedAsPods,
                Some(_) | None => return true,
            };
            notes.push(note(&pod.meta, kind, remark));
            false
        });
    }
}

/// A workload as an owner reference names it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Owner {
    namespace: Arc<str>,
    kind: Arc<str>,
    name: Arc<str>,
}

impl Owner {
    fn new(namespace: &Arc<str>, kind: &Arc<str>, name: &Arc<str>) -> Self {
        Self { namespace: namespace.clone(), kind: kind.clone(), name: name.clone() }
    }

    fn of(pod: &Pod) -> Self {
        let kind = pod.workload.as_ref().map_or("Pod", |workload| workload.kind.as_str());
        let ObjectRef { namespace, name } = &pod.meta.object;
        Self { namespace: namespace.clone(), kind: kind.into(), name: name.clone() }
    }

    fn remark(&self) -> Remark {
        Remark::CountedAsOwner { kind: self.kind.to_string(), name: self.name.clone() }
    }
}

/// Gives workloads their plain name where it is free, and `name-kind` where a pod or another kind has it, independent
/// of the order in which they were read.
fn name_workloads(
    mut workloads: Vec<(Pod, Owners)>,
    pods: &mut BTreeMap<ObjectRef, Pod>,
    notes: &mut Vec<Note>,
) {
    let kind = |pod: &Pod| pod.workload.as_ref().map_or(Kind::Pod, |workload| workload.kind);
    workloads.sort_by(|(left, _), (right, _)| {
        (&left.meta.object, kind(left)).cmp(&(&right.meta.object, kind(right)))
    });
    for (mut pod, _) in workloads {
        let kind = kind(&pod);
        let ObjectRef { namespace, name } = pod.meta.object.clone();
        let free = free_name(&name, kind, |name| {
            !pods.contains_key(&ObjectRef { namespace: namespace.clone(), name: name.clone() })
        });
        if free != name {
            notes.push(note(&pod.meta, kind, Remark::Renamed(free.clone())));
        }
        pod.meta.object.name = free;
        pods.insert(pod.meta.object.clone(), pod);
    }
}

fn name_cluster_policies(
    mut policies: Vec<(Kind, ClusterNetworkPolicy)>,
    notes: &mut Vec<Note>,
) -> BTreeMap<Arc<str>, ClusterNetworkPolicy> {
    // The kinds' own names first: ClusterNetworkPolicy is the one that is not converted.
    policies.sort_by_key(|(kind, policy)| {
        (*kind != Kind::ClusterNetworkPolicy, *kind, policy.meta.object.clone())
    });
    let mut named = BTreeMap::new();
    for (kind, mut policy) in policies {
        let name = policy.meta.object.name.clone();
        let free = free_name(&name, kind, |name| !named.contains_key(name));
        if free != name {
            notes.push(note(&policy.meta, kind, Remark::Renamed(free.clone())));
        }
        policy.meta.object.name = free.clone();
        named.insert(free, policy);
    }
    named
}

fn free_name(name: &Arc<str>, kind: Kind, is_free: impl Fn(&Arc<str>) -> bool) -> Arc<str> {
    let mut candidate = name.clone();
    let mut count = 0_u32;
    while !is_free(&candidate) {
        count = count.saturating_add(1);
        let kind = kind.as_str().to_ascii_lowercase();
        candidate = if count == 1 {
            format!("{name}-{kind}").into()
        } else {
            format!("{name}-{kind}-{count}").into()
        };
    }
    candidate
}

pub(super) fn note(meta: &ObjectMeta, kind: Kind, remark: Remark) -> Note {
    Note {
        file: meta.source.file.clone().unwrap_or_else(|| "".into()),
        position: meta.source.position,
        object: Some((kind.as_str().to_owned(), meta.object.clone())),
        path: String::new(),
        remark,
    }
}
