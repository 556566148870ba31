//! Ruleset to table: the fixed frame, and who goes through which pipeline.
//!
//! ```text
//! forward ─ judged before ─▶ accept
//!    └──▶ judge ─ source's egress pipeline ─▶ to-pods ─ destination's ingress pipeline ─▶ passed ─▶ accept
//! input   ─ replies ─ source's node pipeline ─▶ accept
//! ```
//!
//! Where open connections are judged again, `stamp` writes the generation of the rules into the connection's mark, and
//! `forward` lets pass without more ado what carries the one in the set `generation`. A change that closes puts another one
//! there, so that the next packet of every connection is judged, whichever way it goes: packets of replies by chains of their
//! own, which read both ends from the connection. What `stamp` writes follows once no packet is under way that was judged before
//! the change; until then connections get one that does not pass, and every packet is judged.
//!
//! In strict mode both first drop what comes from an address of pods that no known pod owns, and `forward` what goes to one.
//! What the node itself sends passes neither.
//!
//! An accept of the first pipeline goes on to the second, never past it (NP-006, CNP-017). A pipeline never falls through;
//! what comes back to the frame with an address that has a pipeline met a change in the middle and is dropped (guard).

#[cfg(feature = "apply")]
mod binding;
mod builder;
mod left;
mod pipeline;
mod state;
mod step;
#[cfg(feature = "apply")]
mod update;
mod version;

#[cfg(feature = "apply")]
pub(crate) use version::unversioned;
pub(crate) use version::{Versions, versioned};

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::backend::Cause;
use netpol_core::ir::{Direction, Endpoint, Family, OtherProtocols, Ruleset, Settings};
use netpol_core::model::Protocol;

use crate::options::Style;
use crate::script::{
    Chain, Elements, End, Hook, Key, Match, Name, Rule, Script, Stamp, Statement, Targets,
    Topology, Verdict, View,
};
#[cfg(feature = "apply")]
pub(crate) use binding::{Bindings, Redirect};
#[cfg(feature = "apply")]
pub(crate) use builder::DENIED;
use builder::{Builder, Networks, digit};
#[cfg(feature = "apply")]
pub(crate) use left::Left;
use pipeline::Place;
#[cfg(feature = "apply")]
pub(crate) use state::Object;
pub(crate) use state::{Log, Lowering};
#[cfg(all(test, feature = "apply"))]
pub(crate) use update::Sides;
#[cfg(feature = "apply")]
pub(crate) use update::{Changes, Edit, Indivisible, Order};

/// The base chain of what passes through the node.
const FORWARD: &str = "forward";
/// The chain that judges what does not pass without being judged.
const JUDGE: &str = "judge";
/// The chains that judge open connections by packets of their replies: both ends are read from the connection.
const JUDGE_REPLIES: &str = "judge-replies";
const TO_PODS_OF_REPLIES: &str = "to-pods-of-replies";
/// The chain of what both sides let through.
const PASSED: &str = "passed";
/// The set of the generation that passes, and the chain that writes it. Neither has a verdict: the kernel would go through
/// the whole table for each change of a rule that has one.
const GENERATION: &str = "generation";
pub(crate) const STAMP: &str = "stamp";
/// The chain that judges the destination's side.
const TO_PODS: &str = "to-pods";
/// What names of the maps begin with that lead addresses to their pipelines.
pub(crate) const DISPATCH: &str = "dispatch-";
/// The protocols that have ports.
const PORTED: &str = "protocols-with-ports";

/// Lowers a ruleset, with some sets under other names, and in a style.
pub(crate) fn lower(ruleset: &Ruleset, versions: &Versions, style: Style) -> Script {
    Script {
        table: Lowering::new(ruleset, versions.clone(), style).table,
        topology: topology(ruleset),
    }
}

impl Lowering {
    /// Lowers a ruleset.
    pub(crate) fn new(ruleset: &Ruleset, versions: Versions, style: Style) -> Self {
        let mut state = Self::default();
        (state.stamp, state.reports, state.versions) = (style.stamp, style.reports, versions);
        state.written = style.written.or(style.stamp);
        for (id, pipeline) in ruleset.pipelines() {
            state.learn(id, pipeline);
        }
        state.own = own(ruleset);
        let mut builder = Builder { ruleset, state: &mut state };
        for endpoint in ruleset.endpoints() {
            builder.bind(endpoint);
        }
        builder.frame();
        state.log = Log::default();
        state
    }
}

