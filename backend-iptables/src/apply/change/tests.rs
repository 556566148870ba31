//! The model of the kernel takes every step of every delta, and is asked in between.

use alloc::collections::BTreeMap;
use core::net::IpAddr;

use netpol_conformance::events::{Happening, Script, puts};
use netpol_core::backend::Program as _;
use netpol_core::compile::Options;
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::{Family, Flow, Ruleset, Scope, Transport, Verdict};
use netpol_core::model::{Cidr, Protocol};
use netpol_core::net::PrefixSet;
use netpol_k8s::manifest::{ReadOptions, read_str};

use super::{Op, Plan, plan};
use crate::Iptables;
use crate::apply::held::{Fill, Held};
use crate::apply::next::Next;
use crate::lower::role::Role;
use crate::lower::{Layout, Memory, lower};
use crate::restore::{Elements, Member, Name, RestoreInput};

/// How often each way was gone, so that a test cannot pass by going none.
#[derive(Clone, Copy, Debug, Default)]
struct Ways {
    in_place: usize,
    rules: usize,
    synced: usize,
    steps: usize,
    /// Packets that were on their way during steps.
    across: usize,
}

struct Kernel {
    options: Iptables,
    held: Held,
    there: RestoreInput,
    /// What packets that are on their way may have seen of the sets, after each step since they were last waited for.
    seen: Vec<BTreeMap<Name, Elements>>,
    ways: Ways,
}

impl Kernel {
    fn synced(options: Iptables, ruleset: &Ruleset) -> Self {
        let memory = Memory::fresh(ruleset);
        let layout = Layout::new(ruleset, &options, memory.clone()).unwrap();
        let there = lower(ruleset, &options, memory).unwrap();
        let fills = there.sets.iter().map(|(name, set)| (name.clone(), Fill::of(set))).collect();
        let held = Held::new(layout, ruleset, fills);
        Self { options, held, there, seen: Vec::new(), ways: Ways::default() }
    }

    fn update(&mut self, before: &Ruleset, after: &Ruleset, delta: &Delta, flows: &[Flow]) {
        let Some(plan) = plan(&self.held, &self.options, after, delta) else {
            let ways = self.ways;
            *self = Self::synced(self.options, after);
            self.ways = Ways { synced: ways.synced + 1, ..ways };
            return;
        };
        let Plan { before: first, rules, after: last } = plan;
        // Where ends are is known to the kernel by itself, and to the model from what comes: a flow that takes another way
        // because of that is not the same flow.
        self.there.topology = lower(after, &self.options, Memory::default()).unwrap().topology;
        let fixed: Vec<(Flow, Verdict)> = flows
            .iter()
            .map(|flow| (*flow, before.verdict(flow).verdict, after.verdict(flow).verdict))
            .filter(|(flow, old, new)| old == new && self.there.verdict(flow) == *old)
            .map(|(flow, verdict, _)| (flow, verdict))
            .collect();
        self.seen = vec![self.there.sets.clone()];
        self.steps(&first, &fixed, delta);
        match rules {
            None => self.ways.in_place += 1,
            Some(memory) => {
                self.ways.rules += 1;
                let next = Next::new(&self.options, &self.held, after, memory).unwrap();
                self.there.sets.extend(next.made);
                let [v4, v6] = next.layout.filters.clone();
                self.there.v4 = v4;
                self.check(&fixed, "after the rules of IPv4", delta);
                self.there.v6 = v6;
                self.check(&fixed, "after the rules", delta);
                self.there.sets.retain(|name, _| next.layout.roles.contains_key(name));
                let [v4, v6] = next.changed;
                for (name, (family, role)) in &next.layout.roles {
                    let settles = if *family == Family::V4 { v4 } else { v6 };
                    if *role == Role::Unsettled && settles {
                        let set = self.there.sets.get_mut(name).unwrap();
                        *set = set.with([]);
                    }
                }
                self.held = Held::new(next.layout, after, next.fills);
            }
        }
        // A switch of rules is over when no packet is under the old ones any more.
        self.seen = vec![self.there.sets.clone()];
        self.steps(&last, &fixed, delta);
        self.held.addresses = Held::new(self.held.layout.clone(), after, BTreeMap::new()).addresses;
        self.is_what_a_whole_lowering_makes(after, delta);
    }

