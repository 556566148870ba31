//! Our sets: what is there, what is missing, what can go.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::time::Duration;
use std::thread;

use netpol_core::backend::SyncError;

use super::members::{self, Listing};
use super::process;
use crate::restore::{Elements, PREFIX, RestoreInput, Set};

/// The name under which a damaged set is made anew.
const SPARE: &str = "NETPOL-spare";
/// The nf_tables variant lets go of sets a little after its transaction: so often is asked, about 30 ms long.
pub(super) const SOON: u32 = 6;
/// The same where nothing may be left: about 2 s long.
pub(super) const LONG: u32 = 44;

/// Returns what is there.
pub(super) fn listed() -> Result<Listing, SyncError> {
    ipset(&["save"], "").map(|text| members::parse(&text))
}

/// Creates and fills the sets that are missing, and makes damaged ones anew.
pub(super) fn create(program: &RestoreInput, there: &Listing) -> Result<(), SyncError> {
    let mut text = String::new();
    if there.contains_key(SPARE) {
        let _ = writeln!(text, "destroy {SPARE}"); // Writing to a String cannot fail.
    }
    for (name, elements) in program.sets().iter() {
        let alike =
            |set: &Elements| (set.kind(), set.family()) == (elements.kind(), elements.family());
        match there.get(name.as_ref()) {
            Some(Some(present)) if present == elements => {}
            Some(Some(present)) if alike(present) => {
                // Swapping is atomic, and what refers to the name sees the members change places.
                let spare = Set(SPARE, elements);
                let _ = write!(text, "{spare}swap {SPARE} {name}\ndestroy {SPARE}\n");
            }
            present => {
                if present.is_some() {
                    // Not of the type that we give this name: ours by name only, so no rule of ours can use it.
                    let _ = writeln!(text, "destroy {name}");
                }
                let _ = write!(text, "{}", Set(name, elements));
            }
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    ipset(&["restore"], &text).map(drop).inspect_err(|_| {
        // Half of them may be there. What was there before is left alone.
        let _ = destroy(|name| !there.contains_key(name), SOON);
    })
}

/// Destroys our sets of which `unwanted` holds; returns the names of those that are still in use.
pub(super) fn destroy(
    unwanted: impl Fn(&str) -> bool,
    attempts: u32,
) -> Result<Vec<String>, SyncError> {
    let ours = |names: Vec<String>| -> Vec<String> {
        names.into_iter().filter(|name| name.starts_with(PREFIX) && unwanted(name)).collect()
    };
    let mut left = ours(names()?);
    let mut pause = Duration::from_millis(1);
    for _ in 0..attempts {
        if left.is_empty() {
            break;
        }
        destroy_each(&left)?;
        left = ours(names()?);
        if !left.is_empty() {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
    Ok(left)
}

/// Tries each set once: one that is in use must not keep the others.
fn destroy_each(mut sets: &[String]) -> Result<(), SyncError> {
    while !sets.is_empty() {
        let text: String = sets.iter().map(|name| format!("destroy {name}\n")).collect();
        if ipset(&["restore"], &text).is_ok() {
            break;
        }
        let there = names()?;
        // What stands before the first that is still there is gone; that one failed.
        let Some(failed) = sets.iter().position(|name| there.contains(name)) else { break };
        sets = sets.get(failed.saturating_add(1)..).unwrap_or_default();
    }
    Ok(())
}

/// Returns the names of all sets.
fn names() -> Result<Vec<String>, SyncError> {
    Ok(ipset(&["list", "-name"], "")?.lines().map(Into::into).collect())
}

fn ipset(arguments: &[&str], input: &str) -> Result<String, SyncError> {
    process::run("ipset", arguments, input, &format!("the sets `{PREFIX}*`"))
}
