//! Case files: one statement of the semantics each, as manifests and what must come of them.
//!
//! A case file is YAML of several documents. The first is the case, the others are ordinary manifests, so that a case
//! file is also input for `netpol verdict -f`, and places in errors are places in the file:
//!
//! ```yaml
//! apiVersion: netpol.test/v1
//! kind: Case
//! why: A peer with both selectors means pods that match the one, in namespaces that match the other.
//! cites: [NP-052]
//! flows:
//!   y/b -> x/a:80/TCP: allow
//!   y/a -> x/a:80/TCP: deny because isolated
//! ---
//! apiVersion: networking.k8s.io/v1
//! kind: NetworkPolicy
//! …
//! ```
//!
//! | field | says |
//! |---|---|
//! | `why` | the statement, in our own words |
//! | `cites` | its number in `docs/semantics.md`, and others that the case shows |
//! | `flows` | `SOURCE -> DESTINATION:PORT/PROTOCOL`, with `allow` or `deny`. Ends are `namespace/pod`, `node/NAME` or an address (IPv6 in brackets); `ICMP` or an IP protocol number stands in place of port and protocol. ` via Service` means that a Service was dialled, ` over IPv4` and ` over IPv6` pick one family: without them the flow is judged in every family that both ends have. ` because …` demands words of the reason, `, uncertain` that an unknown address could change the verdict (OFF-006) |
//! | `rejects` | every error that reading must report, and no other: `VAL-023 namespace/name path.of[0].field`, and `line 12` if the place matters |
//! | `notes` | words that a note or diagnostic must contain, one entry each; `[]` means that no warning may be given |
//! | `settings` | `own-node-egress: enforce`, `other-protocols: pass`, `host-bits: mask` |
//!
//! Pods without address get one of each family; `status.podIPs` and `spec.nodeName` are given where they matter.

mod flow;
mod rejection;
mod yaml;

pub mod e2e;

pub use flow::{Certainty, End, ExpectedFlow, FlowError};
pub use rejection::Rejection;
pub use yaml::YamlError;

use std::path::{Path, PathBuf};

use netpol_core::addresses::{AddressPlan, Assigned, assign};
use netpol_core::ir::{Flow, OtherProtocols, OwnNodeEgress, Settings};
use netpol_core::model::Cluster;
use netpol_k8s::manifest::{HostBits, Manifests, ReadErrors, ReadOptions, read_str};

use self::yaml::Yaml;

/// A case file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Case {
    /// Path below the folder, without `.yaml`: `np/052-both-selectors`.
    pub name: String,
    /// The statement, in our own words.
    pub why: String,
    /// Numbers of the statements that the case shows.
    pub cites: Vec<String>,
    /// What must happen to traffic; empty if the manifests must be rejected.
    pub flows: Vec<ExpectedFlow>,
    /// Every error that reading must report; empty if the manifests are good.
    pub rejects: Vec<Rejection>,
    /// Words of notes and diagnostics that must be given; `Some` and empty: no warning may be given.
    pub notes: Option<Vec<String>>,
    /// What the embedder chose.
    pub settings: Settings,
    /// How the manifests are read.
    pub read_options: ReadOptions,
    /// The whole file.
    pub text: String,
}

/// The objects of a case, with what was made up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CaseCluster {
    /// The objects; every policed pod and every node has addresses.
    pub cluster: Cluster,
    /// Which addresses were made up.
    pub assigned: Assigned,
    /// What the reader remarked, one line each.
    pub notes: Vec<netpol_k8s::manifest::Note>,
}

/// Why a case cannot be run. A case whose verdict is wrong is no error of this kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// The file or folder cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The first document is not YAML as case files use it.
    #[error("case `{name}`: the first document cannot be read")]
    Head {
        /// Which case.
        name: String,
        /// Why.
        source: YamlError,
    },
    /// A field of the first document is missing or not as described in [`cases`](self).
    #[error("case `{name}`: field `{field}` is missing or not understood")]
    Field {
        /// Which case.
        name: String,
        /// Which field.
        field: String,
    },
    /// A line of `flows` cannot be read or judged.
    #[error("case `{name}`")]
    Flow {
        /// Which case.
        name: String,
        /// Why.
        source: FlowError,
    },
    /// The manifests of a case that expects no rejection are rejected.
    #[error("case `{name}`: the manifests are rejected")]
    Rejected {
        /// Which case.
        name: String,
        /// Why.
        source: ReadErrors,
    },
}

/// Reads every case file of a folder and the folders in it, in order of their names.
///
/// # Errors
///
/// If a file cannot be read, or is not a case.
pub fn load_dir(folder: &Path) -> Result<Vec<Case>, CaseError> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort_unstable();
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| CaseError::Io { path: path.clone(), source })?;
            let below = path.strip_prefix(folder).unwrap_or(&path).with_extension("");
            Case::try_new(&below.to_string_lossy(), text)
        })
        .collect()
}

