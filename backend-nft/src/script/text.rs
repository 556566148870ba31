//! nftables' own language, as `nft list table` writes it.

#[cfg(feature = "json")]
mod json;

use core::fmt::{self, Display};
use core::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Subnets, Ipv6Subnets};
use netpol_core::backend::Cause;
use netpol_core::ir::{Family, PolicyRef};
use netpol_core::model::Protocol;

use super::{
    AddressRange, Chain, Counted, Elements, End, Hook, Key, Match, Report, Rule, Script, Stamp,
    Statement, Table, Targets, Verdict, View,
};

/// The name of our table.
pub(crate) const TABLE: &str = "netpol";

/// Lines of elements are broken here, in bytes.
const WIDTH: usize = 96;

impl Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.table, f)
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{")?;
        let mut first = true;
        let mut gap = |f: &mut fmt::Formatter<'_>| {
            f.write_str(if core::mem::take(&mut first) { "" } else { "\n" })
        };
        for (name, elements) in &self.sets {
            gap(f)?;
            write!(f, "\tset {name} {{\n{}\t}}\n", Declared(elements, self.room(name, elements)))?;
        }
        for (name, targets) in &self.maps {
            gap(f)?;
            write!(f, "\tmap {name} {{\n{}\t}}\n", Declared(targets, targets.room()))?;
        }
        for (name, chain) in &self.chains {
            gap(f)?;
            write!(f, "\tchain {name} {{\n{chain}\t}}\n")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(hook) = self.hook {
            writeln!(f, "\t\ttype filter hook {hook} priority filter; policy accept;")?;
        }
        self.rules.iter().try_for_each(|rule| writeln!(f, "\t\t{rule}"))
    }
}

impl Display for Counted {
    /// Writes everything there is to it, so that equal texts are equal values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.direction, self.verdict)?;
        let uid = |f: &mut fmt::Formatter<'_>, policy: &PolicyRef| match &policy.uid {
            Some(uid) => write!(f, " ({uid})"),
            None => Ok(()),
        };
        match &self.cause {
            Cause::Rules(origins) => origins.iter().try_for_each(|origin| {
                write!(f, " {origin}")?;
                uid(f, &origin.policy)
            }),
            Cause::Isolation(policies) => policies.iter().try_for_each(|policy| {
                write!(f, " isolation by {policy}")?;
                uid(f, policy)
            }),
            Cause::Default => f.write_str(" by default"),
            Cause::UnknownPod => f.write_str(" unknown pod"),
            Cause::Guard => f.write_str(" guard"),
        }
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Input => "input",
        })
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matches.iter().try_for_each(|condition| write!(f, "{condition} "))?;
        if self.counted.is_some() {
            f.write_str("counter packets 0 bytes 0 ")?;
        }
        match &self.statement {
            Statement::Verdict(verdict) => write!(f, "{verdict}")?,
            Statement::Map(key, map) => write!(f, "{key} vmap @{map}")?,
            Statement::Report(Report { group, per_second: rate, prefix }) => {
                write!(f, "limit rate {rate}/second burst {rate} packets ")?;
                write!(f, "log prefix \"{prefix}\" group {group}")?;
            }
            Statement::Stamp(Stamp { mask, value }) => {
                // As nft writes it: the bits that are set are among those that are kept.
                let kept = !mask | value;
                write!(f, "ct mark set ct mark & 0x{kept:08x} | 0x{value:08x}")?;
            }
        }
        self.comment.as_ref().map_or(Ok(()), |comment| write!(f, " comment \"{comment}\""))
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EstablishedOrRelated => f.write_str("ct state established,related"),
            Self::Related => f.write_str("ct state related"),
            Self::Reply => f.write_str("ct direction reply"),
            Self::Stamped(mask, set) => write!(f, "ct mark & 0x{mask:08x} == @{set}"),
            Self::NeighbourDiscovery => f.write_str("icmpv6 type 133-137"),
            Self::In(key, set) => write!(f, "{key} @{set}"),
            Self::NotIn(key, set) => write!(f, "{key} != @{set}"),
            Self::Within(view, end, range) => {
                let family = match range {
                    AddressRange::V4(..) => Family::V4,
                    AddressRange::V6(..) => Family::V6,
                };
                write!(f, "{} {range}", Key::Address(*view, family, *end))
            }
            Self::Protocol(protocol) => write!(f, "meta l4proto {}", word(*protocol)),
            Self::Port(view, protocol, low, high) => {
                write!(f, "{} {}", Key::Port(*view, *protocol), Span(*low, *high))
            }
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = |family: &Family| match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        match self {
            Self::Address(View::Packet, family, end) => write!(f, "{} {end}", header(family)),
            Self::Address(View::Connection, family, End::Source) => {
                write!(f, "ct original {} saddr", header(family))
            }
            Self::Address(View::Connection, family, End::Destination) => {
                write!(f, "ct reply {} saddr", header(family))
            }
            Self::Addresses(view, family) => {
                let [source, destination] =
                    [End::Source, End::Destination].map(|end| Self::Address(*view, *family, end));
                write!(f, "{source} . {destination}")
            }
            Self::Port(View::Packet, protocol) => write!(f, "{} dport", word(*protocol)),
            Self::Port(View::Connection, protocol) => {
                write!(f, "meta l4proto {} ct reply proto-src", word(*protocol))
            }
            Self::Protocol => f.write_str("meta l4proto"),
            Self::ProtocolPort => f.write_str("meta l4proto . th dport"),
        }
    }
}

impl Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "saddr",
            Self::Destination => "daddr",
        })
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
        }
    }
}

