//! Whether tests that need bpf(2) can run.

use netpol_conformance::netlab::{Availability, Privilege, did_not_run};
use netpol_core::backend::SyncError;
use netpol_ebpf::{Kernel, Loaded, MapImage};

/// Runs a test that needs a lab and bpf(2). The kernel gives the latter to root of the first user namespace only: where
/// this is not it, says loudly that the test did not run, or fails if it has to run.
pub(crate) fn kernel_test(what: &str, body: impl FnOnce()) {
    match Availability::probe() {
        Ok(Privilege::Root) => {}
        Ok(other) => return did_not_run(what, &format!("{other} may not use bpf(2)")),
        Err(error) => return did_not_run(what, &error.to_string()),
    }
    let tried = Kernel::probe()
        .map_err(Into::into)
        .and_then(|kernel| Loaded::load(&kernel, &MapImage::default()));
    match tried.map_err(SyncError::from) {
        Ok(_) => body(),
        Err(error) => did_not_run(what, &error.to_string()),
    }
}
