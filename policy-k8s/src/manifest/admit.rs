//! Which kind an object is, and who reads it (VAL-001, OFF-005).

use netpol_core::model::{Kind, Violation};

use super::cluster_network_policy::{Dialect, cluster_network_policy};
use super::collect::Collected;
use super::decode::{Fields, Reader};
use super::documents::Document;
use super::error::Problem;
use super::hint::near_miss;
use super::ingress::ingress;
use super::metadata::{Metadata, Naming, metadata, peek_name};
use super::network_policy::network_policy;
use super::node::{namespace, node};
use super::note::Remark;
use super::path::Path;
use super::pod::pod;
use super::service::{endpoint_slice, endpoints, service};
use super::tree::{Node, Value, duplicate_keys};
use super::workload::workload;

const APPS: &[&str] = &["apps/v1", "apps/v1beta2", "apps/v1beta1", "extensions/v1beta1"];
const POLICY_ALPHA_1: &[&str] = &["policy.networking.k8s.io/v1alpha1"];
const POLICY_ALPHA_2: &[&str] = &["policy.networking.k8s.io/v1alpha2"];

/// Each kind with the versions it is read from (the current one first) and the form of its names.
const KINDS: &[(Kind, &[&str], Naming)] = &[
    (Kind::AdminNetworkPolicy, POLICY_ALPHA_1, Naming::Cluster),
    (Kind::BaselineAdminNetworkPolicy, POLICY_ALPHA_1, Naming::Cluster),
    (Kind::ClusterNetworkPolicy, POLICY_ALPHA_2, Naming::Cluster),
    (Kind::CronJob, &["batch/v1", "batch/v1beta1"], Naming::Namespaced),
    (Kind::DaemonSet, APPS, Naming::Namespaced),
    (Kind::Deployment, APPS, Naming::Namespaced),
    (Kind::Endpoints, &["v1"], Naming::Namespaced),
    (Kind::EndpointSlice, &["discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"], Naming::Namespaced),
    (Kind::Ingress, &["networking.k8s.io/v1"], Naming::Namespaced),
    (Kind::Job, &["batch/v1"], Naming::Namespaced),
    (Kind::Namespace, &["v1"], Naming::Namespace),
    (Kind::NetworkPolicy, &["networking.k8s.io/v1"], Naming::Namespaced),
    (Kind::Node, &["v1"], Naming::Cluster),
    (Kind::Pod, &["v1"], Naming::Namespaced),
    (Kind::ReplicaSet, APPS, Naming::Namespaced),
    (Kind::ReplicationController, &["v1"], Naming::Namespaced),
    (Kind::Service, &["v1"], Naming::NamespacedLabel),
    (Kind::StatefulSet, APPS, Naming::Namespaced),
];

/// Groups that are Kubernetes' own: there, a kind of ours under a version that is not listed is a mistake. Elsewhere
/// it is another product's kind of the same name.
const OWN_GROUPS: &[&str] = &[
    "",
    "apps",
    "batch",
    "discovery.k8s.io",
    "extensions",
    "networking.k8s.io",
    "policy",
    "policy.networking.k8s.io",
];

pub(super) fn admit(reader: &mut Reader<'_>, collected: &mut Collected, document: &Document<'_>) {
    // An empty document, such as one of comments only.
    if !document.root.is_null() {
        object(reader, collected, (&document.root, &Path::Root), Inherited::default(), document);
    }
}

/// What the items of a typed list leave out.
#[derive(Clone, Copy, Default)]
struct Inherited<'l> {
    api_version: Option<&'l str>,
    kind: Option<&'l str>,
}

fn object(
    reader: &mut Reader<'_>,
    collected: &mut Collected,
    (node, path): (&Node<'_>, &Path<'_>),
    inherited: Inherited<'_>,
    document: &Document<'_>,
) {
    reader.object = None;
    let Some(root) = reader.mapping(node, path) else { return };
    let api_version = type_field(reader, &root, "apiVersion", inherited.api_version);
    let kind = type_field(reader, &root, "kind", inherited.kind);
    let (Some(api_version), Some(kind)) = (api_version, kind) else {
        return duplicates_of(reader, node, path, document);
    };
    if let Some(item_kind) = kind.strip_suffix("List")
        && (item_kind.is_empty() || root.entry("items").is_some())
    {
        let of_items = Inherited { api_version: Some(&api_version), kind: Some(item_kind) };
        let of_items = if item_kind.is_empty() { Inherited::default() } else { of_items };
        return list(reader, collected, &root, of_items, document);
    }
    let recognised = recognise(&api_version, &kind);
    let naming = match recognised {
        Recognised::Known(_, naming) => naming,
        Recognised::WrongVersion(_) | Recognised::Misspelled(_) | Recognised::Other => {
            Naming::Namespaced
        }
    };
    let name = peek_name(&root, &reader.options.default_namespace, naming);
    reader.object = Some((kind.clone(), name));
    duplicates_of(reader, node, path, document);
    match recognised {
        Recognised::Known(kind, naming) => {
            if let Some(metadata) = metadata(reader, &root, naming) {
                read_kind(reader, collected, kind, &root, metadata);
            } else {
                // Without a name it cannot be kept, but the rest of its errors are worth having.
                read_kind(reader, &mut Collected::default(), kind, &root, Metadata::default());
            }
        }
        Recognised::WrongVersion(expected) => {
            let position =
                root.entry("apiVersion").map_or(root.position, |entry| entry.value.position);
            let violation = Violation::WrongApiVersion { kind, found: api_version, expected };
            reader.report(position, &path.key("apiVersion"), violation);
        }
        Recognised::Misspelled(meant) => {
            let position = root.entry("kind").map_or(root.position, |entry| entry.value.position);
            reader.report(
                position,
                &path.key("kind"),
                Violation::UnknownKind { found: kind, meant },
            );
        }
        Recognised::Other => {
            reader.note(root.position, path, Remark::SkippedKind { api_version, kind });
        }
    }
    reader.object = None;
}