impl Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(low, high) => match whole(Ipv4Subnets::new(low, high, 0)) {
                Some(net) if low != high => write!(f, "{net}"),
                Some(_) | None => Span(low, high).fmt(f),
            },
            Self::V6(low, high) => match whole(Ipv6Subnets::new(low, high, 0)) {
                Some(net) if low != high => write!(f, "{}/{}", Six(low), net.prefix_len()),
                Some(_) | None => Span(Six(low), Six(high)).fmt(f),
            },
        }
    }
}

/// Returns the only item.
fn whole<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let item = items.next()?;
    items.next().is_none().then_some(item)
}

impl Display for Elements {
    /// Writes the body of a set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::V4(_) | Self::V4Ranges(_) => "ipv4_addr",
            Self::V6(_) | Self::V6Ranges(_) => "ipv6_addr",
            Self::V4Pairs(_) => "ipv4_addr . ipv4_addr",
            Self::V6Pairs(_) => "ipv6_addr . ipv6_addr",
            Self::Protocols(_) => "inet_proto",
            Self::ProtocolPorts(_) => "inet_proto . inet_service",
            Self::Ports(_) => "inet_service",
            Self::Marks(_) => "mark",
        };
        writeln!(f, "\t\ttype {kind}")?;
        if self.is_interval() {
            writeln!(f, "\t\tflags interval")?;
        }
        match self {
            Self::V4(members) => list(f, members.iter()),
            Self::V6(members) => list(f, members.iter().map(|address| Six(*address))),
            Self::V4Pairs(members) => list(f, members.iter().map(|(a, b)| Pair(a, b))),
            Self::V6Pairs(members) => list(f, members.iter().map(|(a, b)| Pair(Six(*a), Six(*b)))),
            Self::V4Ranges(members) => {
                list(f, members.iter().map(|(low, high)| AddressRange::V4(low.into(), high.into())))
            }
            Self::V6Ranges(members) => {
                list(f, members.iter().map(|(low, high)| AddressRange::V6(low.into(), high.into())))
            }
            Self::Protocols(members) => list(f, members.iter().map(|number| Number(*number))),
            Self::ProtocolPorts(members) => {
                list(f, members.iter().map(|(number, port)| Pair(Number(*number), port)))
            }
            Self::Ports(members) => list(f, members.iter().map(|(low, high)| Span(low, high))),
            Self::Marks(members) => {
                list(f, members.iter().map(|mark| alloc::format!("0x{mark:08x}")))
            }
        }
    }
}

impl Display for Targets {
    /// Writes the body of a map.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(entries) => {
                writeln!(f, "\t\ttype ipv4_addr : verdict")?;
                list(f, entries.iter().map(|(key, verdict)| Entry(key, verdict)))
            }
            Self::V6(entries) => {
                writeln!(f, "\t\ttype ipv6_addr : verdict")?;
                list(f, entries.iter().map(|(key, verdict)| Entry(Six(*key), verdict)))
            }
            Self::Ports(entries) => {
                writeln!(f, "\t\ttype inet_service : verdict\n\t\tflags interval")?;
                let entries = entries.iter();
                list(f, entries.map(|((low, high), verdict)| Entry(Span(*low, *high), verdict)))
            }
        }
    }
}

/// The body of a set or map, with the room it is declared with.
struct Declared<'a, T>(&'a T, Option<u32>);

impl<T: Display> Display for Declared<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = alloc::format!("{}", self.0);
        match (self.1, body.split_once('\n')) {
            (Some(room), Some((kind, rest))) => write!(f, "{kind}\n\t\tsize {room}\n{rest}"),
            (Some(_) | None, _) => f.write_str(&body),
        }
    }
}

/// Writes `elements = { … }`, broken into lines; nothing where there is none.
fn list<T: Display>(f: &mut fmt::Formatter<'_>, mut items: impl Iterator<Item = T>) -> fmt::Result {
    let Some(first) = items.next() else { return Ok(()) };
    let first = alloc::format!("{first}");
    write!(f, "\t\telements = {{ {first}")?;
    let mut column = first.len();
    for item in items {
        let item = alloc::format!("{item}");
        if column + item.len() > WIDTH {
            write!(f, ",\n\t\t\t     {item}")?;
            column = item.len();
        } else {
            write!(f, ", {item}")?;
            column += item.len() + 2;
        }
    }
    writeln!(f, " }}")
}

/// `a` or `a-b`.
struct Span<T>(T, T);

impl<T: Display + PartialEq> Display for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(low, high) = self;
        if low == high { write!(f, "{low}") } else { write!(f, "{low}-{high}") }
    }
}

/// `a . b`.
struct Pair<A, B>(A, B);

impl<A: Display, B: Display> Display for Pair<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {}", self.0, self.1)
    }
}

/// `key : verdict`.
struct Entry<'a, K>(K, &'a Verdict);

impl<K: Display> Display for Entry<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} : {}", self.0, self.1)
    }
}

/// An IPv6 address as the C library writes it: an embedded IPv4 address in dots also where it is "compatible".
#[derive(Eq, PartialEq)]
struct Six(Ipv6Addr);

impl Display for Six {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.segments() {
            [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {
                let low = u32::try_from(u128::from(self.0) & u128::from(u32::MAX));
                write!(f, "::{}", Ipv4Addr::from(low.unwrap_or_default()))
            }
            _ => write!(f, "{}", self.0),
        }
    }
}

/// A protocol number as nftables names it.
struct Number(u8);

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Protocol::ALL.into_iter().find(|protocol| protocol.number() == self.0) {
            Some(protocol) => f.write_str(word(protocol)),
            None => write!(f, "{}", self.0),
        }
    }
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}
