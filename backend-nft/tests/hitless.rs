//! No packet meets half a change: while rulesets replace one another under traffic, what all of them allow is never lost
//! and what all of them deny never gets through.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support"
)]

extern crate alloc;

#[path = "support/rulesets.rs"]
mod rulesets;

use alloc::sync::Arc;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use netpol_core::backend::Dataplane as _;
use netpol_core::ir::{
    Action, Direction, Flow, Parts, PeerSet, Peers, Pipeline, PolicyKind, PolicyRef, Ports, Rule,
    RuleBlock, Ruleset, Scope, Transport, Verdict,
};
use netpol_core::model::{ObjectRef, Protocol};
use netpol_core::net::{PortSet, PrefixSet};
use netpol_nft::NftDataplane;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;

/// Allowed and denied by every ruleset of the test.
const ALLOWED: u16 = 53;
const DENIED: u16 = 8080;
/// How many replacements. Each waits twice for packets that are under way.
const CHANGES: usize = 300;

/// Moves the calling thread into a network namespace of its own and returns its thread id, by which `ip` finds it.
fn enter_fresh_namespace() -> Option<i32> {
    // SAFETY: neither call takes pointers; they move and name this thread only.
    #[expect(unsafe_code, reason = "there is no safe way into a namespace")]
    unsafe {
        (libc::unshare(libc::CLONE_NEWNET) == 0).then(|| libc::gettid())
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pod: a thread in a namespace of its own, with one address behind the node.
fn pod<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    index: usize,
    work: impl FnOnce() -> T + Send + 'scope,
) -> (mpsc::Sender<()>, thread::ScopedJoinHandle<'scope, T>) {
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let handle = scope.spawn(move || {
        tell.send(enter_fresh_namespace().unwrap()).unwrap();
        wait.recv().unwrap();
        work()
    });
    let thread = told.recv().unwrap();
    let address = rulesets::PODS[index][0];
    ip(&format!("link add pod{index} type veth peer name eth0 netns {thread}"));
    ip(&format!("link set pod{index} up"));
    ip(&format!("address add 169.254.1.1/32 dev pod{index}"));
    ip(&format!("route add {address}/32 dev pod{index}"));
    let inside = Command::new("nsenter")
        .arg(format!("--net=/proc/{thread}/ns/net"))
        .args(["sh", "-ec"])
        .arg(format!(
            "ip link set lo up; ip link set eth0 up; ip address add {address}/32 dev eth0; \
             ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1"
        ))
        .output()
        .unwrap();
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stderr));
    (go, handle)
}

/// Rulesets that agree on the two flows and on nothing else, not even on the members of one selector.
fn agreeing() -> Vec<Ruleset> {
    let flow = |port| {
        let [source, destination] = [0, 1].map(|pod| rulesets::address(rulesets::PODS[pod][0]));
        Flow::new(source, destination, Transport::Port(Protocol::Udp, port))
    };
    let mut runner = TestRunner::deterministic();
    let strategy = rulesets::peer_sets().prop_flat_map(rulesets::rulesets_over);
    let all = (0..600).map(|_| strategy.new_tree(&mut runner).unwrap().current());
    all.filter(|ruleset| {
        ruleset.verdict(&flow(ALLOWED)).verdict == Verdict::Allow
            && ruleset.verdict(&flow(DENIED)).verdict == Verdict::Deny
    })
    .collect()
}

/// The same policy with one member of its only peer set coming and going.
fn one_member_more_and_less() -> Vec<Ruleset> {
    let ports = PortSet::from_ranges([(Protocol::Udp, ALLOWED, ALLOWED)]);
    [&["10.0.0.1"][..], &["10.0.0.1", "10.0.9.9"]]
        .map(|members| {
            let set = PeerSet {
                selector: rulesets::pods_selector("label"),
                addresses: members.iter().map(|text| rulesets::address(text)).collect(),
                networks: PrefixSet::default(),
            };
            let rule = Rule {
                rule: 0,
                peer: Some(0),
                action: Action::Accept,
                peers: Peers::Set(set.id()),
                ports: Ports::Set(Arc::new(ports.clone())),
            };
            let object = ObjectRef::new("default", "one");
            let policy = PolicyRef { kind: PolicyKind::NetworkPolicy, object, uid: None };
            let block = RuleBlock::new(Arc::new(policy), Direction::Ingress, vec![rule]);
            let ingress = Pipeline {
                network_policy: Some(vec![Arc::new(block)]),
                ..Pipeline::open(Direction::Ingress)
            };
            let pods = vec![rulesets::pod(1, &ingress, &Pipeline::open(Direction::Egress))];
            let parts = Parts { scope: Scope::Node("n1".into()), ..Parts::default() };
            rulesets::assemble(parts, pods, vec![set])
        })
        .into()
}

