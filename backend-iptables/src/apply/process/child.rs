//! A child process that ends when we do.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::c_int;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread;

use crate::sys;

/// What became of a child.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) is_success: bool,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// A child that must be waited for.
#[derive(Debug)]
pub(super) struct Child(libc::pid_t);

/// Runs a program on an input.
pub(super) fn run(program: &str, arguments: &[&str], input: &[u8]) -> io::Result<Output> {
    let (stdin, mut to_child) = io::pipe()?;
    let (mut from_child, stdout) = io::pipe()?;
    let (mut errors, stderr) = io::pipe()?;
    let child = start(program, arguments, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
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
pub(super) fn start(
    program: &str,
    arguments: &[&str],
    ends: [BorrowedFd<'_>; 3],
) -> io::Result<Child> {
    let words = [program].into_iter().chain(arguments.iter().copied()).map(CString::new);
    let words: Vec<CString> = words.collect::<Result<_, _>>()?;
    let (number, error) = sys::start(&words, ends)?;
    let child = Child(number);
    if error == 0 {
        return Ok(child);
    }
    child.wait()?;
    Err(io::Error::from_raw_os_error(error))
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
        let (ended, status) = sys::wait(self.0, options)?;
        let is_success = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        Ok((ended == self.0).then_some(is_success))
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
