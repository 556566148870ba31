//! A partition that is changed step by step is the one built anew, and so are atoms that follow it.
#![expect(clippy::print_stderr, reason = "test support")]

extern crate alloc;

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_conformance::generate::{Campaign, Case, Random, Shape};
use netpol_core::atoms::{Atoms, Change, ClassId, Classes, Listed};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Family, PeerSelector, PeerSet, PeerSetId, Pipeline, Ruleset, Situation};
use netpol_core::net::{AddressSet, PrefixSet};

const SITUATIONS: [Situation; 3] = [Situation::Ordinary, Situation::Hairpin, Situation::OwnNode];

/// What a dataplane would hold, changed by nothing but [`Change`]s.
struct Tables {
    classes: BTreeSet<ClassId>,
    exact: BTreeMap<IpAddr, ClassId>,
    /// The class of the range of every probe.
    ranges: BTreeMap<IpAddr, ClassId>,
}

impl Tables {
    fn new(probes: &BTreeSet<IpAddr>) -> Self {
        Self {
            classes: BTreeSet::from([ClassId::NOBODY]),
            exact: BTreeMap::new(),
            ranges: probes.iter().map(|probe| (*probe, ClassId::NOBODY)).collect(),
        }
    }

    fn class_of(&self, address: IpAddr) -> Option<ClassId> {
        self.exact.get(&address).or_else(|| self.ranges.get(&address)).copied()
    }

    fn snapshot(&self) -> Vec<Option<ClassId>> {
        self.ranges.keys().map(|probe| self.class_of(*probe)).collect()
    }

    /// Applies a change in the order it asks for; says if some probe was neither here nor there on the way.
    fn apply(&mut self, change: &Change, classes: &Classes) -> Result<(), String> {
        let old = self.snapshot();
        let new: Vec<_> = self.ranges.keys().map(|probe| Some(classes.class_of(*probe))).collect();
        let check = |tables: &Self, step: &str| {
            let now = tables.snapshot();
            let right = now
                .iter()
                .zip(old.iter().zip(&new))
                .all(|(now, (old, new))| now == old || now == new);
            let known = now.iter().flatten().all(|class| tables.classes.contains(class));
            if right && known { Ok(()) } else { Err(format!("{step}: {old:?} {now:?} {new:?}")) }
        };
        self.classes.extend(&change.born);
        let last: BTreeMap<IpAddr, _> =
            change.addresses.iter().map(|moved| (moved.address, moved)).collect();
        for moved in last.values().filter(|moved| moved.listed == Listed::Exactly) {
            self.exact.insert(moved.address, moved.to);
            check(self, "putting addresses")?;
        }
        for moved in &change.ranges {
            for (_, class) in self.ranges.range_mut(moved.low..=moved.high) {
                if *class != moved.from {
                    return Err(format!("{moved:?}, but it was of {class}"));
                }
                *class = moved.to;
            }
            check(self, "moving ranges")?;
        }
        for moved in last.values().filter(|moved| moved.listed == Listed::ByRange) {
            self.exact.remove(&moved.address);
            check(self, "taking addresses out")?;
        }
        for class in &change.died {
            if !self.classes.remove(class) {
                return Err(format!("{class} died without being there"));
            }
        }
        check(self, "the end")?;
        if self.snapshot() != new || !self.classes.iter().copied().eq(classes.iter()) {
            return Err(format!("{:?} {:?}, but {new:?}", self.classes, self.snapshot()));
        }
        if !self.exact.iter().map(|(address, class)| (*address, *class)).eq(classes.addresses()) {
            return Err(format!("the exact table is {:?}", self.exact));
        }
        Ok(())
    }
}

type Memberships = BTreeSet<PeerSetId>;

/// A partition without its numbers.
fn meaning(
    classes: &Classes,
    sets: &BTreeMap<PeerSetId, PeerSet>,
) -> impl PartialEq + core::fmt::Debug {
    let addresses: Vec<(IpAddr, Memberships)> =
        classes.addresses().map(|(address, class)| (address, classes.sets_of(class))).collect();
    let ranges: Vec<(IpAddr, IpAddr, Memberships)> = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| classes.ranges(family))
        .map(|(low, high, class)| (low, high, classes.sets_of(class)))
        .collect();
    let held: Vec<(PeerSetId, BTreeSet<Memberships>)> = sets
        .keys()
        .map(|set| (*set, classes.held_by(*set).map(|class| classes.sets_of(class)).collect()))
        .collect();
    (addresses, ranges, held, classes.len())
}

fn probes(ruleset: &Ruleset) -> BTreeSet<IpAddr> {
    let mut probes = BTreeSet::from([
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::BROADCAST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::from(u128::MAX)),
    ]);
    for (_, set) in ruleset.peer_sets() {
        probes.extend(set.addresses.iter());
        for (low, high) in set.networks.v4().iter() {
            let points = [low, high, low.wrapping_sub(1), high.wrapping_add(1)];
            probes.extend(points.map(|point| IpAddr::V4(Ipv4Addr::from(point))));
        }
        for (low, high) in set.networks.v6().iter() {
            let points = [low, high, low.wrapping_sub(1), high.wrapping_add(1)];
            probes.extend(points.map(|point| IpAddr::V6(Ipv6Addr::from(point))));
        }
    }
    probes
}

/// Takes an address in or out.
fn with_member(set: &PeerSet, address: IpAddr, member: Member) -> PeerSet {
    let others = set.addresses.iter().filter(|other| *other != address);
    let addresses: AddressSet = match member {
        Member::Joins => others.chain([address]).collect(),
        Member::Leaves => others.collect(),
    };
    PeerSet { addresses, ..set.clone() }
}

