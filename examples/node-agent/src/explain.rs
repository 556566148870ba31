//! `netpol-agent explain`: why this node allows or denies a flow, from what the agent knows and enforces now.
//!
//! An agent judges what its own pods send and receive. Of the other end, if it is a pod elsewhere, it knows the labels but
//! not the policies: those are judged on that pod's node.

mod ends;
pub(crate) mod socket;

use netpol_core::explain::{Side, explain};
use netpol_core::ir::{Family, Flow, Reason};
use netpol_core::model::Cluster;
use netpol_text::explanation;
use netpol_text::flow_text::FlowText;
use netpol_text::json::{self, verdict_name};
use serde::{Deserialize, Serialize};

use crate::enforcer::Enforcer;
use ends::End;

const SCHEMA: &str = "netpol.agent-explain/v1";

/// What is asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Question {
    pub(crate) flow: String,
    /// Of names without one.
    pub(crate) namespace: String,
    pub(crate) is_json: bool,
}

/// Answers, or says what is wrong with the question.
pub(crate) fn answer(
    node: &str,
    enforcer: &mut Enforcer,
    question: &Question,
) -> Result<String, String> {
    let text = FlowText::parse(&question.flow).map_err(|error| error.to_string())?;
    if !enforcer.engine.is_in_sync() {
        return Err("not everything was listed yet; ask again".to_owned());
    }
    let source = ends::find(&enforcer.engine, &text.source, &question.namespace)?;
    let destination = ends::find(&enforcer.engine, &text.destination, &question.namespace)?;
    let flow = ends::flow(&source, &destination, &text.service)?;
    let cluster = surroundings(enforcer, [&source, &destination]);
    let explained = explain(&cluster, enforcer.engine.snapshot(), &flow);
    let elsewhere =
        [(&explained.egress, &source), (&explained.ingress, &destination)].map(|(side, end)| {
            let is_remote = matches!(side.decision.reason, Reason::NotPoliced);
            let pod = end.pod.as_ref().filter(|_| is_remote)?;
            Some(pod.node.clone().unwrap_or_else(|| "a node to come".into()))
        });
    let in_force = enforcer.is_enforced();
    if question.is_json {
        let [egress_at, ingress_at] = &elsewhere;
        let line = Line {
            flow: &question.flow,
            node,
            in_force,
            verdict: verdict_name(explained.verdict),
            address_flow: explained.flow.to_string(),
            family: Family::of(flow.source).to_string(),
            egress: json::side(&explained.egress),
            egress_is_judged_on: egress_at.as_deref(),
            ingress: json::side(&explained.ingress),
            ingress_is_judged_on: ingress_at.as_deref(),
            schema: SCHEMA,
        };
        return serde_json::to_string(&line).map_err(|error| error.to_string());
    }
    let (from, to) = (source.to_string(), destination.to_string());
    let mut out = Vec::new();
    let text = Text { node, in_force, flow, from: &from, to: &to };
    text.write(
        &mut out,
        verdict_name(explained.verdict),
        [&explained.egress, &explained.ingress],
        &elsewhere,
    )
    .map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Everything an explanation may speak of: the policies, the nodes, and the two ends with their namespaces.
fn surroundings(enforcer: &Enforcer, ends: [&End; 2]) -> Cluster {
    let engine = &enforcer.engine;
    let mut cluster = enforcer.policies.clone();
    cluster.nodes = engine.nodes().map(|node| (node.name().clone(), node)).collect();
    for pod in ends.into_iter().filter_map(|end| end.pod.as_ref()) {
        let name = &pod.meta.object.namespace;
        cluster.namespaces.extend(engine.namespace(name).map(|found| (name.clone(), found)));
        cluster.pods.insert(pod.meta.object.clone(), pod.clone());
    }
    cluster
}

#[derive(Serialize)]
struct Line<'a> {
    flow: &'a str,
    node: &'a str,
    /// Whether the kernel enforces this already.
    in_force: bool,
    verdict: &'static str,
    address_flow: String,
    family: String,
    egress: json::Side,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_is_judged_on: Option<&'a str>,
    ingress: json::Side,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress_is_judged_on: Option<&'a str>,
    schema: &'static str,
}

struct Text<'a> {
    node: &'a str,
    in_force: bool,
    flow: Flow,
    from: &'a str,
    to: &'a str,
}

impl Text<'_> {
    fn write(
        &self,
        out: &mut Vec<u8>,
        verdict: &str,
        sides: [&Side; 2],
        elsewhere: &[Option<alloc::sync::Arc<str>>; 2],
    ) -> std::io::Result<()> {
        use std::io::Write as _;
        let Self { node, in_force, flow, from, to } = self;
        writeln!(out, "{verdict}  {flow}  (as node {node} judges)")?;
        if !in_force {
            writeln!(out, "       not in force yet: the last attempt to enforce failed")?;
        }
        let ends = [format!("{from} to {to}"), format!("{to} from {from}")];
        for ((side, ends), elsewhere) in sides.into_iter().zip(&ends).zip(elsewhere) {
            match elsewhere {
                Some(other) => {
                    writeln!(
                        out,
                        "\n{} of {ends}: judged on node {other}, not here",
                        side.direction
                    )?;
                }
                None => explanation::side(out, netpol_text::Style::plain(), side, ends)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
