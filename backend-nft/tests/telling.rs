//! What the rules tell of real traffic: counters, and denied flows with their causes.
#![expect(clippy::unwrap_used, reason = "test support")]

#[path = "support/world.rs"]
mod world;

use core::num::NonZeroU16;
use core::time::Duration;
use std::thread;
use std::time::Instant;

use netpol_conformance::netlab::{End, Probe, Traffic, kernel_test};
use netpol_core::backend::{Cause, Counter, Dataplane as _, Denials};
use netpol_core::ir::{Direction, Flow, Transport, Verdict};
use netpol_core::model::{ObjectRef, Protocol};
use netpol_nft::NftOptions;
use world::{CLOSED, World, cluster};

impl World {
    fn send(&self, from: &str, to: &str, traffic: Traffic) {
        let from = End::Pod(ObjectRef::new("default", from));
        self.lab.probe(&[Probe { from, to: to.parse().unwrap(), traffic }]).unwrap();
    }

    /// Waits until something is reported.
    fn denials(&mut self) -> Denials {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut all = Denials::default();
        loop {
            let dataplane = &mut self.dataplane;
            let more = self.lab.in_node("n1", || dataplane.denials()).unwrap().unwrap();
            all.flows.extend(more.flows);
            all.lost += more.lost;
            if !all.flows.is_empty() || Instant::now() > deadline {
                return all;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn counters(&mut self) -> Vec<Counter> {
        let dataplane = &mut self.dataplane;
        self.lab.in_node("n1", || dataplane.counters()).unwrap().unwrap()
    }
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

#[test]
fn a_denied_flow_is_reported_with_its_ends_and_its_cause() {
    kernel_test(|| {
        let mut world = World::new(NftOptions::default());
        world.change(&cluster("no", CLOSED));
        let dataplane = &mut world.dataplane;
        assert_eq!(
            world.lab.in_node("n1", || dataplane.denials()).unwrap().unwrap(),
            Denials::default()
        );
        for (to, from) in [("10.0.1.2", "10.0.1.1"), ("fd00::1:2", "fd00::1:1")] {
            for (traffic, transport) in [
                (Traffic::Tcp(port(80)), Transport::Port(Protocol::Tcp, 80)),
                (Traffic::Udp(port(53)), Transport::Port(Protocol::Udp, 53)),
                (Traffic::Protocol(47), Transport::Other(47)),
            ] {
                world.send("a", to, traffic);
                let denials = world.denials();
                assert_eq!(denials.lost, 0);
                let denial = denials.flows.first().unwrap();
                let flow = Flow::new(from.parse().unwrap(), to.parse().unwrap(), transport);
                assert_eq!((denial.flow, denial.direction), (flow, Direction::Ingress));
                assert_eq!(
                    denial.source_port.is_some(),
                    matches!(transport, Transport::Port(..)),
                    "{denial:?}"
                );
                let Cause::Isolation(policies) = &denial.cause else { panic!("{denial:?}") };
                assert_eq!(
                    policies.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    ["NetworkPolicy default/p"]
                );
                thread::sleep(Duration::from_millis(150)); // Repeated packets of the same flow.
                let _ = world.denials_now();
            }
        }
    });
}

impl World {
    /// Lets some time pass behind a change, in which connections get the generation that passes.
    fn pause(&mut self) {
        thread::sleep(Duration::from_millis(200));
        let dataplane = &mut self.dataplane;
        self.lab.in_node("n1", || dataplane.may_have_drifted()).unwrap().unwrap();
    }

    fn denials_now(&mut self) -> Denials {
        let dataplane = &mut self.dataplane;
        self.lab.in_node("n1", || dataplane.denials()).unwrap().unwrap()
    }
}

#[test]
fn what_is_judged_is_counted_once_under_what_decided() {
    kernel_test(|| {
        let mut world = World::new(NftOptions::default());
        world.change(&cluster("yes", CLOSED));
        world.pause();
        let of = |counters: &[Counter], verdict| -> Vec<(String, u64, u64)> {
            let of = counters.iter().filter(|counter| counter.verdict == verdict);
            of.map(|counter| (format!("{:?}", counter.direction), counter.packets, counter.bytes))
                .collect()
        };
        let before = world.counters();
        assert!(before.iter().all(|counter| counter.packets == 0), "{before:?}");
        let mut open = world.open("c", "10.0.1.2", false);
        for _ in 0..10 {
            assert!(open.exchange(Duration::from_secs(1)).has_passed());
        }
        let after = world.counters();
        let allowed = after.iter().find(|counter| counter.packets > 0).unwrap();
        assert_eq!(allowed.packets, 1, "only what opens a connection is judged: {after:?}");
        assert_eq!((allowed.direction, allowed.verdict), (Direction::Ingress, Verdict::Allow));
        assert_eq!(allowed.bytes, 36, "20 of IP, 8 of UDP, 8 of data");
        let Cause::Rules(origins) = &allowed.cause else { panic!("{allowed:?}") };
        assert_eq!(
            origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["NetworkPolicy default/p ingress[0].from[0]"]
        );
        assert_eq!(of(&after, Verdict::Deny).iter().map(|(_, packets, _)| packets).sum::<u64>(), 0);
        world.send("a", "10.0.1.2", Traffic::Udp(port(53)));
        let denied = of(&world.counters(), Verdict::Deny);
        assert!(
            denied.iter().any(|(direction, packets, bytes)| {
                direction == "Ingress" && *packets >= 1 && *bytes > 0
            }),
            "{denied:?}"
        );
    });
}
