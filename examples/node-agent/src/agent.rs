//! The loop: takes what changed, has the engine say what that changes, makes the kernel so, and tries again where that
//! fails.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::time::Duration;
use std::time::Instant;

use anyhow::{Context as _, bail};
use netpol_core::backend::SyncError;
use netpol_core::compile::{Diagnostic, Options};
use netpol_core::engine::Engine;
use netpol_core::ir::{OwnNodeEgress, Scope, Settings};
use netpol_k8s::watch::{Change, Event, Failure, Watch, kind_of};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant as Moment, MissedTickBehavior, sleep_until};

use crate::cli::{BackendName, OwnNode, RunArgs};
use crate::dataplane::{self, Kernel};
use crate::state::State;
use crate::status::Shared;

/// The most events that are taken before the kernel gets its turn.
const BATCH: usize = 10_000;

/// The pauses after failures to enforce.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Agent {
    backend: BackendName,
    resync: Duration,
    /// How often the kernel is asked whether somebody wrote.
    drift_check: Duration,
    mode: Mode,
    ends_after_first: bool,
    shared: Arc<Shared>,
    state: State,
    /// Both away while they work.
    engine: Option<Engine>,
    dataplane: Option<Box<dyn Kernel>>,
    /// What the engine said last is in force, as far as we know.
    is_enforced: bool,
    /// The kernel's generation after the last attempt.
    generation: Option<u32>,
    told: BTreeSet<Diagnostic>,
    failures: u32,
    /// When the kernel is looked at next: to try again, or to make it agree again.
    next: Moment,
}

/// What becomes of a ruleset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Enforce,
    Print,
}

/// One attempt to make the kernel so.
struct Attempt {
    engine: Engine,
    dataplane: Box<dyn Kernel>,
    waiting: Vec<Change>,
    mode: Mode,
    backend: BackendName,
    /// Whether what the engine said before is in force, so that the difference will do.
    is_enforced: bool,
    /// The kernel's generation when it was last ours.
    generation: Option<u32>,
}

/// What came of it.
struct Outcome {
    engine: Engine,
    dataplane: Box<dyn Kernel>,
    diagnostics: Vec<Diagnostic>,
    engine_time: Duration,
    sync_time: Duration,
    result: Result<(), SyncError>,
    /// The kernel's generation before and after.
    generations: (Option<u32>, Option<u32>),
}

impl Agent {
    pub(crate) fn new(
        args: &RunArgs,
        shared: Arc<Shared>,
        dataplane: Box<dyn Kernel>,
    ) -> anyhow::Result<Self> {
        if args.node_name.is_empty() {
            bail!("`--node-name` or the environment variable `NODE_NAME` is needed");
        }
        let own_node_egress = match args.own_node_egress {
            OwnNode::Allow => OwnNodeEgress::Allow,
            OwnNode::Enforce => OwnNodeEgress::Enforce,
        };
        let options = Options {
            scope: Scope::Node(args.node_name.as_str().into()),
            settings: Settings { own_node_egress, ..Settings::default() },
            ..Options::default()
        };
        Ok(Self {
            backend: args.backend,
            resync: args.resync,
            drift_check: args.drift_check,
            mode: if args.dry_run { Mode::Print } else { Mode::Enforce },
            ends_after_first: args.once,
            shared,
            state: State::default(),
            engine: Some(Engine::new(options)),
            dataplane: Some(dataplane),
            is_enforced: false,
            generation: None,
            told: BTreeSet::new(),
            failures: 0,
            next: Moment::now(),
        })
    }

