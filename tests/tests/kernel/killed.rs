//! kill -9: whoever applies the rules may die at any point. What no change touches has its verdict all the while, and the
//! next one that comes leads from whatever is there to what must be.

use core::time::Duration;
use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use netpol_conformance::generate::Random;
use netpol_conformance::netlab::{Crowd, bpf_file_system};
use netpol_core::backend::{Dataplane, SyncError};
use netpol_core::ir::{Flow, Ruleset, Verdict};

use super::traffic::{History, Traffic};
use super::world::{OWN, Temper, World, expected};

/// Makes a dataplane whose rules outlive it, with what it has to keep below a directory of a BPF file system.
pub(super) type Surviving = fn(&Path) -> Box<dyn Dataplane + Send>;

const EVENTS: u64 = 200;
/// How many changes the victim makes until it begins anew.
const CHANGES: usize = 120;
/// How many flows keep their verdict.
const KEPT: usize = 60;
/// After so many killed ones, one is let live that leads to what must be. The others take over from each other.
const GENERATIONS: usize = 4;
/// How long a victim lives at the most, besides the time that taking over takes.
const LIFE: Duration = Duration::from_millis(60);
/// How long the traffic pauses, to leave the machine to those who change the rules.
const BETWEEN_BURSTS: Duration = Duration::from_millis(2);
/// How long the killing may take.
const SECONDS: usize = 60;
/// What tells the victim where it begins, what happens, and where its pins are.
const SCRIPT: &str = "NETPOL_VICTIM_SCRIPT";
const PINS: &str = "NETPOL_VICTIM_PINS";
const READY: &str = "the victim is ready";

/// A state of the world that the successor leads to.
struct Desired {
    ruleset: Ruleset,
    verdicts: Vec<bool>,
}

pub(super) fn holds(new: Surviving, victim: &str, pins: bool, kills: usize) {
    let number = |name, otherwise| env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let (seed, kills) = (number("NETPOL_SEED", 1), number("NETPOL_KILLS", kills));
    let seconds = number("NETPOL_SECONDS", SECONDS);
    eprintln!("kill -9: NETPOL_SEED={seed} NETPOL_KILLS={kills} NETPOL_SECONDS={seconds}");
    let time = Duration::from_secs(u64::try_from(seconds).unwrap());
    let begun = Instant::now();
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "kill-{}-{}",
        victim.replace(':', "-"),
        std::process::id()
    ));
    if pins {
        bpf_file_system(&directory).unwrap();
    }
    let seed = u64::try_from(seed).unwrap();
    let mut world = World::new(seed, EVENTS, Temper::Wild);
    let kept = kept(&mut world);
    let (script, desired) = script(&mut world, &kept);
    let mut crowd = Crowd::build().unwrap();
    crowd.settle(OWN.map(|own| own.parse().unwrap()).into(), World::pod_addresses()).unwrap();
    crowd.in_node(|| new(&directory).sync(&desired[0].ruleset)).unwrap().unwrap();
    crowd.forget_after(3).unwrap();
    let history = History::new(desired[0].verdicts.clone());
    let mut traffic = Traffic::new(&crowd, &world.flows, &history).only_first(kept.len());
    let mut random = Random::seeded(seed);
    let (mut killed, mut verified, mut adopted) = (0, 0, Duration::ZERO);
    let mut spawned = || {
        let spec = format!("{seed} {} {script}", random.below(CHANGES));
        crowd.in_node(|| spawn(victim, &spec, &directory)).unwrap()
    };
    // Getting ready takes a victim longer than its life, so the next one does it meanwhile.
    let mut next = spawned();
    let mut random = Random::seeded(seed + 1);
    while killed < kills && begun.elapsed() < time {
        killed += 1;
        let mut child = core::mem::replace(&mut next, spawned());
        begin(&mut child);
        // Not all in their first steps.
        let micros = u64::try_from((LIFE + adopted).as_micros()).unwrap();
        let life = Duration::from_micros(random.bits() % micros);
        let born = Instant::now();
        while born.elapsed() < life {
            traffic.burst();
            thread::sleep(BETWEEN_BURSTS);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        traffic.burst();
        if killed % GENERATIONS != 0 {
            continue;
        }
        let born = Instant::now();
        let successor = random.pick_from(&desired).unwrap();
        let (crowd, directory) = (&crowd, &directory);
        verified += thread::scope(|scope| {
            let adopt = scope.spawn(move || {
                let mut heir = new(directory);
                crowd.in_node(|| adopt(heir.as_mut(), &successor.ruleset)).unwrap()
            });
            while !adopt.is_finished() {
                traffic.burst();
                thread::sleep(BETWEEN_BURSTS);
            }
            adopt.join().unwrap()
        });
        adopted = born.elapsed();
        traffic.check_all(&successor.verdicts);
        if traffic.tally.wrong.len() > 20 {
            break;
        }
    }
    next.kill().unwrap();
    next.wait().unwrap();
    crowd.in_node(|| new(&directory).remove()).unwrap().unwrap();
    let tally = &traffic.tally;
    eprintln!(
        "{killed} killed in {:?}, {verified} verified: {} packets judged, {} of them denied, {} of open connections \
         ({} answers), {} wrong",
        begun.elapsed(),
        tally.judged,
        tally.denied,
        tally.of_connections,
        tally.answers,
        tally.wrong.len()
    );
    if killed < kills {
        eprintln!("OUT OF TIME: {killed} of {kills} in {seconds} s; NETPOL_SECONDS gives more");
    }
    let wrong: Vec<_> = tally.wrong.iter().take(20).cloned().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        killed * 20 > kills && tally.judged > killed * 100 && tally.denied > killed * 20,
        "{tally:?}"
    );
}

