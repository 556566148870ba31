//! Runs a test that needs a lab, with whatever privileges can be had.

use core::any;
use std::env;
use std::panic;
use std::process::Command;
use std::thread;

use super::{Availability, Unavailable, sys};

/// Runs the body of a test here if this process can hold a lab, or else the test alone, again, as root of a user
/// namespace. Where neither is possible, says on standard error that the test did not run.
///
/// Call it as the whole of a `#[test]` function.
///
/// # Panics
/// If the test fails in its user namespace; or if it cannot run at all and `CI` or `NETPOL_REQUIRE_KERNEL` is set.
pub fn kernel_test<F: FnOnce()>(body: F) {
    here_or_again(&test_name::<F>(), body);
}

/// As [`kernel_test`], on a thread with a network namespace of its own, which ends with it.
///
/// # Panics
/// If the body panics, or the namespace cannot be made.
pub fn in_fresh_network<F: FnOnce() + Send>(body: F) {
    here_or_again(&test_name::<F>(), || {
        thread::scope(|scope| {
            let run = scope.spawn(|| {
                enter_fresh_network();
                body();
            });
            if let Err(panic) = run.join() {
                panic::resume_unwind(panic);
            }
        });
    });
}

/// Moves the calling thread, which should end with the test, into a network namespace of its own.
///
/// # Panics
/// If the namespace cannot be made.
#[expect(clippy::panic, reason = "test support: a test that cannot be held")]
pub fn enter_fresh_network() {
    if let Err(error) = sys::unshare_network() {
        panic!("no network namespace can be made: {error}");
    }
}

/// Says that something which needs the kernel did not run.
///
/// # Panics
/// If `CI` or `NETPOL_REQUIRE_KERNEL` is set.
#[expect(
    clippy::print_stderr,
    clippy::panic,
    reason = "test support: what did not run must be seen"
)]
pub fn did_not_run(what: &str, why: &str) {
    if ["CI", "NETPOL_REQUIRE_KERNEL"].iter().any(|name| env::var_os(name).is_some()) {
        panic!("DID NOT RUN: {what}: {why}");
    }
    eprintln!("DID NOT RUN: {what}: {why}");
}

fn here_or_again(test: &str, body: impl FnOnce()) {
    let Err(here) = Availability::probe() else { return body() };
    if let Err(there) = rerun(test) {
        did_not_run(test, &format!("{here}; {}: {}", there.what, there.why));
    }
}

/// libtest names the thread of a test after it, except where it runs tests one by one; then the name of the closure
/// tells (`program::module::test::{{closure}}`).
fn test_name<F>() -> String {
    match thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        Some(_) | None => {
            let path = any::type_name::<F>().trim_end_matches("::{{closure}}");
            path.split_once("::").map_or(path, |(_, name)| name).to_owned()
        }
    }
}

#[expect(clippy::panic, reason = "test support: a failed test")]
fn rerun(test: &str) -> Result<(), Unavailable> {
    let output = Availability::rerun(|command: &mut Command| {
        command.args(["--exact", test, "--nocapture"]).output()
    })?;
    let told = String::from_utf8_lossy(&output.stdout);
    // A name that matches no test would succeed too.
    if !output.status.success() || !told.contains("1 passed") {
        panic!(
            "{test} in a user namespace: {}\n{told}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
