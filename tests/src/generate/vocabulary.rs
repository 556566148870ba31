//! The few words everything is made of.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::num::NonZeroU16;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netpol_core::model::{
    Cidr, Field, LabelSelector, Labels, NAMESPACE_NAME_LABEL, Operator, Position, Protocol,
    Requirement,
};

use super::{Oddities, Random};

const KEYS: [&str; 3] = ["app", "env", "tier"];
const VALUES: [&str; 4] = ["a", "b", "c", ""];
pub(super) const NAMESPACES: [&str; 4] = ["x", "y", "z", "w"];
pub(super) const PORT_NAMES: [&str; 3] = ["http", "dns", "web"];
const NUMBERS: [u16; 10] = [1, 2, 53, 80, 81, 443, 8080, 9000, 65534, 65535];

pub(super) fn labels(random: &mut Random) -> Labels {
    let mut labels = Labels::default();
    for key in KEYS {
        if !random.one_in(3) {
            labels.0.insert(key.into(), random.pick(VALUES).into());
        }
    }
    labels
}

pub(super) fn protocol(random: &mut Random) -> Protocol {
    random.pick([Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

pub(super) fn number(random: &mut Random) -> NonZeroU16 {
    NonZeroU16::new(random.pick(NUMBERS)).unwrap_or(NonZeroU16::MIN)
}

/// A range on the edges, never upside down; of one number only where the API allows that.
pub(super) fn range(random: &mut Random) -> (NonZeroU16, NonZeroU16) {
    match random.below(6) {
        0 => (NonZeroU16::MIN, NonZeroU16::MAX),
        1 => (NonZeroU16::MIN, number(random)),
        2 => (number(random), NonZeroU16::MAX),
        _ => {
            let (one, other) = (number(random), number(random));
            (one.min(other), one.max(other))
        }
    }
}

/// Absent, null or given, mostly given.
pub(super) fn field<T>(random: &mut Random, given: impl FnOnce(&mut Random) -> T) -> Field<T> {
    match random.below(8) {
        0 => Field::Absent,
        1 => Field::Null,
        _ => Field::Given(given(random)),
    }
}

/// As [`field`], and on live objects now and then unreadable.
pub(super) fn odd_field<T>(
    random: &mut Random,
    oddities: Oddities,
    given: impl FnOnce(&mut Random) -> T,
) -> Field<T> {
    if is_odd(random, oddities) { Field::Unreadable } else { field(random, given) }
}

/// Whether to put something odd here.
pub(super) fn is_odd(random: &mut Random, oddities: Oddities) -> bool {
    match oddities {
        Oddities::Valid => false,
        Oddities::Live => random.one_in(60),
    }
}

/// A selector of pods or nodes.
pub(super) fn selector(random: &mut Random, oddities: Oddities) -> LabelSelector {
    if random.one_in(4) {
        return empty_selector(random);
    }
    let match_labels = match random.below(3) {
        0 => Field::Absent,
        1 if is_odd(random, oddities) => Field::Unreadable,
        _ => field(random, |random| {
            let mut pairs = BTreeMap::<Arc<str>, Arc<str>>::new();
            for _ in 0..random.below(3) {
                pairs.insert(random.pick(KEYS).into(), random.pick(VALUES).into());
            }
            pairs
        }),
    };
    let match_expressions = match random.below(3) {
        0 => Field::Absent,
        1 if is_odd(random, oddities) => Field::Unreadable,
        _ => field(random, |random| (0..random.below(3)).map(|_| requirement(random)).collect()),
    };
    LabelSelector { match_labels, match_expressions, position: Position::default() }
}

/// A selector of namespaces: as [`selector`], and often by name (NP-143).
pub(super) fn namespace_selector(random: &mut Random, oddities: Oddities) -> LabelSelector {
    match random.below(6) {
        0 => LabelSelector::labels([(NAMESPACE_NAME_LABEL, random.pick(NAMESPACES))]),
        1 => {
            let operator = random.pick([Operator::In, Operator::NotIn]);
            let values = (0..=random.below(2)).map(|_| random.pick(NAMESPACES).into()).collect();
            let requirement = Requirement {
                key: NAMESPACE_NAME_LABEL.into(),
                operator,
                values,
                position: Position::default(),
            };
            LabelSelector {
                match_expressions: Field::Given(Vec::from([requirement])),
                ..LabelSelector::default()
            }
        }
        _ => selector(random, oddities),
    }
}

fn empty_selector(random: &mut Random) -> LabelSelector {
    LabelSelector {
        match_labels: random.pick([0, 1, 2, 0]).min(3).into_field(BTreeMap::new()),
        match_expressions: random.pick([0, 1, 2, 0]).min(3).into_field(Vec::new()),
        position: Position::default(),
    }
}

trait IntoField {
    fn into_field<T>(self, empty: T) -> Field<T>;
}

impl IntoField for usize {
    fn into_field<T>(self, empty: T) -> Field<T> {
        match self {
            0 => Field::Absent,
            1 => Field::Null,
            _ => Field::Given(empty),
        }
    }
}

fn requirement(random: &mut Random) -> Requirement {
    let operator =
        random.pick([Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
    let values = match operator {
        Operator::In | Operator::NotIn => {
            (0..=random.below(3)).map(|_| random.pick(VALUES).into()).collect()
        }
        Operator::Exists | Operator::DoesNotExist => Vec::new(),
    };
    // A key that nothing carries is NotIn's trap (NP-042).
    let key = if random.one_in(5) { "nobody-has-it" } else { random.pick(KEYS) };
    Requirement { key: key.into(), operator, values, position: Position::default() }
}

/// An address pods may have: few, and next to each other.
pub(super) fn pod_address(random: &mut Random, family: usize) -> IpAddr {
    let low = random.below(24);
    if family == 0 {
        let (third, fourth) = (u8::from(low >= 16), u8::try_from(low % 16).unwrap_or_default());
        IpAddr::V4(Ipv4Addr::new(10, 0, third, fourth))
    } else {
        let last = u16::try_from(low).unwrap_or_default();
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))
    }
}

/// An address nodes may have.
pub(super) fn node_address(number: usize, family: usize) -> IpAddr {
    let last = u8::try_from(number + 1).unwrap_or(u8::MAX);
    if family == 0 {
        IpAddr::V4(Ipv4Addr::new(192, 168, 0, last))
    } else {
        IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, u16::from(last)))
    }
}

/// An address of the world outside, its edges included.
pub(super) fn external_address(random: &mut Random, family: usize) -> IpAddr {
    if family == 0 {
        IpAddr::V4(random.pick([
            Ipv4Addr::new(8, 8, 8, 8),
            Ipv4Addr::new(203, 0, 113, 7),
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::new(127, 255, 255, 255),
            Ipv4Addr::new(128, 0, 0, 0),
        ]))
    } else {
        IpAddr::V6(random.pick([
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
            Ipv6Addr::UNSPECIFIED,
            Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff),
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9),
        ]))
    }
}

