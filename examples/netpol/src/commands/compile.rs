//! `netpol compile`: the IR of the whole cluster or of one node.

use std::io::{self, BufWriter, Write as _};

use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Ruleset, RulesetForm};

use super::Session;
use crate::cli::{CompileArgs, EvaluationArgs, InputArgs, TextOrJson};
use crate::input::{Input, settings};
use crate::outcome::Outcome;
use crate::output::progress::Progress;
use crate::output::say;

/// Reads and compiles for one node, or the whole cluster.
pub(crate) fn compile_scope(
    session: Session,
    input: &InputArgs,
    evaluation: &EvaluationArgs,
    node: Option<&str>,
) -> anyhow::Result<Ruleset> {
    let mut input = Input::load(input, evaluation, Vec::new(), Vec::new())?;
    if let Some(node) = node
        && input.cluster.nodes.is_empty()
    {
        // Manifests that know no node at all are asked as if that one were the whole cluster.
        input = input.schedule(vec![node.into()], Vec::new());
    }
    let scope = input.scope(node)?;
    let compiled = {
        let _progress = Progress::start("compiling policies");
        compile(
            &input.cluster,
            &Options { scope, settings: settings(evaluation), ..Options::default() },
        )
    };
    if !session.quiet {
        input.say_notes(&compiled.diagnostics);
        input.remarks().iter().for_each(|remark| say(format_args!("note: {remark}")));
    }
    Ok(compiled.ruleset)
}

pub(crate) fn run(session: Session, args: &CompileArgs) -> anyhow::Result<Outcome> {
    let ruleset = compile_scope(session, &args.input, &args.evaluation, args.node.as_deref())?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        TextOrJson::Text => write!(out, "{ruleset}")?,
        TextOrJson::Json => {
            serde_json::to_writer_pretty(&mut out, &RulesetForm::from(&ruleset))?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(Outcome::Holds)
}
