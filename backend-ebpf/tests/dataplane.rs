//! What the dataplane does over time: open connections, changes under load, pins.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "test support")]

extern crate alloc;

#[path = "support/bpf.rs"]
mod bpf;

use core::net::IpAddr;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use netpol_conformance::events::puts;
use netpol_conformance::generate::Random;
use netpol_conformance::netlab::{
    Connection, End, Lab, Observation, Patience, Plan, PlannedNode, PlannedPod, Probe, Traffic,
};
use netpol_core::backend::Dataplane as _;
use netpol_core::compile::{Options, compile};
use netpol_core::engine::{Engine, Event};
use netpol_core::ir::{Ruleset, Scope, Settings};
use netpol_core::model::{Cluster, ObjectRef};
use netpol_ebpf::{Ebpf, EbpfDataplane, Established, Kernel, Limits};
use netpol_k8s::manifest::{ReadOptions, read_str};

const BRIEF: Duration = Duration::from_millis(300);

/// Two pods, `a` and `b`, on one node.
fn lab() -> Lab {
    let pod = |name, addresses: [&str; 2]| PlannedPod {
        pod: ObjectRef::new("x", name),
        node: "node".into(),
        addresses: addresses.map(|text| text.parse().unwrap()).to_vec(),
    };
    let node = PlannedNode { name: "node".into(), addresses: vec!["192.168.7.1".parse().unwrap()] };
    Lab::build(&Plan {
        nodes: vec![node],
        pods: vec![pod("a", ["10.1.0.1", "fd00::1"]), pod("b", ["10.1.0.2", "fd00::2"])],
        ..Plan::default()
    })
    .unwrap()
}

/// The objects by which only `from` may reach `b`, and there only these TCP and UDP ports.
fn objects(from: &str, ports: &[u16]) -> Cluster {
    let ports = ports.iter().flat_map(|port| {
        ["TCP", "UDP"].map(|protocol| format!("{{protocol: {protocol}, port: {port}}}"))
    });
    let ports = ports.collect::<Vec<_>>().join(", ");
    let pod = |name, v4, v6| {
        format!(
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{namespace: x, name: {name}, labels: {{name: {name}}}}}\n\
             spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}\n\
             status: {{phase: Running, podIPs: [{{ip: {v4}}}, {{ip: 'fd00::{v6}'}}]}}\n"
        )
    };
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n{}{}---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{namespace: x, name: p}}\n\
         spec:\n  podSelector: {{matchLabels: {{name: b}}}}\n  policyTypes: [Ingress]\n  ingress:\n  \
         - from: [{{podSelector: {{matchLabels: {{name: {from}}}}}}}]\n    ports: [{ports}]\n",
        pod("a", "10.1.0.1", 1),
        pod("b", "10.1.0.2", 2),
    );
    read_str("p.yaml", &text, &ReadOptions::default()).expect("good manifests").cluster
}

fn on_node() -> Options {
    Options {
        scope: Scope::Node("node".into()),
        settings: Settings::default(),
        ..Options::default()
    }
}

/// The ruleset in which only `from` may reach `b`, and there only these TCP and UDP ports.
fn only(from: &str, ports: &[u16]) -> Ruleset {
    compile(&objects(from, ports), &on_node()).ruleset
}

fn a() -> End {
    End::Pod(ObjectRef::new("x", "a"))
}

