//! A child process that shares our memory until it becomes another program, as with vfork, and ends when we do.
//!
//! The standard library can start one that shares memory, or have one run code of ours first, but not both; and to copy the
//! tables of a large process's memory takes longer than all the rest of a change of rules.
#![expect(unsafe_code, reason = "see above")]

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int, c_void};
use core::mem::{MaybeUninit, size_of};
use core::ptr;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::thread;

/// The child's own stack, in bytes: for a handful of system calls, and the search for the program.
const STACK: usize = 256 * 1024;

/// What became of a child.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) is_success: bool,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
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

/// A child that must be waited for.
#[derive(Debug)]
pub(super) struct Child(libc::pid_t);

/// Runs a program on an input.
pub(super) fn run(program: &str, arguments: &[&str], input: &[u8]) -> io::Result<Output> {
    let (stdin, mut to_child) = io::pipe()?;
    let (mut from_child, stdout) = io::pipe()?;
    let (mut errors, stderr) = io::pipe()?;
    let ends = [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
    let child = start(program, arguments, ends)?;
    drop((stdin, stdout, stderr));
    let (mut said, mut complaints) = (Vec::new(), Vec::new());
    let (heard, complained) = thread::scope(|scope| {
        scope.spawn(move || {
            // Where the program ends early, its exit status and words tell more than the broken pipe.
            let _ = to_child.write_all(input);
        });
        let complained = scope.spawn(|| errors.read_to_end(&mut complaints));
        (from_child.read_to_end(&mut said), complained.join())
    });
    let is_success = child.wait()?;
    heard?;
    if let Ok(complained) = complained {
        complained?;
    }
    Ok(Output { is_success, stdout: said, stderr: complaints })
}

/// Starts a program, with what becomes its standard input, output and error.
pub(super) fn start(program: &str, arguments: &[&str], ends: [RawFd; 3]) -> io::Result<Child> {
    let words = [program].into_iter().chain(arguments.iter().copied()).map(CString::new);
    let owned: Vec<CString> = words.collect::<Result<_, _>>()?;
    let mut words: Vec<*const c_char> = owned.iter().map(|word| word.as_ptr()).collect();
    words.push(ptr::null());
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    // SAFETY: a set of signals is plain bits, filled in below.
    let mut mask: libc::sigset_t = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut all = mask;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let (pid, failure, error) = {
        // SAFETY: the sets live through the calls. No handler of ours runs in the child, which has our memory: all signals
        // are blocked until it has none of our handlers. The stack ends where its allocation does, and it grows down; it and
        // `start` outlive the child's use of our memory, for which this thread waits (CLONE_VFORK). What the child changes
        // there is `error`, which is read afterwards, by the same pointer.
        unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut mask);
            let mut start = Start { words, ends, mask, error: 0 };
            let start = &raw mut start;
            let top = stack.as_mut_ptr().add(stack.capacity());
            let pid = libc::clone(become_program, top.cast(), flags, start.cast());
            let failure = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut());
            (pid, failure, (*start).error)
        }
    };
    if pid < 0 {
        return Err(failure);
    }
    let child = Child(pid);
    if error == 0 {
        return Ok(child);
    }
    child.wait()?;
    Err(io::Error::from_raw_os_error(error))
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

impl Child {
    /// Waits for its end; returns whether it was a good one.
    pub(super) fn wait(self) -> io::Result<bool> {
        loop {
            if let Some(is_success) = self.ended(0)? {
                return Ok(is_success);
            }
        }
    }

    /// Returns whether it has ended already. Then it is waited for.
    pub(super) fn has_ended(&self) -> bool {
        // One that cannot be waited for is none.
        !matches!(self.ended(libc::WNOHANG), Ok(None))
    }

    #[cfg(all(test, feature = "kernel-tests"))]
    pub(super) const fn id(&self) -> i32 {
        self.0
    }

    fn ended(&self, options: c_int) -> io::Result<Option<bool>> {
        let mut status = 0;
        loop {
            // SAFETY: the status lives through the call.
            let ended = unsafe { libc::waitpid(self.0, &raw mut status, options) };
            if ended == self.0 {
                return Ok(Some(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0));
            }
            if ended == 0 {
                return Ok(None);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::run;

    #[test]
    fn a_child_reads_writes_complains_and_ends() {
        let script = "cat; echo so >&2; exit $1";
        let long = "x".repeat(300_000);
        for (code, is_success) in [("0", true), ("3", false)] {
            let output = run("sh", &["-c", script, "sh", code], long.as_bytes()).unwrap();
            assert_eq!(output.is_success, is_success);
            assert_eq!(output.stdout, long.as_bytes());
            assert_eq!(output.stderr, b"so\n");
        }
        // What does not read is not waited for.
        assert!(run("true", &[], long.as_bytes()).unwrap().is_success);
    }

    #[test]
    fn a_program_that_is_not_there_is_said_to_be_not_found() {
        let error = run("netpol-no-such-program", &[], b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_child_hears_signals() {
        let output = run("cat", &["/proc/self/status"], b"").unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
        };
        // A Rust program ignores that one; others end by it when nobody reads them.
        let pipe = 1 << (libc::SIGPIPE - 1);
        assert_eq!((line("SigBlk:"), line("SigIgn:") & pipe), (0, 0));
    }
}
