//! Ruleset to table: the fixed frame, and who goes through which pipeline.
//!
//! ```text
//! forward ─ replies, neighbour discovery ─ source's egress pipeline ─▶ to-pods ─ destination's ingress pipeline ─▶ accept
//! input   ─ replies, neighbour discovery ─ source's node pipeline ─▶ accept
//! ```
//!
//! In strict mode both first drop what comes from an address of pods that no known pod owns, and `forward` what goes to one.
//! What the node itself sends passes neither.
//!
//! An accept of the first pipeline goes on to the second, never past it (NP-006, CNP-017). A pipeline never falls through;
//! what comes back to the frame with an address that has a pipeline met a change in the middle and is dropped (guard).

mod builder;
mod pipeline;
mod step;
mod version;

pub(crate) use version::Versions;
#[cfg(feature = "apply")]
pub(crate) use version::{unversioned, versioned};

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_core::ir::{Endpoint, Family, OtherProtocols, Ruleset};
use netpol_core::model::Protocol;

use crate::script::{
    Chain, Elements, End, Hook, Key, Match, Name, Rule, Script, Statement, Table, Targets,
    Topology, Verdict,
};
use builder::{Builder, Networks, digit};
use pipeline::Place;

/// The chain that judges the destination's side.
const TO_PODS: &str = "to-pods";
/// The protocols that have ports.
const PORTED: &str = "protocols-with-ports";

/// Lowers a ruleset, with some sets under other names.
pub(crate) fn lower(ruleset: &Ruleset, versions: &Versions) -> Script {
    let mut builder = Builder::new(ruleset, versions);
    let mut dispatch: BTreeMap<(Place, Family), BTreeMap<IpAddr, Verdict>> = BTreeMap::new();
    for endpoint in ruleset.endpoints() {
        for address in &endpoint.addresses {
            for place in Place::ALL {
                let family = Family::of(*address);
                let Some(verdict) = builder.entry(endpoint, family, place) else { continue };
                dispatch.entry((place, family)).or_default().entry(*address).or_insert(verdict);
            }
        }
    }
    let unknown = unknown_pods(&mut builder);
    let mut table = builder.into_table();
    let mut dispatched = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        table.sets.insert(own_addresses(family).into(), own_pairs(ruleset, family));
        for place in Place::ALL {
            let entries = dispatch.remove(&(place, family)).unwrap_or_default();
            let names = Dispatch::add(&mut table, place, family, entries);
            dispatched.insert((place, family), names);
        }
    }
    frame(&mut table, ruleset, &dispatched, &unknown);
    Script { table, topology: topology(ruleset) }
}

/// The map that leads addresses to their pipelines, and the set of its keys.
///
/// Both are named by their content and never edited: a packet keeps the rules it started with but reads maps as they are
/// at each look-up, so that an edit of two maps at once could show it the old egress and the new ingress side. Rules that
/// name other maps switch it whole.
struct Dispatch {
    map: Name,
    guard: Name,
}

impl Dispatch {
    fn add(
        table: &mut Table,
        place: Place,
        family: Family,
        entries: BTreeMap<IpAddr, Verdict>,
    ) -> Self {
        let (targets, keys) = match family {
            Family::V4 => {
                let of_family = |(key, verdict)| match key {
                    IpAddr::V4(key) => Some((key, verdict)),
                    IpAddr::V6(_) => None,
                };
                let entries: BTreeMap<Ipv4Addr, Verdict> =
                    entries.into_iter().filter_map(of_family).collect();
                let keys = Elements::V4(entries.keys().copied().collect());
                (Targets::V4(entries), keys)
            }
            Family::V6 => {
                let of_family = |(key, verdict)| match key {
                    IpAddr::V6(key) => Some((key, verdict)),
                    IpAddr::V4(_) => None,
                };
                let entries: BTreeMap<Ipv6Addr, Verdict> =
                    entries.into_iter().filter_map(of_family).collect();
                let keys = Elements::V6(entries.keys().copied().collect());
                (Targets::V6(entries), keys)
            }
        };
        let named = |what: &str, text: &str| -> Name {
            version::named(&alloc::format!("{what}-{}-{}", place.as_str(), digit(family)), text)
        };
        let names = Self {
            map: named("dispatch", &alloc::format!("{targets}")),
            guard: named("guard", &alloc::format!("{keys}")),
        };
        table.maps.insert(names.map.clone(), targets);
        table.sets.insert(names.guard.clone(), keys);
        names
    }
}

