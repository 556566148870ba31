//! Changes by difference, in the kernel: the maps follow, no packet meets half a change, and what was counted and denied
//! is told.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "test support")]

extern crate alloc;

#[path = "support/bpf.rs"]
mod bpf;

use core::net::IpAddr;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::process::Command;
use std::thread;
use std::time::Instant;

use netpol_conformance::events::{Happening, Script};
use netpol_conformance::netlab::{
    End, Lab, Observation, Patience, Plan, PlannedNode, PlannedPod, Probe, Traffic,
};
use netpol_core::backend::{Cause, Dataplane as _, Difference, Drift, Updated};
use netpol_core::compile::Options;
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::{Direction, Scope, Transport, Verdict};
use netpol_core::model::{Cidr, Cluster, ObjectRef, Protocol};
use netpol_core::net::PrefixSet;
use netpol_ebpf::{Ebpf, EbpfDataplane, Kernel, Limits, Updates};
use netpol_k8s::manifest::{ReadOptions, read_str};

/// Two pods, `a` and `b`, on one node.
fn lab() -> Lab {
    lab_at(["10.1.0.2", "fd00::2"])
}

/// As above, with `b` at these addresses.
fn lab_at(b: [&str; 2]) -> Lab {
    let pod = |name, addresses: [&str; 2]| PlannedPod {
        pod: ObjectRef::new("x", name),
        node: "node".into(),
        addresses: addresses.map(|text| text.parse().unwrap()).to_vec(),
    };
    let node = PlannedNode { name: "node".into(), addresses: vec!["192.168.7.1".parse().unwrap()] };
    Lab::build(&Plan {
        nodes: vec![node],
        pods: vec![pod("a", ["10.1.0.1", "fd00::1"]), pod("b", b)],
        ..Plan::default()
    })
    .unwrap()
}

fn read(text: &str) -> Cluster {
    read_str("objects.yaml", text, &ReadOptions::default()).unwrap().cluster
}

const NAMESPACE: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n";

fn pod(name: &str, number: u8, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: x, name: {name}, labels: {{{labels}}}}}\n\
         spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}\n\
         status: {{phase: Running, podIPs: [{{ip: 10.1.0.{number}}}, {{ip: 'fd00::{number}'}}]}}\n"
    )
}

/// Pods with this label may reach those labelled `app: b`, at this TCP and UDP port.
fn policy(name: &str, from: &str, port: u16) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: x, name: {name}}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: b}}}}\n  policyTypes: [Ingress]\n  ingress:\n  \
         - from: [{{podSelector: {{matchLabels: {{{from}}}}}}}]\n    \
         ports: [{{protocol: TCP, port: {port}}}, {{protocol: UDP, port: {port}}}]\n"
    )
}

fn puts(text: &str) -> Vec<Event> {
    netpol_conformance::events::puts(&read(text))
}

fn engine(options: Options, text: &str) -> Engine {
    let mut engine = Engine::new(options);
    engine.apply_batch(puts(text));
    engine.apply(Event::InSync);
    engine
}

fn on_node() -> Options {
    Options { scope: Scope::Node("node".into()), ..Options::default() }
}

fn sync(lab: &Lab, dataplane: &mut EbpfDataplane, engine: &Engine) {
    lab.in_node("node", || dataplane.sync(engine.snapshot())).unwrap().unwrap();
}

/// Carries out a change by difference.
#[track_caller]
fn update(lab: &Lab, dataplane: &mut EbpfDataplane, engine: &Engine, delta: &Delta) {
    let updated = lab.in_node("node", || dataplane.update(engine.snapshot(), delta));
    assert_eq!(updated.unwrap().unwrap(), Updated::ByDelta);
}

fn drifts(lab: &Lab, dataplane: &mut EbpfDataplane, engine: &Engine) -> Vec<Drift> {
    lab.in_node("node", || dataplane.verify(engine.snapshot())).unwrap().unwrap()
}

fn probe(lab: &Lab, ports: &[u16]) -> Vec<Observation> {
    let port = |port: &u16| Traffic::Tcp(NonZeroU16::new(*port).unwrap());
    let to = |to: &str| to.parse::<IpAddr>().unwrap();
    let probes: Vec<Probe> = ports
        .iter()
        .flat_map(|number| {
            ["10.1.0.2", "fd00::2"].map(|address| Probe {
                from: End::Pod(ObjectRef::new("x", "a")),
                to: to(address),
                traffic: port(number),
            })
        })
        .collect();
    lab.probe(&probes).unwrap()
}

use Observation::{Passed, TimedOut};

