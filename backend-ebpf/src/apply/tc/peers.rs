//! Which interface leads to a pod, told by what is at its other end: where routes lead to a bridge, or to many pods at once.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;
use std::io;
use std::sync::{Mutex, PoisonError};

use netpol_core::model::ObjectRef;
use netpol_core::net::PrefixSet;

use super::super::conntrack::Message;
use super::interfaces::{GET_ADDRESS, GET_LINK, Interface, InterfaceError, Interfaces, address_of};
use super::netlink::{DUMP, ask, ask_strictly, attribute, number};

/// Looks for a pod's addresses at the other ends of veth pairs, in whatever network namespace they are. Linux 5.0.
///
/// Each pair leads to one pod. What was found is kept as long as the pair is there.
#[derive(Debug, Default)]
pub struct ByPeer {
    known: Mutex<BTreeMap<Pair, BTreeSet<IpAddr>>>,
}

/// A veth pair with its other end in another network namespace.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Pair {
    index: u32,
    /// The number of the other end, there.
    peer: u32,
    /// The number of that network namespace in this one.
    namespace: u32,
}

impl Interfaces for ByPeer {
    fn of(&self, _: &ObjectRef, addresses: &[IpAddr]) -> Result<Vec<Interface>, InterfaceError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        follow(&mut known).map_err(InterfaceError::Links)?;
        if addresses.iter().any(|address| leading_to(&known, *address).is_none()) {
            // One that is there may have got an address meanwhile.
            known.clear();
            follow(&mut known).map_err(InterfaceError::Links)?;
        }
        let mut found: Vec<Interface> = Vec::new();
        for address in addresses {
            let pair = leading_to(&known, *address).ok_or(InterfaceError::NoPeer(*address))?;
            if found.iter().all(|other| other.index != pair.index) {
                found.push(Interface { index: pair.index, is_alone: true });
            }
        }
        Ok(found)
    }

    fn of_unknown(&self, ranges: &PrefixSet) -> Result<Vec<u32>, InterfaceError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clear();
        follow(&mut known).map_err(InterfaceError::Links)?;
        let has = |addresses: &BTreeSet<IpAddr>| {
            addresses.iter().any(|address| ranges.contains(*address))
        };
        Ok(known
            .iter()
            .filter(|(_, addresses)| has(addresses))
            .map(|(pair, _)| pair.index)
            .collect())
    }
}

fn leading_to(known: &BTreeMap<Pair, BTreeSet<IpAddr>>, address: IpAddr) -> Option<Pair> {
    let mut all = known.iter();
    all.find(|(_, addresses)| addresses.contains(&address)).map(|(pair, _)| *pair)
}

/// Forgets pairs that are gone, and asks about those that are new.
fn follow(known: &mut BTreeMap<Pair, BTreeSet<IpAddr>>) -> io::Result<()> {
    let pairs = pairs()?;
    known.retain(|pair, _| pairs.contains(pair));
    let new: BTreeSet<Pair> = pairs.into_iter().filter(|pair| !known.contains_key(pair)).collect();
    let mut by_namespace: BTreeMap<u32, BTreeMap<u32, BTreeSet<IpAddr>>> = BTreeMap::new();
    for pair in new {
        if let alloc::collections::btree_map::Entry::Vacant(place) =
            by_namespace.entry(pair.namespace)
        {
            place.insert(addresses_in(pair.namespace)?);
        }
        let there = by_namespace.get(&pair.namespace);
        let addresses = there.and_then(|there| there.get(&pair.peer)).cloned();
        known.insert(pair, addresses.unwrap_or_default());
    }
    Ok(())
}

/// Returns the veth pairs that lead elsewhere.
fn pairs() -> io::Result<BTreeSet<Pair>> {
    const PEER: u16 = 5;
    const NAMESPACE: u16 = 37;
    const INFORMATION: u16 = 18;
    const KIND: u16 = 1;
    let answers = ask(GET_LINK, DUMP, &[0; 16])?;
    let pair = |answer: &Vec<u8>| {
        let index = number(answer.get(4..)?)?;
        let rest = answer.get(16..)?;
        let kind = attribute(attribute(rest, INFORMATION)?, KIND)?;
        let is_veth = kind.strip_suffix(&[0]) == Some(b"veth");
        let peer = attribute(rest, PEER).and_then(number)?;
        let namespace = attribute(rest, NAMESPACE).and_then(number)?;
        is_veth.then_some(Pair { index, peer, namespace })
    };
    Ok(answers.iter().filter_map(pair).collect())
}

/// Returns the addresses in a network namespace, by interface.
fn addresses_in(namespace: u32) -> io::Result<BTreeMap<u32, BTreeSet<IpAddr>>> {
    const TARGET: u16 = 10;
    let mut found: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    for family in [2, 10] {
        let mut body = vec![family, 0, 0, 0, 0, 0, 0, 0];
        Message(&mut body).attribute(TARGET, &namespace.to_ne_bytes());
        let answers = match ask_strictly(GET_ADDRESS, DUMP, &body) {
            // The namespace has gone meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => continue,
            other => other?,
        };
        for answer in &answers {
            let index = answer.get(4..).and_then(number);
            if let (Some(index), Some(address)) = (index, address_of(answer)) {
                found.entry(index).or_default().insert(address);
            }
        }
    }
    Ok(found)
}
