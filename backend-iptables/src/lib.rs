#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;

#[cfg(feature = "apply")]
mod apply;
mod lower;
pub mod restore;

#[cfg(feature = "apply")]
#[cfg_attr(docsrs, doc(cfg(feature = "apply")))]
pub use apply::{IptablesDataplane, Variant};
pub use restore::RestoreInput;

use netpol_core::backend::{Backend, LowerError, Program};
use netpol_core::ir::{Flow, Ruleset, Verdict};

/// Lowers rulesets to iptables and ipset.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Iptables;

impl Backend for Iptables {
    type Program = RestoreInput;

    fn lower(&self, ruleset: &Ruleset) -> Result<RestoreInput, LowerError> {
        lower::lower(ruleset)
    }
}

impl Program for RestoreInput {
    fn verdict(&self, flow: &Flow) -> Verdict {
        self.judge(flow)
    }
}
