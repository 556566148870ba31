//! A pipeline to chains.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use netpol_core::backend::Cause;
use netpol_core::ir::{
    self, Action, Direction, Endpoint, Family, OwnNodeEgress, PeerSetId, Pipeline, Ports,
};
use netpol_core::model::Protocol;
use netpol_core::net::PortSet;

use super::builder::{Builder, Networks};
use super::step::{self, Step, Who};
use super::{PASSED, TO_PODS, TO_PODS_OF_REPLIES, own_addresses};
use crate::script::{Counted, Key, Match, Name, Rule, Statement, Verdict, View};

/// Where a pipeline is entered. One egress pipeline is two programs: towards pods and the world, and towards the node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Place {
    /// Forwarded packets, by source; then the destination's side.
    Egress,
    /// Forwarded packets, by destination.
    Ingress,
    /// Packets to the node itself, by source (DEC-01).
    Node,
    /// As egress, for packets that go against the direction of an open connection that is judged again.
    EgressOfReply,
    /// As ingress, for the same.
    IngressOfReply,
}

impl Place {
    pub(super) const ALL: [Self; 5] =
        [Self::Egress, Self::Ingress, Self::Node, Self::EgressOfReply, Self::IngressOfReply];

    /// Returns whether packets of replies are judged here.
    pub(super) const fn is_of_replies(self) -> bool {
        matches!(self, Self::EgressOfReply | Self::IngressOfReply)
    }

    pub(super) const fn direction(self) -> Direction {
        match self {
            Self::Egress | Self::Node | Self::EgressOfReply => Direction::Egress,
            Self::Ingress | Self::IngressOfReply => Direction::Ingress,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Node => "node",
            Self::EgressOfReply => "egress-reply",
            Self::IngressOfReply => "ingress-reply",
        }
    }
}

/// A step's ports as conditions of which one must hold; each is a list of matches that must all hold.
type Alternatives = Vec<Vec<Match>>;

