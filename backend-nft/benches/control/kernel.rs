//! The kernel's side: processor time, memory, and the bare netlink messages that a change comes down to.
//!
//! What the crate sends is heard by standing in for the C library's `send`, so that the same transactions can be sent again
//! by nothing but a socket: the least that programming the kernel can cost.
#![expect(unsafe_code, reason = "clocks, a raw socket, and an ear on the crate's own")]

use std::cell::RefCell;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// `NFNL_MSG_BATCH_BEGIN`.
const BEGIN: u16 = 0x10;

thread_local! {
    static HEARD: RefCell<Option<Vec<Vec<u8>>>> = const { RefCell::new(None) };
}

/// Stands in for `send(2)`.
///
/// # Safety
/// As for `send(2)`: the pointer and the length are those of readable memory.
#[unsafe(no_mangle)]
unsafe extern "C" fn send(
    socket: libc::c_int,
    bytes: *const libc::c_void,
    length: usize,
    flags: libc::c_int,
) -> isize {
    HEARD.with_borrow_mut(|heard| {
        if let Some(heard) = heard {
            // SAFETY: the caller's promise.
            heard.push(unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) }.to_vec());
        }
    });
    // SAFETY: the caller's promise; without an address it is what `send` does.
    unsafe { libc::sendto(socket, bytes, length, flags, std::ptr::null(), 0) }
}

/// Returns the transactions that something sends, without the generation they were bound to.
pub(crate) fn overhear(work: impl FnOnce()) -> Vec<Vec<u8>> {
    HEARD.set(Some(Vec::new()));
    work();
    let heard = HEARD.take().unwrap();
    let transactions = heard.into_iter().filter(|bytes| kind(bytes) == BEGIN);
    let transactions: Vec<Vec<u8>> = transactions.map(|bytes| unbound(&bytes)).collect();
    assert!(!transactions.is_empty(), "nothing was heard");
    transactions
}

fn kind(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes([bytes[4], bytes[5]])
}

/// Cuts what follows the header of the first message.
fn unbound(bytes: &[u8]) -> Vec<u8> {
    let first = u32::from_ne_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut all = bytes[..20].to_vec();
    all[..4].copy_from_slice(&20_u32.to_ne_bytes());
    all.extend(&bytes[first.next_multiple_of(4)..]);
    all
}

/// A netlink socket and nothing else.
#[derive(Debug)]
pub(crate) struct Bare(OwnedFd);

impl Bare {
    pub(crate) fn open() -> Self {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; the result is checked.
        let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) });
        // SAFETY: a fresh descriptor that nobody else owns.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let room: libc::c_int = 64 << 20;
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: `room` lives through the call and has the length that is given.
        check(unsafe {
            libc::setsockopt(
                socket.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUFFORCE,
                (&raw const room).cast(),
                length,
            )
        });
        socket
    }

    /// Sends a transaction and waits for the acknowledgement of its last message.
    pub(crate) fn commit(&self, transaction: &[u8]) {
        // SAFETY: the pointer and length are those of a slice.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                transaction.as_ptr().cast(),
                transaction.len(),
                0,
                std::ptr::null(),
                0,
            )
        };
        assert_eq!(usize::try_from(sent).ok(), Some(transaction.len()), "{}", last_error());
        let mut answer = [0_u8; 8192];
        // SAFETY: the pointer and length are those of the array.
        let received =
            unsafe { libc::recv(self.0.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        assert!(received >= 20, "{}", last_error());
        let code = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
        assert_eq!(code, 0, "{}", io::Error::from_raw_os_error(-code));
    }
}

/// One element that comes or goes, by hand.
pub(crate) fn one_element(set: &str, address: [u8; 4], joins: bool) -> Vec<u8> {
    let mut all = Vec::new();
    message(&mut all, BEGIN, 0, 0, (0, 10), &[]);
    let value = attribute(1, &address);
    let element = attribute(0x8001, &attribute(0x8001, &value));
    let mut content = attribute(1, b"netpol\0");
    content.extend(attribute(2, &[set.as_bytes(), b"\0"].concat()));
    content.extend(attribute(0x8003, &element));
    let (number, flags) = if joins { (12, 0x405) } else { (14, 0x5) };
    message(&mut all, 10 << 8 | number, flags, 1, (1, 0), &content);
    message(&mut all, BEGIN + 1, 0, 2, (0, 10), &[]);
    all
}

fn message(
    all: &mut Vec<u8>,
    number: u16,
    flags: u16,
    sequence: u32,
    (family, resource): (u8, u16),
    content: &[u8],
) {
    all.extend(u32::try_from(20 + content.len()).unwrap().to_ne_bytes());
    all.extend(number.to_ne_bytes());
    all.extend((flags | 1).to_ne_bytes());
    all.extend(sequence.to_ne_bytes());
    all.extend([0, 0, 0, 0, family, 0]);
    all.extend(resource.to_be_bytes());
    all.extend(content);
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = content.len() + 4;
    let mut all = u16::try_from(length).unwrap().to_ne_bytes().to_vec();
    all.extend(kind.to_ne_bytes());
    all.extend(content);
    all.resize(length.next_multiple_of(4), 0);
    all
}

/// Moves this thread into a network namespace of its own, which ends with the process.
pub(crate) fn enter_fresh_namespace() -> bool {
    // SAFETY: unshare takes no pointers.
    unsafe { libc::unshare(libc::CLONE_NEWNET) == 0 }
}

/// The processor time of this thread, the kernel's part included.
pub(crate) fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// The processor time of the programs that were run and have ended.
pub(crate) fn time_of_children() -> Duration {
    // SAFETY: plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid for writing.
    check(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) });
    let of = |time: libc::timeval| {
        Duration::new(time.tv_sec.try_into().unwrap(), 1000 * u32::try_from(time.tv_usec).unwrap())
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Returns how much more memory was resident at the peak than before, in megabytes.
pub(crate) fn resident_peak(work: impl FnOnce()) -> usize {
    let line = |name: &str| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    // The allocator gives back what it holds in reserve, and the kernel forgets the peak.
    // SAFETY: no pointers.
    unsafe { libc::malloc_trim(0) };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = line("VmRSS");
    work();
    line("VmHWM").saturating_sub(before) / 1024
}

fn check(outcome: libc::c_int) -> libc::c_int {
    assert!(outcome >= 0, "{}", last_error());
    outcome
}

fn last_error() -> io::Error {
    io::Error::last_os_error()
}
