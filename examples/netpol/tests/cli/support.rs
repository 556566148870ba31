//! Runs the binary in the repository's root, so that paths in its output are the same everywhere.

use core::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The shop of the README.
pub(crate) const SHOP: &str = "examples/manifests/shop";

/// What a run of `netpol` printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl Run {
    /// Everything in one text, for golden tests.
    pub(crate) fn all(&self) -> String {
        let mut all = self.stdout.clone();
        if !self.stderr.is_empty() {
            let _ = write!(all, "[stderr]\n{}", self.stderr);
        }
        let _ = writeln!(all, "[exit {}]", self.code);
        all
    }
}

/// Runs `netpol` with these arguments.
pub(crate) fn netpol(arguments: &[&str]) -> Run {
    netpol_with_stdin(arguments, "")
}

/// Runs `netpol` with these arguments and this standard input.
#[expect(clippy::expect_used, reason = "test support")]
pub(crate) fn netpol_with_stdin(arguments: &[&str], stdin: &str) -> Run {
    netpol_as(Path::new(env!("CARGO_BIN_EXE_netpol")), arguments, stdin, &[])
        .expect("the built binary runs")
}

/// Runs the binary under another name or with other environment variables.
pub(crate) fn netpol_as(
    program: &Path,
    arguments: &[&str],
    stdin: &str,
    environment: &[(&str, &str)],
) -> std::io::Result<Run> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A command that does not read its input closes it.
        let _ = input.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok(Run {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    })
}

/// Runs `netpol verdict` on manifests given as text; flows are arguments.
pub(crate) fn verdict(manifests: &str, arguments: &[&str], flows: &[&str]) -> Run {
    let mut all = vec!["verdict", "-f", "-"];
    all.extend(arguments);
    for flow in flows {
        all.extend(["--flow", flow]);
    }
    netpol_with_stdin(&all, manifests)
}
