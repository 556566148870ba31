//! Kubernetes objects for [`netpol_core`]: manifests in, model objects out.
//!
//! [`manifest`] reads YAML and JSON files as `kubectl` would see them, but strictly: an unknown field, a duplicate key,
//! an unquoted `yes` where a string belongs are errors, each with file, line, column, object and field path. All errors
//! of all files are reported at once, and nothing is evaluated while there is one (OFF-002).
//!
//! ```
//! use netpol_k8s::manifest::{ReadOptions, read_str};
//!
//! let text = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: x}, spec: {}}";
//! let manifests = read_str("policy.yaml", text, &ReadOptions::default())?;
//! assert_eq!(manifests.cluster.network_policies.len(), 1);
//!
//! let errors = read_str("policy.yaml", &text.replace("spec: {}", "spec: {podselector: {}}"), &ReadOptions::default());
//! let message = errors.unwrap_err().to_string();
//! assert!(message.contains("spec.podselector: unknown field `podselector`; did you mean `podSelector`? (VAL-004)"));
//! # Ok::<(), netpol_k8s::manifest::ReadErrors>(())
//! ```
//!
//! The feature `watch` adds `watch`: the objects of a live cluster as a stream of changes. The feature `k8s-openapi` adds
//! `objects`: from the types of that crate.
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;

#[cfg(any(feature = "k8s-openapi", feature = "watch"))]
mod decode;
#[cfg(feature = "manifest")]
#[cfg_attr(docsrs, doc(cfg(feature = "manifest")))]
pub mod manifest;
#[cfg(feature = "k8s-openapi")]
#[cfg_attr(docsrs, doc(cfg(feature = "k8s-openapi")))]
pub mod objects;
#[cfg(any(feature = "k8s-openapi", feature = "watch"))]
mod oddity;
#[cfg(feature = "watch")]
#[cfg_attr(docsrs, doc(cfg(feature = "watch")))]
pub mod watch;
