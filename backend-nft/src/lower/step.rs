//! A tier as the shortest list of steps that says the same.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use netpol_core::ir::{Action, Origin, PeerSetId, Peers, Ports, RuleBlock};
use netpol_core::model::Protocol;
use netpol_core::net::PortSet;

/// Room for a rule's comment in the kernel, in bytes.
const COMMENT: usize = 128;

/// One or several rules of the same effect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) ports: Ports,
    pub(super) who: Who,
    pub(super) comment: Option<Arc<str>>,
    /// The rules that it stands for.
    pub(super) origins: BTreeSet<Origin>,
}

/// The peers of a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Who {
    Anybody,
    /// The members of any of these sets.
    Members(BTreeSet<PeerSetId>),
}

impl Step {
    /// Returns whether everything matches.
    fn is_total(&self) -> bool {
        self.ports == Ports::Any && self.who == Who::Anybody
    }

    /// Takes in the following step, if one step can say both.
    fn absorb(&mut self, next: &Self) -> bool {
        if self.action != next.action {
            return false;
        }
        if self.ports == next.ports {
            self.who = match (&self.who, &next.who) {
                (Who::Members(ours), Who::Members(theirs)) => {
                    Who::Members(ours.union(theirs).copied().collect())
                }
                (Who::Anybody, Who::Anybody | Who::Members(_))
                | (Who::Members(_), Who::Anybody) => Who::Anybody,
            };
        } else if self.who == next.who {
            self.ports = either(&self.ports, &next.ports);
        } else {
            return false;
        }
        self.origins.extend(next.origins.iter().cloned());
        if self.comment != next.comment {
            self.comment = self.comment.as_deref().map(|comment| {
                let comment = comment.trim_end_matches(", …");
                shortened(format!("{comment}, …"))
            });
        }
        true
    }
}

/// Returns the ports of either.
fn either(left: &Ports, right: &Ports) -> Ports {
    match (left, right) {
        (Ports::Set(left), Ports::Set(right)) => Ports::Set(Arc::new(left.union(right))),
        (Ports::Any, Ports::Any | Ports::Set(_)) | (Ports::Set(_), Ports::Any) => Ports::Any,
    }
}

/// Admin and Baseline: order decides (CNP-015). Neighbours of the same effect become one step.
pub(super) fn ordered(blocks: &[Arc<RuleBlock>]) -> Vec<Step> {
    let rules = blocks.iter().flat_map(|block| {
        block.rules().iter().map(move |rule| Step {
            action: rule.action,
            ports: rule.ports.clone(),
            who: match rule.peers {
                Peers::Any => Who::Anybody,
                Peers::Set(id) => Who::Members([id].into()),
            },
            comment: Some(shortened(format!("{}", block.origin(rule)))),
            origins: [block.origin(rule)].into(),
        })
    });
    joined(rules)
}

/// Joins neighbours, and leaves out what no packet reaches.
pub(super) fn joined(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let mut joined: Vec<Step> = Vec::new();
    for step in steps {
        match joined.last_mut() {
            Some(last) if last.is_total() => break,
            Some(last) => {
                if !last.absorb(&step) {
                    joined.push(step);
                }
            }
            None => joined.push(step),
        }
    }
    joined
}

/// The NetworkPolicy tier: a union, so order is ours to choose (NP-009). Cheapest first, each set of ports once.
pub(super) fn union(blocks: &[Arc<RuleBlock>]) -> Vec<Step> {
    let mut everybody: Option<(Ports, BTreeSet<Origin>)> = None;
    let mut sets: BTreeMap<PeerSetId, (Ports, BTreeSet<Origin>)> = BTreeMap::new();
    for (block, rule) in
        blocks.iter().flat_map(|block| block.rules().iter().map(move |rule| (block, rule)))
    {
        let (ports, origins) = match rule.peers {
            Peers::Any => everybody.get_or_insert_with(|| (rule.ports.clone(), BTreeSet::new())),
            Peers::Set(id) => {
                sets.entry(id).or_insert_with(|| (rule.ports.clone(), BTreeSet::new()))
            }
        };
        *ports = either(ports, &rule.ports);
        origins.insert(block.origin(rule));
    }
    let step =
        |ports, who, origins| Step { action: Action::Accept, ports, who, comment: None, origins };
    let (open, of_everybody) = match everybody {
        None => (PortSet::default(), BTreeSet::new()),
        Some((Ports::Any, origins)) => {
            return alloc::vec![step(Ports::Any, Who::Anybody, origins)];
        }
        Some((Ports::Set(ports), origins)) => (ports.as_ref().clone(), origins),
    };
    let mut by_ports: BTreeMap<Ports, (BTreeSet<PeerSetId>, BTreeSet<Origin>)> = BTreeMap::new();
    for (id, (ports, origins)) in sets {
        let ports = match ports {
            Ports::Any => Ports::Any,
            Ports::Set(ports) => Ports::Set(Arc::new(ports.difference(&open))),
        };
        if !matches!(&ports, Ports::Set(ports) if ports.is_empty()) {
            let (ids, all) = by_ports.entry(ports).or_default();
            ids.insert(id);
            all.extend(origins);
        }
    }
    let everybody =
        (!open.is_empty()).then(|| step(Ports::Set(Arc::new(open)), Who::Anybody, of_everybody));
    everybody
        .into_iter()
        .chain(
            by_ports
                .into_iter()
                .map(|(ports, (ids, origins))| step(ports, Who::Members(ids), origins)),
        )
        .collect()
}

