//! Partitioning 100,000 members by 2,000 sets, and the atoms of 250 local pods' pipelines.
//!
//! `cargo bench -p netpol-conformance --bench atoms` prints a table for docs/benchmarks.md: each figure beside a baseline
//! of the same run (one hash insertion for every membership). `-- --quick` takes a tenth of the members.
#![expect(unsafe_code, reason = "counting what is allocated needs a global allocator")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a benchmark prints figures"
)]

extern crate alloc;

use alloc::sync::Arc;
use core::alloc::{GlobalAlloc, Layout};
use core::hint::black_box;
use core::net::{IpAddr, Ipv4Addr};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::alloc::System;
use std::collections::HashMap;
use std::time::Instant;

use netpol_conformance::generate::Random;
use netpol_core::atoms::{Atoms, Bound, Classes};
use netpol_core::ir::{
    Action, Direction, PeerSelector, PeerSet, PeerSetId, Peers, Pipeline, PolicyKind, PolicyRef,
    Ports, Rule, RuleBlock, Settings, Situation,
};
use netpol_core::model::{ObjectRef, Protocol};
use netpol_core::net::{Intervals, PortSet, PrefixSet};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counters are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SETS: u32 = 2_000;
/// Of which these are ranges.
const NETWORKS: u32 = 100;
const LOCAL_PODS: u32 = 250;
const EVENTS: usize = 10_000;

/// Who is in which set.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// 475 namespaces of four applications: a set for each namespace and for each application but one.
    Namespaces,
    /// Every member in about ten sets drawn at random: nearly every member a class of its own.
    Random,
}

fn address(member: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + member))
}

fn sets(shape: Shape, members: u32) -> Vec<(PeerSetId, PeerSet)> {
    let pods = SETS - NETWORKS;
    let mut lists: Vec<Vec<IpAddr>> = vec![Vec::new(); pods as usize];
    let mut random = Random::seeded(1);
    for member in 0..members {
        match shape {
            Shape::Namespaces => {
                let (namespace, application) = (member % 475, member / 475 % 4);
                lists[(namespace * 4) as usize].push(address(member));
                if application > 0 {
                    lists[(namespace * 4 + application) as usize].push(address(member));
                }
            }
            Shape::Random => {
                for _ in 0..10 {
                    lists[random.below(pods as usize)].push(address(member));
                }
            }
        }
    }
    let selector = PeerSelector::Networks(PrefixSet::default());
    let of_pods = lists.into_iter().map(|list| PeerSet {
        selector: selector.clone(),
        addresses: list.into_iter().collect(),
        networks: PrefixSet::default(),
    });
    // A /16 with a hole each, overlapping by halves; some lie over the pods.
    let of_networks = (0..NETWORKS).map(|number| {
        let low = 0x0a00_0000 + (number << 15);
        let hole = Intervals::range(low + 512, low + 767);
        let ranges = Intervals::range(low, low + 0xffff).difference(&hole);
        let networks = PrefixSet::from_intervals(ranges, Intervals::default());
        PeerSet { selector: selector.clone(), addresses: [].into_iter().collect(), networks }
    });
    let named = |(number, set)| (PeerSetId::of(&format!("{number}")), set);
    of_pods.chain(of_networks).enumerate().map(named).collect()
}

/// An admin tier of five rules that all share, and eight NetworkPolicy rules of its own: a set and two ports each.
fn pipeline(random: &mut Random, ids: &[PeerSetId], direction: Direction, name: u32) -> Pipeline {
    let mut rule = |number: u32, action: Action| {
        let port = u16::try_from(random.between(1, 30_000)).unwrap();
        let ports = [(Protocol::Tcp, port, port), (Protocol::Udp, 53, 53)];
        Rule {
            rule: number,
            peer: Some(0),
            action,
            peers: Peers::Set(*random.pick_from(ids).unwrap()),
            ports: Ports::Set(Arc::new(PortSet::from_ranges(ports))),
        }
    };
    let policy = |kind, name: String| {
        Arc::new(PolicyRef { kind, object: ObjectRef::new("x", &name), uid: None })
    };
    let own = (0..8).map(|number| rule(number, Action::Accept)).collect();
    let own = RuleBlock::new(policy(PolicyKind::NetworkPolicy, name.to_string()), direction, own);
    let mut random = Random::seeded(7);
    let actions = [Action::Accept, Action::Deny, Action::Pass, Action::Deny, Action::Accept];
    let shared = (0..).zip(actions).map(|(number, action)| Rule {
        rule: number,
        peer: Some(0),
        action,
        peers: Peers::Set(*random.pick_from(ids).unwrap()),
        ports: Ports::Any,
    });
    let admin = policy(PolicyKind::ClusterNetworkPolicy, "admin".to_owned());
    Pipeline {
        direction,
        admin: vec![Arc::new(RuleBlock::new(admin, direction, shared.collect()))],
        network_policy: Some(vec![Arc::new(own)]),
        baseline: Vec::new(),
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let start = Instant::now();
    let made = work();
    let elapsed = start.elapsed();
    (made, elapsed, PEAK.load(Ordering::Relaxed) - before)
}

fn percentile(times: &mut [Duration], of_100: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * of_100 / 100]
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let members = if quick { 10_000 } else { 100_000 };
    println!(
        "## Atoms: {members} members, {SETS} sets ({NETWORKS} of ranges), pipelines of {LOCAL_PODS} pods\n"
    );
    for shape in [Shape::Namespaces, Shape::Random] {
        measure(shape, members);
    }
}

