//! Rules as the kernel's expressions: register machines of a few instructions.

mod text;
mod wire;

pub(super) use wire::{counted, read_verdict, write_all, write_verdict};

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Subnets, Ipv6Subnets};
use netpol_core::ir::Family;
use netpol_core::model::Protocol;

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
        Match::Stamped(mask, set) => list.extend([
            connection(MARK, None, FIRST),
            masked(*mask, 0),
            Expression::Lookup { from: FIRST, set: set.clone(), inverted: false, verdict: false },
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

/// Returns the mask of the connection's mark and the set of generations that a rule of these expressions lets pass.
pub(super) fn stamp(list: &[Expression]) -> Option<(u32, &Name)> {
    let [
        Expression::Connection { key: MARK, .. },
        Expression::Mask { mask, .. },
        Expression::Lookup { set, inverted: false, verdict: false, .. },
        Expression::Verdict(Verdict::Accept),
    ] = list
    else {
        return None;
    };
    Some((u32::from_ne_bytes(mask.as_slice().try_into().ok()?), set))
}

/// Returns the generation that a rule of these expressions writes.
pub(super) fn written(list: &[Expression]) -> Option<Stamp> {
    let [
        Expression::Connection { key: MARK, .. },
        Expression::Mask { mask, flip, .. },
        Expression::SetMark { .. },
    ] = list
    else {
        return None;
    };
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
    Some(Stamp { mask: !word(mask)?, value: word(flip)? })
}
