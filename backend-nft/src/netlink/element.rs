//! Members of sets and entries of maps as the kernel's elements.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use netpol_core::net::{Intervals, Point};

use super::expression::{read_verdict, write_verdict};
use super::message::{Attributes, ITEM, Writer};
use crate::script::{Elements, Targets, Verdict};

/// `NFT_SET_INTERVAL` and `NFT_SET_MAP`.
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
/// `NFT_DATA_VERDICT`.
pub(super) const VERDICT: u32 = 0xffff_ff00;
/// `NFT_SET_ELEM_INTERVAL_END`.
const END: u32 = 1;

/// nft's numbers for the types of keys, which the kernel keeps for it.
const IPV4: u32 = 7;
const IPV6: u32 = 8;
const PROTOCOL: u32 = 12;
const SERVICE: u32 = 13;
const MARK: u32 = 19;

/// What cannot be changed about a set or map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Kind {
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_length: u32,
}

impl Kind {
    pub(super) const fn is_map(self) -> bool {
        self.flags & MAP != 0
    }

    /// Returns whether keys are words of the kernel's, and not of the network's.
    pub(super) const fn is_of_words(self) -> bool {
        self.key_type == MARK
    }
}

const fn concatenation(first: u32, second: u32) -> u32 {
    first << 6 | second
}

impl From<&Elements> for Kind {
    fn from(elements: &Elements) -> Self {
        let (key_type, key_length) = match elements {
            Elements::V4(_) | Elements::V4Ranges(_) => (IPV4, 4),
            Elements::V6(_) | Elements::V6Ranges(_) => (IPV6, 16),
            Elements::V4Pairs(_) => (concatenation(IPV4, IPV4), 8),
            Elements::V6Pairs(_) => (concatenation(IPV6, IPV6), 32),
            Elements::Protocols(_) => (PROTOCOL, 1),
            Elements::ProtocolPorts(_) => (concatenation(PROTOCOL, SERVICE), 8),
            Elements::Ports(_) => (SERVICE, 2),
            Elements::Marks(_) => (MARK, 4),
        };
        let flags = if elements.is_interval() { INTERVAL } else { 0 };
        Self { flags, key_type, key_length }
    }
}

impl From<&Targets> for Kind {
    fn from(targets: &Targets) -> Self {
        match targets {
            Targets::V4(_) => Self { flags: MAP, key_type: IPV4, key_length: 4 },
            Targets::V6(_) => Self { flags: MAP, key_type: IPV6, key_length: 16 },
            Targets::Ports(_) => Self { flags: MAP | INTERVAL, key_type: SERVICE, key_length: 2 },
        }
    }
}

/// A key of up to 32 bytes, each field padded to words.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Bytes {
    bytes: [u8; 32],
    length: u8,
}

impl Bytes {
    fn new(fields: &[&[u8]]) -> Self {
        let mut key = Self { bytes: [0; 32], length: 0 };
        for field in fields {
            // A single field is not padded, a field of several is.
            let start = usize::from(key.length).next_multiple_of(4);
            let end = start + field.len();
            if let Some(target) = key.bytes.get_mut(start..end) {
                target.copy_from_slice(field);
            }
            let end = if fields.len() > 1 { end.next_multiple_of(4) } else { end };
            key.length = u8::try_from(end).unwrap_or(u8::MAX);
        }
        key
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    fn word<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.as_slice().get(offset..)?.first_chunk().copied()
    }
}

/// An element as the kernel has it: a range is its start, and a second element that ends it.
#[derive(Clone, Debug)]
pub(super) struct Element {
    key: Bytes,
    ends: bool,
    verdict: Option<Verdict>,
}

impl Element {
    const fn exact(key: Bytes) -> Self {
        Self { key, ends: false, verdict: None }
    }

    /// Writes the element's attributes.
    pub(super) fn write(&self, writer: &mut Writer) {
        if !self.ends && self.verdict.is_none() {
            return writer.bare_key(self.key.as_slice());
        }
        writer.nest(ITEM, |writer| {
            writer.nest(1, |writer| writer.bytes_attribute(1, self.key.as_slice()));
            if self.ends {
                writer.number(3, END);
            }
            if let Some(verdict) = &self.verdict {
                writer.nest(2, |writer| write_verdict(writer, verdict));
            }
        });
    }

