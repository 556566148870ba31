//! The incremental engine: time to the first ruleset, time from an event to its delta, memory held.
//!
//! `cargo bench -p netpol-conformance --bench engine` prints the tables of docs/benchmarks-engine.md, each figure beside
//! the full compile of the same objects in the same run. `-- NAME…` runs only the tables whose name contains one of them;
//! `-- --curves DIR` also draws the growth curves into a folder; `-- --small` takes a tenth of every size.
#![expect(unsafe_code, reason = "counting what is allocated needs a global allocator")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    reason = "a benchmark prints figures"
)]

mod plot;
mod workloads;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use netpol_conformance::events::remember;
use netpol_conformance::generate::Random;
use netpol_core::compile::{Options, compile};
use netpol_core::engine::{Engine, Event};
use netpol_core::model::{Cluster, Labels, Namespace, Pod};

use crate::workloads::{Words, Workload};

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

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_small = arguments.iter().any(|argument| argument == "--small");
    let curves = arguments.iter().position(|argument| argument == "--curves");
    let folder = curves.and_then(|at| arguments.get(at + 1)).cloned();
    let names: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--") && Some(*argument) != folder.as_ref())
        .collect();
    let wants = |name: &str| names.is_empty() || names.iter().any(|wanted| name.contains(*wanted));
    let of = |size: usize| if is_small { size / 10 } else { size };
    loads(&of, &wants);
    if wants("events") {
        events(&of);
    }
    if wants("relabel") {
        relabel(&of);
    }
    if wants("policy") {
        policy_put(&of);
    }
    if wants("distinct") {
        distinct(&of);
    }
    if wants("churn") {
        churn(&of);
    }
    if let Some(folder) = folder {
        draw(&folder, &of);
    }
}

fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// The processor time of this thread: on a machine that others use too, what the work itself takes.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

const fn megabytes(bytes: usize) -> usize {
    bytes / 1_000_000
}

/// An engine that has heard of a whole workload, what that took, and what it holds.
struct Loaded {
    engine: Engine,
    took: Duration,
    held: usize,
}

fn load(workload: impl FnOnce() -> Workload) -> Loaded {
    let before = live();
    let workload = workload();
    let mut engine = Engine::new(workload.options.clone());
    let mut events: Vec<Event> = workload.into_events().collect();
    events.reverse();
    let start = processor_time();
    let mut listing = Duration::ZERO;
    while let Some(event) = events.pop() {
        if matches!(event, Event::InSync) {
            listing = processor_time() - start;
        }
        drop(black_box(engine.apply(event)));
    }
    let took = processor_time() - start;
    if std::env::var_os("NETPOL_DETAIL").is_some() {
        println!("  listing {listing:.2?} of {took:.2?}; {:?}", engine.memory());
    }
    drop(events);
    Loaded { engine, took, held: live() - before }
}

/// What the full compile of the same objects takes, and what it allocates at its peak.
fn full_compile(workload: Workload) -> (Duration, usize) {
    let options: Options = workload.options.clone();
    let mut cluster = Cluster::default();
    workload.into_events().for_each(|event| remember(&mut cluster, &event));
    let before = live();
    PEAK.store(before, Ordering::Relaxed);
    let start = processor_time();
    let compiled = black_box(compile(&cluster, &options));
    let took = processor_time() - start;
    let peak = PEAK.load(Ordering::Relaxed) - before;
    drop(compiled);
    (took, peak)
}

fn loads(of: &impl Fn(usize) -> usize, wants: &impl Fn(&str) -> bool) {
    println!("## From nothing to the first ruleset (processor time)\n");
    println!(
        "| workload | load | held | as the engine counts it | endpoints | sets | members | compile | its peak |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let row = |name: &str, workload: &dyn Fn() -> Workload| {
        if wants(&format!("load {name}")) {
            load_row(name, workload);
        }
    };
    row("snapshot", &|| workloads::snapshot(of(250_000), of(10_000)));
    row("isolated customers", &|| workloads::customers(of(100_000)));
    row("antrea xlarge", &|| workloads::antrea_xlarge(of(25_000)));
    row("one namespace", &|| workloads::one_namespace(of(10_000)));
    println!();
}