    /// Runs until SIGTERM or SIGINT, which leave the rules as they are.
    pub(crate) async fn run(mut self, client: kube::Client) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut drift = tokio::time::interval(self.drift_check);
        drift.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::start(client, netpol_k8s::watch::Options::default());
        tracing::info!("listing; the rules found from before stay in force");
        loop {
            self.shared.status().beat = Instant::now();
            tokio::select! {
                event = watch.next() => {
                    let event = event.context("the watch ended by itself")?;
                    self.take(event);
                    for _ in 1..BATCH {
                        let Some(event) = watch.try_next() else { break };
                        self.take(event);
                    }
                }
                () = sleep_until(self.next), if self.state.is_synced => {}
                _ = drift.tick() => {
                    if self.failures > 0 || !self.somebody_wrote() {
                        continue;
                    }
                    self.next = Moment::now();
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
            let is_time = Moment::now() >= self.next;
            if self.state.is_synced && (is_time || (self.state.is_due() && self.failures == 0)) {
                self.enforce().await?;
                if self.ends_after_first && self.is_enforced {
                    break;
                }
            }
        }
        tracing::info!("ending; the rules stay in force");
        Ok(())
    }

    /// Whether anybody wrote to the kernel since the last attempt; if so, the rules are looked at again.
    fn somebody_wrote(&mut self) -> bool {
        let kernel = self.dataplane.as_mut().filter(|_| self.mode == Mode::Enforce);
        let now = kernel.and_then(|kernel| kernel.generation().ok()).flatten();
        self.is_enforced && now.is_some() && now != self.generation
    }

    fn take(&mut self, event: Event) {
        let metrics = &self.shared.metrics;
        match event {
            Event::Change { change, heard } => {
                if let Some(kind) = kind_of(&change) {
                    metrics.heard(kind);
                }
                self.state.take(change, heard);
                let mut status = self.shared.status();
                status.is_synced = self.state.is_synced;
                status.oldest = self.state.oldest.filter(|_| self.state.is_synced);
            }
            Event::Failing { kind, failure, pause } => {
                metrics.failed(kind, failure.reason());
                metrics.following(kind, false);
                let why = chain(failure.as_ref());
                let before = self.shared.status().failing.insert(kind, why.clone());
                // Said again only when the reason changes; the metrics count them all.
                if matches!(*failure, Failure::Expired) {
                    tracing::debug!(%kind, "listing again");
                } else if before.as_ref() != Some(&why) {
                    tracing::warn!(%kind, reason = %why, ?pause, "cannot follow; the last known state stays in force");
                }
            }
            Event::Listed(kind) => {
                metrics.following(kind, true);
                tracing::debug!(%kind, "listed");
            }
            Event::Recovered(kind) => {
                metrics.following(kind, true);
                self.shared.status().failing.remove(&kind);
                tracing::info!(%kind, "following again");
            }
            Event::Odd(oddity) => {
                metrics.odd(oddity.kind);
                tracing::warn!("{oddity}");
            }
            event => tracing::debug!(?event, "an event of another kind"),
        }
    }

    /// Makes the kernel so. A failure keeps the rules that are in force and is tried again.
    async fn enforce(&mut self) -> anyhow::Result<()> {
        let oldest = self.state.oldest.take();
        let is_resync = oldest.is_none();
        let attempt = Attempt {
            engine: self.engine.take().context("the engine is away")?,
            dataplane: self.dataplane.take().context("the dataplane is away")?,
            waiting: core::mem::take(&mut self.state.waiting),
            mode: self.mode,
            backend: self.backend,
            // A second look at the kernel is a look at everything; what was printed is not printed again.
            is_enforced: self.is_enforced && (!is_resync || self.mode == Mode::Print),
            generation: self.generation,
        };
        // If this panics the process ends and is started anew; the rules stay in force.
        let work = tokio::task::spawn_blocking(move || attempt.run());
        let outcome = work.await.context("the dataplane panicked")?;
        let Outcome { engine, dataplane, diagnostics, engine_time, sync_time, result, generations } =
            outcome;
        let ruleset = engine.snapshot();
        let metrics = &self.shared.metrics;
        metrics.counts(self.state.counts());
        metrics.compiled(engine_time, ruleset, diagnostics.len());
        let diagnostics: BTreeSet<Diagnostic> = diagnostics.into_iter().collect();
        for diagnostic in diagnostics.difference(&self.told) {
            tracing::warn!("{diagnostic}");
        }
        self.told = diagnostics;
        self.is_enforced = result.is_ok();
        let failure = match result {
            Ok(()) => {
                metrics.synced(sync_time, "enforced");
                let (before, after) = generations;
                self.generation = after;
                if is_resync && self.failures == 0 {
                    metrics.resynced();
                    if before != after {
                        metrics.repaired();
                        tracing::warn!("another program had changed the rules; they are back");
                    }
                }
                if let Some(oldest) = oldest {
                    metrics.enforced(oldest.elapsed());
                    tracing::debug!(
                        endpoints = ruleset.endpoints().len(),
                        pipelines = ruleset.pipelines().len(),
                        latency = ?oldest.elapsed(),
                        "enforced"
                    );
                }
                if core::mem::take(&mut self.failures) > 0 {
                    tracing::info!("enforced again after failures");
                }
                self.next = Moment::now() + self.resync;
                None
            }
            Err(error) => {
                metrics.synced(sync_time, "failed");
                // Still waiting, since it was heard first.
                self.state.oldest = oldest.or(Some(Instant::now()));
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.failures.min(10));
                let pause = pause.min(LONGEST_PAUSE);
                self.failures = self.failures.saturating_add(1);
                self.next = Moment::now() + pause;
                let why = chain(&error);
                tracing::error!(reason = %why, attempts = self.failures, ?pause, "cannot enforce; the old rules stay in force");
                Some(format!("the last attempt to enforce failed: {why}"))
            }
        };
        (self.engine, self.dataplane) = (Some(engine), Some(dataplane));
        let mut status = self.shared.status();
        status.failure = failure;
        status.oldest = self.state.oldest;
        Ok(())
    }
}

