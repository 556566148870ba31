//! `netpol compile`: the IR of the whole cluster or of one node.

use std::io::{self, BufWriter, Write as _};

use netpol_core::compile::{Options, compile};
use netpol_core::ir::RulesetForm;

use super::Session;
use crate::cli::{CompileArgs, TextOrJson};
use crate::input::{Input, settings};
use crate::outcome::Outcome;
use crate::output::progress::Progress;
use crate::output::say;

pub(crate) fn run(session: Session, args: &CompileArgs) -> anyhow::Result<Outcome> {
    let input = Input::load(&args.input, &args.evaluation, Vec::new(), Vec::new())?;
    let scope = input.scope(args.node.as_deref())?;
    if !session.quiet {
        input.say_remarks();
    }
    let compiled = {
        let _progress = Progress::start("compiling policies");
        compile(&input.cluster, &Options { scope, settings: settings(&args.evaluation) })
    };
    if !session.quiet {
        compiled.diagnostics.iter().for_each(|diagnostic| say(format_args!("note: {diagnostic}")));
    }
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        TextOrJson::Text => write!(out, "{}", compiled.ruleset)?,
        TextOrJson::Json => {
            serde_json::to_writer_pretty(&mut out, &RulesetForm::from(&compiled.ruleset))?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(Outcome::Holds)
}