fn measure(shape: Shape, members: u32) {
    let sets = sets(shape, members);
    let borrowed = || sets.iter().map(|(id, set)| (*id, set));
    let memberships: usize = sets.iter().map(|(_, set)| set.addresses.len()).sum();
    let (_, baseline, _) = timed(|| {
        let mut counts: HashMap<IpAddr, u32> = HashMap::new();
        for address in borrowed().flat_map(|(_, set)| set.addresses.iter()) {
            *counts.entry(address).or_default() += 1;
        }
        black_box(counts)
    });
    let (mut classes, partition, peak) = timed(|| Classes::new(borrowed()));
    println!("### {shape:?}: {memberships} memberships, {} classes\n", classes.len());
    println!("| what | figure | baseline or unit |\n|---|---|---|");
    println!(
        "| partition | {partition:.1?}, peak {:.1} MB | a hash insertion per membership {baseline:.1?} |",
        peak as f64 / 1e6
    );

    let ids: Vec<PeerSetId> = borrowed().map(|(id, _)| id).collect();
    let mut random = Random::seeded(3);
    let pipelines: Vec<Pipeline> = (0..LOCAL_PODS)
        .flat_map(|pod| [(Direction::Ingress, pod), (Direction::Egress, pod)])
        .map(|(direction, pod)| pipeline(&mut random, &ids, direction, pod))
        .collect();
    let (mut atoms, folded, peak) = timed(|| {
        let fold = |pipeline| Atoms::new(pipeline, Settings::default(), &classes, Bound::default());
        pipelines.iter().map(|pipeline| fold(pipeline).unwrap()).collect::<Vec<_>>()
    });
    let rows: usize = atoms.iter().map(|atoms| atoms.rows(Situation::Ordinary).count()).sum();
    let pieces: usize = atoms.iter().map(|atoms| atoms.cost(Situation::Ordinary).pieces).sum();
    println!(
        "| fold {} pipelines | {folded:.1?}, peak {:.1} MB | {rows} rows, {pieces} pieces |",
        pipelines.len(),
        peak as f64 / 1e6
    );

    let probes: Vec<IpAddr> =
        (0..100_000).map(|_| address(u32::try_from(random.below(1 << 18)).unwrap())).collect();
    let (_, looked_up, _) = timed(|| {
        probes.iter().map(|probe| classes.class_of(*probe).number() as usize).sum::<usize>()
    });
    println!("| class of an address | {:.0?} | each |", looked_up / 100_000);

    let events: Vec<(IpAddr, PeerSetId)> = (0..EVENTS)
        .map(|_| {
            let member = u32::try_from(random.below(members as usize)).unwrap();
            (address(member), *random.pick_from(&ids[..(SETS - NETWORKS) as usize]).unwrap())
        })
        .collect();
    let mut alone = Vec::with_capacity(2 * EVENTS);
    let mut with_atoms = Vec::with_capacity(2 * EVENTS);
    for (address, set) in events {
        for joins in [true, false] {
            let start = Instant::now();
            let change =
                if joins { classes.join(address, set) } else { classes.leave(address, set) };
            let change = black_box(change.unwrap());
            alone.push(start.elapsed());
            for atoms in &mut atoms {
                change.died.iter().for_each(|class| atoms.dismiss(*class));
                change.born.iter().for_each(|class| atoms.admit(*class, &classes));
            }
            classes.recycle();
            with_atoms.push(start.elapsed());
        }
    }
    println!(
        "| join or leave | {:.1?} median, {:.1?} p99 | the partition alone |",
        percentile(&mut alone, 50),
        percentile(&mut alone, 99)
    );
    println!(
        "| join or leave | {:.1?} median, {:.1?} p99 | with {} pipelines' atoms |",
        percentile(&mut with_atoms, 50),
        percentile(&mut with_atoms, 99),
        atoms.len()
    );

    let (id, network) = &sets[(SETS - 1) as usize];
    let (_, removed, _) = timed(|| classes.remove_set(*id));
    let (_, added, _) = timed(|| classes.add_set(*id, network));
    println!("| a set of ranges | {removed:.1?} out, {added:.1?} in | |");
    let (id, pods) = &sets[0];
    let (_, removed, _) = timed(|| classes.remove_set(*id));
    let (_, added, _) = timed(|| classes.add_set(*id, pods));
    println!("| a set of {} pods | {removed:.1?} out, {added:.1?} in | |\n", pods.addresses.len());
}
