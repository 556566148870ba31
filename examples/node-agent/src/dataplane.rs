//! The backends by name. Nothing else here knows which there are.

use netpol_core::backend::{Backend as _, Dataplane, LowerError};
use netpol_core::ir::Ruleset;
use netpol_nft::{Nft, NftDataplane};

use crate::cli::BackendName;

pub(crate) fn open(name: BackendName) -> Box<dyn Dataplane + Send> {
    match name {
        BackendName::Auto | BackendName::Nft => Box::new(NftDataplane::new()),
    }
}

/// The program that would be loaded, as the target's own tool shows it.
pub(crate) fn program(name: BackendName, ruleset: &Ruleset) -> Result<String, LowerError> {
    match name {
        BackendName::Auto | BackendName::Nft => {
            Nft::default().lower(ruleset).map(|script| script.to_string())
        }
    }
}
