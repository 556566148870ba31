//! Verdicts as text and as JSON lines (`netpol.verdict/v1`).

use alloc::collections::BTreeMap;
use std::io::{self, Write};

use netpol_core::explain::place;
use netpol_core::ir::{
    Action, Direction, Family, Origin, PolicyKind, PolicyRef, Reason, Ruleset, Verdict,
};
use netpol_core::model::Tier;
use netpol_text::json::{Policy, action_name, policy, reason_name, verdict_name};
use serde::Serialize;

use crate::evaluate::{Case, Judged, JudgedEnd, protocol_and_port};
use crate::input::{Input, count, list};
use crate::output::Style;
use crate::resolve::EndKind;

pub(super) const SCHEMA: &str = "netpol.verdict/v1";

pub(super) fn text(
    out: &mut impl Write,
    style: Style,
    input: &Input,
    ruleset: &Ruleset,
    answers: &[(&str, Judged)],
) -> io::Result<()> {
    for (flow, answer) in answers {
        let uncertain = if answer.doubts.is_empty() { "" } else { "  (uncertain)" };
        writeln!(
            out,
            "{}  {}{}",
            style.verdict(answer.verdict),
            style.strong(flow),
            style.warning(uncertain)
        )?;
        match &answer.service {
            None => sides(out, style, input, ruleset, &answer.decisive)?,
            Some((service, cases)) => {
                writeln!(out, "       Service {service}, {}", count(cases.len(), "backend"))?;
                for case in cases {
                    let verdict = style.verdict(case.decision.verdict);
                    writeln!(
                        out,
                        "       {verdict} {} {}",
                        end_name(&case.destination),
                        case.flow.transport
                    )?;
                }
                sides(out, style, input, ruleset, &answer.decisive)?;
            }
        }
        for doubt in &answer.doubts {
            writeln!(out, "       {} {doubt}", style.warning("uncertain"))?;
        }
        for note in &answer.notes {
            writeln!(out, "       {} {note}", style.faint("note     "))?;
        }
    }
    Ok(())
}

fn sides(
    out: &mut impl Write,
    style: Style,
    input: &Input,
    ruleset: &Ruleset,
    case: &Case,
) -> io::Result<()> {
    for direction in [Direction::Egress, Direction::Ingress] {
        let side = case.side(direction);
        let mut reason = side.reason.to_string();
        match &side.reason {
            Reason::Rule(origin) => {
                let place = place(&input.cluster, origin);
                if place.source.file.is_some() {
                    reason.push_str(&format!("  {}", style.faint(place)));
                }
            }
            Reason::Isolated => {
                let by = isolated_by(ruleset, case, direction);
                let names: Vec<String> =
                    by.iter().map(|policy| policy.object.to_string()).collect();
                reason = format!(
                    "isolated by NetworkPolicy {}, and no rule matches",
                    list(names.iter().map(String::as_str))
                );
            }
            Reason::NotPoliced
            | Reason::SelfTraffic
            | Reason::Hairpin
            | Reason::OwnNode
            | Reason::UnjudgedProtocol
            | Reason::UnknownPod
            | Reason::NotIsolated => {}
        }
        let direction = direction.to_string();
        writeln!(out, "       {direction:<9} {} {reason}", style.verdict(side.verdict))?;
    }
    Ok(())
}

pub(crate) fn end_name(end: &JudgedEnd) -> String {
    match &end.kind {
        EndKind::Address => end.address.to_string(),
        EndKind::Node(name) => format!("node/{name}"),
        EndKind::Pod(pod) => pod.to_string(),
    }
}

/// The NetworkPolicies that isolate the subject of a side.
fn isolated_by<'a>(ruleset: &'a Ruleset, case: &Case, direction: Direction) -> Vec<&'a PolicyRef> {
    let endpoint = ruleset.owner(case.subject(direction).address);
    let pipeline = endpoint.and_then(|endpoint| ruleset.pipeline(endpoint.pipeline(direction)));
    let blocks = pipeline.and_then(|pipeline| pipeline.network_policy.as_ref());
    blocks.into_iter().flatten().map(|block| block.policy().as_ref()).collect()
}

