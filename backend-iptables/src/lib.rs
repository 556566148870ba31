#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;

#[cfg(feature = "apply")]
mod apply;
mod lower;
#[cfg(feature = "apply")]
mod netlink;
pub mod restore;
#[cfg(feature = "apply")]
mod sys;

#[cfg(feature = "apply")]
#[cfg_attr(docsrs, doc(cfg(feature = "apply")))]
pub use apply::{IptablesDataplane, Variant};
pub use restore::RestoreInput;

use netpol_core::backend::{Backend, Established, LowerError, Program};
use netpol_core::ir::{Flow, Ruleset, Verdict};

/// Lowers rulesets to iptables and ipset.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "options are written as literals")]
pub struct Iptables {
    /// How a pod is recognised that reaches itself through a Service.
    pub own_address: OwnAddress,
    /// What becomes of open connections that a later ruleset denies.
    pub established: Established,
    /// The bits of a connection's mark that are ours, for [`Established::Recheck`]: the more, the later an old number comes
    /// again. Nobody else on the node may use them.
    pub mark: u32,
    /// Where denied packets are reported; `None`: nowhere.
    pub reports: Option<Reports>,
    /// Whether many exact addresses with ports of their own may become one set, for which the kernel needs the type
    /// `hash:ip,port`; a rule for each list of ports otherwise.
    pub merged: bool,
}

/// How denied packets are reported.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "options are written as literals")]
pub struct Reports {
    /// The group of the kernel's packet log. One listener has it to itself.
    pub group: u16,
    /// How many reports a second each rule that drops may make, up to 10,000.
    pub rate: u16,
}

impl Iptables {
    /// The bits of connections' marks that are used by default: none of kube-proxy's (0x4000, 0x8000), of the AWS CNI's
    /// (0x80), of kube-router's and Tailscale's (0xff0000).
    pub const MARK: u32 = 0xff00_3f00;
}

impl Default for Iptables {
    fn default() -> Self {
        Self {
            own_address: OwnAddress::Compare,
            established: Established::Recheck,
            mark: Self::MARK,
            reports: Some(Reports::default()),
            merged: true,
        }
    }
}

impl Default for Reports {
    fn default() -> Self {
        Self { group: 1789, rate: 10 }
    }
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
        lower::lower(ruleset, self, lower::Memory::fresh(ruleset))
    }
}

impl Program for RestoreInput {
    fn verdict(&self, flow: &Flow) -> Verdict {
        self.judge(flow)
    }
}
