//! The program under construction: everything in it is made once and named by its content.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::backend::LowerError;
use netpol_core::ir::{Family, PeerSetId, PipelineId, Ruleset};
use netpol_core::model::Protocol;
use netpol_core::net::PrefixSet;
use sha2::{Digest as _, Sha256};

use super::pipeline::Place;
use crate::OwnAddress;
use crate::restore::{Elements, End, Filter, Key, Match, Name, PREFIX, Rule, Target};

/// Up to this many sets of addresses are looked up one by one.
const SEPARATE: usize = 2;
/// A set of more addresses than this is never copied into a union.
const LARGE: usize = 4096;
/// The most that ipset's counter of members can say.
const CAPACITY: usize = 1 << 31;

/// The lowering's memory.
pub(super) struct Builder<'a> {
    pub(super) ruleset: &'a Ruleset,
    pub(super) own_address: OwnAddress,
    sets: BTreeMap<Name, Elements>,
    pub(super) filter: Filter,
    pub(super) family: Family,
    /// What each pipeline became in this family; `None` allows everything.
    pub(super) entries: BTreeMap<(PipelineId, Place), Option<Target>>,
}

/// The peers of a step in one family.
#[derive(Default)]
pub(super) struct Members {
    /// Each way to be a member by exact address.
    pub(super) exact: Vec<Match>,
    /// How to be a member by network.
    pub(super) networks: Networks,
}

/// The networks among the peers.
#[derive(Default)]
pub(super) enum Networks {
    /// None in this family.
    #[default]
    Nothing,
    /// The whole family.
    Everything,
    /// One comparison or look-up.
    Some(Match),
}

impl<'a> Builder<'a> {
    pub(super) const fn new(ruleset: &'a Ruleset, own_address: OwnAddress) -> Self {
        Self {
            ruleset,
            own_address,
            sets: BTreeMap::new(),
            filter: Filter { chains: BTreeMap::new() },
            family: Family::V4,
            entries: BTreeMap::new(),
        }
    }

    pub(super) fn into_sets(self) -> BTreeMap<Name, Elements> {
        self.sets
    }

    /// Adds a chain named by its rules.
    pub(super) fn chain(&mut self, kind: char, rules: Vec<Rule>) -> Result<Name, LowerError> {
        let mut text = String::new();
        for rule in &rules {
            let _ = writeln!(text, "{rule}"); // Writing to a String cannot fail.
        }
        // A chain's name has room for 28 bytes: 18 digits are 90 bits.
        let name: Name = format!("{PREFIX}{kind}-{}", digest(&text, 18)).into();
        match self.filter.chains.get(&name) {
            Some(known) if *known != rules => return Err(collision(&name)),
            Some(_) => {}
            None => {
                self.filter.chains.insert(name.clone(), rules);
            }
        }
        Ok(name)
    }

    /// Adds a set named by its members.
    fn set(&mut self, elements: Elements) -> Result<Name, LowerError> {
        let (letter, text) =
            match &elements {
                Elements::Addresses(_, members) => ('a', lines(members.iter())),
                Elements::Networks(_, members) => ('n', lines(members.iter())),
                Elements::AddressPorts(_, members) => {
                    let members = members.iter();
                    (
                        'p',
                        lines(members.map(|(address, protocol, port)| {
                            format!("{address} {protocol} {port}")
                        })),
                    )
                }
            };
        let digit = match self.family {
            Family::V4 => '4',
            Family::V6 => '6',
        };
        // A set's name has room for 31 bytes: 20 digits are 100 bits.
        let name: Name = format!("{PREFIX}{letter}{digit}-{}", digest(&text, 20)).into();
        if elements.len() > CAPACITY {
            return Err(LowerError::CapacityExceeded {
                object: name.to_string(),
                needed: elements.len(),
                limit: CAPACITY,
                unit: "members",
            });
        }
        match self.sets.get(&name) {
            Some(known) if *known != elements => return Err(collision(&name)),
            Some(_) => {}
            None => {
                self.sets.insert(name.clone(), elements);
            }
        }
        Ok(name)
    }

    /// Returns the match of any of some addresses of this family; `None` for none at all.
    pub(super) fn any_of(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        end: End,
    ) -> Result<Option<Match>, LowerError> {
        let members: BTreeSet<IpAddr> = addresses.into_iter().collect();
        Ok(match (members.first(), members.len()) {
            (None, _) => None,
            (Some(only), 1) => Some(Match::Within(end, IpNet::from(*only))),
            (Some(first), _) if first.is_unspecified() => {
                // A hash:ip refuses 0.0.0.0; a hash:net takes it.
                let networks = members.into_iter().map(IpNet::from).collect();
                let name = self.set(Elements::Networks(self.family, networks))?;
                Some(Match::In(name, Key::Address(end)))
            }
            (Some(_), _) => {
                let members = members.into_iter().collect();
                let name = self.set(Elements::Addresses(self.family, members))?;
                Some(Match::In(name, Key::Address(end)))
            }
        })
    }

