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
#[expect(clippy::exhaustive_structs, reason = "options are written as literals")]
pub struct Iptables {
    /// How a pod is recognised that reaches itself through a Service.
    pub own_address: OwnAddress,
}

/// How to say "source equals destination", for which iptables has no words (NP-121, DEC-03).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum OwnAddress {
    /// One comparison in BPF: needs the kernel's `xt_bpf`.
    #[default]
    Compare,
    /// A rule for each isolated pod: works everywhere, and grows with the pods.
    List,
}

impl Backend for Iptables {
    type Program = RestoreInput;

    fn lower(&self, ruleset: &Ruleset) -> Result<RestoreInput, LowerError> {
        lower::lower(ruleset, self.own_address)
    }
}

impl Program for RestoreInput {
    fn verdict(&self, flow: &Flow) -> Verdict {
        self.judge(flow)
    }
}