fn load_row(name: &str, workload: &dyn Fn() -> Workload) {
    let Loaded { engine, took, held } = load(workload);
    let ruleset = engine.snapshot();
    let members: usize = ruleset.peer_sets().map(|(_, set)| set.addresses.len()).sum();
    let (endpoints, sets) = (ruleset.endpoints().len(), ruleset.peer_sets().len());
    let counted = megabytes(engine.memory().total());
    drop(engine);
    let (compile, peak) = full_compile(workload());
    println!(
        "| {name} | {took:.2?} | {} MB | {counted} MB | {endpoints} | {sets} | {members} | {compile:.2?} | {} MB |",
        megabytes(held),
        megabytes(peak)
    );
}

/// Times of single events, ascending.
struct Times(Vec<Duration>);

impl Times {
    fn measure(engine: &mut Engine, events: Vec<Event>) -> Self {
        let mut times: Vec<Duration> = events
            .into_iter()
            .map(|event| {
                let start = Instant::now();
                let delta = black_box(engine.apply(event));
                let took = start.elapsed();
                drop(delta);
                took
            })
            .collect();
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }
}

fn service_pod(words: &mut Words, index: usize, service: usize, selectors: usize) -> Pod {
    let mut labels = workloads::service_labels(words, index, selectors, 10);
    labels.0.insert("service".into(), words.word(format!("svc-{service}")));
    workloads::pod("ns-1", &format!("new-{index}"), 9_000_000 + index, labels, false)
}

fn events(of: &impl Fn(usize) -> usize) {
    println!("## Events at 100,000 pods and 10,000 distinct selectors in use, one node\n");
    let (pods, selectors) = (of(100_000), of(10_000));
    let workload = || workloads::selectors(pods, selectors, 10);
    let Loaded { mut engine, .. } = load(workload);
    let (compile, _) = full_compile(workload());
    println!("full compile: {compile:.2?}\n");
    println!("| event | median | p99 | largest | full compile / median |");
    println!("|---|---|---|---|---|");
    let mut words = Words::default();
    let count = 10_000;
    let mut row = |name: &str, events: Vec<Event>| {
        let times = Times::measure(&mut engine, events);
        let ratio = compile.as_secs_f64() / times.at(50).as_secs_f64();
        println!(
            "| {name} | {:.2?} | {:.2?} | {:.2?} | {ratio:.0} |",
            times.at(50),
            times.at(99),
            times.at(100)
        );
    };
    let made = |words: &mut Words, shift: usize| -> Vec<Pod> {
        (0..count)
            .map(|index| service_pod(words, index, (index * 7 + shift) % selectors, selectors))
            .collect()
    };
    let first = made(&mut words, 0);
    row("pod put, new", first.iter().cloned().map(Event::PutPod).collect());
    row("pod put, nothing changed", first.into_iter().map(Event::PutPod).collect());
    let moved = made(&mut words, 1);
    row("pod put, other labels", moved.iter().cloned().map(Event::PutPod).collect());
    row("pod delete", moved.into_iter().map(|pod| Event::DeletePod(pod.meta.object)).collect());
    let local = |words: &mut Words| -> Vec<Pod> {
        let here = (0..count).map(|index| {
            let mut pod = service_pod(words, index, index % selectors, selectors);
            pod.node = Some("here".into());
            pod
        });
        here.collect()
    };
    let here = local(&mut words);
    let pairs = here
        .into_iter()
        .flat_map(|pod| [Event::PutPod(pod.clone()), Event::DeletePod(pod.meta.object)]);
    row("pod of this node put or deleted, 100 policies each", pairs.collect());
    println!();
}

