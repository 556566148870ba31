//! The sending half of a volley.

use alloc::collections::BTreeMap;
use core::net::SocketAddr;
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::mpsc;

use super::packet::{Mark, bare, echo_request, sctp_init};
use super::probe::Shot;
use super::socket::Watched;
use super::sys::{self, Poll};
use super::{Host, HostId, Lab, Observation, Refusal, Traffic};

/// How many source ports are tried until one is free.
const PORT_TRIES: u32 = 64;

/// What the sending thread tells the receiving one.
#[derive(Debug)]
pub(super) enum Notice {
    /// A shot whose outcome was clear at once.
    Settled(usize, Observation),
    /// One more socket; their tokens count in this order.
    Watch(Watched),
}

/// Walks through the namespaces and starts what has a socket of its own: connections and datagrams.
#[derive(Debug)]
pub(super) struct Sender<'a> {
    /// Everything to send.
    pub(super) shots: &'a [Shot],
    /// Marks this volley.
    pub(super) call: u32,
    /// Watches the sockets.
    pub(super) poll: &'a Poll,
    /// Tells the receiving thread.
    pub(super) notices: mpsc::Sender<Notice>,
    /// The token of the next socket.
    pub(super) next: usize,
}

impl Sender<'_> {
    /// Sends everything, on a thread that is of no other use: it ends up in some namespace of the lab.
    pub(super) fn send_all(mut self, lab: &Lab) -> io::Result<()> {
        let mut by_host: BTreeMap<HostId, Vec<(usize, &Shot)>> = BTreeMap::new();
        for (index, shot) in
            self.shots.iter().enumerate().filter(|(_, shot)| shot.raw_protocol().is_none())
        {
            by_host.entry(shot.from).or_default().push((index, shot));
        }
        for (host, shots) in by_host {
            let Some(host) = lab.hosts.get(host) else { continue };
            host.namespace.enter()?;
            for (index, shot) in shots {
                self.send(host, index, shot)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, host: &Host, index: usize, shot: &Shot) -> io::Result<()> {
        let (watched, outcome) = match shot.traffic {
            Traffic::Tcp(port) => {
                let to = SocketAddr::new(shot.to, port.get());
                let socket = on_fresh_port(host, shot, || sys::tcp_socket(to))?;
                sys::reset_on_close(&socket)?;
                let outcome = sys::connect(&socket, to)
                    .err()
                    .map(|error| word(&error).ok_or(error))
                    .transpose()?;
                (Watched::Connecting(socket.into(), index), outcome)
            }
            Traffic::Udp(port) => {
                let to = SocketAddr::new(shot.to, port.get());
                let socket = UdpSocket::from(on_fresh_port(host, shot, || sys::udp_socket(to))?);
                let outcome = match socket.connect(to) {
                    Ok(()) => ask(
                        &socket,
                        Mark { call: self.call, index: u32::try_from(index).unwrap_or(u32::MAX) },
                    ),
                    Err(error) => Some(word(&error).ok_or(error)?),
                };
                (Watched::Asking(socket, index), outcome)
            }
            Traffic::Icmp | Traffic::Protocol(_) | Traffic::Sctp(_) => return Ok(()),
        };
        if let Some(outcome) = outcome {
            self.tell(Notice::Settled(index, outcome));
            return Ok(());
        }
        let token = self.next;
        self.next = self.next.saturating_add(1);
        watched.watch(self.poll, token)?;
        self.tell(Notice::Watch(watched));
        Ok(())
    }

    fn tell(&self, notice: Notice) {
        // The receiving thread is only gone when it has failed, and then that is what gets reported.
        drop(self.notices.send(notice));
    }
}

/// Sends a datagram; a full buffer is no outcome, since datagrams are repeated.
pub(super) fn ask(socket: &UdpSocket, mark: Mark) -> Option<Observation> {
    socket.send(&mark.to_bytes()).err().as_ref().and_then(word)
}

/// Sends a raw packet; a full buffer is no outcome, since packets are repeated.
pub(super) fn send_raw(
    socket: &UdpSocket,
    shot: &Shot,
    port: u16,
    mark: Mark,
) -> Option<Observation> {
    let packet = match shot.traffic {
        Traffic::Icmp => echo_request(shot.to, port, mark),
        Traffic::Protocol(_) => bare(mark),
        Traffic::Sctp(to) => sctp_init(port, to.get(), mark),
        Traffic::Tcp(_) | Traffic::Udp(_) => return None,
    };
    socket.send_to(&packet, SocketAddr::new(shot.to, 0)).err().as_ref().and_then(word)
}

/// Opens a socket of the sending host on a source port that no recent probe had.
pub(super) fn on_fresh_port(
    host: &Host,
    shot: &Shot,
    open: impl Fn() -> io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    let socket = open()?;
    let mut tries = 0;
    loop {
        match sys::bind(&socket, SocketAddr::new(shot.source, host.fresh_port())) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < PORT_TRIES => {
                tries += 1;
            }
            outcome => return outcome.map(|()| socket),
        }
    }
}

fn word(error: &io::Error) -> Option<Observation> {
    Refusal::of(error).map(Observation::Refused)
}
