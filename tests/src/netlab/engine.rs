//! Sends many probes at once and watches all of their ends on one thread.
//!
//! A socket belongs to the namespace it was opened in for good, so one epoll instance serves the sockets of the whole
//! lab. First everything that receives is opened; then a second thread walks through the namespaces and sends, while
//! this one already receives, so that no socket's buffer overflows.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::io;
use std::net::UdpSocket;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::Instant;

use super::conntrack::{self, Tuple};
use super::error::Step as _;
use super::packet::{Mark, Received, read};
use super::probe::Shot;
use super::sending::{Notice, Sender, ask, send_raw};
use super::socket::{Service, Watched, services_of};
use super::sys::Poll;
use super::{HostId, Lab, LabError, Observation, Refusal, Traffic};

/// Raw packets sent before what they caused is looked at.
const BURST: usize = 64;
/// How many times datagrams and raw packets are sent within one timeout, against loss that is not policy.
const SENDINGS: u32 = 3;
/// Numbers the volleys, so that a straggler of an earlier one is not taken for a probe of this one.
static CALLS: AtomicU32 = AtomicU32::new(1);

/// Sends the probes in volleys that this process has enough open files for.
pub(super) fn fire(
    lab: &Lab,
    shots: &[Shot],
    timeout: Duration,
) -> Result<Vec<Observation>, LabError> {
    let most = usize::try_from(lab.open_files / 3).unwrap_or(usize::MAX).clamp(64, 8192);
    let mut observations = vec![Observation::TimedOut; shots.len()];
    let (first, second) =
        (0..shots.len()).partition::<Vec<usize>, _>(|index| is_forward(shots, *index));
    for volley in first.chunks(most).chain(second.chunks(most)) {
        let shots: Vec<Shot> =
            volley.iter().filter_map(|index| shots.get(*index).copied()).collect();
        forget(lab, &shots)?;
        let poll = Poll::new().step(|| "make an epoll instance".to_owned())?;
        for (index, seen) in volley.iter().zip(Volley::open(lab, &shots, &poll)?.run(timeout)?) {
            if let Some(observation) = observations.get_mut(*index) {
                *observation = seen;
            }
        }
    }
    Ok(observations)
}

/// Puts the two ways of a protocol without ports into different volleys: conntrack takes one for the answer to the
/// other.
fn is_forward(shots: &[Shot], index: usize) -> bool {
    shots.get(index).is_none_or(|shot| match shot.traffic {
        Traffic::Protocol(_) => shot.source <= shot.to,
        Traffic::Icmp | Traffic::Sctp(_) | Traffic::Tcp(_) | Traffic::Udp(_) => true,
    })
}

/// Has the nodes forget what earlier volleys did with protocols without ports.
fn forget(lab: &Lab, shots: &[Shot]) -> Result<(), LabError> {
    let tuple = |shot: &Shot| match shot.traffic {
        Traffic::Protocol(number) => Some((shot.source, shot.to, number)),
        Traffic::Icmp | Traffic::Sctp(_) | Traffic::Tcp(_) | Traffic::Udp(_) => None,
    };
    let tuples: Vec<Tuple> = shots.iter().filter_map(tuple).collect();
    if !tuples.is_empty() {
        for node in lab.nodes.values() {
            lab.run(*node, || conntrack::forget(&tuples))?
                .step(|| "have a node forget connections".to_owned())?;
        }
    }
    Ok(())
}

/// What was seen of a shot so far.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    arrived: bool,
    outcome: Option<Observation>,
}

/// The probes of one volley, and what is known of them.
#[derive(Debug)]
struct Volley<'a> {
    lab: &'a Lab,
    shots: &'a [Shot],
    /// Marks the packets of this volley; not 0, since an SCTP tag must not be.
    call: u32,
    poll: &'a Poll,
    /// The sockets by their epoll token; `None` once they have done their work.
    watched: Vec<Option<Watched>>,
    /// Where the raw sockets are among them.
    raw: BTreeMap<(HostId, IpAddr, u8), usize>,
    /// The source port, or echo identifier, of each raw packet: repeats are the same flow.
    raw_ports: Vec<u16>,
    seen: Vec<Seen>,
    unsettled: usize,
}

