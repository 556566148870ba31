//! Agents that are killed, again and again: enforcement never notices.

use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::time::Instant;

use netpol_conformance::cases::e2e;
use netpol_conformance::netlab::{End, Observation};
use netpol_core::ir::Family;
use netpol_core::model::ObjectRef;
use serde_json::json;

use crate::fleet::{Backend, Fleet, Setup};
use crate::{address, deny_ingress};

pub(crate) fn killed_and_replaced(backend: Backend) {
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new("killed", base.clone(), Setup::of(backend));
    let (step, flows) = deny_ingress(&base);
    fleet.step(&step);
    fleet.until_right("before", &flows);
    for round in 0..6 {
        for agent in 0..fleet.agents.len() {
            fleet.kill(agent);
        }
        fleet.is_right("while the agents are dead", &flows);
        for agent in 0..fleet.agents.len() {
            fleet.start(agent);
        }
        // Every second time they are killed again on their way, wherever that is.
        if round % 2 == 0 {
            fleet.is_right("while the agents start", &flows);
            fleet.until_ready();
            fleet.is_right("with new agents", &flows);
        }
    }
    // What happens while they are dead is enforced when they are back.
    fleet.kill(0);
    fleet.reset(&base);
    fleet.start(0);
    fleet.until_right("what was missed", &flows);
}

/// Kills the agents at random moments of their lives while packets are sent, a connection is open, and policies that
/// concern none of it come and go.
pub(crate) fn kills(backend: Backend, times: u32) {
    let times = std::env::var("NETPOL_KILLS").map_or(times, |times| times.parse().unwrap());
    let base = e2e::nine_pods();
    let setup = Setup { is_supervised: true, ..Setup::of(backend) };
    let mut fleet = Fleet::new("kills", base.clone(), setup);
    let (step, flows) = deny_ingress(&base);
    fleet.step(&step);
    fleet.until_right("before", &flows);
    let to = address(&base, &ObjectRef::new("y", "b"), Family::V4);
    let from = End::Pod(ObjectRef::new("y", "a"));
    let port = NonZeroU16::new(8090).unwrap();
    let mut connection = fleet.exam.lab().open_tcp(&from, to, port).unwrap();
    let (over, killed) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut rounds = 0_u32;
    let mut exchanges = 0_u32;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let fleet = &fleet;
        scope.spawn(|| {
            let mut random = 0x9E37_79B9_7F4A_7C15_u64;
            for round in 0_usize.. {
                if killed.load(Ordering::Relaxed) >= times || over.load(Ordering::Relaxed) {
                    break;
                }
                // What happens at the API at the same time is different each time, and changes no verdict.
                let policy = json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                    "metadata": { "name": "elsewhere", "namespace": "z" },
                    "spec": { "podSelector": { "matchLabels": { "pod": "a" } }, "ingress": [{}, { "ports": [{ "port": 1000 + round % 9 }] }] },
                });
                fleet.server.put(&policy).unwrap();
                if fleet.kill_supervised(round % fleet.agents.len()) {
                    killed.fetch_add(1, Ordering::Relaxed);
                }
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // Any moment between its start and some time after its first sync.
                std::thread::sleep(Duration::from_millis(random % 500));
            }
            over.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let seen = connection.exchange(Duration::from_secs(5));
                if seen != Observation::Passed {
                    over.store(true, Ordering::Relaxed);
                    panic!("the open connection: {seen}");
                }
                exchanges += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        while !over.load(Ordering::Relaxed) {
            // A panic here must not leave the others running.
            let report = fleet.send(&flows);
            if !report.wrong.is_empty() {
                over.store(true, Ordering::Relaxed);
                let wrong: Vec<String> = report.wrong.iter().map(ToString::to_string).collect();
                panic!("{}\n{}", wrong.join("\n"), fleet.logs());
            }
            rounds += 1;
        }
    });
    let killed = killed.into_inner();
    eprintln!(
        "{backend}: killed {killed} times in {:?}; {rounds} rounds of {} flows and {exchanges} exchanges, all right",
        began.elapsed(),
        flows.len()
    );
    assert!(
        killed >= times && rounds >= times / 50 && exchanges > times,
        "{killed} {rounds} {exchanges}"
    );
    fleet.until_ready();
    fleet.is_right("after all", &flows);
}