pub(super) fn json(
    out: &mut impl Write,
    input: &Input,
    ruleset: &Ruleset,
    answers: &[(&str, Judged)],
) -> io::Result<()> {
    for (flow, answer) in answers {
        let case = &answer.decisive;
        let (protocol, port) = protocol_and_port(case.flow.transport);
        let line = Line {
            flow,
            verdict: verdict_name(answer.verdict),
            egress: side(input, ruleset, case, Direction::Egress),
            ingress: side(input, ruleset, case, Direction::Ingress),
            source: end(&case.source),
            destination: end(&case.destination),
            protocol,
            port,
            family: Family::of(case.flow.source).to_string(),
            families: families(case),
            service: answer.service.as_ref().map(|(service, _)| service.to_string()),
            backends: answer
                .service
                .iter()
                .flat_map(|(_, cases)| cases.iter().map(backend))
                .collect(),
            uncertain: !answer.doubts.is_empty(),
            uncertain_because: &answer.doubts,
            notes: &answer.notes,
            schema: SCHEMA,
        };
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Line<'a> {
    flow: &'a str,
    verdict: &'static str,
    egress: Side,
    ingress: Side,
    source: End,
    destination: End,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    family: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    families: BTreeMap<String, &'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backends: Vec<Backend>,
    uncertain: bool,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    uncertain_because: &'a [String],
    notes: &'a [String],
    schema: &'static str,
}

#[derive(Serialize)]
pub(crate) struct Side {
    verdict: &'static str,
    reason: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    isolated_by: Vec<Policy>,
}

#[derive(Serialize)]
pub(crate) struct End {
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    address: String,
    stand_in: bool,
}

#[derive(Serialize)]
struct Backend {
    destination: End,
    protocol: String,
    port: Option<u16>,
    verdict: &'static str,
}

pub(crate) fn end(end: &JudgedEnd) -> End {
    let node = match &end.kind {
        EndKind::Node(name) => Some(name.to_string()),
        EndKind::Address | EndKind::Pod(_) => None,
    };
    let pod = end.pod.as_ref().map(ToString::to_string);
    End { pod, node, address: end.address.to_string(), stand_in: end.stand_in }
}

fn backend(case: &Case) -> Backend {
    let (protocol, port) = protocol_and_port(case.flow.transport);
    let verdict = verdict_name(case.decision.verdict);
    Backend { destination: end(&case.destination), protocol, port, verdict }
}

pub(crate) fn families(case: &Case) -> BTreeMap<String, &'static str> {
    let own = (Family::of(case.flow.source), case.decision.verdict);
    let both = case.other_family.map(|other| [own, other]);
    both.into_iter()
        .flatten()
        .map(|(family, verdict)| (family.to_string(), verdict_name(verdict)))
        .collect()
}

fn side(input: &Input, ruleset: &Ruleset, case: &Case, direction: Direction) -> Side {
    let decision = case.side(direction);
    let origin = decision.reason.origin();
    let place = origin.map(|origin| place(&input.cluster, origin));
    let isolated_by = match &decision.reason {
        Reason::Isolated => isolated_by(ruleset, case, direction).into_iter().map(policy).collect(),
        Reason::Rule(_)
        | Reason::NotPoliced
        | Reason::SelfTraffic
        | Reason::Hairpin
        | Reason::OwnNode
        | Reason::UnjudgedProtocol
        | Reason::UnknownPod
        | Reason::NotIsolated => Vec::new(),
    };
    Side {
        verdict: verdict_name(decision.verdict),
        reason: reason_name(&decision.reason),
        text: decision.reason.to_string(),
        tier: origin.and_then(|origin| tier(input, origin)),
        action: origin.map(|_| match decision.verdict {
            Verdict::Allow => action_name(Action::Accept),
            Verdict::Deny => action_name(Action::Deny),
        }),
        policy: origin.map(|origin| policy(&origin.policy)),
        rule: origin.map(|origin| origin.rule),
        peer: origin.and_then(|origin| origin.peer),
        file: place.as_ref().and_then(|place| Some(place.source.file.as_ref()?.to_string())),
        line: place.map(|place| place.position.line).filter(|line| *line != 0),
        isolated_by,
    }
}

fn tier(input: &Input, origin: &Origin) -> Option<&'static str> {
    match origin.policy.kind {
        PolicyKind::NetworkPolicy => Some("NetworkPolicy"),
        PolicyKind::ClusterNetworkPolicy => {
            let policies = &input.cluster.cluster_network_policies;
            policies.get(&origin.policy.object.name).map(|policy| match policy.tier {
                Tier::Admin => "Admin",
                Tier::Baseline => "Baseline",
            })
        }
    }
}
