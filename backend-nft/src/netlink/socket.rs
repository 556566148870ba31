//! The socket: the only place that speaks to the kernel, and the only one with `unsafe`.
#![expect(unsafe_code, reason = "the standard library has no netlink sockets")]

use alloc::vec::Vec;
use core::ffi::c_int;
use core::mem::size_of;
use core::time::Duration;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::{io, thread};

use super::batch::{Failure, Refusal, refusal};
use super::message::{DONE, DUMP, ERROR, INTERRUPTED, Kind, Received, Writer, messages};

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

    fn option<T>(&self, level: c_int, name: c_int, value: T) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default();
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

    /// Returns the number by which the kernel knows the socket.
    pub(super) fn port(&self) -> io::Result<u32> {
        // SAFETY: all zeros are a valid value.
        let mut address: libc::sockaddr_nl = unsafe { core::mem::zeroed() };
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).unwrap_or_default();
        address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).unwrap_or_default();
        let address = &raw mut address;
        // SAFETY: the address lives through the calls and has the length that is given. Binding gives an unused number.
        let number = unsafe {
            let mut length = size;
            let done = libc::getsockname(self.0.as_raw_fd(), address.cast(), &raw mut length) == 0
                && ((*address).nl_pid != 0
                    || libc::bind(self.0.as_raw_fd(), address.cast(), size) == 0
                        && libc::getsockname(self.0.as_raw_fd(), address.cast(), &raw mut length)
                            == 0);
            done.then(|| (*address).nl_pid)
        };
        number.ok_or_else(io::Error::last_os_error)
    }

    /// Joins a group that the kernel tells things to.
    pub(super) fn join(&self, group: c_int) -> io::Result<()> {
        self.port()?; // A socket without a number is told nothing.
        self.option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Asks for room for what is not read yet; less is no error.
    pub(super) fn make_room(&self, bytes: c_int) {
        let forced = self.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes);
        let _ = forced.or_else(|_| self.option(libc::SOL_SOCKET, libc::SO_RCVBUF, bytes));
    }

    /// Has the kernel leave out what it tells because of messages from another socket.
    pub(super) fn ignore_port(&self, port: u32) -> io::Result<()> {
        const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
            // The codes are small.
            #[expect(clippy::cast_possible_truncation, reason = "BPF codes have 16 bits")]
            libc::sock_filter { code: code as u16, jt, jf, k }
        }
        // `nlmsg_pid` stands at offset 12; a word is loaded as the network would write it.
        let port = u32::from_be_bytes(port.to_ne_bytes());
        let mut program = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 12),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, port),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        ];
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        self.option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter)
    }

    /// Returns how long the socket's buffer for what is sent is, in bytes; zero where the kernel does not say.
    fn send_buffer(&self) -> usize {
        let mut value: c_int = 0;
        let mut length = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or_default();
        // SAFETY: the value and its length live through the call.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        if result == 0 { usize::try_from(value).unwrap_or_default() } else { 0 }
    }

    /// Asks for room for a transaction of so many bytes; less is no error.
    fn make_room_to_send(&self, bytes: usize) {
        /// What fits without asking, with room to spare.
        const UNASKED: usize = 100_000;
        if bytes > UNASKED {
            // The kernel doubles the value. Not being allowed to shows as EMSGSIZE when it is sent.
            let wanted = c_int::try_from(bytes).unwrap_or(c_int::MAX);
            let _ = self.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted);
        }
    }

    /// Returns which transaction is long enough, where so many bytes are wanted and several do as well: more than this comes
    /// only by the last message.
    pub(crate) fn long_enough(&self, wanted: usize) -> usize {
        /// No message is longer, nor what every transaction ends with.
        const LAST: usize = 70_000;
        self.make_room_to_send(wanted + LAST);
        wanted.min(self.send_buffer().saturating_sub(LAST))
    }

    /// Sends a whole transaction or request at once.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.make_room_to_send(bytes.len());
        loop {
            // SAFETY: the pointer and length are those of a slice.
            let sent =
                unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            match usize::try_from(sent) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    let size = bytes.len();
                    match error.raw_os_error() {
                        Some(libc::EMSGSIZE) => {
                            let room = self.send_buffer();
                            return Err(io::Error::other(alloc::format!(
                                "a transaction of {size} bytes is longer than the socket's buffer of {room}, and making \
                                 that longer needs CAP_NET_ADMIN in the first user namespace"
                            )));
                        }
                        Some(libc::ENOBUFS | libc::ENOMEM) => {
                            return Err(io::Error::other(alloc::format!(
                                "the kernel has no memory for a transaction of {size} bytes ({error})"
                            )));
                        }
                        Some(_) | None => {}
                    }
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Receives one datagram.
    pub(super) fn receive(&self) -> Result<Vec<u8>, Failure> {
        self.receive_with(0)
    }

    /// Receives one datagram, if one is there.
    pub(super) fn receive_now(&self) -> Result<Option<Vec<u8>>, Failure> {
        match self.receive_with(libc::MSG_DONTWAIT) {
            Err(Failure::Socket(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            answer => answer.map(Some),
        }
    }

    fn receive_with(&self, flags: c_int) -> Result<Vec<u8>, Failure> {
        let mut buffer = Vec::new();
        self.receive_into(&mut buffer, flags)?;
        Ok(buffer)
    }

    /// Receives one datagram in place of what is in the buffer.
    fn receive_into(&self, buffer: &mut Vec<u8>, flags: c_int) -> Result<(), Failure> {
        buffer.clear();
        buffer.reserve_exact(DATAGRAM);
        loop {
            // SAFETY: the buffer is empty and has room for DATAGRAM bytes, all of which the kernel may write.
            let received = unsafe {
                libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), DATAGRAM, flags)
            };
            if let Ok(received) = usize::try_from(received) {
                // SAFETY: the kernel wrote `received` bytes, which is at most the capacity.
                unsafe { buffer.set_len(received) };
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Answers were lost. What was asked for may have happened.
                Some(libc::ENOBUFS) => return Err(Failure::Outdated),
                Some(_) | None => return Err(Failure::Socket(error)),
            }
        }
    }

    /// Asks for one object; `None` where there is none.
    pub(super) fn ask<T>(
        &self,
        kind: Kind,
        content: impl FnOnce(&mut Writer),
        read: impl FnOnce(Received<'_>) -> T,
    ) -> Result<Option<T>, Failure> {
        let mut writer = Writer::default();
        writer.message(kind, 0, 1, content);
        self.send(writer.bytes()).map_err(Failure::Socket)?;
        let datagram = self.receive()?;
        match messages(&datagram).next() {
            Some(message) if message.number == ERROR => match refusal(&message) {
                Some(Refusal { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Some(Refusal { error, .. }) => Err(Failure::Socket(error)),
                None => Ok(None),
            },
            Some(message) => Ok(Some(read(message))),
            None => Err(Failure::Outdated),
        }
    }

    /// Asks for all objects of a kind.
    pub(super) fn dump(
        &self,
        kind: Kind,
        content: impl FnOnce(&mut Writer),
        each: impl FnMut(Received<'_>),
    ) -> Result<(), Failure> {
        self.dump_through(&mut Vec::new(), kind, content, each)
    }

    /// Asks for all objects of a kind, which come through a buffer that can be used again.
    pub(super) fn dump_through(
        &self,
        buffer: &mut Vec<u8>,
        kind: Kind,
        content: impl FnOnce(&mut Writer),
        each: impl FnMut(Received<'_>),
    ) -> Result<(), Failure> {
        let mut writer = Writer::default();
        writer.message(kind, DUMP, 1, content);
        self.exchange_through(buffer, &writer, each)
    }

    /// Sends messages of which only errors are answered, and takes no notice of what they are about being gone.
    pub(super) fn tell(&self, writer: &Writer) -> Result<(), Failure> {
        self.send(writer.bytes()).map_err(Failure::Socket)?;
        while let Some(datagram) = self.receive_now()? {
            for message in messages(&datagram).filter(|message| message.number == ERROR) {
                if let Some(Refusal { error, .. }) = refusal(&message)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    return Err(Failure::Socket(error));
                }
            }
        }
        Ok(())
    }

    /// Asks for a list.
    pub(super) fn exchange(
        &self,
        writer: &Writer,
        each: impl FnMut(Received<'_>),
    ) -> Result<(), Failure> {
        self.exchange_through(&mut Vec::new(), writer, each)
    }

    fn exchange_through(
        &self,
        buffer: &mut Vec<u8>,
        writer: &Writer,
        mut each: impl FnMut(Received<'_>),
    ) -> Result<(), Failure> {
        self.send(writer.bytes()).map_err(Failure::Socket)?;
        let mut snapshot = true;
        loop {
            self.receive_into(buffer, 0)?;
            for message in messages(buffer) {
                snapshot &= message.flags & INTERRUPTED == 0;
                match message.number {
                    DONE if snapshot => return Ok(()),
                    DONE => return Err(Failure::Outdated),
                    ERROR => {
                        return match refusal(&message) {
                            Some(Refusal { error, .. })
                                if error.kind() == io::ErrorKind::NotFound =>
                            {
                                Err(Failure::Gone)
                            }
                            Some(Refusal { error, .. }) => Err(Failure::Socket(error)),
                            None => Ok(()),
                        };
                    }
                    _ => each(message),
                }
            }
        }
    }

    /// Takes in whatever answers are left, so that the next one is to the next question. Returns whether that could be done.
    pub(crate) fn drain(&self) -> bool {
        loop {
            match self.receive_now() {
                Ok(None) => return true,
                Ok(Some(_)) | Err(Failure::Outdated) => {}
                Err(_) => return false,
            }
        }
    }

    /// Returns the generation of the namespace's nftables: a number that every change of anybody raises.
    pub(crate) fn generation(&self) -> Result<u32, Failure> {
        let answer = self.ask(Kind::GetGen, |_| {}, |message| message.attributes().number(1))?;
        answer.flatten().ok_or(Failure::Outdated)
    }
}

/// Waits until every packet has left the rules that is on its way through them: each goes its whole way through a hook under one
/// lock of the kind that `membarrier` waits for, as nftables' own clearing away does.
pub(crate) fn wait_for_packets() {
    /// `MEMBARRIER_CMD_GLOBAL`.
    const GLOBAL: core::ffi::c_long = 1;
    /// Longer than any packet is under way.
    const LONG: Duration = Duration::from_millis(100);
    // SAFETY: no pointers.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0_i64, 0_i64) };
    if waited != 0 {
        // The kernel has no such call, or some of its processors never tell.
        thread::sleep(LONG);
    }
}
