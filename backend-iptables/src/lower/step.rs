//! A tier as the shortest list of steps that says the same.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use netpol_core::ir::{Action, PeerSetId, Peers, Ports, RuleBlock};
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
pub(super) fn union(blocks: &[Arc<RuleBlock>]) -> Vec<Step> {
    let mut everybody: Option<Ports> = None;
    let mut sets: BTreeMap<PeerSetId, Ports> = BTreeMap::new();
    for rule in blocks.iter().flat_map(|block| block.rules()) {
        match rule.peers {
            Peers::Any => {
                everybody = Some(match everybody {
                    Some(ports) => either(&ports, &rule.ports),
                    None => rule.ports.clone(),
                });
            }
            Peers::Set(id) => {
                sets.entry(id)
                    .and_modify(|ports| *ports = either(ports, &rule.ports))
                    .or_insert_with(|| rule.ports.clone());
            }
        }
    }
    let step = |ports, who| Step { action: Action::Accept, ports, who, comment: None };
    let open = match everybody {
        None => PortSet::default(),
        Some(Ports::Any) => return alloc::vec![step(Ports::Any, Who::Anybody)],
        Some(Ports::Set(ports)) => ports.as_ref().clone(),
    };
    let mut by_ports: BTreeMap<Ports, BTreeSet<PeerSetId>> = BTreeMap::new();
    for (id, ports) in sets {
        let ports = match ports {
            Ports::Any => Ports::Any,
            Ports::Set(ports) => Ports::Set(Arc::new(ports.difference(&open))),
        };
        if !matches!(&ports, Ports::Set(ports) if ports.is_empty()) {
            by_ports.entry(ports).or_default().insert(id);
        }
    }
    let everybody = (!open.is_empty()).then(|| step(Ports::Set(Arc::new(open)), Who::Anybody));
    everybody
        .into_iter()
        .chain(by_ports.into_iter().map(|(ports, ids)| step(ports, Who::Members(ids))))
        .collect()
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