#[test]
fn the_maps_follow_every_change() {
    bpf::kernel_test("updates", || {
        let kernel = Kernel::probe().unwrap();
        let scripts = std::env::var("NETPOL_SCRIPTS").map_or(12, |text| text.parse().unwrap());
        let lab = lab();
        let (mut by_delta, mut by_sync) = (0, 0);
        for seed in 1..=scripts {
            let script =
                if seed % 3 == 0 { Script::relabels(seed, 40) } else { Script::new(seed, 60) };
            let mut options = script.options.clone();
            if seed % 2 == 0 {
                let some = script.flows.iter().step_by(16);
                let some: Vec<_> = some.map(|flow| Cidr::host(flow.source)).collect();
                options.pod_ranges = PrefixSet::from_cidrs(&some);
            }
            let mut engine = Engine::with_tuning(options, script.tuning);
            let mut dataplane =
                EbpfDataplane::default().with_updates(Updates::InPlace).with_kernel(kernel);
            sync(&lab, &mut dataplane, &engine);
            for happening in &script.happenings {
                let delta = match happening {
                    Happening::Event(event) => engine.apply(event.clone()),
                    Happening::Batch(events) => engine.apply_batch(events.iter().cloned()),
                    Happening::Restart(_) => continue,
                };
                let work = || dataplane.update(engine.snapshot(), &delta);
                match lab.in_node("node", work).unwrap().unwrap() {
                    Updated::ByDelta => by_delta += 1,
                    Updated::BySync => by_sync += 1,
                }
                assert_eq!(drifts(&lab, &mut dataplane, &engine), [], "seed {seed}");
            }
            lab.in_node("node", || dataplane.remove()).unwrap().unwrap();
        }
        eprintln!("updates: {by_delta} by difference, {by_sync} by sync, 0 wrong");
        assert!(by_delta > 10 * by_sync);
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
fn no_packet_meets_half_an_update() {
    bpf::kernel_test("updates under load", || {
        let addresses = ["10.2.0.2", "fd01::2"];
        let lab = lab_at(addresses);
        // `a` goes from one peer set to another, the policies change beside it, and `b` is bound to others. Port 85 is
        // open all the while, port 82 never. A thousand rows that change too are written between those of `a` and `b`,
        // so that half a change would be there for long.
        let b = pod("b", 2, "app: b").replace("10.1.0.2", addresses[0]);
        let fixed = [NAMESPACE, &b.replace("fd00::2", addresses[1])].concat();
        let crowd = |labels: &str| -> String {
            let pods = (0..500).map(|number| {
                let address = format!("10.1.{}.{}", 1 + number / 200, number % 200);
                let pod = pod(&format!("c{number}"), 9, labels).replace("10.1.0.9", &address);
                pod.replace("fd00::9", &format!("fd00::9:{number}"))
            });
            pods.collect()
        };
        let states = ["app: a", "app: c"].map(|labels| {
            let (one, two) = if labels == "app: a" { (85, 82) } else { (82, 85) };
            let policies = [policy("one", "app: a", one), policy("two", "app: c", two)];
            puts(&[pod("a", 1, labels), policies.concat(), crowd(labels)].concat())
        });
        let mut engine = engine(on_node(), &fixed);
        engine.apply_batch(states[0].clone());
        let mut dataplane = EbpfDataplane::default().with_updates(Updates::InPlace);
        sync(&lab, &mut dataplane, &engine);
        let over = AtomicBool::new(false);
        let updates = AtomicUsize::new(0);
        let mut asked = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                let _end = AtEnd(&over);
                for state in states.iter().rev().cycle() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let delta = engine.apply_batch(state.iter().cloned());
                    update(&lab, &mut dataplane, &engine, &delta);
                    updates.fetch_add(1, Ordering::Relaxed);
                }
            });
            let end = AtEnd(&over);
            let mut probes = Vec::new();
            for address in addresses {
                for number in [82, 85] {
                    let number = NonZeroU16::new(number).unwrap();
                    for traffic in [Traffic::Tcp(number), Traffic::Udp(number)] {
                        let from = End::Pod(ObjectRef::new("x", "a"));
                        let probe = Probe { from, to: address.parse().unwrap(), traffic };
                        probes.extend(core::iter::repeat_n(probe, 40));
                    }
                }
            }
            let patience = Patience { timeout: Duration::from_millis(250), repeats: 0 };
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(8) && !over.load(Ordering::Relaxed) {
                asked += probes.len();
                let seen = lab.probe_with(&probes, patience).unwrap();
                for (probe, seen) in probes.iter().zip(seen) {
                    let allowed =
                        matches!(probe.traffic, Traffic::Tcp(n) | Traffic::Udp(n) if n.get() == 85);
                    assert_eq!(seen, if allowed { Passed } else { TimedOut }, "{probe:?}");
                }
            }
            drop(end);
        });
        let updates = updates.into_inner();
        eprintln!("updates under load: {updates} updates, {asked} probes, 0 wrong");
        assert!(updates > 5 && asked > 0);
    });
}