    /// Reads the element's attributes.
    pub(super) fn read(attributes: Attributes<'_>) -> Option<Self> {
        Some(Self {
            key: Bytes::new(&[attributes.nest(1)?.find(1)?]),
            ends: attributes.number(3).unwrap_or(0) & END != 0,
            verdict: attributes.nest(2).and_then(read_verdict),
        })
    }
}

/// Where an element stands in its set: its key as one number, and whether it starts something, as what ends there comes first.
/// Keys of one set are equally long.
pub(super) type Place = (u128, bool);

/// Returns where an element stands; `None` for what we never write, and for keys that are no number of 128 bits.
pub(super) fn place(attributes: Attributes<'_>) -> Option<Place> {
    let (mut key, mut ends, mut is_bare) = (None, false, true);
    for (kind, value) in attributes {
        match kind {
            1 => key = Attributes(value).find(1).and_then(number),
            3 => ends = u32::from_be_bytes(*value.first_chunk()?) & END != 0,
            2 => is_bare = false, // A verdict.
            _ => {}
        }
    }
    key.filter(|_| is_bare).map(|key| (key, !ends))
}

fn number(bytes: &[u8]) -> Option<u128> {
    if let Some(word) = bytes.first_chunk().filter(|_| bytes.len() == 4) {
        return Some(u32::from_be_bytes(*word).into());
    }
    let mut all = [0; 16];
    let start = all.len().checked_sub(bytes.len())?;
    all.get_mut(start..)?.copy_from_slice(bytes);
    Some(u128::from_be_bytes(all))
}

/// Returns whether these are the places of a set's members, each once. Puts them in order.
pub(super) fn are_places_of(places: &mut [Place], members: &Elements) -> bool {
    places.sort_unstable();
    let places = places.iter().copied();
    if let Elements::V4(members) = members {
        return places.eq(members.iter().map(|address| (address.to_bits().into(), true)));
    }
    if let Elements::V6(members) = members {
        return places.eq(members.iter().map(|address| (address.to_bits(), true)));
    }
    let members = of_set(members);
    places
        .map(Some)
        .eq(members.map(|element| Some((number(element.key.as_slice())?, !element.ends))))
}

/// The elements of a range: where it starts, and behind it where it ends, unless that is the end of the world.
fn range<T: Point>(
    (low, high): (T, T),
    bytes: impl Fn(T) -> Bytes,
) -> impl Iterator<Item = Element> {
    let end = high.successor().map(|end| Element { ends: true, ..Element::exact(bytes(end)) });
    core::iter::once(Element::exact(bytes(low))).chain(end)
}

fn four(value: u32) -> Bytes {
    Bytes::new(&[&value.to_be_bytes()])
}

fn sixteen(value: u128) -> Bytes {
    Bytes::new(&[&value.to_be_bytes()])
}

fn two(value: u16) -> Bytes {
    Bytes::new(&[&value.to_be_bytes()])
}

/// Returns the elements of a set.
pub(super) fn of_set(elements: &Elements) -> Box<dyn Iterator<Item = Element> + '_> {
    match elements {
        Elements::V4(members) => {
            Box::new(members.iter().map(|a| Element::exact(Bytes::new(&[&a.octets()]))))
        }
        Elements::V6(members) => {
            Box::new(members.iter().map(|a| Element::exact(Bytes::new(&[&a.octets()]))))
        }
        Elements::V4Pairs(members) => Box::new(
            members.iter().map(|(a, b)| Element::exact(Bytes::new(&[&a.octets(), &b.octets()]))),
        ),
        Elements::V6Pairs(members) => Box::new(
            members.iter().map(|(a, b)| Element::exact(Bytes::new(&[&a.octets(), &b.octets()]))),
        ),
        Elements::V4Ranges(members) => Box::new(members.iter().flat_map(|r| range(r, four))),
        Elements::V6Ranges(members) => Box::new(members.iter().flat_map(|r| range(r, sixteen))),
        Elements::Protocols(members) => {
            Box::new(members.iter().map(|number| Element::exact(Bytes::new(&[&[*number]]))))
        }
        Elements::ProtocolPorts(members) => Box::new(
            members.iter().map(|(a, b)| Element::exact(Bytes::new(&[&[*a], &b.to_be_bytes()]))),
        ),
        Elements::Ports(members) => Box::new(members.iter().flat_map(|r| range(r, two))),
        // A word of the kernel's.
        Elements::Marks(members) => {
            Box::new(members.iter().map(|mark| Element::exact(Bytes::new(&[&mark.to_ne_bytes()]))))
        }
    }
}

