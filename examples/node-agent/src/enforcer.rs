//! The engine and the kernel: what changed becomes what is enforced, or is tried again; what others change is put back.
//!
//! One thread does all of it, in turn: nothing can be seen half done.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::time::Duration;
use std::time::Instant;

use netpol_core::backend::{Counter, Dataplane, Denials, Drift, SyncError, Updated};
use netpol_core::compile::{Diagnostic, Options};
use netpol_core::engine::{Delta, Engine};
use netpol_core::model::Cluster;
use netpol_k8s::watch::{self, Change};

use crate::dataplane::Printer;
use crate::status::Shared;

/// The pauses after failures to enforce.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Looking at everything in the kernel takes one part in so many of the time, unless that made a pause longer than drift may
/// last: others are seen at it only where the backend cannot tell theirs from ours.
const LOOK_SHARE: u32 = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(300);
const LONGEST_LOOK_PAUSE: Duration = Duration::from_millis(700);

/// How often the policies are looked through for oddities while they change.
const DIAGNOSE_PAUSE: Duration = Duration::from_secs(1);

/// Keeps one node's kernel as the objects say.
pub(crate) struct Enforcer {
    pub(crate) engine: Engine,
    /// The policies as they were written, for explanations. The rest is asked of the engine.
    pub(crate) policies: Cluster,
    dataplane: Box<dyn Dataplane>,
    mode: Mode,
    shared: Arc<Shared>,
    resync: Duration,
    /// What the engine said last is in force, as far as we know.
    is_enforced: bool,
    /// When the first change was heard that is not enforced yet.
    oldest: Option<Instant>,
    failures: u32,
    /// When the kernel is made so again: after a failure, or to be sure.
    next: Instant,
    /// Somebody else may have changed our rules since they were looked at.
    is_suspicious: bool,
    /// Not before this are they looked at.
    next_look: Instant,
    offers: Offers,
    is_diagnosed: bool,
    next_diagnosis: Instant,
    told: BTreeSet<Diagnostic>,
}

/// What becomes of a ruleset.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Enforce,
    /// Said, and not done.
    Print(Printer),
}

/// What the backend has not said it cannot do.
#[derive(Debug)]
struct Offers {
    counting: bool,
    denials: bool,
    verifying: bool,
}

impl Enforcer {
    pub(crate) fn new(
        options: Options,
        dataplane: Box<dyn Dataplane>,
        mode: Mode,
        resync: Duration,
        shared: Arc<Shared>,
    ) -> Self {
        let now = Instant::now();
        Self {
            engine: Engine::new(options),
            policies: Cluster::default(),
            dataplane,
            mode,
            shared,
            resync,
            is_enforced: false,
            oldest: None,
            failures: 0,
            next: now,
            is_suspicious: false,
            next_look: now,
            offers: Offers { counting: true, denials: true, verifying: true },
            is_diagnosed: true,
            next_diagnosis: now,
            told: BTreeSet::new(),
        }
    }

    /// What the engine says is in force.
    pub(crate) const fn is_enforced(&self) -> bool {
        self.is_enforced
    }

    /// Takes what changed, and makes the kernel so unless it refused a moment ago.
    pub(crate) fn take(&mut self, changes: Vec<Change>, heard: Instant) {
        for change in &changes {
            if matches!(
                change,
                Change::PutNetworkPolicy(_)
                    | Change::PutClusterNetworkPolicy(_)
                    | Change::DeleteNetworkPolicy(_)
                    | Change::DeleteClusterNetworkPolicy(_)
            ) {
                watch::apply(change.clone(), &mut self.policies);
            }
        }
        let began = Instant::now();
        let delta = self.engine.apply_batch(changes);
        if !self.engine.is_in_sync() {
            // What was found from before stays in force until everything was listed.
            return;
        }
        self.shared.metrics.compiled(began.elapsed());
        self.oldest.get_or_insert(heard);
        self.is_diagnosed = false;
        if self.failures == 0 {
            self.enforce(&delta);
        }
        self.shared.status().oldest = self.oldest;
    }

    /// Does what is due by now: tries again, makes sure, looks for drift, tells of oddities.
    pub(crate) fn turn(&mut self) {
        if !self.engine.is_in_sync() {
            return;
        }
        let now = Instant::now();
        if now >= self.next {
            if self.is_enforced {
                self.shared.metrics.resynced();
                self.repair();
            } else {
                self.enforce(&Delta::default());
            }
        } else if self.is_enforced && self.mode == Mode::Enforce {
            self.listen(now);
        }
        if !self.is_diagnosed && now >= self.next_diagnosis {
            self.diagnose(now);
        }
        self.shared.status().oldest = self.oldest;
    }