#[test]
fn what_was_counted_and_denied_is_told_by_rule() {
    bpf::kernel_test("counters", || {
        let lab = lab();
        let text = [
            NAMESPACE,
            &pod("a", 1, "app: a"),
            &pod("b", 2, "app: b"),
            &policy("one", "app: a", 80),
            &policy("two", "app: c", 81),
        ];
        let engine = engine(on_node(), &text.concat());
        let mut dataplane = EbpfDataplane::default().with_updates(Updates::InPlace);
        sync(&lab, &mut dataplane, &engine);
        assert_eq!(
            probe(&lab, &[80, 81, 80]),
            [Passed, Passed, TimedOut, TimedOut, Passed, Passed]
        );
        let counters = lab.in_node("node", || dataplane.counters()).unwrap().unwrap();
        let count = |verdict, is: &dyn Fn(&Cause) -> bool| -> u64 {
            let of = counters.iter().filter(|counter| {
                counter.direction == Direction::Ingress
                    && counter.verdict == verdict
                    && is(&counter.cause)
            });
            of.map(|counter| counter.packets).sum()
        };
        let of_rule = |name: &'static str| {
            move |cause: &Cause| match cause {
                Cause::Rules(origins) => {
                    origins.iter().all(|origin| origin.policy.object.name.as_ref() == name)
                }
                Cause::Isolation(_) | Cause::Default | Cause::UnknownPod | Cause::Guard => false,
            }
        };
        assert!(count(Verdict::Allow, &of_rule("one")) >= 4, "{counters:?}");
        assert_eq!(count(Verdict::Allow, &of_rule("two")), 0);
        let isolation = |cause: &Cause| match cause {
            Cause::Isolation(policies) => policies.len() == 2,
            Cause::Rules(_) | Cause::Default | Cause::UnknownPod | Cause::Guard => false,
        };
        let denied = count(Verdict::Deny, &isolation);
        assert!(denied >= 2, "{counters:?}");

        let denials = lab.in_node("node", || dataplane.denials()).unwrap().unwrap();
        assert_eq!(denials.lost, 0);
        assert_eq!(u64::try_from(denials.flows.len()).unwrap(), denied);
        for denial in &denials.flows {
            assert_eq!(denial.direction, Direction::Ingress);
            assert!(isolation(&denial.cause), "{denial:?}");
            assert_eq!(denial.flow.transport, Transport::Port(Protocol::Tcp, 81));
            assert!(denial.source_port.is_some_and(|port| port > 1000));
        }
        let v6 = "fd00::2".parse::<IpAddr>().unwrap();
        assert!(denials.flows.iter().any(|denial| denial.flow.destination == v6));
        let denials = lab.in_node("node", || dataplane.denials()).unwrap().unwrap();
        assert_eq!(denials.flows, []);
    });
}

#[test]
fn a_pod_that_is_not_known_yet_talks_to_nobody_in_strict_mode() {
    bpf::kernel_test("strict mode", || {
        let lab = lab();
        let text = [NAMESPACE, &pod("b", 2, "app: b")].concat();
        let pods = ["10.1.0.0/24", "fd00::/64"].map(|text| Cidr::parse(text).unwrap());
        let options = Options { pod_ranges: PrefixSet::from_cidrs(&pods), ..on_node() };
        let mut engine = engine(options, &text);
        let mut dataplane = EbpfDataplane::default().with_updates(Updates::InPlace);
        sync(&lab, &mut dataplane, &engine);
        assert_eq!(probe(&lab, &[80]), [TimedOut, TimedOut]);
        let denials = lab.in_node("node", || dataplane.denials()).unwrap().unwrap();
        let denial = denials.flows.first().unwrap();
        assert_eq!((denial.direction, &denial.cause), (Direction::Egress, &Cause::UnknownPod));
        // It is known now, and nothing is asked of it.
        let delta = engine.apply_batch(puts(&pod("a", 1, "app: a")));
        update(&lab, &mut dataplane, &engine, &delta);
        assert_eq!(probe(&lab, &[80]), [Passed, Passed]);
        // And gone again: whoever has its address is nobody.
        let delta = engine.apply(Event::DeletePod(ObjectRef::new("x", "a")));
        update(&lab, &mut dataplane, &engine, &delta);
        assert_eq!(probe(&lab, &[80]), [TimedOut, TimedOut]);
    });
}

