//! Flows as people write them: `ns/pod -> ns/pod:port/PROTO`. What is parsed here knows no cluster yet.

use core::fmt;
use core::net::IpAddr;

use netpol_core::model::Protocol;

/// A flow, read but not yet looked up.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "whoever looks a flow up must know every form")]
pub struct FlowText {
    /// The text exactly as it was written.
    pub written: String,
    /// Where it comes from.
    pub source: EndText,
    /// Where it goes.
    pub destination: EndText,
    /// What is asked for there.
    pub service: ServiceText,
}

/// One end of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "whoever looks a flow up must know every form")]
pub enum EndText {
    /// An IP address.
    Address(IpAddr),
    /// `[namespace/]name[\[Kind\]]`: a pod, a workload, or (as destination) a Service.
    Named {
        /// The namespace, if it was written.
        namespace: Option<String>,
        /// The name.
        name: String,
        /// The kind in brackets.
        kind: Option<String>,
    },
    /// `node/NAME`.
    Node(String),
    /// `svc/[namespace/]name`.
    Service {
        /// The namespace, if it was written.
        namespace: Option<String>,
        /// The name.
        name: String,
    },
}

/// What the destination is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "whoever looks a flow up must know every form")]
pub enum ServiceText {
    /// A port by number.
    Port(u16, Option<Protocol>),
    /// A port by name; it resolves on the destination.
    Name(String, Option<Protocol>),
    /// ICMP, in the form of the flow's family.
    Icmp,
    /// A protocol without ports, by its IP number.
    Other(u8),
}

/// Why a text is not a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FlowTextError {
    /// No `->`.
    NoArrow,
    /// More than one `->`.
    TwoArrows,
    /// An end is missing; which.
    EmptyEnd(&'static str),
    /// An end cannot be read.
    BadEnd(String),
    /// An end is a range.
    Cidr(String),
    /// The source has a port or protocol.
    PortOnSource(String),
    /// The source is a Service.
    ServiceAsSource(String),
    /// The destination has no port.
    NoPort(String),
    /// The port is neither a number nor a name.
    BadPort(String),
    /// No such protocol.
    UnknownProtocol(String),
    /// A protocol without ports has one.
    PortlessWithPort(String),
}

impl fmt::Display for FlowTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArrow => f.write_str("no `->` between source and destination"),
            Self::TwoArrows => {
                f.write_str("more than one `->`; a flow has one source and one destination")
            }
            Self::EmptyEnd(which) => write!(f, "no {which}"),
            Self::BadEnd(end) => write!(
                f,
                "`{end}` is no end of a flow; write `namespace/pod`, an IP address (`[fd00::1]:80` with a port), \
                 `node/NAME` or `svc/namespace/name`"
            ),
            Self::Cidr(end) => {
                write!(f, "`{end}` is a range; a flow goes from one address to one address")
            }
            Self::PortOnSource(end) => {
                write!(
                    f,
                    "`{end}` has a port or protocol; only the destination's matters, so write none on the source"
                )
            }
            Self::ServiceAsSource(end) => {
                write!(f, "`{end}` is a Service; connections come from pods, nodes or addresses")
            }
            Self::NoPort(end) => write!(
                f,
                "`{end}` names no port; write `{end}:80`, `{end}:80/UDP`, `{end}:port-name` or, for a protocol without \
                 ports, `{end} ICMP`"
            ),
            Self::BadPort(port) => {
                write!(f, "`{port}` is neither a port number (1 to 65535) nor a port name")
            }
            Self::UnknownProtocol(name) => write!(
                f,
                "unknown protocol `{name}`; TCP, UDP, SCTP, ICMP, ICMPv6, IGMP, GRE, ESP and AH are known, others go by \
                 their IP number"
            ),
            Self::PortlessWithPort(name) => write!(f, "protocol `{name}` has no ports"),
        }
    }
}

impl core::error::Error for FlowTextError {}

/// An IP protocol as it can stand in a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ProtocolText {
    Ported(Protocol),
    Icmp,
    Other(u8),
}

impl FlowText {
    /// Reads one flow.
    ///
    /// # Errors
    /// Says what is wrong with the text, and how to write it.
    pub fn parse(text: &str) -> Result<Self, FlowTextError> {
        let (source, destination) = split_arrow(text)?;
        if source.is_empty() {
            return Err(FlowTextError::EmptyEnd("source before the `->`"));
        }
        if destination.is_empty() {
            return Err(FlowTextError::EmptyEnd("destination after the `->`"));
        }
        let (source_end, rest) = parse_end(source)?;
        if rest != Suffix::default() {
            return Err(FlowTextError::PortOnSource(source.into()));
        }
        if matches!(source_end, EndText::Service { .. }) {
            return Err(FlowTextError::ServiceAsSource(source.into()));
        }
        let (destination_end, suffix) = parse_end(destination)?;
        let service = suffix.into_service(destination)?;
        Ok(Self { written: text.into(), source: source_end, destination: destination_end, service })
    }
}