impl Builder<'_> {
    /// Leads the packets of an endpoint's addresses to its pipelines.
    fn bind(&mut self, endpoint: &Endpoint) {
        for address in &endpoint.addresses {
            for place in Place::ALL {
                if place.is_of_replies() && self.state.stamp.is_none() {
                    continue;
                }
                let family = Family::of(*address);
                let Some(verdict) = self.entry(endpoint, family, place) else { continue };
                let entries = self.state.dispatch.entry((place, family)).or_default();
                entries.entry(*address).or_insert(verdict);
                self.state.dispatched.remove(&(place, family));
            }
        }
    }

    /// Adds the chains that are always there, and what they refer to. Returns which of them changed.
    fn frame(&mut self) -> BTreeSet<Name> {
        let unknown = unknown_pods(self);
        let used =
            |direction| self.state.dispatch.keys().any(|(place, _)| place.direction() == direction);
        // Only what the frame refers to.
        let guards =
            [Direction::Egress, Direction::Ingress].map(|direction| (direction, used(direction)));
        let guards = guards.map(|(direction, used)| match used {
            true => self.denied(direction, Cause::Guard),
            false => Rule::always(Verdict::Drop),
        });
        let ruleset = self.ruleset;
        for family in [Family::V4, Family::V6] {
            let [same, _] = own_pairs(ruleset, family);
            self.state.table.sets.insert(own_addresses(family).into(), same);
        }
        if let Some(stamp) = self.state.stamp {
            let marks = Elements::Marks(vec![stamp.value]);
            self.state.table.sets.insert(GENERATION.into(), marks);
        }
        let ported = Protocol::ALL.map(Protocol::number).to_vec();
        self.state.table.sets.insert(PORTED.into(), Elements::Protocols(ported));
        let dispatch = core::mem::take(&mut self.state.dispatch);
        for ((place, family), entries) in &dispatch {
            if !self.state.dispatched.contains_key(&(*place, *family)) {
                let names = Dispatch::add(self.state, *place, *family, entries);
                self.state.dispatched.insert((*place, *family), names);
            }
        }
        self.state.dispatch = dispatch;
        let dispatched = self.state.dispatched.clone();
        let written = self.state.written;
        let chains = frame(ruleset.settings(), written, &dispatched, &unknown, &guards);
        chains
            .into_iter()
            .filter_map(|(name, chain)| self.state.put_frame(&name, chain).then_some(name))
            .collect()
    }
}

/// The map that leads addresses to their pipelines, and the set of its keys.
///
/// A packet keeps the rules it started with but reads maps as they are at each look-up, so that an edit of two maps at once
/// could show it the old egress and the new ingress side. Entries are given other chains only where all of them are of one
/// side, which a packet asks once; everything else is another map, and rules that name it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Dispatch {
    map: Name,
    guard: Name,
}

impl Dispatch {
    fn add(
        state: &mut Lowering,
        place: Place,
        family: Family,
        entries: &BTreeMap<IpAddr, Verdict>,
    ) -> Self {
        let keys = Elements::of_family(family, entries.keys().copied());
        let targets = Targets::of_family(family, entries.iter());
        let plain: Name = alloc::format!("{DISPATCH}{}-{}", place.as_str(), digit(family)).into();
        let mut map = state.versions.names.get(&plain).cloned().unwrap_or_else(|| plain.clone());
        let there = state.table.maps.get(&map).or_else(|| state.left.maps.get(&map));
        if there.is_some_and(|there| *there != targets) {
            map = versioned(&plain, &alloc::format!("{map} {targets}"));
            state.versions.names.insert(plain, map.clone());
        }
        let guard = match place {
            Place::Egress | Place::EgressOfReply => "guard-egress",
            Place::Ingress | Place::IngressOfReply => "guard-ingress",
            Place::Node => "guard-node",
        };
        let names = Self {
            map,
            guard: version::named(
                &alloc::format!("{guard}-{}", digit(family)),
                &alloc::format!("{keys}"),
            ),
        };
        state.put_map(&names.map, targets);
        state.put_set(&names.guard, || keys);
        names
    }
}

