//! Sets that nothing of ours refers to, and that the kernel has not let go of yet.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use netpol_core::backend::SyncError;

use super::{Home, sets};
use crate::restore::{Elements, Name};

impl Home {
    /// Destroys what is no longer wanted, as far as the kernel has let go of it.
    pub(super) fn sweep_up(&mut self, attempts: u32) -> Result<(), SyncError> {
        let names: Vec<String> = self.garbage.iter().cloned().collect();
        let left = sets::destroy(&self.ipset, names, attempts)?;
        let left: BTreeSet<String> = left.into_iter().collect();
        let before = core::mem::replace(&mut self.garbage, left);
        self.hearing.destroyed(before.difference(&self.garbage));
        Ok(())
    }

    /// Makes sure that no garbage has a name that is wanted again.
    pub(super) fn sweep(&mut self, wanted: &BTreeMap<Name, Elements>) -> Result<(), SyncError> {
        let again = self.garbage.iter().filter(|name| wanted.contains_key(name.as_str()));
        let again: Vec<String> = again.cloned().collect();
        let left = sets::destroy(&self.ipset, again.clone(), sets::SOON)?;
        self.garbage.retain(|name| !again.contains(name) || left.contains(name));
        match left.first() {
            None => Ok(()),
            Some(name) => Err(SyncError::refused(format!("set {name}"), "it is still in use")),
        }
    }
}
