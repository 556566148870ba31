//! An explanation as one line of JSON (`netpol.explain/v1`).

use std::io::{self, Write};

use netpol_core::explain::{Place, RuleTrace};
use netpol_core::ir::Family;
use serde::Serialize;

use super::Explained;
use crate::commands::verdict::report::End;
use crate::commands::verdict::report::{Policy, action_name, end, policy, verdict_name};
use crate::evaluate::{Judged, protocol_and_port, reason_name};

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

#[derive(Serialize)]
struct Side {
    verdict: &'static str,
    reason: &'static str,
    text: String,
    policies: Vec<PolicyTrace>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nearest: Vec<Rule>,
}

#[derive(Serialize)]
struct PolicyTrace {
    tier: String,
    #[serde(flatten)]
    policy: Policy,
    #[serde(flatten)]
    place: FileLine,
    rules: Vec<Rule>,
}

#[derive(Serialize)]
struct Rule {
    text: String,
    rule: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<u32>,
    action: &'static str,
    matches: bool,
    decided: bool,
    misses: Vec<Miss>,
    #[serde(flatten)]
    place: FileLine,
}

#[derive(Serialize)]
struct Miss {
    clause: &'static str,
    text: String,
}

#[derive(Serialize)]
struct FileLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
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

fn side(side: &netpol_core::explain::Side) -> Side {
    let decision = &side.decision;
    let policies = side.policies.iter().map(|trace| PolicyTrace {
        tier: trace.tier.to_string(),
        policy: policy(&trace.policy),
        place: file_line(&trace.place),
        rules: trace.rules.iter().map(rule).collect(),
    });
    let isolated = matches!(decision.reason, netpol_core::ir::Reason::Isolated);
    let nearest = if isolated { side.nearest() } else { Vec::new() };
    Side {
        verdict: verdict_name(decision.verdict),
        reason: reason_name(&decision.reason),
        text: decision.reason.to_string(),
        policies: policies.collect(),
        nearest: nearest.into_iter().map(rule).collect(),
    }
}

fn rule(rule: &RuleTrace) -> Rule {
    let misses = rule.misses.iter();
    Rule {
        text: rule.origin.to_string(),
        rule: rule.origin.rule,
        peer: rule.origin.peer,
        action: action_name(rule.action),
        matches: rule.misses.is_empty(),
        decided: rule.decided,
        misses: misses.map(|miss| Miss { clause: miss.clause(), text: miss.to_string() }).collect(),
        place: file_line(&rule.place),
    }
}

fn file_line(place: &Place) -> FileLine {
    FileLine {
        file: place.source.file.as_ref().map(ToString::to_string),
        line: Some(place.position.line).filter(|line| *line != 0),
    }
}