/// Returns the chains that are always there, where connections get this generation.
fn frame(
    settings: Settings,
    written: Option<Stamp>,
    dispatched: &BTreeMap<(Place, Family), Dispatch>,
    unknown: &[(End, Rule)],
    guards: &[Rule; 2],
) -> Vec<(Name, Chain)> {
    let verdict = |matches, verdict| Rule::new(matches, Statement::Verdict(verdict));
    let accept = |condition| verdict(vec![condition], Verdict::Accept);
    let to_pods = Rule::always(Verdict::Goto(TO_PODS.into()));
    let passed = Rule::always(match written {
        Some(_) => Verdict::Goto(PASSED.into()),
        None => Verdict::Accept,
    });
    // Before anything that judges, so that nothing of an unknown pod passes unjudged.
    let strict = |ends: &[End]| -> Vec<Rule> {
        unknown.iter().filter(|(end, _)| ends.contains(end)).map(|(_, rule)| rule.clone()).collect()
    };
    let mut unjudged = Vec::new();
    if settings.other_protocols == OtherProtocols::Pass {
        // DEC-02: the embedder chose that protocols without ports pass unjudged.
        unjudged.push(accept(Match::NotIn(Key::Protocol, PORTED.into())));
    }
    let mut judge = strict(&[End::Source, End::Destination]);
    judge.extend(unjudged.iter().cloned());
    if written.is_some() {
        judge.push(verdict(vec![Match::Reply], Verdict::Goto(JUDGE_REPLIES.into())));
    }
    judge.extend(dispatch_rules(Place::Egress, dispatched, guards));
    judge.push(to_pods);

    let mut input = strict(&[End::Source]);
    let node = dispatch_rules(Place::Node, dispatched, guards);
    if !node.is_empty() {
        input.extend(unjudged);
        input.extend(node);
    }
    let mut to_pods = dispatch_rules(Place::Ingress, dispatched, guards);
    to_pods.push(passed);

    let mut chains = Vec::new();
    let mut add = |name: &str, hook, rules| chains.push((name.into(), Chain { hook, rules }));
    let related = [accept(Match::Related), accept(Match::NeighbourDiscovery)];
    let replies = [accept(Match::EstablishedOrRelated), accept(Match::NeighbourDiscovery)];
    match written {
        Some(_) => {
            add(JUDGE, None, related.iter().cloned().chain(judge).collect());
            let mut replies = dispatch_rules(Place::EgressOfReply, dispatched, guards);
            replies.push(Rule::always(Verdict::Goto(TO_PODS_OF_REPLIES.into())));
            add(JUDGE_REPLIES, None, replies);
            let mut to_pods = dispatch_rules(Place::IngressOfReply, dispatched, guards);
            to_pods.push(Rule::always(Verdict::Goto(PASSED.into())));
            add(TO_PODS_OF_REPLIES, None, to_pods);
            if !input.is_empty() {
                // A reply that comes in is to what the node sent, which is never judged (NP-125, NP-128).
                let replies = [accept(Match::Reply)].into_iter().chain(related);
                input.splice(0..0, replies);
            }
        }
        None => {
            add(FORWARD, Some(Hook::Forward), replies.iter().cloned().chain(judge).collect());
            if !input.is_empty() {
                input.splice(0..0, replies);
            }
        }
    }
    input.push(Rule::always(Verdict::Accept));
    add("input", Some(Hook::Input), input);
    add(TO_PODS, None, to_pods);
    chains.extend(written.into_iter().flat_map(frame_of_stamp));
    chains
}

/// Returns the chains of the frame that are about the generation: who carries it passes, and who is let through gets `written`.
fn frame_of_stamp(written: Stamp) -> [(Name, Chain); 3] {
    let stamped = Match::Stamped(written.mask, GENERATION.into());
    let accept = Rule::new(vec![stamped], Statement::Verdict(Verdict::Accept));
    let forward = vec![accept, Rule::always(Verdict::Goto(JUDGE.into()))];
    // What belongs to no connection that is known cannot be marked, but passes.
    let write = Rule::new(Vec::new(), Statement::Stamp(written));
    let passed = vec![Rule::always(Verdict::Jump(STAMP.into())), Rule::always(Verdict::Accept)];
    [
        (STAMP.into(), Chain { hook: None, rules: vec![write] }),
        (FORWARD.into(), Chain { hook: Some(Hook::Forward), rules: forward }),
        (PASSED.into(), Chain { hook: None, rules: passed }),
    ]
}

/// Returns the rules that lead addresses to their pipelines, and drop those for which there was none.
fn dispatch_rules(
    place: Place,
    dispatched: &BTreeMap<(Place, Family), Dispatch>,
    guards: &[Rule; 2],
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in [Family::V4, Family::V6] {
        let Some(Dispatch { map, guard }) = dispatched.get(&(place, family)) else { continue };
        let key = Key::Address(place.view(), family, place.subject());
        rules.push(Rule::new(Vec::new(), Statement::Map(key, map.clone())));
        rules.push(guarded(key, guard, place, guards));
    }
    rules
}