/// Runs `bpftool`. Returns what it tells, if it can.
fn bpftool(arguments: &[&str]) -> Option<String> {
    let output = Command::new("bpftool").args(arguments).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// Returns the numbers of the maps of hosts' rows that this process holds.
fn host_rows() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    let rows = texts.filter(|text| text.contains("value_size:\t64\n"));
    let id = |text: String| {
        text.lines().find_map(|line| Some(line.strip_prefix("map_id:")?.trim().to_owned()))
    };
    rows.filter_map(id).collect()
}

#[test]
fn what_somebody_changed_is_found_and_repaired() {
    bpf::kernel_test("drift", || {
        let lab = lab();
        // Others have maps of these names; ours has an address that no other has.
        let [.., c, d] = std::process::id().to_be_bytes();
        let mine = pod("mine", 3, "app: a").replace("10.1.0.3", &format!("10.99.{c}.{d}"));
        let text = [
            NAMESPACE,
            &pod("a", 1, "app: a"),
            &pod("b", 2, "app: b"),
            &mine,
            &policy("one", "app: a", 80),
        ];
        let engine = engine(on_node(), &text.concat());
        let mut dataplane = EbpfDataplane::default().with_updates(Updates::InPlace);
        sync(&lab, &mut dataplane, &engine);
        let may = |dataplane: &mut EbpfDataplane| {
            lab.in_node("node", || dataplane.may_have_drifted()).unwrap().unwrap()
        };
        assert!(!may(&mut dataplane));
        assert_eq!(drifts(&lab, &mut dataplane, &engine), []);

        let address = format!("0a 63 {c:02x} {d:02x}");
        let row = |id: &str, number: u32| {
            let key = format!("{number:02x} 00 00 00");
            let words: Vec<&str> = ["map", "lookup", "id", id, "key", "hex"].into();
            bpftool(&words.into_iter().chain(key.split(' ')).collect::<Vec<_>>())
        };
        let rows = host_rows();
        let mine = rows.iter().flat_map(|id| (1..8).map(move |number| (id, number)));
        // Maps of other tests may go meanwhile.
        let is_mine = |(id, number): &(&String, u32)| {
            row(id, *number).is_some_and(|row| row.contains(&address))
        };
        let mine: Vec<_> = mine.filter(is_mine).collect();
        let [(id, number)] = mine[..] else { panic!("{mine:?}") };
        let words = format!(
            "map update id {id} key hex {number:02x} 00 00 00 value hex{}",
            " 00".repeat(64)
        );
        bpftool(&words.split(' ').collect::<Vec<_>>()).unwrap();
        let changed = |object: &str, difference| Drift { object: object.into(), difference };
        assert_eq!(
            drifts(&lab, &mut dataplane, &engine),
            [changed("map np_hosts", Difference::Changed)]
        );
        sync(&lab, &mut dataplane, &engine);
        assert_eq!(drifts(&lab, &mut dataplane, &engine), []);
        assert_eq!(probe(&lab, &[80]), [Passed, Passed]);

        let nft = || Command::new("nft").args(["delete", "table", "inet", "netpol-ebpf"]).status();
        assert!(lab.in_node("node", nft).unwrap().unwrap().success());
        let missing = changed("table inet netpol-ebpf", Difference::Missing);
        assert_eq!(drifts(&lab, &mut dataplane, &engine), [missing]);
        sync(&lab, &mut dataplane, &engine);
        assert_eq!(drifts(&lab, &mut dataplane, &engine), []);
        let other = Engine::new(on_node());
        let is_other = changed("the ruleset", Difference::Changed);
        assert_eq!(drifts(&lab, &mut dataplane, &other), [is_other]);
    });
}

/// A pod for each of these, and policies for each label.
fn many(pods: u8, policies: u16) -> String {
    let mut text = NAMESPACE.to_owned();
    for number in 1..=pods {
        text += &pod(&format!("p{number}"), number, &format!("id: n{number}, app: b"));
    }
    for number in 0..policies {
        text += &policy(&format!("q{number}"), &format!("id: n{}", number + 1), 80 + number);
    }
    text
}

