//! The backends by name. Nothing else here knows which there are.

use alloc::sync::Arc;

use anyhow::{Context as _, bail};
use netpol_core::backend::{Backend as _, Dataplane, LowerError};
use netpol_core::ir::Ruleset;
use netpol_ebpf::tc::{ByPeer, Tc};
use netpol_ebpf::{Ebpf, EbpfDataplane, FrontEnd};
use netpol_iptables::{Iptables, IptablesDataplane};
use netpol_nft::{Nft, NftDataplane, NftOptions, Ownership};

use crate::cli::{BackendName, DataplaneArgs};

/// A backend that was chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Chosen {
    Ebpf,
    EbpfTc,
    Iptables,
    Nft,
}

impl Chosen {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::EbpfTc => "ebpf-tc",
            Self::Iptables => "iptables",
            Self::Nft => "nft",
        }
    }
}

/// Says what would be loaded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Printer {
    pub(crate) chosen: Chosen,
    pub(crate) args: DataplaneArgs,
}

impl Printer {
    /// The program, as the target's own tool shows it.
    pub(crate) fn program(&self, ruleset: &Ruleset) -> Result<String, LowerError> {
        match self.chosen {
            Chosen::Ebpf | Chosen::EbpfTc => {
                Ebpf::default().lower(ruleset).map(|image| image.to_string())
            }
            Chosen::Iptables => iptables(&self.args).lower(ruleset).map(|input| input.to_string()),
            Chosen::Nft => {
                Nft::new(nft(&self.args)).lower(ruleset).map(|script| script.to_string())
            }
        }
    }
}

/// Chooses a backend and opens it; nothing is touched.
pub(crate) fn open(args: &DataplaneArgs) -> anyhow::Result<(Chosen, Box<dyn Dataplane>)> {
    let chosen = match args.backend {
        BackendName::Auto => first_that_works()?,
        BackendName::Ebpf => Chosen::Ebpf,
        BackendName::EbpfTc => Chosen::EbpfTc,
        BackendName::Iptables => Chosen::Iptables,
        BackendName::Nft => Chosen::Nft,
    };
    Ok((chosen, of(chosen, args)?))
}

/// Opens the backends that may have left something here: all but `chosen`.
pub(crate) fn others(
    chosen: Option<Chosen>,
    args: &DataplaneArgs,
) -> anyhow::Result<Vec<(Chosen, Box<dyn Dataplane>)>> {
    let all = [Chosen::Nft, Chosen::Ebpf, Chosen::EbpfTc, Chosen::Iptables];
    let others = all.into_iter().filter(|other| Some(*other) != chosen);
    others.map(|other| Ok((other, of(other, args)?))).collect()
}

fn of(chosen: Chosen, args: &DataplaneArgs) -> anyhow::Result<Box<dyn Dataplane>> {
    Ok(match chosen {
        Chosen::Ebpf | Chosen::EbpfTc => {
            if args.ebpf_pins.as_os_str().is_empty() {
                bail!("the eBPF backend needs a directory to pin its hooks in: `--ebpf-pins`");
            }
            let mut dataplane = EbpfDataplane::new(Ebpf::default()).pinned(&args.ebpf_pins);
            if chosen == Chosen::EbpfTc {
                // Also where a bridge is between the pods.
                let interfaces = Arc::new(ByPeer::default());
                let tc = Tc { interfaces, ..Tc::default() };
                dataplane = dataplane.with_front_end(FrontEnd::Tc(tc));
            }
            Box::new(dataplane.with_established(args.established.into()))
        }
        Chosen::Iptables => {
            let dataplane = match args.iptables_variant {
                Some(variant) => IptablesDataplane::with_variant(variant.into()),
                None => IptablesDataplane::new(),
            };
            Box::new(dataplane.with_options(iptables(args)))
        }
        Chosen::Nft => {
            // Whoever enforces as long as the node runs keeps others from emptying the table.
            let dataplane = NftDataplane::with_options(nft(args));
            Box::new(dataplane.with_ownership(Ownership::Preferred))
        }
    })
}

fn iptables(args: &DataplaneArgs) -> Iptables {
    let mark = args.mark.unwrap_or(Iptables::MARK);
    Iptables { established: args.established.into(), mark, ..Iptables::default() }
}

fn nft(args: &DataplaneArgs) -> NftOptions {
    let mut options = NftOptions::default();
    options.established = args.established.into();
    options.mark = args.mark.unwrap_or(options.mark);
    options
}

/// Asks the kernel, in the order of preference, and says why not.
fn first_that_works() -> anyhow::Result<Chosen> {
    let mut reasons = Vec::new();
    match NftDataplane::new().generation() {
        Ok(_) => return Ok(Chosen::Nft),
        Err(error) => reasons.push(format!("nft: {:#}", anyhow::Error::from(error))),
    }
    match netpol_ebpf::Kernel::probe() {
        Ok(_) => return Ok(Chosen::Ebpf),
        Err(error) => reasons.push(format!("ebpf: {:#}", anyhow::Error::from(error))),
    }
    let works = |program: &str| std::process::Command::new(program).arg("--version").output();
    match works("iptables").and_then(|_| works("ipset")) {
        Ok(_) => {
            for reason in &reasons {
                tracing::warn!(%reason, "falling back to iptables");
            }
            Ok(Chosen::Iptables)
        }
        Err(error) => {
            reasons.push(format!("iptables: {error}"));
            Err(anyhow::anyhow!(reasons.join("; "))).context("no backend works here")
        }
    }
}
