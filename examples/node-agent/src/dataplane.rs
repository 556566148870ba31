//! The backends by name. Nothing else here knows which there are.

use anyhow::bail;
use netpol_core::backend::{Backend as _, Dataplane, LowerError};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::Ruleset;
use netpol_core::model::Cluster;
use netpol_ebpf::{Ebpf, EbpfDataplane, Kernel, Loaded};
use netpol_iptables::{Iptables, IptablesDataplane};
use netpol_nft::{Nft, NftDataplane, NftOptions, Ownership};

use crate::cli::{BackendName, DataplaneArgs};

/// A backend that was chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Chosen {
    Ebpf,
    Iptables,
    Nft,
}

impl Chosen {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
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
            Chosen::Ebpf => Ebpf::default().lower(ruleset).map(|image| image.to_string()),
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
        BackendName::Auto => first_that_works(args)?,
        BackendName::Ebpf => Chosen::Ebpf,
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
    let all = [Chosen::Nft, Chosen::Ebpf, Chosen::Iptables];
    let others = all.into_iter().filter(|other| Some(*other) != chosen);
    others.map(|other| Ok((other, of(other, args)?))).collect()
}

fn of(chosen: Chosen, args: &DataplaneArgs) -> anyhow::Result<Box<dyn Dataplane>> {
    Ok(match chosen {
        Chosen::Ebpf => {
            if args.ebpf_pins.as_os_str().is_empty() {
                bail!("the eBPF backend needs a directory to pin its hooks in: `--ebpf-pins`");
            }
            let dataplane = EbpfDataplane::new(Ebpf::default()).pinned(&args.ebpf_pins);
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

/// Tries each backend, in the order of preference, on nothing: to look at what is there takes what it takes to change it,
/// and what is loaded into no hook touches no packet.
fn first_that_works(args: &DataplaneArgs) -> anyhow::Result<Chosen> {
    let nothing = compile(&Cluster::default(), &Options::default()).ruleset;
    first_of([Chosen::Nft, Chosen::Ebpf, Chosen::Iptables], |chosen| match chosen {
        Chosen::Ebpf => {
            Ok(Loaded::load(&Kernel::probe()?, &Ebpf::default().lower(&nothing)?).map(drop)?)
        }
        Chosen::Iptables | Chosen::Nft => Ok(of(chosen, args)?.verify(&nothing).map(drop)?),
    })
}

fn first_of(
    candidates: [Chosen; 3],
    works: impl Fn(Chosen) -> anyhow::Result<()>,
) -> anyhow::Result<Chosen> {
    let mut reasons = Vec::new();
    for chosen in candidates {
        match works(chosen) {
            Ok(()) => {
                for reason in &reasons {
                    tracing::warn!(%reason, "falling back to {}", chosen.name());
                }
                return Ok(chosen);
            }
            Err(error) => reasons.push(format!("{}: {error:#}", chosen.name())),
        }
    }
    bail!("no backend works here: {}", reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::{Chosen, first_of};

    #[test]
    fn the_first_that_works_is_chosen_and_without_any_every_reason_is_told() {
        let (nft, ebpf, iptables) = (Chosen::Nft, Chosen::Ebpf, Chosen::Iptables);
        let first = |working: &[Chosen]| {
            first_of([nft, ebpf, iptables], |chosen| {
                ensure!(working.contains(&chosen), "not here");
                Ok(())
            })
        };
        assert_eq!(first(&[iptables, nft]).unwrap(), nft);
        assert_eq!(first(&[iptables, ebpf]).unwrap(), ebpf);
        assert_eq!(first(&[iptables]).unwrap(), iptables);
        let told = "no backend works here: nft: not here; ebpf: not here; iptables: not here";
        assert_eq!(first(&[]).unwrap_err().to_string(), told);
    }
}
