//! A tier as the shortest list of steps that says the same.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use netpol_core::ir::{Action, Origin, PeerSetId, Peers, Ports, RuleBlock};
use netpol_core::net::PortSet;

/// Room for a rule's comment in the kernel, in bytes.
const COMMENT: usize = 255;
/// What a comment ends in where rules were joined or the text was cut.
const MORE: &str = ", ...";

/// One or several rules of the same effect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) ports: Ports,
    pub(super) who: Who,
    pub(super) comment: Option<Arc<str>>,
    /// Which rules it stands for.
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
                let comment = comment.trim_end_matches(MORE);
                shortened(format!("{comment}{MORE}"))
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
fn joined(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
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
///
/// A rule of which a part is covered by another is counted with that other too.
pub(super) fn union(blocks: &[Arc<RuleBlock>]) -> Vec<Step> {
    let mut everybody: Option<(Ports, BTreeSet<Origin>)> = None;
    let mut sets: BTreeMap<PeerSetId, (Ports, BTreeSet<Origin>)> = BTreeMap::new();
    for (block, rule) in
        blocks.iter().flat_map(|block| block.rules().iter().map(move |rule| (block, rule)))
    {
        let origin = block.origin(rule);
        let known = match rule.peers {
            Peers::Any => everybody.get_or_insert_with(|| (rule.ports.clone(), BTreeSet::new())),
            Peers::Set(id) => {
                sets.entry(id).or_insert_with(|| (rule.ports.clone(), BTreeSet::new()))
            }
        };
        known.0 = either(&known.0, &rule.ports);
        known.1.insert(origin);
    }
    let step =
        |ports, who, origins| Step { action: Action::Accept, ports, who, comment: None, origins };
    let (open, mut origins) = match everybody {
        None => (PortSet::default(), BTreeSet::new()),
        Some((Ports::Any, mut origins)) => {
            origins.extend(sets.into_values().flat_map(|(_, origins)| origins));
            return alloc::vec![step(Ports::Any, Who::Anybody, origins)];
        }
        Some((Ports::Set(ports), origins)) => (ports.as_ref().clone(), origins),
    };
    let mut by_ports: BTreeMap<Ports, (BTreeSet<PeerSetId>, BTreeSet<Origin>)> = BTreeMap::new();
    for (id, (ports, own)) in sets {
        let ports = match ports {
            Ports::Any => {
                if !open.is_empty() {
                    origins.extend(own.iter().cloned());
                }
                Ports::Any
            }
            Ports::Set(ports) => {
                let left = ports.difference(&open);
                if left != *ports {
                    origins.extend(own.iter().cloned());
                }
                Ports::Set(Arc::new(left))
            }
        };
        if !matches!(&ports, Ports::Set(ports) if ports.is_empty()) {
            let (ids, all) = by_ports.entry(ports).or_default();
            ids.insert(id);
            all.extend(own);
        }
    }
    let everybody =
        (!open.is_empty()).then(|| step(Ports::Set(Arc::new(open)), Who::Anybody, origins));
    let steps =
        by_ports.into_iter().map(|(ports, (ids, origins))| step(ports, Who::Members(ids), origins));
    everybody.into_iter().chain(steps).collect()
}

/// Makes a comment of what iptables prints back unchanged, cut to what the kernel takes.
fn shortened(text: String) -> Arc<str> {
    let plain = |letter: char| match letter {
        '"' | '\\' => '\'',
        letter if letter == ' ' || letter.is_ascii_graphic() => letter,
        _ => '?',
    };
    let mut plain: String = text.chars().map(plain).collect();
    if plain.len() > COMMENT {
        plain.truncate(COMMENT.saturating_sub(MORE.len()));
        plain.push_str(MORE);
    }
    plain.into()
}