fn b(family: u8) -> IpAddr {
    if family == 4 { "10.1.0.2" } else { "fd00::2" }.parse().unwrap()
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn sync(lab: &Lab, dataplane: &mut EbpfDataplane, ruleset: &Ruleset) {
    lab.in_node("node", || dataplane.sync(ruleset)).unwrap().unwrap();
}

fn open(lab: &Lab) -> Vec<Connection> {
    let mut open = Vec::new();
    for family in [4, 6] {
        open.push(lab.open_tcp(&a(), b(family), port(80)).unwrap());
        open.push(lab.open_udp(&a(), b(family), port(80)).unwrap());
    }
    open
}

#[track_caller]
fn exchange(connections: &mut [Connection], patience: Duration, expected: Observation) {
    for (index, connection) in connections.iter_mut().enumerate() {
        assert_eq!(connection.exchange(patience), expected, "connection {index}");
    }
}

const SECOND: Duration = Duration::from_secs(2);

#[test]
fn an_open_connection_ends_with_the_change_that_denies_it() {
    bpf::kernel_test("recheck", || {
        let lab = lab();
        let mut dataplane = EbpfDataplane::default();
        sync(&lab, &mut dataplane, &only("a", &[80, 81]));
        let mut open = open(&lab);
        exchange(&mut open, SECOND, Observation::Passed);
        // Another ruleset that allows them, and the same once more.
        for _ in 0..2 {
            sync(&lab, &mut dataplane, &only("a", &[80]));
            exchange(&mut open, SECOND, Observation::Passed);
        }
        sync(&lab, &mut dataplane, &only("a", &[81]));
        exchange(&mut open, BRIEF, Observation::TimedOut);
    });
}

#[test]
fn replies_of_a_connection_that_is_denied_now_are_lost_too() {
    bpf::kernel_test("recheck of replies", || {
        let lab = lab();
        let mut dataplane = EbpfDataplane::default();
        sync(&lab, &mut dataplane, &only("a", &[80]));
        let mut open = open(&lab);
        exchange(&mut open, SECOND, Observation::Passed);
        let mut open: Vec<Connection> = open.into_iter().map(Connection::turned).collect();
        exchange(&mut open, SECOND, Observation::Passed);
        sync(&lab, &mut dataplane, &only("a", &[81]));
        exchange(&mut open, BRIEF, Observation::TimedOut);
    });
}

#[test]
fn open_connections_stay_where_the_embedder_wants_it() {
    bpf::kernel_test("keeping open connections", || {
        let lab = lab();
        let backend = Ebpf::default();
        let mut dataplane = EbpfDataplane::new(backend).with_established(Established::Keep);
        sync(&lab, &mut dataplane, &only("a", &[80]));
        let mut open = open(&lab);
        exchange(&mut open, SECOND, Observation::Passed);
        sync(&lab, &mut dataplane, &only("a", &[81]));
        exchange(&mut open, SECOND, Observation::Passed);
        let denied = Probe { from: a(), to: b(4), traffic: Traffic::Tcp(port(80)) };
        assert_eq!(lab.probe(&[denied]).unwrap(), [Observation::TimedOut]);
    });
}

/// Has the kernel track connections on the node, as kube-proxy does.
fn track(lab: &Lab) {
    let script = "add table inet foreign; \
        add chain inet foreign c { type filter hook forward priority filter - 5; }; \
        add rule inet foreign c ct state established counter";
    let nft = || Command::new("nft").arg(script).status();
    assert!(lab.in_node("node", nft).unwrap().unwrap().success());
}

/// NP-162, DEC-09: what is open before the first rules come is what a change denies or allows, if the kernel knows it.
#[test]
fn connections_open_before_the_first_ruleset_are_judged_like_those_before_a_change() {
    bpf::kernel_test("adoption of open connections", || {
        let both = [Established::Recheck, Established::Keep];
        for (established, allowed) in both.into_iter().flat_map(|how| [(how, true), (how, false)]) {
            let lab = lab();
            track(&lab);
            let mut open = open(&lab);
            exchange(&mut open, SECOND, Observation::Passed);
            let mut dataplane = EbpfDataplane::default().with_established(established);
            sync(&lab, &mut dataplane, &only("a", &[if allowed { 80 } else { 81 }]));
            let lives = allowed || established == Established::Keep;
            let (patience, expected) =
                if lives { (SECOND, Observation::Passed) } else { (BRIEF, Observation::TimedOut) };
            exchange(&mut open, patience, expected);
            if lives {
                // And the other way: the server speaks first.
                let mut turned: Vec<Connection> =
                    open.into_iter().map(Connection::turned).collect();
                exchange(&mut turned, patience, expected);
            }
        }
    });
}

/// As above, where nobody had the kernel track connections: the next packet is the first that it knows of.
#[test]
fn connections_that_were_not_tracked_are_judged_by_their_next_packet() {
    bpf::kernel_test("adoption of connections that are not tracked", || {
        for established in [Established::Recheck, Established::Keep] {
            for allowed in [true, false] {
                let lab = lab();
                let mut open = open(&lab);
                exchange(&mut open, SECOND, Observation::Passed);
                let mut dataplane = EbpfDataplane::default().with_established(established);
                sync(&lab, &mut dataplane, &only("a", &[if allowed { 80 } else { 81 }]));
                if allowed {
                    exchange(&mut open, SECOND, Observation::Passed);
                } else {
                    exchange(&mut open, BRIEF, Observation::TimedOut);
                }
            }
        }
    });
}

/// Says that it is over when it goes, by whatever way.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_packet_meets_half_a_change() {
    bpf::kernel_test("change under load", || {
        let lab = lab();
        let mut dataplane = EbpfDataplane::default();
        // What both allow passes always, what both deny never.
        let rulesets = in_turn();
        sync(&lab, &mut dataplane, &rulesets[0]);
        let mut open = open(&lab);
        let over = AtomicBool::new(false);
        let syncs = AtomicUsize::new(0);
        let mut asked = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for ruleset in rulesets.iter().rev() {
                        sync(&lab, &mut dataplane, ruleset);
                        syncs.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let end = AtEnd(&over);
            let mut probes = Vec::new();
            for family in [4, 6] {
                for number in [82, 85] {
                    for _ in 0..40 {
                        for traffic in [Traffic::Tcp(port(number)), Traffic::Udp(port(number))] {
                            probes.push(Probe { from: a(), to: b(family), traffic });
                        }
                    }
                }
            }
            let patience = Patience { timeout: Duration::from_millis(250), repeats: 0 };
            while asked < 10 * probes.len() || syncs.load(Ordering::Relaxed) < 40 {
                asked += probes.len();
                let seen = lab.probe_with(&probes, patience).unwrap();
                for (probe, seen) in probes.iter().zip(seen) {
                    let allowed =
                        matches!(probe.traffic, Traffic::Tcp(n) | Traffic::Udp(n) if n.get() == 85);
                    let expected =
                        if allowed { Observation::Passed } else { Observation::TimedOut };
                    assert_eq!(seen, expected, "{probe:?}");
                }
                exchange(&mut open, SECOND, Observation::Passed);
            }
            drop(end);
        });
        let syncs = syncs.into_inner();
        eprintln!("change under load: {syncs} syncs, {asked} probes, 0 wrong");
    });
}

