//! The language of the restore commands, as `ipset save` and `iptables-save` write it.

use alloc::collections::BTreeMap;
use core::fmt::{self, Display};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netpol_core::ir::Family;
use netpol_core::model::Protocol;

use super::{
    Elements, End, Filter, Hook, Key, Mark, Match, Member, Name, RestoreInput, Rule, State, Target,
};

/// Sets by name. `Display` is the input of `ipset restore`.
#[derive(Clone, Copy, Debug)]
pub struct Sets<'a>(pub(super) &'a BTreeMap<Name, Elements>);

impl<'a> Sets<'a> {
    /// Returns the sets with their names, in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a Name, &'a Elements)> + use<'a> {
        self.0.iter()
    }
}

impl Display for RestoreInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "# ipset restore\n{}", self.sets())?;
        write!(f, "# iptables-restore --noflush\n{}", self.v4)?;
        write!(f, "# ip6tables-restore --noflush\n{}", self.v6)
    }
}

impl Display for Sets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, elements)| Set(name, elements).fmt(f))
    }
}

/// One set under a name.
struct Set<'a>(&'a str, &'a Elements);

impl Display for Set<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, elements) = self;
        let family = match elements.family() {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        let (size, room) = (elements.size(), elements.room());
        let kind = elements.kind();
        writeln!(f, "create {name} {kind} family {family} hashsize {size} maxelem {room}")?;
        elements.iter().try_for_each(|member| writeln!(f, "add {name} {member}"))
    }
}

impl Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => Address(*address).fmt(f),
            Self::Network(net) => Network(*net).fmt(f),
            Self::AddressPort(address, protocol, port) => {
                write!(f, "{},{}:{port}", Address(*address), word(*protocol))
            }
        }
    }
}

impl Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*filter")?;
        self.chains.keys().try_for_each(|name| writeln!(f, ":{name} - [0:0]"))?;
        for (name, rules) in &self.chains {
            rules.iter().try_for_each(|rule| writeln!(f, "-A {name} {rule}"))?;
        }
        for hook in Hook::ALL.into_iter().filter(|hook| self.chains.contains_key(hook.chain())) {
            writeln!(f, "-I {} 1 -j {}", hook.as_str(), hook.chain())?;
        }
        writeln!(f, "COMMIT")
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matches.iter().try_for_each(|condition| write!(f, "{condition} "))?;
        if let Some(comment) = &self.comment {
            write!(f, "-m comment --comment \"{comment}\" ")?;
        }
        Display::fmt(&self.target, f)
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(End::Source, net) => write!(f, "-s {}", Network(*net)),
            Self::Within(End::Destination, net) => write!(f, "-d {}", Network(*net)),
            Self::Protocol(protocol) => write!(f, "-p {}", word(*protocol)),
            Self::Port(end, protocol, low, high) => {
                let (end, protocol) = (letter(*end), word(*protocol));
                write!(f, "-p {protocol} -m {protocol} --{end}port {}", Span(*low, *high))
            }
            Self::Ports(end, protocol, ranges) => {
                write!(f, "-p {} -m multiport --{}ports ", word(*protocol), letter(*end))?;
                let mut comma = "";
                for (low, high) in ranges {
                    write!(f, "{comma}{}", Span(*low, *high))?;
                    comma = ",";
                }
                Ok(())
            }
            Self::Icmpv6(number) => {
                write!(f, "-p ipv6-icmp -m icmp6 --icmpv6-type {number}")
            }
            Self::State(state) => {
                f.write_str("-m conntrack --ctstate ")?;
                f.write_str(match state {
                    State::EstablishedOrRelated => "RELATED,ESTABLISHED",
                    State::Established => "ESTABLISHED",
                    State::Related => "RELATED",
                    State::Reply => "ESTABLISHED --ctdir REPLY",
                })
            }
            Self::Mark(Mark { value, mask }) => {
                write!(f, "-m connmark --mark {value:#x}/{mask:#x}")
            }
            Self::Limit(rate) => {
                write!(f, "-m limit --limit {rate}/sec --limit-burst {}", rate.saturating_mul(2))
            }
            Self::SameAddress(family) => {
                write!(f, "-m bpf --bytecode \"{}\"", same_address(*family))
            }
            Self::In(set, key) => write!(f, "-m set --match-set {set} {key}"),
            Self::NotIn(set, key) => write!(f, "-m set ! --match-set {set} {key}"),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address(End::Source) => "src",
            Self::Address(End::Destination) => "dst",
            Self::AddressPort(End::Source, End::Destination) => "src,dst",
            Self::AddressPort(End::Destination, End::Destination) => "dst,dst",
            Self::AddressPort(End::Source, End::Source) => "src,src",
            Self::AddressPort(End::Destination, End::Source) => "dst,src",
        })
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop => f.write_str("-j DROP"),
            Self::Return => f.write_str("-j RETURN"),
            Self::Goto(chain) => write!(f, "-g {chain}"),
            Self::Jump(chain) => write!(f, "-j {chain}"),
            Self::Mark(Mark { value, mask }) => {
                write!(f, "-j CONNMARK --set-xmark {value:#x}/{mask:#x}")
            }
            Self::Log(group, prefix) => {
                write!(f, "-j NFLOG --nflog-prefix \"{prefix}\" --nflog-group {group}")
            }
        }
    }
}

/// Returns classic BPF on the IP header: for each word, load that of the source, keep it, load that of the destination,
/// and go to the `ret #0` at the end if they differ.
const fn same_address(family: Family) -> &'static str {
    match family {
        Family::V4 => "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 1,6 0 0 0",
        Family::V6 => {
            "18,32 0 0 8,7 0 0 0,32 0 0 24,29 0 13 0,32 0 0 12,7 0 0 0,32 0 0 28,29 0 9 0,\
             32 0 0 16,7 0 0 0,32 0 0 32,29 0 5 0,32 0 0 20,7 0 0 0,32 0 0 36,29 0 1 0,6 0 0 1,6 0 0 0"
        }
    }
}

/// `80` or `80:90`.
struct Span(u16, u16);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(low, high) = self;
        if low == high { write!(f, "{low}") } else { write!(f, "{low}:{high}") }
    }
}

/// A network with its length, also where that is a single address.
struct Network(IpNet);

impl Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Address(self.0.network()), self.0.prefix_len())
    }
}

/// An address as the C library writes it: an IPv4 address embedded in an IPv6 one in dots also where it is "compatible".
struct Address(IpAddr);

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => match address.segments() {
                [0, 0, 0, 0, 0, 0, high, _] if high != 0 => write!(f, "::{}", low_half(address)),
                _ => write!(f, "{address}"),
            },
        }
    }
}

fn low_half(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

/// `s` or `d`.
const fn letter(end: End) -> char {
    match end {
        End::Source => 's',
        End::Destination => 'd',
    }
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}
