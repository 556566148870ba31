//! One policy: its words by class, and what their counters count.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use netpol_core::atoms::{Atoms, ClassId, Classes, Pieces};
use netpol_core::ir::{PipelineId, Reason, Situation, Verdict};
use netpol_core::model::Protocol;

use super::ports::PortLists;
use crate::image::{Class, CounterId, PortRow, PortsId, Word};

/// A policy in force.
#[derive(Clone, Debug)]
pub(super) struct PolicyState {
    /// The pipeline whose atoms it is made of, and for which situation.
    pub(super) lead: (PipelineId, Situation),
    /// By what classes may do, and by whom that is said: the word, and the manner of it.
    said: HashMap<Arc<Pieces>, (Word, usize)>,
    manners: Vec<Manner>,
    known: HashMap<(Word, Vec<Kind>), usize>,
    default_manner: usize,
    /// The word of classes without a row.
    pub(super) default: Word,
    /// Classes that no set of the policy holds have rows.
    pub(super) is_inverted: bool,
    /// Its counters: the first ones, and how many.
    pub(super) blocks: Vec<(CounterId, u32)>,
}

/// What a word says but for its counters, and what kinds of reasons they count. Classes of one manner may share a row.
#[derive(Clone, Debug)]
struct Manner {
    word: Word,
    rows: Arc<[PortRow]>,
    /// The first counters given out for it.
    counter: Option<CounterId>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Kind {
    Nothing,
    Default,
    Isolation,
    Rule,
}

/// Counters of a word that are not those of its port list's rows: protocols without ports, TCP, UDP, SCTP.
const PLAIN: usize = 4;

/// Gives out counters, in blocks.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    pub(super) next: CounterId,
    /// Up to here, what can be told apart is counted apart.
    pub(super) plenty: CounterId,
    /// Blocks that count for nobody, by size.
    free: BTreeMap<u32, Vec<CounterId>>,
}

impl Counters {
    pub(super) const fn new(next: CounterId, plenty: CounterId) -> Self {
        Self { next, plenty, free: BTreeMap::new() }
    }

    fn take(&mut self, count: u32) -> CounterId {
        if let Some(block) = self.free.get_mut(&count).and_then(Vec::pop) {
            return block;
        }
        let first = self.next;
        self.next = first.saturating_add(count);
        first
    }

    /// Takes back a block that stands at zero.
    pub(super) fn free(&mut self, (first, count): (CounterId, u32)) {
        self.free.entry(count).or_default().push(first);
    }

    fn are_short(&self, count: u32) -> bool {
        self.next >= self.plenty && self.free.get(&count).is_none_or(Vec::is_empty)
    }
}

/// What all policies share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) ports: PortLists,
    /// Port lists that came into use.
    pub(super) born: Vec<PortsId>,
    pub(super) counters: Counters,
}

/// What one counter counts: the verdict, and the reasons for it.
pub(super) struct Tally {
    pub(super) counter: CounterId,
    pub(super) verdict: Verdict,
    pub(super) reasons: BTreeSet<Reason>,
}

impl PolicyState {
    /// Makes a policy of the atoms of a pipeline. Returns it with its rows.
    pub(super) fn new(
        lead: (PipelineId, Situation),
        atoms: &Atoms,
        classes: &Classes,
        shared: &mut Shared,
    ) -> (Self, Vec<(Class, Word)>) {
        let mut policy = Self {
            lead,
            said: HashMap::new(),
            manners: Vec::new(),
            known: HashMap::new(),
            default_manner: usize::MAX,
            default: Word::NOTHING,
            is_inverted: false,
            blocks: Vec::new(),
        };
        let situation = lead.1;
        let nobody = policy.manner(atoms.default_pieces(situation), shared);
        let mut manners: HashMap<*const Pieces, usize> = HashMap::new();
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        let mut held = 0;
        for (_, pieces) in atoms.rows(situation) {
            let manner = manners.entry(Arc::as_ptr(pieces));
            let manner = *manner.or_insert_with(|| policy.manner(pieces, shared));
            *counts.entry(manner).or_default() += 1;
            held += 1;
        }
        *counts.entry(nobody).or_default() += classes.len().saturating_sub(held);
        // A policy that allows all pods costs no row for each of their classes.
        let most = counts.iter().max_by_key(|(manner, count)| (**count, **manner == nobody));
        policy.default_manner = most.map_or(nobody, |(manner, _)| *manner);
        policy.is_inverted = policy.default_manner != nobody;
        policy.default = policy.with_counters(policy.default_manner, &mut shared.counters);
        policy.word(atoms.default_pieces(situation), shared);
        let is_inverted = policy.is_inverted;
        let mut rows = Vec::new();
        let mut words: HashMap<*const Pieces, Option<Word>> = HashMap::new();
        let mut row = |class: ClassId, pieces: &Arc<Pieces>| {
            let word = words.entry(Arc::as_ptr(pieces));
            let word = *word.or_insert_with(|| policy.word(pieces, shared));
            rows.extend(word.map(|word| (class.number(), word)));
        };
        if is_inverted {
            classes.iter().for_each(|class| row(class, atoms.pieces(class, situation)));
        } else {
            atoms.rows(situation).for_each(|(class, pieces)| row(class, pieces));
        }
        (policy, rows)
    }

