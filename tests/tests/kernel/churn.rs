//! Changes under load: while thousands of deltas are carried out, no packet meets anything but the old verdict or the new
//! one, open connections that stay allowed lose nothing, and at rest every verdict is the oracle's.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::env;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use netpol_conformance::netlab::Crowd;
use netpol_core::backend::Updated;

use super::Backend;
use super::traffic::{History, Traffic};
use super::world::{OWN, World};

/// A rest is taken after so many changes.
const UNTIL_REST: usize = 60;
/// How long a backend may take for its changes, and how many of them it must then have made that has no deltas.
const SECONDS: u64 = 50;
const SHARE_WITHOUT_DELTAS: usize = 50;

/// How much is changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    pub(super) updates: usize,
    pub(super) syncs: usize,
}

#[derive(Debug, Default)]
struct Made {
    updates: usize,
    by_sync: usize,
    syncs: usize,
    rests: usize,
}

pub(super) fn holds(backend: Backend, amount: Amount) {
    let seed = env::var("NETPOL_SEED").map_or(1, |text| text.parse().unwrap());
    let seconds = env::var("NETPOL_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let time = Duration::from_secs(seconds);
    eprintln!("change under load: NETPOL_SEED={seed} NETPOL_SECONDS={seconds}");
    let mut world = World::new(seed, 1500);
    let flows = world.flows.clone();
    let mut crowd = Crowd::build().unwrap();
    let own = OWN.map(|address| address.parse().unwrap()).into();
    crowd.settle(own, World::pod_addresses()).unwrap();
    let mut dataplane = backend();
    crowd.in_node(|| dataplane.sync(world.ruleset())).unwrap().unwrap();
    crowd.forget_after(3).unwrap();
    let history = History::new(world.verdicts());
    let mut traffic = Traffic::new(&crowd, &flows, &history);
    let ended = AtomicBool::new(false);
    let begun = Instant::now();
    let (rest, rests) = mpsc::channel::<Vec<bool>>();
    let (rested, resume) = mpsc::channel::<()>();
    let made = thread::scope(|scope| {
        let (crowd, history, ended) = (&crowd, &history, &ended);
        let (world, dataplane) = (&mut world, &mut dataplane);
        let changes = scope.spawn(move || {
            let _ending = Ending(ended);
            let change = move || {
                let mut made = Made::default();
                let is_done = |made: &Made| {
                    (made.updates >= amount.updates && made.syncs >= amount.syncs)
                        || begun.elapsed() > time
                };
                // Of so many changes one is a sync.
                let each = (amount.updates + amount.syncs) / amount.syncs;
                while !is_done(&made) {
                    let (_, delta) = world.change();
                    history.begin(world.verdicts());
                    if (made.updates + made.syncs) % each == each - 1 {
                        dataplane.sync(world.ruleset()).unwrap();
                        made.syncs += 1;
                    } else {
                        let how = dataplane.update(world.ruleset(), &delta).unwrap();
                        made.updates += 1;
                        made.by_sync += usize::from(how == Updated::BySync);
                    }
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
            match rests.try_recv() {
                Ok(verdicts) => {
                    traffic.check_all(&verdicts);
                    rested.send(()).unwrap();
                }
                Err(_) => {
                    traffic.burst();
                    // Leaves the machine to those who change the rules.
                    thread::sleep(Duration::from_micros(300));
                }
            }
        }
        changes.join().unwrap()
    });
    crowd.in_node(|| dataplane.remove()).unwrap().unwrap();
    let tally = &traffic.tally;
    eprintln!(
        "{} updates ({} by sync), {} syncs, {} rests in {:?}: {} packets judged, {} of them denied, {} of open \
         connections ({} answers), {} either way, {} wrong",
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
    let wrong: Vec<_> = tally.wrong.iter().take(20).cloned().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tally.judged > 10_000 && tally.denied > 1000 && tally.answers > 500, "{tally:?}");
    let has_deltas = made.by_sync * 2 < made.updates;
    let updates = if has_deltas {
        amount.updates
    } else {
        eprintln!(
            "NO DELTAS: this backend carries out updates as syncs; {} of {} changes were made",
            made.updates, amount.updates
        );
        amount.updates / SHARE_WITHOUT_DELTAS
    };
    assert!(made.updates >= updates, "only {} of {updates} updates in {time:?}", made.updates);
}

/// Tells that the changes have ended, also where they ended by a panic.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