/// Adds the chains that are always there.
fn frame(
    table: &mut Table,
    ruleset: &Ruleset,
    dispatched: &BTreeMap<(Place, Family), Dispatch>,
    unknown: &[(End, Rule)],
) {
    let ported = Protocol::ALL.map(Protocol::number).to_vec();
    table.sets.insert(PORTED.into(), Elements::Protocols(ported));
    let mut always = vec![
        Rule::new(vec![Match::EstablishedOrRelated], Statement::Verdict(Verdict::Accept)),
        Rule::new(vec![Match::NeighbourDiscovery], Statement::Verdict(Verdict::Accept)),
    ];
    if ruleset.settings().other_protocols == OtherProtocols::Pass {
        // DEC-02: the embedder chose that protocols without ports pass unjudged.
        let other = Match::NotIn(Key::Protocol, PORTED.into());
        always.push(Rule::new(vec![other], Statement::Verdict(Verdict::Accept)));
    }
    let frame_chain = |hook, mut rules: Vec<Rule>, place: Place, last| {
        // Before anything else that judges, so that nothing of an unknown pod passes unjudged.
        let strict = unknown.iter().filter(|(end, _)| match place {
            Place::Egress => true,
            Place::Node => *end == End::Source,
            Place::Ingress => false,
        });
        let accepted = rules.len().min(2);
        rules.splice(accepted..accepted, strict.map(|(_, rule)| rule.clone()));
        for family in [Family::V4, Family::V6] {
            let Some(Dispatch { map, guard }) = dispatched.get(&(place, family)) else { continue };
            let key = Key::Address(family, place.subject());
            rules.push(Rule::new(Vec::new(), Statement::Map(key, map.clone())));
            rules.push(Rule::new(
                vec![Match::In(key, guard.clone())],
                Statement::Verdict(Verdict::Drop),
            ));
        }
        rules.push(Rule::always(last));
        Chain { hook, rules }
    };
    let to_pods = Verdict::Goto(TO_PODS.into());
    let chains = [
        ("forward", frame_chain(Some(Hook::Forward), always.clone(), Place::Egress, to_pods)),
        ("input", frame_chain(Some(Hook::Input), always, Place::Node, Verdict::Accept)),
        (TO_PODS, frame_chain(None, Vec::new(), Place::Ingress, Verdict::Accept)),
    ];
    table.chains.extend(chains.map(|(name, chain)| (name.into(), chain)));
}

/// Returns the rules of strict mode, with the end of a packet that each is about: an address of pods that nobody owns.
///
/// The owned addresses are a set named by its content, which the rules switch with everything else.
fn unknown_pods(builder: &mut Builder<'_>) -> Vec<(End, Rule)> {
    let ruleset = builder.ruleset;
    let ranges = ruleset.pod_ranges();
    let mut rules = Vec::new();
    for family in [Family::V4, Family::V6] {
        let networks = builder.networks(ranges, family);
        if matches!(networks, Networks::Nothing) {
            continue;
        }
        let pods = ruleset.endpoints().flat_map(|endpoint| &endpoint.addresses);
        let known = pods.chain(ruleset.nodes().values().flatten()).copied();
        let known = builder.known(known.filter(|address| ranges.contains(*address)), family);
        for end in [End::Source, End::Destination] {
            let key = Key::Address(family, end);
            let range = match &networks {
                Networks::Nothing | Networks::Everything => None,
                Networks::Range(range) => Some(Match::Within(end, *range)),
                Networks::Set(set) => Some(Match::In(key, set.clone())),
            };
            let matches = range.into_iter().chain([Match::NotIn(key, known.clone())]).collect();
            rules.push((end, Rule::new(matches, Statement::Verdict(Verdict::Drop))));
        }
    }
    rules
}

/// Returns the name of the set of own address pairs.
const fn own_addresses(family: Family) -> &'static str {
    match family {
        Family::V4 => "own-addresses-4",
        Family::V6 => "own-addresses-6",
    }
}

/// Returns every pair of addresses of one endpoint that some NetworkPolicy isolates: what nftables cannot say as
/// "source equals destination" (NP-121, DEC-03).
fn own_pairs(ruleset: &Ruleset, family: Family) -> Elements {
    let isolated = |endpoint: &&Endpoint| {
        [endpoint.ingress, endpoint.egress].into_iter().any(|id| {
            ruleset.pipeline(id).is_some_and(|pipeline| pipeline.network_policy.is_some())
        })
    };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for endpoint in ruleset.endpoints().filter(isolated) {
        for source in &endpoint.addresses {
            for destination in &endpoint.addresses {
                match (source, destination) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => v4.push((*a, *b)),
                    (IpAddr::V6(a), IpAddr::V6(b)) => v6.push((*a, *b)),
                    (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
                }
            }
        }
    }
    match family {
        Family::V4 => {
            v4.sort_unstable();
            v4.dedup();
            Elements::V4Pairs(v4)
        }
        Family::V6 => {
            v6.sort_unstable();
            v6.dedup();
            Elements::V6Pairs(v6)
        }
    }
}

fn topology(ruleset: &Ruleset) -> Topology {
    let nodes: BTreeMap<&str, Arc<[IpAddr]>> = ruleset
        .nodes()
        .iter()
        .map(|(name, addresses)| (name.as_ref(), addresses.as_slice().into()))
        .collect();
    let mut pods = BTreeMap::new();
    for (number, endpoint) in ruleset.endpoints().enumerate() {
        let node = endpoint.node.as_deref().and_then(|name| nodes.get(name)).cloned();
        let node = node.unwrap_or_default();
        for address in &endpoint.addresses {
            pods.entry(*address).or_insert_with(|| (number, node.clone()));
        }
    }
    Topology { pods, nodes: ruleset.nodes().values().flatten().copied().collect() }
}

impl Place {
    /// Returns which end of a packet is the pod that is judged.
    const fn subject(self) -> End {
        match self {
            Self::Egress | Self::Node => End::Source,
            Self::Ingress => End::Destination,
        }
    }

    /// Returns which end of a packet is the peer.
    const fn peer(self) -> End {
        match self {
            Self::Egress | Self::Node => End::Destination,
            Self::Ingress => End::Source,
        }
    }
}