impl core::str::FromStr for FlowText {
    type Err = FlowTextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn split_arrow(text: &str) -> Result<(&str, &str), FlowTextError> {
    let arrow = |text: &'_ str| -> Option<(usize, usize)> {
        let ascii = text.find("->").map(|at| (at, 2));
        let unicode = text.find('→').map(|at| (at, '→'.len_utf8()));
        ascii.into_iter().chain(unicode).min()
    };
    let (at, length) = arrow(text).ok_or(FlowTextError::NoArrow)?;
    let (source, rest) = text.split_at_checked(at).ok_or(FlowTextError::NoArrow)?;
    let (_, destination) = rest.split_at_checked(length).ok_or(FlowTextError::NoArrow)?;
    if arrow(destination).is_some() {
        return Err(FlowTextError::TwoArrows);
    }
    Ok((source.trim(), destination.trim()))
}

/// What follows an end: `:port`, `/PROTO` or ` PROTO`, still as text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Suffix {
    port: Option<String>,
    protocol: Option<String>,
}

impl Suffix {
    fn into_service(self, destination: &str) -> Result<ServiceText, FlowTextError> {
        let protocol = self.protocol.as_deref().map(parse_protocol).transpose()?;
        let named = self.protocol.unwrap_or_default();
        let Some(port) = self.port else {
            return match protocol {
                Some(ProtocolText::Icmp) => Ok(ServiceText::Icmp),
                Some(ProtocolText::Other(number)) => Ok(ServiceText::Other(number)),
                Some(ProtocolText::Ported(_)) | None => {
                    let end = destination.split([' ', '\t']).next().unwrap_or(destination);
                    let end = end.strip_suffix(&format!("/{named}")).unwrap_or(end);
                    let is_bare_ipv6 = end.parse::<core::net::Ipv6Addr>().is_ok();
                    let end = if is_bare_ipv6 { format!("[{end}]") } else { end.to_owned() };
                    Err(FlowTextError::NoPort(end))
                }
            };
        };
        let protocol = match protocol {
            None => None,
            Some(ProtocolText::Ported(protocol)) => Some(protocol),
            Some(ProtocolText::Icmp | ProtocolText::Other(_)) => {
                return Err(FlowTextError::PortlessWithPort(named));
            }
        };
        if port.bytes().all(|byte| byte.is_ascii_digit()) {
            match port.parse() {
                Ok(number) if number > 0 => Ok(ServiceText::Port(number, protocol)),
                Ok(_) | Err(_) => Err(FlowTextError::BadPort(port)),
            }
        } else if port.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            Ok(ServiceText::Name(port, protocol))
        } else {
            Err(FlowTextError::BadPort(port))
        }
    }
}

/// Reads an end and what follows it.
fn parse_end(text: &str) -> Result<(EndText, Suffix), FlowTextError> {
    let mut words = text.split_ascii_whitespace();
    let (Some(word), behind, None) = (words.next(), words.next(), words.next()) else {
        return Err(FlowTextError::BadEnd(text.into()));
    };
    let (end, mut suffix) = parse_word(word)?;
    if let Some(behind) = behind {
        if suffix.protocol.is_some() {
            return Err(FlowTextError::BadEnd(text.into()));
        }
        suffix.protocol = Some(behind.into());
    }
    Ok((end, suffix))
}

