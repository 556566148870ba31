//! A pipeline to chains.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::ToString as _;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::mem;

use netpol_core::backend::{Cause, LowerError};
use netpol_core::ir::{Action, Direction, OwnNodeEgress, Pipeline, PipelineId, Ports, RuleBlock};
use netpol_core::model::Protocol;
use netpol_core::net::{Intervals, PortSet};

use super::builder::{Builder, Lowered, Members, Networks};
use super::role::{Part, Role};
use super::step::{self, Step, Who};
use crate::restore::{Account, End, Key, Match, Rule, Target};

/// Ports that one `multiport` match holds, a range counting two.
const MULTIPORT: usize = 15;
/// From this many steps on, exact addresses with single ports share one set.
const MANY: usize = 3;
/// A step of more single ports than this is asked for by rules.
const SINGLES: usize = 64;

/// Whose traffic is judged, and by which packets.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Place {
    pub(super) side: Side,
    pub(super) way: Way,
}

/// Where a pipeline is entered. One egress pipeline is two programs: towards pods and the world, and towards the node.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Side {
    /// Forwarded packets, by source; then the destination's side.
    Egress,
    /// Forwarded packets, by destination.
    Ingress,
    /// Packets to the node itself, by source (DEC-01).
    Node,
}

/// Which packets of a connection are looked at. Judged is always the way it was opened.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Way {
    /// Those that go the way it was opened.
    Opening,
    /// Those that come back: their source is the destination that is judged.
    Answer,
}

impl Way {
    /// Returns where a packet has what a connection has at this end.
    pub(super) const fn end(self, end: End) -> End {
        match self {
            Self::Opening => end,
            Self::Answer => end.other(),
        }
    }
}

impl Place {
    pub(super) const fn direction(self) -> Direction {
        match self.side {
            Side::Egress | Side::Node => Direction::Egress,
            Side::Ingress => Direction::Ingress,
        }
    }

    /// Returns the name of the dispatch chain.
    pub(super) const fn chain(self) -> &'static str {
        match (self.side, self.way) {
            (Side::Egress, Way::Opening) => "NETPOL-EGRESS",
            (Side::Ingress, Way::Opening) => "NETPOL-INGRESS",
            // What the node sends is not judged (NP-125), answers neither.
            (Side::Node, Way::Opening | Way::Answer) => "NETPOL-NODE",
            (Side::Egress, Way::Answer) => "NETPOL-EGRESS-ANSWERS",
            (Side::Ingress, Way::Answer) => "NETPOL-INGRESS-ANSWERS",
        }
    }

    /// Returns the letters in the names of pipeline chains.
    pub(super) const fn letters(self) -> &'static str {
        match (self.side, self.way) {
            (Side::Egress, Way::Opening) => "E",
            (Side::Ingress, Way::Opening) => "I",
            (Side::Node, Way::Opening | Way::Answer) => "N",
            (Side::Egress, Way::Answer) => "EA",
            (Side::Ingress, Way::Answer) => "IA",
        }
    }

    /// Returns which end of a packet is the pod that is judged.
    pub(super) const fn subject(self) -> End {
        match self.side {
            Side::Egress | Side::Node => self.way.end(End::Source),
            Side::Ingress => self.way.end(End::Destination),
        }
    }

    /// Returns which end of a packet is the peer.
    const fn peer(self) -> End {
        self.subject().other()
    }

    /// Returns which end of a packet has the port that is judged.
    const fn port(self) -> End {
        self.way.end(End::Destination)
    }
}

/// Each way to match, as conditions that must all hold.
type Alternatives = Vec<Vec<Match>>;

/// A pipeline while it is lowered.
#[derive(Clone, Copy)]
struct Subject<'a> {
    id: PipelineId,
    pipeline: &'a Pipeline,
    place: Place,
}

impl Subject<'_> {
    fn account(&self, cause: Cause) -> Arc<Account> {
        Arc::new(Account { direction: self.place.direction(), cause })
    }
}

