//! Connections that stay open while rules change (NP-160, DEC-17).

use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU16;
use core::time::Duration;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Instant;

use super::error::Step as _;
use super::probe::{Probe, Shot};
use super::sending::on_fresh_port;
use super::socket::listen;
use super::sys::{self, Interest, Poll};
use super::{End, Host, Lab, LabError, Observation, Refusal, Traffic};

/// An open flow between two ends of a lab. Dropping it resets it.
#[derive(Debug)]
pub struct Connection {
    client: Wire,
    server: Wire,
    exchanges: u64,
}

/// One end of a flow.
#[derive(Debug)]
enum Wire {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Lab {
    /// Opens a TCP connection and keeps it.
    ///
    /// # Errors
    /// As [`Self::probe`], and [`LabError::NotOpened`] if it cannot be established.
    pub fn open_tcp(
        &self,
        from: &End,
        to: IpAddr,
        port: NonZeroU16,
    ) -> Result<Connection, LabError> {
        let probe = Probe { from: from.clone(), to, traffic: Traffic::Tcp(port) };
        let shot = self.aim(&probe)?;
        let address = SocketAddr::new(to, port.get());
        let listener =
            self.run(shot.at, || listen(address))?.step(|| format!("listen on {address}"))?;
        let (host, patience) = (self.host(shot.from)?, Duration::from_secs(3));
        let client = self.run(shot.from, || connect(host, &shot, address, patience))?;
        let client = client.step(|| format!("connect to {address}"))?;
        let client = client
            .map_err(|observation| LabError::NotOpened { probe: probe.clone(), observation })?;
        let server =
            accept(|| listener.accept(), patience).step(|| format!("accept on {address}"))?;
        for end in [&client, &server] {
            end.set_nonblocking(false)
                .and_then(|()| end.set_nodelay(true))
                .step(|| "set up a connection".to_owned())?;
        }
        Ok(Connection { client: Wire::Tcp(client), server: Wire::Tcp(server), exchanges: 0 })
    }

    /// Opens a UDP flow; nothing is sent before the first exchange.
    ///
    /// # Errors
    /// As [`Self::probe`].
    pub fn open_udp(
        &self,
        from: &End,
        to: IpAddr,
        port: NonZeroU16,
    ) -> Result<Connection, LabError> {
        let shot = self.aim(&Probe { from: from.clone(), to, traffic: Traffic::Udp(port) })?;
        let address = SocketAddr::new(to, port.get());
        let server = self
            .run(shot.at, || UdpSocket::bind(address))?
            .step(|| format!("listen on {address}"))?;
        let host = self.host(shot.from)?;
        let client =
            self.run(shot.from, || on_fresh_port(host, &shot, || sys::udp_socket(address)))?;
        let client = UdpSocket::from(client.step(|| "open a socket".to_owned())?);
        let both = || {
            client.set_nonblocking(false)?;
            client.connect(address)?;
            server.connect(client.local_addr()?)
        };
        both().step(|| format!("connect to {address}"))?;
        Ok(Connection { client: Wire::Udp(client), server: Wire::Udp(server), exchanges: 0 })
    }
}

impl Connection {
    /// Sends data there and back, and waits for each way at most this long. What an earlier exchange left on the way
    /// is skipped.
    pub fn exchange(&mut self, timeout: Duration) -> Observation {
        self.exchanges += 1;
        let word = self.exchanges.to_be_bytes();
        let there = pass(&mut self.client, &mut self.server, word, timeout);
        if !there.has_passed() {
            return there;
        }
        let back = pass(&mut self.server, &mut self.client, word, timeout);
        if back == Observation::TimedOut { Observation::AnswerLost } else { back }
    }

    /// Returns the same connection with its ends exchanged: the one that was dialled speaks first.
    #[must_use]
    pub fn turned(self) -> Self {
        Self { client: self.server, server: self.client, ..self }
    }
}

impl Wire {
    fn send(&mut self, word: [u8; 8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(&word),
            Self::Udp(socket) => socket.send(&word).map(drop),
        }
    }

    /// Receives one word.
    fn receive(&mut self, patience: Duration) -> io::Result<[u8; 8]> {
        let mut word = [0; 8];
        let patience = Some(patience.max(Duration::from_millis(1)));
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(patience).and_then(|()| stream.read_exact(&mut word))?;
            }
            Self::Udp(socket) => {
                socket
                    .set_read_timeout(patience)
                    .and_then(|()| socket.recv(&mut word))
                    .map(drop)?;
            }
        }
        Ok(word)
    }
}

fn pass(from: &mut Wire, to: &mut Wire, word: [u8; 8], timeout: Duration) -> Observation {
    let refused = |error: &io::Error| Refusal::of(error).map(Observation::Refused);
    if let Some(observation) = from.send(word).err().as_ref().and_then(refused) {
        return observation;
    }
    let deadline = Instant::now() + timeout;
    loop {
        match to.receive(deadline.saturating_duration_since(Instant::now())) {
            Ok(received) if received == word => return Observation::Passed,
            Ok(_) if Instant::now() < deadline => {}
            Ok(_) => return Observation::TimedOut,
            Err(error) => return refused(&error).unwrap_or(Observation::TimedOut),
        }
    }
}

/// Connects in the namespace of the calling thread.
fn connect(
    host: &Host,
    shot: &Shot,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<Result<TcpStream, Observation>> {
    let socket = on_fresh_port(host, shot, || sys::tcp_socket(to))?;
    sys::reset_on_close(&socket)?;
    let judge = |error: io::Error| Refusal::of(&error).map(Observation::Refused).ok_or(error);
    if let Err(error) = sys::connect(&socket, to) {
        return judge(error).map(Err);
    }
    let (poll, mut ready) = (Poll::new()?, Vec::new());
    poll.add(socket.as_raw_fd(), Interest::Writable, 0)?;
    poll.wait(i32::try_from(patience.as_millis()).unwrap_or(i32::MAX), &mut ready)?;
    let stream = TcpStream::from(socket);
    match stream.take_error()? {
        Some(error) => judge(error).map(Err),
        None if ready.is_empty() => Ok(Err(Observation::TimedOut)),
        None => Ok(Ok(stream)),
    }
}

/// Accepts; the client may be connected a moment before the server knows.
fn accept(
    once: impl Fn() -> io::Result<(TcpStream, SocketAddr)>,
    patience: Duration,
) -> io::Result<TcpStream> {
    let deadline = Instant::now() + patience;
    loop {
        match once() {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            outcome => return outcome.map(|(stream, _)| stream),
        }
    }
}
