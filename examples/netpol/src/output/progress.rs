//! A word about what is going on, once it takes more than a second.

use core::time::Duration;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Says on standard error what is being done, from the first second on, until it is dropped.
///
/// A terminal sees the seconds count; elsewhere it is one line.
#[derive(Debug)]
pub(crate) struct Progress {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let (done, wait) = channel();
        let terminal = io::stderr().is_terminal();
        let thread = thread::spawn(move || {
            let start = Instant::now();
            let mut said = false;
            while wait.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                let mut stderr = io::stderr().lock();
                let seconds = start.elapsed().as_secs();
                let _ = if terminal {
                    write!(stderr, "\rnetpol: {what} … {seconds} s").and_then(|()| stderr.flush())
                } else if said {
                    Ok(())
                } else {
                    writeln!(stderr, "netpol: {what} …")
                };
                said = true;
            }
            if said && terminal {
                let _ = write!(io::stderr().lock(), "\r\x1b[K");
            }
        });
        Self { done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported and costs only the message.
            let _ = thread.join();
        }
    }
}