    fn steps(&mut self, ops: &[Op], fixed: &[(Flow, Verdict)], delta: &Delta) {
        for op in ops {
            let (name, members, joins) = match op {
                Op::Add(name, members) => (name, members, true),
                Op::Delete(name, members) => (name, members, false),
                Op::Grace => {
                    self.seen = vec![self.there.sets.clone()];
                    continue;
                }
            };
            let concerned: Vec<(Flow, Verdict)> = fixed
                .iter()
                .filter(|(flow, _)| {
                    members.iter().any(|member| {
                        let address = address(member);
                        [flow.source, flow.destination].contains(&address)
                    })
                })
                .copied()
                .collect();
            for member in members {
                let set = self.there.sets.get_mut(name).unwrap_or_else(|| panic!("no {name}"));
                let mut all: alloc::collections::BTreeSet<Member> = set.iter().collect();
                let was_there = if joins { !all.insert(*member) } else { !all.remove(member) };
                let unsettled = matches!(self.held.role(name), Some((_, Role::Unsettled)));
                assert!(!was_there || unsettled, "{op:?} of {member} changes nothing\n{delta:?}");
                *set = set.with(all);
                self.ways.steps += 1;
                let when = format!("after {op:?} as far as {member}");
                self.check(fixed, &when, delta);
                self.check_on_their_way(&concerned, &when, delta);
                self.seen.push(self.there.sets.clone());
            }
            let fill = self.held.fills.get_mut(name).unwrap();
            fill.members = self.there.sets.get(name).map_or(0, Elements::len);
        }
    }

    #[track_caller]
    fn check(&self, fixed: &[(Flow, Verdict)], when: &str, delta: &Delta) {
        for (flow, verdict) in fixed {
            let now = self.there.verdict(flow);
            assert_eq!(now, *verdict, "{flow} {when}\n{delta:?}\n{}", self.there);
        }
    }

    /// Asks for packets that saw some of the sets as they were a few steps ago.
    #[track_caller]
    fn check_on_their_way(&mut self, fixed: &[(Flow, Verdict)], when: &str, delta: &Delta) {
        for earlier in &self.seen {
            for (flow, verdict) in fixed {
                for (number, met) in self.there.judge_across(earlier, flow).into_iter().enumerate()
                {
                    self.ways.across += 1;
                    assert_eq!(
                        met, *verdict,
                        "{flow}, on its way past {number} sets, {when}\n{delta:?}\n{}",
                        self.there
                    );
                }
            }
        }
    }

    fn is_what_a_whole_lowering_makes(&self, ruleset: &Ruleset, delta: &Delta) {
        let memory = self.held.layout.memory.clone();
        let mut whole = lower(ruleset, &self.options, memory).unwrap();
        for (name, (_, role)) in &self.held.layout.roles {
            let set = &self.there.sets[name];
            if *role == Role::Unsettled {
                whole.sets.insert(name.clone(), set.clone());
            }
            let fill = self.held.fills[name];
            assert_eq!(
                (fill.members, fill.room >= set.len()),
                (set.len(), true),
                "{name}\n{delta:?}"
            );
        }
        assert_eq!(self.there.sets, whole.sets, "{delta:?}");
        assert_eq!((&self.there.v4, &self.there.v6), (&whole.v4, &whole.v6), "{delta:?}");
        let [v4, v6] = &self.held.layout.filters;
        assert_eq!((v4, v6), (&whole.v4, &whole.v6));
    }
}

fn address(member: &Member) -> IpAddr {
    match member {
        Member::Address(address) | Member::AddressPort(address, _, _) => *address,
        Member::Network(net) => net.network(),
    }
}

fn run(script: &Script, options: Iptables) -> Ways {
    let mut engine = Engine::with_tuning(script.options.clone(), script.tuning);
    let mut kernel = Kernel::synced(options, engine.snapshot());
    for happening in &script.happenings {
        let before = engine.snapshot().clone();
        let delta = match happening {
            Happening::Event(event) => engine.apply(event.clone()),
            Happening::Batch(events) => engine.apply_batch(events.clone()),
            Happening::Restart(_) => engine.apply(Event::InSync),
        };
        // The first look at a cluster is no change of one.
        if before.endpoints().len() == 0 && before.peer_sets().len() == 0 {
            let ways = kernel.ways;
            kernel = Kernel { ways, ..Kernel::synced(options, engine.snapshot()) };
            continue;
        }
        kernel.update(&before, engine.snapshot(), &delta, &script.flows);
    }
    kernel.ways
}