/// Has the node lead 10.96.0.1:80 to `b` at port 8080, as a Service does.
fn service(lab: &Lab) {
    let script = "add table ip nat; \
        add chain ip nat in { type nat hook prerouting priority dstnat; }; \
        add rule ip nat in ip daddr 10.96.0.1 tcp dport 80 dnat to 10.1.0.2:8080";
    let nft = || Command::new("nft").arg(script).status();
    assert!(lab.in_node("node", nft).unwrap().unwrap().success());
}

/// Dials an address from `a`, and sends a byte there and back if that succeeds.
fn dial(lab: &Lab, listener: &TcpListener, to: &str) -> Option<(TcpStream, TcpStream)> {
    let to = to.parse().unwrap();
    let dial = || TcpStream::connect_timeout(&to, BRIEF).ok();
    let client = lab.in_pod(&ObjectRef::new("x", "a"), dial).unwrap()?;
    let (server, _) = listener.accept().unwrap();
    for end in [&client, &server] {
        end.set_read_timeout(Some(BRIEF)).unwrap();
    }
    echo(&client, &server).then_some((client, server))
}

fn echo(mut client: &TcpStream, mut server: &TcpStream) -> bool {
    let mut byte = [0];
    client.write_all(&[7]).is_ok()
        && server.read_exact(&mut byte).is_ok()
        && server.write_all(&byte).is_ok()
        && client.read_exact(&mut byte).is_ok()
}

#[test]
fn a_service_is_judged_behind_it() {
    bpf::kernel_test("destination NAT", || {
        let lab = lab();
        service(&lab);
        let listen = || TcpListener::bind("10.1.0.2:8080").unwrap();
        let listener = lab.in_pod(&ObjectRef::new("x", "b"), listen).unwrap();
        let mut dataplane = EbpfDataplane::default();
        // NP-150: the port that counts is the pod's.
        sync(&lab, &mut dataplane, &only("a", &[80]));
        assert!(dial(&lab, &listener, "10.96.0.1:80").is_none());
        sync(&lab, &mut dataplane, &only("a", &[8080]));
        assert!(dial(&lab, &listener, "10.1.0.2:8080").is_some());
        let (client, server) = dial(&lab, &listener, "10.96.0.1:80").expect("it is allowed");
        // Judged again, replies too: behind the NAT both ways.
        sync(&lab, &mut dataplane, &only("a", &[8080, 81]));
        assert!(echo(&client, &server));
        sync(&lab, &mut dataplane, &only("a", &[8080]));
        assert!(echo(&server, &client));
        sync(&lab, &mut dataplane, &only("a", &[80]));
        assert!(!echo(&client, &server));
    });
}

