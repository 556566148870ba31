//! `netpol explain`: both sides of a flow, tier by tier, and for a denial what came nearest.

mod json;
mod text;

use std::io::{self, BufWriter, Write as _};

use netpol_core::explain::{Explanation, explain};

use super::Session;
use super::verdict::{Need, addresses_of, compile_cluster, flows, judge_all, outcome};
use crate::cli::{ExplainArgs, TextOrJson};
use crate::evaluate::{Case, Judge, Judged};
use crate::input::Input;
use crate::outcome::Outcome;

pub(crate) fn run(session: Session, args: &ExplainArgs) -> anyhow::Result<Outcome> {
    let flows = flows(&args.flow, args.flows.as_deref(), &args.input.filename, Need::Some)?;
    let input = Input::load(&args.input, &args.evaluation, addresses_of(&flows), Vec::new())?;
    let ruleset = compile_cluster(session, &input, &args.evaluation);
    let judge = Judge { input: &input, ruleset: &ruleset, family: args.family };
    let judged = judge_all(&judge, &args.input.namespace, &flows)?;
    let mut out = BufWriter::new(io::stdout().lock());
    for (index, (flow, answer)) in judged.iter().enumerate() {
        let explained: Vec<Explained<'_>> = cases(answer)
            .iter()
            .map(|case| Explained {
                case,
                explanation: explain(&input.cluster, &ruleset, &case.flow),
            })
            .collect();
        match args.output {
            TextOrJson::Text => {
                if index > 0 {
                    writeln!(out)?;
                }
                text::write(&mut out, session.style, flow, answer, &explained)?;
            }
            TextOrJson::Json => json::write(&mut out, flow, answer, &explained)?,
        }
    }
    out.flush()?;
    Ok(outcome(args.strict, &judged))
}

/// One pair of addresses with its explanation.
struct Explained<'a> {
    case: &'a Case,
    explanation: Explanation,
}

/// Every backend of a Service, or the one destination.
fn cases(answer: &Judged) -> &[Case] {
    match &answer.service {
        Some((_, cases)) => cases,
        None => core::slice::from_ref(&answer.decisive),
    }
}
