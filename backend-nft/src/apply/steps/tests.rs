//! Every step of every delta, with packets under way that began some steps before: none of them goes wrong, whether its way
//! leads across one change or several.

use alloc::borrow::Cow;
use alloc::collections::{BTreeMap, BTreeSet};

use netpol_conformance::events::{Happening, Script};
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::{Flow, Ruleset, Verdict};
use netpol_core::model::Cidr;
use netpol_core::net::PrefixSet;

use super::{Step, Steps, clearance};
use crate::NftOptions;
use crate::apply::under_way::Unsettled;
use crate::lower::{Lowering, Versions, lower};
use crate::netlink::Operation;
use crate::options::Style;
use crate::script::evaluate::across::{Course, send};
use crate::script::{Chain, Elements, Hook, Table, Targets};

/// How many versions back packets may have begun.
const BACK: usize = 16;
/// So many of them are tried each time, the last ones among them.
const TRIED: usize = 6;
/// How many flows are sent at each step.
const FLOWS: usize = 60;

/// How much was seen, so that a test cannot pass by seeing nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    updates: usize,
    transactions: usize,
    waits: usize,
    packets: usize,
    stamped: usize,
    /// Updates without a wait.
    at_once: usize,
    /// What was left was deleted.
    cleared: usize,
    /// Objects that came back, or were in the way.
    back: usize,
}

/// A model of the kernel, with packets under way.
struct Kernel {
    style: Style,
    known: Lowering,
    /// What there is in the kernel.
    table: Table,
    unsettled: Unsettled,
    /// The number of the last transaction that left something.
    left_at: u64,
    /// What packets under way may have begun with: the table after each transaction, the last of the number that is the last.
    seen: Vec<Table>,
    /// The first and last ruleset that each of these may stand for.
    stand_for: Vec<(usize, usize)>,
    /// The verdicts of each ruleset.
    verdicts: Vec<Vec<Verdict>>,
    /// Flows whose connections got a generation, with that.
    stamped: BTreeMap<u32, BTreeSet<usize>>,
    flows: Vec<(Flow, Option<Hook>)>,
    chance: Chance,
    tally: Tally,
}

/// Numbers that look like chance.
#[derive(Clone, Copy, Debug)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

impl Kernel {
    fn new(style: Style, ruleset: &Ruleset, flows: &[Flow]) -> Self {
        let known = Lowering::new(ruleset, Versions::new(), style);
        let seen = vec![known.table.clone()];
        let program = lower(ruleset, &Versions::new(), style);
        let flows: Vec<_> = flows.iter().map(|flow| (*flow, program.hook(flow))).collect();
        Self {
            style,
            table: known.table.clone(),
            known,
            unsettled: Unsettled::default(),
            left_at: 0,
            seen,
            stand_for: vec![(0, 0)],
            verdicts: vec![judged(ruleset, &flows)],
            stamped: BTreeMap::new(),
            flows,
            chance: Chance(0x9e37_79b9_7f4a_7c15),
            tally: Tally::default(),
        }
    }

    fn update(&mut self, ruleset: &Ruleset, delta: &Delta) {
        let left = self.known.left.weight();
        let Ok(changes) = self.known.update(ruleset, delta) else { panic!("{delta:?}") };
        self.verdicts.push(judged(ruleset, &self.flows));
        // Where ends are is known to the kernel by itself: what takes another way because of that is not the same flow.
        let program = lower(ruleset, &Versions::new(), self.style);
        for (flow, hook) in &mut self.flows {
            if program.hook(flow) != *hook {
                *hook = None;
            }
        }
        let known = self.known.table.clone();
        let steps = Steps::new(&changes, &known, &mut self.unsettled);
        self.tally.updates += 1;
        let waits = steps.list.iter().filter(|step| matches!(step, Step::Wait)).count();
        self.tally.waits += waits;
        self.tally.at_once += usize::from(waits == 0);
        self.tally.back += usize::from(self.known.left.weight() < left);
        let last = steps.list.iter().rposition(|step| matches!(step, Step::Commit(_)));
        for (number, step) in steps.list.iter().enumerate() {
            match step {
                Step::Wait => self.settled(),
                Step::Commit(operations) => {
                    operations.iter().for_each(|operation| carry_out(&mut self.table, operation));
                    let newest = self.verdicts.len() - 1;
                    let oldest = if Some(number) == last { newest } else { newest - 1 };
                    self.committed((oldest, newest), delta);
                }
            }
        }
        self.left_at = self.unsettled.last();
        self.is_as_known(delta);
        self.is_nothing_open_that_must_not_be(delta);
    }

