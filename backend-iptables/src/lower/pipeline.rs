//! A pipeline to chains.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use netpol_core::backend::LowerError;
use netpol_core::ir::{Action, Direction, Endpoint, OwnNodeEgress, Pipeline, Ports};
use netpol_core::model::Protocol;
use netpol_core::net::{Intervals, PortSet};

use super::builder::{Builder, Members, Networks};
use super::frame::SELF;
use super::step::{self, Step, Who};
use crate::restore::{End, Match, Rule, Target};

/// Ports that one `multiport` match holds, a range counting two.
const MULTIPORT: usize = 15;
/// From this many steps on, exact addresses with single ports share one set.
const MANY: usize = 3;
/// The most members that such a set is given.
const PRODUCT: usize = 65536;

/// Where a pipeline is entered. One egress pipeline is two programs: towards pods and the world, and towards the node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Place {
    /// Forwarded packets, by source; then the destination's side.
    Egress,
    /// Forwarded packets, by destination.
    Ingress,
    /// Packets to the node itself, by source (DEC-01).
    Node,
}

impl Place {
    const fn direction(self) -> Direction {
        match self {
            Self::Egress | Self::Node => Direction::Egress,
            Self::Ingress => Direction::Ingress,
        }
    }

    /// Returns the name of the dispatch chain.
    pub(super) const fn chain(self) -> &'static str {
        match self {
            Self::Egress => "NETPOL-EGRESS",
            Self::Ingress => "NETPOL-INGRESS",
            Self::Node => "NETPOL-NODE",
        }
    }

    /// Returns the letter in the names of pipeline chains.
    const fn letter(self) -> char {
        match self {
            Self::Egress => 'E',
            Self::Ingress => 'I',
            Self::Node => 'N',
        }
    }

    /// Returns which end of a packet is the pod that is judged.
    pub(super) const fn subject(self) -> End {
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

/// A step's ports or peers as conditions of which one must hold; each is a list of matches that must all hold.
type Alternatives = Vec<Vec<Match>>;

impl Builder<'_> {
    /// Returns what happens to an endpoint's packets at a place; `None` where nothing is judged there.
    pub(super) fn entry(
        &mut self,
        endpoint: &Endpoint,
        place: Place,
    ) -> Result<Option<Target>, LowerError> {
        let id = endpoint.pipeline(place.direction());
        if let Some(known) = self.entries.get(&(id, place)) {
            return Ok(known.clone());
        }
        let ruleset = self.ruleset;
        let target = match ruleset.pipeline(id) {
            Some(pipeline) => self.pipeline(pipeline, place)?,
            // INVARIANT (closed references) forbids this; should it break, fail closed.
            None => Some(Target::Drop),
        };
        self.entries.insert((id, place), target.clone());
        Ok(target)
    }

    /// Returns where a pipeline's packets go; `None` where it allows everything.
    fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        place: Place,
    ) -> Result<Option<Target>, LowerError> {
        let admin = step::ordered(&pipeline.admin);
        let node_passes =
            place == Place::Node && self.ruleset.settings().own_node_egress == OwnNodeEgress::Allow;
        let after_admin = match &pipeline.network_policy {
            Some(_) if node_passes => vec![Rule::always(Target::Return)],
            Some(blocks) => {
                let mut rules = self.union(step::union(blocks), place)?;
                // NP-005: isolated, and no rule matched. DEC-03: except a pod's way to itself.
                rules.push(Rule::always(match place {
                    Place::Egress | Place::Ingress => Target::Goto(SELF.into()),
                    Place::Node => Target::Drop,
                }));
                rules
            }
            None => {
                let steps = step::ordered(&pipeline.baseline);
                // CNP-021: leaving the Baseline tier leaves nothing to judge.
                let mut rules = self.tier(&steps, place, &Target::Return)?;
                rules.push(Rule::always(Target::Return));
                rules
            }
        };
        let open = after_admin == [Rule::always(Target::Return)];
        let rules = if !open && admin.iter().any(|step| step.action == Action::Pass) {
            // CNP-020: Pass leaves the Admin tier, so what follows it is a chain that can be gone to.
            let after = Target::Goto(self.chain(place.letter(), after_admin)?);
            let mut rules = self.tier(&admin, place, &after)?;
            rules.push(Rule::always(after));
            rules
        } else {
            let mut rules = self.tier(&admin, place, &Target::Return)?;
            rules.extend(after_admin);
            rules
        };
        let mut rules = rules;
        if let Some(last) = rules.iter().position(|rule| rule.matches().is_empty()) {
            rules.truncate(last.saturating_add(1));
        }
        Ok(match rules.as_slice() {
            // CNP-021, or nothing in this family: every packet passes.
            [first, ..] if *first == Rule::always(Target::Return) => None,
            [first, ..] if first.matches().is_empty() => Some(first.target().clone()),
            _ => Some(Target::Goto(self.chain(place.letter(), rules)?)),
        })
    }

    /// Lowers the steps of an ordered tier; what none of them decides falls through.
    fn tier(
        &mut self,
        steps: &[Step],
        place: Place,
        pass: &Target,
    ) -> Result<Vec<Rule>, LowerError> {
        let mut rules = Vec::new();
        for step in steps {
            let peers = match &step.who {
                Who::Anybody => vec![Vec::new()],
                Who::Members(ids) => alternatives(self.members(ids, place.peer())?),
            };
            let target = match step.action {
                Action::Accept => Target::Return,
                Action::Deny => Target::Drop,
                Action::Pass => pass.clone(),
            };
            rules.extend(product(&step.ports, &peers, &target).map(|rule| {
                let comment = step.comment.clone();
                rule.with_comment(comment)
            }));
        }
        Ok(rules)
    }

    /// Lowers the NetworkPolicy tier: steps in any order, all of which allow.
    ///
    /// Where there are many of them, exact addresses with single ports become one set that is looked up once.
    fn union(&mut self, steps: Vec<Step>, place: Place) -> Result<Vec<Rule>, LowerError> {
        let mut room = PRODUCT;
        let mut fits = |step: &Step| match (singles(&step.ports), &step.who) {
            (Some(ports), Who::Members(ids)) => {
                let addresses = self.addresses_of(ids).iter().map(Vec::len).sum::<usize>();
                let left = room.checked_sub(addresses.saturating_mul(ports.len()));
                room = left.unwrap_or(room);
                left.is_some()
            }
            (Some(_) | None, Who::Anybody | Who::Members(_)) => false,
        };
        let (together, alone): (Vec<Step>, Vec<Step>) = steps.iter().cloned().partition(&mut fits);
        if together.len() < MANY {
            return self.tier(&steps, place, &Target::Return);
        }
        let mut members: BTreeSet<(IpAddr, Protocol, u16)> = BTreeSet::new();
        let mut rest = Vec::new();
        for step in together {
            let (Some(ports), Who::Members(ids)) = (singles(&step.ports), &step.who) else {
                continue; // INVARIANT: `fits` let nothing else through.
            };
            for address in self.addresses_of(ids).into_iter().flatten() {
                if address.is_unspecified() {
                    // A hash:ip,port refuses 0.0.0.0.
                    let peers = self.any_of([address], place.peer())?.map(|peer| vec![peer]);
                    let peers: Alternatives = peers.into_iter().collect();
                    rest.extend(product(&step.ports, &peers, &Target::Return));
                } else {
                    members
                        .extend(ports.iter().map(|(protocol, port)| (address, *protocol, *port)));
                }
            }
            let networks = self.networks_of(ids);
            let networks = self.networks(&networks, place.peer())?;
            let peers = alternatives(Members { networks, ..Members::default() });
            rest.extend(product(&step.ports, &peers, &Target::Return));
        }
        let mut rules = Vec::new();
        if !members.is_empty() {
            let condition = self.address_ports(members, place.peer())?;
            rules.push(Rule::new(vec![condition], Target::Return));
        }
        rules.extend(self.tier(&alone, place, &Target::Return)?);
        rules.extend(rest);
        Ok(rules)
    }
}

