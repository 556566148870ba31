//! An explanation as one line of JSON (`netpol.explain/v1`).

use std::io::{self, Write};

use netpol_core::ir::Family;
use netpol_text::json::{Side, side, verdict_name};
use serde::Serialize;

use super::Explained;
use crate::commands::verdict::report::End;
use crate::commands::verdict::report::end;
use crate::evaluate::{Judged, protocol_and_port};

const SCHEMA: &str = "netpol.explain/v1";

pub(super) fn write(
    out: &mut impl Write,
    flow: &str,
    answer: &Judged,
    explained: &[Explained<'_>],
) -> io::Result<()> {
    let line = Line {
        flow,
        verdict: verdict_name(answer.verdict),
        service: answer.service.as_ref().map(|(service, _)| service.to_string()),
        cases: explained.iter().map(case).collect(),
        uncertain: !answer.doubts.is_empty(),
        uncertain_because: &answer.doubts,
        notes: &answer.notes,
        schema: SCHEMA,
    };
    serde_json::to_writer(&mut *out, &line)?;
    writeln!(out)
}

#[derive(Serialize)]
struct Line<'a> {
    flow: &'a str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// One, or one for each backend of a Service.
    cases: Vec<Case>,
    uncertain: bool,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    uncertain_because: &'a [String],
    notes: &'a [String],
    schema: &'static str,
}

#[derive(Serialize)]
struct Case {
    verdict: &'static str,
    source: End,
    destination: End,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    family: String,
    egress: Side,
    ingress: Side,
}

fn case(explained: &Explained<'_>) -> Case {
    let Explained { case, explanation } = explained;
    let (protocol, port) = protocol_and_port(case.flow.transport);
    Case {
        verdict: verdict_name(explanation.verdict),
        source: end(&case.source),
        destination: end(&case.destination),
        protocol,
        port,
        family: Family::of(case.flow.source).to_string(),
        egress: side(&explanation.egress),
        ingress: side(&explanation.ingress),
    }
}
