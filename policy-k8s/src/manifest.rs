//! Manifests: YAML and JSON files, `List`s, multi-document streams, folders, standard input.
//!
//! After reading, a [`Cluster`] breaks no rule of semantics sections 16 and 17.8: everything in it was accepted as
//! strictly as a current API server does, and stricter where a lax one would widen a policy silently.

mod admit;
mod cluster_network_policy;
mod cluster_port;
mod collect;
mod contradiction;
mod decode;
mod documents;
mod error;
mod files;
mod hint;
mod ingress;
mod json;
mod lint;
mod metadata;
mod network_policy;
mod node;
mod note;
mod path;
mod pod;
mod scalar;
mod selector;
mod service;
mod tree;
mod workload;
mod write;
mod yaml;

use netpol_core::model::Cluster;

pub use error::{Problem, ReadError, ReadErrors};
pub use note::{Note, Remark, Severity};
pub use write::write_yaml;

use collect::Collected;
use decode::Reader;

/// What manifests hold, once nothing is wrong with them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Manifests {
    /// The objects.
    pub cluster: Cluster,
    /// Warnings, and what was skipped or assumed.
    pub notes: Vec<Note>,
}

/// How manifests are read.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "options are written as literals with `..Default::default()`"
)]
pub struct ReadOptions {
    /// What a CIDR with host bits is.
    pub host_bits: HostBits,
    /// The namespace of namespaced objects that name none (VAL-003). Empty: that is an error.
    pub default_namespace: String,
    /// How much is read at all.
    pub limits: Limits,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            host_bits: HostBits::Reject,
            default_namespace: "default".to_owned(),
            limits: Limits::default(),
        }
    }
}

/// What a CIDR with bits after its prefix length is (NP-071, DEC-06).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum HostBits {
    /// An error, as on servers from 1.36 on.
    #[default]
    Reject,
    /// The network it lies in, with a note, as on older servers.
    Mask,
}

/// Bounds that keep hostile or mistaken input from taking unbounded time or memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "options are written as literals with `..Default::default()`"
)]
pub struct Limits {
    /// Bytes in one file.
    pub file_bytes: u64,
    /// Levels of nested collections.
    pub depth: usize,
    /// Characters of one `[…]`, `{…}` or scalar in YAML; JSON has no such limit.
    pub flow_characters: usize,
    /// Values in one document.
    pub nodes: usize,
    /// Values that anchors and aliases may copy in one document.
    pub copied_nodes: usize,
    /// Errors worth listing.
    pub errors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 256 << 20,
            depth: 200,
            flow_characters: 2 << 20,
            nodes: 10_000_000,
            copied_nodes: 100_000,
            errors: 1000,
        }
    }
}

/// Reads files, folders (all `.yaml`, `.yml` and `.json` files in them and below, in order of their names) and `-`,
/// standard input.
///
/// # Errors
/// Returns everything that is wrong in any of them.
pub fn read_paths(
    paths: &[impl AsRef<str>],
    options: &ReadOptions,
) -> Result<Manifests, ReadErrors> {
    let mut reader = Reader::new(options);
    let mut collected = Collected::default();
    for path in paths {
        files::read_path(&mut reader, &mut collected, path.as_ref());
    }
    finish(reader, collected)
}

/// Reads a text as if it were the file `file_name`.
///
/// # Errors
/// Returns everything that is wrong in it.
pub fn read_str(
    file_name: &str,
    text: &str,
    options: &ReadOptions,
) -> Result<Manifests, ReadErrors> {
    let mut reader = Reader::new(options);
    let mut collected = Collected::default();
    files::read_text(&mut reader, &mut collected, file_name, text);
    finish(reader, collected)
}

fn finish(mut reader: Reader<'_>, collected: Collected) -> Result<Manifests, ReadErrors> {
    let cluster = collected.into_cluster(&mut reader);
    let Reader { errors, mut notes, .. } = reader;
    if !errors.is_empty() {
        return Err(ReadErrors { errors });
    }
    lint::lint(&cluster, &mut notes);
    Ok(Manifests { cluster, notes })
}