/// Returns the ways to be a member; one that asks for nothing where everybody is.
fn alternatives(members: Members) -> Alternatives {
    let mut alternatives: Alternatives =
        members.exact.into_iter().map(|condition| vec![condition]).collect();
    match members.networks {
        Networks::Nothing => {}
        // The chain is one family's, and all of it is meant.
        Networks::Everything => return vec![Vec::new()],
        Networks::Some(condition) => alternatives.push(vec![condition]),
    }
    alternatives
}

/// Returns a rule for each way to match.
fn product<'a>(
    ports: &Ports,
    peers: &'a Alternatives,
    target: &'a Target,
) -> impl Iterator<Item = Rule> + use<'a> {
    let ports: Alternatives = match ports {
        Ports::Any => vec![Vec::new()],
        Ports::Set(ports) => port_matches(ports).into_iter().map(|port| vec![port]).collect(),
    };
    ports.into_iter().flat_map(move |ports| {
        peers.iter().map(move |peers| {
            Rule::new(ports.iter().chain(peers).cloned().collect(), target.clone())
        })
    })
}

/// Returns the ports one by one, if they are single and few.
fn singles(ports: &Ports) -> Option<Vec<(Protocol, u16)>> {
    match ports {
        Ports::Any => None,
        Ports::Set(ports) => ports
            .ranges()
            .map(|(protocol, low, high)| (low == high).then_some((protocol, low)))
            .collect(),
    }
}

fn port_matches(ports: &PortSet) -> Vec<Match> {
    Protocol::ALL
        .into_iter()
        .flat_map(|protocol| of_protocol(protocol, ports.of(protocol)))
        .collect()
}

fn of_protocol(protocol: Protocol, ranges: &Intervals<u16>) -> Vec<Match> {
    if ranges.is_all() {
        return vec![Match::Protocol(protocol)];
    }
    let mut chunks: Vec<Vec<(u16, u16)>> = Vec::new();
    let mut room = 0_usize;
    for (low, high) in ranges.iter() {
        let takes = if low == high { 1 } else { 2 };
        match (room.checked_sub(takes), chunks.last_mut()) {
            (Some(left), Some(chunk)) => {
                chunk.push((low, high));
                room = left;
            }
            (Some(_) | None, Some(_) | None) => {
                chunks.push(vec![(low, high)]);
                room = MULTIPORT.saturating_sub(takes);
            }
        }
    }
    chunks
        .into_iter()
        .map(|chunk| match chunk.as_slice() {
            [(low, high)] => Match::Port(protocol, *low, *high),
            _ => Match::Ports(protocol, chunk),
        })
        .collect()
}
