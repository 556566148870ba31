#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;

#[cfg(feature = "apply")]
mod apply;
pub mod image;
mod lower;

#[cfg(feature = "apply")]
#[cfg_attr(docsrs, doc(cfg(feature = "apply")))]
pub use apply::{EbpfDataplane, FrontEnd, Kernel, KernelError, LoadError, Loaded, Updates};
pub use image::MapImage;
pub use lower::{Limits, Lowering, Told, UpdateError};

pub use netpol_core::backend::Established;
use netpol_core::backend::{Backend, LowerError, Program};
use netpol_core::ir::{Flow, Ruleset, Verdict};

/// The front end at the interfaces of pods: what it must be told, and how packets are shown to it.
#[cfg(feature = "apply")]
#[cfg_attr(docsrs, doc(cfg(feature = "apply")))]
pub mod tc {
    pub use crate::apply::{
        Attach, ByRoute, Interface, InterfaceError, Interfaces, Service, Side, Surroundings, Tc,
        Times,
    };
}

/// Lowers rulesets to the maps of the program.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Ebpf {
    /// How large the maps may get.
    pub limits: Limits,
}

impl Ebpf {
    /// Returns a backend whose maps may get this large.
    #[must_use]
    pub const fn with_limits(limits: Limits) -> Self {
        Self { limits }
    }
}

impl Backend for Ebpf {
    type Program = MapImage;

    fn lower(&self, ruleset: &Ruleset) -> Result<MapImage, LowerError> {
        lower::lower(ruleset, self.limits)
    }
}

impl Program for MapImage {
    fn verdict(&self, flow: &Flow) -> Verdict {
        self.judge_flow(flow)
    }
}
