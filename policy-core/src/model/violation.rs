//! What an API server, or this engine where the server is too lax, rejects in an object that is well-formed text
//! (VAL-… and VAL-C-…). Readers add the place: file, line, object and field path.

use alloc::boxed::Box;
use alloc::string::String;

use super::{Cidr, CidrError, LabelError, Operator, PortNameError, Protocol};

/// Why an object is rejected. [`Violation::id`] gives the number of the rule.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// `apiVersion` or `kind` is missing.
    #[error("missing `{0}`; every manifest names its `apiVersion` and `kind`")]
    MissingType(&'static str),
    /// The kind exists, but not under this `apiVersion`.
    #[error("{kind} is not served as `{found}`; write `apiVersion: {expected}`")]
    WrongApiVersion {
        /// The kind.
        kind: String,
        /// What was written.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A kind that is spelled nearly like one that matters.
    #[error("unknown kind `{found}`; did you mean `{meant}`?")]
    UnknownKind {
        /// What was written.
        found: String,
        /// What was probably meant.
        meant: &'static str,
    },
    /// No `metadata.name`.
    #[error("missing `metadata.name`")]
    MissingName,
    /// The name breaks the rules of its kind.
    #[error("`{name}` is not a valid name; {rule}")]
    InvalidName {
        /// What was written.
        name: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// No `metadata.namespace`, and no default to fall back to.
    #[error("missing `metadata.namespace`")]
    MissingNamespace,
    /// More than two `policyTypes`.
    #[error("{0} policy types; at most 2 are allowed")]
    TooManyPolicyTypes(usize),
    /// A policy type other than `Ingress` and `Egress`.
    #[error("unknown policy type `{0}`; `Ingress` and `Egress` exist, spelled like this")]
    UnknownPolicyType(String),
    /// A peer without any of its three fields.
    #[error(
        "a peer must give `podSelector`, `namespaceSelector` or `ipBlock`; to match everybody, leave the whole list out"
    )]
    EmptyPeer,
    /// `ipBlock` beside a selector.
    #[error(
        "`ipBlock` cannot stand together with `podSelector` or `namespaceSelector`; write two peers"
    )]
    IpBlockWithSelector,
    /// A protocol other than TCP, UDP and SCTP.
    #[error("unknown protocol `{0}`; `TCP`, `UDP` and `SCTP` exist, in upper case")]
    UnknownProtocol(String),
    /// A port number outside 1–65535.
    #[error("port {0} is outside 1 to 65535")]
    PortOutOfRange(i64),
    /// A port name that no container port could have.
    #[error("`{name}` is not a valid port name: {reason}")]
    InvalidPortName {
        /// What was written.
        name: String,
        /// What is wrong with it.
        reason: PortNameError,
    },
    /// `endPort` without `port`.
    #[error("`endPort` needs a numeric `port` to start from")]
    EndPortWithoutPort,
    /// `endPort` beside a port name.
    #[error("`endPort` cannot follow the port name `{0}`; it needs a numeric `port`")]
    EndPortWithNamedPort(String),
    /// `endPort` below `port`.
    #[error("`endPort` {end} is below `port` {start}")]
    EndPortBelowPort {
        /// `port`.
        start: u16,
        /// `endPort`.
        end: u16,
    },
    /// `endPort` outside 1–65535.
    #[error("`endPort` {0} is outside 1 to 65535")]
    EndPortOutOfRange(i64),
    /// `ipBlock` without `cidr`.
    #[error("`ipBlock` needs a `cidr`")]
    MissingCidr,
    /// A `cidr` or an entry of `except` that is no CIDR.
    #[error("{0}")]
    InvalidCidr(CidrError),
    /// An `except` that is not strictly inside its `cidr`.
    #[error("`except` {except} must lie strictly inside `cidr` {cidr}")]
    ExceptOutsideCidr {
        /// The exception.
        except: Cidr,
        /// The block it should cut from.
        cidr: Cidr,
    },
    /// `In` or `NotIn` without values.
    #[error("operator `{}` needs at least one value", .0.as_str())]
    MissingValues(Operator),
    /// `Exists` or `DoesNotExist` with values.
    #[error("operator `{}` takes no values", .0.as_str())]
    UnexpectedValues(Operator),
    /// A requirement without operator.
    #[error("missing `operator`; `In`, `NotIn`, `Exists` and `DoesNotExist` exist")]
    MissingOperator,
    /// An operator other than the four.
    #[error(
        "unknown operator `{0}`; `In`, `NotIn`, `Exists` and `DoesNotExist` exist, spelled like this"
    )]
    UnknownOperator(String),
    /// A label key that no object could carry.
    #[error("`{key}` is not a valid label key: {reason}")]
    InvalidLabelKey {
        /// What was written.
        key: String,
        /// What is wrong with it.
        reason: LabelError,
    },
    /// A label value that no object could carry.
    #[error("`{value}` is not a valid label value: {reason}")]
    InvalidLabelValue {
        /// What was written.
        value: String,
        /// What is wrong with it.
        reason: LabelError,
    },
    /// A namespace whose automatic label says another name.
    #[error(
        "label `kubernetes.io/metadata.name` is `{value}`, but the namespace is named `{name}`"
    )]
    NamespaceNameLabel {
        /// The namespace.
        name: String,
        /// The label's value.
        value: String,
    },
    /// An update that changes name or namespace.
    #[error("name and namespace of an object cannot change; delete it and make another")]
    IdentityChanged,
    /// A `null` in a list: the server would read it as an empty entry, which usually means everything (NP-033).
    #[error("null list entry; the server would read it as `{{}}`, which may mean everything")]
    NullItem,

    /// A tier other than `Admin` and `Baseline`, or none.
    #[error("unknown tier `{0}`; `Admin` and `Baseline` exist, spelled like this")]
    UnknownTier(String),
    /// An action other than `Accept`, `Deny` and `Pass`.
    #[error("unknown action `{found}`; {allowed} exist, spelled like this")]
    UnknownAction {
        /// What was written.
        found: String,
        /// The actions of the kind.
        allowed: &'static str,
    },
    /// No `priority`.
    #[error("missing `priority` (0 to 1000; lower is stronger)")]
    MissingPriority,
    /// A priority outside 0–1000.
    #[error("priority {0} is outside 0 to 1000")]
    PriorityOutOfRange(i64),
    /// None or several fields where exactly one must be given.
    #[error("{what} must give exactly one of {choices}; found {found}")]
    NotExactlyOne {
        /// The object that must choose.
        what: &'static str,
        /// Its choices.
        choices: &'static str,
        /// How many were given.
        found: usize,
    },
    /// A rule without action.
    #[error("a rule must give an `action`")]
    MissingAction,
    /// A rule without peers.
    #[error("a rule must give at least one peer in `{0}`")]
    MissingPeers(&'static str),
    /// A list that must not be empty when it is given.
    #[error(
        "`{0}` must not be empty; leave it out to match everything, or list at least one entry"
    )]
    EmptyList(&'static str),
    /// A list longer than its limit.
    #[error("{found} entries in `{list}`; at most {limit} are allowed")]
    TooManyEntries {
        /// The list.
        list: &'static str,
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A rule name over 100 characters.
    #[error("a rule name has {0} characters; at most 100 are allowed")]
    RuleNameTooLong(usize),
    /// `pods` without `podSelector`.
    #[error("`pods` needs a `podSelector`; `{{}}` selects all pods")]
    MissingPodSelector,
    /// A port number outside 1–65535 in a ClusterNetworkPolicy.
    #[error("port {0} is outside 1 to 65535")]
    ClusterPortOutOfRange(i64),
    /// A range whose start is not below its end.
    #[error("range start {start} must be below its end {end}; for a single port write `number`")]
    EmptyPortRange {
        /// `start`.
        start: u16,
        /// `end`.
        end: u16,
    },
    /// `tcp: {}` and the like (DEC-10).
    #[error(
        "`{0}: {{}}` is not allowed; for every port write `destinationPort: {{range: {{start: 1, end: 65535}}}}`"
    )]
    EmptyProtocol(Protocol),
    /// An entry of `networks` that is no CIDR.
    #[error("{0}")]
    InvalidNetwork(CidrError),
    /// An entry of `networks` over 43 characters.
    #[error("`{0}` is longer than 43 characters")]
    NetworkTooLong(String),
    /// An entry of `networks` or `domainNames` that repeats another.
    #[error("`{0}` is repeated")]
    Repeated(String),
    /// An entry of `domainNames` that is no domain name.
    #[error(
        "`{0}` is not a domain name of at least two labels; `*` may stand only for the whole first label"
    )]
    InvalidDomainName(String),
    /// A named port in a rule with peers that are addresses.
    #[error(
        "a named port cannot be used with `networks`, `nodes` or `domainNames` peers: addresses have no port names"
    )]
    NamedPortWithAddresses,
    /// A bad selector in a ClusterNetworkPolicy, which its CRD does not check.
    #[error("{0}")]
    ClusterSelector(Box<Self>),
    /// `domainNames` in a rule that does not accept.
    #[error("`domainNames` peers may stand only in rules with action `Accept`")]
    DomainNamesNotAccept,
    /// A peer of ingress rules that only egress rules know.
    #[error("`{0}` peers exist only in egress rules")]
    EgressOnlyPeer(&'static str),
    /// An empty `destinationNamedPort`.
    #[error("a port name must not be empty")]
    EmptyNamedPort,

    /// `namespaces: {namespaceSelector: …}` and the like of the first v1alpha1 releases.
    #[error(
        "`namespaces.{0}` is from an old version; write the selector itself: `namespaces: {{matchLabels: …}}`"
    )]
    OldNamespacesShape(String),
    /// A BaselineAdminNetworkPolicy that is not named `default`.
    #[error("the one BaselineAdminNetworkPolicy must be named `default`, not `{0}`")]
    BaselineName(String),
}

