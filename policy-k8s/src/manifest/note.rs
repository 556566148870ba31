//! What a manifest's author should know although nothing is wrong.

use alloc::sync::Arc;
use core::fmt;

use netpol_core::model::{Cidr, ObjectRef, Position};

use super::error::write_place;

/// A remark with its place.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Note {
    /// The file as the user named it; `-` is standard input.
    pub file: Arc<str>,
    /// Line and column; unknown when it is about the file.
    pub position: Position,
    /// Kind and name of the object.
    pub object: Option<(String, ObjectRef)>,
    /// The field; empty for the whole object.
    pub path: String,
    /// The remark.
    pub remark: Remark,
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "two levels, by design: what to fix is an error")]
pub enum Severity {
    /// For the record.
    Info,
    /// The manifest may not mean what its author thinks.
    Warning,
}

impl Note {
    /// Returns how much the note matters.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.remark.severity()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.file, self.position, self.object.as_ref(), &self.path)?;
        write!(f, "{}", self.remark)?;
        self.remark.id().map_or(Ok(()), |id| write!(f, " ({id})"))
    }
}

/// A remark, without the place.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Remark {
    /// A kind that says nothing about policy.
    #[error("skipped: {kind} of `{api_version}` says nothing about network policy")]
    SkippedKind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// No manifest in a folder.
    #[error("no .yaml, .yml or .json file in this folder")]
    EmptyFolder,
    /// A namespaced object without namespace.
    #[error("no `metadata.namespace`; taken as `{0}`")]
    DefaultNamespace(Arc<str>),
    /// A cluster-scoped object with a namespace.
    #[error("`metadata.namespace` means nothing for a cluster-scoped kind")]
    NamespaceIgnored,
    /// Converted from v1alpha1.
    #[error("deprecated: {0} v1alpha1 is read as ClusterNetworkPolicy v1alpha2; migrate")]
    Converted(&'static str),
    /// Host bits were masked away, as asked for.
    #[error("`{written}` has host bits set; read as `{cidr}`, as servers before 1.36 do")]
    HostBitsMasked {
        /// What was written.
        written: String,
        /// What it means.
        cidr: Cidr,
    },
    /// `spec.podSelector` is missing.
    #[error(
        "no `podSelector`: the policy selects every pod of its namespace; write `podSelector: {{}}` to say so"
    )]
    MissingPodSelector,
    /// `policyTypes: []`.
    #[error(
        "empty `policyTypes` is treated like missing: Ingress, and Egress if there are egress rules"
    )]
    EmptyPolicyTypes,
    /// `[Ingress, Ingress]`.
    #[error("repeated policy type")]
    RepeatedPolicyType,
    /// Rules of a direction that `policyTypes` does not list.
    #[error("these rules have no effect: `policyTypes` does not list {0}")]
    InertRules(&'static str),
    /// `from: []` or `to: []`.
    #[error("an empty `{0}` matches everybody, inside the cluster and outside")]
    OpenPeers(&'static str),
    /// The same entry twice in a list.
    #[error("this entry repeats an earlier one")]
    RepeatedEntry,
    /// A selector that cannot match.
    #[error("this selector can match nothing: its demands on `{0}` contradict each other")]
    Contradiction(Arc<str>),
    /// A peer with an empty bare podSelector.
    #[error(
        "`podSelector: {{}}` alone means all pods of the policy's own namespace; add `namespaceSelector: {{}}` for all"
    )]
    OwnNamespaceOnly,
    /// Two peers where one was perhaps meant.
    #[error("two peers: either may match; to demand both of one pod, drop the dash before `{0}`")]
    OrInsteadOfAnd(&'static str),
    /// A full range in one family of a dual-stack cluster.
    #[error(
        "`{0}` speaks of one address family only; on this dual-stack cluster the other stays closed"
    )]
    OneFamily(Cidr),
    /// A policy that selects no pod.
    #[error("selects no pod of these manifests")]
    SelectsNoPod,
    /// A namespace selector meets namespaces whose labels are not known.
    #[error("labels of the namespaces {0} are not known (no manifest); taken as unlabelled")]
    NamespaceLabelsUnknown(String),
    /// DomainNames in the Baseline tier.
    #[error("`domainNames` in the Baseline tier is not supported everywhere")]
    BaselineDomainNames,
    /// A named port that no container port could have.
    #[error("`{0}` is not a name a container port can have; it matches nothing")]
    ImpossiblePortName(Arc<str>),
    /// A pod or ReplicaSet whose owner is also listed.
    #[error("counted once, as its owner {kind} `{name}`")]
    CountedAsOwner {
        /// The owner's kind.
        kind: String,
        /// The owner's name.
        name: Arc<str>,
    },
    /// A workload whose pods are also listed.
    #[error("its listed pods stand for it")]
    CountedAsPods,
    /// Another object of another kind already has the name.
    #[error("called `{0}` in reports, because another kind has the same name")]
    Renamed(Arc<str>),
}

impl Remark {
    /// Returns how much the remark matters.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::SkippedKind { .. }
            | Self::EmptyFolder
            | Self::DefaultNamespace(_)
            | Self::NamespaceIgnored
            | Self::CountedAsOwner { .. }
            | Self::CountedAsPods
            | Self::OwnNamespaceOnly
            | Self::Renamed(_) => Severity::Info,
            Self::Converted(_)
            | Self::HostBitsMasked { .. }
            | Self::MissingPodSelector
            | Self::EmptyPolicyTypes
            | Self::RepeatedPolicyType
            | Self::InertRules(_)
            | Self::OpenPeers(_)
            | Self::RepeatedEntry
            | Self::Contradiction(_)
            | Self::OrInsteadOfAnd(_)
            | Self::OneFamily(_)
            | Self::SelectsNoPod
            | Self::NamespaceLabelsUnknown(_)
            | Self::BaselineDomainNames
            | Self::ImpossiblePortName(_) => Severity::Warning,
        }
    }

    /// Returns the number of the statement behind the remark, if it has one.
    #[must_use]
    pub const fn id(&self) -> Option<&'static str> {
        match self {
            Self::SkippedKind { .. } => Some("OFF-005"),
            Self::DefaultNamespace(_) => Some("VAL-003"),
            Self::Converted(_) => Some("ANP-001"),
            Self::HostBitsMasked { .. } => Some("DEC-06"),
            Self::MissingPodSelector => Some("DEC-18"),
            Self::EmptyPolicyTypes => Some("NP-021"),
            Self::RepeatedPolicyType => Some("NP-025"),
            Self::InertRules(_) => Some("NP-024"),
            Self::OpenPeers(_) => Some("NP-032"),
            Self::Contradiction(_) => Some("NP-046"),
            Self::OwnNamespaceOnly => Some("NP-054"),
            Self::OrInsteadOfAnd(_) => Some("NP-053"),
            Self::OneFamily(_) => Some("NP-068"),
            Self::RepeatedEntry | Self::SelectsNoPod => Some("VAL-040"),
            Self::NamespaceLabelsUnknown(_) => Some("OFF-003"),
            Self::BaselineDomainNames => Some("DEC-13"),
            Self::ImpossiblePortName(_) => Some("VAL-C-15"),
            Self::CountedAsOwner { .. } | Self::CountedAsPods => Some("OFF-008"),
            Self::EmptyFolder | Self::NamespaceIgnored | Self::Renamed(_) => None,
        }
    }
}
