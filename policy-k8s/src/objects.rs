//! `k8s-openapi` objects to model objects, for embedders who hold them already.
//!
//! Read as the watch reads what the API serves, by the same code: leniently (DEC-16). What cannot be read fails closed,
//! alone, and an [`Oddity`] says so. Each conversion goes through the object's JSON, some ten microseconds; who follows a
//! large cluster and has no other use for the typed objects spares their memory with the feature `watch`.
//!
//! The Kubernetes version feature of `k8s-openapi` is the embedder's choice.
//!
//! # Examples
//!
//! ```
//! use k8s_openapi::api::core::v1::{Pod, PodStatus};
//!
//! let mut pod = Pod::default();
//! pod.metadata.name = Some("web-1".into());
//! pod.status = Some(PodStatus { pod_ip: Some("10.0.0.1".into()), ..PodStatus::default() });
//! let read = netpol_k8s::objects::pod(&pod)?;
//! assert_eq!(read.object.addresses, ["10.0.0.1".parse::<std::net::IpAddr>()?]);
//! assert!(read.oddities.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use k8s_openapi::api::core::v1;
use k8s_openapi::api::networking::v1 as networking;
use netpol_core::model::{Kind, Namespace, NetworkPolicy, Node, ObjectRef, Pod};
use serde::Serialize;

use crate::decode::{self, Odd};
pub use crate::oddity::Oddity;

/// A model object, and what could not be read of it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the object, and what is odd about it")]
pub struct Read<T> {
    /// The object.
    pub object: T,
    /// What could not be read, and what became of it.
    pub oddities: Vec<Oddity>,
}

/// Why an object cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("{kind} cannot be read")]
#[non_exhaustive]
pub struct ReadError {
    /// Its kind.
    pub kind: Kind,
    /// Why: it has no name, for one.
    pub source: serde_json::Error,
}

/// Reads a Pod.
///
/// # Errors
/// If it has no name.
pub fn pod(pod: &v1::Pod) -> Result<Read<Pod>, ReadError> {
    read(Kind::Pod, pod, decode::pod::read, |pod| &pod.meta.object)
}

/// Reads a Namespace.
///
/// # Errors
/// If it has no name.
pub fn namespace(namespace: &v1::Namespace) -> Result<Read<Namespace>, ReadError> {
    let read_one = |text: &str, _: &mut Vec<Odd>| decode::node::read_namespace(text);
    read(Kind::Namespace, namespace, read_one, |namespace| &namespace.meta.object)
}

/// Reads a Node.
///
/// # Errors
/// If it has no name.
pub fn node(node: &v1::Node) -> Result<Read<Node>, ReadError> {
    read(Kind::Node, node, decode::node::read_node, |node| &node.meta.object)
}

/// Reads a NetworkPolicy.
///
/// # Errors
/// If it has no name.
pub fn network_policy(
    policy: &networking::NetworkPolicy,
) -> Result<Read<NetworkPolicy>, ReadError> {
    read(Kind::NetworkPolicy, policy, decode::network_policy::read, |policy| &policy.meta.object)
}

fn read<O: Serialize, T>(
    kind: Kind,
    object: &O,
    read: impl FnOnce(&str, &mut Vec<Odd>) -> Result<T, serde_json::Error>,
    name: impl FnOnce(&T) -> &ObjectRef,
) -> Result<Read<T>, ReadError> {
    let failed = |source| ReadError { kind, source };
    let text = serde_json::to_string(object).map_err(failed)?;
    let mut odd = Vec::new();
    let read = read(&text, &mut odd).map_err(failed)?;
    let object = name(&read).clone();
    let oddities = odd.into_iter().map(|Odd { path, problem, effect }| Oddity {
        kind,
        object: object.clone(),
        path,
        problem,
        effect,
    });
    Ok(Read { oddities: oddities.collect(), object: read })
}
