//! What only the inside can bring about: sets without room, rules that cannot be written.
#![expect(clippy::unwrap_used, reason = "test support")]

use alloc::sync::Arc;
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use netpol_conformance::events::puts;
use netpol_conformance::workload::{self, MEDIUM, MINIMAL, Profile};
use netpol_core::backend::{Dataplane as _, SyncError, Updated};
use netpol_core::compile::Options;
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::{Ruleset, Scope};
use netpol_core::model::{Cluster, Pod};

use super::{Established, FAMILIES, IptablesDataplane, Variant};
use crate::Iptables;
use crate::lower::role::Role;

/// Runs a test in network and mount namespaces of its own, with a lock of its own, for each variant.
fn in_namespace(test: fn(Variant)) {
    for variant in [Variant::Nft, Variant::Legacy] {
        let run = std::thread::spawn(move || {
            let flags = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_FS;
            // SAFETY: the strings end in a zero; only this thread moves, which ends with the test.
            #[expect(unsafe_code, reason = "there is no safe way into a namespace")]
            let entered = unsafe {
                let nothing = core::ptr::null();
                libc::unshare(flags) == 0
                    && libc::mount(
                        c"none".as_ptr(),
                        c"/".as_ptr(),
                        nothing,
                        libc::MS_REC | libc::MS_PRIVATE,
                        core::ptr::null(),
                    ) == 0
                    && libc::mount(
                        c"none".as_ptr(),
                        c"/run".as_ptr(),
                        c"tmpfs".as_ptr(),
                        0,
                        core::ptr::null(),
                    ) == 0
            };
            if entered {
                test(variant);
            }
            entered
        });
        let required = std::env::var_os("NETPOL_REQUIRE_KERNEL").is_some_and(|value| value == "1");
        match run.join() {
            Ok(entered) => assert!(entered || !required, "no privilege to make a namespace"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// A small cluster, as one of its nodes sees it.
fn small(pods: usize, profile: Profile) -> (Cluster, Engine) {
    let cluster = workload::cluster(pods, 20, profile);
    let engine = |node: &Arc<str>| {
        let scope = Scope::Node(node.clone());
        let mut engine = Engine::new(Options { scope, ..Options::default() });
        engine.apply_batch(puts(&cluster).into_iter().chain([Event::InSync]));
        engine
    };
    let members = |engine: &Engine| -> usize {
        engine.snapshot().peer_sets().map(|(_, set)| set.addresses.len()).sum()
    };
    let engine = cluster.nodes.keys().map(engine).max_by_key(members).unwrap();
    (cluster, engine)
}

/// Takes away and puts back every pod; calls with each change.
fn churn(cluster: &Cluster, engine: &mut Engine, mut each: impl FnMut(&Ruleset, &Delta)) {
    for pod in cluster.pods.values() {
        for event in [Event::DeletePod(pod.meta.object.clone()), Event::PutPod(pod.clone())] {
            let delta = engine.apply(event);
            if !delta.is_empty() {
                each(engine.snapshot(), &delta);
            }
        }
    }
}

#[test]
fn sets_grow_before_they_are_full() {
    in_namespace(|variant| {
        let (cluster, mut engine) = small(60, MINIMAL);
        let mut dataplane = IptablesDataplane::with_variant(variant);
        dataplane.sync(engine.snapshot()).unwrap();
        let mut full = 0;
        churn(&cluster, &mut engine, |ruleset, delta| {
            let held = dataplane.home.as_mut().unwrap().held.as_mut().unwrap();
            let peers: Vec<_> = held
                .layout
                .roles
                .iter()
                .filter(|(_, (_, role))| {
                    matches!(role, Role::Peers(_) | Role::Ports(_) | Role::Bound(..))
                })
                .map(|(name, _)| name.clone())
                .collect();
            for name in &peers {
                let fill = held.fills.get_mut(name).unwrap();
                fill.room = fill.members;
            }
            assert_eq!(dataplane.update(ruleset, delta).unwrap(), Updated::ByDelta);
            let held = dataplane.home.as_ref().unwrap().held.as_ref().unwrap();
            full += peers
                .iter()
                .filter(|name| held.fills.get(*name).is_some_and(|fill| fill.room > fill.members))
                .count();
            assert_eq!(dataplane.verify(ruleset).unwrap(), []);
        });
        assert!(full > 5, "{full} sets grew");
    });
}

#[test]
fn a_peer_that_comes_or_goes_touches_no_rule_and_takes_no_lock() {
    in_namespace(|variant| {
        let (cluster, mut engine) = small(300, MEDIUM);
        let mut dataplane = IptablesDataplane::with_variant(variant).with_patience(1);
        dataplane.sync(engine.snapshot()).unwrap();
        let rules = || {
            FAMILIES.map(|family| {
                variant.save(family).unwrap().replace(|c: char| c.is_ascii_digit(), "")
            })
        };
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open("/run/xtables.lock")
            .unwrap();
        let before = rules();
        // SAFETY: no pointers.
        #[expect(unsafe_code, reason = "the standard library of this version locks in another way")]
        let locked = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) };
        assert_eq!(locked, 0);
        let node = engine.snapshot().scope().clone();
        let remote = |pod: &Pod| Some(node.clone()) != pod.node.clone().map(Scope::Node);
        let mut changes = 0;
        for pod in cluster.pods.values().filter(|pod| remote(pod)) {
            for event in [Event::DeletePod(pod.meta.object.clone()), Event::PutPod(pod.clone())] {
                let delta = engine.apply(event);
                if !delta.is_empty() {
                    let how = dataplane.update(engine.snapshot(), &delta).unwrap();
                    assert_eq!(how, Updated::ByDelta);
                    changes += 1;
                }
            }
        }
        assert!(changes > 20, "{changes} changes");
        assert_eq!(rules(), before);
        drop(lock);
        assert_eq!(dataplane.verify(engine.snapshot()).unwrap(), []);
    });
}

#[test]
fn a_lock_that_others_hold_is_waited_for_and_then_named() {
    in_namespace(|variant| {
        let (_, engine) = small(60, MINIMAL);
        let mut dataplane = IptablesDataplane::with_variant(variant).with_patience(1);
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .open("/run/xtables.lock")
            .unwrap();
        // SAFETY: no pointers.
        #[expect(unsafe_code, reason = "the standard library of this version locks in another way")]
        let locked = unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) };
        assert_eq!(locked, 0);
        let begun = Instant::now();
        let synced = dataplane.sync(engine.snapshot());
        match variant {
            // nf_tables has transactions, and no lock.
            Variant::Nft => synced.unwrap(),
            Variant::Legacy => match synced {
                Err(error @ SyncError::Refused { .. }) => {
                    let source = Arc::new(error);
                    let cause = core::error::Error::source(&*source).unwrap().to_string();
                    assert!(cause.contains("xtables.lock"), "{cause}");
                    assert!(begun.elapsed().as_millis() >= 900);
                }
                result => panic!("{result:?}"),
            },
        }
        drop(lock);
        dataplane.sync(engine.snapshot()).unwrap();
        assert_eq!(dataplane.verify(engine.snapshot()).unwrap(), []);
    });
}

#[test]
fn kept_connections_and_missing_types_lower_to_less() {
    in_namespace(|variant| {
        let (cluster, mut engine) = small(60, MINIMAL);
        let options = Iptables { merged: false, reports: None, ..Iptables::default() };
        let mut dataplane = IptablesDataplane::with_variant(variant)
            .with_options(options)
            .with_established(Established::Keep);
        dataplane.sync(engine.snapshot()).unwrap();
        churn(&cluster, &mut engine, |ruleset, delta| {
            assert_eq!(dataplane.update(ruleset, delta).unwrap(), Updated::ByDelta);
        });
        assert_eq!(dataplane.verify(engine.snapshot()).unwrap(), []);
        let rules = FAMILIES.map(|family| variant.save(family).unwrap()).concat();
        assert!(
            !rules.contains("CONNMARK") && !rules.contains("NFLOG") && rules.contains("NETPOL-I-")
        );
    });
}
