//! The loop: takes what the watch tells, hands it to the enforcer, and answers those who ask.

use alloc::sync::Arc;
use core::time::Duration;
use std::time::Instant;

use anyhow::{Context as _, bail};
use netpol_core::backend::Dataplane;
use netpol_core::compile::Options;
use netpol_core::ir::{OwnNodeEgress, Scope, Settings};
use netpol_k8s::watch::{self, Change, Event, Failure, Watch, kind_of};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::cli::{Listing, OwnNode, RunArgs};
use crate::counts::Counts;
use crate::dataplane::{self, Chosen, Printer};
use crate::denied::DeniedFlows;
use crate::enforcer::{Enforcer, Mode, chain};
use crate::explain::{self, Question};
use crate::status::Shared;
use crate::strict;

/// The most events that are taken before the kernel gets its turn.
const BATCH: usize = 10_000;

/// How often reports of denied flows are fetched.
const DENIALS: Duration = Duration::from_millis(250);

/// Something that only the loop can answer.
#[derive(Debug)]
pub(crate) enum Request {
    /// Why a flow is allowed or denied.
    Explain(Question, oneshot::Sender<Result<String, String>>),
    /// Bring the metrics up to date.
    Measure(oneshot::Sender<()>),
}

pub(crate) struct Agent {
    node: String,
    drift_check: Duration,
    ends_after_first: bool,
    shared: Arc<Shared>,
    enforcer: Enforcer,
    /// The other backends, until what they may have left here is taken out.
    others: Vec<(Chosen, Box<dyn Dataplane>)>,
    denied: DeniedFlows,
    counts: Counts,
}

/// Opens the dataplane, follows the API server and enforces, until SIGTERM or SIGINT, which leave the rules as they are.
pub(crate) async fn run(
    args: &RunArgs,
    client: kube::Client,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
) -> anyhow::Result<()> {
    if args.node_name.is_empty() {
        bail!("`--node-name` or the environment variable `NODE_NAME` is needed");
    }
    let watch_options = watch::Options {
        listing: match args.listing {
            Listing::Pages => watch::Listing::Pages,
            Listing::Streaming => watch::Listing::Streaming,
        },
        ..watch::Options::default()
    };
    let (chosen, dataplane) = dataplane::open(&args.dataplane)?;
    tracing::info!(backend = chosen.name(), node = %args.node_name, "opened");
    let own_node_egress = match args.own_node_egress {
        OwnNode::Allow => OwnNodeEgress::Allow,
        OwnNode::Enforce => OwnNodeEgress::Enforce,
    };
    let options = Options {
        scope: Scope::Node(args.node_name.as_str().into()),
        settings: Settings { own_node_egress, ..Settings::default() },
        pod_ranges: strict::pod_ranges(args, &client, &watch_options).await?,
    };
    let (mode, others) = if args.dry_run {
        (Mode::Print(Printer { chosen, args: args.dataplane.clone() }), Vec::new())
    } else {
        (Mode::Enforce, dataplane::others(Some(chosen), &args.dataplane)?)
    };
    let agent = Agent {
        node: args.node_name.clone(),
        drift_check: args.drift_check,
        ends_after_first: args.once,
        enforcer: Enforcer::new(options, dataplane, mode, args.resync, shared.clone()),
        shared,
        others,
        denied: DeniedFlows::new(args.log_denied),
        counts: Counts::default(),
    };
    agent.run(Watch::start(client, watch_options), requests).await
}

impl Agent {
    async fn run(
        mut self,
        mut watch: Watch,
        mut requests: mpsc::Receiver<Request>,
    ) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut turns = tokio::time::interval(self.drift_check);
        let mut denials = tokio::time::interval(DENIALS);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        denials.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tracing::info!("listing; the rules found from before stay in force");
        loop {
            self.shared.status().beat = Instant::now();
            tokio::select! {
                event = watch.next() => {
                    let event = event.context("the watch ended by itself")?;
                    self.take(event, &mut watch);
                }
                Some(request) = requests.recv() => self.answer(request, &watch),
                _ = turns.tick() => self.enforcer.turn(),
                _ = denials.tick() => {
                    if let Some(denials) = self.enforcer.denials() {
                        self.denied.take(&denials, &self.enforcer.engine, &self.shared.metrics);
                    }
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
            if self.enforcer.is_enforced() {
                self.take_out_others();
                if self.ends_after_first {
                    break;
                }
            }
        }
        tracing::info!("ending; the rules stay in force");
        Ok(())
    }

    /// Takes an event and all that wait behind it, as one batch.
    fn take(&mut self, event: Event, watch: &mut Watch) {
        let (mut changes, mut oldest) = (Vec::new(), None);
        let mut next = Some(event);
        while let Some(event) = next {
            if let Event::Change { change, heard } = event {
                oldest.get_or_insert(heard);
                self.note(&change);
                changes.push(change);
            } else {
                self.hear(event);
            }
            next = if changes.len() < BATCH { watch.try_next() } else { None };
        }
        if let Some(oldest) = oldest {
            self.enforcer.take(changes, oldest);
        }
    }

    fn note(&self, change: &Change) {
        match kind_of(change) {
            Some(kind) => self.shared.metrics.heard(kind),
            None => self.shared.status().is_synced = true,
        }
    }

    /// Hears how the watch is.
    fn hear(&self, event: Event) {
        let metrics = &self.shared.metrics;
        match event {
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
            event @ (Event::Change { .. } | _) => {
                tracing::debug!(?event, "an event of another kind");
            }
        }
    }

    /// Nobody who asks has to be there still when the answer comes.
    fn answer(&mut self, request: Request, watch: &Watch) {
        match request {
            Request::Explain(question, answer) => {
                let _ = answer.send(explain::answer(&self.node, &mut self.enforcer, &question));
            }
            Request::Measure(done) => {
                let metrics = &self.shared.metrics;
                metrics.counts(watch.counts());
                metrics.ruleset(self.enforcer.engine.snapshot(), self.enforcer.atoms());
                if let Some(counters) = self.enforcer.counters() {
                    self.counts.take(counters, metrics);
                }
                let _ = done.send(());
            }
        }
    }

    /// What another backend left here would be enforced beside ours, and never change again. It is taken out as soon as
    /// ours is in force, so that no moment is without rules.
    fn take_out_others(&mut self) {
        for (other, mut dataplane) in self.others.drain(..) {
            if let Err(error) = dataplane.remove() {
                tracing::debug!(backend = other.name(), reason = %chain(&error), "nothing could be taken out");
            }
        }
    }
}
