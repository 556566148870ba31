//! Rules as the kernel's expressions: register machines of a few instructions.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Subnets, Ipv6Subnets};
use netpol_core::ir::Family;
use netpol_core::model::Protocol;

use super::message::{Attributes, ITEM, Writer};
use crate::script::{
    AddressRange, End, Key, Match, Name, Report, Rule, Stamp, Statement, Verdict, View,
};

/// One expression.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Expression {
    /// `meta load … => reg …`, by `NFT_META_…`.
    Meta { key: u32, to: u32 },
    /// `ct load … => reg …`, by `NFT_CT_…`, of one direction where the key has two.
    Connection { key: u32, direction: Option<u8>, to: u32 },
    /// `ct set mark with reg …`.
    SetMark { from: u32 },
    /// `payload load …b @ … header + … => reg …`, by `NFT_PAYLOAD_…`.
    Payload { base: u32, offset: u32, length: u32, to: u32 },
    /// `cmp … reg … …`, by `NFT_CMP_…`.
    Compare { from: u32, operator: u32, value: Vec<u8> },
    /// `bitwise reg … = ( reg … & … ) ^ …`.
    Mask { register: u32, mask: Vec<u8>, flip: Vec<u8> },
    /// `lookup reg … set …`; with a map, its verdict.
    Lookup { from: u32, set: Name, inverted: bool, verdict: bool },
    /// `counter`, whatever it counted.
    Counter,
    /// `limit rate …/second burst …`.
    Limit { rate: u64, burst: u32 },
    /// `log prefix … group …`.
    Log { group: u16, prefix: String },
    /// `immediate reg 0 …`.
    Verdict(Verdict),
    /// Something we never write.
    Foreign(String),
}

