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

use super::builder::Builder;
use super::dispatch::Entry;
use super::pipeline::Place;
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
        self.hook(Hook::Forward, forward.into_iter().flatten().collect());
        self.hook(Hook::Input, input.into_iter().flatten().collect());
        let to_self = Target::Goto(SELF.into());
        if self.filter.chains.values().flatten().any(|rule| *rule.target() == to_self) {
            self.own_addresses()?;
        }
        Ok(mem::take(&mut self.filter))
    }

    /// Adds what a hook jumps to: what always passes, then the jumps into the places.
    fn hook(&mut self, hook: Hook, places: Vec<Rule>) {
        let mut rules = vec![Rule::new(vec![Match::EstablishedOrRelated], Target::Return)];
        if self.family == Family::V6 {
            rules.extend(
                NEIGHBOUR_DISCOVERY
                    .map(|number| Rule::new(vec![Match::Icmpv6(number)], Target::Return)), // NP-115
            );
        }
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

    /// Adds the chain at the end of every isolated pipeline: it lets a pod reach itself through a Service, which
    /// iptables cannot say as "source equals destination" (NP-121, DEC-03), and drops the rest.
    fn own_addresses(&mut self) -> Result<(), LowerError> {
        let (ruleset, family) = (self.ruleset, self.family);
        let isolated = |endpoint: &&Endpoint| {
            [Direction::Ingress, Direction::Egress].into_iter().any(|direction| {
                let pipeline = ruleset.pipeline(endpoint.pipeline(direction));
                pipeline.is_some_and(|pipeline| pipeline.network_policy.is_some())
            })
        };
        let own = |endpoint: &Endpoint| -> Vec<IpAddr> {
            let addresses = endpoint.addresses.iter().copied();
            addresses.filter(|address| Family::of(*address) == family).collect()
        };
        let pods: Vec<Vec<IpAddr>> = ruleset.endpoints().filter(isolated).map(own).collect();
        let mut rules = Vec::new();
        for end in [End::Source, End::Destination] {
            // Spares most of what is about to be dropped the walk through the pods.
            if let Some(condition) = self.any_of(pods.iter().flatten().copied(), end)?
                && let Match::In(set, key) = condition
            {
                rules.push(Rule::new(vec![Match::NotIn(set, key)], Target::Drop));
            }
        }
        for pod in &pods {
            for source in pod {
                for destination in pod {
                    let ends = vec![
                        Match::Within(End::Source, IpNet::from(*source)),
                        Match::Within(End::Destination, IpNet::from(*destination)),
                    ];
                    rules.push(Rule::new(ends, Target::Return));
                }
            }
        }
        rules.push(Rule::always(Target::Drop));
        self.filter.chains.insert(SELF.into(), rules);
        Ok(())
    }
}
