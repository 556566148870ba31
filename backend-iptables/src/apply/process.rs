//! Child processes: the only place that changes rules.

mod child;
mod standing;

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use core::error::Error;
use core::fmt;
use std::io;

use netpol_core::backend::SyncError;

pub(super) use standing::{Standing, Told};

/// What a program said before it failed.
#[derive(Debug)]
struct Said(String);

impl Error for Said {}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.trim().lines().next().unwrap_or("no reason given"))
    }
}

/// Runs a program on an input and returns what it wrote. `object` is what of ours it is about.
pub(super) fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    object: &str,
) -> Result<String, SyncError> {
    let output = child::run(program, arguments, input.as_bytes())
        .map_err(|error| not_started(program, error))?;
    if output.is_success {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(refusal(object, &output.stderr))
}

/// What a program's complaints mean.
pub(super) fn refusal(object: &str, complaints: &[u8]) -> SyncError {
    let said = String::from_utf8_lossy(complaints).into_owned();
    if said.contains("Operation not permitted") || said.contains("you must be root") {
        return SyncError::Missing {
            what: "the privilege to change the packet filter".to_owned(),
            hint: "run as root or with CAP_NET_ADMIN and CAP_NET_RAW in the network namespace"
                .to_owned(),
        };
    }
    if said.contains("Failed to initialize nft")
        || said.contains("does not exist (do you need to insmod?)")
    {
        return SyncError::Missing {
            what: format!("the kernel's side of {object}"),
            hint: "use the other variant of iptables, or load the kernel modules `nf_tables` and `nft_compat`, or \
                   `ip_tables` and `ip6_tables`"
                .to_owned(),
        };
    }
    if said.contains("xtables lock") {
        return SyncError::refused(
            object,
            "somebody else has held the lock of the packet filter (`/run/xtables.lock`) for too long",
        );
    }
    SyncError::refused(object, Said(said))
}

fn not_started(program: &str, error: io::Error) -> SyncError {
    if error.kind() == io::ErrorKind::NotFound {
        return SyncError::Missing {
            what: format!("the program `{program}`"),
            hint: "install the Debian package `iptables`".to_owned(),
        };
    }
    SyncError::refused(format!("the program `{program}`"), error)
}