/// Any address that matters.
pub(super) fn address(random: &mut Random, family: usize) -> IpAddr {
    match random.below(8) {
        0 => node_address(random.below(3), family),
        1 => external_address(random, family),
        _ => pod_address(random, family),
    }
}

/// A CIDR around an address that matters.
pub(super) fn cidr(random: &mut Random) -> Cidr {
    let family = random.below(2);
    around(address(random, family), prefix_length(random, family))
}

fn prefix_length(random: &mut Random, family: usize) -> u8 {
    if family == 0 {
        random.pick([0, 0, 1, 8, 16, 23, 24, 28, 29, 30, 31, 32, 32])
    } else {
        random.pick([0, 0, 1, 7, 8, 64, 120, 123, 124, 125, 126, 127, 128, 128])
    }
}

fn around(address: IpAddr, prefix: u8) -> Cidr {
    let net = match address {
        IpAddr::V4(v4) => Ipv4Net::new(v4, prefix.min(32)).map(IpNet::V4),
        IpAddr::V6(v6) => Ipv6Net::new(v6, prefix.min(128)).map(IpNet::V6),
    };
    net.map_or_else(|_| Cidr::host(address), Cidr::from)
}

/// A CIDR strictly inside another (NP-070), if there is room.
pub(super) fn inside(random: &mut Random, outer: Cidr) -> Option<Cidr> {
    let (family, bits) = match outer.net() {
        IpNet::V4(_) => (0, 32),
        IpNet::V6(_) => (1, 128),
    };
    let shortest = outer.net().prefix_len() + 1;
    if shortest > bits {
        return None;
    }
    for _ in 0..8 {
        let address = address(random, family);
        if outer.net().contains(&address) {
            let prefix = prefix_length(random, family).max(shortest);
            return Some(around(address, prefix));
        }
    }
    Some(around(outer.net().addr(), shortest))
}