impl<'a> Volley<'a> {
    /// Opens everything that receives.
    fn open(lab: &'a Lab, shots: &'a [Shot], poll: &'a Poll) -> Result<Self, LabError> {
        let mut volley = Self {
            lab,
            shots,
            call: CALLS.fetch_add(1, Ordering::Relaxed) | 1 << 31,
            poll,
            watched: Vec::new(),
            raw: BTreeMap::new(),
            raw_ports: shots
                .iter()
                .map(|shot| match lab.hosts.get(shot.from) {
                    Some(host) if shot.raw_protocol().is_some() => host.fresh_port(),
                    Some(_) | None => 0,
                })
                .collect(),
            seen: vec![Seen::default(); shots.len()],
            unsettled: shots.len(),
        };
        let services: BTreeSet<(HostId, Service)> = shots.iter().flat_map(services_of).collect();
        let services: Vec<(HostId, Service)> = services.into_iter().collect();
        for of_host in services.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((host, _)) = of_host.first() else { continue };
            let open = || {
                of_host
                    .iter()
                    .map(|(_, service)| service.open())
                    .collect::<io::Result<Vec<Watched>>>()
            };
            for watched in
                lab.run(*host, open)?.step(|| "open a socket that receives".to_owned())?
            {
                if let Watched::Raw(_, address, protocol) = watched {
                    volley.raw.insert((*host, address, protocol), volley.watched.len());
                }
                let token = volley.watched.len();
                watched.watch(poll, token).step(|| "watch a socket".to_owned())?;
                volley.watched.push(Some(watched));
            }
        }
        Ok(volley)
    }

    /// Sends everything and waits for it.
    fn run(mut self, timeout: Duration) -> Result<Vec<Observation>, LabError> {
        let (notices, told) = channel();
        let sender = Sender {
            shots: self.shots,
            call: self.call,
            poll: self.poll,
            notices,
            next: self.watched.len(),
        };
        let lab = self.lab;
        thread::scope(|scope| {
            let sending = scope.spawn(move || sender.send_all(lab));
            let received = self.receive_all(&told, timeout);
            let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sent.and(received)
        })
        .step(|| "send probes".to_owned())?;
        let outcome = |seen: &Seen| match seen.outcome {
            Some(outcome) => outcome,
            None if seen.arrived => Observation::AnswerLost,
            None => Observation::TimedOut,
        };
        Ok(self.seen.iter().map(outcome).collect())
    }

    fn receive_all(&mut self, told: &Receiver<Notice>, timeout: Duration) -> io::Result<()> {
        self.send_raw()?;
        while self.hear(told) {
            self.turn(1)?;
        }
        let between = timeout / SENDINGS;
        for sending in 1..=SENDINGS {
            let until = Instant::now() + between;
            while self.unsettled > 0 && Instant::now() < until {
                let left = until.saturating_duration_since(Instant::now()).as_millis();
                self.turn(i32::try_from(left).unwrap_or(1000).clamp(1, 1000))?;
            }
            if sending < SENDINGS && self.unsettled > 0 {
                self.send_raw()?;
                self.ask_again()?;
            }
        }
        Ok(())
    }

    /// Takes what the sending thread tells; returns whether there may be more.
    fn hear(&mut self, told: &Receiver<Notice>) -> bool {
        loop {
            match told.try_recv() {
                Ok(Notice::Watch(watched)) => self.watched.push(Some(watched)),
                Ok(Notice::Settled(shot, outcome)) => self.settle(shot, outcome),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Sends, or repeats, the unsettled shots of raw packets.
    fn send_raw(&mut self) -> io::Result<()> {
        for (index, shot) in self.shots.iter().enumerate() {
            let unsettled = self.seen.get(index).is_some_and(|seen| seen.outcome.is_none());
            let Some(protocol) = shot.raw_protocol().filter(|_| unsettled) else { continue };
            let socket = self
                .raw
                .get(&(shot.from, shot.source, protocol))
                .and_then(|at| self.watched.get(*at));
            let Some(Some(Watched::Raw(socket, _, _))) = socket else { continue };
            let port = self.raw_ports.get(index).copied().unwrap_or(0);
            if let Some(outcome) = send_raw(socket, shot, port, self.mark(index)) {
                self.settle(index, outcome);
            }
            if index % BURST == 0 {
                self.turn(0)?;
            }
        }
        Ok(())
    }

    /// Repeats the datagrams that have no answer.
    fn ask_again(&mut self) -> io::Result<()> {
        for at in 0..self.watched.len() {
            if let Some(Some(Watched::Asking(socket, index))) = self.watched.get(at) {
                let index = *index;
                if let Some(outcome) = ask(socket, self.mark(index)) {
                    self.settle(index, outcome);
                }
                if at % BURST == 0 {
                    self.turn(0)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for sockets to become ready and serves them.
    fn turn(&mut self, milliseconds: i32) -> io::Result<()> {
        let mut ready = Vec::new();
        self.poll.wait(milliseconds, &mut ready)?;
        for token in ready {
            let Some(at) = usize::try_from(token).ok().filter(|at| *at < self.watched.len()) else {
                continue;
            };
            // Taken out while it is served; put back unless its work is done, which closes it.
            let Some(watched) = self.watched.get_mut(at).and_then(Option::take) else { continue };
            if self.serve(&watched)? == Work::Goes
                && let Some(place) = self.watched.get_mut(at)
            {
                *place = Some(watched);
            }
        }
        Ok(())
    }

    fn serve(&mut self, watched: &Watched) -> io::Result<Work> {
        match watched {
            Watched::Asking(socket, index) => return Ok(self.hear_answer(socket, *index)),
            Watched::Connecting(stream, index) => {
                let outcome = match stream.take_error()? {
                    None => Observation::Passed,
                    Some(error) => {
                        Refusal::of(&error).map_or(Observation::TimedOut, Observation::Refused)
                    }
                };
                self.settle(*index, outcome);
                return Ok(Work::Done);
            }
            Watched::Echo(socket) => self.echo(socket),
            Watched::Listener(listener) => loop {
                match listener.accept() {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => return Err(error),
                }
            },
            Watched::Raw(socket, on, protocol) => self.receive_raw(socket, *on, *protocol),
        }
        Ok(Work::Goes)
    }

    fn hear_answer(&mut self, socket: &UdpSocket, index: usize) -> Work {
        let mut buffer = [0; 64];
        match socket.recv(&mut buffer) {
            Ok(_) if Mark::read(&buffer) == Some(self.mark(index)) => {
                self.settle(index, Observation::Passed);
            }
            Ok(_) => return Work::Goes,
            Err(error) => match Refusal::of(&error) {
                Some(refusal) => self.settle(index, Observation::Refused(refusal)),
                None => return Work::Goes,
            },
        }
        Work::Done
    }

    fn echo(&mut self, socket: &UdpSocket) {
        let mut buffer = [0; 64];
        while let Ok((count, sender)) = socket.recv_from(&mut buffer) {
            let datagram = buffer.get(..count).unwrap_or_default();
            if let Some(mark) = Mark::read(datagram) {
                self.arrived(mark);
            }
            // An answer that cannot be sent is an answer lost; the sender's end sees that.
            drop(socket.send_to(datagram, sender));
        }
    }

    fn receive_raw(&mut self, socket: &UdpSocket, on: IpAddr, protocol: u8) {
        let mut buffer = [0; 256];
        while let Ok((count, _)) = socket.recv_from(&mut buffer) {
            match read(buffer.get(..count).unwrap_or_default(), protocol, on) {
                Some(Received::Probe(mark)) => self.arrived(mark),
                Some(Received::Answer(mark)) if mark.call == self.call => {
                    if let Ok(index) = usize::try_from(mark.index) {
                        self.settle(index, Observation::Passed);
                    }
                }
                Some(Received::Answer(_)) | None => {}
            }
        }
    }

    fn arrived(&mut self, mark: Mark) {
        let Ok(index) = usize::try_from(mark.index) else { return };
        let (Some(shot), Some(seen)) = (self.shots.get(index), self.seen.get_mut(index)) else {
            return;
        };
        if mark.call != self.call {
            return;
        }
        seen.arrived = true;
        if !shot.traffic.has_answer() {
            self.settle(index, Observation::Passed);
        }
    }

    fn settle(&mut self, index: usize, outcome: Observation) {
        if let Some(seen) = self.seen.get_mut(index).filter(|seen| seen.outcome.is_none()) {
            seen.outcome = Some(outcome);
            self.unsettled = self.unsettled.saturating_sub(1);
        }
    }

    fn mark(&self, index: usize) -> Mark {
        Mark { call: self.call, index: u32::try_from(index).unwrap_or(u32::MAX) }
    }
}

/// Whether a socket is still needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Work {
    Done,
    Goes,
}