impl Attempt {
    fn run(self) -> Outcome {
        let Self { mut engine, mut dataplane, waiting, mode, backend, is_enforced, generation } =
            self;
        let began = Instant::now();
        let delta = engine.apply_batch(waiting);
        let engine_time = began.elapsed();
        let before = of_kernel(mode, dataplane.as_mut());
        // A difference to what somebody else has changed leads nowhere.
        let is_ours = is_enforced && before == generation;
        let ruleset = engine.snapshot();
        let began = Instant::now();
        let result = match mode {
            // Nothing of what changed concerns this node.
            _ if delta.is_empty() && is_ours => Ok(()),
            Mode::Enforce if is_ours => dataplane.update(ruleset, &delta).map(drop),
            Mode::Enforce => dataplane.sync(ruleset),
            Mode::Print => dataplane::program(backend, ruleset)
                .map(|program| print(&program))
                .map_err(SyncError::from),
        };
        let sync_time = began.elapsed();
        let generations = (before, of_kernel(mode, dataplane.as_mut()));
        let diagnostics = engine.diagnostics();
        Outcome { engine, dataplane, diagnostics, engine_time, sync_time, result, generations }
    }
}

fn of_kernel(mode: Mode, dataplane: &mut dyn Kernel) -> Option<u32> {
    match mode {
        Mode::Enforce => dataplane.generation().ok().flatten(),
        Mode::Print => None,
    }
}

#[expect(clippy::print_stdout, reason = "the answer of a dry run")]
fn print(program: &str) {
    println!("{program}");
}

/// An error with its causes, in one line.
fn chain(error: &dyn core::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, Ordering};
    use core::time::Duration;
    use std::time::Instant;

    use alloc::sync::Arc;
    use clap::Parser as _;
    use netpol_core::backend::{Dataplane, SyncError};
    use netpol_core::ir::Ruleset;
    use netpol_k8s::watch::Change;

    use super::Agent;
    use crate::cli::Cli;
    use crate::dataplane::Kernel;
    use crate::status::Shared;

    /// Fails until told otherwise.
    #[derive(Debug)]
    struct Failing(Arc<AtomicBool>);

    impl Kernel for Failing {
        fn generation(&mut self) -> Result<Option<u32>, SyncError> {
            Ok(None)
        }
    }

    impl Dataplane for Failing {
        fn sync(&mut self, _: &Ruleset) -> Result<(), SyncError> {
            if self.0.load(Ordering::Relaxed) {
                return Err(SyncError::refused("table inet netpol", "no memory"));
            }
            Ok(())
        }

        fn remove(&mut self) -> Result<(), SyncError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_and_tried_again_after_growing_pauses_until_it_is_over() {
        let cli = Cli::parse_from(["netpol-agent", "--node-name", "n"]);
        let (fails, shared) = (Arc::new(AtomicBool::new(true)), Shared::new());
        let dataplane = Box::new(Failing(fails.clone()));
        let mut agent = Agent::new(&cli.run, shared.clone(), dataplane).unwrap();
        let heard = Instant::now();
        agent.state.take(Change::InSync, heard);
        shared.status().is_synced = true;
        let mut pauses = vec![];
        for _ in 0..8 {
            agent.enforce().await.unwrap();
            pauses.push(agent.next.saturating_duration_since(tokio::time::Instant::now()));
        }
        assert!(pauses[0] <= Duration::from_millis(100), "{pauses:?}");
        assert!(pauses[3] > Duration::from_millis(700), "{pauses:?}");
        assert!(pauses[7] <= Duration::from_secs(5), "{pauses:?}");
        let complaints = shared.status().complaints();
        let told =
            "the last attempt to enforce failed: the kernel refused table inet netpol: no memory";
        assert_eq!(complaints, [told]);
        assert_eq!(shared.status().oldest, Some(heard), "what waits is the change heard first");
        fails.store(false, Ordering::Relaxed);
        agent.enforce().await.unwrap();
        assert_eq!(shared.status().complaints(), Vec::<String>::new());
        assert_eq!(shared.status().oldest, None);
        let metrics = shared.metrics.text(&shared.status());
        assert!(metrics.contains("netpol_agent_applies_total{outcome=\"failed\"} 8"), "{metrics}");
        assert!(
            metrics.contains("netpol_agent_applies_total{outcome=\"enforced\"} 1"),
            "{metrics}"
        );
    }
}