#[test]
fn a_ruleset_that_does_not_fit_leaves_the_one_in_force() {
    bpf::kernel_test("a failing sync", || {
        let lab = lab();
        // Room for the ports of the first ruleset, not for those of the second.
        let limits = Limits { ports: 4, ..Limits::default() };
        let mut dataplane = EbpfDataplane::new(Ebpf::with_limits(limits));
        sync(&lab, &mut dataplane, &only("a", &[80]));
        let large = only("a", &[81, 83, 85]);
        let error = lab.in_node("node", || dataplane.sync(&large)).unwrap().unwrap_err();
        let cause = core::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "map ports needs 6 rows, but the target has room for 4");
        let probe = |number| Probe { from: a(), to: b(4), traffic: Traffic::Tcp(port(number)) };
        let seen = lab.probe(&[probe(80), probe(81)]).unwrap();
        assert_eq!(seen, [Observation::Passed, Observation::TimedOut]);
        let same = lab.in_node("node", || dataplane.differences(&only("a", &[80])));
        assert_eq!(same.unwrap().unwrap(), [""; 0]);
    });
}

/// Mounts a BPF file system on a new directory, in a mount namespace of the calling thread and those it starts.
#[expect(unsafe_code, reason = "there is no safe way to mount")]
fn bpf_file_system(directory: &Path) {
    use std::os::unix::ffi::OsStrExt as _;
    fs::create_dir_all(directory).unwrap();
    let path = alloc::ffi::CString::new(directory.as_os_str().as_bytes()).unwrap();
    // SAFETY: unshare takes no pointers and moves only this thread; mount gets strings that end in zero.
    unsafe {
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
        let (none, private) = (core::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
        assert_eq!(libc::mount(none, c"/".as_ptr(), none, private, none.cast()), 0);
        let kind = c"bpf".as_ptr();
        assert_eq!(libc::mount(kind, path.as_ptr(), kind, 0, none.cast()), 0);
    }
}

#[test]
fn pinned_rules_outlive_the_process_and_are_taken_over() {
    bpf::kernel_test("pins", || {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("netpol-ebpf-{}", std::process::id()));
        bpf_file_system(&directory);
        let lab = lab();
        let new = || EbpfDataplane::default().pinned(directory.join("netpol"));
        let ask = |number| {
            let probe =
                |family| Probe { from: a(), to: b(family), traffic: Traffic::Tcp(port(number)) };
            let seen = lab.probe(&[probe(4), probe(6)]).unwrap();
            assert_eq!(seen[0], seen[1]);
            seen[0]
        };
        let mut first = new();
        sync(&lab, &mut first, &only("a", &[80]));
        drop(first);
        assert_eq!((ask(80), ask(81)), (Observation::Passed, Observation::TimedOut));
        let mut second = new();
        sync(&lab, &mut second, &only("a", &[81]));
        assert_eq!((ask(80), ask(81)), (Observation::TimedOut, Observation::Passed));
        drop(second);
        let mut third = new();
        lab.in_node("node", || third.remove()).unwrap().unwrap();
        assert_eq!((ask(80), ask(81)), (Observation::Passed, Observation::Passed));
        assert_eq!(fs::read_dir(directory.join("netpol")).unwrap().count(), 0);
        lab.in_node("node", || third.remove()).unwrap().unwrap();
    });
}

/// The directory of the pins, for the process that is killed; unset in the test itself.
const VICTIM: &str = "NETPOL_EBPF_VICTIM";

fn in_turn() -> [Ruleset; 2] {
    in_turn_objects().map(|cluster| compile(&cluster, &on_node()).ruleset)
}

fn in_turn_objects() -> [Cluster; 2] {
    [objects("a", &[80, 81, 85]), objects("a", &[80, 83, 84, 85])]
}

/// The process that is killed: it syncs and updates until then.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os(VICTIM) else { return };
    let mut dataplane = EbpfDataplane::default().pinned(directory);
    let mut engine = Engine::new(on_node());
    engine.apply(Event::InSync);
    let states = in_turn_objects().map(|cluster| puts(&cluster));
    engine.apply_batch(states[0].iter().cloned());
    for round in 0_u64.. {
        dataplane.sync(engine.snapshot()).unwrap();
        for state in states.iter().rev().cycle().take(usize::try_from(round % 4).unwrap()) {
            let delta = engine.apply_batch(state.iter().cloned());
            dataplane.update(engine.snapshot(), &delta).unwrap();
        }
    }
}