    /// Returns how many atoms are in force, where the backend has any.
    pub(crate) fn atoms(&self) -> Option<usize> {
        self.dataplane.atoms()
    }

    /// Returns what was counted since it was put in force; `None` where that is not offered or cannot be read.
    pub(crate) fn counters(&mut self) -> Option<Vec<Counter>> {
        if !self.offers.counting || !self.is_enforced || self.mode != Mode::Enforce {
            return None;
        }
        let counters = self.dataplane.counters();
        self.told_or_not(counters, "packets", |offers| &mut offers.counting)
    }

    /// Returns the denied flows that were reported since the last call.
    pub(crate) fn denials(&mut self) -> Option<Denials> {
        if !self.offers.denials || !self.is_enforced || self.mode != Mode::Enforce {
            return None;
        }
        let denials = self.dataplane.denials();
        self.told_or_not(denials, "denied flows", |offers| &mut offers.denials)
    }

    /// Makes the kernel so: by the delta, if what was there before it is in force, else whole. A failure keeps the rules
    /// that are in force.
    fn enforce(&mut self, delta: &Delta) {
        let began = Instant::now();
        let result = match &self.mode {
            _ if self.is_enforced && delta.is_empty() => Ok("unchanged"),
            Mode::Enforce if self.is_enforced => self.update(delta),
            Mode::Enforce => self.sync(),
            Mode::Print(printer) => {
                let program = printer.program(self.engine.snapshot());
                program.map(|program| self.print(&program)).map_err(SyncError::from)
            }
        };
        self.enforced(result, delta, began.elapsed());
    }

