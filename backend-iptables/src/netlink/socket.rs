//! The netlink socket, and what the old tables say of themselves.

use alloc::vec::Vec;
use core::ffi::c_int;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use netpol_core::ir::Family;

use crate::sys;

/// The kernel's datagrams are at most this long.
const DATAGRAM: usize = 64 * 1024;

/// A netlink socket to netfilter, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Self(sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)?);
        // The kernel explains its errors, and does not send the message back with them.
        socket.option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
        socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        Ok(socket)
    }

    fn option(&self, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
        sys::set_option(self.0.as_fd(), level, name, value)
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
            match sys::send(self.0.as_fd(), bytes) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
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
        sys::receive(self.0.as_fd(), DATAGRAM, flags)
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
    let socket = sys::socket(domain, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    // `struct ipt_getinfo`: the name in 32 bytes, then 13 numbers.
    let mut told = [0; 84];
    told[..6].copy_from_slice(b"filter");
    sys::read_option(socket.as_fd(), level, INFO, &mut told)?;
    Ok(told)
}