    /// What is in the kernel is what is known, and what was left.
    #[track_caller]
    fn is_as_known(&self, delta: &Delta) {
        let (mut all, left) = (self.known.table.clone(), &self.known.left);
        all.sets.extend(left.sets.clone());
        all.rooms.extend(left.rooms.clone());
        all.maps.extend(left.maps.clone());
        all.chains.extend(left.chains.clone());
        for (set, pairs) in &left.pairs {
            carry_out(&mut all, &Operation::AddMembers(set, Cow::Borrowed(pairs)));
        }
        assert_eq!(self.table, all, "{delta:?}");
    }

    /// Every packet has left.
    fn settled(&mut self) {
        self.keep(1);
    }

    /// Only packets that began with the last so many versions are under way.
    fn keep(&mut self, versions: usize) {
        let gone = self.seen.len().saturating_sub(versions);
        self.seen.drain(..gone);
        self.stand_for.drain(..gone);
    }

    /// Some time passes, or much.
    fn pause(&mut self) {
        let under_way = self.chance.below(4);
        self.keep(under_way + 1);
        let last = self.unsettled.last();
        self.unsettled.settle_until(last.saturating_sub(u64::try_from(under_way).unwrap()));
        if self.chance.below(3) == 0 && !self.unsettled.is_settled(self.left_at) {
            self.settled();
            self.unsettled.settle();
        }
        if self.unsettled.is_settled(self.left_at) {
            self.clear();
        }
    }

    /// What was left is deleted.
    fn clear(&mut self) {
        let left = self.known.left.clone();
        let ratification = self.known.ratification();
        let mut operations = clearance(&left);
        if let Some((name, chain)) = &ratification {
            operations.extend([Operation::Flush(name), Operation::AddRules(name, &chain.rules)]);
        }
        if operations.is_empty() {
            return;
        }
        self.tally.cleared += usize::from(!left.is_empty());
        operations.iter().for_each(|operation| carry_out(&mut self.table, operation));
        self.unsettled.note(&super::Seen::default());
        self.known.forget_left();
        self.known.ratify();
        let newest = self.verdicts.len() - 1;
        self.committed((newest, newest), &Delta::default());
        self.is_as_known(&Delta::default());
    }

    fn committed(&mut self, stand_for: (usize, usize), delta: &Delta) {
        self.tally.transactions += 1;
        self.seen.push(self.table.clone());
        self.stand_for.push(stand_for);
        self.keep(BACK);
        let newest = self.seen.len() - 1;
        let mut tried: BTreeSet<usize> = (0..=newest).rev().take(TRIED - 2).collect();
        tried.extend([0, 1].map(|_| self.chance.below(newest + 1)));
        for began in tried {
            self.send(began, newest, None, delta);
            if began < newest {
                self.send(began, newest - 1, Some(0), delta);
                let some = u64::try_from(self.chance.below(1000)).unwrap() + 1;
                self.send(began, newest - 1, Some(some), delta);
            }
        }
    }

    /// Sends packets that began with a version and end with another.
    fn send(&mut self, began: usize, ends: usize, ahead: Option<u64>, delta: &Delta) {
        for number in 0..self.flows.len() {
            for is_late in [false, true] {
                let mut course = Course { began, halts: 0, via: None, ends, ahead, is_late };
                while let Some(way) = self.send_one(number, course, delta) {
                    course.halts += 1;
                    if course.halts > way || began == ends {
                        // One that stands still twice.
                        if ends > began + 1 && way > 1 {
                            let halts = self.chance.below(way);
                            let via = began + 1 + self.chance.below(ends - began - 1);
                            let until = halts + 1 + self.chance.below(way - halts);
                            let course = Course { halts, via: Some((via, until)), ..course };
                            self.send_one(number, course, delta);
                        }
                        break;
                    }
                }
            }
        }
    }

