//! `netpol verdict`: one answer for each flow, in the order given.

pub(crate) mod report;

use std::io::{self, BufWriter, Read as _, Write as _};

use anyhow::{Context as _, bail};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Ruleset, Scope, Verdict};
use netpol_text::flow_text::{EndText, FlowText};

use super::Session;
use crate::cli::{EvaluationArgs, TextOrJson, VerdictArgs};
use crate::evaluate::{Judge, Judged};
use crate::input::{Input, settings};
use crate::outcome::{Outcome, all_wrong};
use crate::output::progress::Progress;
use crate::output::say;
use crate::resolve::resolve;

pub(crate) fn run(session: Session, args: &VerdictArgs) -> anyhow::Result<Outcome> {
    let flows = flows(&args.flow, args.flows.as_deref(), &args.input.filename, Need::Some)?;
    let input = Input::load(&args.input, &args.evaluation, addresses_of(&flows), Vec::new())?;
    let ruleset = compile_cluster(session, &input, &args.evaluation);
    let judge = Judge { input: &input, ruleset: &ruleset, family: args.family };
    let judged = judge_all(&judge, &args.input.namespace, &flows)?;
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        TextOrJson::Text => report::text(&mut out, session.style, &input, &ruleset, &judged)?,
        TextOrJson::Json => report::json(&mut out, &input, &ruleset, &judged)?,
    }
    out.flush()?;
    Ok(outcome(args.strict, &judged))
}

/// Compiles for the whole cluster, and says once what had to be assumed.
pub(crate) fn compile_cluster(
    session: Session,
    input: &Input,
    evaluation: &EvaluationArgs,
) -> Ruleset {
    let ruleset = compile_quietly(session, input, evaluation);
    if !session.quiet {
        input.remarks().iter().for_each(|remark| say(format_args!("note: {remark}")));
    }
    ruleset
}

/// As [`compile_cluster`], for a command whose answer itself says what was made up.
pub(crate) fn compile_quietly(
    session: Session,
    input: &Input,
    evaluation: &EvaluationArgs,
) -> Ruleset {
    let options =
        Options { scope: Scope::Cluster, settings: settings(evaluation), ..Options::default() };
    let compiled = {
        let _progress = Progress::start("compiling policies");
        compile(&input.cluster, &options)
    };
    if !session.quiet {
        input.say_notes(&compiled.diagnostics);
    }
    compiled.ruleset
}

/// Judges every flow. All or nothing: a batch with an unknown name is an error before it is half an answer.
pub(crate) fn judge_all<'a>(
    judge: &Judge<'_>,
    namespace: &str,
    flows: &'a [Given],
) -> anyhow::Result<Vec<(&'a str, Judged)>> {
    let _progress = Progress::start(format!("judging {} flows", flows.len()));
    let mut judged = Vec::with_capacity(flows.len());
    let mut errors = Vec::new();
    for Given { place, flow } in flows {
        let result =
            resolve(judge.input, namespace, flow).and_then(|resolved| judge.judge(&resolved));
        match result {
            Ok(answer) => judged.push((flow.written.as_str(), answer)),
            Err(error) => errors.push(format!("{place}`{}`: {error}", flow.written)),
        }
    }
    if !errors.is_empty() {
        return Err(all_wrong("these flows cannot be judged", &errors));
    }
    Ok(judged)
}

/// The exit code that a list of verdicts means.
pub(crate) fn outcome(strict: bool, judged: &[(&str, Judged)]) -> Outcome {
    let of_one = |answer: &Judged| match answer.verdict {
        _ if strict && !answer.doubts.is_empty() => Outcome::Uncertain,
        Verdict::Allow => Outcome::Holds,
        Verdict::Deny => Outcome::Negative,
    };
    judged.iter().map(|(_, answer)| of_one(answer)).fold(Outcome::Holds, Outcome::worse)
}

/// A flow and where it was given, as messages begin: `flows.txt:3: `.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) place: String,
    pub(crate) flow: FlowText,
}

/// Whether a command can do without flows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Need {
    None,
    Some,
}

/// Reads the flows of the command line, then those of the file.
pub(crate) fn flows(
    single: &[String],
    file: Option<&str>,
    manifests: &[String],
    need: Need,
) -> anyhow::Result<Vec<Given>> {
    let mut texts: Vec<(String, String)> =
        single.iter().map(|flow| (String::new(), flow.clone())).collect();
    if let Some(file) = file {
        let text = if file == "-" {
            if manifests.iter().any(|path| path == "-") {
                bail!(
                    "`-f -` and `--flows -` both read standard input; give one of them as a file"
                );
            }
            let mut text = String::new();
            io::stdin().lock().read_to_string(&mut text).context("flows on standard input")?;
            text
        } else {
            std::fs::read_to_string(file).with_context(|| format!("flows in `{file}`"))?
        };
        let lines = text.lines().enumerate();
        let lines = lines.map(|(number, line)| (number.saturating_add(1), line));
        let is_flow = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let flows = lines.filter(|(_, line)| is_flow(line));
        texts.extend(flows.map(|(number, line)| (format!("{file}:{number}: "), line.to_owned())));
    }
    if texts.is_empty() && need == Need::Some {
        bail!(
            "no flow to judge; give one with --flow 'namespace/pod -> namespace/pod:80', or a file with --flows"
        );
    }
    let mut given = Vec::with_capacity(texts.len());
    let mut errors = Vec::new();
    for (place, text) in texts {
        match FlowText::parse(&text) {
            Ok(flow) => given.push(Given { place, flow }),
            Err(error) => errors.push(format!("{place}`{text}`: {error}")),
        }
    }
    if !errors.is_empty() {
        return Err(all_wrong("these flows cannot be judged", &errors));
    }
    Ok(given)
}

/// The addresses that flows name; stand-ins must not be among them.
pub(crate) fn addresses_of(flows: &[Given]) -> Vec<core::net::IpAddr> {
    let ends = flows.iter().flat_map(|given| [&given.flow.source, &given.flow.destination]);
    ends.filter_map(|end| match end {
        EndText::Address(address) => Some(*address),
        EndText::Named { .. } | EndText::Node(_) | EndText::Service { .. } => None,
    })
    .collect()
}