fn parse_word(word: &str) -> Result<(EndText, Suffix), FlowTextError> {
    let bad = || FlowTextError::BadEnd(word.into());
    // `[v6]`, `[v6]:80/TCP`, `[v6]/ICMP`.
    if let Some(rest) = word.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        return Ok((EndText::Address(address), parse_suffix(rest).ok_or_else(bad)?));
    }
    // A bare IPv6 address takes no port: its colons are its own.
    let (head, slash) =
        word.split_once('/').map_or((word, None), |(head, rest)| (head, Some(rest)));
    if let Ok(address) = head.parse::<IpAddr>() {
        if slash.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(FlowTextError::Cidr(word.into()));
        }
        let protocol = slash.map(Into::into);
        return Ok((EndText::Address(address), Suffix { port: None, protocol }));
    }
    if let Some((end, suffix)) = word.split_once(':') {
        if suffix.contains(':') {
            return Err(bad());
        }
        let suffix = parse_suffix(&format!(":{suffix}")).ok_or_else(bad)?;
        let end = match end.parse::<IpAddr>() {
            Ok(address) => EndText::Address(address),
            Err(_) => parse_name(end).ok_or_else(bad)?,
        };
        return Ok((end, suffix));
    }
    // `ns/pod/ICMP`: names have no upper case and no third part, so the last part is a protocol.
    if let Some((end, last)) = word.rsplit_once('/') {
        let upper = last.starts_with(|first: char| first.is_ascii_uppercase());
        let surplus = parse_name(word).is_none() && parse_name(end).is_some();
        if (upper || surplus) && !last.contains('[') {
            let end = parse_name(end).ok_or_else(bad)?;
            return Ok((end, Suffix { port: None, protocol: Some(last.into()) }));
        }
    }
    Ok((parse_name(word).ok_or_else(bad)?, Suffix::default()))
}

/// Reads `` (nothing), `:port`, `:port/PROTO` or `/PROTO`.
fn parse_suffix(text: &str) -> Option<Suffix> {
    let non_empty = |part: &str| (!part.is_empty()).then(|| part.to_owned());
    if text.is_empty() {
        return Some(Suffix::default());
    }
    if let Some(protocol) = text.strip_prefix('/') {
        return Some(Suffix { port: None, protocol: Some(non_empty(protocol)?) });
    }
    let rest = text.strip_prefix(':')?;
    match rest.split_once('/') {
        None => Some(Suffix { port: Some(non_empty(rest)?), protocol: None }),
        Some((port, protocol)) => {
            Some(Suffix { port: Some(non_empty(port)?), protocol: Some(non_empty(protocol)?) })
        }
    }
}

/// Reads `[pod/][namespace/]name[\[Kind\]]`, `node/NAME` and `svc/[namespace/]name`.
fn parse_name(text: &str) -> Option<EndText> {
    let is_name = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let (text, kind) = match text.strip_suffix(']') {
        None => (text, None),
        Some(text) => {
            let (text, kind) = text.split_once('[')?;
            (text, Some(kind.to_owned()).filter(|kind| is_name(kind))?.into())
        }
    };
    let parts: Vec<&str> = text.split('/').collect();
    if !parts.iter().all(|part| is_name(part)) {
        return None;
    }
    let service = |namespace: Option<&str>, name: &str| EndText::Service {
        namespace: namespace.map(Into::into),
        name: name.into(),
    };
    let named = |namespace: Option<&str>, name: &str, kind: Option<String>| EndText::Named {
        namespace: namespace.map(Into::into),
        name: name.into(),
        kind,
    };
    match (parts.as_slice(), kind) {
        (["node" | "nodes", name], None) => Some(EndText::Node((*name).into())),
        (["svc" | "service", name], None) => Some(service(None, name)),
        (["svc" | "service", namespace, name], None) => Some(service(Some(namespace), name)),
        ([name], kind) => Some(named(None, name, kind)),
        (["pod", namespace, name] | [namespace, name], kind) => {
            Some(named(Some(namespace), name, kind))
        }
        _ => None,
    }
}

fn parse_protocol(text: &str) -> Result<ProtocolText, FlowTextError> {
    let by_number = |number: u8| {
        Protocol::ALL
            .into_iter()
            .find(|protocol| protocol.number() == number)
            .map_or(ProtocolText::Other(number), ProtocolText::Ported)
    };
    if let Ok(number) = text.parse::<u8>() {
        return Ok(by_number(number));
    }
    match text.to_ascii_uppercase().as_str() {
        "TCP" => Ok(ProtocolText::Ported(Protocol::Tcp)),
        "UDP" => Ok(ProtocolText::Ported(Protocol::Udp)),
        "SCTP" => Ok(ProtocolText::Ported(Protocol::Sctp)),
        "ICMP" => Ok(ProtocolText::Icmp),
        "ICMPV6" | "ICMP6" => Ok(ProtocolText::Other(58)),
        "IGMP" => Ok(ProtocolText::Other(2)),
        "IPIP" => Ok(ProtocolText::Other(4)),
        "GRE" => Ok(ProtocolText::Other(47)),
        "ESP" => Ok(ProtocolText::Other(50)),
        "AH" => Ok(ProtocolText::Other(51)),
        _ => Err(FlowTextError::UnknownProtocol(text.into())),
    }
}

#[cfg(test)]
mod tests;
