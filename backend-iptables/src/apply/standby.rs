//! Who changes the rules of one family: a process that waits for the next change, or one that is started for it.

use alloc::string::{String, ToString as _};
use std::thread;

use netpol_core::backend::SyncError;
use netpol_core::ir::Family;

use super::process::{self, Standing, Told};
use super::variant::Variant;
use super::{Patience, rules};

/// The restore command of one family.
#[derive(Debug)]
pub(super) struct Standby {
    variant: Variant,
    family: Family,
    patience: Patience,
    process: Option<Standing>,
    /// This command takes one text and ends.
    takes_one: bool,
}

impl Standby {
    pub(super) const fn new(variant: Variant, family: Family, patience: Patience) -> Self {
        Self { variant, family, patience, process: None, takes_one: false }
    }

    /// Has a process wait that the calling thread can use.
    pub(super) fn prepare(&mut self) {
        if self.takes_one || self.process.as_mut().is_some_and(Standing::is_usable) {
            return;
        }
        // The old one ends first. Where none can be started, the change itself says why.
        self.process = None;
        let Patience(seconds) = self.patience;
        let arguments = ["--noflush", "--verbose", "--wait", &seconds.to_string()];
        let program = rules::program(self.variant, self.family);
        self.process = Standing::start(&program, &arguments).ok();
    }

    /// Returns the number of the process that waits.
    #[cfg(all(test, feature = "kernel-tests"))]
    pub(super) fn waits(&self) -> Option<i32> {
        self.process.as_ref().and_then(Standing::id)
    }

    /// Has a text carried out, all of it or nothing.
    pub(super) fn change(&mut self, text: &str) -> Result<(), SyncError> {
        let object = || rules::chains_of(&rules::program(self.variant, self.family));
        if let Some(mut process) = self.process.take() {
            match process.tell(text).map_err(|error| SyncError::refused(object(), error))? {
                Told::Done => {
                    self.process = Some(process);
                    return Ok(());
                }
                Told::Ended(complaints) if complaints.is_empty() => {
                    let why = "the command ended without a word, and may have changed something";
                    return Err(SyncError::refused(object(), why));
                }
                Told::Ended(complaints) => return Err(process::refusal(&object(), &complaints)),
                Told::Unsuitable => self.takes_one = true,
            }
        }
        rules::restore(self.variant, self.family, text, self.patience)
    }
}

/// Has each family's text carried out, both at once.
pub(super) fn change(
    standby: &mut [Standby; 2],
    texts: &[Option<String>; 2],
) -> [Result<(), SyncError>; 2] {
    let [one, other] = standby;
    match texts {
        [None, None] => [Ok(()), Ok(())],
        [Some(text), None] => {
            one.prepare();
            [one.change(text), Ok(())]
        }
        [None, Some(text)] => {
            other.prepare();
            [Ok(()), other.change(text)]
        }
        [Some(v4), Some(v6)] => {
            // By this thread, for a process ends with the thread that started it.
            one.prepare();
            other.prepare();
            thread::scope(|scope| {
                let other = scope.spawn(|| other.change(v6));
                let one = one.change(v4);
                match other.join() {
                    Ok(other) => [one, other],
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            })
        }
    }
}