#[track_caller]
fn campaign(seeds: core::ops::Range<u64>, script: impl Fn(u64) -> Script, enough: [usize; 2]) {
    let mut all = Ways::default();
    for seed in seeds {
        let mut script = script(seed);
        script.flows.truncate(600);
        if seed % 3 == 0 {
            let ranges = ["10.0.0.0/8", "fd00::/8"].map(|text| Cidr::parse(text).unwrap());
            script.options.pod_ranges = PrefixSet::from_cidrs(&ranges);
        }
        let ways = run(&script, Iptables::default());
        all.in_place += ways.in_place;
        all.rules += ways.rules;
        all.synced += ways.synced;
        all.steps += ways.steps;
        all.across += ways.across;
    }
    assert!(all.in_place >= enough[0] && all.rules >= enough[1] && all.across >= 1000, "{all:?}");
}

#[test]
fn every_step_of_every_delta_keeps_what_old_and_new_agree_on() {
    campaign(0..24, |seed| Script::new(seed, 60), [50, 50]);
}

#[test]
fn pods_that_change_their_labels_lose_and_leak_nothing() {
    campaign(100..106, |seed| Script::relabels(seed, 60), [100, 0]);
}

/// A node whose pod `server` admits pods of either of two labels, and pods of a third that may not send.
const MEETING: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: default}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: server, namespace: default, labels: {app: server}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.0.1}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: mute, namespace: default, labels: {app: mute}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.0.0.2}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in, namespace: default}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: one}}}], ports: [{port: 1}]}, {from: [{podSelector: {matchLabels: {app: two}}}]}, {from: [{podSelector: {matchLabels: {app: mute}}}], ports: [{port: 3}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: default}
spec: {podSelector: {matchLabels: {app: mute}}, policyTypes: [Egress]}
---
";

/// Takes one event's steps while the server is asked for what comes from an address, at every port that matters.
fn meets(events: Vec<Event>, change: Event, source: &str) -> Ways {
    let mut engine = Engine::new(Options { scope: Scope::Node("n1".into()), ..Options::default() });
    let meeting = read_str("meeting.yaml", MEETING, &ReadOptions::default()).unwrap().cluster;
    engine.apply_batch(puts(&meeting).into_iter().chain(events).chain([Event::InSync]));
    let before = engine.snapshot().clone();
    let mut kernel = Kernel::synced(Iptables::default(), &before);
    let delta = engine.apply(change);
    let to = |port| {
        let transport = Transport::Port(Protocol::Tcp, port);
        Flow::new(source.parse().unwrap(), "10.0.0.1".parse().unwrap(), transport)
    };
    kernel.update(&before, engine.snapshot(), &delta, &[1, 2, 3].map(to));
    assert_eq!(kernel.ways.rules + kernel.ways.synced, 0, "{delta:?}");
    kernel.ways
}

fn pod(name: &str, app: &str, node: &str, address: &str) -> Event {
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: default, labels: {{app: {app}}}}}, \
         spec: {{nodeName: {node}, containers: [{{name: c, image: i}}]}}, status: {{podIPs: [{{ip: {address}}}]}}}}"
    );
    let read = read_str("pod.yaml", &text, &ReadOptions::default()).unwrap().cluster;
    Event::PutPod(read.pods.into_values().next().unwrap())
}

#[test]
fn a_peer_that_changes_its_label_is_allowed_all_the_while() {
    let before = vec![pod("peer", "one", "n2", "10.0.1.1")];
    assert!(meets(before, pod("peer", "two", "n2", "10.0.1.1"), "10.0.1.1").steps >= 2);
}

#[test]
fn a_pod_that_comes_and_may_not_send_never_sends_to_who_admits_it() {
    assert!(meets(Vec::new(), pod("late", "mute", "n1", "10.0.0.3"), "10.0.0.3").steps >= 2);
}

#[test]
fn a_pod_that_goes_and_might_not_send_never_sends_to_who_admitted_it() {
    let late = pod("late", "mute", "n1", "10.0.0.3");
    let Event::PutPod(gone) = &late else { return };
    let gone = Event::DeletePod(gone.meta.object.clone());
    assert!(meets(vec![late], gone, "10.0.0.3").steps >= 2);
}
