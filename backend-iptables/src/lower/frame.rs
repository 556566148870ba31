//! The chains that are always there.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::mem;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::backend::{Cause, Established, LowerError};
use netpol_core::ir::{Direction, Endpoint, Family, OtherProtocols, PipelineId};
use netpol_core::model::Protocol;

use super::builder::{Builder, Networks};
use super::dispatch::Entry;
use super::pipeline::{Place, Side, Way};
use super::role::Role;
use crate::OwnAddress;
use crate::restore::{Account, End, Filter, Hook, Key, Match, Rule, State, Target};

/// Router and neighbour solicitations and advertisements, and redirects.
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;
/// Which sides the forwarded packets pass.
const FORWARD: [Side; 2] = [Side::Egress, Side::Ingress];

impl Builder<'_> {
    /// Lowers everything of one family.
    pub(super) fn filter(&mut self, family: Family) -> Result<Filter, LowerError> {
        self.family = family;
        let recheck = self.options.established == Established::Recheck;
        let forward =
            self.judgement(&FORWARD, Way::Opening, Hook::Forward, Hook::Forward.chain())?;
        let input =
            self.judgement(&[Side::Node], Way::Opening, Hook::Input, Hook::Input.chain())?;
        for (hook, judgement, ends) in [
            (Hook::Forward, forward, &[End::Source, End::Destination][..]),
            (Hook::Input, input, &[End::Source]),
        ] {
            let mut rules = Vec::new();
            if judgement.is_empty() {
                rules.extend((hook == Hook::Forward).then(tracked));
            } else {
                rules.extend(self.settled(hook, ends)?);
                if recheck && hook == Hook::Forward {
                    rules.push(self.answers(hook, &FORWARD)?);
                }
                rules.extend(judgement);
            }
            self.filter.chains.insert(hook.chain().into(), rules.into());
        }
        Ok(mem::take(&mut self.filter))
    }

    /// Returns the rules for what passes unjudged.
    fn settled(&mut self, hook: Hook, ends: &[End]) -> Result<Vec<Rule>, LowerError> {
        let state = |state| Rule::new(vec![Match::State(state)], Target::Return);
        let mut rules = match (self.options.established, hook) {
            (Established::Keep, _) => vec![state(State::EstablishedOrRelated)],
            (Established::Recheck, Hook::Forward) => {
                vec![self.settled_rule(ends)?, state(State::Related)]
            }
            // What answers the node was asked for by the node (NP-125).
            (Established::Recheck, Hook::Input) => {
                vec![state(State::Reply), self.settled_rule(ends)?, state(State::Related)]
            }
        };
        if self.family == Family::V6 {
            rules.extend(
                NEIGHBOUR_DISCOVERY
                    .map(|number| Rule::new(vec![Match::Icmpv6(number)], Target::Return)), // NP-115
            );
        }
        Ok(rules)
    }

    /// Returns the rule for connections that were judged by what is in force, between addresses of which nothing has changed.
    fn settled_rule(&mut self, ends: &[End]) -> Result<Rule, LowerError> {
        let mark = self.memory.mark(self.family, self.options.mark);
        let mut matches = vec![Match::State(State::Established), Match::Mark(mark)];
        let unsettled = self.set(Role::Unsettled)?;
        let of = |end: &End| Match::NotIn(unsettled.clone(), Key::Address(*end));
        matches.extend(ends.iter().map(of));
        Ok(Rule::new(matches, Target::Return))
    }

    /// Returns the rule for answers on connections that are to be judged anew, and adds where it goes.
    fn answers(&mut self, hook: Hook, sides: &[Side]) -> Result<Rule, LowerError> {
        let name = format!("{}-ANSWERS", hook.chain());
        let rules = self.judgement(sides, Way::Answer, hook, &name)?;
        self.filter.chains.insert(name.as_str().into(), rules.into());
        Ok(Rule::new(vec![Match::State(State::Reply)], Target::Goto(name.into())))
    }

    /// Returns the rules that judge what comes to them on its way past some sides; none where nothing is judged.
    fn judgement(
        &mut self,
        sides: &[Side],
        way: Way,
        hook: Hook,
        name: &str,
    ) -> Result<Vec<Rule>, LowerError> {
        let mut rules = self.unknown_pods(hook, way)?;
        let mut judged = Vec::new();
        for side in sides {
            judged.extend(self.place(place(*side, way))?);
        }
        if rules.is_empty() && judged.is_empty() {
            return Ok(Vec::new());
        }
        if self.options.established == Established::Recheck {
            let mark = self.memory.mark(self.family, self.options.mark);
            judged.push(Rule::always(Target::Mark(mark)));
        }
        match self.ruleset.settings().other_protocols {
            OtherProtocols::Judge => rules.extend(judged),
            // DEC-02: the embedder chose that protocols without ports pass unjudged.
            OtherProtocols::Pass => {
                let name = format!("{name}-PORTS");
                rules.extend(Protocol::ALL.map(|protocol| {
                    Rule::new(vec![Match::Protocol(protocol)], Target::Goto(name.as_str().into()))
                }));
                self.filter.chains.insert(name.into(), judged.into());
            }
        }
        Ok(rules)
    }

    /// Returns the rules of strict mode: what comes from an address of pods that is nobody's is dropped, and, unless a node
    /// sends it, what goes there.
    fn unknown_pods(&mut self, hook: Hook, way: Way) -> Result<Vec<Rule>, LowerError> {
        let ranges = self.ruleset.pod_ranges().clone();
        let mut rules = Vec::new();
        let judged = match hook {
            Hook::Forward => &[End::Source, End::Destination][..],
            Hook::Input => &[End::Source],
        };
        for judged in judged {
            let end = way.end(*judged);
            let mut matches = match self.networks(&ranges, end)? {
                Networks::Nothing => continue,
                Networks::Everything => Vec::new(),
                Networks::Some(ranges) => vec![ranges],
            };
            matches.push(Match::NotIn(self.set(Role::Known)?, Key::Address(end)));
            let (direction, letter) = match judged {
                End::Source => (Direction::Egress, 'E'),
                End::Destination => {
                    let from = Key::Address(way.end(End::Source));
                    matches.push(Match::NotIn(self.set(Role::Nodes)?, from));
                    (Direction::Ingress, 'I')
                }
            };
            let account = Arc::new(Account { direction, cause: Cause::UnknownPod });
            let is_answer = way == Way::Answer;
            let letters = if is_answer { "A" } else { "" };
            let prefix = format!("NETPOL {letter}{letters} unknown");
            let denied = self.denied(prefix, &account, is_answer)?;
            rules.push(Rule::new(matches, denied).because(Some(account)));
        }
        Ok(rules)
    }

    /// Adds the dispatch of a place; returns the jump there, unless nobody is judged there.
    fn place(&mut self, place: Place) -> Result<Option<Rule>, LowerError> {
        if !self.is_used() {
            return Ok(None);
        }
        let ruleset = self.ruleset;
        let mut entries: Vec<Entry> = Vec::new();
        for (id, pipeline) in ruleset.pipelines() {
            if pipeline.direction == place.direction()
                && let Some(target) = self.entry(id, pipeline, place)?
            {
                entries.push(Entry { id, target });
            }
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let condition = self.bound(&entries, place)?;
        let rules = self.dispatch(&entries, place)?;
        self.filter.chains.insert(place.chain().into(), rules.into());
        Ok(Some(Rule::new(vec![condition], Target::Jump(place.chain().into()))))
    }

    /// Returns the rules that let a pod of an isolated pipeline reach itself.
    pub(super) fn own_addresses(&self, id: PipelineId, place: Place) -> Vec<Rule> {
        let pairs = self.own_pairs(id, place.direction());
        match self.options.own_address {
            OwnAddress::Compare => {
                let same = Match::SameAddress(self.family);
                let mut rules = vec![Rule::new(vec![same], Target::Return)];
                rules.extend(pairs.filter(|(a, b)| a != b).map(between));
                rules
            }
            OwnAddress::List => pairs.map(between).collect(),
        }
    }

    /// Returns every pair of addresses of one pod, of those that are bound to a pipeline.
    fn own_pairs(
        &self,
        id: PipelineId,
        direction: Direction,
    ) -> impl Iterator<Item = (IpAddr, IpAddr)> + use<'_> {
        let (ruleset, family) = (self.ruleset, self.family);
        let bound = move |endpoint: &&Endpoint| endpoint.pipeline(direction) == id;
        let own = move |endpoint: &'_ Endpoint| -> Vec<IpAddr> {
            let addresses = endpoint.addresses.iter().copied();
            addresses.filter(|address| Family::of(*address) == family).collect()
        };
        ruleset.endpoints().filter(bound).flat_map(move |endpoint| {
            let own = own(endpoint);
            let pairs = |source: &IpAddr| own.iter().map(|to| (*source, *to)).collect::<Vec<_>>();
            own.iter().flat_map(pairs).collect::<Vec<_>>()
        })
    }
}

/// A rule that decides nothing, for which the kernel tracks connections: it does that only while a rule asks for it, and must
/// know who opened a connection when the first policy comes.
fn tracked() -> Rule {
    Rule::new(vec![Match::State(State::Related)], Target::Return)
}

const fn place(side: Side, way: Way) -> Place {
    Place { side, way }
}

/// Lets pass what goes from one address to the other.
fn between((source, destination): (IpAddr, IpAddr)) -> Rule {
    let ends = vec![
        Match::Within(End::Source, IpNet::from(source)),
        Match::Within(End::Destination, IpNet::from(destination)),
    ];
    Rule::new(ends, Target::Return)
}
