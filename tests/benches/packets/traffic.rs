//! Short connections and ping-pong, both ends in one thread: what the kernel does for a packet on a veth it does at once,
//! in the time of the thread that sends it, so that the processor time of this thread is what all of it costs.
#![expect(unsafe_code, reason = "sockets bound before they connect, and a thread's own clock")]

use std::io::{self, Read as _, Write as _};
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Connect, a byte each way, close.
    Tcp,
    /// A new port, a byte each way.
    Udp,
    /// A byte each way on a connection that is open.
    PingPong,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::PingPong];

    /// How often in one measurement: about 4 ms.
    pub(crate) const fn repeats(self) -> u32 {
        match self {
            Self::Tcp => 80,
            Self::Udp => 200,
            Self::PingPong => 400,
        }
    }
}

/// The sockets of the server.
#[derive(Debug)]
pub(crate) struct Server {
    listener: TcpListener,
    datagrams: UdpSocket,
    address: SocketAddr,
}

impl Server {
    /// Opens them in the namespace of the calling thread.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let datagrams = UdpSocket::bind(address)?;
        datagrams.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { listener: TcpListener::bind(address)?, datagrams, address })
    }
}

/// The client's side.
#[derive(Debug)]
pub(crate) struct Client {
    sources: Vec<IpAddr>,
    used: usize,
    open: Option<(TcpStream, TcpStream)>,
}

const PATIENCE: Duration = Duration::from_secs(2);

impl Client {
    pub(crate) const fn new(sources: Vec<IpAddr>) -> Self {
        Self { sources, used: 0, open: None }
    }

    /// Sends from each address in turn, and from another port each time.
    fn next(&mut self) -> SocketAddr {
        let turn = self.used / self.sources.len();
        let source = self.sources[self.used % self.sources.len()];
        self.used += 1;
        SocketAddr::new(source, 10_000 + u16::try_from(turn % 50_000).unwrap())
    }

    /// Returns the processor time of one round.
    pub(crate) fn measure(
        &mut self,
        kind: Kind,
        repeats: u32,
        server: &Server,
    ) -> io::Result<Duration> {
        let start = processor_time();
        for _ in 0..repeats {
            match kind {
                Kind::Tcp => self.connection(server)?,
                Kind::Udp => self.datagram(server)?,
                Kind::PingPong => self.ping(server)?,
            }
        }
        Ok((processor_time() - start) / repeats)
    }

    fn connection(&mut self, server: &Server) -> io::Result<()> {
        let client = connect(self.next(), server.address)?;
        let (served, _) = server.listener.accept()?;
        exchange(&client, &served)
    }

    fn datagram(&mut self, server: &Server) -> io::Result<()> {
        let client = UdpSocket::bind(self.next())?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.send_to(&[1], server.address)?;
        let mut byte = [0];
        let (_, from) = server.datagrams.recv_from(&mut byte)?;
        server.datagrams.send_to(&byte, from)?;
        client.recv_from(&mut byte).map(drop)
    }

    fn ping(&mut self, server: &Server) -> io::Result<()> {
        if self.open.is_none() {
            let client = connect(self.next(), server.address)?;
            client.set_nodelay(true)?;
            let (served, _) = server.listener.accept()?;
            served.set_nodelay(true)?;
            self.open = Some((client, served));
        }
        let (client, served) = self.open.as_ref().unwrap();
        exchange(client, served)
    }
}

/// Returns whether a datagram from this address arrives.
pub(crate) fn arrives(source: IpAddr, server: &Server) -> io::Result<bool> {
    let client = UdpSocket::bind((source, 0))?;
    client.send_to(&[1], server.address)?;
    server.datagrams.set_read_timeout(Some(Duration::from_millis(50)))?;
    let received = server.datagrams.recv_from(&mut [0]);
    server.datagrams.set_read_timeout(Some(PATIENCE))?;
    match received {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// A byte each way.
fn exchange(mut client: &TcpStream, mut served: &TcpStream) -> io::Result<()> {
    let mut byte = [1];
    client.write_all(&byte)?;
    served.read_exact(&mut byte)?;
    served.write_all(&byte)?;
    client.read_exact(&mut byte)
}

/// Connects from an address and port; the connection ends by a reset, so that nothing of it stays.
fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; the result is checked.
    let descriptor =
        check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    set(&socket, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    set(&socket, libc::SO_SNDTIMEO, &libc::timeval { tv_sec: 2, tv_usec: 0 })?;
    set(&socket, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 2, tv_usec: 0 })?;
    // SAFETY: `with_raw` hands out a valid address of that length.
    with_raw(from, |raw, length| check(unsafe { libc::bind(descriptor, raw, length) }))?;
    // SAFETY: as above.
    with_raw(to, |raw, length| check(unsafe { libc::connect(descriptor, raw, length) }))?;
    Ok(TcpStream::from(socket))
}

fn with_raw(
    address: SocketAddr,
    work: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> io::Result<libc::c_int>,
) -> io::Result<libc::c_int> {
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            work((&raw const raw).cast(), size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: 0,
            };
            work((&raw const raw).cast(), size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for reads of its own size, and the callers pass the C type of each option.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            length,
        )
    })
    .map(drop)
}

fn check(outcome: libc::c_int) -> io::Result<libc::c_int> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

/// The processor time of this thread, and so of the packets that it sends.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Keeps the calling thread on one processor, the last one there is.
pub(crate) fn pin() -> io::Result<()> {
    // SAFETY: a set of processors is plain bits, and zero is none of them.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let last = std::thread::available_parallelism()?.get() - 1;
    // SAFETY: the set is valid, and the kernel has this processor.
    unsafe { libc::CPU_SET(last, &mut set) };
    // SAFETY: the pointer and length are those of the set.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
        .map(drop)
}
