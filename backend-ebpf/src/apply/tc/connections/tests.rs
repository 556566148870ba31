//! What is read of a row counts only for the connection that it was written for.
#![expect(clippy::unwrap_used, reason = "test support")]

use core::net::Ipv6Addr;

use netpol_conformance::netlab::{Availability, Privilege, bpf_file_system, did_not_run};
use netpol_core::backend::Backend as _;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Scope, Verdict};
use netpol_k8s::manifest::{ReadOptions, read_str};

use super::{Connections, PINS, SECRET_PIN};
use crate::apply::loaded::{Beginning, Loaded, Place};
use crate::apply::pins::Pins;
use crate::apply::tc::{Side, Surroundings};
use crate::{Ebpf, Established};

/// `b` takes anything from one address, and sends nothing.
const OBJECTS: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {nodeName: node, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 'fd00::b'}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: b}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: '2001:db8::1/128'}}]}]}}
";

const POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xb);
const PEER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Differs where a sum that is mixed with one word after another, each in 64 bits, multiplied and shifted by 29, comes to
/// the same, whatever it began with: in the highest bit of one word, and in what becomes of that in the next one.
const CRAFTED: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x80, 0, 0, 0x0400, 0x81);

/// A datagram from port 7 to port 9.
fn frame(from: Ipv6Addr) -> Vec<u8> {
    datagram([from, POD], [7, 9])
}

fn datagram(ends: [Ipv6Addr; 2], [source, port]: [u8; 2]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
    frame.extend(ends.iter().flat_map(Ipv6Addr::octets));
    frame.extend([0, source, 0, port, 0, 8, 0, 0]);
    frame
}

/// The key of its connection: `struct flow_key`.
fn key(from: Ipv6Addr) -> Vec<u8> {
    let mut key = Vec::new();
    for address in [POD, from] {
        key.extend(6_u32.to_ne_bytes());
        key.extend(address.octets());
    }
    key.extend([9_u16, 7].into_iter().flat_map(u16::to_ne_bytes));
    key.extend(17_u32.to_ne_bytes());
    key
}

fn kernel_test(body: impl FnOnce()) {
    match Availability::probe() {
        Ok(Privilege::Root) => body(),
        Ok(other) => did_not_run("crafted connections", &format!("{other} may not use bpf(2)")),
        Err(error) => did_not_run("crafted connections", &error.to_string()),
    }
}

fn load(connections: &Connections) -> Loaded {
    let cluster = read_str("p.yaml", OBJECTS, &ReadOptions::default()).unwrap().cluster;
    let options = Options { scope: Scope::Node("node".into()), ..Options::default() };
    let image = Ebpf::default().lower(&compile(&cluster, &options).ruleset).unwrap();
    let largest = |last: Option<&u32>| last.copied().unwrap_or(0);
    let (pods, policies) = (image.pods.keys().next_back(), image.policies.keys().next_back());
    let beginning = Beginning {
        version: 1,
        established: Established::Recheck,
        largest: (largest(pods), largest(policies)),
    };
    let place = Place::Interfaces(connections, &Surroundings::default());
    Loaded::load_as(place, &image, beginning).unwrap()
}

/// The kernel may give a row to another connection between its being found and being read; here that one's row is there
/// from the beginning, and stays.
#[test]
fn a_row_of_another_connection_counts_for_nobody_however_the_ends_were_chosen() {
    kernel_test(|| {
        let connections = Connections::create(None).unwrap();
        let loaded = load(&connections);
        let ask = |from| loaded.ask_at(Side::ToPod, &frame(from)).unwrap();
        assert_eq!(ask(CRAFTED), Verdict::Deny);
        assert_eq!(ask(PEER), Verdict::Allow);
        let row = connections.flows.lookup(&key(PEER)).unwrap().unwrap();
        connections.flows.update(&key(CRAFTED), &row).unwrap();
        assert_eq!(ask(CRAFTED), Verdict::Deny, "judged by the row of another connection");
        // A row of its own would have been found.
        assert_eq!(connections.flows.lookup(&key(CRAFTED)).unwrap(), Some(row));
        assert_eq!(ask(PEER), Verdict::Allow);
    });
}

#[test]
fn who_takes_connections_over_knows_them() {
    kernel_test(|| {
        let directory = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        bpf_file_system(&directory).unwrap();
        let pins = Pins::new(&directory, 1);
        let answered = |connections: &Connections| {
            load(connections).ask_at(Side::FromPod, &datagram([POD, PEER], [9, 7])).unwrap()
        };
        let connections = Connections::create(Some(&pins)).unwrap();
        assert_eq!(answered(&connections), Verdict::Deny);
        assert_eq!(load(&connections).ask_at(Side::ToPod, &frame(PEER)).unwrap(), Verdict::Allow);
        drop(connections);
        assert_eq!(answered(&Connections::create(Some(&pins)).unwrap()), Verdict::Allow, "an heir");
        // What was made with another secret is nothing that is known.
        pins.take(SECRET_PIN).unwrap();
        assert_eq!(answered(&Connections::create(Some(&pins)).unwrap()), Verdict::Deny);
        PINS.iter().for_each(|name| pins.take(name).unwrap());
        pins.close().unwrap();
    });
}

#[test]
fn no_two_tables_of_connections_have_one_secret() {
    kernel_test(|| {
        let secret = || {
            let connections = Connections::create(None).unwrap();
            connections.secret.lookup(&0_u32.to_ne_bytes()).unwrap().unwrap()
        };
        let (one, other) = (secret(), secret());
        let numbers = |secret: &[u8]| -> Vec<[u8; 8]> {
            secret.chunks_exact(8).map(|number| number.try_into().unwrap()).collect()
        };
        let mut all = [numbers(&one), numbers(&other)].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 28);
    });
}