    /// Sends a packet. Returns how long its way was.
    fn send_one(&mut self, number: usize, course: Course, delta: &Delta) -> Option<usize> {
        let (flow, hook) = &self.flows[number];
        let (oldest, _) = self.stand_for[course.began];
        let (_, newest) = self.stand_for[course.ends + usize::from(course.ahead.is_some())];
        let mut verdicts = self.verdicts[oldest..=newest].iter().map(|all| all[number]);
        let verdict = verdicts.next().unwrap();
        let is_fixed = verdicts.all(|other| other == verdict);
        let (met, way) = send(&self.seen, (*hook)?, flow, course);
        self.tally.packets += 1;
        assert!(
            !is_fixed || met.verdict == verdict,
            "{flow}: {:?}, not {verdict:?}, {course:?}\n{delta:#?}\n{:#?}",
            met.verdict,
            self.seen.iter().map(differing(&self.seen)).collect::<Vec<_>>(),
        );
        if met.verdict == Verdict::Allow
            && let Some(stamp) = met.stamp
        {
            self.tally.stamped += 1;
            self.stamped.entry(stamp.value).or_default().insert(number);
        }
        Some(way)
    }

    /// What passes without being judged is allowed.
    fn is_nothing_open_that_must_not_be(&self, delta: &Delta) {
        let Some(stamp) = self.known.stamp else { return };
        let verdicts = self.verdicts.last().unwrap();
        for number in self.stamped.get(&stamp.value).into_iter().flatten() {
            let (flow, hook) = &self.flows[*number];
            assert!(
                hook.is_none() || verdicts[*number] == Verdict::Allow,
                "a connection of {flow} stays open\n{delta:#?}"
            );
        }
    }
}

/// What of a table others of a list do not have.
fn differing(all: &[Table]) -> impl Fn(&Table) -> String + '_ {
    |table| {
        let sets = table.sets.iter().filter(|(name, set)| {
            all.iter().any(|other| other.sets.get(*name).is_some_and(|other| other != *set))
        });
        let chains = table.chains.iter().filter(|(name, chain)| {
            all.iter().any(|other| other.chains.get(*name) != Some(*chain))
        });
        let sets = sets.map(|(name, set)| format!("{name} {set}")).collect::<Vec<_>>();
        let chains = chains.map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        format!("{sets:?} {chains:?}")
    }
}

fn judged(ruleset: &Ruleset, flows: &[(Flow, Option<Hook>)]) -> Vec<Verdict> {
    flows.iter().map(|(flow, _)| ruleset.verdict(flow).verdict).collect()
}

/// Does what the kernel does.
fn carry_out(table: &mut Table, operation: &Operation<'_>) {
    fn change<T: Clone + Ord>(members: &mut Vec<T>, joins: &[T], leaves: &[T]) {
        members.retain(|member| !leaves.contains(member));
        members.extend_from_slice(joins);
        members.sort_unstable();
        members.dedup();
    }
    let edit = |set: &mut Elements, joins: &Elements, leaves: &Elements| match (set, joins, leaves)
    {
        (Elements::V4Pairs(all), Elements::V4Pairs(j), Elements::V4Pairs(l)) => change(all, j, l),
        (Elements::V6Pairs(all), Elements::V6Pairs(j), Elements::V6Pairs(l)) => change(all, j, l),
        (Elements::Marks(all), Elements::Marks(j), Elements::Marks(l)) => change(all, j, l),
        (set, joins, leaves) => set.edit(joins, leaves),
    };
    let retain = |targets: &Targets, gone: &Targets| targets.without(gone);
    match operation {
        Operation::NewSet(name, elements, room) => {
            if let Some(room) = room
                && !table.rooms.contains_key(*name)
                && matches!(elements, Elements::V4(_) | Elements::V6(_))
                && (name.starts_with('s') || name.starts_with('u'))
            {
                table.rooms.insert((*name).clone(), *room);
            }
            table.sets.insert((*name).clone(), elements.without(elements));
        }
        Operation::NewMap(name, targets) => {
            table.maps.insert((*name).clone(), targets.without(targets));
        }
        Operation::AddMembers(name, members) => match table.sets.get_mut(*name).unwrap() {
            set if set.is_empty() => *set = members.as_ref().clone(),
            set => {
                let none = members.without(members);
                edit(set, members, &none);
            }
        },
        Operation::DeleteMembers(name, members) => {
            let none = members.without(members);
            edit(table.sets.get_mut(*name).unwrap(), &none, members);
        }
        Operation::AddEntries(name, entries) => match table.maps.get_mut(*name).unwrap() {
            map if map.is_empty() => *map = entries.as_ref().clone(),
            map => map.overwrite(entries),
        },
        Operation::DeleteEntries(name, entries) => {
            let map = table.maps.get_mut(*name).unwrap();
            *map = retain(map, entries);
        }
        Operation::Empty(name) => {
            let map = table.maps.get_mut(*name).unwrap();
            *map = map.without(map);
        }
        Operation::DeleteSet(name) => {
            if table.maps.remove(*name).is_none() {
                table.sets.remove(*name).unwrap();
                table.rooms.remove(*name);
            }
        }
        Operation::NewChain(name, hook) => {
            let chain = Chain { hook: *hook, rules: Vec::new() };
            assert!(table.chains.insert((*name).clone(), chain).is_none(), "{name}");
        }
        Operation::AddRules(name, rules) => {
            table.chains.get_mut(*name).unwrap().rules.extend_from_slice(rules);
        }
        Operation::Flush(name) => table.chains.get_mut(*name).unwrap().rules.clear(),
        Operation::DeleteChain(name) => drop(table.chains.remove(*name).unwrap()),
        Operation::NewTable(_) | Operation::DeleteTable => panic!("{operation:?}"),
    }
}

