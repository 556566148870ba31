//! Changes under load: while thousands of deltas are carried out, no packet meets anything but the old verdict or the new
//! one, open connections that stay allowed lose nothing, and at rest every verdict is the oracle's.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::env;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use netpol_conformance::netlab::Crowd;
use netpol_core::backend::{Dataplane, Updated};

use super::Backend;
use super::planted::{Bug, Planted};
use super::traffic::{History, Traffic};
use super::world::{OWN, Temper, World};

/// A rest is taken after so many changes.
const UNTIL_REST: usize = 60;
/// Which part of the time is for the wild world.
const WILD: u32 = 3;
/// How long it goes on in a world where the backend has no deltas.
const WITHOUT_DELTAS: Duration = Duration::from_secs(10);
/// The part of the changes that must have been made however slow the machine is.
const AT_LEAST: usize = 200;
/// So much is told of what is wrong; more of it proves no more.
const TOLD: usize = 20;

/// Two backends at once would count each other's time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How much is changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    pub(super) updates: usize,
    pub(super) syncs: usize,
    /// How long it may take in all.
    pub(super) seconds: u32,
    /// In how many worlds side by side, where most changes wait.
    pub(super) worlds: u32,
}

#[derive(Debug, Default)]
struct Made {
    updates: usize,
    by_sync: usize,
    syncs: usize,
    rests: usize,
    /// How long took deltas, updates by sync, and syncs.
    took: [Duration; 3],
}

pub(super) fn holds(backend: Backend, amount: Amount) {
    let number = |name, otherwise| env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let (seed, seconds): (u32, u32) =
        (number("NETPOL_SEED", 1), number("NETPOL_SECONDS", amount.seconds));
    eprintln!("change under load: NETPOL_SEED={seed} NETPOL_SECONDS={seconds}");
    let time = Duration::from_secs(seconds.into());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let share = |count: usize| count.div_ceil(usize::try_from(amount.worlds).unwrap());
    let shared = Amount { updates: share(amount.updates), syncs: share(amount.syncs), ..amount };
    let made: Vec<Made> = thread::scope(|scope| {
        let world = |number| scope.spawn(move || in_worlds(backend, seed + number, shared, time));
        let worlds: Vec<_> = (0..amount.worlds).map(world).collect();
        worlds.into_iter().map(|world| world.join().unwrap()).collect()
    });
    let sum = |of: fn(&Made) -> usize| made.iter().map(of).sum::<usize>();
    let (updates, syncs) = (sum(|made| made.updates), sum(|made| made.syncs));
    if updates < amount.updates || syncs < amount.syncs {
        eprintln!(
            "OUT OF TIME: {updates} of {} updates ({} by sync), {syncs} of {} syncs in {seconds} s; \
             NETPOL_SECONDS gives more",
            amount.updates,
            sum(|made| made.by_sync),
            amount.syncs
        );
    }
    assert!(updates >= amount.updates / AT_LEAST, "only {updates} updates");
}

/// Makes changes in a wild world and then in a calm one.
fn in_worlds(backend: Backend, seed: u32, amount: Amount, time: Duration) -> Made {
    let begun = Instant::now();
    let (wild, wrong) = in_world(backend(), seed.into(), Temper::Wild, time / WILD, amount, TOLD);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let left = Amount {
        updates: amount.updates.saturating_sub(wild.updates),
        syncs: amount.syncs.saturating_sub(wild.syncs),
        ..amount
    };
    let time = time - begun.elapsed().min(time);
    let (calm, wrong) = in_world(backend(), seed.into(), Temper::Calm, time, left, TOLD);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Made {
        updates: wild.updates + calm.updates,
        by_sync: wild.by_sync + calm.by_sync,
        syncs: wild.syncs + calm.syncs,
        ..Made::default()
    }
}

/// Plants bugs that show only while something changes, and expects each to be caught.
pub(super) fn catches(backend: Backend) {
    let time = Duration::from_secs(10);
    for bug in [Bug::OpensInBetween, Bug::ForgetsChanges] {
        let planted = Box::new(Planted::new(backend(), bug));
        let amount = Amount { updates: 150, syncs: 8, seconds: 10, worlds: 1 };
        let (_, wrong) = in_world(planted, 1, Temper::Wild, time, amount, 1);
        assert!(!wrong.is_empty(), "{bug:?} was not caught");
    }
}

