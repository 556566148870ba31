//! Crafted traffic over a node whose rules change: every packet is held against the verdicts of the rulesets that were in
//! force, or becoming so, while it was on its way.
//!
//! Packets go out in bursts; a beacon that no policy is about closes each. The versions from the last one complete before
//! the burst to the last one begun behind it are those that any of its packets can have met.

use alloc::collections::{BTreeSet, VecDeque};
use core::net::IpAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::RwLock;
use std::thread;
use std::time::Instant;

use netpol_conformance::generate::Random;
use netpol_conformance::netlab::{Between, Content, Crowd, Packet, Place};
use netpol_core::ir::{Flow, Transport};
use netpol_core::model::Protocol;

const NEW: usize = 24;
const OPEN: usize = 12;
/// How long what must arrive may take on a loaded machine.
const GRACE: Duration = Duration::from_millis(1500);
const REMEMBERED: usize = 1 << 16;
/// What was silent for longer is no open connection any more: the kernel may have forgotten it (`Crowd::forget_after`, three
/// seconds), and would take its next answer for the first packet of a connection the other way, under another verdict.
const SILENT: Duration = Duration::from_secs(1);
const BEACON: [&str; 2] = ["198.18.0.1", "198.18.0.2"];

/// The verdicts of every version of the rules on every flow, and which versions may be met now.
#[derive(Debug, Default)]
pub(super) struct History {
    versions: RwLock<Vec<Vec<bool>>>,
    complete: AtomicUsize,
}

impl History {
    /// A history that begins with a version in force.
    pub(super) fn new(first: Vec<bool>) -> Self {
        Self { versions: RwLock::new(vec![first]), complete: AtomicUsize::new(0) }
    }

    /// A change begins.
    pub(super) fn begin(&self, verdicts: Vec<bool>) {
        self.versions.write().unwrap().push(verdicts);
    }

    /// The last change that began is carried out.
    pub(super) fn complete(&self) {
        self.complete.store(self.versions.read().unwrap().len() - 1, Ordering::SeqCst);
    }

    fn last_complete(&self) -> usize {
        self.complete.load(Ordering::SeqCst)
    }

    fn last_begun(&self) -> usize {
        self.versions.read().unwrap().len() - 1
    }

    /// What all versions of a range say; `None` where they differ.
    fn verdict(&self, flow: usize, from: usize, to: usize) -> Option<bool> {
        let versions = self.versions.read().unwrap();
        let mut all = versions[from..=to].iter().map(|verdicts| verdicts[flow]);
        let first = all.next()?;
        all.all(|verdict| verdict == first).then_some(first)
    }
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Packets with one verdict while they were on their way.
    pub(super) judged: usize,
    /// Of these, those that had to be dropped.
    pub(super) denied: usize,
    /// Packets of open connections, and of these, answers.
    pub(super) of_connections: usize,
    pub(super) answers: usize,
    /// Packets whose verdict changed on the way, so that either is right.
    pub(super) either: usize,
    /// What was wrong.
    pub(super) wrong: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    New,
    Open,
    Answer,
    Beacon,
}

#[derive(Clone, Copy, Debug)]
struct Shot {
    flow: usize,
    kind: Kind,
    port: u16,
    arrived: bool,
    /// What must become of it, once that is known.
    must: Option<bool>,
}

/// A connection that was opened while its flow was allowed.
#[derive(Clone, Copy, Debug)]
struct Connection {
    flow: usize,
    port: u16,
    since: usize,
    /// No later than its last packet.
    heard: Instant,
}

/// Sends and watches.
pub(super) struct Traffic<'a> {
    crowd: &'a Crowd,
    flows: &'a [Flow],
    /// How many of the flows, from the first on, are asked in bursts.
    in_bursts: usize,
    history: &'a History,
    random: Random,
    ports: u16,
    shots: VecDeque<Shot>,
    /// The number of the first shot remembered.
    base: usize,
    connections: Vec<Connection>,
    /// The ports from which flows were answered once: connection tracking may know them for long.
    spent: BTreeSet<(usize, u16)>,
    pub(super) tally: Tally,
}