/// Steps cut by destination port: for each protocol, disjoint ascending ranges with the steps that concern them.
pub(super) struct Pieces {
    pub(super) by_protocol: Vec<(Protocol, Vec<Piece>)>,
    /// What is left for ports and protocols that no step names.
    pub(super) rest: Vec<Step>,
}

/// The ports from `low` to `high`, and the steps that concern every one of them.
pub(super) struct Piece {
    pub(super) low: u16,
    pub(super) high: u16,
    pub(super) steps: Vec<Step>,
}

/// Cuts a tier by port, so that a packet meets only the steps that concern its port. `None` where a list is as good, or
/// where the pieces would repeat the steps too often.
pub(super) fn pieces(steps: &[Step]) -> Option<Pieces> {
    /// A list of this many port matches is as fast as a map.
    const SHORT: usize = 6;
    let with_ports = steps.iter().filter(|step| step.ports != Ports::Any).count();
    if with_ports <= SHORT {
        return None;
    }
    let mut budget = steps.len().saturating_mul(16).saturating_add(1024);
    let mut by_protocol = Vec::new();
    for protocol in Protocol::ALL {
        let cut = cut(steps, protocol, &mut budget)?;
        if !cut.is_empty() {
            by_protocol.push((protocol, cut));
        }
    }
    let rest = joined(steps.iter().filter(|step| step.ports == Ports::Any).cloned());
    Some(Pieces { by_protocol, rest })
}

/// Cuts the ports of one protocol. `None` over budget.
fn cut(steps: &[Step], protocol: Protocol, budget: &mut usize) -> Option<Vec<Piece>> {
    let ranges_of = |step: &Step| -> Vec<(u16, u16)> {
        match &step.ports {
            Ports::Any => Vec::new(),
            Ports::Set(ports) => ports.of(protocol).iter().collect(),
        }
    };
    let mut starts: Vec<u16> = steps
        .iter()
        .flat_map(ranges_of)
        .flat_map(|(low, high)| [Some(low), high.checked_add(1)])
        .flatten()
        .collect();
    starts.sort_unstable();
    starts.dedup();
    let index = |port: u16| starts.partition_point(|start| *start < port);
    let mut concerned: Vec<Vec<&Step>> = alloc::vec![Vec::new(); starts.len()];
    let mut named = alloc::vec![false; starts.len()];
    for step in steps {
        let everywhere = step.ports == Ports::Any;
        let wanted = if everywhere {
            alloc::vec![0..starts.len()]
        } else {
            let end = |high: u16| high.checked_add(1).map_or(starts.len(), index);
            ranges_of(step).into_iter().map(|(low, high)| index(low)..end(high)).collect()
        };
        for range in wanted {
            *budget = budget.checked_sub(range.len())?;
            if !everywhere {
                named.get_mut(range.clone())?.fill(true);
            }
            concerned.get_mut(range)?.iter_mut().for_each(|steps| steps.push(step));
        }
    }
    let ends = starts.iter().skip(1).map(|next| next.saturating_sub(1)).chain([u16::MAX]);
    let mut pieces: Vec<Piece> = Vec::new();
    for (((low, high), concerned), _) in
        starts.iter().zip(ends).zip(concerned).zip(named).filter(|(_, named)| *named)
    {
        let without_ports = |step: &Step| Step { ports: Ports::Any, ..step.clone() };
        let steps = joined(concerned.into_iter().map(without_ports));
        match pieces.last_mut() {
            Some(last) if last.high.checked_add(1) == Some(*low) && last.steps == steps => {
                last.high = high;
            }
            Some(_) | None => pieces.push(Piece { low: *low, high, steps }),
        }
    }
    Some(pieces)
}

/// Cuts a comment to what the kernel takes.
fn shortened(mut text: String) -> Arc<str> {
    if text.len() > COMMENT {
        let mut end = COMMENT.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        text.truncate(end);
        text.push('…');
    }
    text.into()
}
