//! What becomes of open connections when the rules change, with real ones.

#[path = "support/world.rs"]
mod world;

use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::time::Duration;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use netpol_conformance::netlab::{Connection, End, kernel_test};
use netpol_core::backend::{Dataplane as _, Established, Updated};
use netpol_core::model::ObjectRef;
use netpol_nft::{NftDataplane, NftOptions};
use world::{CLOSED, POLICY, World, cluster};

fn passes(connection: &mut Connection) -> bool {
    connection.exchange(Duration::from_millis(400)).has_passed()
}

fn opened(world: &World, from: &str, to: &str, tcp: bool) -> Connection {
    let mut connection = world.open(from, to, tcp);
    assert!(passes(&mut connection));
    connection
}

/// Whichever end speaks first, and by whichever protocol and family.
fn connections(world: &World, from: &str) -> Vec<Connection> {
    let mut connections = Vec::new();
    for (to, tcp) in
        [("10.0.1.2", true), ("10.0.1.2", false), ("fd00::1:2", true), ("fd00::1:2", false)]
    {
        connections.push(opened(world, from, to, tcp));
        connections.push(opened(world, from, to, tcp).turned());
    }
    connections
}

#[test]
fn the_next_packet_of_a_denied_connection_is_the_last_whichever_way_it_goes() {
    kernel_test(|| {
        let mut world = World::new(NftOptions::default());
        let mut denied = connections(&world, "a");
        let mut allowed = connections(&world, "c");
        assert_eq!(world.change(&cluster("yes", CLOSED)), Updated::ByDelta);
        for (number, connection) in denied.iter_mut().enumerate() {
            assert!(!passes(connection), "connection {number} goes on");
        }
        for (number, connection) in allowed.iter_mut().enumerate() {
            assert!(passes(connection), "connection {number} was cut");
        }
        assert_eq!(world.change(&cluster("yes", POLICY)), Updated::ByDelta);
        assert!(denied[2..4].iter_mut().all(passes), "what is allowed again goes on");
    });
}

#[test]
fn a_peer_that_ceases_to_be_one_is_cut_off() {
    kernel_test(|| {
        let mut world = World::new(NftOptions::default());
        let mut denied = connections(&world, "a");
        let mut allowed = connections(&world, "c");
        assert_eq!(world.change(&cluster("no", POLICY)), Updated::ByDelta);
        assert!(!denied.iter_mut().any(passes));
        assert!(allowed.iter_mut().all(passes));
    });
}

#[test]
fn kept_connections_go_on() {
    kernel_test(|| {
        let options = NftDataplane::new().with_established(Established::Keep);
        let mut world = World::new(NftOptions::default());
        let (dataplane, ruleset) = (&mut world.dataplane, world.engine.snapshot());
        *dataplane = options;
        world.lab.in_node("n1", || dataplane.sync(ruleset)).unwrap().unwrap();
        let mut kept = connections(&world, "a");
        world.change(&cluster("yes", CLOSED));
        assert!(kept.iter_mut().all(passes));
        let end = End::Pod(ObjectRef::new("default", "a"));
        let port = NonZeroU16::new(5001).unwrap();
        assert!(world.lab.open_tcp(&end, "10.0.1.2".parse().unwrap(), port).is_err());
    });
}

#[test]
fn a_generation_that_comes_round_lets_nothing_old_pass() {
    kernel_test(|| {
        // Three generations.
        let mut options = NftOptions::default();
        options.mark = 0x0030_0000;
        for changes in 1..=7 {
            let mut world = World::new(options);
            let mut denied = opened(&world, "a", "10.0.1.2", false);
            let mut turned = opened(&world, "a", "10.0.1.2", false).turned();
            let mut used = opened(&world, "c", "10.0.1.2", false);
            world.change(&cluster("yes", CLOSED));
            for change in 1..changes {
                // Each closes something, and none concerns the connections.
                let peers =
                    if change % 2 == 0 { "" } else { ", {podSelector: {matchLabels: {app: d}}}" };
                let more = CLOSED.replace("app: c}}}", &format!("app: c}}}}}}{peers}"));
                world.change(&cluster("yes", &more));
                assert!(passes(&mut used), "after {change} changes");
            }
            assert!(!passes(&mut denied) && !passes(&mut turned), "after {changes} changes");
        }
    });
}

