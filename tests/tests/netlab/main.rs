//! The lab carries every kind of packet without rules, sees exactly what rules drop, and leaves nothing behind.

mod support;

use core::num::NonZeroU16;
use core::time::Duration;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use netpol_conformance::netlab::{
    End, Lab, LabError, Observation, Patience, Plan, PlannedPod, Probe, Refusal, Traffic,
};
use netpol_core::model::ObjectRef;
use support::{ends, nft, pod, port, six_pods, with_privileges};

const KINDS: [Traffic; 7] = [
    Traffic::Icmp,
    Traffic::Protocol(47),
    Traffic::Protocol(253),
    Traffic::Sctp(port(80)),
    Traffic::Tcp(port(80)),
    Traffic::Tcp(port(65535)),
    Traffic::Udp(port(53)),
];

fn every_pair(lab: &Lab, kinds: &[Traffic]) -> Vec<Probe> {
    let ends = ends(lab);
    let mut probes = Vec::new();
    for from in &ends {
        for to in ends.iter().flat_map(|to| lab.addresses(to).unwrap()) {
            let sends =
                lab.addresses(from).unwrap().iter().any(|own| own.is_ipv4() == to.is_ipv4());
            if sends {
                probes.extend(kinds.iter().map(|traffic| Probe {
                    from: from.clone(),
                    to: *to,
                    traffic: *traffic,
                }));
            }
        }
    }
    probes
}

#[track_caller]
fn check(lab: &Lab, probes: &[Probe], expect: impl Fn(&Probe) -> Observation) {
    let seen = lab.probe_with(probes, Patience { repeats: 1, ..Patience::default() }).unwrap();
    let wrong: Vec<String> = probes
        .iter()
        .zip(seen)
        .filter(|(probe, seen)| expect(probe) != *seen)
        .map(|(probe, seen)| {
            format!(
                "{} -> {} {}: {seen}, not {}",
                probe.from,
                probe.to,
                probe.traffic,
                expect(probe)
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), probes.len(), wrong.join("\n"));
}

#[test]
fn without_rules_everything_reaches_everything_by_every_kind_of_packet() {
    with_privileges("without_rules_everything_reaches_everything_by_every_kind_of_packet", || {
        let lab = Lab::build(&six_pods()).unwrap();
        let probes = every_pair(&lab, &KINDS);
        assert!(probes.len() > 900, "{} probes", probes.len());
        check(&lab, &probes, |_| Observation::Passed);
    });
}
