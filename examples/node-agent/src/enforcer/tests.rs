//! The enforcer over a dataplane that fails, drifts and counts calls on command.

use alloc::sync::Arc;
use core::time::Duration;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use netpol_core::backend::{Dataplane, Difference, Drift, SyncError, Updated};
use netpol_core::compile::Options;
use netpol_core::engine::Delta;
use netpol_core::ir::Ruleset;
use netpol_core::model::{Labels, NetworkPolicy, ObjectMeta, Phase, Pod};
use netpol_k8s::watch::Change;

use super::{Enforcer, Mode};
use crate::status::Shared;

#[derive(Debug, Default)]
struct Kernel {
    /// What is in force.
    ruleset: Option<Ruleset>,
    fails: bool,
    refuses_deltas: bool,
    /// Somebody else has changed what is in force, and whether that was heard since the last call that looked or wrote.
    drifted: bool,
    is_heard: bool,
    calls: Vec<&'static str>,
}

#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<Kernel>>);

impl Fake {
    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }

    fn drift(&self) {
        let mut kernel = self.kernel();
        (kernel.drifted, kernel.is_heard) = (true, true);
    }

    fn calls(&self) -> Vec<&'static str> {
        core::mem::take(&mut self.kernel().calls)
    }
}

impl Dataplane for Fake {
    fn sync(&mut self, ruleset: &Ruleset) -> Result<(), SyncError> {
        let mut kernel = self.kernel();
        kernel.calls.push("sync");
        if kernel.fails {
            return Err(SyncError::refused("table inet netpol", "no memory"));
        }
        kernel.ruleset = Some(ruleset.clone());
        (kernel.drifted, kernel.is_heard) = (false, false);
        Ok(())
    }

    fn update(&mut self, ruleset: &Ruleset, delta: &Delta) -> Result<Updated, SyncError> {
        let mut kernel = self.kernel();
        kernel.calls.push("update");
        if kernel.fails || kernel.refuses_deltas {
            return Err(SyncError::refused("set s1", "no such set"));
        }
        let mut there = kernel.ruleset.take().unwrap();
        there.apply(delta).unwrap();
        assert_eq!(there, *ruleset, "the delta leads from what is there to what should be");
        kernel.ruleset = Some(there);
        kernel.is_heard = false;
        Ok(Updated::ByDelta)
    }

    fn verify(&mut self, _: &Ruleset) -> Result<Vec<Drift>, SyncError> {
        let mut kernel = self.kernel();
        kernel.calls.push("verify");
        let drift = Drift { object: "chain forward".into(), difference: Difference::Missing };
        Ok(kernel.drifted.then_some(drift).into_iter().collect())
    }

    fn may_have_drifted(&mut self) -> Result<bool, SyncError> {
        Ok(self.kernel().is_heard)
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        Ok(())
    }
}

fn enforcer(fake: &Fake) -> (Enforcer, Arc<Shared>) {
    let shared = Shared::new();
    let dataplane = Box::new(fake.clone());
    let hour = Duration::from_secs(3600);
    (Enforcer::new(Options::default(), dataplane, Mode::Enforce, hour, shared.clone()), shared)
}

fn pod(name: &str, last: u8) -> Change {
    let meta = ObjectMeta::new("x", name, Labels::default());
    let addresses = vec![[10, 0, 0, last].into()];
    Change::PutPod(Pod { meta, phase: Phase::Running, addresses, ..Pod::default() })
}

fn policy(name: &str) -> Change {
    let meta = ObjectMeta::new("x", name, Labels::default());
    Change::PutNetworkPolicy(NetworkPolicy { meta, ..NetworkPolicy::default() })
}

