//! The table under construction: everything in it is made once and named by its content.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;

use netpol_core::backend::Cause;
use netpol_core::ir::{self, Direction, Family, PeerSelector, PeerSet, PeerSetId, Ruleset};
use netpol_core::net::{Intervals, PrefixSet};
use sha2::{Digest as _, Sha256};

use super::state::Lowering;
use super::version::named;
use crate::script::{
    AddressRange, Chain, Counted, Elements, Match, Name, Report, Rule, Statement, Targets, Verdict,
};

/// Up to this many sets of addresses are looked up one by one.
const SEPARATE: usize = 4;
/// What names of chains that deny begin with, and reports of what they drop.
pub(crate) const DENIED: &str = "deny-";
/// A set of more addresses than this is never copied into a union.
pub(super) const LARGE: usize = 4096;

/// Adds to what was lowered what a ruleset asks for.
pub(super) struct Builder<'a> {
    pub(super) ruleset: &'a Ruleset,
    pub(super) state: &'a mut Lowering,
}

/// The peers of a step in one family, as look-ups of which one must hit.
pub(super) struct Lookups {
    /// Sets of exact addresses.
    pub(super) sets: Vec<Name>,
    /// Networks.
    pub(super) networks: Networks,
}

/// The networks among the peers.
pub(super) enum Networks {
    /// None in this family.
    Nothing,
    /// The whole family.
    Everything,
    /// One range, compared.
    Range(AddressRange),
    /// Several ranges, looked up.
    Set(Name),
}

impl<'a> Builder<'a> {
    /// Adds a chain named by its rules.
    pub(super) fn chain(&mut self, prefix: &str, family: Family, rules: Vec<Rule>) -> Name {
        let mut text = String::new();
        for rule in &rules {
            // What is counted apart is not shared, though the rules be the same. Writing to a String cannot fail.
            let _ = match &rule.counted {
                Some(counted) => writeln!(text, "{rule} {counted}"),
                None => writeln!(text, "{rule}"),
            };
        }
        let name = named(&alloc::format!("{prefix}-{}", digit(family)), &text);
        self.state.put_chain(&name, Chain { hook: None, rules });
        name
    }

    /// Returns a rule that denies everything, counted and reported under a cause.
    pub(super) fn denied(&mut self, direction: Direction, cause: Cause) -> Rule {
        let counted = Arc::new(Counted { direction, verdict: ir::Verdict::Deny, cause });
        let drop = Rule::always(Verdict::Drop).counting(counted.clone());
        let Some((group, per_second)) = self.state.reports else { return drop };
        let label = digest(&alloc::format!("{counted}"));
        let prefix = alloc::format!("{DENIED}{label}").into();
        let report = Report { group, per_second, prefix };
        let rules = alloc::vec![
            // Its ends are the wrong way round, and the next packet of the other direction is reported.
            Rule { matches: alloc::vec![Match::Reply], ..drop.clone() },
            Rule::new(Vec::new(), Statement::Report(report)),
            drop,
        ];
        let name: Name = alloc::format!("{DENIED}{label}").into();
        self.state.put_chain(&name, Chain { hook: None, rules });
        Rule::always(Verdict::Goto(name))
    }

    /// Adds a set of protocols with ports, all of them single.
    pub(super) fn protocol_ports(&mut self, members: Vec<(u8, u16)>) -> Name {
        self.set("ports", Elements::ProtocolPorts(members))
    }

    /// Adds a set of port ranges.
    pub(super) fn ports(&mut self, ranges: &Intervals<u16>) -> Name {
        self.set("ranges", Elements::Ports(ranges.clone()))
    }

    /// Adds a map from port ranges to verdicts.
    pub(super) fn port_map(&mut self, entries: Vec<((u16, u16), Verdict)>) -> Name {
        let targets = Targets::Ports(entries);
        let name = named("by-port", &alloc::format!("{targets}"));
        self.state.put_map(&name, targets);
        name
    }

    /// Adds the set of the addresses of pods that are known, in one family.
    pub(super) fn known(
        &mut self,
        addresses: impl Iterator<Item = IpAddr>,
        family: Family,
    ) -> Name {
        let elements = Elements::of_family(family, addresses);
        self.set(&alloc::format!("known-{}", digit(family)), elements)
    }

    /// Adds the set of the pairs of two addresses of one pod, if there are any.
    pub(super) fn own_pairs(&mut self, family: Family) -> Option<Name> {
        let pairs = self.state.own.get(&family)?.clone();
        Some(self.set(&alloc::format!("own-pairs-{}", digit(family)), pairs))
    }

    fn set(&mut self, prefix: &str, elements: Elements) -> Name {
        let name: Name =
            alloc::format!("{prefix}-{}", digest(&alloc::format!("{elements}"))).into();
        self.state.put_set(&name, || elements);
        name
    }