/// The first flows of the world become those that keep their verdict: as many allowed as denied, if there are.
fn kept(world: &mut World) -> Vec<(Flow, Verdict)> {
    let flow = |flow: &Flow| (*flow, expected(&world.cluster, flow));
    let (allowed, denied): (Vec<_>, Vec<_>) =
        world.flows.iter().map(flow).partition(|(_, verdict)| *verdict == Verdict::Allow);
    let first =
        |flows: &[(Flow, Verdict)]| flows.iter().take(KEPT / 2).copied().collect::<Vec<_>>();
    let kept = [first(&allowed), first(&denied)].concat();
    let rest = world.flows.iter().filter(|flow| kept.iter().all(|(kept, _)| kept != *flow));
    let rest: Vec<Flow> = rest.copied().collect();
    world.flows = kept.iter().map(|(flow, _)| *flow).chain(rest).collect();
    assert!(kept.len() > KEPT / 2 && denied.len() > KEPT / 4, "a poor world");
    kept
}

/// What happens, one event after the other, and some of the states on the way.
fn script(world: &mut World, kept: &[(Flow, Verdict)]) -> (String, Vec<Desired>) {
    let desired =
        |world: &World| Desired { ruleset: world.ruleset().clone(), verdicts: world.oracle() };
    let mut states = vec![desired(world)];
    let mut script = String::new();
    for step in 0..CHANGES {
        for event in world.change_keeping(kept) {
            script += &format!("{event} ");
        }
        if step % 12 == 0 {
            states.push(desired(world));
        }
    }
    (script, states)
}

/// Starts the victim in the namespace of the calling thread.
fn spawn(victim: &str, spec: &str, pins: &Path) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", victim, "--nocapture"]).env(SCRIPT, spec).env(PINS, pins);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Waits until the victim is about to apply rules, and lets it.
fn begin(child: &mut Child) {
    let mut told = BufReader::new(child.stdout.as_mut().unwrap());
    let mut line = String::new();
    while !line.contains(READY) {
        line.clear();
        assert!(told.read_line(&mut line).unwrap() > 0, "the victim died by itself");
    }
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
}

/// Leads to what must be. Returns whether the backend could verify that.
fn adopt(heir: &mut dyn Dataplane, ruleset: &Ruleset) -> usize {
    heir.sync(ruleset).unwrap();
    match heir.verify(ruleset) {
        Ok(drift) => {
            assert_eq!(drift, [], "after the successor's sync");
            1
        }
        Err(SyncError::Missing { hint, .. }) if hint.contains("does not offer") => 0,
        Err(error) => panic!("verify: {error:?}"),
    }
}

/// The process that is killed: it changes the rules until then. In the test run itself it does nothing.
#[expect(clippy::print_stdout, reason = "tells its parent")]
pub(super) fn victim(new: Surviving) {
    let Ok(spec) = env::var(SCRIPT) else { return };
    let mut dataplane = new(Path::new(&env::var_os(PINS).unwrap()));
    let mut numbers = spec.split_whitespace().map(|number| number.parse::<usize>().unwrap());
    let seed = u64::try_from(numbers.next().unwrap()).unwrap();
    let mut start = numbers.next().unwrap();
    let script: Vec<usize> = numbers.collect();
    let mut is_ready = false;
    loop {
        let mut world = World::new(seed, EVENTS, Temper::Wild);
        world.carry_out(&script[..start]);
        if !is_ready {
            println!("\n{READY}");
            // Nothing comes if the one who would kill it is gone.
            if std::io::stdin().read_line(&mut String::new()).unwrap() == 0 {
                return;
            }
            is_ready = true;
        }
        dataplane.sync(world.ruleset()).unwrap();
        for (number, event) in script.iter().enumerate().skip(start) {
            let delta = world.carry_out(&[*event]);
            if number % 8 == 7 {
                dataplane.sync(world.ruleset()).unwrap();
            } else {
                dataplane.update(world.ruleset(), &delta).unwrap();
            }
        }
        start = 0;
    }
}