/// `NFT_META_NFPROTO` and `NFT_META_L4PROTO`.
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;
/// `NFT_CMP_…`.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;
/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NFT_REG_1`; its four words are `NFT_REG32_00` and following.
const FIRST: u32 = 1;
/// `NFT_REG_2`: the second field of a concatenation behind 16 bytes.
const SECOND: u32 = 2;
/// `NFT_REG32_01`: the second field of a concatenation behind 4 bytes.
const SECOND_WORD: u32 = 9;
const ICMPV6: u8 = 58;
/// `NFT_CT_STATE`, `NFT_CT_DIRECTION`, `NFT_CT_MARK`, `NFT_CT_PROTO_SRC`, `NFT_CT_SRC_IP`, `NFT_CT_SRC_IP6`.
const STATE: u32 = 0;
const DIRECTION: u32 = 1;
const MARK: u32 = 3;
const PROTO_SRC: u32 = 11;
const SRC_IP: u32 = 19;
const SRC_IP6: u32 = 21;
/// `IP_CT_DIR_ORIGINAL` and `IP_CT_DIR_REPLY`.
const ORIGINAL: u8 = 0;
const REPLY: u8 = 1;
/// `NF_CT_STATE_BIT(…)` of `IP_CT_ESTABLISHED` and `IP_CT_RELATED`.
const ESTABLISHED_OR_RELATED: u32 = 0x6;
const RELATED: u32 = 0x4;

/// Returns a rule's expressions, as `nft` would compile its text.
pub(crate) fn expressions(rule: &Rule) -> Vec<Expression> {
    let mut list = Vec::with_capacity(rule.matches.len() * 4 + 1);
    for condition in &rule.matches {
        condition_expressions(condition, &mut list);
    }
    if rule.counted.is_some() {
        list.push(Expression::Counter);
    }
    match &rule.statement {
        Statement::Report(Report { group, per_second, prefix }) => list.extend([
            Expression::Limit { rate: u64::from(*per_second), burst: *per_second },
            Expression::Log { group: *group, prefix: prefix.to_string() },
        ]),
        Statement::Verdict(verdict) => list.push(Expression::Verdict(verdict.clone())),
        Statement::Stamp(Stamp { mask, value }) => list.extend([
            connection(MARK, None, FIRST),
            masked(!mask, *value),
            Expression::SetMark { from: FIRST },
            Expression::Verdict(Verdict::Accept),
        ]),
        Statement::Map(key, map) => {
            load(*key, &mut list);
            list.push(Expression::Lookup {
                from: FIRST,
                set: map.clone(),
                inverted: false,
                verdict: true,
            });
        }
    }
    list
}

fn condition_expressions(condition: &Match, list: &mut Vec<Expression>) {
    match condition {
        Match::EstablishedOrRelated => state(ESTABLISHED_OR_RELATED, list),
        Match::Related => state(RELATED, list),
        Match::Reply => list.extend([connection(DIRECTION, None, FIRST), compare(EQUAL, &[REPLY])]),
        Match::Stamped(Stamp { mask, value }) => list.extend([
            connection(MARK, None, FIRST),
            masked(*mask, 0),
            compare(EQUAL, &value.to_ne_bytes()),
        ]),
        Match::NeighbourDiscovery => {
            of_family(Family::V6, list);
            list.extend([
                Expression::Meta { key: L4PROTO, to: FIRST },
                compare(EQUAL, &[ICMPV6]),
                Expression::Payload { base: TRANSPORT, offset: 0, length: 1, to: FIRST },
                compare(AT_LEAST, &[133]),
                compare(AT_MOST, &[137]),
            ]);
        }
        Match::In(key, set) | Match::NotIn(key, set) => {
            load(*key, list);
            let inverted = matches!(condition, Match::NotIn(..));
            list.push(Expression::Lookup {
                from: FIRST,
                set: set.clone(),
                inverted,
                verdict: false,
            });
        }
        Match::Within(view, end, range) => within(*view, *end, *range, list),
        Match::Protocol(protocol) => of_protocol(*protocol, list),
        Match::Port(view, protocol, low, high) => {
            load(Key::Port(*view, *protocol), list);
            between(&low.to_be_bytes(), &high.to_be_bytes(), list);
        }
    }
}

/// Loads a key from the first register on.
fn load(key: Key, list: &mut Vec<Expression>) {
    match key {
        Key::Address(view, family, end) => {
            of_view(view, family, list);
            list.push(address(view, family, end, FIRST));
        }
        Key::Addresses(view, family) => {
            of_view(view, family, list);
            let second = match family {
                Family::V4 => SECOND_WORD,
                Family::V6 => SECOND,
            };
            list.push(address(view, family, End::Source, FIRST));
            list.push(address(view, family, End::Destination, second));
        }
        Key::Port(view, protocol) => {
            of_protocol(protocol, list);
            list.push(match view {
                View::Packet => port(FIRST),
                View::Connection => connection(PROTO_SRC, Some(REPLY), FIRST),
            });
        }
        Key::Protocol => list.push(Expression::Meta { key: L4PROTO, to: FIRST }),
        Key::ProtocolPort => {
            list.push(Expression::Meta { key: L4PROTO, to: FIRST });
            list.push(port(SECOND_WORD));
        }
    }
}

/// The headers of a family are there only in packets of the family; a connection says itself which it is of.
fn of_view(view: View, family: Family, list: &mut Vec<Expression>) {
    match view {
        View::Packet => of_family(family, list),
        View::Connection => {}
    }
}

fn state(bits: u32, list: &mut Vec<Expression>) {
    list.extend([connection(STATE, None, FIRST), masked(bits, 0), compare(NOT_EQUAL, &[0; 4])]);
}

const fn connection(key: u32, direction: Option<u8>, to: u32) -> Expression {
    Expression::Connection { key, direction, to }
}

/// Keeps the bits of a mask of a word of the kernel's, and flips others.
fn masked(mask: u32, flip: u32) -> Expression {
    let (mask, flip) = (mask.to_ne_bytes().to_vec(), flip.to_ne_bytes().to_vec());
    Expression::Mask { register: FIRST, mask, flip }
}

/// `NFPROTO_IPV4` or `NFPROTO_IPV6`, once a rule: no rule speaks of both.
fn of_family(family: Family, list: &mut Vec<Expression>) {
    if list.iter().any(|known| matches!(known, Expression::Meta { key: NFPROTO, .. })) {
        return;
    }
    let number = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    list.push(Expression::Meta { key: NFPROTO, to: FIRST });
    list.push(compare(EQUAL, &[number]));
}

fn of_protocol(protocol: Protocol, list: &mut Vec<Expression>) {
    list.push(Expression::Meta { key: L4PROTO, to: FIRST });
    list.push(compare(EQUAL, &[protocol.number()]));
}

const fn address(view: View, family: Family, end: End, to: u32) -> Expression {
    if matches!(view, View::Connection) {
        let key = match family {
            Family::V4 => SRC_IP,
            Family::V6 => SRC_IP6,
        };
        let direction = match end {
            End::Source => ORIGINAL,
            End::Destination => REPLY,
        };
        return connection(key, Some(direction), to);
    }
    let (offset, length) = match (family, end) {
        (Family::V4, End::Source) => (12, 4),
        (Family::V4, End::Destination) => (16, 4),
        (Family::V6, End::Source) => (8, 16),
        (Family::V6, End::Destination) => (24, 16),
    };
    Expression::Payload { base: NETWORK, offset, length, to }
}

/// The destination port, which TCP, UDP and SCTP have in the same place.
const fn port(to: u32) -> Expression {
    Expression::Payload { base: TRANSPORT, offset: 2, length: 2, to }
}

fn compare(operator: u32, value: &[u8]) -> Expression {
    Expression::Compare { from: FIRST, operator, value: value.to_vec() }
}

/// Compares the first register with both ends of a range.
fn between(low: &[u8], high: &[u8], list: &mut Vec<Expression>) {
    if low == high {
        list.push(compare(EQUAL, low));
    } else {
        list.push(compare(AT_LEAST, low));
        list.push(compare(AT_MOST, high));
    }
}

fn within(view: View, end: End, range: AddressRange, list: &mut Vec<Expression>) {
    let (family, low, high, prefix) = match range {
        AddressRange::V4(low, high) => {
            let mut nets = Ipv4Subnets::new(low, high, 0);
            let prefix = nets.next().filter(|_| nets.next().is_none());
            let bytes = |address: Ipv4Addr| address.octets().to_vec();
            (Family::V4, bytes(low), bytes(high), prefix.map(|net| net.prefix_len()))
        }
        AddressRange::V6(low, high) => {
            let mut nets = Ipv6Subnets::new(low, high, 0);
            let prefix = nets.next().filter(|_| nets.next().is_none());
            let bytes = |address: Ipv6Addr| address.octets().to_vec();
            (Family::V6, bytes(low), bytes(high), prefix.map(|net| net.prefix_len()))
        }
    };
    of_view(view, family, list);
    let whole = address(view, family, end, FIRST);
    let Some(prefix) = prefix.map(usize::from).filter(|_| low != high) else {
        list.push(whole);
        between(&low, &high, list);
        return;
    };
    match (prefix % 8, whole) {
        // A prefix of whole bytes is a shorter load.
        (0, Expression::Payload { base, offset, to, .. }) if prefix > 0 => {
            let bytes = prefix / 8;
            let length = u32::try_from(bytes).unwrap_or_default();
            list.push(Expression::Payload { base, offset, length, to });
            list.push(compare(EQUAL, low.get(..bytes).unwrap_or_default()));
        }
        // Loads of other kinds are whole, but the comparison is as short.
        (0, whole) if prefix > 0 => {
            list.push(whole);
            list.push(compare(EQUAL, low.get(..prefix / 8).unwrap_or_default()));
        }
        (_, whole) => {
            list.push(whole);
            let mask = mask(family, prefix);
            let flip = alloc::vec![0; mask.len()];
            list.push(Expression::Mask { register: FIRST, mask, flip });
            list.push(compare(EQUAL, &low));
        }
    }
}

fn mask(family: Family, prefix: usize) -> Vec<u8> {
    let shift = |bits: usize| u32::try_from(bits.saturating_sub(prefix)).unwrap_or(0);
    match family {
        Family::V4 => u32::MAX.checked_shl(shift(32)).unwrap_or(0).to_be_bytes().to_vec(),
        Family::V6 => u128::MAX.checked_shl(shift(128)).unwrap_or(0).to_be_bytes().to_vec(),
    }
}

/// Returns the generation that a rule of these expressions lets pass.
pub(super) fn stamp(list: &[Expression]) -> Option<Stamp> {
    let [
        Expression::Connection { key: MARK, .. },
        Expression::Mask { mask, .. },
        Expression::Compare { operator: EQUAL, value, .. },
        Expression::Verdict(Verdict::Accept),
    ] = list
    else {
        return None;
    };
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
    Some(Stamp { mask: word(mask)?, value: word(value)? })
}

/// Returns what a rule of these expressions counted: packets and bytes.
pub(super) fn counted(list: Attributes<'_>) -> Option<(u64, u64)> {
    let counter = list
        .filter(|(kind, _)| *kind == ITEM)
        .map(|(_, value)| Attributes(value))
        .find(|expression| expression.text(1) == Some("counter"))?;
    let data = counter.nest(2)?;
    let word = |kind| Some(u64::from_be_bytes(*data.find(kind)?.first_chunk()?));
    Some((word(2)?, word(1)?))
}

/// Writes the list of a rule's expressions.
pub(super) fn write_all(writer: &mut Writer, list: &[Expression]) {
    for expression in list {
        writer.nest(ITEM, |writer| expression.write(writer));
    }
}

impl Expression {
    /// Writes `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
    fn write(&self, writer: &mut Writer) {
        writer.text(1, self.name());
        writer.nest(2, |writer| match self {
            Self::Meta { key, to } => {
                writer.number(2, *key);
                writer.number(1, *to);
            }
            Self::Connection { key, direction, to } => {
                writer.number(2, *key);
                writer.number(1, *to);
                if let Some(direction) = direction {
                    writer.bytes_attribute(3, &[*direction]);
                }
            }
            Self::Counter => {
                writer.bytes_attribute(1, &[0; 8]);
                writer.bytes_attribute(2, &[0; 8]);
            }
            Self::Limit { rate, burst } => {
                writer.bytes_attribute(1, &rate.to_be_bytes());
                writer.bytes_attribute(2, &1_u64.to_be_bytes()); // A second.
                writer.number(3, *burst);
                writer.number(4, 0); // NFT_LIMIT_PKTS
                writer.number(5, 0);
            }
            Self::Log { group, prefix } => {
                writer.bytes_attribute(1, &group.to_be_bytes());
                writer.text(2, prefix);
            }
            Self::SetMark { from } => {
                writer.number(2, MARK);
                writer.number(4, *from);
            }
            Self::Payload { base, offset, length, to } => {
                writer.number(1, *to);
                writer.number(2, *base);
                writer.number(3, *offset);
                writer.number(4, *length);
            }
            Self::Compare { from, operator, value } => {
                writer.number(1, *from);
                writer.number(2, *operator);
                writer.nest(3, |writer| writer.bytes_attribute(1, value));
            }
            Self::Mask { register, mask, flip } => {
                writer.number(1, *register);
                writer.number(2, *register);
                writer.number(3, u32::try_from(mask.len()).unwrap_or_default());
                writer.nest(4, |writer| writer.bytes_attribute(1, mask));
                writer.nest(5, |writer| writer.bytes_attribute(1, flip));
            }
            Self::Lookup { from, set, inverted, verdict } => {
                writer.text(1, set);
                writer.number(2, *from);
                if *verdict {
                    writer.number(3, 0); // NFT_REG_VERDICT
                }
                if *inverted {
                    writer.number(5, 1); // NFT_LOOKUP_F_INV
                }
            }
            Self::Verdict(verdict) => {
                writer.number(1, 0); // NFT_REG_VERDICT
                writer.nest(2, |writer| write_verdict(writer, verdict));
            }
            Self::Foreign(_) => {}
        });
    }

    fn name(&self) -> &str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Connection { .. } | Self::SetMark { .. } => "ct",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Counter => "counter",
            Self::Limit { .. } => "limit",
            Self::Log { .. } => "log",
            Self::Verdict(_) => "immediate",
            Self::Foreign(name) => name,
        }
    }

    /// Reads `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
    pub(super) fn read(attributes: Attributes<'_>) -> Self {
        let name = attributes.text(1).unwrap_or_default();
        let data = attributes.nest(2).unwrap_or_default();
        Self::known(name, data).unwrap_or_else(|| Self::Foreign(name.to_string()))
    }

    fn known(name: &str, data: Attributes<'_>) -> Option<Self> {
        let value = |kind| data.nest(kind)?.find(1).map(<[u8]>::to_vec);
        match name {
            "meta" => Some(Self::Meta { key: data.number(2)?, to: data.number(1)? }),
            "ct" => match data.number(4) {
                Some(from) => (data.number(2)? == MARK).then_some(Self::SetMark { from }),
                None => Some(Self::Connection {
                    key: data.number(2)?,
                    direction: data.find(3).and_then(|value| value.first().copied()),
                    to: data.number(1)?,
                }),
            },
            "payload" => Some(Self::Payload {
                base: data.number(2)?,
                offset: data.number(3)?,
                length: data.number(4)?,
                to: data.number(1)?,
            }),
            "cmp" => Some(Self::Compare {
                from: data.number(1)?,
                operator: data.number(2)?,
                value: value(3)?,
            }),
            "bitwise" => {
                let (from, to) = (data.number(1)?, data.number(2)?);
                let plain = data.number(6).unwrap_or(0) == 0;
                (from == to && plain).then_some(Self::Mask {
                    register: from,
                    mask: value(4)?,
                    flip: value(5)?,
                })
            }
            "lookup" => Some(Self::Lookup {
                from: data.number(2)?,
                set: data.text(1)?.into(),
                inverted: data.number(5).unwrap_or(0) & 1 == 1,
                verdict: match data.number(3) {
                    None => false,
                    Some(0) => true,
                    Some(_) => return None,
                },
            }),
            "counter" => Some(Self::Counter),
            "limit" => {
                let word = |kind| Some(u64::from_be_bytes(*data.find(kind)?.first_chunk()?));
                let plain = data.number(4).unwrap_or(0) == 0 && data.number(5).unwrap_or(0) == 0;
                (plain && word(2)? == 1)
                    .then_some(Self::Limit { rate: word(1)?, burst: data.number(3)? })
            }
            "log" => Some(Self::Log {
                group: u16::from_be_bytes(*data.find(1)?.first_chunk()?),
                prefix: data.text(2)?.to_string(),
            }),
            "immediate" if data.number(1)? == 0 => read_verdict(data.nest(2)?).map(Self::Verdict),
            _ => None,
        }
    }
}