    /// Returns the match of everything but some addresses, as far as they are of this family; `None` where none is.
    pub(super) fn none_of(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        end: End,
    ) -> Result<Option<Match>, LowerError> {
        let of_family = |address: &IpAddr| Family::of(*address) == self.family;
        let members: Vec<IpAddr> = addresses.iter().copied().filter(of_family).collect();
        let elements = match members.first() {
            None => return Ok(None),
            Some(first) if first.is_unspecified() => {
                let networks = members.into_iter().map(IpNet::from).collect();
                Elements::Networks(self.family, networks)
            }
            Some(_) => Elements::Addresses(self.family, members),
        };
        Ok(Some(Match::NotIn(self.set(elements)?, Key::Address(end))))
    }

    /// Returns the matches that find the members of any of the peer sets, in this family.
    pub(super) fn members(
        &mut self,
        ids: &BTreeSet<PeerSetId>,
        end: End,
    ) -> Result<Members, LowerError> {
        let networks = self.networks_of(ids);
        let networks = self.networks(&networks, end)?;
        if matches!(networks, Networks::Everything) {
            return Ok(Members { exact: Vec::new(), networks });
        }
        let exact = self.addresses_of(ids);
        let (separate, merged) = if exact.len() <= SEPARATE {
            (exact, Vec::new())
        } else {
            exact.into_iter().partition(|addresses| addresses.len() > LARGE)
        };
        let mut matches = Vec::new();
        for addresses in separate {
            matches.extend(self.any_of(addresses, end)?);
        }
        matches.extend(self.any_of(merged.into_iter().flatten(), end)?);
        Ok(Members { exact: matches, networks })
    }

    /// Returns the exact addresses of each set that has any in this family.
    pub(super) fn addresses_of(&self, ids: &BTreeSet<PeerSetId>) -> Vec<Vec<IpAddr>> {
        let family = self.family;
        let sets = ids.iter().filter_map(|id| self.ruleset.peer_set(*id));
        let addresses = sets.map(|set| match family {
            Family::V4 => set.addresses.v4().iter().copied().map(IpAddr::V4).collect(),
            Family::V6 => set.addresses.v6().iter().copied().map(IpAddr::V6).collect(),
        });
        addresses.filter(|addresses: &Vec<IpAddr>| !addresses.is_empty()).collect()
    }

    /// Returns the networks of any of the sets.
    pub(super) fn networks_of(&self, ids: &BTreeSet<PeerSetId>) -> PrefixSet {
        let sets = ids.iter().filter_map(|id| self.ruleset.peer_set(*id));
        sets.fold(PrefixSet::default(), |all, set| all.union(&set.networks))
    }

    /// Returns the match of the networks of this family.
    pub(super) fn networks(
        &mut self,
        networks: &PrefixSet,
        end: End,
    ) -> Result<Networks, LowerError> {
        let all = match self.family {
            Family::V4 => networks.v4().is_all(),
            Family::V6 => networks.v6().is_all(),
        };
        if all {
            return Ok(Networks::Everything);
        }
        let family = self.family;
        let of_family = |net: &IpNet| Family::of(net.network()) == family;
        // Longest prefixes of one length only hold together what is whole, and never a family: ipset refuses /0.
        let members: Vec<IpNet> = networks.cidrs().into_iter().filter(of_family).collect();
        Ok(match members.as_slice() {
            [] => Networks::Nothing,
            [only] => Networks::Some(Match::Within(end, *only)),
            [_, ..] => {
                let name = self.set(Elements::Networks(family, members))?;
                Networks::Some(Match::In(name, Key::Address(end)))
            }
        })
    }

    /// Returns the match of addresses with ports; the addresses are not 0.0.0.0.
    pub(super) fn address_ports(
        &mut self,
        members: BTreeSet<(IpAddr, Protocol, u16)>,
        end: End,
    ) -> Result<Match, LowerError> {
        let members = members.into_iter().collect();
        let name = self.set(Elements::AddressPorts(self.family, members))?;
        Ok(Match::In(name, Key::AddressPort(end)))
    }
}

fn lines<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let mut text = String::new();
    for item in items {
        text.push_str(&item.to_string());
        text.push('\n');
    }
    text
}

fn collision(name: &str) -> LowerError {
    LowerError::Unsupported { object: name.into(), what: "two different contents of this name" }
}

/// Digests content to letters and digits. Tenants write it, so crafted collisions must cost: SHA-256, cut to what a name
/// holds at five bits a digit; and they are checked for.
fn digest(text: &str, digits: usize) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut name = String::with_capacity(digits);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in Sha256::digest(text.as_bytes()) {
        bits = (bits << 8) | u32::from(byte);
        count += 8;
        while count >= 5 && name.len() < digits {
            count -= 5;
            let index = usize::try_from((bits >> count) & 31).unwrap_or_default();
            name.extend(DIGITS.get(index).map(|digit| char::from(*digit)));
        }
        bits &= 0xff;
    }
    name
}