/// Returns the elements of a map.
pub(super) fn of_map(targets: &Targets) -> Box<dyn Iterator<Item = Element> + '_> {
    let entry =
        |key, verdict: &Verdict| Element { key, ends: false, verdict: Some(verdict.clone()) };
    match targets {
        Targets::V4(entries) => Box::new(
            entries.iter().map(move |(a, verdict)| entry(Bytes::new(&[&a.octets()]), verdict)),
        ),
        Targets::V6(entries) => Box::new(
            entries.iter().map(move |(a, verdict)| entry(Bytes::new(&[&a.octets()]), verdict)),
        ),
        Targets::Ports(entries) => Box::new(entries.iter().flat_map(|(ports, verdict)| {
            range(*ports, two).map(move |element| Element {
                verdict: (!element.ends).then(|| verdict.clone()),
                ..element
            })
        })),
    }
}

/// Reads a set's elements back into the same type as `like`; `None` where they are not of that type.
pub(super) fn to_set(like: &Elements, elements: &[Element]) -> Option<Elements> {
    fn exact<T>(elements: &[Element], member: impl Fn(&Bytes) -> Option<T>) -> Option<Vec<T>> {
        elements.iter().map(|element| member(&element.key)).collect()
    }
    fn ranges<T: Point>(
        elements: &[Element],
        point: impl Fn(&Bytes) -> Option<T>,
    ) -> Option<Intervals<T>> {
        let list = pair(elements, point)?;
        Some(Intervals::from_ranges(list.into_iter().map(|(range, _)| range)))
    }
    Some(match like {
        Elements::V4(_) => Elements::V4(
            exact(elements, |key| key.word::<4>(0).map(Ipv4Addr::from))?.into_iter().collect(),
        ),
        Elements::V6(_) => Elements::V6(
            exact(elements, |key| key.word::<16>(0).map(Ipv6Addr::from))?.into_iter().collect(),
        ),
        Elements::V4Pairs(_) => Elements::V4Pairs(exact(elements, |key| {
            Some((key.word::<4>(0)?.into(), key.word::<4>(4)?.into()))
        })?),
        Elements::V6Pairs(_) => Elements::V6Pairs(exact(elements, |key| {
            Some((key.word::<16>(0)?.into(), key.word::<16>(16)?.into()))
        })?),
        Elements::V4Ranges(_) => {
            Elements::V4Ranges(ranges(elements, |key| key.word(0).map(u32::from_be_bytes))?)
        }
        Elements::V6Ranges(_) => {
            Elements::V6Ranges(ranges(elements, |key| key.word(0).map(u128::from_be_bytes))?)
        }
        Elements::Protocols(_) => {
            Elements::Protocols(exact(elements, |key| key.word::<1>(0).map(|[number]| number))?)
        }
        Elements::ProtocolPorts(_) => Elements::ProtocolPorts(exact(elements, |key| {
            let [number] = key.word(0)?;
            Some((number, u16::from_be_bytes(key.word(4)?)))
        })?),
        Elements::Marks(_) => {
            let mut marks = exact(elements, |key| key.word(0).map(u32::from_ne_bytes))?;
            marks.sort_unstable();
            Elements::Marks(marks)
        }
        Elements::Ports(_) => {
            Elements::Ports(ranges(elements, |key| key.word(0).map(u16::from_be_bytes))?)
        }
    })
}