fn run(script: &Script, style: Style) -> Tally {
    let mut engine = Engine::with_tuning(script.options.clone(), script.tuning);
    let mut kernel: Option<Kernel> = None;
    let mut tally = Tally::default();
    for happening in &script.happenings {
        let delta = match happening {
            Happening::Event(event) => engine.apply(event.clone()),
            Happening::Batch(events) => engine.apply_batch(events.clone()),
            Happening::Restart(_) => engine.apply(Event::InSync),
        };
        if delta.is_empty() {
            continue;
        }
        // The first look at a cluster is no change of one.
        let Some(kernel) = kernel.as_mut().filter(|_| engine.snapshot().endpoints().len() > 0)
        else {
            kernel = Some(Kernel::new(style, engine.snapshot(), &script.flows));
            continue;
        };
        kernel.update(engine.snapshot(), &delta);
        if kernel.chance.below(5) == 0 {
            kernel.pause();
        }
        tally = kernel.tally;
    }
    tally
}

fn styles() -> [Style; 2] {
    let recheck = NftOptions::default().style();
    [recheck, Style { stamp: None, ..recheck }]
}

#[track_caller]
fn campaign(seeds: core::ops::Range<u64>, waits: usize, script: impl Fn(u64) -> Script) {
    let mut all = Tally::default();
    for seed in seeds {
        let mut script = script(seed);
        script.flows.truncate(FLOWS);
        if seed % 3 == 0 {
            let ranges = ["10.0.0.0/8", "fd00::/8"].map(|text| Cidr::parse(text).unwrap());
            script.options.pod_ranges = PrefixSet::from_cidrs(&ranges);
        }
        let [recheck, keep] = styles();
        let tally = run(&script, if seed % 4 == 3 { keep } else { recheck });
        all.updates += tally.updates;
        all.transactions += tally.transactions;
        all.waits += tally.waits;
        all.at_once += tally.at_once;
        all.cleared += tally.cleared;
        all.back += tally.back;
        all.packets += tally.packets;
        all.stamped += tally.stamped;
    }
    assert!(all.updates > 50 && all.at_once > 20 && all.waits >= waits, "{all:?}");
    assert!(all.cleared > 0 && (waits == 0 || all.back > 0), "{all:?}");
    assert!(all.packets > 10_000 && all.stamped > 1000, "{all:?}");
}

#[test]
fn no_packet_under_way_goes_wrong_across_changes_of_any_kind() {
    campaign(0..40, 100, |seed| Script::new(seed, 40));
}

#[test]
fn no_packet_under_way_goes_wrong_across_pods_that_change_their_labels() {
    campaign(100..140, 0, |seed| Script::relabels(seed, 60));
}

mod meetings;
