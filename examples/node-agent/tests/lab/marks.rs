//! Somebody else on the node marks connections: the agent can be given other bits.

use core::fmt::Write as _;
use core::num::NonZeroU16;
use core::time::Duration;

use netpol_conformance::cases::e2e;
use netpol_conformance::netlab::{End, Observation};
use netpol_core::ir::Family;
use netpol_core::model::ObjectRef;

use crate::fleet::{Backend, Fleet, Setup};
use crate::{address, deny_ingress};

/// The bits that the agent is given; none of those that it has by itself.
const OURS: &str = "0x000000ff";

/// So many changes at most has the agent counted at the end; it counts in its bits from 1.
const COUNTED: u32 = 12;

pub(crate) fn other_bits(backend: Backend) {
    let shift = match backend {
        Backend::Nft => 20,
        Backend::IptablesLegacy | Backend::IptablesNft => 8,
        Backend::Ebpf | Backend::EbpfTc => return, // They mark nothing.
    };
    let base = e2e::nine_pods();
    let setup = Setup { arguments: vec!["--mark", OURS], ..Setup::of(backend) };
    let mut fleet = Fleet::new("marks", base.clone(), setup);
    fleet.until_ready();
    let node = fleet.agents.iter().position(|agent| agent.node == "node-a").unwrap();
    // A foreign program that uses the bits the agent has by default, for every connection, and looks whether they last.
    let foreign = |fleet: &Fleet, number: u32| {
        let mark = number << shift;
        let mut script = "add table inet other\ndelete table inet other\n".to_owned();
        writeln!(
            script,
            "table inet other {{
                chain before {{ type filter hook prerouting priority mangle; ct mark set ct mark & {OURS} | {mark}; }}
                chain behind {{ type filter hook forward priority 10; ct mark & 0xffffff00 != {mark} counter drop; }}
            }}"
        )
        .unwrap();
        fleet.run(node, "nft", &[&script]);
    };
    foreign(&fleet, 1);
    let connect = |from: &ObjectRef, to: &ObjectRef| {
        let port = NonZeroU16::new(8090).unwrap();
        let to = address(&base, to, Family::V4);
        fleet.exam.lab().open_tcp(&End::Pod(from.clone()), to, port).unwrap()
    };
    let pod = |namespace| ObjectRef::new(namespace, "a");
    let mut denied = connect(&pod("y"), &pod("x"));
    let mut allowed = connect(&pod("z"), &pod("y"));
    let patience = Duration::from_secs(10);
    let rounds = |connection: &mut netpol_conformance::netlab::Connection| {
        let seen = (0..5).map(|_| connection.exchange(patience));
        seen.collect::<Vec<_>>()
    };
    assert_eq!(rounds(&mut denied), [Observation::Passed; 5]);
    assert_eq!(rounds(&mut allowed), [Observation::Passed; 5]);
    let (step, flows) = deny_ingress(&base);
    fleet.step(&step);
    fleet.until_right("with foreign marks", &flows);
    // Settled by the rules from before, judged by the new ones.
    assert_eq!(denied.exchange(Duration::from_secs(1)), Observation::TimedOut);
    // One of these is what the agent's own number would be in its default bits: as settled, none of these flows would be
    // judged at all.
    for number in 1..=COUNTED {
        foreign(&fleet, number);
        fleet.is_right("with every foreign mark", &flows);
    }
    assert_eq!(rounds(&mut allowed), [Observation::Passed; 5]);
    // Nothing had lost the foreign marks, and the agent has used its own bits.
    let text = fleet.run(node, "nft", &["list", "table", "inet", "other"]);
    assert!(text.contains("counter packets 0 bytes 0 drop"), "{text}");
}
