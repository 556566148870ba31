//! What only the inside can bring about: sets without room, rules that cannot be written.
#![expect(clippy::unwrap_used, reason = "test support")]

use alloc::sync::Arc;
use std::fs::File;
use std::time::Instant;

use netpol_conformance::events::puts;
use netpol_conformance::workload::{self, MEDIUM, MINIMAL, Profile};
use netpol_core::backend::{Backend as _, Dataplane as _, SyncError, Updated};
use netpol_core::compile::Options;
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::{Ruleset, Scope};
use netpol_core::model::{Cluster, Pod};

use super::standby::Standby;
use super::{Established, FAMILIES, IptablesDataplane, Variant, sets};
use crate::Iptables;
use crate::lower::role::Role;
use crate::restore::Name;

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

/// What whoever changes the old tables locks.
fn lock_file() -> File {
    File::options().append(true).create(true).open("/run/xtables.lock").unwrap()
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
        let lock = lock_file();
        let before = rules();
        lock.lock().unwrap();
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
        let lock = lock_file();
        lock.lock().unwrap();
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

/// Changes what is asked of the node's pods in turns, so that rules are switched; calls after each.
fn switch(
    cluster: &Cluster,
    engine: &mut Engine,
    dataplane: &mut IptablesDataplane,
    mut each: impl FnMut(&mut IptablesDataplane, &Ruleset, Updated),
) {
    let policies: Vec<_> = cluster.network_policies.values().cloned().collect();
    let mut changes = 0;
    for policy in policies {
        let gone = Event::DeleteNetworkPolicy(policy.meta.object.clone());
        for event in [gone, Event::PutNetworkPolicy(policy)] {
            let delta = engine.apply(event);
            if delta.create.is_empty() && delta.delete.is_empty() {
                continue;
            }
            let how = dataplane.update(engine.snapshot(), &delta).unwrap();
            each(dataplane, engine.snapshot(), how);
            changes += 1;
        }
    }
    assert!(changes > 3, "{changes} changes");
}

fn waiting(dataplane: &IptablesDataplane) -> Vec<i32> {
    let home = dataplane.home.as_ref().unwrap();
    home.standby.iter().filter_map(Standby::waits).collect()
}

#[test]
fn the_commands_that_wait_are_used_hold_no_lock_and_end_with_the_dataplane() {
    in_namespace(|variant| {
        let (cluster, mut engine) = small(60, MINIMAL);
        let mut dataplane = IptablesDataplane::with_variant(variant);
        dataplane.sync(engine.snapshot()).unwrap();
        let first = waiting(&dataplane);
        assert!(!first.is_empty());
        switch(&cluster, &mut engine, &mut dataplane, |dataplane, ruleset, how| {
            assert_eq!((how, waiting(dataplane)), (Updated::ByDelta, first.clone()));
            // A lock that nobody else can have, for this is a file system of our own.
            lock_file().try_lock().unwrap();
            assert_eq!(dataplane.verify(ruleset).unwrap(), []);
        });
        dataplane.remove().unwrap();
        let runs = |id: &&i32| std::path::Path::new(&format!("/proc/{id}")).exists();
        assert_eq!(first.iter().filter(runs).count(), 0);
    });
}

#[test]
fn a_command_that_is_killed_while_it_waits_is_replaced() {
    in_namespace(|variant| {
        let (cluster, mut engine) = small(60, MINIMAL);
        let mut dataplane = IptablesDataplane::with_variant(variant);
        dataplane.sync(engine.snapshot()).unwrap();
        let (mut killed, mut rounds) = (0, 0);
        switch(&cluster, &mut engine, &mut dataplane, |dataplane, ruleset, how| {
            // One that is about to end may still be told something: what became of that is looked up.
            assert!(how == Updated::ByDelta || rounds % 2 == 1, "{rounds}");
            assert_eq!(dataplane.verify(ruleset).unwrap(), []);
            rounds += 1;
            for id in waiting(dataplane) {
                // SAFETY: no pointers; a child of ours that was not waited for.
                #[expect(unsafe_code, reason = "there is no safe way to send a signal")]
                let done = unsafe { libc::kill(id, libc::SIGKILL) };
                assert_eq!(done, 0);
                killed += 1;
                let state = || std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
                while rounds % 2 == 0 && !state().contains(") Z ") {
                    std::thread::yield_now();
                }
            }
        });
        assert!(killed > 3);
    });
}

#[test]
fn what_the_kernel_has_not_let_go_of_at_once_is_destroyed_later_and_is_no_drift() {
    in_namespace(|variant| {
        let (cluster, mut engine) = small(60, MINIMAL);
        let mut dataplane = IptablesDataplane::with_variant(variant);
        dataplane.sync(engine.snapshot()).unwrap();
        let until_clean = |dataplane: &mut IptablesDataplane| {
            let began = Instant::now();
            while !dataplane.home.as_ref().unwrap().garbage.is_empty() {
                assert!(!dataplane.may_have_drifted().unwrap());
                assert!(began.elapsed().as_secs() < 10);
            }
            assert!(!dataplane.may_have_drifted().unwrap());
        };
        switch(&cluster, &mut engine, &mut dataplane, |dataplane, ruleset, _| {
            until_clean(dataplane);
            let wanted = Iptables::default().lower(ruleset).unwrap().sets().iter().len();
            let there = super::ours(&dataplane.home.as_ref().unwrap().ipset).unwrap();
            assert_eq!(there.len(), wanted, "{there:?}");
        });
        // A rule of somebody else keeps a set that is of no use to us any more.
        let restore = |text: &str| {
            super::rules::restore(variant, FAMILIES[0], text, super::Patience(5)).unwrap();
        };
        let home = dataplane.home.as_mut().unwrap();
        let used = Iptables::default().lower(engine.snapshot()).unwrap();
        let (name, elements) = used.sets().iter().next().unwrap();
        let stale: Name = format!("{name}x").into();
        sets::create(&home.ipset, [(&stale, elements)]).unwrap();
        let rule = format!("-A OTHERS -m set --match-set {stale} src -j DROP");
        restore(&format!("*filter\n:OTHERS - [0:0]\n{rule}\nCOMMIT\n"));
        home.garbage.insert(stale.to_string());
        dataplane.sync_with(engine.snapshot()).unwrap();
        assert_eq!(dataplane.verify(engine.snapshot()).unwrap(), []);
        assert!(!dataplane.may_have_drifted().unwrap());
        assert!(dataplane.home.as_ref().unwrap().garbage.contains(stale.as_ref()));
        restore("*filter\n-F OTHERS\n-X OTHERS\nCOMMIT\n");
        assert_eq!(dataplane.verify(engine.snapshot()).unwrap(), []);
        until_clean(&mut dataplane);
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