#[test]
fn a_change_that_fits_in_no_map_leaves_the_ruleset_in_force() {
    bpf::kernel_test("full maps", || {
        let lab = lab();
        let small = many(2, 1);
        let large = format!(
            "{}{}",
            many(60, 40),
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: x, name: net}\n\
             spec:\n  podSelector: {matchLabels: {id: n9}}\n  policyTypes: [Egress, Ingress]\n  egress:\n  \
             - to: [{ipBlock: {cidr: 172.16.0.0/12, except: [172.16.7.0/24]}}]\n"
        );
        type Set = fn(&mut Limits, usize);
        let cases: [(&str, Set, usize); 7] = [
            ("map hosts", |limits, to| limits.hosts = to, 10),
            ("map networks", |limits, to| limits.networks = to, 5),
            ("map pods", |limits, to| limits.pods = to, 10),
            ("map policies", |limits, to| limits.policies = to, 1),
            ("map words", |limits, to| limits.words = to, 10),
            ("map ports", |limits, to| limits.ports = to, 10),
            ("map counters", |limits, to| limits.counters = to, 40),
        ];
        for (name, set, to) in cases {
            let mut limits = Limits::default();
            set(&mut limits, to);
            let mut engine = engine(on_node(), &small);
            let mut dataplane =
                EbpfDataplane::new(Ebpf::with_limits(limits)).with_updates(Updates::InPlace);
            sync(&lab, &mut dataplane, &engine);
            let before = engine.clone();
            let delta = engine.apply_batch(puts(&large));
            let work = || dataplane.update(engine.snapshot(), &delta);
            let error = lab.in_node("node", work).unwrap().unwrap_err();
            let cause = core::error::Error::source(&error).unwrap().to_string();
            assert!(cause.starts_with(name), "{name}: {cause}");
            assert!(cause.ends_with(&format!("room for {to}")), "{cause}");
            // What was in force is; and it is so again after a sync.
            assert_eq!(probe(&lab, &[80, 81]), [Passed, Passed, TimedOut, TimedOut], "{name}");
            sync(&lab, &mut dataplane, &before);
            assert_eq!(drifts(&lab, &mut dataplane, &before), []);
            lab.in_node("node", || dataplane.remove()).unwrap().unwrap();
        }
    });
}

/// The last map: its rows come with the options, and no change changes them.
#[test]
fn ranges_that_do_not_fit_leave_the_ruleset_in_force() {
    bpf::kernel_test("a full map of ranges", || {
        let lab = lab();
        let with = |ranges: &[&str]| {
            let ranges: Vec<Cidr> = ranges.iter().map(|text| Cidr::parse(text).unwrap()).collect();
            let pod_ranges = PrefixSet::from_cidrs(&ranges);
            engine(Options { pod_ranges, ..on_node() }, &many(2, 1))
        };
        let limits = Limits { ranges: 2, ..Limits::default() };
        let mut dataplane = EbpfDataplane::new(Ebpf::with_limits(limits));
        let before = with(&["10.1.0.0/24", "fd00::/64"]);
        sync(&lab, &mut dataplane, &before);
        let large = with(&["10.1.0.0/24", "fd00::/64", "10.3.0.0/24"]);
        let work = || dataplane.sync(large.snapshot());
        let error = lab.in_node("node", work).unwrap().unwrap_err();
        let cause = core::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "map ranges needs 3 rows, but the target has room for 2");
        assert_eq!(probe(&lab, &[80, 81]), [Passed, Passed, TimedOut, TimedOut]);
        assert_eq!(drifts(&lab, &mut dataplane, &before), []);
    });
}

#[test]
fn maps_that_have_become_too_small_are_loaded_anew() {
    bpf::kernel_test("growing maps", || {
        let lab = lab();
        let mut engine = engine(on_node(), &many(2, 1));
        let mut dataplane = EbpfDataplane::default().with_updates(Updates::InPlace);
        sync(&lab, &mut dataplane, &engine);
        // More port rows than there is room for beside.
        let policy = |number: u16| policy(&format!("r{number}"), "id: n1", 1 + 2 * number);
        let delta = engine.apply_batch(puts(&(0..700).map(policy).collect::<String>()));
        let work = || dataplane.update(engine.snapshot(), &delta);
        assert_eq!(lab.in_node("node", work).unwrap().unwrap(), Updated::BySync);
        assert_eq!(drifts(&lab, &mut dataplane, &engine), []);
        let delta = engine.apply(Event::DeleteNetworkPolicy(ObjectRef::new("x", "r1")));
        update(&lab, &mut dataplane, &engine, &delta);
        assert_eq!(drifts(&lab, &mut dataplane, &engine), []);
    });
}