/// Writes `NFTA_DATA_VERDICT`.
pub(super) fn write_verdict(writer: &mut Writer, verdict: &Verdict) {
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (JUMP.cast_unsigned(), Some(chain)),
        Verdict::Goto(chain) => (GOTO.cast_unsigned(), Some(chain)),
    };
    writer.nest(2, |writer| {
        writer.number(1, code);
        if let Some(chain) = chain {
            writer.text(2, chain);
        }
    });
}

/// Reads `NFTA_DATA_VERDICT`.
pub(super) fn read_verdict(data: Attributes<'_>) -> Option<Verdict> {
    let verdict = data.nest(2)?;
    match verdict.number(1)?.cast_signed() {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -3 => Some(Verdict::Jump(verdict.text(2)?.into())),
        -4 => Some(Verdict::Goto(verdict.text(2)?.into())),
        _ => None,
    }
}

impl fmt::Display for Expression {
    /// Writes what `nft --debug=netlink` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta { key, to } => {
                let name = if *key == NFPROTO { "nfproto" } else { "l4proto" };
                write!(f, "[ meta load {name} => reg {to} ]")
            }
            Self::Connection { key, direction, to } => {
                let name = match *key {
                    STATE => "state",
                    DIRECTION => "direction",
                    MARK => "mark",
                    PROTO_SRC => "proto_src",
                    SRC_IP => "src_ip",
                    _ => "src_ip6",
                };
                write!(f, "[ ct load {name} => reg {to}")?;
                match direction {
                    None => f.write_str(" ]"),
                    Some(ORIGINAL) => f.write_str(" , dir original ]"),
                    Some(_) => f.write_str(" , dir reply ]"),
                }
            }
            Self::Counter => f.write_str("[ counter pkts 0 bytes 0 ]"),
            Self::Limit { rate, burst } => {
                write!(f, "[ limit rate {rate}/second burst {burst} type packets flags 0x0 ]")
            }
            Self::Log { group, prefix } => {
                write!(f, "[ log prefix {prefix} group {group} snaplen 0 qthreshold 0 ]")
            }
            Self::SetMark { from } => write!(f, "[ ct set mark with reg {from} ]"),
            Self::Payload { base, offset, length, to } => {
                let base = if *base == NETWORK { "network" } else { "transport" };
                write!(f, "[ payload load {length}b @ {base} header + {offset} => reg {to} ]")
            }
            Self::Compare { from, operator, value } => {
                let operator = match *operator {
                    EQUAL => "eq",
                    NOT_EQUAL => "neq",
                    AT_MOST => "lte",
                    _ => "gte",
                };
                write!(f, "[ cmp {operator} reg {from}{} ]", Words(value))
            }
            Self::Mask { register, mask, flip } => {
                write!(
                    f,
                    "[ bitwise reg {register} = ( reg {register} &{} ) ^{} ]",
                    Words(mask),
                    Words(flip)
                )
            }
            Self::Lookup { from, set, inverted, verdict } => {
                write!(f, "[ lookup reg {from} set {set}")?;
                f.write_str(if *verdict { " dreg 0" } else { "" })?;
                f.write_str(if *inverted { " 0x1 ]" } else { " ]" })
            }
            Self::Verdict(verdict) => match verdict {
                Verdict::Accept => f.write_str("[ immediate reg 0 accept ]"),
                Verdict::Drop => f.write_str("[ immediate reg 0 drop ]"),
                Verdict::Goto(chain) => write!(f, "[ immediate reg 0 goto -> {chain} ]"),
                Verdict::Jump(chain) => write!(f, "[ immediate reg 0 jump -> {chain} ]"),
            },
            Self::Foreign(name) => write!(f, "[ {name} ? ]"),
        }
    }
}

/// Bytes as machine words.
struct Words<'a>(&'a [u8]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chunks(4).try_for_each(|chunk| {
            let mut word = [0; 4];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            write!(f, " 0x{:08x}", u32::from_ne_bytes(word))
        })
    }
}