impl Builder<'_> {
    /// Returns what becomes of a pipeline's packets at a place; `None` where nothing is judged there.
    pub(super) fn entry(
        &mut self,
        id: PipelineId,
        pipeline: &Pipeline,
        place: Place,
    ) -> Result<Option<Target>, LowerError> {
        let key = (self.family, id, place);
        if !self.lowered.contains_key(&key) && !self.take_over(&key) {
            self.made = Lowered::default();
            let target = self.pipeline(Subject { id, pipeline, place })?;
            let mut lowered = mem::take(&mut self.made);
            lowered.target = target;
            self.lowered.insert(key, lowered);
        }
        Ok(self.lowered.get(&key).and_then(|lowered| lowered.target.clone()))
    }

    /// Returns where a pipeline's packets go; `None` where it allows everything.
    fn pipeline(&mut self, subject: Subject<'_>) -> Result<Option<Target>, LowerError> {
        let Subject { id, pipeline, place } = subject;
        let admin = step::ordered(&pipeline.admin);
        let node_passes = place.side == Side::Node
            && self.ruleset.settings().own_node_egress == OwnNodeEgress::Allow;
        let after_admin = match &pipeline.network_policy {
            Some(_) if node_passes => vec![Rule::always(Target::Return)],
            Some(blocks) => {
                let mut rules = self.union(step::union(blocks), subject)?;
                rules.extend(self.isolated(blocks, subject)?);
                rules
            }
            None => {
                let steps = step::ordered(&pipeline.baseline);
                // CNP-021: leaving the Baseline tier leaves nothing to judge.
                let mut rules = self.tier(&steps, subject, ("b", &Target::Return))?;
                let account = subject.account(Cause::Default);
                rules.push(Rule::always(Target::Return).because(Some(account)));
                rules
            }
        };
        let open = after_admin.first().is_some_and(is_open);
        let mut rules = if !open && admin.iter().any(|step| step.action == Action::Pass) {
            // CNP-020: Pass leaves the Admin tier, so what follows it is a chain that can be gone to.
            let after = self.chain(place.letters(), &id.to_string(), after_admin)?;
            let after = Target::Goto(after);
            let mut rules = self.tier(&admin, subject, ("a", &after))?;
            rules.push(Rule::always(after));
            rules
        } else {
            let mut rules = self.tier(&admin, subject, ("a", &Target::Return))?;
            rules.extend(after_admin);
            rules
        };
        let last = rules.iter().position(|rule| rule.matches().is_empty() && ends(rule.target()));
        if let Some(last) = last {
            rules.truncate(last.saturating_add(1));
        }
        // CNP-021, or nothing in this family: every packet passes.
        if rules.first().is_some_and(is_open) {
            return Ok(None);
        }
        Ok(Some(Target::Goto(self.chain(place.letters(), &id.to_string(), rules)?)))
    }

    /// Returns what becomes of what no rule of an isolated pod allows: it is dropped (NP-005), except a pod's way to itself
    /// through a Service (NP-121, DEC-03). Only pods that are dispatched come here, so equal addresses are a pod's own.
    fn isolated(
        &mut self,
        blocks: &[Arc<RuleBlock>],
        subject: Subject<'_>,
    ) -> Result<Vec<Rule>, LowerError> {
        let Subject { id, place, .. } = subject;
        let mut rules = match place.side {
            Side::Egress | Side::Ingress => self.own_addresses(id, place),
            Side::Node => Vec::new(),
        };
        let policies: BTreeSet<_> = blocks.iter().map(|block| block.policy().clone()).collect();
        let account = subject.account(Cause::Isolation(policies.into_iter().collect()));
        let prefix = format!("NETPOL {} {id} i", place.letters());
        rules.extend(self.report(prefix, &account, place.way == Way::Answer)?);
        rules.push(Rule::always(Target::Drop).because(Some(account)));
        Ok(rules)
    }

    /// Lowers the steps of an ordered tier; what none of them decides falls through. `pass` is where a pass leads; the
    /// letter tells the tiers apart.
    fn tier(
        &mut self,
        steps: &[Step],
        subject: Subject<'_>,
        (letter, pass): (&str, &Target),
    ) -> Result<Vec<Rule>, LowerError> {
        let Subject { id, place, .. } = subject;
        let mut rules = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            let peers = match &step.who {
                Who::Anybody => vec![Vec::new()],
                Who::Members(ids) => alternatives(self.members(ids, place.peer())?),
            };
            let account = subject.account(Cause::Rules(step.origins.iter().cloned().collect()));
            let (target, account) = match step.action {
                Action::Accept => (Target::Return, Some(account)),
                Action::Deny => {
                    let prefix = format!("NETPOL {} {id} {letter}{number}", place.letters());
                    let denied = self.denied(prefix, &account, place.way == Way::Answer)?;
                    (denied, Some(account))
                }
                Action::Pass => (pass.clone(), None),
            };
            rules.extend(
                product(&step.ports, &peers, &target, place)
                    .map(|rule| rule.with_comment(step.comment.clone()).because(account.clone())),
            );
        }
        Ok(rules)
    }

    /// Lowers the NetworkPolicy tier: steps in any order, all of which allow.
    ///
    /// Where there are many of them, exact addresses with single ports become one set that is looked up once.
    fn union(&mut self, steps: Vec<Step>, subject: Subject<'_>) -> Result<Vec<Rule>, LowerError> {
        let place = subject.place;
        let none = Target::Return;
        let fits = |step: &Step| match (singles(&step.ports), &step.who) {
            (Some(_), Who::Members(ids)) => !ids.iter().any(|id| self.memory.is_apart(*id)),
            (Some(_) | None, Who::Anybody | Who::Members(_)) => false,
        };
        let merged = self.options.merged;
        if !merged || steps.iter().filter(|step| fits(step)).count() < MANY {
            return self.tier(&steps, subject, ("n", &none));
        }
        let (together, alone): (Vec<Step>, Vec<Step>) = steps.iter().cloned().partition(fits);
        let mut parts: Vec<Part> = Vec::new();
        let mut origins = BTreeSet::new();
        let mut rest = Vec::new();
        for step in together {
            let (Some(ports), Who::Members(ids)) = (singles(&step.ports), &step.who) else {
                continue; // INVARIANT: `fits` let nothing else through.
            };
            let account = subject.account(Cause::Rules(step.origins.iter().cloned().collect()));
            let exact = self.with_addresses(ids);
            if !exact.is_empty() {
                parts.push((exact, ports));
                origins.extend(step.origins);
            }
            let networks = self.networks_of(ids);
            let networks = self.networks(&networks, place.peer())?;
            let peers = alternatives(Members { networks, ..Members::default() });
            let rules = product(&step.ports, &peers, &Target::Return, place);
            rest.extend(rules.map(|rule| rule.because(Some(account.clone()))));
        }
        let mut rules = Vec::new();
        if !parts.is_empty() {
            let name = self.set(Role::Ports(parts))?;
            let condition = Match::In(name, Key::AddressPort(place.peer(), place.port()));
            let account = subject.account(Cause::Rules(origins.into_iter().collect()));
            rules.push(Rule::new(vec![condition], Target::Return).because(Some(account)));
        }
        rules.extend(self.tier(&alone, subject, ("n", &none))?);
        rules.extend(rest);
        Ok(rules)
    }
}

