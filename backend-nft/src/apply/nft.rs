//! The `nft` program as a child process.

use alloc::string::String;
use core::error::Error;
use core::fmt;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use netpol_core::backend::SyncError;

use crate::script::TABLE;

/// What `nft` said.
#[derive(Debug)]
struct Said(String);

impl Error for Said {}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.trim().lines().next().unwrap_or("no reason given"))
    }
}

/// Loads a text in one transaction.
pub(super) fn load(text: &str) -> Result<(), SyncError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_started)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Where nft ends early, its exit status and words tell more than the broken pipe.
        let _ = stdin.write_all(text.as_bytes());
    }
    succeeded(child.wait_with_output()).map(drop)
}

/// Returns the listing of our table, if there is one.
pub(super) fn list_table() -> Result<Option<String>, SyncError> {
    let tables = read(&["list", "tables", "inet"])?;
    let ours = alloc::format!("table inet {TABLE}");
    if !tables.lines().any(|line| line.trim() == ours) {
        return Ok(None);
    }
    read(&["list", "table", "inet", TABLE]).map(Some)
}

fn read(arguments: &[&str]) -> Result<String, SyncError> {
    let output = Command::new("nft").args(arguments).stdin(Stdio::null()).output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_started(error)),
        output => succeeded(output)?,
    };
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn succeeded(output: io::Result<Output>) -> Result<Output, SyncError> {
    let output = output.map_err(|error| SyncError::refused(object(), error))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("Operation not permitted") {
        return Err(SyncError::Missing {
            what: "the privilege to change nftables".into(),
            hint: "run as root or with CAP_NET_ADMIN in the network namespace".into(),
        });
    }
    Err(SyncError::refused(object(), Said(said)))
}

fn object() -> String {
    alloc::format!("table inet {TABLE}")
}

fn not_started(error: io::Error) -> SyncError {
    if error.kind() == io::ErrorKind::NotFound {
        return SyncError::Missing {
            what: "the program `nft`".into(),
            hint: "install the Debian package `nftables`".into(),
        };
    }
    SyncError::refused("the program `nft`", error)
}
