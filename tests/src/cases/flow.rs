//! One line of a case's `flows`: who opens a connection to whom, and what must happen to it.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;

use netpol_core::ir::{Dialled, Family, Flow, Transport, Verdict};
use netpol_core::model::{Cluster, ObjectRef, Protocol};

/// A flow as a case writes it, with the verdict it demands.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ExpectedFlow {
    /// The flow as written, such as `x/a -> y/b:80/TCP`.
    pub text: String,
    /// Who opens it.
    pub source: End,
    /// Who is dialled.
    pub destination: End,
    /// Protocol and port.
    pub transport: Transport,
    /// The address itself, or a Service in front of it (`via Service`).
    pub dialled: Dialled,
    /// The one family it speaks of (`over IPv6`); `None` means every family that both ends have.
    pub family: Option<Family>,
    /// What must happen.
    pub verdict: Verdict,
    /// Whether an address that nobody knows yet could change it (`deny, uncertain`, OFF-006).
    pub certainty: Certainty,
    /// Words that the reason of one of the two sides must contain (`deny because ingress: isolated`).
    pub because: Option<String>,
}

/// Whether a verdict hangs on an address that nobody knows yet (OFF-006).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third")]
pub enum Certainty {
    /// It stands whatever the address will be.
    Certain,
    /// Another address could change it.
    Uncertain,
}

/// An end of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a new kind of end must reach every suite")]
pub enum End {
    /// An address, whoever has it.
    Address(IpAddr),
    /// A node, by name (`node/NAME`).
    Node(String),
    /// A pod (`namespace/name`).
    Pod(ObjectRef),
}

/// Why a line of `flows` cannot be read or judged.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowError {
    /// Not `SOURCE -> DESTINATION`.
    #[error("`{0}` has no ` -> `")]
    NoArrow(String),
    /// Not a pod, node or address.
    #[error("`{0}` is no pod (`namespace/name`), node (`node/NAME`) or address")]
    BadEnd(String),
    /// Not a port and protocol.
    #[error("`{0}` is no `PORT/TCP`, `PORT/UDP`, `PORT/SCTP`, `ICMP` or IP protocol number")]
    BadTransport(String),
    /// Not a verdict.
    #[error("`{0}` is neither `allow` nor `deny`, with or without `, uncertain` and ` because …`")]
    BadVerdict(String),
    /// The manifests have no such pod or node.
    #[error("`{0}` is not in the manifests")]
    Missing(End),
    /// The ends have no family in common.
    #[error("`{0}`: the ends have no address family in common")]
    NoFamily(String),
}

impl ExpectedFlow {
    /// Reads `SOURCE -> DESTINATION:PORT/PROTOCOL [via Service] [over IPv4|IPv6]` and `allow|deny [because …]`.
    ///
    /// # Errors
    ///
    /// If either does not read like that.
    pub fn try_new(text: &str, verdict: &str) -> Result<Self, FlowError> {
        let (line, family) = match text.split_once(" over ") {
            Some((line, "IPv4")) => (line, Some(Family::V4)),
            Some((line, "IPv6")) => (line, Some(Family::V6)),
            Some(_) => return Err(FlowError::BadTransport(text.to_owned())),
            None => (text, None),
        };
        let (line, dialled) = match line.strip_suffix(" via Service") {
            Some(line) => (line, Dialled::Service),
            None => (line, Dialled::Address),
        };
        let (source, rest) =
            line.split_once(" -> ").ok_or_else(|| FlowError::NoArrow(text.to_owned()))?;
        let (destination, transport) =
            rest.rsplit_once(':').ok_or_else(|| FlowError::BadTransport(text.to_owned()))?;
        let (word, because) = match verdict.split_once(" because ") {
            Some((word, because)) => (word, Some(because.to_owned())),
            None => (verdict, None),
        };
        let (word, certainty) = match word.strip_suffix(", uncertain") {
            Some(word) => (word, Certainty::Uncertain),
            None => (word, Certainty::Certain),
        };
        let verdict = match word {
            "allow" => Verdict::Allow,
            "deny" => Verdict::Deny,
            _ => return Err(FlowError::BadVerdict(verdict.to_owned())),
        };
        Ok(Self {
            text: text.to_owned(),
            source: source.parse()?,
            destination: destination.parse()?,
            transport: transport_of(transport)?,
            dialled,
            family,
            verdict,
            certainty,
            because,
        })
    }

    /// Returns the flow once for every family that it speaks of and both ends have an address of.
    ///
    /// # Errors
    ///
    /// If an end is not in the cluster, or the ends share no family.
    pub fn flows(&self, cluster: &Cluster) -> Result<Vec<Flow>, FlowError> {
        let sources = self.source.addresses(cluster)?;
        let destinations = self.destination.addresses(cluster)?;
        let of = |addresses: &[IpAddr], family| {
            addresses.iter().copied().find(|address| Family::of(*address) == family)
        };
        let flows: Vec<Flow> = [Family::V4, Family::V6]
            .into_iter()
            .filter(|family| self.family.is_none_or(|only| only == *family))
            .filter_map(|family| {
                let (source, destination) = (of(&sources, family)?, of(&destinations, family)?);
                // ICMP is the word for both families' protocol (CNP-044).
                let transport = match (self.transport, family) {
                    (Transport::Other(1), Family::V6) => Transport::Other(58),
                    (transport, _) => transport,
                };
                Some(Flow { source, destination, transport, dialled: self.dialled })
            })
            .collect();
        if flows.is_empty() { Err(FlowError::NoFamily(self.text.clone())) } else { Ok(flows) }
    }
}

impl End {
    fn addresses(&self, cluster: &Cluster) -> Result<Vec<IpAddr>, FlowError> {
        let missing = || FlowError::Missing(self.clone());
        match self {
            Self::Address(address) => Ok(vec![*address]),
            Self::Node(name) => {
                Ok(cluster.nodes.get(name.as_str()).ok_or_else(missing)?.addresses.clone())
            }
            Self::Pod(pod) => Ok(cluster.pods.get(pod).ok_or_else(missing)?.addresses.clone()),
        }
    }
}

impl FromStr for End {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some(("node", name)) => Ok(Self::Node(name.to_owned())),
            Some((namespace, name)) => Ok(Self::Pod(ObjectRef::new(namespace, name))),
            None => Err(FlowError::BadEnd(text.to_owned())),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Pod(pod) => pod.fmt(f),
        }
    }
}

fn transport_of(text: &str) -> Result<Transport, FlowError> {
    let bad = || FlowError::BadTransport(text.to_owned());
    if text == "ICMP" {
        return Ok(Transport::Other(1));
    }
    let Some((port, protocol)) = text.split_once('/') else {
        return text.parse().map(Transport::Other).map_err(|_error| bad());
    };
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return Err(bad()),
    };
    Ok(Transport::Port(protocol, port.parse().map_err(|_error| bad())?))
}