fn relabel(of: &impl Fn(usize) -> usize) {
    println!("## Namespace relabel, 100,000 pods, 100 selectors\n");
    let pods = of(100_000).max(20_000);
    let workload = || workloads::relabel(pods, 100);
    let Loaded { mut engine, .. } = load(workload);
    let (compile, _) = full_compile(workload());
    let events = (0..200).map(|index| {
        let labels = Labels::from_iter([("env", format!("e{}", index % 7))]);
        Event::PutNamespace(Namespace::new("ns-1", labels))
    });
    let mut times: Vec<Duration> = events
        .map(|event| {
            let start = processor_time();
            drop(black_box(engine.apply(event)));
            processor_time() - start
        })
        .collect();
    times.sort_unstable();
    let times = Times(times);
    println!(
        "10,000 pods leave ten sets and join ten others (processor time): median {:.2?}, p99 {:.2?}, full compile {compile:.2?}\n",
        times.at(50),
        times.at(99)
    );
}

fn policy_put(of: &impl Fn(usize) -> usize) {
    println!("## Policy put and delete, 100,000 pods\n");
    let pods = of(100_000);
    println!("| peers matched | put | delete | full compile |");
    println!("|---|---|---|---|");
    for matched in [10, 100, 1_000, 10_000] {
        let services = pods / matched;
        let Loaded { mut engine, .. } =
            load(|| workloads::selectors(pods, 0, 10).relabelled(services));
        let (compile, _) = full_compile(workloads::selectors(pods, 0, 10).relabelled(services));
        let policy = |index: usize| {
            let service = format!("svc-{}", index % services);
            let peer = workloads::peer(Some(&[]), &[("service", &service)]);
            workloads::policy(
                "ns-1",
                &format!("new-{index}"),
                &[],
                vec![workloads::rule(vec![peer], 80)],
                vec![],
            )
        };
        // The first one builds the index of the label.
        drop(engine.apply(Event::PutNetworkPolicy(policy(0))));
        let made: Vec<_> = (1..services.min(201)).map(policy).collect();
        let put = Times::measure(
            &mut engine,
            made.iter().cloned().map(Event::PutNetworkPolicy).collect(),
        );
        let delete = made.into_iter().map(|policy| Event::DeleteNetworkPolicy(policy.meta.object));
        let delete = Times::measure(&mut engine, delete.collect());
        println!("| {matched} | {:.2?} | {:.2?} | {compile:.2?} |", put.at(50), delete.at(50));
    }
    println!();
}

impl Workload {
    /// The same pods with another spread of services.
    fn relabelled(mut self, services: usize) -> Self {
        let mut words = Words::default();
        for (index, pod) in self.pods.iter_mut().enumerate() {
            let service = words.word(format!("svc-{}", index % services));
            pod.meta.labels.0.insert("service".into(), service);
        }
        self
    }
}

fn distinct(of: &impl Fn(usize) -> usize) {
    println!("## 35,000 pods with 35,000 distinct label sets, one policy that names them all\n");
    let Loaded { engine, took, held } = load(|| workloads::distinct_labels(of(35_000)));
    let sets: Vec<usize> =
        engine.snapshot().peer_sets().map(|(_, set)| set.addresses.len()).collect();
    println!(
        "loaded in {took:.2?}, {} MB; peer sets and their members: {sets:?}\n",
        megabytes(held)
    );
}

fn churn(of: &impl Fn(usize) -> usize) {
    println!("## Churn: 1,000 events a second for 60 s at 100,000 pods\n");
    let (pods, selectors) = (of(100_000), of(10_000));
    let Loaded { mut engine, .. } = load(|| workloads::selectors(pods, selectors, 10));
    let mut random = Random::seeded(7);
    let mut spent = Duration::ZERO;
    let mut held = Vec::new();
    for second in 0..60 {
        // Made a second's worth at a time, as a watch hands them over, and not counted.
        let mut words = Words::default();
        let events: Vec<Event> = (0..1_000)
            .map(|number| {
                let index = random.below(4_000);
                let mut pod = service_pod(&mut words, index, random.below(selectors), selectors);
                // Names, addresses and hashes are new all the time, as those of rolled-out pods are.
                pod.meta.labels.0.insert(
                    "pod-template-hash".into(),
                    format!("{second}-{number}").as_str().into(),
                );
                if random.one_in(2) {
                    Event::PutPod(pod)
                } else {
                    Event::DeletePod(pod.meta.object)
                }
            })
            .collect();
        let start = processor_time();
        for event in events {
            drop(black_box(engine.apply(event)));
        }
        spent += processor_time() - start;
        drop(words);
        held.push(live());
    }
    let share = spent.as_secs_f64() / 60.0 * 100.0;
    println!(
        "{spent:.2?} of 60 s: {share:.2} % of one core; memory after 20 s {} kB, after 40 s {} kB, after 60 s {} kB\n",
        held[19] / 1000,
        held[39] / 1000,
        held[59] / 1000
    );
}