/// Returns whether a rule lets everything pass.
fn is_open(rule: &Rule) -> bool {
    rule.matches().is_empty() && *rule.target() == Target::Return
}

/// Returns whether nothing behind it in its chain is reached by what it is for.
const fn ends(target: &Target) -> bool {
    match target {
        Target::Drop | Target::Return | Target::Goto(_) => true,
        Target::Jump(_) | Target::Mark(_) | Target::Log(..) => false,
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
    place: Place,
) -> impl Iterator<Item = Rule> + use<'a> {
    let ports: Alternatives = match ports {
        Ports::Any => vec![Vec::new()],
        Ports::Set(ports) => {
            port_matches(ports, place.port()).into_iter().map(|port| vec![port]).collect()
        }
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
        Ports::Set(ports) if ports.ranges().nth(SINGLES).is_some() => None,
        Ports::Set(ports) => ports
            .ranges()
            .map(|(protocol, low, high)| (low == high).then_some((protocol, low)))
            .collect(),
    }
}

fn port_matches(ports: &PortSet, end: End) -> Vec<Match> {
    Protocol::ALL
        .into_iter()
        .flat_map(|protocol| of_protocol(protocol, ports.of(protocol), end))
        .collect()
}

fn of_protocol(protocol: Protocol, ranges: &Intervals<u16>, end: End) -> Vec<Match> {
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
            [(low, high)] => Match::Port(end, protocol, *low, *high),
            _ => Match::Ports(end, protocol, chunk),
        })
        .collect()
}