/// Reads the case files that come with this crate.
///
/// # Errors
///
/// As [`load_dir`].
pub fn all() -> Result<Vec<Case>, CaseError> {
    load_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases"))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), CaseError> {
    let failed = |source| CaseError::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    Ok(())
}

/// Returns every document of a text as JSON, for what reads no YAML.
///
/// # Errors
/// If the text is no YAML, or of a sort that case files do without.
pub fn documents_as_json(text: &str) -> Result<Vec<String>, YamlError> {
    Ok(Yaml::documents(text)?.iter().map(ToString::to_string).collect())
}

impl Case {
    /// Reads a case from the text of its file.
    ///
    /// # Errors
    ///
    /// If the first document is not a case.
    pub fn try_new(name: &str, text: String) -> Result<Self, CaseError> {
        let head = Yaml::first_document(&text)
            .map_err(|source| CaseError::Head { name: name.to_owned(), source })?;
        let wrong =
            |field: &str| CaseError::Field { name: name.to_owned(), field: field.to_owned() };
        let known = ["apiVersion", "kind", "why", "cites", "flows", "rejects", "notes", "settings"];
        if let Some((field, _)) =
            head.entries().iter().find(|(field, _)| !known.contains(&field.as_str()))
        {
            return Err(wrong(field));
        }
        let text_of = |field: &str| head.field(field).and_then(Yaml::text);
        if text_of("apiVersion") != Some("netpol.test/v1") || text_of("kind") != Some("Case") {
            return Err(wrong("kind"));
        }
        let list_of = |field: &str| {
            let items = head.field(field)?.items().iter();
            Some(items.filter_map(|item| item.text().map(str::to_owned)).collect::<Vec<_>>())
        };
        let flows = head.field("flows").map(Yaml::entries).unwrap_or_default();
        let flows = flows
            .iter()
            .map(|(flow, verdict)| ExpectedFlow::try_new(flow, verdict.text().unwrap_or_default()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| CaseError::Flow { name: name.to_owned(), source })?;
        let rejects = list_of("rejects").unwrap_or_default();
        let rejects = rejects
            .iter()
            .map(|text| Rejection::parse(text).ok_or_else(|| wrong(text)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut case = Self {
            name: name.to_owned(),
            why: text_of("why").ok_or_else(|| wrong("why"))?.to_owned(),
            cites: list_of("cites").filter(|ids| !ids.is_empty()).ok_or_else(|| wrong("cites"))?,
            flows,
            rejects,
            notes: list_of("notes"),
            settings: Settings::default(),
            read_options: ReadOptions::default(),
            text: String::new(),
        };
        for (setting, value) in head.field("settings").map(Yaml::entries).unwrap_or_default() {
            match (setting.as_str(), value.text()) {
                ("own-node-egress", Some("enforce")) => {
                    case.settings.own_node_egress = OwnNodeEgress::Enforce;
                }
                ("other-protocols", Some("pass")) => {
                    case.settings.other_protocols = OtherProtocols::Pass;
                }
                ("host-bits", Some("mask")) => case.read_options.host_bits = HostBits::Mask,
                _ => return Err(wrong(setting)),
            }
        }
        if case.flows.is_empty() && case.rejects.is_empty() && case.notes.is_none() {
            return Err(wrong("flows"));
        }
        Ok(Self { text, ..case })
    }

    /// Reads the manifests.
    ///
    /// # Errors
    ///
    /// What is wrong with them, by file name, line and path.
    pub fn read(&self) -> Result<Manifests, ReadErrors> {
        read_str(&format!("{}.yaml", self.name), &self.text, &self.read_options)
    }

    /// Returns the objects, with addresses for all that have none.
    ///
    /// # Errors
    ///
    /// If the manifests are rejected.
    pub fn cluster(&self) -> Result<CaseCluster, CaseError> {
        let manifests = self
            .read()
            .map_err(|source| CaseError::Rejected { name: self.name.clone(), source })?;
        let mut cluster = manifests.cluster;
        let ends = self.flows.iter().flat_map(|flow| [&flow.source, &flow.destination]);
        let reserved = ends.filter_map(|end| match end {
            End::Address(address) => Some(*address),
            End::Node(_) | End::Pod(_) => None,
        });
        let plan = AddressPlan { reserved: reserved.collect(), ..AddressPlan::default() };
        let assigned = assign(&mut cluster, &plan);
        Ok(CaseCluster { cluster, assigned, notes: manifests.notes })
    }

    /// Returns every flow of the case with what is expected of it, once for each family.
    ///
    /// # Errors
    ///
    /// If an end is not in the cluster, or the ends share no family.
    pub fn flows(&self, cluster: &Cluster) -> Result<Vec<(&ExpectedFlow, Flow)>, CaseError> {
        let mut flows = Vec::new();
        for expected in &self.flows {
            let each = expected
                .flows(cluster)
                .map_err(|source| CaseError::Flow { name: self.name.clone(), source })?;
            flows.extend(each.into_iter().map(|flow| (expected, flow)));
        }
        Ok(flows)
    }
}
