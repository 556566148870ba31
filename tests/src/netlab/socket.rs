//! The sockets of a volley.

use core::net::{IpAddr, SocketAddr};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;

use super::probe::Shot;
use super::sys::{self, Interest, Poll};
use super::{HostId, Traffic};

/// Something that receives: opened before anything is sent.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Service {
    /// Receives packets of a protocol, and sends them too.
    Raw(IpAddr, u8),
    /// Accepts connections.
    Tcp(SocketAddr),
    /// Sends datagrams back.
    Udp(SocketAddr),
}

/// A socket on which something will happen.
#[derive(Debug)]
pub(super) enum Watched {
    /// A datagram's sender that waits for the answer to a shot.
    Asking(UdpSocket, usize),
    /// The connection of a shot under way.
    Connecting(TcpStream, usize),
    /// Sends datagrams back.
    Echo(UdpSocket),
    /// Accepts connections.
    Listener(TcpListener),
    /// A raw socket. The standard library has no such type; that of UDP does the same system calls.
    Raw(UdpSocket, IpAddr, u8),
}

/// What a shot needs open, and where.
pub(super) fn services_of(shot: &Shot) -> impl Iterator<Item = (HostId, Service)> + use<> {
    let here = shot.raw_protocol().map(|protocol| (shot.from, Service::Raw(shot.source, protocol)));
    let there = match shot.traffic {
        Traffic::Tcp(port) => Some(Service::Tcp(SocketAddr::new(shot.to, port.get()))),
        Traffic::Udp(port) => Some(Service::Udp(SocketAddr::new(shot.to, port.get()))),
        Traffic::Icmp | Traffic::Protocol(_) | Traffic::Sctp(_) => {
            shot.raw_protocol().map(|protocol| Service::Raw(shot.to, protocol))
        }
    };
    let at = shot.at;
    here.into_iter().chain(there.map(|service| (at, service)))
}

impl Shot {
    /// The protocol of the raw packet that this shot is, if it is one.
    pub(super) const fn raw_protocol(&self) -> Option<u8> {
        match self.traffic {
            Traffic::Icmp => Some(if self.to.is_ipv4() { 1 } else { 58 }),
            Traffic::Protocol(number) => Some(number),
            Traffic::Sctp(_) => Some(132),
            Traffic::Tcp(_) | Traffic::Udp(_) => None,
        }
    }
}

impl Service {
    /// Opens it in the namespace of the calling thread.
    pub(super) fn open(self) -> io::Result<Watched> {
        match self {
            Self::Raw(address, protocol) => {
                let socket = sys::raw_socket(SocketAddr::new(address, 0), protocol)?;
                Ok(Watched::Raw(socket.into(), address, protocol))
            }
            Self::Tcp(address) => listen(address).map(Watched::Listener),
            Self::Udp(address) => {
                let socket = UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                Ok(Watched::Echo(socket))
            }
        }
    }
}

impl Watched {
    /// Has epoll watch it under a token, until it is closed.
    pub(super) fn watch(&self, poll: &Poll, token: usize) -> io::Result<()> {
        let token = u64::try_from(token).map_err(io::Error::other)?;
        match self {
            Self::Connecting(stream, _) => poll.add(stream.as_raw_fd(), Interest::Writable, token),
            Self::Listener(listener) => poll.add(listener.as_raw_fd(), Interest::Readable, token),
            Self::Asking(socket, _) | Self::Echo(socket) | Self::Raw(socket, _, _) => {
                poll.add(socket.as_raw_fd(), Interest::Readable, token)
            }
        }
    }
}

/// Listens, without blocking and with a long queue.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = sys::tcp_socket(address)?;
    sys::reuse_address(&socket)?;
    sys::bind(&socket, address)?;
    sys::listen(&socket)?;
    Ok(socket.into())
}