fn type_field(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    name: &'static str,
    inherited: Option<&str>,
) -> Option<String> {
    match root.entry(name).filter(|entry| !entry.value.is_null()) {
        Some(entry) => reader.string(&entry.value, &root.path.key(name)).map(str::to_owned),
        None if inherited.is_some() => inherited.map(str::to_owned),
        None => {
            reader.report(root.position, &root.path.key(name), Violation::MissingType(name));
            None
        }
    }
}

fn list(
    reader: &mut Reader<'_>,
    collected: &mut Collected,
    root: &Fields<'_, '_, '_>,
    inherited: Inherited<'_>,
    document: &Document<'_>,
) {
    reader.only(root, &["apiVersion", "kind", "metadata", "items"]);
    reader.list_field(root, "items", |reader, node, path| {
        object(reader, collected, (node, path), inherited, document);
        reader.object = None;
        Some(())
    });
    if document.has_duplicates {
        duplicates_at(reader, root.entries, root.path);
    }
}

enum Recognised {
    Known(Kind, Naming),
    WrongVersion(&'static str),
    Misspelled(&'static str),
    Other,
}

fn recognise(api_version: &str, kind: &str) -> Recognised {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let is_own = OWN_GROUPS.contains(&group);
    let Some((kind, versions, naming)) = KINDS.iter().find(|(known, _, _)| known.as_str() == kind)
    else {
        let names: Vec<&'static str> = KINDS.iter().map(|(kind, _, _)| kind.as_str()).collect();
        return match near_miss(kind, &names) {
            Some(meant) if is_own => Recognised::Misspelled(meant),
            Some(_) | None => Recognised::Other,
        };
    };
    if versions.contains(&api_version) {
        return Recognised::Known(*kind, *naming);
    }
    match versions.first() {
        // Ingresses of old versions have another shape, and policy does not depend on them.
        Some(expected) if is_own && *kind != Kind::Ingress => Recognised::WrongVersion(expected),
        Some(_) | None => Recognised::Other,
    }
}

fn read_kind(
    reader: &mut Reader<'_>,
    collected: &mut Collected,
    kind: Kind,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
) {
    if !collected.is_new(reader, kind, &metadata.meta) {
        return;
    }
    let owners = metadata.owners.clone();
    match kind {
        Kind::NetworkPolicy => {
            collected.network_policies.extend(network_policy(reader, root, metadata));
        }
        Kind::ClusterNetworkPolicy => {
            cluster_policy(reader, collected, (kind, Dialect::Cluster), root, metadata);
        }
        Kind::AdminNetworkPolicy => {
            cluster_policy(reader, collected, (kind, Dialect::Admin), root, metadata);
        }
        Kind::BaselineAdminNetworkPolicy => {
            cluster_policy(reader, collected, (kind, Dialect::Baseline), root, metadata);
        }
        Kind::Namespace => collected.namespaces.extend(namespace(reader, root, metadata)),
        Kind::Node => collected.nodes.extend(node(reader, root, metadata)),
        Kind::Pod => collected.pods.extend(pod(reader, root, metadata).map(|pod| (pod, owners))),
        Kind::Service => collected.services.extend(service(reader, root, metadata)),
        Kind::Endpoints => collected.endpoints.extend(endpoints(reader, root, &metadata)),
        Kind::EndpointSlice => collected.endpoints.extend(endpoint_slice(reader, root, metadata)),
        Kind::Ingress => collected.ingresses.extend(ingress(reader, root, metadata)),
        Kind::CronJob
        | Kind::DaemonSet
        | Kind::Deployment
        | Kind::Job
        | Kind::ReplicaSet
        | Kind::ReplicationController
        | Kind::StatefulSet => {
            let pod = workload(reader, root, metadata, kind);
            collected.workloads.extend(pod.map(|pod| (pod, owners)));
        }
    }
}

fn cluster_policy(
    reader: &mut Reader<'_>,
    collected: &mut Collected,
    (kind, dialect): (Kind, Dialect),
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
) {
    let policy = cluster_network_policy(reader, root, metadata, dialect);
    collected.cluster_policies.extend(policy.map(|policy| (kind, policy)));
}

// Duplicate keys (VAL-005) are noticed while the tree is built; who they belong to is known only here.

fn duplicates_of(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    document: &Document<'_>,
) {
    if document.has_duplicates {
        duplicates(reader, node, path);
    }
}

fn duplicates(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) {
    match &node.value {
        Value::Scalar(_) => {}
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                duplicates(reader, item, &path.index(index));
            }
        }
        Value::Mapping(entries) => {
            duplicates_at(reader, entries, path);
            for entry in entries {
                duplicates(reader, &entry.value, &path.key(&entry.key));
            }
        }
    }
}

fn duplicates_at(reader: &mut Reader<'_>, entries: &[super::tree::Entry<'_>], path: &Path<'_>) {
    for (first, again) in duplicate_keys(entries) {
        let problem =
            Problem::DuplicateKey { key: again.key.to_string(), first: first.key_position };
        reader.report(again.key_position, &path.key(&again.key), problem);
    }
}
