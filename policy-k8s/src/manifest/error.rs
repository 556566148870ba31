//! What is wrong with a manifest, and where.

use alloc::sync::Arc;
use core::fmt;
use std::io;

use netpol_core::model::{ObjectRef, Position, Source, Violation};

/// Everything that is wrong with the manifests; never empty.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ReadErrors {
    /// The errors, in the order of the files and of the places in them.
    pub errors: Vec<ReadError>,
}

impl fmt::Display for ReadErrors {
    /// Writes one line for each error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl core::error::Error for ReadErrors {}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ReadError {
    /// The file as the user named it; `-` is standard input.
    pub file: Arc<str>,
    /// Number of the YAML document in the file, from 1; 0 when it is about the file.
    pub document: u32,
    /// Line and column; unknown when it is about the file.
    pub position: Position,
    /// Kind and name of the object, once they could be read.
    pub object: Option<(String, ObjectRef)>,
    /// The field, such as `spec.ingress[0].ports[1].port`; empty for the whole object.
    pub path: String,
    /// What is wrong.
    pub problem: Problem,
}

impl ReadError {
    /// Returns the number of the rule that is broken, such as `VAL-023`, if it has one.
    #[must_use]
    pub fn id(&self) -> Option<&'static str> {
        match (&self.problem, &self.object) {
            (Problem::UnknownField { .. }, Some((kind, _))) if is_cluster_policy(kind) => {
                Some("VAL-C-12")
            }
            (problem, _) => problem.id(),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.file, self.position, self.object.as_ref(), &self.path)?;
        write!(f, "{}", self.problem)?;
        self.id().map_or(Ok(()), |id| write!(f, " ({id})"))
    }
}

impl core::error::Error for ReadError {}

pub(super) fn write_place(
    f: &mut fmt::Formatter<'_>,
    file: &str,
    position: Position,
    object: Option<&(String, ObjectRef)>,
    path: &str,
) -> fmt::Result {
    write!(f, "{file}:")?;
    if position.is_known() {
        write!(f, "{position}:")?;
    }
    f.write_str(" ")?;
    if let Some((kind, object)) = object {
        write!(f, "{kind} {object}: ")?;
    }
    if path.is_empty() { Ok(()) } else { write!(f, "{path}: ") }
}

pub(super) fn is_cluster_policy(kind: &str) -> bool {
    matches!(kind, "ClusterNetworkPolicy" | "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy")
}

/// What is wrong, without the place.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The object breaks a rule of its kind.
    #[error("{0}")]
    Violation(Violation),
    /// A field that the kind does not have; a lax server would drop it and widen the rule (VAL-004).
    #[error("unknown field `{name}`{}", .did_you_mean.as_ref().map(|hint| format!("; did you mean {hint}?")).unwrap_or_default())]
    UnknownField {
        /// The field.
        name: String,
        /// What may have been meant, in backticks, with its place if it is another.
        did_you_mean: Option<String>,
    },
    /// A value of another type (VAL-006).
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What belongs here.
        expected: &'static str,
        /// What is there: its type, and for a scalar its text.
        found: String,
    },
    /// A key that is there twice in one mapping (VAL-005).
    #[error("duplicate key `{key}`; first given in line {}", .first.line)]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands first.
        first: Position,
    },
    /// A field that must be given.
    #[error("missing `{0}`")]
    MissingField(&'static str),
    /// A text that is no IP address.
    #[error("`{0}` is not an IP address")]
    InvalidAddress(String),
    /// A value that is not one of those the API knows.
    #[error("unknown value `{found}`; {allowed} exist")]
    UnknownValue {
        /// What was written.
        found: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// The same object twice (OFF-004).
    #[error("the same object is given twice; first in {first}")]
    DuplicateObject {
        /// Where it stands first.
        first: Source,
    },
    /// Not YAML (or JSON).
    #[error("not valid YAML: {0}")]
    Syntax(String),
    /// A YAML tag that changes types in ways we do not follow.
    #[error("unsupported YAML tag `{0}`")]
    UnsupportedTag(String),
    /// Not text.
    #[error("not UTF-8 text (at byte {byte})")]
    NotUtf8 {
        /// Bytes before the first bad one.
        byte: usize,
    },
    /// The file is larger than the limit.
    #[error("larger than the limit of {limit} bytes; split the file, or raise the limit")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// Collections nest deeper than the limit.
    #[error("nested deeper than the limit of {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A document has more values than the limit.
    #[error("more values in one document than the limit of {limit}")]
    TooManyNodes {
        /// The limit.
        limit: usize,
    },
    /// One `[…]`, `{…}` or scalar of YAML is larger than the limit; the parser would keep all of it in memory.
    #[error(
        "no complete value in {limit} characters; write large `[…]` and `{{…}}` in block style, or as JSON"
    )]
    FlowTooLarge {
        /// The limit.
        limit: usize,
    },
    /// Aliases copy more than the limit.
    #[error("anchors and aliases copy more than the limit of {limit} values")]
    TooManyAliases {
        /// The limit.
        limit: usize,
    },
    /// More errors than are worth listing.
    #[error("more than {limit} errors; the rest is left out")]
    TooManyErrors {
        /// The limit.
        limit: usize,
    },
    /// The file or folder could not be read.
    #[error("cannot be read: {message}")]
    Io {
        /// What sort of failure.
        kind: io::ErrorKind,
        /// The system's words.
        message: String,
    },
}

impl From<Violation> for Problem {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io { kind: error.kind(), message: error.to_string() }
    }
}

impl Problem {
    /// Returns the number of the rule that is broken, such as `VAL-023`, if it has one.
    #[must_use]
    pub const fn id(&self) -> Option<&'static str> {
        match self {
            Self::Violation(violation) => Some(violation.id()),
            Self::UnknownField { .. } => Some("VAL-004"),
            Self::DuplicateKey { .. } => Some("VAL-005"),
            Self::WrongType { .. } => Some("VAL-006"),
            Self::DuplicateObject { .. } => Some("OFF-004"),
            Self::MissingField(_)
            | Self::InvalidAddress(_)
            | Self::UnknownValue { .. }
            | Self::Syntax(_)
            | Self::UnsupportedTag(_)
            | Self::NotUtf8 { .. }
            | Self::TooLarge { .. }
            | Self::TooDeep { .. }
            | Self::TooManyNodes { .. }
            | Self::FlowTooLarge { .. }
            | Self::TooManyAliases { .. }
            | Self::TooManyErrors { .. }
            | Self::Io { .. } => None,
        }
    }
}
