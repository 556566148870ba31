//! What a full load and single changes cost in processor time: 250 pods of a node, 1,000 policies on them, 100,000 peers.
//!
//! `cargo bench -p netpol-ebpf --features apply --bench changes` prints a table for docs/benchmarks.md; needs root. Works
//! in a network namespace of its own.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints figures")]

use core::fmt::Write as _;
use core::time::Duration;
use std::fs;

use netpol_core::backend::{Dataplane as _, Updated};
use netpol_core::compile::Options;
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::Scope;
use netpol_core::model::{Labels, Pod};
use netpol_ebpf::{EbpfDataplane, Updates};
use netpol_k8s::manifest::{ReadOptions, read_str};

/// Returns the processor time of this process so far, in the kernel too.
#[expect(unsafe_code, reason = "there is no safe way to ask")]
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(outcome, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let before = processor_time();
    let done = work();
    (processor_time() - before, done)
}

/// Returns a figure of /proc/self/status in kilobytes.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches([':', '\t', ' ', 'k', 'B']).trim().parse().unwrap()
}

/// Returns what the kernel holds for our maps, in bytes.
fn locked() -> u64 {
    let entries = fs::read_dir("/proc/self/fdinfo").unwrap();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let of = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"))?;
        line.trim().parse::<u64>().ok()
    };
    texts.filter_map(of).sum()
}

const LOCAL: usize = 250;
const POLICIES: usize = 1_000;
const PEERS: usize = 100_000;

fn objects() -> String {
    let mut text = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n");
    let mut pod = |name: String, node: &str, address: String, labels: String| {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: x, name: {name}, labels: {{{labels}}}}}\n\
             spec: {{nodeName: {node}, containers: [{{name: c, image: i}}]}}\n\
             status: {{phase: Running, podIPs: [{{ip: {address}}}]}}\n"
        );
    };
    for number in 0..LOCAL {
        let labels = format!("app: a{number}");
        pod(format!("local{number}"), "here", format!("10.200.0.{number}"), labels);
    }
    for number in 0..PEERS {
        let address = format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
        pod(format!("p{number}"), "there", address, format!("group: g{}", number % POLICIES));
    }
    for number in 0..POLICIES {
        let _ = write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: x, name: q{number}}}\n\
             spec: {{podSelector: {{matchLabels: {{app: a{}}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: \
             {{group: g{number}}}}}}}], ports: [{{port: {}}}]}}]}}\n",
            number % LOCAL,
            80 + number % 10
        );
    }
    text
}

fn changed(engine: &mut Engine, pods: &mut [Pod], labels: &Labels) -> Vec<Delta> {
    let mut deltas = Vec::new();
    for pod in pods {
        pod.meta.labels = labels.clone();
        deltas.push(engine.apply(Event::PutPod(pod.clone())));
    }
    deltas
}

#[expect(unsafe_code, reason = "there is no safe way to leave a namespace")]
fn main() {
    // SAFETY: takes no pointers, and there is one thread.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    let cluster = read_str("objects", &objects(), &ReadOptions::default()).unwrap().cluster;
    let options = Options { scope: Scope::Node("here".into()), ..Options::default() };
    let mut engine = Engine::new(options);
    let pods: Vec<Pod> = cluster.pods.values().cloned().collect();
    engine.apply_batch(netpol_conformance::events::puts(&cluster));
    drop(cluster);
    engine.apply(Event::InSync);
    let (resident, before) = (status("VmRSS"), locked());
    let mut dataplane = EbpfDataplane::default().with_updates(Updates::InPlace);
    println!("| what | processor time |\n|---|---|");
    let (time, outcome) = timed(|| dataplane.sync(engine.snapshot()));
    outcome.unwrap();
    println!("| the first load | {time:.0?} |");
    let megabytes = |bytes: u64| bytes / 1_000_000;
    let rows = dataplane.image().unwrap().rows();
    let (resident, held) = (status("VmRSS") - resident, locked() - before);
    println!(
        "| resident, in the kernel | {} MB, {} MB |",
        megabytes(resident * 1024),
        megabytes(held)
    );
    println!("| rows | {rows:?} |");
    let (time, outcome) = timed(|| dataplane.sync(engine.snapshot()));
    outcome.unwrap();
    println!("| a sync that finds nothing to do | {time:.0?} |");
    let (time, outcome) = timed(|| dataplane.verify(engine.snapshot()));
    assert!(outcome.unwrap().is_empty());
    println!("| verify | {time:.0?} |");
    let (time, outcome) = timed(|| dataplane.may_have_drifted());
    assert!(!outcome.unwrap());
    println!("| a look for drift | {time:.1?} |");
    let (time, outcome) = timed(|| dataplane.counters());
    println!("| counters of {} causes | {time:.1?} |", outcome.unwrap().len());

    let mut peers: Vec<Pod> = pods
        .iter()
        .filter(|pod| pod.meta.object.name.starts_with('p'))
        .take(4_000)
        .cloned()
        .collect();
    let local: Vec<Pod> =
        pods.iter().filter(|pod| pod.meta.object.name.starts_with('l')).cloned().collect();
    let group = Labels::from_iter([("group", "g7")]);
    let deltas = changed(&mut engine, &mut peers, &group);
    let mut run = |what: &str, engine: &Engine, deltas: &[Delta]| {
        let count = deltas.iter().filter(|delta| !delta.is_empty()).count();
        let (time, ()) = timed(|| {
            for delta in deltas.iter().filter(|delta| !delta.is_empty()) {
                let updated = dataplane.update(engine.snapshot(), delta).unwrap();
                assert_eq!(updated, Updated::ByDelta);
            }
        });
        let each = time / u32::try_from(count.max(1)).unwrap();
        println!("| {what}, of {count} | {each:.1?} |");
    };
    run("a peer goes from one set to another", &engine, &deltas);
    let deltas = changed(&mut engine, &mut peers, &Labels::default());
    run("a peer leaves a set, once more", &engine, &deltas);
    // Each takes the labels of the one before, and so its policies, which are there.
    let deltas: Vec<Delta> = (1..local.len())
        .map(|place| {
            let mut pod = local.get(place).unwrap().clone();
            pod.meta.labels = local.first().unwrap().meta.labels.clone();
            engine.apply(Event::PutPod(pod))
        })
        .collect();
    run("a pod of the node is bound to other policies", &engine, &deltas);
    dataplane.remove().unwrap();
}