/// Returns the rule that drops what has an address of a guard.
fn guarded(key: Key, guard: &Name, place: Place, guards: &[Rule; 2]) -> Rule {
    let [egress, ingress] = guards.clone();
    let denied = if place.direction() == Direction::Ingress { ingress } else { egress };
    Rule { matches: vec![Match::In(key, guard.clone())], ..denied }
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
            let key = Key::Address(View::Packet, family, end);
            let range = match &networks {
                Networks::Nothing | Networks::Everything => None,
                Networks::Range(range) => Some(Match::Within(View::Packet, end, *range)),
                Networks::Set(set) => Some(Match::In(key, set.clone())),
            };
            let matches = range.into_iter().chain([Match::NotIn(key, known.clone())]).collect();
            let direction = match end {
                End::Source => Direction::Egress,
                End::Destination => Direction::Ingress,
            };
            let denied = builder.denied(direction, Cause::UnknownPod);
            rules.push((end, Rule { matches, ..denied }));
        }
    }
    rules
}

/// Returns whether an object of the frame has this name: it stays, whether or not anything refers to it.
fn is_frame(name: &str) -> bool {
    [FORWARD, "input", JUDGE, JUDGE_REPLIES, PASSED, STAMP, TO_PODS, TO_PODS_OF_REPLIES]
        .contains(&name)
        || [GENERATION, PORTED].contains(&name)
        || [Family::V4, Family::V6].map(own_addresses).contains(&name)
}

/// Returns the name of the set of own address pairs.
const fn own_addresses(family: Family) -> &'static str {
    match family {
        Family::V4 => "own-addresses-4",
        Family::V6 => "own-addresses-6",
    }
}

/// Returns every pair of addresses of one endpoint that some NetworkPolicy isolates: what nftables cannot say as
/// "source equals destination" (NP-121, DEC-03). First those of an address with itself, then those of two.
///
/// Whatever is of one address is of one pod at all times. Two may be of one pod now and of two before.
fn own_pairs(ruleset: &Ruleset, family: Family) -> [Elements; 2] {
    let isolated = |endpoint: &&Endpoint| {
        [endpoint.ingress, endpoint.egress].into_iter().any(|id| {
            ruleset.pipeline(id).is_some_and(|pipeline| pipeline.network_policy.is_some())
        })
    };
    let (mut v4, mut v6) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for endpoint in ruleset.endpoints().filter(isolated) {
        for source in &endpoint.addresses {
            for destination in &endpoint.addresses {
                let [same, two] = &mut v4;
                let [same6, two6] = &mut v6;
                match (source, destination) {
                    (IpAddr::V4(a), IpAddr::V4(b)) if a == b => same.push((*a, *b)),
                    (IpAddr::V4(a), IpAddr::V4(b)) => two.push((*a, *b)),
                    (IpAddr::V6(a), IpAddr::V6(b)) if a == b => same6.push((*a, *b)),
                    (IpAddr::V6(a), IpAddr::V6(b)) => two6.push((*a, *b)),
                    (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
                }
            }
        }
    }
    match family {
        Family::V4 => v4.map(|pairs| Elements::V4Pairs(sorted(pairs))),
        Family::V6 => v6.map(|pairs| Elements::V6Pairs(sorted(pairs))),
    }
}

/// Returns the pairs of two addresses of one endpoint, in the families in which there are any.
fn own(ruleset: &Ruleset) -> BTreeMap<Family, Elements> {
    let pairs = |family| own_pairs(ruleset, family).into_iter().nth(1).map(|pairs| (family, pairs));
    let all = [Family::V4, Family::V6].into_iter().filter_map(pairs);
    all.filter(|(_, pairs)| !pairs.is_empty()).collect()
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
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
    /// Returns where the place's chains read addresses.
    const fn view(self) -> View {
        if self.is_of_replies() { View::Connection } else { View::Packet }
    }

    /// Returns which end of a packet is the pod that is judged.
    const fn subject(self) -> End {
        match self {
            Self::Egress | Self::Node | Self::EgressOfReply => End::Source,
            Self::Ingress | Self::IngressOfReply => End::Destination,
        }
    }

    /// Returns which end of a packet is the peer.
    const fn peer(self) -> End {
        match self {
            Self::Egress | Self::Node | Self::EgressOfReply => End::Destination,
            Self::Ingress | Self::IngressOfReply => End::Source,
        }
    }
}
