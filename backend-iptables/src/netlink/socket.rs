//! What the standard library has no form of: the netlink socket. With child processes the only place with `unsafe`.
#![expect(unsafe_code, reason = "the standard library has no netlink sockets")]

use alloc::vec::Vec;
use core::ffi::{c_int, c_long};
use core::mem::size_of;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use netpol_core::ir::Family;

/// The kernel's datagrams are at most this long.
const DATAGRAM: usize = 64 * 1024;

/// A netlink socket to netfilter, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        // The kernel explains its errors, and does not send the message back with them.
        socket.option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
        socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        Ok(socket)
    }

    fn option(&self, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or_default();
        // SAFETY: `value` lives through the call and has the length that is given.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                core::ptr::from_ref(&value).cast(),
                length,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends a whole transaction or request at once.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        /// What fits without asking, with room to spare.
        const UNASKED: usize = 100_000;
        if bytes.len() > UNASKED {
            // The kernel doubles the value. Not being allowed to shows as EMSGSIZE below.
            let wanted = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
            let _ = self.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted);
        }
        loop {
            // SAFETY: the pointer and length are those of a slice.
            let sent =
                unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            match usize::try_from(sent) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Makes room for what the kernel sends by itself.
    pub(super) fn enlarge(&self, bytes: c_int) -> io::Result<()> {
        self.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
    }

    /// Receives one datagram; waits for it.
    pub(super) fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            match self.read(0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Receives one datagram, if one is there.
    pub(super) fn poll(&self) -> io::Result<Option<Vec<u8>>> {
        match self.read(libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            result => result.map(Some),
        }
    }

    fn read(&self, flags: c_int) -> io::Result<Vec<u8>> {
        let mut buffer: Vec<u8> = Vec::with_capacity(DATAGRAM);
        // SAFETY: the buffer has DATAGRAM bytes of capacity, all of which the kernel may write.
        let received =
            unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), DATAGRAM, flags) };
        let Ok(received) = usize::try_from(received) else {
            return Err(io::Error::last_os_error());
        };
        // SAFETY: the kernel wrote `received` bytes, which is at most the capacity.
        unsafe { buffer.set_len(received) };
        Ok(buffer)
    }
}

/// Returns what the old table `filter` says of itself: how many rules there are, how long they all are, where each hook
/// begins. One rule for another of the same length does not show.
pub(crate) fn legacy_table(family: Family) -> io::Result<[u8; 84]> {
    /// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
    const INFO: c_int = 64;
    let (domain, level) = match family {
        Family::V4 => (libc::AF_INET, libc::IPPROTO_IP),
        Family::V6 => (libc::AF_INET6, libc::IPPROTO_IPV6),
    };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(domain, kind, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // `struct ipt_getinfo`: the name in 32 bytes, then 13 numbers.
    let mut told = [0; 84];
    told[..6].copy_from_slice(b"filter");
    let mut length = libc::socklen_t::try_from(told.len()).unwrap_or_default();
    // SAFETY: the kernel writes at most `length` bytes, which `told` has.
    let result = unsafe {
        let told = told.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), level, INFO, told, &raw mut length)
    };
    if result == 0 { Ok(told) } else { Err(io::Error::last_os_error()) }
}

/// Waits until every packet that is on its way through the rules has left them: each goes its whole way under one lock of
/// the kind that `membarrier` waits for. Returns whether the kernel can say so.
pub(crate) fn grace() -> bool {
    /// `MEMBARRIER_CMD_GLOBAL`.
    const GLOBAL: c_long = 1;
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0_i64, 0_i64) == 0 }
}
