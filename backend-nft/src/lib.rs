#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;

#[cfg(feature = "apply")]
mod apply;
mod lower;
#[cfg(feature = "apply")]
mod netlink;
mod options;
pub mod script;

#[cfg(feature = "apply")]
#[cfg_attr(docsrs, doc(cfg(feature = "apply")))]
pub use apply::NftDataplane;
pub use options::{NftOptions, Ownership};
pub use script::Script;

use netpol_core::backend::{Backend, LowerError, Program};
use netpol_core::ir::{Flow, Ruleset, Verdict};

/// Lowers rulesets to nftables.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nft {
    options: NftOptions,
}

impl Nft {
    /// Lowers as an embedder chooses.
    #[must_use]
    pub const fn new(options: NftOptions) -> Self {
        Self { options }
    }
}

impl Backend for Nft {
    type Program = Script;

    fn lower(&self, ruleset: &Ruleset) -> Result<Script, LowerError> {
        Ok(lower::lower(ruleset, &lower::Versions::new(), self.options.style()))
    }
}

impl Program for Script {
    fn verdict(&self, flow: &Flow) -> Verdict {
        self.judge(flow)
    }
}
