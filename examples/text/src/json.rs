//! Verdicts, reasons and explanations as JSON has them.

use netpol_core::explain::{self, Place, RuleTrace};
use netpol_core::ir::{Action, PolicyRef, Reason, Verdict};
use netpol_core::model::Kind;
use serde::Serialize;

/// One side of a flow, as it is told.
#[derive(Debug, Serialize)]
pub struct Side {
    verdict: &'static str,
    reason: &'static str,
    text: String,
    policies: Vec<PolicyTrace>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nearest: Vec<Rule>,
}

#[derive(Debug, Serialize)]
struct PolicyTrace {
    tier: String,
    #[serde(flatten)]
    policy: Policy,
    #[serde(flatten)]
    place: FileLine,
    rules: Vec<Rule>,
}

#[derive(Debug, Serialize)]
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

#[derive(Debug, Serialize)]
struct Miss {
    clause: &'static str,
    text: String,
}

#[derive(Debug, Serialize)]
struct FileLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

/// A policy's name.
#[derive(Debug, Serialize)]
pub struct Policy {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
}

/// Tells one side.
#[must_use]
pub fn side(side: &explain::Side) -> Side {
    let decision = &side.decision;
    let policies = side.policies.iter().map(|trace| PolicyTrace {
        tier: trace.tier.to_string(),
        policy: policy(&trace.policy),
        place: file_line(&trace.place),
        rules: trace.rules.iter().map(rule).collect(),
    });
    let isolated = matches!(decision.reason, Reason::Isolated);
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

/// Returns the verdict's name.
#[must_use]
pub const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

/// Returns the action's name.
#[must_use]
pub const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Accept => "accept",
        Action::Deny => "deny",
        Action::Pass => "pass",
    }
}

/// Returns the reason's name.
#[must_use]
pub const fn reason_name(reason: &Reason) -> &'static str {
    match reason {
        Reason::NotPoliced => "not-policed",
        Reason::SelfTraffic => "self",
        Reason::Hairpin => "hairpin",
        Reason::OwnNode => "own-node",
        Reason::UnjudgedProtocol => "unjudged-protocol",
        Reason::UnknownPod => "unknown-pod",
        Reason::Rule(_) => "rule",
        Reason::Isolated => "isolated",
        Reason::NotIsolated => "not-isolated",
    }
}

/// Names a policy.
#[must_use]
pub fn policy(policy: &PolicyRef) -> Policy {
    let namespace = &policy.object.namespace;
    Policy {
        kind: Kind::from(policy.kind).as_str(),
        namespace: (!namespace.is_empty()).then(|| namespace.to_string()),
        name: policy.object.name.to_string(),
    }
}