    /// Returns the word of a class that may do this, unless it is the default.
    pub(super) fn word(&mut self, pieces: &Arc<Pieces>, shared: &mut Shared) -> Option<Word> {
        let (word, manner) = match self.said.get(pieces) {
            Some(said) => *said,
            None => {
                let manner = self.manner(pieces, shared);
                let word = if manner == self.default_manner {
                    self.default
                } else {
                    self.with_counters(manner, &mut shared.counters)
                };
                self.said.insert(pieces.clone(), (word, manner));
                (word, manner)
            }
        };
        (manner != self.default_manner).then_some(word)
    }

    fn manner(&mut self, pieces: &Pieces, shared: &mut Shared) -> usize {
        let (word, rows) = shared.ports.word(&pieces.without_origin());
        let kind = |reasons: Vec<&Reason>| {
            reasons.into_iter().map(Kind::of).max().unwrap_or(Kind::Nothing)
        };
        let kinds = (0..PLAIN + rows.len()).map(|place| kind(reasons(pieces, word, &rows, place)));
        let next = self.manners.len();
        let manner = *self.known.entry((word, kinds.collect())).or_insert(next);
        if manner == next {
            if shared.ports.retain(word.ports()) {
                shared.born.push(word.ports());
            }
            self.manners.push(Manner { word, rows, counter: None });
        }
        manner
    }

    /// Returns the word of a manner with counters of its own, as long as there are plenty.
    fn with_counters(&mut self, manner: usize, counters: &mut Counters) -> Word {
        let Some(manner) = self.manners.get_mut(manner) else { return Word::NOTHING };
        let count = u32::try_from(PLAIN + manner.rows.len()).unwrap_or(u32::MAX);
        if let Some(counter) = manner.counter.filter(|_| counters.are_short(count)) {
            return manner.word.with_counter(counter);
        }
        let counter = counters.take(count);
        manner.counter.get_or_insert(counter);
        self.blocks.push((counter, count));
        manner.word.with_counter(counter)
    }

    /// Returns the port lists that it uses.
    pub(super) fn lists(&self) -> impl Iterator<Item = PortsId> {
        self.manners.iter().map(|manner| manner.word.ports()).filter(|list| *list != 0)
    }

    /// Returns what its counters count.
    pub(super) fn tallies(&self) -> impl Iterator<Item = Tally> {
        let mut tallies: BTreeMap<CounterId, Tally> = BTreeMap::new();
        for (pieces, (word, manner)) in &self.said {
            let Some(manner) = self.manners.get(*manner) else { continue };
            for place in 0..PLAIN + manner.rows.len() {
                let verdict = match place {
                    0 => word.others(),
                    1 => word.default(Protocol::Tcp),
                    2 => word.default(Protocol::Udp),
                    3 => word.default(Protocol::Sctp),
                    _ => match manner.rows.get(place - PLAIN) {
                        Some(PortRow { allow: true, .. }) => Verdict::Allow,
                        Some(PortRow { allow: false, .. }) | None => Verdict::Deny,
                    },
                };
                let place_of = u32::try_from(place).unwrap_or(u32::MAX);
                let counter = word.counter().saturating_add(place_of);
                let tally = tallies.entry(counter);
                let tally = tally.or_insert(Tally { counter, verdict, reasons: BTreeSet::new() });
                let reasons = reasons(pieces, *word, &manner.rows, place);
                tally.reasons.extend(reasons.into_iter().cloned());
            }
        }
        tallies.into_values()
    }
}

impl Kind {
    const fn of(reason: &Reason) -> Self {
        match reason {
            Reason::Rule(_) => Self::Rule,
            Reason::Isolated => Self::Isolation,
            Reason::NotPoliced
            | Reason::SelfTraffic
            | Reason::Hairpin
            | Reason::OwnNode
            | Reason::UnjudgedProtocol
            | Reason::UnknownPod
            | Reason::NotIsolated => Self::Default,
        }
    }
}

/// Returns the reasons for what is counted at a place: those of the traffic that gets there.
fn reasons<'a>(pieces: &'a Pieces, word: Word, rows: &[PortRow], place: usize) -> Vec<&'a Reason> {
    let of = |protocol, verdict, low, high| {
        let within = pieces.ports().iter().filter(move |piece| {
            piece.protocol == protocol
                && piece.decision.verdict == verdict
                && piece.low <= high
                && piece.high >= low
        });
        within.map(|piece| &piece.decision.reason).collect()
    };
    let default = |protocol| of(protocol, word.default(protocol), 0, u16::MAX);
    match place {
        0 => alloc::vec![&pieces.others().reason],
        1 => default(Protocol::Tcp),
        2 => default(Protocol::Udp),
        3 => default(Protocol::Sctp),
        _ => rows.get(place - PLAIN).map_or_else(Vec::new, |row| {
            let verdict = if row.allow { Verdict::Allow } else { Verdict::Deny };
            of(row.protocol, verdict, row.port, row.last())
        }),
    }
}
