//! `netpol lower`: a backend's program.

use std::io::{self, BufWriter, Write as _};

use netpol_core::backend::Backend as _;
use netpol_ebpf::Ebpf;
use netpol_iptables::Iptables;
use netpol_nft::Nft;

use super::Session;
use super::compile::compile_scope;
use crate::cli::{BackendChoice, LowerArgs, TextOrJson};
use crate::outcome::Outcome;

pub(crate) fn run(session: Session, args: &LowerArgs) -> anyhow::Result<Outcome> {
    let ruleset = compile_scope(session, &args.input, &args.evaluation, args.node.as_deref())?;
    let program = match (args.backend, args.output) {
        (BackendChoice::Nft, TextOrJson::Text) => Nft::default().lower(&ruleset)?.to_string(),
        (BackendChoice::Nft, TextOrJson::Json) => {
            Nft::default().lower(&ruleset)?.to_json().to_string()
        }
        (BackendChoice::Iptables, TextOrJson::Text) => {
            Iptables::default().lower(&ruleset)?.to_string()
        }
        // What is in the maps is the same wherever the program runs.
        (BackendChoice::Ebpf | BackendChoice::EbpfTc, TextOrJson::Text) => {
            Ebpf::default().lower(&ruleset)?.to_string()
        }
        (
            BackendChoice::Iptables | BackendChoice::Ebpf | BackendChoice::EbpfTc,
            TextOrJson::Json,
        ) => anyhow::bail!("`--output json` is for `--backend nft` alone"),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    out.write_all(program.as_bytes())?;
    if !program.ends_with('\n') {
        writeln!(out)?;
    }
    out.flush()?;
    Ok(Outcome::Holds)
}