/// Reads a map's elements back into the same type as `like`; `None` where they are not of that type.
pub(super) fn to_map(like: &Targets, elements: Vec<Element>) -> Option<Targets> {
    fn exact<T: Ord>(
        elements: Vec<Element>,
        key: impl Fn(&Bytes) -> Option<T>,
    ) -> Option<BTreeMap<T, Verdict>> {
        elements.into_iter().map(|element| Some((key(&element.key)?, element.verdict?))).collect()
    }
    Some(match like {
        Targets::V4(_) => Targets::V4(exact(elements, |key| key.word::<4>(0).map(Ipv4Addr::from))?),
        Targets::V6(_) => {
            Targets::V6(exact(elements, |key| key.word::<16>(0).map(Ipv6Addr::from))?)
        }
        Targets::Ports(_) => Targets::Ports(
            pair(&elements, |key| key.word(0).map(u16::from_be_bytes))?
                .into_iter()
                .map(|(range, verdict)| Some((range, verdict?)))
                .collect::<Option<_>>()?,
        ),
    })
}

/// Sorts by key; where one range ends and the next starts, the end comes first. Returns whether no two share their place.
pub(super) fn sort(elements: &mut [Element]) -> bool {
    let place = |element: &Element| (element.key, !element.ends);
    elements.sort_unstable_by_key(place);
    !elements.windows(2).any(|pair| matches!(pair, [a, b] if place(a) == place(b)))
}

/// A range with what stands behind it.
type Paired<T> = ((T, T), Option<Verdict>);

/// Puts starts and ends together.
fn pair<T: Point>(
    elements: &[Element],
    point: impl Fn(&Bytes) -> Option<T>,
) -> Option<Vec<Paired<T>>> {
    let mut ranges = Vec::new();
    let mut open: Option<(T, Option<Verdict>)> = None;
    for element in elements {
        let key = point(&element.key)?;
        if element.ends {
            // An end without a start is how nft begins a list that does not begin at zero.
            if let Some((low, verdict)) = open.take() {
                ranges.push(((low, key.predecessor()?), verdict));
            }
        } else if open.replace((key, element.verdict.clone())).is_some() {
            return None;
        }
    }
    if let Some((low, verdict)) = open {
        ranges.push(((low, T::MAX), verdict));
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use netpol_core::net::Intervals;

    use super::{of_map, of_set, sort, to_map, to_set};
    use crate::script::{Elements, Targets, Verdict};

    #[test]
    fn every_kind_of_set_comes_back_as_it_was() {
        let v4 = |text: &str| text.parse().unwrap();
        let v6 = |text: &str| text.parse().unwrap();
        for set in [
            Elements::V4([v4("0.0.0.0"), v4("10.0.0.1"), v4("255.255.255.255")].into()),
            Elements::V6([v6("::"), v6("fd00::1"), v6("ffff::ffff")].into()),
            Elements::V4Pairs(vec![(v4("10.0.0.1"), v4("10.0.0.2"))]),
            Elements::V6Pairs(vec![(v6("::1"), v6("::2"))]),
            Elements::V4Ranges(Intervals::from_ranges([(0, 5), (9, 9), (100, u32::MAX)])),
            Elements::V6Ranges(Intervals::from_ranges([(1, 5), (9, u128::MAX)])),
            Elements::Protocols(vec![6, 17, 132]),
            Elements::Marks(vec![0x0010_0000, 0x2000_0000]),
            Elements::ProtocolPorts(vec![(6, 0), (6, 80), (17, 65535)]),
            Elements::Ports(Intervals::from_ranges([(0, 0), (80, 90), (65535, 65535)])),
        ] {
            let mut elements: Vec<_> = of_set(&set).collect();
            elements.reverse();
            assert!(sort(&mut elements));
            assert_eq!(to_set(&set, &elements), Some(set));
            elements.extend(elements.last().cloned());
            assert!(!sort(&mut elements), "the same twice");
        }
    }

    #[test]
    fn neighbouring_ranges_of_a_map_stay_apart() {
        let map = Targets::Ports(vec![
            ((0, 79), Verdict::Jump("a".into())),
            ((80, 80), Verdict::Drop),
            ((81, 65535), Verdict::Goto("b".into())),
        ]);
        let mut elements: Vec<_> = of_map(&map).collect();
        elements.reverse();
        assert!(sort(&mut elements));
        assert_eq!(to_map(&map, elements), Some(map));
    }
}
