//! The system calls that the standard library has no safe form of. The only unsafe code of this crate.
#![expect(
    unsafe_code,
    reason = "namespaces, raw sockets and epoll have no safe interface in the standard library"
)]

use alloc::ffi::CString;
use core::net::SocketAddr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Gives the calling thread a new network namespace.
pub(super) fn unshare_network() -> io::Result<()> {
    unshare(libc::CLONE_NEWNET)
}

/// Gives the calling process, which must have one thread, a new user namespace.
pub(super) fn unshare_user() -> io::Result<()> {
    unshare(libc::CLONE_NEWUSER)
}

fn unshare(what: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers; the callers use it on threads and processes of their own.
    check(unsafe { libc::unshare(what) }).map(drop)
}

/// Moves the calling thread into a network namespace.
pub(super) fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointers, and the descriptor is open for as long as it is borrowed.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Gives the calling thread, and what it starts, a BPF file system on a directory, which nobody else sees.
pub(super) fn mount_bpf(directory: &Path) -> io::Result<()> {
    let path = CString::new(directory.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let (none, private) = (core::ptr::null(), libc::MS_REC | libc::MS_PRIVATE);
    unshare(libc::CLONE_NEWNS)?;
    // SAFETY: every pointer is to a string that ends in zero, or is null where there is nothing to say.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, private, none.cast()) })?;
    let kind = c"bpf".as_ptr();
    // SAFETY: as above.
    check(unsafe { libc::mount(kind, path.as_ptr(), kind, 0, none.cast()) }).map(drop)
}

/// Returns the real user and group of this process.
pub(super) fn identity() -> (u32, u32) {
    // SAFETY: both take nothing and cannot fail.
    unsafe { (libc::getuid(), libc::getgid()) }
}

/// Has a command do something between its fork and its exec, where it has a single thread.
pub(super) fn before_exec(command: &mut Command, work: fn() -> io::Result<()>) {
    // SAFETY: `work` captures nothing. It allocates, which glibc and musl allow between fork and exec.
    unsafe { command.pre_exec(work) };
}

/// Raises the number of files this process may open to what it is allowed to raise it to.
pub(super) fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place to write to.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a valid value to read from.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(limit.rlim_cur)
}

/// Opens a netlink socket of a family in the namespace of the calling thread. Reads give up after five seconds.
pub(super) fn netlink(family: libc::c_int) -> io::Result<File> {
    let socket = open_socket(libc::AF_NETLINK, libc::SOCK_RAW, family)?;
    let patience = libc::timeval { tv_sec: 5, tv_usec: 0 };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &(4_i32 << 20))?;
    Ok(File::from(socket))
}

/// Opens a non-blocking TCP socket for a family of addresses.
pub(super) fn tcp_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = open_socket(domain(address), libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    if address.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32)?;
    }
    Ok(socket)
}

/// Opens a non-blocking UDP socket for a family of addresses.
pub(super) fn udp_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    open_socket(domain(address), libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0)
}

/// Opens a non-blocking raw socket of an IP protocol, bound to an address.
pub(super) fn raw_socket(address: SocketAddr, protocol: u8) -> io::Result<OwnedFd> {
    let socket =
        open_socket(domain(address), libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol.into())?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &(4_i32 << 20))?;
    bind(&socket, address)?;
    Ok(socket)
}

/// Opens a non-blocking socket that sees whole frames that arrive on an interface, and sends such. Needs no address.
pub(super) fn packet_socket(interface: u32) -> io::Result<File> {
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    let socket = open_socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, 0)?;
    set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32)?;
    long_queue(&socket)?;
    let every = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET.cast_unsigned().try_into().unwrap_or(0),
        sll_protocol: every.to_be(),
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a valid address of that length.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length_of::<libc::sockaddr_ll>()?,
        )
    })?;
    Ok(File::from(socket))
}

/// Opens a non-blocking raw socket that sends packets with the IP headers they come with.
pub(super) fn header_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    open_socket(domain(address), libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::IPPROTO_RAW)
}

/// Opens a non-blocking raw socket that receives every packet of an IP protocol and family.
pub(super) fn protocol_socket(address: SocketAddr, protocol: u8) -> io::Result<OwnedFd> {
    let socket =
        open_socket(domain(address), libc::SOCK_RAW | libc::SOCK_NONBLOCK, protocol.into())?;
    long_queue(&socket)?;
    Ok(socket)
}

/// Gives a socket room for many packets; in a user namespace, as much as is allowed.
fn long_queue(socket: &OwnedFd) -> io::Result<()> {
    let room = 64_i32 << 20;
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &room)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &room))
}

/// Has a TCP connection end by a reset when its socket closes, so that nothing of it lingers.
pub(super) fn reset_on_close(socket: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Lets a listener take an address whose old connections are still closing.
pub(super) fn reuse_address(socket: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32)
}

/// Binds a socket to an address.
pub(super) fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    with_address(address, |pointer, length| {
        // SAFETY: `with_address` hands out a valid address of that length.
        check(unsafe { libc::bind(socket.as_raw_fd(), pointer, length) }).map(drop)
    })
}

/// Begins to connect a socket; a connection under way is no error.
pub(super) fn connect(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let outcome = with_address(address, |pointer, length| {
        // SAFETY: `with_address` hands out a valid address of that length.
        check(unsafe { libc::connect(socket.as_raw_fd(), pointer, length) })
    });
    match outcome {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other.map(drop),
    }
}

/// Makes a socket listen with the longest queue.
pub(super) fn listen(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), 4096) }).map(drop)
}

/// What a socket is watched for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Interest {
    Readable,
    Writable,
}

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Poll(OwnedFd);

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just opened and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Watches a descriptor until it is closed.
    pub(super) fn add(&self, descriptor: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        let events = match interest {
            Interest::Readable => libc::EPOLLIN,
            Interest::Writable => libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: token };
        // SAFETY: `event` is a valid value; the kernel refuses a descriptor that is not open.
        check(unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, descriptor, &raw mut event)
        })
        .map(drop)
    }

    /// Waits and appends the tokens of what is ready.
    pub(super) fn wait(&self, milliseconds: i32, ready: &mut Vec<u64>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 512];
        // SAFETY: `events` is a valid place for 512 events.
        let outcome = check(unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 512, milliseconds)
        });
        let count = match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => usize::try_from(other?).unwrap_or(0),
        };
        ready.extend(events.iter().take(count).map(|event| event.u64));
        Ok(())
    }
}

fn domain(address: SocketAddr) -> libc::c_int {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

fn open_socket(
    domain: libc::c_int,
    kind: libc::c_int,
    protocol: libc::c_int,
) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let descriptor = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the descriptor was just opened and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn set_option<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = length_of::<T>()?;
    // SAFETY: `value` is valid for reads of its own size, and the callers pass the plain C type of each option.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), length)
    })
    .map(drop)
}

fn with_address<T>(
    address: SocketAddr,
    work: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> io::Result<T>,
) -> io::Result<T> {
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET.cast_unsigned().try_into().unwrap_or(0),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            work((&raw const raw).cast(), length_of::<libc::sockaddr_in>()?)
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6.cast_unsigned().try_into().unwrap_or(0),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            work((&raw const raw).cast(), length_of::<libc::sockaddr_in6>()?)
        }
    }
}

fn length_of<T>() -> io::Result<libc::socklen_t> {
    size_of::<T>().try_into().map_err(io::Error::other)
}

fn check(outcome: libc::c_int) -> io::Result<libc::c_int> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}