    /// Returns the look-ups that find the members of any of the peer sets, in one family.
    pub(super) fn lookups(&mut self, ids: &BTreeSet<PeerSetId>, family: Family) -> Lookups {
        let sets: Vec<(PeerSetId, &'a PeerSet)> =
            ids.iter().filter_map(|id| self.ruleset.peer_set(*id).map(|set| (*id, set))).collect();
        let networks = sets
            .iter()
            .map(|(_, set)| &set.networks)
            .fold(PrefixSet::default(), |all, networks| all.union(networks));
        let networks = self.networks(&networks, family);
        if matches!(networks, Networks::Everything) {
            return Lookups { sets: Vec::new(), networks }; // Nothing else is asked.
        }
        let exact: Vec<_> = sets.into_iter().filter(|(_, set)| may_hold_addresses(set)).collect();
        let (separate, merged) = if exact.len() <= SEPARATE {
            (exact, Vec::new())
        } else {
            exact.into_iter().partition(|(_, set)| set.addresses.len() > LARGE)
        };
        let mut names: Vec<Name> = separate
            .into_iter()
            .map(|(id, set)| self.addresses(&alloc::format!("{id}"), family, &[(id, set)]))
            .collect();
        if let [(id, set)] = merged.as_slice() {
            names.push(self.addresses(&alloc::format!("{id}"), family, &[(*id, *set)]));
        } else if !merged.is_empty() {
            // A union is named by its parts and not by its members, so that members can come and go.
            let parts: String = merged.iter().map(|(id, _)| alloc::format!("{id} ")).collect();
            names.push(self.addresses(&alloc::format!("u{}", digest(&parts)), family, &merged));
        }
        Lookups { sets: names, networks }
    }

    /// Adds the set of the addresses of one family.
    fn addresses(&mut self, name: &str, family: Family, sets: &[(PeerSetId, &PeerSet)]) -> Name {
        let name: Name = alloc::format!("{name}-{}", digit(family)).into();
        let name = self.state.versions.names.get(&name).cloned().unwrap_or(name);
        self.state.put_set(&name, || match family {
            Family::V4 => {
                let members = sets.iter().flat_map(|(_, set)| set.addresses.v4().iter().copied());
                Elements::V4(members.collect())
            }
            Family::V6 => {
                let members = sets.iter().flat_map(|(_, set)| set.addresses.v6().iter().copied());
                Elements::V6(members.collect())
            }
        });
        if !self.state.table.rooms.contains_key(&name) {
            let members = self.state.table.sets.get(&name).map_or(0, Elements::len);
            let room = self.state.versions.room(&name, members);
            self.state.table.rooms.insert(name.clone(), room);
        }
        self.state.remember_parts(&name, sets.iter().map(|(id, _)| *id));
        name
    }

    /// Adds the set of the networks of one family, where a comparison does not do.
    pub(super) fn networks(&mut self, networks: &PrefixSet, family: Family) -> Networks {
        let elements = match family {
            Family::V4 => {
                let ranges = networks.v4();
                let mut list = ranges.iter();
                match (list.next(), list.next()) {
                    (None, _) => return Networks::Nothing,
                    (Some(_), None) if ranges.is_all() => return Networks::Everything,
                    (Some((low, high)), None) => {
                        return Networks::Range(AddressRange::V4(low.into(), high.into()));
                    }
                    (Some(_), Some(_)) => Elements::V4Ranges(ranges.clone()),
                }
            }
            Family::V6 => {
                let ranges = networks.v6();
                let mut list = ranges.iter();
                match (list.next(), list.next()) {
                    (None, _) => return Networks::Nothing,
                    (Some(_), None) if ranges.is_all() => return Networks::Everything,
                    (Some((low, high)), None) => {
                        return Networks::Range(AddressRange::V6(low.into(), high.into()));
                    }
                    (Some(_), Some(_)) => Elements::V6Ranges(ranges.clone()),
                }
            }
        };
        Networks::Set(self.set("networks", elements))
    }
}

/// Returns whether a set can hold exact addresses, now or after the next pod.
fn may_hold_addresses(set: &PeerSet) -> bool {
    match set.selector {
        PeerSelector::Networks(_) => !set.addresses.is_empty(),
        PeerSelector::Pods { .. } | PeerSelector::Nodes(_) | PeerSelector::PodsInNetworks(..) => {
            true
        }
    }
}

pub(super) const fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// Digests content. Tenants write it, so crafted collisions must be out of reach: SHA-256, cut to 128 bits.
pub(super) fn digest(text: &str) -> String {
    let mut digits = String::with_capacity(32);
    for byte in Sha256::digest(text.as_bytes()).iter().take(16) {
        let _ = write!(digits, "{byte:02x}"); // Writing to a String cannot fail.
    }
    digits
}
