//! An explanation for people, side by side.

use std::io::{self, Write};

use netpol_core::explain::{Place, PolicyTrace, RuleTrace, Side, TierName};
use netpol_core::ir::{Reason, Verdict};

use crate::Style;

/// Tells one side: tier by tier, rule by rule, and for a denial what came nearest.
///
/// `ends` names the two ends, as in `shop/web to shop/api`.
///
/// # Errors
/// Those of the writer.
pub fn side(out: &mut impl Write, style: Style, side: &Side, ends: &str) -> io::Result<()> {
    let Side { direction, decision, .. } = side;
    writeln!(out)?;
    writeln!(out, "{} {direction} of {ends}", style.verdict(decision.verdict))?;
    for tier in [TierName::Admin, TierName::NetworkPolicy, TierName::Baseline] {
        let policies: Vec<&PolicyTrace> =
            side.policies.iter().filter(|policy| policy.tier == tier).collect();
        if policies.is_empty() {
            continue;
        }
        let decided =
            side.policies.iter().find(|policy| policy.rules.iter().any(|rule| rule.decided));
        let admin_decided = decided.is_some_and(|policy| policy.tier == TierName::Admin);
        let isolated = side.isolated_by().next().is_some();
        let (skipped, remark) = match tier {
            TierName::Admin => {
                (false, "Admin tier: the first rule that matches decides, Pass leaves the tier")
            }
            TierName::NetworkPolicy if admin_decided => {
                (true, "NetworkPolicies: not asked, since the Admin tier decides")
            }
            TierName::NetworkPolicy => {
                (false, "NetworkPolicies: they isolate the pod; any rule that matches allows")
            }
            TierName::Baseline if admin_decided => {
                (true, "Baseline tier: not asked, since the Admin tier decides")
            }
            TierName::Baseline if isolated => {
                (true, "Baseline tier: not asked, since NetworkPolicies select the pod (CNP-032)")
            }
            TierName::Baseline => (false, "Baseline tier: the first rule that matches decides"),
        };
        writeln!(out, "  {}", style.faint(remark))?;
        for policy in policies {
            write_policy(out, style, policy, skipped)?;
        }
    }
    let reason = match &decision.reason {
        Reason::Isolated => {
            let names: Vec<String> =
                side.isolated_by().map(|policy| policy.policy.object.to_string()).collect();
            let names = list(&names);
            format!("isolated by NetworkPolicy {names}, and no rule matches")
        }
        reason @ (Reason::NotPoliced
        | Reason::SelfTraffic
        | Reason::Hairpin
        | Reason::OwnNode
        | Reason::UnjudgedProtocol
        | Reason::UnknownPod
        | Reason::Rule(_)
        | Reason::NotIsolated) => reason.to_string(),
    };
    writeln!(out, "  {} {reason}", style.strong("so:"))?;
    if decision.verdict == Verdict::Deny {
        nearest(out, style, side)?;
    }
    Ok(())
}

fn write_policy(
    out: &mut impl Write,
    style: Style,
    policy: &PolicyTrace,
    skipped: bool,
) -> io::Result<()> {
    writeln!(out, "    {}{}", policy.policy, at(style, &policy.place))?;
    if skipped {
        return Ok(());
    }
    if policy.rules.is_empty() {
        writeln!(out, "      (no rules in this direction)")?;
    }
    for rule in &policy.rules {
        let name = rule_name(rule);
        match (rule.decided, rule.misses.is_empty()) {
            (true, _) => {
                let mark = match rule.action {
                    netpol_core::ir::Action::Deny => style.bad("=>"),
                    netpol_core::ir::Action::Accept | netpol_core::ir::Action::Pass => {
                        style.good("=>")
                    }
                };
                writeln!(
                    out,
                    "      {mark} {name} {}: decides{}",
                    rule.action,
                    at(style, &rule.place)
                )?;
            }
            (false, true) => writeln!(
                out,
                "       + {name} {}: matches too{}",
                rule.action,
                at(style, &rule.place)
            )?,
            (false, false) => {
                writeln!(out, "       - {name} {}{}", rule.action, at(style, &rule.place))?;
                for miss in &rule.misses {
                    writeln!(out, "           no: {miss}")?;
                }
            }
        }
    }
    Ok(())
}

/// Says what would have had to be otherwise.
fn nearest(out: &mut impl Write, style: Style, side: &Side) -> io::Result<()> {
    if let Reason::Rule(_) = side.decision.reason {
        return Ok(()); // A rule denies; nothing that comes later can help.
    }
    let nearest = side.nearest();
    if nearest.is_empty() {
        return writeln!(out, "  {} no rule allows anything here", style.strong("nearest:"));
    }
    for rule in nearest {
        writeln!(out, "  {} {}{}", style.strong("nearest:"), rule.origin, at(style, &rule.place))?;
        for miss in &rule.misses {
            writeln!(out, "           {}: {miss}", miss.clause())?;
        }
    }
    Ok(())
}

fn rule_name(rule: &RuleTrace) -> String {
    let text = rule.origin.to_string();
    text.rsplit(' ').next().unwrap_or(&text).to_owned()
}

fn at(style: Style, place: &Place) -> String {
    match &place.source.file {
        Some(_) => format!("  {}", style.faint(place)),
        None => String::new(),
    }
}

/// So many names are written out.
const LISTED: usize = 10;

fn list(names: &[String]) -> String {
    let shown = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(LISTED) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