#[test]
fn a_process_may_be_killed_at_any_point() {
    bpf::kernel_test("kill -9", || {
        let kills = std::env::var("NETPOL_KILLS").map_or(20, |text| text.parse().unwrap());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("netpol-kill-{}", std::process::id()));
        bpf_file_system(&directory);
        let pins = directory.join("netpol");
        let lab = lab();
        let kernel = Kernel::probe().unwrap();
        let new = || EbpfDataplane::default().with_kernel(kernel).pinned(&pins);
        let kill = |after: Duration| {
            let run = || {
                let mut command = Command::new(std::env::current_exe().unwrap());
                let mut child = command
                    .args(["--exact", "victim"])
                    .env(VICTIM, &pins)
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap();
                thread::sleep(after);
                child.kill().unwrap();
                child.wait().unwrap().code()
            };
            assert_eq!(lab.in_node("node", run).unwrap(), None, "it ended before it was killed");
        };
        let check = || {
            let probe = |number| {
                let tcp = Traffic::Tcp(port(number));
                [4, 6].map(|family| Probe { from: a(), to: b(family), traffic: tcp })
            };
            let patience = Patience { timeout: Duration::from_millis(200), repeats: 2 };
            let seen = lab.probe_with(&[probe(85), probe(82)].concat(), patience).unwrap();
            let (passed, timed_out) = (Observation::Passed, Observation::TimedOut);
            assert_eq!(seen, [passed, passed, timed_out, timed_out]);
        };
        let mut random = Random::seeded(7);
        for round in 0..kills {
            if round % 2 == 0 {
                // From nothing: whatever is left, the next process takes over.
                lab.in_node("node", || new().remove()).unwrap().unwrap();
                kill(Duration::from_millis(u64::try_from(random.below(250)).unwrap()));
                sync(&lab, &mut new(), &in_turn()[0]);
            } else {
                // In the middle of changes: enforcement goes on by itself.
                kill(Duration::from_millis(u64::try_from(random.below(250)).unwrap()));
            }
            check();
        }
        lab.in_node("node", || new().remove()).unwrap().unwrap();
        assert_eq!(fs::read_dir(&pins).unwrap().count(), 0);
        eprintln!("killed {kills} times, 0 wrong");
    });
}

/// Detaches every netfilter link in the kernel that a dataplane holds, as `bpftool link detach` would: through the
/// pins.
fn detach(pins: &Path) {
    for name in ["forward-4", "local-in-6"] {
        let entries = fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().path().join(name));
        for path in entries {
            let status =
                Command::new("bpftool").args(["link", "detach", "pinned"]).arg(path).status();
            assert!(status.unwrap().success());
        }
    }
}

#[test]
fn sync_hooks_in_again_what_somebody_took_off() {
    bpf::kernel_test("healing", || {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("netpol-heal-{}", std::process::id()));
        bpf_file_system(&directory);
        let pins = directory.join("netpol");
        let lab = lab();
        let ruleset = only("a", &[80]);
        let mut dataplane = EbpfDataplane::default().pinned(&pins);
        let probe = Probe { from: a(), to: b(4), traffic: Traffic::Tcp(port(81)) };
        let ask = || lab.probe(core::slice::from_ref(&probe)).unwrap();
        sync(&lab, &mut dataplane, &ruleset);
        assert_eq!(ask(), [Observation::TimedOut]);
        detach(&pins);
        assert_eq!(ask(), [Observation::Passed]);
        sync(&lab, &mut dataplane, &ruleset);
        assert_eq!(ask(), [Observation::TimedOut]);
        // The new links are the pinned ones.
        drop(dataplane);
        assert_eq!(ask(), [Observation::TimedOut]);
        let mut other = EbpfDataplane::default();
        let refused = lab.in_node("node", || other.sync(&ruleset)).unwrap().unwrap_err();
        assert!(refused.to_string().contains("another program has priority 0"), "{refused}");
        let mut heir = EbpfDataplane::default().pinned(&pins);
        lab.in_node("node", || heir.remove()).unwrap().unwrap();
        assert_eq!(ask(), [Observation::Passed]);
    });
}
