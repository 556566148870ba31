//! A restore command that stays: started and loaded before it is needed, it carries out one text after the other.
//!
//! A `COMMIT` takes effect when it is read, not at the end of the input, and after it no lock is held. With `--verbose` the
//! command repeats comments: the one behind a `COMMIT` comes back if, and only if, that was good, since a failure ends the
//! command. So the proof of a change comes with it, and not with the end of the process, for which nf_tables has it wait
//! until all memory of deleted rules is free: ten times as long as all the rest.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::{c_int, c_short};
use core::time::Duration;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread::{self, ThreadId};
use std::time::Instant;

use super::child::{self, Child};
use crate::sys;

/// One process carries out so many texts: these commands were not written to live for ever.
const TEXTS: u32 = 200;

/// A command that has not repeated its first comment after so long reads everything before it does anything.
const GREETING: Duration = Duration::from_secs(2);

/// What is repeated waits in a buffer of the command, of 4 KiB at most where it writes to a pipe. So much more is said than
/// fits in there, in lines of which each fits where the command reads it.
const LINES: usize = 9;
const LINE: usize = 1000;

/// A process that waits for texts.
#[derive(Debug)]
pub(in super::super) struct Standing {
    /// Until it was waited for.
    child: Option<Child>,
    /// Until nothing more will be said.
    input: Option<PipeWriter>,
    output: PipeReader,
    errors: PipeReader,
    /// What was repeated and is not looked through yet, and what was complained about.
    repeated: Vec<u8>,
    complaints: Vec<u8>,
    /// The thread that started it. It ends with that one.
    starter: ThreadId,
    /// How many texts it was told; the first is the greeting.
    texts: u32,
    is_interactive: bool,
}

/// What came of a text.
#[derive(Debug)]
pub(in super::super) enum Told {
    /// It is carried out.
    Done,
    /// The process has ended before it said that it has carried it out; with what it complained about.
    Ended(Vec<u8>),
    /// Nothing was told: this command reads everything before it does anything.
    Unsuitable,
}

/// What is heard of a process.
enum Heard {
    /// The comment was repeated.
    Comment,
    /// Nothing more will come.
    End,
    /// Nothing, for as long as was waited.
    Nothing,
}

impl Standing {
    /// Starts a program, which the arguments must tell to repeat comments. It ends with the calling thread at the latest.
    pub(in super::super) fn start(program: &str, arguments: &[&str]) -> io::Result<Self> {
        let (stdin, mut input) = io::pipe()?;
        let (output, stdout) = io::pipe()?;
        let (errors, stderr) = io::pipe()?;
        // The other end of a pipe is a file of its own, so the child's ends block.
        for end in [input.as_fd(), output.as_fd(), errors.as_fd()] {
            sys::do_not_block(end)?;
        }
        let ends = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let child = child::start(program, arguments, ends)?;
        // Fits into an empty pipe. Where the program has ended already, that is found when it is told something.
        let _ = input.write_all(comment(0).as_bytes());
        Ok(Self {
            child: Some(child),
            input: Some(input),
            output,
            errors,
            repeated: Vec::new(),
            complaints: Vec::new(),
            starter: thread::current().id(),
            texts: 0,
            is_interactive: false,
        })
    }

    /// Returns whether it can be told something by the calling thread.
    pub(in super::super) fn is_usable(&mut self) -> bool {
        let has_ended = self.child.as_ref().is_none_or(Child::has_ended);
        if has_ended {
            self.child = None;
        }
        !has_ended && self.texts < TEXTS && self.starter == thread::current().id()
    }

    /// Has a text carried out, all of it or nothing.
    pub(in super::super) fn tell(&mut self, text: &str) -> io::Result<Told> {
        if !self.is_interactive {
            match self.hear(&[], 0, Some(GREETING))? {
                Heard::Comment => self.is_interactive = true,
                Heard::End => return self.end(),
                Heard::Nothing => return Ok(Told::Unsuitable),
            }
        }
        self.complaints.clear();
        self.texts = self.texts.saturating_add(1);
        let text = format!("{text}{}", comment(self.texts));
        match self.hear(text.as_bytes(), self.texts, None)? {
            Heard::Comment => Ok(Told::Done),
            Heard::End | Heard::Nothing => self.end(),
        }
    }

    /// Returns the number of the process.
    #[cfg(all(test, feature = "kernel-tests"))]
    pub(in super::super) fn id(&self) -> Option<i32> {
        self.child.as_ref().map(Child::id)
    }

    /// Speaks and listens until a comment comes back.
    fn hear(&mut self, mut text: &[u8], number: u32, limit: Option<Duration>) -> io::Result<Heard> {
        let began = Instant::now();
        let sought = sought(number);
        loop {
            if let Some(at) = position(&self.repeated, sought.as_bytes()) {
                self.repeated.drain(..at);
                return Ok(Heard::Comment);
            }
            // What was looked through is of no use, but for the beginning of what is sought.
            let looked = self.repeated.len().saturating_sub(sought.len());
            self.repeated.drain(..looked);
            let input = self.input.as_ref().filter(|_| !text.is_empty());
            let rest = limit.map(|limit| limit.saturating_sub(began.elapsed()));
            let ready = wait(&self.output, &self.errors, input, rest)?;
            if !ready.contains(&true) {
                return Ok(Heard::Nothing);
            }
            let [has_output, has_errors, has_room] = ready;
            if let (true, Some(input)) = (has_room, &mut self.input) {
                match input.write(text) {
                    Ok(written) => text = text.get(written..).unwrap_or_default(),
                    Err(error) if is_for_now(&error) => {}
                    // It reads no more. What it says next is why.
                    Err(_) => text = &[],
                }
            }
            if has_errors {
                read(&mut self.errors, &mut self.complaints)?;
            }
            if has_output && read(&mut self.output, &mut self.repeated)? {
                return Ok(Heard::End);
            }
        }
    }