impl Violation {
    /// Returns the number of the rule, such as `VAL-023`.
    #[must_use]
    pub const fn id(&self) -> &'static str {
        match self {
            Self::MissingType(_)
            | Self::WrongApiVersion { .. }
            | Self::UnknownKind { .. }
            | Self::MissingName => "VAL-001",
            Self::InvalidName { .. } => "VAL-002",
            Self::MissingNamespace => "VAL-003",
            Self::TooManyPolicyTypes(_) => "VAL-010",
            Self::UnknownPolicyType(_) => "VAL-011",
            Self::EmptyPeer => "VAL-020",
            Self::IpBlockWithSelector => "VAL-021",
            Self::UnknownProtocol(_) => "VAL-022",
            Self::PortOutOfRange(_) => "VAL-023",
            Self::InvalidPortName { .. } => "VAL-024",
            Self::EndPortWithoutPort
            | Self::EndPortWithNamedPort(_)
            | Self::EndPortBelowPort { .. }
            | Self::EndPortOutOfRange(_) => "VAL-025",
            Self::MissingCidr | Self::InvalidCidr(CidrError::Empty) => "VAL-026",
            Self::InvalidCidr(
                CidrError::NoPrefix(..) | CidrError::Malformed(_) | CidrError::PrefixTooLong(..),
            ) => "VAL-027",
            Self::ExceptOutsideCidr { .. } => "VAL-028",
            Self::InvalidCidr(
                CidrError::LeadingZeros(_) | CidrError::Ipv4Mapped(_) | CidrError::HostBits(..),
            ) => "VAL-029",
            Self::MissingValues(_) => "VAL-030",
            Self::UnexpectedValues(_) => "VAL-031",
            Self::MissingOperator | Self::UnknownOperator(_) => "VAL-032",
            Self::InvalidLabelKey { .. } => "VAL-033",
            Self::InvalidLabelValue { .. } => "VAL-034",
            Self::NamespaceNameLabel { .. } => "VAL-035",
            Self::IdentityChanged => "VAL-036",
            Self::NullItem => "DEC-17",
            Self::UnknownTier(_) | Self::UnknownAction { .. } => "VAL-C-01",
            Self::MissingPriority | Self::PriorityOutOfRange(_) => "VAL-C-02",
            Self::NotExactlyOne { .. } => "VAL-C-03",
            Self::MissingAction
            | Self::MissingPeers(_)
            | Self::EmptyList(_)
            | Self::TooManyEntries { .. }
            | Self::RuleNameTooLong(_) => "VAL-C-04",
            Self::MissingPodSelector => "VAL-C-05",
            Self::ClusterPortOutOfRange(_) | Self::EmptyPortRange { .. } => "VAL-C-06",
            Self::EmptyProtocol(_) => "VAL-C-07",
            Self::InvalidNetwork(CidrError::HostBits(..)) => "VAL-C-11",
            Self::InvalidNetwork(_)
            | Self::NetworkTooLong(_)
            | Self::Repeated(_)
            | Self::InvalidDomainName(_) => "VAL-C-08",
            Self::NamedPortWithAddresses => "VAL-C-09",
            Self::ClusterSelector(_) => "VAL-C-10",
            Self::DomainNamesNotAccept => "VAL-C-13",
            Self::EgressOnlyPeer(_) => "VAL-C-14",
            Self::EmptyNamedPort => "VAL-C-15",
            Self::OldNamespacesShape(_) => "ANP-005",
            Self::BaselineName(_) => "ANP-002",
        }
    }
}