/// Makes changes in a world of a temper until there are enough of them or of what is wrong, or the time is over. Returns
/// what was wrong, too.
fn in_world(
    mut dataplane: Box<dyn Dataplane + Send>,
    seed: u64,
    temper: Temper,
    time: Duration,
    amount: Amount,
    enough: usize,
) -> (Made, Vec<String>) {
    let mut world = World::new(seed, 1500, temper);
    let flows = world.flows.clone();
    let mut crowd = Crowd::build().unwrap();
    let own = OWN.map(|address| address.parse().unwrap()).into();
    crowd.settle(own, World::pod_addresses()).unwrap();
    crowd.in_node(|| dataplane.sync(world.ruleset())).unwrap().unwrap();
    crowd.forget_after(3).unwrap();
    let history = History::new(world.verdicts());
    let mut traffic = Traffic::new(&crowd, &flows, &history);
    let (ended, is_wrong) = (AtomicBool::new(false), AtomicBool::new(false));
    let begun = Instant::now();
    let (rest, rests) = mpsc::channel::<Vec<bool>>();
    let (rested, resume) = mpsc::channel::<()>();
    let made = thread::scope(|scope| {
        let (crowd, history, ended, is_wrong) = (&crowd, &history, &ended, &is_wrong);
        let (world, dataplane) = (&mut world, &mut dataplane);
        let changes = scope.spawn(move || {
            let _ending = Ending(ended);
            let change = move || {
                let mut made = Made::default();
                let is_done = |made: &Made| {
                    let took = begun.elapsed();
                    (made.updates >= amount.updates && made.syncs >= amount.syncs)
                        || took > time
                        || is_wrong.load(Ordering::Relaxed)
                        || (made.by_sync * 10 > made.updates * 9 && took > WITHOUT_DELTAS)
                };
                // Of so many changes one is a sync.
                let each = (amount.updates + amount.syncs) / amount.syncs.max(1);
                while !is_done(&made) {
                    let (_, delta) = world.change();
                    history.begin(world.verdicts());
                    let asked = Instant::now();
                    let mut way = 2;
                    // Where syncs are slow, the time is for the deltas.
                    let is_turn = (made.updates + made.syncs) % each == each - 1;
                    if is_turn && (made.syncs == 0 || made.took[2] < begun.elapsed() * 2 / 5) {
                        dataplane.sync(world.ruleset()).unwrap();
                        made.syncs += 1;
                    } else {
                        let how = dataplane.update(world.ruleset(), &delta).unwrap();
                        made.updates += 1;
                        way = usize::from(how == Updated::BySync);
                        made.by_sync += way;
                    }
                    made.took[way] += asked.elapsed();
                    history.complete();
                    if (made.updates + made.syncs) % UNTIL_REST == 0 {
                        let oracle = world.oracle();
                        assert_eq!(oracle, world.verdicts(), "the engine and the oracle differ");
                        rest.send(oracle).unwrap();
                        resume.recv().unwrap();
                        made.rests += 1;
                    }
                }
                made
            };
            crowd.in_node(change).unwrap()
        });
        while !ended.load(Ordering::SeqCst) {
            is_wrong.store(traffic.tally.wrong.len() >= enough, Ordering::Relaxed);
            match rests.try_recv() {
                Ok(verdicts) => {
                    traffic.check_all(&verdicts);
                    rested.send(()).unwrap();
                }
                Err(_) => {
                    traffic.burst();
                    // Leaves the machine to those who change the rules.
                    thread::sleep(Duration::from_micros(500));
                }
            }
        }
        changes.join().unwrap()
    });
    crowd.in_node(|| dataplane.remove()).unwrap().unwrap();
    let tally = &traffic.tally;
    let mean = |time: Duration, count: usize| time / u32::try_from(count.max(1)).unwrap();
    eprintln!(
        "{temper:?}: a delta took {:?}, a sync {:?}",
        mean(made.took[0], made.updates - made.by_sync),
        mean(made.took[1] + made.took[2], made.by_sync + made.syncs)
    );
    eprintln!(
        "{temper:?}: {} updates ({} by sync), {} syncs, {} rests in {:?}: {} packets judged, {} of them denied, {} of \
         open connections ({} answers), {} either way, {} wrong",
        made.updates,
        made.by_sync,
        made.syncs,
        made.rests,
        begun.elapsed(),
        tally.judged,
        tally.denied,
        tally.of_connections,
        tally.answers,
        tally.either,
        tally.wrong.len()
    );
    // What is wrong is wrong however little was asked.
    let is_enough = tally.judged > 2000 && tally.denied > 100 && tally.answers > 100;
    assert!(is_enough || !tally.wrong.is_empty(), "{tally:?}");
    (made, tally.wrong.iter().take(TOLD).cloned().collect())
}

/// Tells that the changes have ended, also where they ended by a panic.
pub(super) struct Ending<'a>(pub(super) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