fn draw(folder: &str, of: &impl Fn(usize) -> usize) {
    let put = |pods: usize, selectors: usize, labels: usize| {
        let Loaded { mut engine, took, held } =
            load(|| workloads::selectors(pods, selectors, labels));
        let mut words = Words::default();
        let events = (0..2_000).map(|index| {
            let mut pod = service_pod(&mut words, index, index % selectors, selectors);
            pod.meta
                .labels
                .0
                .extend(workloads::service_labels(&mut words, index, selectors, labels).0);
            Event::PutPod(pod)
        });
        let times = Times::measure(&mut engine, events.collect());
        (took, held, times.at(50))
    };
    let curve = |name: &str,
                 title: &str,
                 sizes: &[usize],
                 run: &dyn Fn(usize) -> (Duration, usize, Duration)| {
        let runs: Vec<(f64, (Duration, usize, Duration))> =
            sizes.iter().map(|size| (*size as f64, run(*size))).collect();
        let series = |label: &'static str, of: &dyn Fn(&(Duration, usize, Duration)) -> f64| {
            (label, runs.iter().map(|(size, run)| (*size, of(run))).collect())
        };
        let svg = plot::log_log(
            title,
            &[
                series("first ruleset, ms", &|run| run.0.as_secs_f64() * 1e3),
                series("memory, MB", &|run| run.1 as f64 / 1e6),
                series("pod put, µs (median)", &|run| run.2.as_secs_f64() * 1e6),
            ],
        );
        std::fs::write(format!("{folder}/engine-{name}.svg"), svg).unwrap();
        println!(
            "{title}: {:?}",
            runs.iter()
                .map(|(size, run)| (*size as usize, run.0, megabytes(run.1), run.2))
                .collect::<Vec<_>>()
        );
    };
    let pods =
        [3_125, 6_250, 12_500, 25_000, 50_000, 100_000, 200_000].map(|size| of(size).max(200));
    curve("pods", "pods (1,000 selectors, 10 labels)", &pods, &|pods| put(pods, of(1_000), 10));
    let selectors =
        [156, 312, 625, 1_250, 2_500, 5_000, 10_000, 20_000].map(|size| of(size).max(10));
    curve(
        "selectors",
        "selectors, a policy each (50,000 pods, 10 labels)",
        &selectors,
        &|selectors| put(of(50_000), selectors, 10),
    );
    curve(
        "labels",
        "labels of each pod (50,000 pods, 1,000 selectors)",
        &[2, 4, 8, 16, 32],
        &|labels| put(of(50_000), of(1_000), labels),
    );
    let policies = [625, 1_250, 2_500, 5_000, 10_000, 20_000].map(|size| of(size).max(100));
    curve("policies", "policies × 5 rules (25,000 pods, 100 namespaces)", &policies, &|policies| {
        let Loaded { mut engine, took, held } = load(|| workloads::snapshot(of(25_000), policies));
        let mut words = Words::default();
        let events = (0..2_000).map(|index| {
            let mut pod = service_pod(&mut words, index, 0, 1);
            pod.meta.labels.0.insert("app".into(), words.word(format!("app-{}", index % 20)));
            Event::PutPod(pod)
        });
        let times = Times::measure(&mut engine, events.collect());
        (took, held, times.at(50))
    });
}