    /// Waits for the end of a process that has closed its output.
    fn end(&mut self) -> io::Result<Told> {
        self.input = None;
        read(&mut self.errors, &mut self.complaints)?;
        if let Some(child) = self.child.take() {
            child.wait()?;
        }
        Ok(Told::Ended(core::mem::take(&mut self.complaints)))
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.input = None;
        if let Some(child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

/// Returns what is said behind a text.
fn comment(number: u32) -> String {
    let line = format!("{}{}\n", sought(number), ".".repeat(LINE));
    line.repeat(LINES)
}

/// Returns how it begins.
fn sought(number: u32) -> String {
    format!("#netpol-{number:08}-")
}

fn position(text: &[u8], sought: &[u8]) -> Option<usize> {
    text.windows(sought.len()).position(|window| window == sought)
}

/// Reads what is there; returns whether it was the end.
fn read(end: &mut PipeReader, into: &mut Vec<u8>) -> io::Result<bool> {
    match end.read_to_end(into) {
        Ok(_) => Ok(true),
        // What was read before stays read.
        Err(error) if is_for_now(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Waits until something can be read, or written, or has ended; returns where.
fn wait(
    output: &PipeReader,
    errors: &PipeReader,
    input: Option<&PipeWriter>,
    limit: Option<Duration>,
) -> io::Result<[bool; 3]> {
    let end = |fd: c_int, events: c_short| libc::pollfd { fd, events, revents: 0 };
    let mut ends = [
        end(output.as_raw_fd(), libc::POLLIN),
        end(errors.as_raw_fd(), libc::POLLIN),
        // The kernel passes over negative numbers.
        end(input.map_or(-1, |input| input.as_raw_fd()), libc::POLLOUT),
    ];
    let limit = limit.map_or(-1, |limit| c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX));
    sys::poll(&mut ends, limit)?;
    Ok(ends.map(|end| end.revents != 0))
}

#[cfg(test)]
mod tests {
    use super::{Standing, TEXTS, Told};

    /// Does as the restore commands do: repeats comments, ends at what it does not know, and knows a word that says much.
    const MODEL: &str = r##"while read -r line; do case $line in
        "#"*) echo "$line" ;; COMMIT | good) ;; long) head -c 300000 /dev/zero ;; odd) echo warning >&2 ;;
        *) echo "line $line failed" >&2; exit 1 ;; esac; done"##;

    fn shell(script: &str) -> Standing {
        Standing::start("sh", &["-c", script]).unwrap()
    }

    #[test]
    fn texts_are_carried_out_one_after_the_other_and_the_first_that_fails_is_the_last() {
        let mut standing = shell(MODEL);
        let long = "good\n".repeat(60_000);
        for text in ["good\nCOMMIT\n", "long\nlong\nCOMMIT\n", "odd\nCOMMIT\n", &long, "good\n"] {
            assert!(standing.is_usable());
            assert!(matches!(standing.tell(text).unwrap(), Told::Done), "{text:.10}");
        }
        match standing.tell("good\nbad\nCOMMIT\n").unwrap() {
            // Nothing of what was complained about before.
            Told::Ended(complaints) => assert_eq!(complaints, b"line bad failed\n"),
            told @ (Told::Done | Told::Unsuitable) => panic!("{told:?}"),
        }
        assert!(!standing.is_usable());
    }

    #[test]
    fn a_program_that_reads_everything_first_is_found_out_before_it_is_told_anything() {
        let mut standing = shell("cat > /dev/null");
        assert!(matches!(standing.tell("COMMIT\n").unwrap(), Told::Unsuitable));
    }

    #[test]
    fn one_that_ended_by_itself_is_not_used_and_one_that_ends_meanwhile_has_not_done_it() {
        let mut standing = shell("exit 3");
        while standing.is_usable() {
            std::thread::yield_now();
        }
        let mut standing = shell("exit 0");
        assert!(matches!(standing.tell("COMMIT\n").unwrap(), Told::Ended(_)));
    }

    #[test]
    fn one_thread_alone_uses_it_and_not_for_ever() {
        let mut standing = shell(MODEL);
        let elsewhere = std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| standing.is_usable());
            elsewhere.join().unwrap()
        });
        assert!(!elsewhere && standing.is_usable());
        standing.texts = TEXTS;
        assert!(!standing.is_usable());
    }

    #[test]
    fn it_ends_when_it_is_no_longer_wanted() {
        let folder = std::env::temp_dir().join(format!("netpol-standing-{}", std::process::id()));
        let script = format!("{MODEL}; echo over > {}", folder.display());
        drop(shell(&script));
        assert_eq!(std::fs::read_to_string(&folder).unwrap(), "over\n");
        std::fs::remove_file(folder).unwrap();
    }
}