#[test]
fn nothing_is_enforced_before_everything_was_listed_then_all_at_once_then_by_delta() {
    let fake = Fake::default();
    let (mut enforcer, _) = enforcer(&fake);
    enforcer.take(vec![pod("a", 1), policy("p")], Instant::now());
    enforcer.turn();
    assert_eq!(fake.calls(), Vec::<&str>::new());
    enforcer.take(vec![Change::InSync], Instant::now());
    assert_eq!(fake.calls(), ["sync"]);
    enforcer.take(vec![pod("b", 2)], Instant::now());
    assert_eq!(fake.calls(), ["update"]);
    enforcer.take(vec![pod("b", 2)], Instant::now());
    assert_eq!(
        fake.calls(),
        Vec::<&str>::new(),
        "what repeats what is known costs the kernel nothing"
    );
    assert_eq!(fake.kernel().ruleset.as_ref(), Some(enforcer.engine.snapshot()));
}

#[test]
fn a_failure_is_told_and_tried_again_after_growing_pauses_until_it_is_over() {
    let fake = Fake::default();
    let (mut enforcer, shared) = enforcer(&fake);
    shared.status().is_synced = true;
    fake.kernel().fails = true;
    let heard = Instant::now();
    enforcer.take(vec![pod("a", 1), Change::InSync], heard);
    let mut pauses = vec![];
    for number in 0..8 {
        pauses.push(enforcer.next.saturating_duration_since(Instant::now()));
        // What comes meanwhile is kept, and does not hurry.
        enforcer.take(vec![pod("b", number)], Instant::now());
        enforcer.next = Instant::now();
        enforcer.turn();
    }
    assert!(pauses[0] <= Duration::from_millis(100), "{pauses:?}");
    assert!(pauses[3] > Duration::from_millis(700), "{pauses:?}");
    assert!(pauses[7] <= Duration::from_secs(5), "{pauses:?}");
    assert_eq!(fake.calls(), ["sync"; 9]);
    let told =
        "the last attempt to enforce failed: the kernel refused table inet netpol: no memory";
    assert_eq!(shared.status().complaints(), [told]);
    assert_eq!(shared.status().oldest, Some(heard), "what waits is the change heard first");
    fake.kernel().fails = false;
    enforcer.next = Instant::now();
    enforcer.turn();
    assert_eq!(shared.status().complaints(), Vec::<String>::new());
    assert_eq!(shared.status().oldest, None);
    assert_eq!(fake.kernel().ruleset.as_ref(), Some(enforcer.engine.snapshot()));
    let metrics = shared.metrics.text(&shared.status());
    for line in [
        "netpol_agent_applies_total{outcome=\"failed\"} 9",
        "netpol_agent_applies_total{outcome=\"whole\"} 1",
        "netpol_agent_apply_failures_total{reason=\"refused\"} 9",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn a_change_that_is_refused_is_made_whole_at_once() {
    let fake = Fake::default();
    let (mut enforcer, shared) = enforcer(&fake);
    enforcer.take(vec![pod("a", 1), Change::InSync], Instant::now());
    fake.kernel().refuses_deltas = true;
    fake.calls();
    enforcer.take(vec![pod("b", 2)], Instant::now());
    assert_eq!(fake.calls(), ["update", "sync"]);
    assert_eq!(shared.status().failure, None);
    assert_eq!(fake.kernel().ruleset.as_ref(), Some(enforcer.engine.snapshot()));
}

#[test]
fn what_others_change_is_put_back_and_counted_also_if_we_write_in_between() {
    let fake = Fake::default();
    let (mut enforcer, shared) = enforcer(&fake);
    enforcer.take(vec![pod("a", 1), Change::InSync], Instant::now());
    enforcer.turn();
    assert_eq!(fake.calls(), ["sync"], "nobody wrote, so nothing is looked at");
    fake.drift();
    enforcer.turn();
    assert_eq!(fake.calls(), ["verify", "sync"]);
    fake.drift();
    enforcer.take(vec![pod("b", 2)], Instant::now());
    assert_eq!(fake.calls(), ["update"]);
    enforcer.turn();
    assert_eq!(fake.calls(), Vec::<&str>::new(), "looks have pauses");
    enforcer.next_look = Instant::now();
    enforcer.turn();
    assert_eq!(fake.calls(), ["verify", "sync"]);
    let metrics = shared.metrics.text(&shared.status());
    assert!(metrics.contains("netpol_agent_drift_repairs_total 2"), "{metrics}");
}