#[derive(Clone, Copy)]
enum Member {
    Joins,
    Leaves,
}

fn churn(ruleset: &Ruleset, seed: u64, steps: usize) -> Result<(), String> {
    let mut random = Random::seeded(seed);
    let probes = probes(ruleset);
    let addresses: Vec<IpAddr> = probes.iter().copied().collect();
    let all: BTreeMap<PeerSetId, &PeerSet> = ruleset.peer_sets().collect();
    let ids: Vec<PeerSetId> = all.keys().copied().collect();
    let pipelines: Vec<&Pipeline> = ruleset.pipelines().map(|(_, pipeline)| pipeline).collect();

    let mut sets: BTreeMap<PeerSetId, PeerSet> = BTreeMap::new();
    let mut classes = Classes::default();
    let mut tables = Tables::new(&probes);
    let settings = ruleset.settings();
    let mut atoms: Vec<Atoms> =
        pipelines.iter().map(|pipeline| Atoms::unbounded(pipeline, settings, &classes)).collect();
    for step in 0..steps {
        let (Some(id), Some(address)) =
            (random.pick_from(&ids).copied(), random.pick_from(&addresses).copied())
        else {
            return Ok(());
        };
        let (change, what) = match (sets.get(&id).cloned(), random.below(8)) {
            (_, 0) => {
                classes.recycle();
                (Change::default(), "recycle")
            }
            (None, _) => {
                let Some(set) = all.get(&id) else { continue };
                sets.insert(id, PeerSet::clone(set));
                (classes.add_set(id, set), "add")
            }
            (Some(_), 1) => {
                sets.remove(&id);
                (classes.remove_set(id), "remove")
            }
            (Some(set), 2..=4) => {
                sets.insert(id, with_member(&set, address, Member::Joins));
                (classes.join(address, id).map_err(|error| error.to_string())?, "join")
            }
            (Some(set), _) => {
                // Mostly somebody who is there.
                let members: Vec<IpAddr> = set.addresses.iter().collect();
                let address = random.pick_from(&members).copied().unwrap_or(address);
                sets.insert(id, with_member(&set, address, Member::Leaves));
                (classes.leave(address, id).map_err(|error| error.to_string())?, "leave")
            }
        };
        let told = |why: String| format!("step {step}, {what} {address} {id}: {why}\n{change:?}");
        tables.apply(&change, &classes).map_err(told)?;
        let rebuilt = Classes::new(sets.iter().map(|(id, set)| (*id, set)));
        if meaning(&classes, &sets) != meaning(&rebuilt, &sets) {
            let (is, ought) = (meaning(&classes, &sets), meaning(&rebuilt, &sets));
            return Err(told(format!("{is:?}\nrebuilt {ought:?}")));
        }
        for (atoms, pipeline) in atoms.iter_mut().zip(&pipelines) {
            change.died.iter().for_each(|class| atoms.dismiss(*class));
            change.born.iter().for_each(|class| atoms.admit(*class, &classes));
            let rebuilt = Atoms::unbounded(pipeline, settings, &classes);
            for situation in SITUATIONS {
                if !atoms.rows(situation).eq(rebuilt.rows(situation)) {
                    return Err(told(format!("{atoms:?}\nrebuilt {rebuilt:?}")));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn changing_step_by_step_is_building_anew_and_no_address_is_ever_in_between() {
    let clusters = if cfg!(debug_assertions) { 60 } else { 2_000 };
    let shape = Shape { flows: 1, ..Shape::default() };
    let campaign = Campaign::from_env(shape, clusters).unwrap_or_else(|error| panic!("{error}"));
    let report = campaign.run(|case: &Case| {
        let ruleset = compile(&case.cluster, &Options::default()).ruleset;
        churn(&ruleset, 1, 60).err()
    });
    match report {
        Ok(report) => eprintln!("{report}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_number_is_not_given_again_before_it_is_recycled() {
    let case = netpol_conformance::generate::case(5, Shape::default());
    let ruleset = compile(&case.cluster, &Options::default()).ruleset;
    let mut classes = Classes::default();
    let (id, set) = ruleset.peer_sets().next().unwrap_or_else(|| panic!("a set"));
    let empty = PeerSet { addresses: AddressSet::default(), ..set.clone() };
    let other = PeerSetId::of("other");
    classes.add_set(id, &empty);
    classes.add_set(other, &empty);
    let address = IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7));
    let joined = classes.join(address, id).map_or_else(|error| panic!("{error}"), |c| c.born);
    let left = classes.leave(address, id).map_or_else(|error| panic!("{error}"), |c| c.died);
    assert_eq!((joined.len(), &joined), (1, &left));
    let next = classes.join(address, other).map_or_else(|error| panic!("{error}"), |c| c.born);
    assert_ne!(next, left);
    classes.recycle();
    let again = classes.join(address, id).map_or_else(|error| panic!("{error}"), |c| c.born);
    assert_eq!(again, left);
}

#[test]
fn a_set_that_comes_after_another_is_not_taken_for_it() {
    let empty = PeerSet {
        selector: PeerSelector::Networks(PrefixSet::default()),
        addresses: AddressSet::default(),
        networks: PrefixSet::default(),
    };
    let member = PeerSet {
        addresses: AddressSet::from_iter([IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7))]),
        ..empty
    };
    let (one, other) = (PeerSetId::of("one"), PeerSetId::of("other"));
    let mut classes = Classes::default();
    let born = classes.add_set(one, &member).born;
    assert_eq!(classes.remove_set(one).died, born);
    assert_ne!(classes.add_set(other, &member).born, born);
}
