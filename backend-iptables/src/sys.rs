//! The system calls that the standard library has no form of: sockets of netlink, options of sockets, a barrier for packets,
//! waiting for several ends of pipes, and a child that shares our memory until it becomes another program, as with vfork.
//! The only unsafe code of this crate, tests apart.
//!
//! The standard library can start a child that shares memory, or have one run code of ours first, but not both; and to copy
//! the tables of a large process's memory takes longer than all the rest of a change of rules.
#![expect(unsafe_code, reason = "these calls have no safe interface")]

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int, c_long, c_void};
use core::mem::{MaybeUninit, size_of};
use core::ptr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// The child's own stack, in bytes: for a handful of system calls, and the search for the program.
const STACK: usize = 256 * 1024;

/// Opens a socket, which no child inherits.
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option of a socket that is a number.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or_default();
    let value = ptr::from_ref(&value).cast();
    // SAFETY: `value` is a copy that lives through the call and has the length that is given.
    done(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, length) })
}

/// Reads an option of a socket into what is given, of which the kernel may read the beginning.
pub(crate) fn read_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    into: &mut [u8],
) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(into.len()).unwrap_or_default();
    let into = into.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `length` bytes, which the slice has.
    done(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, into, &raw mut length) })
}

/// Sends bytes; returns how many.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length are those of a slice.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives a datagram, and of a longer one the beginning.
pub(crate) fn receive(socket: BorrowedFd<'_>, longest: usize, flags: c_int) -> io::Result<Vec<u8>> {
    let mut buffer: Vec<u8> = Vec::with_capacity(longest);
    let room = buffer.as_mut_ptr().cast();
    // SAFETY: the buffer has so many bytes of capacity, all of which the kernel may write.
    let received = unsafe { libc::recv(socket.as_raw_fd(), room, longest, flags) };
    // `MSG_TRUNC` would have the kernel say how long the datagram was.
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?.min(longest);
    // SAFETY: the kernel wrote `received` bytes, which is at most the capacity.
    unsafe { buffer.set_len(received) };
    Ok(buffer)
}

/// Waits until every packet that is on its way through the rules has left them: each goes its whole way under one lock of
/// the kind that `membarrier` waits for. Returns whether the kernel can say so.
pub(crate) fn grace() -> bool {
    /// `MEMBARRIER_CMD_GLOBAL`.
    const GLOBAL: c_long = 1;
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0_i64, 0_i64) == 0 }
}

/// Has reading and writing return where they would wait.
pub(crate) fn do_not_block(end: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    let set = unsafe {
        let flags = libc::fcntl(end.as_raw_fd(), libc::F_GETFL);
        if flags < 0 {
            flags
        } else {
            libc::fcntl(end.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK)
        }
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until something has happened at one of the ends, or the milliseconds are over; for ever if they are negative.
pub(crate) fn poll(ends: &mut [libc::pollfd], milliseconds: c_int) -> io::Result<()> {
    let count = libc::nfds_t::try_from(ends.len()).unwrap_or_default();
    loop {
        // SAFETY: the slice lives through the call, and has so many elements.
        if unsafe { libc::poll(ends.as_mut_ptr(), count, milliseconds) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Asks for the end of a child; returns its number and status, or zero where the options say not to wait.
pub(crate) fn wait(child: libc::pid_t, options: c_int) -> io::Result<(libc::pid_t, c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: the status lives through the call.
        let ended = unsafe { libc::waitpid(child, &raw mut status, options) };
        if ended >= 0 {
            return Ok((ended, status));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What the child needs to know, and why it could not begin.
struct Start {
    /// Ends in a null.
    words: Vec<*const c_char>,
    /// What becomes its standard input, output and error.
    ends: [RawFd; 3],
    /// The signals that the starting thread does not want to hear of.
    mask: libc::sigset_t,
    error: c_int,
}

/// Starts a program, with what becomes its standard input, output and error. It ends when the calling thread does. Returns
/// its number, and the number of the error that kept it from becoming that program, or zero; it must be waited for.
pub(crate) fn start(
    words: &[CString],
    ends: [BorrowedFd<'_>; 3],
) -> io::Result<(libc::pid_t, c_int)> {
    let mut words: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
    words.push(ptr::null());
    let ends = ends.map(|end| end.as_raw_fd());
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    // SAFETY: a set of signals is plain bits, filled in below.
    let mut mask: libc::sigset_t = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut all = mask;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the sets live through the calls. No handler of ours runs in the child, which has our memory: all signals
    // are blocked until it has none of our handlers. The stack ends where its allocation does, and it grows down; it, the
    // words and `start` outlive the child's use of our memory, for which this thread waits (CLONE_VFORK). What the child
    // changes there is `error`, which is read afterwards, by the same pointer.
    let (child, failure, error) = unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut mask);
        let mut start = Start { words, ends, mask, error: 0 };
        let start = &raw mut start;
        let top = stack.as_mut_ptr().add(stack.capacity());
        let child = libc::clone(become_program, top.cast(), flags, start.cast());
        let failure = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut());
        (child, failure, (*start).error)
    };
    if child < 0 { Err(failure) } else { Ok((child, error)) }
}

/// Runs in the child, in our memory: makes system calls, allocates nothing and takes no lock.
extern "C" fn become_program(start: *mut c_void) -> c_int {
    // SAFETY: `start` is what was given to clone, and its owner waits. Every pointer in it is valid as long.
    unsafe {
        let start = start.cast::<Start>();
        exec(&*start);
        (*start).error = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Becomes the program; returns where that is not possible, with the error number set.
///
/// # Safety
/// Only for a process of its own that shares the memory of one that waits.
unsafe fn exec(start: &Start) {
    // SAFETY: system calls on numbers and on pointers that live through them.
    unsafe {
        // What is left of a process that was killed would change rules behind the back of its successor.
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return;
        }
        for signal in 1..=libc::SIGRTMAX() {
            // Those that cannot be handled need not be.
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut lifted = start.ends;
        for end in &mut lifted {
            // Out of the way of 0, 1 and 2.
            *end = libc::fcntl(*end, libc::F_DUPFD_CLOEXEC, 3);
            if *end < 0 {
                return;
            }
        }
        for (end, number) in lifted.into_iter().zip(0..) {
            if libc::dup2(end, number) < 0 {
                return;
            }
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const start.mask, ptr::null_mut());
        if let Some(program) = start.words.first() {
            libc::execvp(*program, start.words.as_ptr());
        }
    }
}

/// What a call that returns zero has come to.
fn done(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