impl<'a> Traffic<'a> {
    pub(super) fn new(crowd: &'a Crowd, flows: &'a [Flow], history: &'a History) -> Self {
        Self {
            crowd,
            flows,
            in_bursts: flows.len(),
            history,
            random: Random::seeded(7),
            ports: 0,
            shots: VecDeque::new(),
            base: 0,
            connections: Vec::new(),
            spent: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    /// Asks only the first flows in bursts; of the others it is known at rest only what must become of them.
    pub(super) const fn only_first(mut self, flows: usize) -> Self {
        self.in_bursts = flows;
        self
    }

    /// Sends one burst and judges it.
    pub(super) fn burst(&mut self) {
        let low = self.history.last_complete();
        let start = self.next_number();
        let begun = Instant::now();
        for _ in 0..NEW {
            let flow = self.random.below(self.in_bursts);
            self.new_connection(flow);
        }
        for _ in 0..OPEN.min(self.connections.len()) {
            let index = self.random.below(self.connections.len());
            let open = self.connections[index];
            if open.heard.elapsed() > SILENT {
                self.connections.swap_remove(index);
                if self.connections.is_empty() {
                    break;
                }
                continue;
            }
            self.connections[index].heard = Instant::now();
            let kind = if self.random.one_in(2) { Kind::Open } else { Kind::Answer };
            self.send(open.flow, kind, open.port);
        }
        self.close(start, low, begun);
    }

    /// Sends every flow once while nothing changes, and holds it against these verdicts.
    pub(super) fn check_all(&mut self, verdicts: &[bool]) {
        for chunk in (0..self.flows.len()).collect::<Vec<_>>().chunks(NEW) {
            let start = self.next_number();
            chunk.iter().for_each(|flow| self.new_connection(*flow));
            self.wait_for_beacon();
            let shots: Vec<usize> = (start..self.next_number()).collect();
            for number in &shots {
                if let Some(shot) = self.shot(*number).filter(|shot| matches!(shot.kind, Kind::New))
                {
                    shot.must = Some(verdicts[shot.flow]);
                }
            }
            self.judge(&shots, "at rest");
        }
    }

    fn new_connection(&mut self, flow: usize) {
        loop {
            self.ports = (self.ports + 1) % 40_000;
            if !self.spent.contains(&(flow, 20_000 + self.ports)) {
                break;
            }
        }
        self.send(flow, Kind::New, 20_000 + self.ports);
    }

    /// Judges the packets since `start`, the first of which went out no earlier than `begun`.
    fn close(&mut self, start: usize, low: usize, begun: Instant) {
        self.wait_for_beacon();
        let high = self.history.last_begun();
        let shots: Vec<usize> = (start..self.next_number()).collect();
        for number in &shots {
            let Some(shot) = self.shot(*number).copied() else { continue };
            let must = match shot.kind {
                Kind::New => self.history.verdict(shot.flow, low, high),
                Kind::Open | Kind::Answer => {
                    let same = |one: &Connection| (one.flow, one.port) == (shot.flow, shot.port);
                    let connection = self.connections.iter().position(same);
                    let held = connection.is_some_and(|index| {
                        let since = self.connections[index].since;
                        self.history.verdict(shot.flow, since, high) == Some(true)
                    });
                    if let Some(index) = connection.filter(|_| !held) {
                        self.connections.swap_remove(index);
                    }
                    held.then_some(true)
                }
                Kind::Beacon => continue,
            };
            match (must, shot.kind) {
                (None, Kind::New) => self.tally.either += 1,
                (Some(_), Kind::Open) => self.tally.of_connections += 1,
                (Some(_), Kind::Answer) => {
                    self.tally.of_connections += 1;
                    self.tally.answers += 1;
                }
                (_, Kind::New | Kind::Open | Kind::Answer | Kind::Beacon) => {}
            }
            self.shot(*number).unwrap().must = must;
        }
        self.judge(&shots, &format!("versions {low} to {high}"));
        for number in shots {
            let Some(shot) = self.shot(number).copied() else { continue };
            if let (Kind::New, true, Some(true)) = (shot.kind, shot.arrived, shot.must)
                && self.connections.len() < 64
                && self.can_answer(shot.flow)
            {
                self.spent.insert((shot.flow, shot.port));
                let Shot { flow, port, .. } = shot;
                self.connections.push(Connection { flow, port, since: low, heard: begun });
            }
        }
        while self.shots.len() > REMEMBERED {
            self.shots.pop_front();
            self.base += 1;
        }
    }

    fn judge(&mut self, shots: &[usize], when: &str) {
        let deadline = Instant::now() + GRACE;
        loop {
            let missing = shots.iter().any(|number| {
                self.shot(*number).is_some_and(|shot| shot.must == Some(true) && !shot.arrived)
            });
            if !missing || Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_millis(1));
            self.receive();
        }
        for number in shots {
            let Some(shot) = self.shot(*number).copied() else { continue };
            let Some(must) = shot.must else { continue };
            self.tally.judged += 1;
            self.tally.denied += usize::from(!must);
            if must != shot.arrived {
                self.wrong(&shot, when);
            }
        }
    }

    fn wrong(&mut self, shot: &Shot, when: &str) {
        let flow = self.flows[shot.flow];
        let what = if shot.arrived { "leaked" } else { "lost" };
        let tracked = self.crowd.tracked(shot.port).unwrap();
        self.tally.wrong.push(format!(
            "{flow} from port {}, {:?}: {what}, {when}; the kernel tracks {tracked:?}",
            shot.port, shot.kind
        ));
    }

    fn can_answer(&self, flow: usize) -> bool {
        let flow = self.flows[flow];
        matches!(flow.transport, Transport::Port(Protocol::Udp, 1..))
            && [flow.source, flow.destination]
                .into_iter()
                .all(|end| self.crowd.place(end) != Place::Node)
    }

    fn next_number(&self) -> usize {
        self.base + self.shots.len()
    }

    fn shot(&mut self, number: usize) -> Option<&mut Shot> {
        self.shots.get_mut(number.checked_sub(self.base)?)
    }

    fn send(&mut self, flow: usize, kind: Kind, port: u16) {
        let (mut source, mut destination, content) = match kind {
            Kind::Beacon => {
                let [from, to] = BEACON.map(|address| address.parse::<IpAddr>().unwrap());
                (from, to, Content::Udp(9, 9))
            }
            Kind::New | Kind::Open | Kind::Answer => {
                let flow = self.flows[flow];
                let content = match flow.transport {
                    Transport::Port(Protocol::Tcp, to) => Content::Tcp(port, to, 2),
                    Transport::Port(Protocol::Udp, to) => Content::Udp(port, to),
                    Transport::Port(Protocol::Sctp, to) => Content::Sctp(port, to),
                    Transport::Other(_) => Content::Echo(port),
                };
                (flow.source, flow.destination, content)
            }
        };
        let content = match (kind, content) {
            (Kind::Answer, Content::Udp(from, to)) => {
                core::mem::swap(&mut source, &mut destination);
                Content::Udp(to, from)
            }
            (_, content) => content,
        };
        let number = u32::try_from(self.next_number()).unwrap();
        let packet = Packet { source, destination, content, between: Between::Nothing, number };
        self.shots.push_back(Shot { flow, kind, port, arrived: false, must: None });
        self.crowd.send(&packet).unwrap();
    }

    fn wait_for_beacon(&mut self) {
        let begun = Instant::now();
        loop {
            let number = self.next_number();
            self.send(0, Kind::Beacon, 0);
            let again = Instant::now() + Duration::from_millis(200);
            while Instant::now() < again {
                self.receive();
                if self.shot(number).is_some_and(|beacon| beacon.arrived) {
                    return;
                }
                thread::yield_now();
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "the node forwards nothing any more"
            );
        }
    }

    fn receive(&mut self) {
        let mut numbers = Vec::new();
        self.crowd.receive(|_, number| numbers.push(usize::try_from(number).unwrap()));
        for number in numbers {
            let Some(shot) = self.shot(number) else { continue };
            let late = !shot.arrived && shot.must == Some(false);
            shot.arrived = true;
            if late {
                let shot = *shot;
                self.wrong(&shot, "late");
            }
        }
    }
}
