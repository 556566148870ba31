//! Changes to the maps in force, with the program at work beside (`BPF_PROG_TEST_RUN`).
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "test support")]

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;
use std::time::Instant;

use netpol_conformance::events::puts;
use netpol_conformance::netlab::{Availability, Privilege, did_not_run};
use netpol_core::compile::Options;
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::Scope;
use netpol_core::model::ObjectRef;
use netpol_k8s::manifest::{ReadOptions, read_str};

use super::{Live, Unfit};
use crate::Established;
use crate::apply::btf::Kernel;
use crate::apply::loaded::{Checked, Place, context};
use crate::apply::namespace::network_namespace;
use crate::apply::sys;
use crate::image::Hook;
use crate::lower::Limits;

fn kernel_test(what: &str, body: impl FnOnce(Kernel)) {
    match (Availability::probe(), Kernel::probe()) {
        (Ok(Privilege::Root), Ok(kernel)) => body(kernel),
        (Ok(other), Ok(_)) => did_not_run(what, &format!("{other} may not use bpf(2)")),
        (Err(error), _) => did_not_run(what, &error.to_string()),
        (_, Err(error)) => did_not_run(what, &error.to_string()),
    }
}

fn pod(name: &str, address: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: x, name: {name}, labels: {{{labels}}}}}\n\
         spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}\n\
         status: {{phase: Running, podIPs: [{{ip: {address}}}]}}\n"
    )
}

/// Pods with this label, and a network, may reach `b` at this port.
fn policy(name: &str, from: &str, port: u16, network: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: x, name: {name}}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: b}}}}\n  ingress:\n  \
         - from: [{{podSelector: {{matchLabels: {{{from}}}}}}}, {{ipBlock: {{cidr: {network}}}}}]\n    \
         ports: [{{port: {port}}}]\n"
    )
}

fn apply(engine: &mut Engine, text: &str) -> Delta {
    let read = read_str("objects.yaml", text, &ReadOptions::default()).unwrap();
    engine.apply_batch(puts(&read.cluster))
}

fn engine(text: &str) -> Engine {
    let mut engine =
        Engine::new(Options { scope: Scope::Node("node".into()), ..Options::default() });
    apply(&mut engine, "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n");
    apply(&mut engine, text);
    engine.apply(Event::InSync);
    engine
}

fn load(kernel: &Kernel, engine: &Engine) -> Live {
    let checked = Checked::create().unwrap();
    let beginning = (1, Established::Recheck);
    let place = Place::Netfilter(kernel, &checked);
    Live::load(place, engine.snapshot(), Limits::default(), beginning).unwrap()
}

