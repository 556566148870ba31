//! The conversions from `k8s-openapi` types, held against the manifest reader over all case files.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "test support"
)]

use core::fmt::Debug;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use netpol_conformance::cases::{self, documents_as_json};
use netpol_k8s::manifest::{HostBits, Manifests, ReadOptions, read_str};
use netpol_k8s::objects::{self, Read};
use serde::de::DeserializeOwned;

/// How often each kind was compared.
#[derive(Debug, Default)]
struct Compared {
    pods: usize,
    namespaces: usize,
    nodes: usize,
    policies: usize,
}

#[test]
fn typed_objects_become_what_the_manifest_reader_makes_of_the_same_text() {
    let mut compared = Compared::default();
    for case in cases::all().unwrap().iter().filter(|case| case.rejects.is_empty()) {
        for document in documents_as_json(&case.text).unwrap() {
            let mut document: serde_json::Value = serde_json::from_str(&document).unwrap();
            let kind = document["kind"].as_str().unwrap_or_default().to_owned();
            if !["Pod", "Namespace", "Node", "NetworkPolicy"].contains(&kind.as_str()) {
                continue;
            }
            // The reader puts what names no namespace into `default`, as kubectl does; the API always has one.
            if matches!(kind.as_str(), "Pod" | "NetworkPolicy")
                && document["metadata"]["namespace"].is_null()
            {
                document["metadata"]["namespace"] = "default".into();
            }
            let options = ReadOptions { host_bits: HostBits::Mask, ..ReadOptions::default() };
            let read = read_str("case", &document.to_string(), &options).unwrap();
            compare(&case.name, &kind, &document, read, &mut compared);
        }
    }
    eprintln!("{compared:?}");
    assert!(compared.pods > 50 && compared.policies > 50, "{compared:?}");
    assert!(compared.namespaces > 10 && compared.nodes > 2, "{compared:?}");
}

fn compare(
    case: &str,
    kind: &str,
    document: &serde_json::Value,
    read: Manifests,
    compared: &mut Compared,
) {
    let cluster = read.cluster;
    match kind {
        "Pod" => {
            let read = objects::pod(&typed::<Pod>(document)).unwrap();
            let mut expected = cluster.pods.into_values().next().unwrap();
            // Ports without a name match no name; the watch leaves them out.
            for container in &mut expected.containers {
                let (netpol_core::model::Container::Main(ports)
                | netpol_core::model::Container::Sidecar(ports)
                | netpol_core::model::Container::Init(ports)) = container;
                ports.retain(|port| port.name.is_some());
            }
            expected.containers.retain(|container| {
                let (netpol_core::model::Container::Main(ports)
                | netpol_core::model::Container::Sidecar(ports)
                | netpol_core::model::Container::Init(ports)) = container;
                !ports.is_empty()
            });
            same(case, read, &expected);
            compared.pods += 1;
        }
        "Namespace" => {
            let read = objects::namespace(&typed::<Namespace>(document)).unwrap();
            let name = document["metadata"]["name"].as_str().unwrap();
            same(case, read, &cluster.namespaces[name]);
            compared.namespaces += 1;
        }
        "Node" => {
            let read = objects::node(&typed::<Node>(document)).unwrap();
            same(case, read, cluster.nodes.values().next().unwrap());
            compared.nodes += 1;
        }
        _ => {
            let read = objects::network_policy(&typed::<NetworkPolicy>(document)).unwrap();
            same(case, read, cluster.network_policies.values().next().unwrap());
            compared.policies += 1;
        }
    }
}

fn typed<T: DeserializeOwned>(document: &serde_json::Value) -> T {
    serde_json::from_value(document.clone()).unwrap()
}

#[track_caller]
fn same<T: Debug>(case: &str, read: Read<T>, expected: &T) {
    assert_eq!(read.oddities, [], "{case}");
    assert_eq!(without_places(&read.object), without_places(expected), "{case}");
}

/// An object as text, without where it was written, and with what is absent and what is null alike: a typed object cannot
/// tell them apart.
fn without_places(object: &impl Debug) -> String {
    let text = format!("{object:?}").replace(": Null", ": Absent");
    let mut out = String::new();
    let mut rest = text.as_str();
    for start in ["position: Position {", "source: Source {"] {
        while let Some((before, after)) = rest.split_once(start) {
            out.push_str(before);
            // A source has a position of its own inside.
            let mut depth = 1_u32;
            let end = after.find(|character| {
                depth = match character {
                    '{' => depth + 1,
                    '}' => depth - 1,
                    _ => depth,
                };
                depth == 0
            });
            rest = &after[end.unwrap()..];
        }
        out.push_str(rest);
        let whole = core::mem::take(&mut out);
        rest = Box::leak(whole.into_boxed_str());
    }
    rest.to_owned()
}

#[test]
fn what_cannot_be_read_fails_closed_and_is_named() {
    let document = serde_json::json!({
        "metadata": { "name": "odd", "namespace": "x" },
        "spec": { "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": { "cidr": "nonsense" } }] }] },
    });
    let read = objects::network_policy(&typed::<NetworkPolicy>(&document)).unwrap();
    let rules = read.object.ingress.given().unwrap();
    assert!(rules[0].peers.given().unwrap()[0].ip_block.is_unreadable());
    assert_eq!(read.oddities.len(), 1);
    assert!(
        read.oddities[0]
            .to_string()
            .starts_with("NetworkPolicy x/odd: spec.ingress[0].from[0].ipBlock.cidr")
    );
    assert!(objects::pod(&Pod::default()).is_err(), "no name");
}