#[test]
fn replacements_under_traffic_lose_and_leak_nothing() {
    let rulesets = agreeing();
    assert!(rulesets.len() > 8, "only {} rulesets", rulesets.len());
    in_namespace(rulesets);
}

#[test]
fn edits_under_traffic_lose_and_leak_nothing() {
    in_namespace(one_member_more_and_less());
}

fn in_namespace(rulesets: Vec<Ruleset>) {
    let run = thread::spawn(move || {
        if enter_fresh_namespace().is_none() {
            return false;
        }
        under_traffic(&rulesets);
        true
    });
    match run.join() {
        Ok(true) => {}
        Ok(false)
            if std::env::var_os("NETPOL_REQUIRE_KERNEL").is_some_and(|value| value == "1") =>
        {
            panic!("no privilege to make a network namespace, and NETPOL_REQUIRE_KERNEL=1")
        }
        Ok(false) => eprintln!("NOT RUN: no privilege to make a network namespace"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn under_traffic(rulesets: &[Ruleset]) {
    // The calling thread's namespace, not the system's: the file follows whoever opens it.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    let ended = &AtomicBool::new(false);
    // The server outlives the client: a question that nobody is left to answer is not a lost packet.
    let quiet = &AtomicBool::new(false);
    let (answered, lost, tried, leaked) =
        (&AtomicU64::new(0), &AtomicU64::new(0), &AtomicU64::new(0), &AtomicU64::new(0));
    let server = |port| SocketAddr::new(rulesets::address(rulesets::PODS[1][0]), port);
    let mut dataplane = NftDataplane::new();
    dataplane.sync(&rulesets[0]).unwrap();
    thread::scope(|scope| {
        let (start_server, _) = pod(scope, 1, move || {
            thread::scope(|inner| {
                inner.spawn(|| {
                    let socket = UdpSocket::bind(server(ALLOWED)).unwrap();
                    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    let mut buffer = [0; 8];
                    while !quiet.load(Ordering::Relaxed) {
                        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                            let _ = socket.send_to(&buffer, from);
                        }
                    }
                });
                inner.spawn(|| {
                    let socket = UdpSocket::bind(server(DENIED)).unwrap();
                    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    while !quiet.load(Ordering::Relaxed) {
                        if socket.recv_from(&mut [0; 8]).is_ok() {
                            leaked.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            });
        });
        let (start_client, _) = pod(scope, 0, move || {
            while !ended.load(Ordering::Relaxed) {
                // A socket of its own is a connection of its own, which the rules judge anew.
                let fresh = || UdpSocket::bind("0.0.0.0:0");
                let socket = fresh().unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                socket.send_to(&[1; 8], server(ALLOWED)).unwrap();
                let answer = loop {
                    match socket.recv_from(&mut [0; 8]) {
                        // A signal is not a lost packet.
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        answer => break answer,
                    }
                };
                match answer {
                    Ok(_) => answered.fetch_add(1, Ordering::Relaxed),
                    Err(_) => lost.fetch_add(1, Ordering::Relaxed),
                };
                for _ in 0..2 {
                    fresh().unwrap().send_to(&[1; 8], server(DENIED)).unwrap();
                    tried.fetch_add(1, Ordering::Relaxed);
                }
                // Without a pause the kernel's own threads wait for half a minute, and with them what a closed socket gives
                // back: its share of the memory that all UDP sockets may have (`udp_mem`). When that is used up, the
                // kernel drops what any socket receives, behind all rules, and counts it nowhere.
                thread::sleep(Duration::from_micros(200));
            }
            quiet.store(true, Ordering::Relaxed);
        });
        start_server.send(()).unwrap();
        thread::sleep(Duration::from_millis(50));
        start_client.send(()).unwrap();
        // A busy machine may carry little traffic meanwhile; then there are more changes, until there was enough.
        let enough =
            || answered.load(Ordering::Relaxed) > 1000 && tried.load(Ordering::Relaxed) > 2000;
        let started = Instant::now();
        for (number, ruleset) in rulesets.iter().cycle().skip(1).enumerate() {
            let is_late = started.elapsed() > Duration::from_secs(60);
            if is_late || number >= CHANGES && enough() {
                break;
            }
            dataplane.sync(ruleset).unwrap();
        }
        ended.store(true, Ordering::Relaxed);
    });
    let [answered, lost, tried, leaked] =
        [answered, lost, tried, leaked].map(|count| count.load(Ordering::Relaxed));
    eprintln!(
        "{CHANGES} changes among {} rulesets: {answered} answered, {lost} lost, {tried} forbidden, {leaked} leaked",
        rulesets.len()
    );
    assert_eq!((lost, leaked), (0, 0));
    assert!(answered > 1000 && tried > 2000, "too little traffic to mean anything");
}