impl Builder<'_> {
    /// Returns what an accept of a side means.
    pub(super) fn allowed(&self, place: Place) -> Verdict {
        match place {
            Place::Egress => Verdict::Goto(TO_PODS.into()),
            Place::EgressOfReply => Verdict::Goto(TO_PODS_OF_REPLIES.into()),
            Place::Ingress if self.state.stamp.is_some() => Verdict::Goto(PASSED.into()),
            Place::IngressOfReply => Verdict::Goto(PASSED.into()),
            Place::Ingress | Place::Node => Verdict::Accept,
        }
    }

    /// Returns a rule that allows everything, counted under a cause.
    fn allowed_by(&self, place: Place, cause: Cause) -> Rule {
        let direction = place.direction();
        let counted = Counted { direction, verdict: ir::Verdict::Allow, cause };
        Rule::always(self.allowed(place)).counting(counted.into())
    }

    /// Returns what happens to an endpoint's packets at a place; `None` where nothing is judged there.
    pub(super) fn entry(
        &mut self,
        endpoint: &Endpoint,
        family: Family,
        place: Place,
    ) -> Option<Verdict> {
        let id = endpoint.pipeline(place.direction());
        if let Some(known) = self.state.entries.get(&(id, family, place)) {
            let chain = known.as_ref().and_then(Verdict::chain);
            // Nobody's chain may have gone meanwhile.
            if chain.is_none_or(|chain| self.state.table.chains.contains_key(chain)) {
                return known.clone();
            }
        }
        let ruleset = self.ruleset;
        let verdict = match ruleset.pipeline(id) {
            Some(pipeline) => self.pipeline(pipeline, family, place).map(Verdict::Jump),
            // INVARIANT (closed references) forbids this; should it break, fail closed.
            None => Some(Verdict::Drop),
        };
        self.state.entries.insert((id, family, place), verdict.clone());
        verdict
    }

    /// Returns the chain of a pipeline; `None` where it allows everything.
    fn pipeline(&mut self, pipeline: &Pipeline, family: Family, place: Place) -> Option<Name> {
        let admin = step::ordered(&pipeline.admin);
        let node_passes =
            place == Place::Node && self.ruleset.settings().own_node_egress == OwnNodeEgress::Allow;
        let after_admin = match &pipeline.network_policy {
            Some(_) if node_passes => vec![Rule::always(self.allowed(place))],
            Some(blocks) => {
                let mut rules =
                    self.tier(&step::union(blocks), family, place, &self.allowed(place));
                if place != Place::Node {
                    // DEC-03: a pod's NetworkPolicies always let it reach itself through a Service.
                    let others = self.own_pairs(family);
                    for set in [Some(own_addresses(family).into()), others].into_iter().flatten() {
                        let itself = Match::In(Key::Addresses(place.view(), family), set);
                        let allowed = Statement::Verdict(self.allowed(place));
                        rules.push(Rule::new(vec![itself], allowed));
                    }
                }
                // NP-005: isolated, and no rule matched.
                let mut policies: Vec<_> =
                    blocks.iter().map(|block| block.policy().clone()).collect();
                policies.sort();
                policies.dedup();
                rules.push(self.denied(place.direction(), Cause::Isolation(policies)));
                rules
            }
            None => {
                let steps = step::ordered(&pipeline.baseline);
                // CNP-021: leaving the Baseline tier leaves nothing to judge.
                let mut rules = self.tier(&steps, family, place, &self.allowed(place));
                rules.push(self.allowed_by(place, Cause::Default));
                rules
            }
        };
        let open = match after_admin.as_slice() {
            [only] => {
                only.matches.is_empty() && only.statement == Statement::Verdict(self.allowed(place))
            }
            _ => false,
        };
        if admin.is_empty() && open {
            return None;
        }
        let rules = if admin.iter().any(|step| step.action == Action::Pass) {
            // CNP-020: Pass leaves the Admin tier, so what follows it is a chain that can be gone to.
            let after = Verdict::Goto(self.chain(place.as_str(), family, after_admin));
            let mut rules = self.tier(&admin, family, place, &after);
            rules.push(Rule::always(after));
            rules
        } else {
            let mut rules = self.tier(&admin, family, place, &Verdict::Drop);
            rules.extend(after_admin);
            rules
        };
        Some(self.chain(place.as_str(), family, rules))
    }

    /// Lowers the steps of a tier; what none of them decides falls through.
    fn tier(&mut self, steps: &[Step], family: Family, place: Place, pass: &Verdict) -> Vec<Rule> {
        let Some(pieces) = step::pieces(steps) else {
            return steps.iter().flat_map(|step| self.step(step, family, place, pass)).collect();
        };
        let mut rules = Vec::new();
        for (protocol, pieces) in pieces.by_protocol {
            let mut entries = Vec::with_capacity(pieces.len());
            for piece in pieces {
                let steps = piece.steps.iter();
                let rules = steps.flat_map(|step| self.step(step, family, place, pass)).collect();
                let chain = self.chain("port", family, rules);
                entries.push(((piece.low, piece.high), Verdict::Jump(chain)));
            }
            let map = self.port_map(entries);
            rules.push(Rule::new(
                Vec::new(),
                Statement::Map(Key::Port(place.view(), protocol), map),
            ));
        }
        rules.extend(pieces.rest.iter().flat_map(|step| self.step(step, family, place, pass)));
        rules
    }

    /// Lowers a step: a rule for each way to match.
    fn step(&mut self, step: &Step, family: Family, place: Place, pass: &Verdict) -> Vec<Rule> {
        let peers = match &step.who {
            Who::Anybody => vec![Vec::new()],
            Who::Members(ids) => self.members(ids, family, place),
        };
        if peers.is_empty() {
            return Vec::new();
        }
        let ports = match &step.ports {
            Ports::Any => vec![Vec::new()],
            Ports::Set(ports) => self.port_matches(ports, place.view()),
        };
        let cause = || Cause::Rules(step.origins.iter().cloned().collect());
        let then = match step.action {
            Action::Accept => self.allowed_by(place, cause()),
            Action::Deny => self.denied(place.direction(), cause()),
            Action::Pass => Rule::always(pass.clone()),
        };
        let mut rules = Vec::with_capacity(ports.len() * peers.len());
        for ports in &ports {
            for peers in &peers {
                rules.push(Rule {
                    // Ports first: comparing is cheaper than looking up.
                    matches: ports.iter().chain(peers).cloned().collect(),
                    comment: step.comment.clone(),
                    ..then.clone()
                });
            }
        }
        rules
    }

    fn members(&mut self, ids: &BTreeSet<PeerSetId>, family: Family, place: Place) -> Alternatives {
        let lookups = self.lookups(ids, family);
        let view = place.view();
        let key = Key::Address(view, family, place.peer());
        let mut alternatives: Alternatives =
            lookups.sets.into_iter().map(|set| vec![Match::In(key, set)]).collect();
        match lookups.networks {
            Networks::Nothing => {}
            // The chain is entered by packets of its family only, and they are all meant.
            Networks::Everything => return vec![Vec::new()],
            Networks::Range(range) => {
                alternatives.push(vec![Match::Within(view, place.peer(), range)]);
            }
            Networks::Set(set) => alternatives.push(vec![Match::In(key, set)]),
        }
        alternatives
    }

    fn port_matches(&mut self, ports: &PortSet, view: View) -> Alternatives {
        let singles: Option<Vec<(u8, u16)>> = ports
            .ranges()
            .map(|(protocol, low, high)| (low == high).then_some((protocol.number(), low)))
            .collect();
        if let Some(mut singles) = singles
            && singles.len() > 1
            // nftables' language has no such pair of a connection's.
            && view == View::Packet
        {
            singles.sort_unstable();
            return vec![vec![Match::In(Key::ProtocolPort, self.protocol_ports(singles))]];
        }
        let mut alternatives = Vec::new();
        for protocol in Protocol::ALL {
            let ranges = ports.of(protocol);
            let mut list = ranges.iter();
            alternatives.extend(match (list.next(), list.next()) {
                (None, _) => None,
                (Some(_), None) if ranges.is_all() => Some(vec![Match::Protocol(protocol)]),
                (Some((low, high)), None) => Some(vec![Match::Port(view, protocol, low, high)]),
                (Some(_), Some(_)) => {
                    Some(vec![Match::In(Key::Port(view, protocol), self.ports(ranges))])
                }
            });
        }
        alternatives
    }
}