#[test]
fn a_successor_knows_what_its_predecessor_let_pass() {
    kernel_test(|| {
        let mut world = World::new(NftOptions::default());
        let mut allowed = connections(&world, "a");
        world.dataplane = NftDataplane::new();
        let (dataplane, ruleset) = (&mut world.dataplane, world.engine.snapshot());
        world.lab.in_node("n1", || dataplane.sync(ruleset)).unwrap().unwrap();
        assert!(allowed.iter_mut().all(passes));
        // And what was let pass by rules that are gone counts for nothing.
        let dataplane = &mut world.dataplane;
        world.lab.in_node("n1", || dataplane.remove()).unwrap().unwrap();
        world.engine.apply_batch(netpol_conformance::events::puts(&cluster("yes", CLOSED)));
        let (dataplane, ruleset) = (&mut world.dataplane, world.engine.snapshot());
        world.lab.in_node("n1", || dataplane.sync(ruleset)).unwrap().unwrap();
        assert!(!allowed.iter_mut().any(passes));
    });
}

#[test]
fn a_connection_through_a_service_is_judged_behind_its_translation() {
    kernel_test(|| {
        let mut world = World::new(NftOptions::default());
        let rules = "table ip service { chain before { type nat hook prerouting priority dstnat; \
                     ip daddr 10.96.0.1 tcp dport 80 dnat to 10.0.1.2:5000\n }\n \
                     chain behind { type nat hook postrouting priority srcnat; ip daddr 10.0.1.2 masquerade\n }\n }\n";
        let loaded =
            world.lab.in_node("n1", || Command::new("nft").args([rules]).output().unwrap());
        let loaded = loaded.unwrap();
        assert!(loaded.status.success(), "{loaded:?}");
        let pod = |name| End::Pod(ObjectRef::new("default", name));
        let server: SocketAddr = "10.0.1.2:5000".parse().unwrap();
        let listener = world.lab.in_end(&pod("b"), || TcpListener::bind(server)).unwrap().unwrap();
        let service: SocketAddr = "10.96.0.1:80".parse().unwrap();
        let open = || {
            let client =
                world.lab.in_end(&pod("a"), || TcpStream::connect(service)).unwrap().unwrap();
            let (server, _) = listener.accept().unwrap();
            for end in [&client, &server] {
                end.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
                end.set_nodelay(true).unwrap();
            }
            (client, server)
        };
        let ask = |from: &mut TcpStream, to: &mut TcpStream| {
            from.write_all(&[1]).unwrap();
            to.read_exact(&mut [0]).is_ok()
        };
        let (mut client, mut answering) = open();
        let (mut asking, mut other) = open();
        assert!(ask(&mut client, &mut answering) && ask(&mut other, &mut asking));
        world.change(&cluster("yes", CLOSED));
        assert!(!ask(&mut client, &mut answering), "to the Service");
        assert!(!ask(&mut other, &mut asking), "from behind the Service");
    });
}

/// Of `b` nothing may go out, and to `a` nothing may come.
const ONE_WAY: &str = "
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: p}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {peer: 'yes'}}}]}]
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: q}
spec:
  podSelector: {matchLabels: {app: a}}
  policyTypes: [Ingress, Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: b}}}]}]
";

#[test]
fn errors_of_allowed_connections_come_back_whatever_may_go_that_way() {
    kernel_test(|| {
        for established in [Established::Recheck, Established::Keep] {
            let mut options = NftOptions::default();
            options.established = established;
            let mut world = World::new(options);
            world.change(&cluster("yes", ONE_WAY));
            // Nobody listens there: the server's kernel says so by ICMP, and the client's socket tells.
            let ask = |from: &str, to: &str| {
                let end = End::Pod(ObjectRef::new("default", from));
                let to: SocketAddr = to.parse().unwrap();
                let answer = world.lab.in_end(&end, || {
                    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).unwrap();
                    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
                    socket.connect(to).unwrap();
                    socket.send(&[1]).unwrap();
                    socket.recv(&mut [0]).unwrap_err().kind()
                });
                answer.unwrap()
            };
            for (there, back) in [("10.0.1.2:9", "10.0.1.1:9"), ("[fd00::1:2]:9", "[fd00::1:1]:9")]
            {
                assert_eq!(ask("a", there), ErrorKind::ConnectionRefused, "{established:?}");
                assert_eq!(ask("b", back), ErrorKind::WouldBlock, "{established:?}");
            }
        }
    });
}
