//! The chains that are always there.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use core::mem;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::backend::LowerError;
use netpol_core::ir::{Direction, Endpoint, Family, OtherProtocols};
use netpol_core::model::Protocol;

use super::builder::{Builder, Networks};
use super::dispatch::Entry;
use super::pipeline::Place;
use crate::OwnAddress;
use crate::restore::{End, Filter, Hook, Match, Rule, Target};

/// The chain of pods that reach themselves through a Service.
pub(super) const SELF: &str = "NETPOL-SELF";
/// Router and neighbour solicitations and advertisements, and redirects.
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;

impl Builder<'_> {
    /// Lowers everything of one family.
    pub(super) fn filter(&mut self, family: Family) -> Result<Filter, LowerError> {
        self.family = family;
        self.entries.clear();
        let forward = [self.place(Place::Egress)?, self.place(Place::Ingress)?];
        let input = [self.place(Place::Node)?];
        self.hook(Hook::Forward, forward.into_iter().flatten().collect())?;
        self.hook(Hook::Input, input.into_iter().flatten().collect())?;
        let to_self = Target::Goto(SELF.into());
        if self.filter.chains.values().flatten().any(|rule| *rule.target() == to_self) {
            self.own_addresses()?;
        }
        Ok(mem::take(&mut self.filter))
    }

    /// Adds what a hook jumps to: what always passes, then the jumps into the places.
    fn hook(&mut self, hook: Hook, places: Vec<Rule>) -> Result<(), LowerError> {
        let mut rules = vec![Rule::new(vec![Match::EstablishedOrRelated], Target::Return)];
        if self.family == Family::V6 {
            rules.extend(
                NEIGHBOUR_DISCOVERY
                    .map(|number| Rule::new(vec![Match::Icmpv6(number)], Target::Return)), // NP-115
            );
        }
        rules.extend(self.unknown_pods(hook)?);
        match self.ruleset.settings().other_protocols {
            OtherProtocols::Judge => rules.extend(places),
            // DEC-02: the embedder chose that protocols without ports pass unjudged.
            OtherProtocols::Pass => {
                let name = alloc::format!("{}-PORTS", hook.chain());
                rules.extend(Protocol::ALL.map(|protocol| {
                    Rule::new(vec![Match::Protocol(protocol)], Target::Goto(name.as_str().into()))
                }));
                self.filter.chains.insert(name.into(), places);
            }
        }
        self.filter.chains.insert(hook.chain().into(), rules);
        Ok(())
    }

    /// Returns the rules of strict mode: what comes from an address of pods that is nobody's is dropped, and, unless a node
    /// sends it, what goes there.
    fn unknown_pods(&mut self, hook: Hook) -> Result<Vec<Rule>, LowerError> {
        let ruleset = self.ruleset;
        let nodes: BTreeSet<IpAddr> = ruleset.nodes().values().flatten().copied().collect();
        let pods = ruleset.endpoints().flat_map(|endpoint| endpoint.addresses.iter().copied());
        let known: BTreeSet<IpAddr> = pods.chain(nodes.iter().copied()).collect();
        let mut rules = Vec::new();
        for end in [End::Source, End::Destination] {
            let mut matches = match self.networks(ruleset.pod_ranges(), end)? {
                Networks::Nothing => continue,
                Networks::Everything => Vec::new(),
                Networks::Some(ranges) => vec![ranges],
            };
            matches.extend(self.none_of(&known, end)?);
            if end == End::Destination {
                matches.extend(self.none_of(&nodes, End::Source)?);
            }
            if end == End::Source || hook == Hook::Forward {
                rules.push(Rule::new(matches, Target::Drop));
            }
        }
        Ok(rules)
    }

    /// Adds the dispatch of a place; returns the jump there, unless nobody is judged there.
    fn place(&mut self, place: Place) -> Result<Option<Rule>, LowerError> {
        let mut by_pipeline: BTreeMap<Target, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        let ruleset = self.ruleset;
        for endpoint in ruleset.endpoints() {
            for address in &endpoint.addresses {
                if Family::of(*address) == self.family
                    && taken.insert(*address)
                    && let Some(pipeline) = self.entry(endpoint, place)?
                {
                    by_pipeline.entry(pipeline).or_default().insert(*address);
                }
            }
        }
        let entries: Vec<Entry> = by_pipeline
            .into_iter()
            .map(|(pipeline, addresses)| Entry {
                pipeline,
                addresses: addresses.into_iter().collect(),
            })
            .collect();
        let Some(condition) = self.any_of_entries(&entries, place.subject())? else {
            return Ok(None);
        };
        let rules = self.dispatch(&entries, place.subject())?;
        self.filter.chains.insert(place.chain().into(), rules);
        Ok(Some(Rule::new(vec![condition], Target::Jump(place.chain().into()))))
    }

    /// Adds the chain at the end of every isolated pipeline: it lets a pod reach itself through a Service (NP-121,
    /// DEC-03), and drops the rest. Only pods that are dispatched come here, so that equal addresses are a pod's own.
    fn own_addresses(&mut self) -> Result<(), LowerError> {
        let mut rules = match self.own_address {
            OwnAddress::Compare => {
                let same = Match::SameAddress(self.family);
                let mut rules = vec![Rule::new(vec![same], Target::Return)];
                rules.extend(self.own_pairs().filter(|(a, b)| a != b).map(between));
                rules
            }
            OwnAddress::List => {
                let mut rules = Vec::new();
                let isolated: Vec<IpAddr> = self.own_pairs().map(|(address, _)| address).collect();
                for end in [End::Source, End::Destination] {
                    // Spares most of what is about to be dropped the walk through the pods.
                    if let Some(condition) = self.any_of(isolated.iter().copied(), end)?
                        && let Match::In(set, key) = condition
                    {
                        rules.push(Rule::new(vec![Match::NotIn(set, key)], Target::Drop));
                    }
                }
                rules.extend(self.own_pairs().map(between));
                rules
            }
        };
        rules.push(Rule::always(Target::Drop));
        self.filter.chains.insert(SELF.into(), rules);
        Ok(())
    }

    /// Returns every pair of addresses of one pod that some NetworkPolicy isolates.
    fn own_pairs(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + use<'_> {
        let (ruleset, family) = (self.ruleset, self.family);
        let isolated = move |endpoint: &&Endpoint| {
            [Direction::Ingress, Direction::Egress].into_iter().any(|direction| {
                let pipeline = ruleset.pipeline(endpoint.pipeline(direction));
                pipeline.is_some_and(|pipeline| pipeline.network_policy.is_some())
            })
        };
        let own = move |endpoint: &'_ Endpoint| -> Vec<IpAddr> {
            let addresses = endpoint.addresses.iter().copied();
            addresses.filter(|address| Family::of(*address) == family).collect()
        };
        ruleset.endpoints().filter(isolated).flat_map(move |endpoint| {
            let own = own(endpoint);
            let pairs = |source: &IpAddr| own.iter().map(|to| (*source, *to)).collect::<Vec<_>>();
            own.iter().flat_map(pairs).collect::<Vec<_>>()
        })
    }
}

/// Lets pass what goes from one address to the other.
fn between((source, destination): (IpAddr, IpAddr)) -> Rule {
    let ends = vec![
        Match::Within(End::Source, IpNet::from(source)),
        Match::Within(End::Destination, IpNet::from(destination)),
    ];
    Rule::new(ends, Target::Return)
}