    fn update(&mut self, delta: &Delta) -> Result<&'static str, SyncError> {
        // Asked before we write ourselves, which answers the question for the kernel.
        self.is_suspicious |= self.dataplane.may_have_drifted().unwrap_or(true);
        match self.dataplane.update(self.engine.snapshot(), delta) {
            Ok(Updated::ByDelta) => Ok("by-delta"),
            Ok(Updated::BySync) => Ok("by-sync"),
            Err(error) => {
                self.shared.metrics.failed_to_apply(reason(&error));
                tracing::debug!(reason = %chain(&error), "the change alone does not do; the whole is put in force");
                self.sync()
            }
        }
    }

    fn sync(&mut self) -> Result<&'static str, SyncError> {
        self.dataplane.sync(self.engine.snapshot())?;
        self.is_suspicious = false;
        Ok("whole")
    }

    fn print(&mut self, program: &str) -> &'static str {
        let changes = match self.dataplane.verify(self.engine.snapshot()) {
            Ok(drift) if drift.is_empty() => "# nothing\n".to_owned(),
            Ok(drift) => drift.iter().map(|drift| format!("# {drift}\n")).collect(),
            Err(error) => format!("# everything, as far as can be seen: {}\n", chain(&error)),
        };
        print(&format!("# what would change, and the program:\n{changes}{program}"));
        "printed"
    }

    fn enforced(&mut self, result: Result<&'static str, SyncError>, delta: &Delta, took: Duration) {
        let now = Instant::now();
        let metrics = &self.shared.metrics;
        self.is_enforced = result.is_ok();
        let failure = match result {
            Ok(how) => {
                metrics.synced(took, how);
                metrics.applied(delta);
                if let Some(oldest) = self.oldest.take() {
                    metrics.enforced(oldest.elapsed());
                    let ruleset = self.engine.snapshot();
                    tracing::debug!(
                        endpoints = ruleset.endpoints().len(),
                        pipelines = ruleset.pipelines().len(),
                        how,
                        latency = ?oldest.elapsed(),
                        "enforced"
                    );
                }
                if core::mem::take(&mut self.failures) > 0 {
                    tracing::info!("enforced again after failures");
                }
                if how == "whole" {
                    self.next = now + self.resync;
                }
                None
            }
            Err(error) => {
                metrics.synced(took, "failed");
                metrics.failed_to_apply(reason(&error));
                self.oldest.get_or_insert(now);
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.failures.min(10));
                let pause = pause.min(LONGEST_PAUSE);
                self.failures = self.failures.saturating_add(1);
                self.next = now + pause;
                let why = chain(&error);
                let waits = self.oldest.map_or(Duration::ZERO, |oldest| oldest.elapsed());
                tracing::error!(
                    reason = %why, attempts = self.failures, ?pause, oldest_change = ?waits,
                    "cannot enforce; the old rules stay in force"
                );
                Some(format!("the last attempt to enforce failed: {why}"))
            }
        };
        let mut status = self.shared.status();
        status.failure = failure;
        status.oldest = self.oldest;
    }

    /// Hears whether somebody wrote; if so, looks whether it was ours, and puts it back.
    fn listen(&mut self, now: Instant) {
        if !self.is_suspicious {
            match self.dataplane.may_have_drifted() {
                Ok(may) => self.is_suspicious = may,
                Err(error) => {
                    tracing::debug!(reason = %chain(&error), "the kernel cannot be heard");
                    self.is_suspicious = true;
                }
            }
        }
        if self.is_suspicious && now >= self.next_look {
            self.repair();
        }
    }

    /// Compares what is there with what should be, and puts it back where it differs.
    fn repair(&mut self) {
        let began = Instant::now();
        self.next = began + self.resync;
        let found = match &self.mode {
            Mode::Enforce => self.verify(),
            Mode::Print(_) => return,
        };
        let drift = match found {
            Some(Ok(drift)) => {
                self.is_suspicious = false;
                drift
            }
            Some(Err(error)) => {
                tracing::warn!(reason = %chain(&error), "what is enforced cannot be read; it is put in force again");
                Vec::new()
            }
            None => Vec::new(),
        };
        if !drift.is_empty() {
            let first: Vec<String> = drift.iter().take(3).map(ToString::to_string).collect();
            tracing::warn!(objects = drift.len(), first = %first.join("; "), "another program has changed the rules");
        }
        // What cannot be compared is made so, which changes nothing where nothing differs.
        if self.is_suspicious || !drift.is_empty() {
            let result = self.sync();
            if result.is_ok() && !drift.is_empty() {
                self.shared.metrics.repaired(drift.len());
                tracing::info!(took = ?began.elapsed(), "what another program had changed is put back");
            }
            self.enforced(result, &Delta::default(), began.elapsed());
        }
        let took = began.elapsed();
        let pause = (took * LOOK_SHARE).clamp(LOOK_PAUSE, LONGEST_LOOK_PAUSE);
        self.next_look = Instant::now() + pause;
    }

    /// `None` where it is not offered.
    fn verify(&mut self) -> Option<Result<Vec<Drift>, SyncError>> {
        if !self.offers.verifying {
            return None;
        }
        match self.dataplane.verify(self.engine.snapshot()) {
            Err(SyncError::Missing { what, hint }) => {
                self.offers.verifying = false;
                tracing::info!(%what, %hint, "drift is not looked for, but written over");
                None
            }
            found => Some(found),
        }
    }

    fn diagnose(&mut self, now: Instant) {
        self.is_diagnosed = true;
        self.next_diagnosis = now + DIAGNOSE_PAUSE;
        let diagnostics: BTreeSet<Diagnostic> = self.engine.diagnostics().into_iter().collect();
        for diagnostic in diagnostics.difference(&self.told) {
            tracing::warn!("{diagnostic}");
        }
        self.shared.metrics.diagnosed(diagnostics.len());
        self.told = diagnostics;
    }

    fn told_or_not<T>(
        &mut self,
        told: Result<T, SyncError>,
        what: &'static str,
        offer: impl FnOnce(&mut Offers) -> &mut bool,
    ) -> Option<T> {
        match told {
            Ok(told) => Some(told),
            Err(SyncError::Missing { what: missing, hint }) => {
                *offer(&mut self.offers) = false;
                tracing::info!(missing = %missing, %hint, "{what} are not told");
                None
            }
            Err(error) => {
                tracing::debug!(reason = %chain(&error), "{what} cannot be read now");
                None
            }
        }
    }
}

/// A short word that tells failures apart, for metrics.
fn reason(error: &SyncError) -> &'static str {
    match error {
        SyncError::Lower(_) => "does-not-lower",
        SyncError::Missing { .. } => "missing",
        SyncError::Refused { .. } => "refused",
        _ => "other",
    }
}

#[expect(clippy::print_stdout, reason = "the answer of a dry run")]
fn print(program: &str) {
    println!("{program}");
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn core::error::Error) -> String {
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
mod tests;