/// A TCP segment from an address to `b`, at this port.
fn segment(from: [u8; 4], port: u8) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 7, 0, 0, 64, 6, 0, 0]);
    frame.extend(from);
    frame
        .extend([10, 1, 0, 2, 0x80, 0, 0, port, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    frame
}

fn passes(program: &OwnedFd, frame: &[u8]) -> bool {
    let context = context(Hook::Forward, frame);
    sys::test_run(program.as_fd(), frame, &context, 1).unwrap().returned == 1
}

fn program(live: &Live) -> OwnedFd {
    live.loaded().program().try_clone_to_owned().unwrap()
}

#[test]
#[expect(unsafe_code, reason = "there is no safe way to leave a namespace")]
fn the_namespace_is_that_of_the_calling_thread_now() {
    kernel_test("the thread's namespace", |_| {
        let here = network_namespace().unwrap();
        let other = thread::spawn(|| {
            let before = network_namespace().unwrap();
            // SAFETY: takes no pointers and moves only this thread.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            (before, network_namespace().unwrap())
        });
        let (before, after) = other.join().unwrap();
        assert_eq!((before, network_namespace().unwrap()), (here, here));
        assert_ne!(after, here);
    });
}

#[test]
fn policies_that_come_and_go_never_use_the_maps_up() {
    kernel_test("policies that come and go", |kernel| {
        let pods = [pod("a", "10.1.0.1", "app: a"), pod("b", "10.1.0.2", "app: b")].concat();
        let mut engine = engine(&pods);
        let mut live = load(&kernel, &engine);
        for number in 0..3000_u16 {
            // Without networks: their history has every packet waited for soon.
            let text = policy("one", "app: a", 1 + number, "172.16.0.0/12");
            let text = text.replace(", {ipBlock: {cidr: 172.16.0.0/12}}", "");
            let delta = apply(&mut engine, &text);
            assert!(!delta.is_empty());
            live.update(&delta).unwrap();
            let gone = Event::DeleteNetworkPolicy(ObjectRef::new("x", "one"));
            let delta = engine.apply(gone);
            live.update(&delta).unwrap();
        }
    });
}

#[test]
fn what_is_in_force_stays_while_a_change_waits_for_room_and_finds_none() {
    kernel_test("a change without room", |kernel| {
        let b = pod("b", "10.1.0.2", "app: b");
        let rules = [("one", "app: a", 80), ("two", "app: c", 81)]
            .map(|(name, from, port)| policy(name, from, port, "172.16.0.0/12"))
            .concat();
        let with = |labels: &str| pod("a", "10.1.0.1", labels);
        let mut engine = engine(&[&b, &rules, &*with("app: a")].concat());
        let mut live = load(&kernel, &engine);
        // The class of `a` dies, and is there again: its rows were garbage meanwhile.
        for labels in ["app: c", "app: a"] {
            let delta = apply(&mut engine, &with(labels));
            live.update(&delta).unwrap();
        }
        let (program, frame) = (program(&live), segment([10, 1, 0, 1], 80));
        assert!(passes(&program, &frame));
        // It dies with a change for which there is no room, not even once the garbage is out.
        let crowd = |number: u16| {
            let address = format!("10.2.{}.{}", number / 256, number % 256);
            pod(&format!("p{number}"), &address, "app: c")
        };
        let crowd = [with("app: c"), (0..1500).map(crowd).collect()].concat();
        let delta = apply(&mut engine, &crowd);
        assert!(matches!(live.update(&delta), Err(Unfit::Full)));
        assert!(passes(&program, &frame), "the rows in force were deleted");
    });
}

#[test]
fn a_packet_meets_the_ruleset_before_or_after_whatever_is_replaced_under_it() {
    kernel_test("changes under the program", |kernel| {
        // `a` goes from one peer set to another and the policies change beside it; as many neighbours as share its
        // buckets and places do too. Port 85 is open all the while, port 82 never.
        let crowd = |labels: &str| -> String {
            let crowd = (0..300).map(|number| {
                let address = format!("10.1.{}.{}", 1 + number / 200, number % 200);
                pod(&format!("c{number}"), &address, labels)
            });
            crowd.collect()
        };
        let states = [("app: a", 85, 82, "10.12.0.0/14"), ("app: c", 82, 85, "10.8.0.0/13")].map(
            |(labels, one, two, network)| {
                let rules = [
                    policy("one", "app: a", one, network),
                    policy("two", "app: c", two, "10.32.0.0/16"),
                ];
                [pod("a", "10.1.0.1", labels), crowd(labels), rules.concat()].concat()
            },
        );
        let mut engine = engine(&[pod("b", "10.1.0.2", "app: b"), states[0].clone()].concat());
        let mut live = load(&kernel, &engine);
        let deltas = [1, 0].map(|state| apply(&mut engine, &states[state]));
        let seconds = std::env::var("NETPOL_SECONDS").map_or(3, |text| text.parse().unwrap());
        let (program, over) = (program(&live), AtomicBool::new(false));
        let asked = AtomicUsize::new(0);
        let mut updates = 0;
        let wrong = thread::scope(|scope| {
            let ask = scope.spawn(|| {
                let mut wrong = Vec::new();
                let open = [segment([10, 1, 0, 1], 85), segment([10, 1, 1, 7], 85)];
                let closed = [segment([10, 1, 0, 1], 82), segment([10, 1, 1, 7], 82)];
                while !over.load(Ordering::Relaxed) {
                    let at = asked.fetch_add(4, Ordering::Relaxed);
                    let lost = open.iter().any(|frame| !passes(&program, frame));
                    let leaked = closed.iter().any(|frame| passes(&program, frame));
                    if lost || leaked {
                        wrong.push((at, lost, leaked));
                    }
                }
                wrong
            });
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(seconds) {
                for delta in &deltas {
                    live.update(delta).unwrap();
                    updates += 1;
                }
            }
            over.store(true, Ordering::Relaxed);
            ask.join().unwrap()
        });
        eprintln!("{updates} updates under {} packets, {} wrong", asked.into_inner(), wrong.len());
        assert_eq!(wrong, [], "by number: lost, leaked");
        assert!(updates > 20);
    });
}
