//! The backends by name. Nothing else here knows which there are.

use netpol_core::backend::{Backend as _, Dataplane, LowerError, SyncError};
use netpol_core::ir::Ruleset;
use netpol_iptables::{Iptables, IptablesDataplane};
use netpol_nft::{Nft, NftDataplane};

use crate::cli::BackendName;

/// A dataplane of which the agent can tell whether somebody else has a hand in it.
pub(crate) trait Kernel: Dataplane + Send {
    /// Returns a number that changes with every write of anybody's, where the kernel keeps one.
    fn generation(&mut self) -> Result<Option<u32>, SyncError>;
}

impl Kernel for NftDataplane {
    fn generation(&mut self) -> Result<Option<u32>, SyncError> {
        Self::generation(self).map(Some)
    }
}

impl Kernel for IptablesDataplane {
    fn generation(&mut self) -> Result<Option<u32>, SyncError> {
        Ok(None)
    }
}

pub(crate) fn open(name: BackendName) -> Box<dyn Kernel> {
    match name {
        BackendName::Auto | BackendName::Nft => Box::new(NftDataplane::new()),
        BackendName::Iptables => Box::new(IptablesDataplane::new()),
    }
}

/// The program that would be loaded, as the target's own tool shows it.
pub(crate) fn program(name: BackendName, ruleset: &Ruleset) -> Result<String, LowerError> {
    match name {
        BackendName::Auto | BackendName::Nft => {
            Nft::default().lower(ruleset).map(|script| script.to_string())
        }
        BackendName::Iptables => Iptables::default().lower(ruleset).map(|input| input.to_string()),
    }
}
