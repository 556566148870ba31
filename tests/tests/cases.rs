//! Every case file, by the reader, the oracle and the IR; and every statement of the semantics, by a case.

extern crate alloc;

use alloc::collections::{BTreeMap, BTreeSet};

use netpol_conformance::cases::{Case, CaseCluster, Certainty, Rejection, all};
use netpol_conformance::oracle;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{
    Decision, Direction, Flow, Ruleset, Verdict, depends_on_unknown_address, verify,
};
use netpol_k8s::manifest::Severity;

/// A case that disappears must be noticed.
const CASES: usize = 181;

#[test]
fn every_case_comes_out_as_it_says() {
    let cases = all().expect("the case files read");
    let mut failures = Vec::new();
    for case in &cases {
        let failed = if case.rejects.is_empty() { judge(case) } else { reject(case) };
        failures.extend(failed.into_iter().map(|failure| format!("{}: {failure}", case.name)));
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    assert_eq!(cases.len(), CASES, "a case was added or has disappeared");
}

/// Returns what is wrong with a case whose manifests must be rejected.
fn reject(case: &Case) -> Vec<String> {
    let mut failures = Vec::new();
    let mut found = match case.read() {
        Ok(_) => return vec!["is accepted, but must be rejected".to_owned()],
        Err(errors) => errors.errors,
    };
    for expected in &case.rejects {
        match found.iter().position(|error| expected.holds(error)) {
            Some(index) => drop(found.remove(index)),
            None => failures.push(format!("is not rejected for {expected}")),
        }
    }
    let surplus =
        found.iter().map(|error| format!("rejected for {} ({error})", Rejection::of(error)));
    failures.extend(surplus);
    failures
}

/// Returns what is wrong with a case whose manifests are good.
fn judge(case: &Case) -> Vec<String> {
    let ready = match case.cluster() {
        Ok(ready) => ready,
        Err(error) => return vec![with_causes(&error)],
    };
    let options = Options { settings: case.settings, ..Options::default() };
    let compiled = compile(&ready.cluster, &options);
    let mut failures = remarks(case, &ready, &compiled.diagnostics);
    failures.extend(verify(&compiled.ruleset).iter().map(|broken| format!("{broken:?}")));
    let flows = match case.flows(&ready.cluster) {
        Ok(flows) => flows,
        Err(error) => return vec![with_causes(&error)],
    };
    for (expected, flow) in flows {
        let judged = oracle::judge(&ready.cluster, case.settings, &flow);
        let decision = compiled.ruleset.verdict(&flow);
        let mut wrong = Vec::new();
        if judged.verdict != expected.verdict || decision.verdict != expected.verdict {
            wrong.push(format!("expected {}", expected.verdict));
        }
        let agree = judged.egress.agrees_with(&decision.egress)
            && judged.ingress.agrees_with(&decision.ingress);
        if !agree || judged.verdict != decision.verdict {
            wrong.push("oracle and IR give different reasons".to_owned());
        }
        if let Some(because) = &expected.because
            && !reasons(&decision).contains(because.as_str())
        {
            wrong.push(format!("expected because {because}"));
        }
        let uncertain = is_uncertain(&ready, &compiled.ruleset, &flow);
        if uncertain != (expected.certainty == Certainty::Uncertain) {
            wrong.push(format!("uncertain is {uncertain}"));
        }
        if !wrong.is_empty() {
            failures.push(format!(
                "{} ({flow}): {}\n  oracle: {} (egress: {}; ingress: {})\n  IR:     {} ({})",
                expected.text,
                wrong.join(", "),
                judged.verdict,
                judged.egress,
                judged.ingress,
                decision.verdict,
                reasons(&decision),
            ));
        }
    }
    failures
}

fn reasons(decision: &Decision) -> String {
    let side = |direction, decision: &netpol_core::ir::SideDecision| {
        format!("{direction} {}, {}", decision.verdict, decision.reason)
    };
    format!("{}; {}", side("egress", &decision.egress), side("ingress", &decision.ingress))
}

/// Returns whether the verdict hangs on an address that was made up.
fn is_uncertain(ready: &CaseCluster, ruleset: &Ruleset, flow: &Flow) -> bool {
    let unknown = |address| ready.assigned.stand_ins.contains(address);
    (unknown(&flow.destination) && depends_on_unknown_address(ruleset, flow, Direction::Egress))
        || (unknown(&flow.source) && depends_on_unknown_address(ruleset, flow, Direction::Ingress))
}

/// Returns the demanded notes and diagnostics that are not there, and warnings where none may be.
fn remarks(
    case: &Case,
    ready: &CaseCluster,
    diagnostics: &[netpol_core::compile::Diagnostic],
) -> Vec<String> {
    let Some(demanded) = &case.notes else { return Vec::new() };
    let mut given: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    given.extend(ready.notes.iter().map(ToString::to_string));
    if demanded.is_empty() {
        let warnings = ready.notes.iter().filter(|note| note.severity() == Severity::Warning);
        return warnings
            .map(ToString::to_string)
            .chain(diagnostics.iter().map(ToString::to_string))
            .map(|warning| format!("warns: {warning}"))
            .collect();
    }
    demanded
        .iter()
        .filter(|words| !given.iter().any(|note| note.contains(words.as_str())))
        .map(|words| format!("no note says `{words}`; notes are\n  {}", given.join("\n  ")))
        .collect()
}

fn with_causes(error: &dyn core::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", with_causes(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

#[test]
fn every_statement_of_the_semantics_is_cited_by_a_case_or_says_why_not() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let semantics = std::fs::read_to_string(format!("{root}/docs/semantics.md"))
        .expect("the semantics are in the repository");
    let stated = stated_ids(&semantics);
    let list = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/uncited.txt"))
        .expect("the list of statements without case reads");
    let excused: BTreeMap<&str, &str> = list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(": ").expect("`ID: reason`"))
        .collect();
    let cases = all().expect("the case files read");
    let mut wrong = Vec::new();
    let mut cited = BTreeSet::new();
    for case in &cases {
        for id in &case.cites {
            cited.insert(id.as_str());
            // A fault report of `pitfalls` in the issue trackers of other engines is cited by its address.
            if !stated.contains(id) && !id.contains('#') {
                wrong.push(format!(
                    "{} cites {id}, which docs/semantics.md does not state",
                    case.name
                ));
            }
        }
    }
    for id in &stated {
        match (cited.contains(id.as_str()), excused.contains_key(id.as_str())) {
            (false, false) => wrong.push(format!("{id}: no case cites it")),
            (true, true) => wrong.push(format!("{id}: is cited; remove it from tests/uncited.txt")),
            (true, false) | (false, true) => {}
        }
    }
    let unknown = excused.keys().filter(|id| !stated.contains(**id));
    wrong.extend(unknown.map(|id| format!("tests/uncited.txt excuses {id}, which is not stated")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(stated.len() > 200, "only {} statements were found", stated.len());
}

/// Ids that `docs/semantics.md` states: in bold at the start of a line, or in the first column of a table.
fn stated_ids(semantics: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for line in semantics.lines() {
        let start = line.strip_prefix("**").or_else(|| line.strip_prefix("| "));
        let Some(start) = start else { continue };
        let is_part =
            |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '-';
        let id = start.split(|letter| !is_part(letter)).next().unwrap_or_default();
        let families = ["NP-", "CNP-", "ANP-", "VAL-", "OFF-", "DEC-"];
        let number = id.rsplit('-').next().unwrap_or_default();
        if families.iter().any(|family| id.starts_with(family))
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            ids.insert(id.to_owned());
        }
    }
    ids
}

#[test]
fn a_flow_that_must_be_denied_and_is_allowed_fails_its_case() {
    let text = "apiVersion: netpol.test/v1\nkind: Case\nwhy: x\ncites: [NP-003]\nflows: {x/a -> x/b:80/TCP: deny}\n\
                ---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\n\
                ---\napiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: x}\n";
    let case = Case::try_new("broken", text.to_owned()).expect("the case reads");
    assert_eq!(judge(&case).len(), 2, "one failure for each family");
    assert_eq!(case.flows[0].verdict, Verdict::Deny);
}

#[test]
fn an_error_that_is_not_listed_and_one_that_does_not_come_fail_their_case() {
    let text = "apiVersion: netpol.test/v1\nkind: Case\nwhy: x\ncites: [VAL-023]\nrejects:\n- VAL-023 x/p spec.nowhere\n\
                ---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: x}\n\
                spec: {podSelector: {}, ingress: [{ports: [{port: 0}]}]}\n";
    let case = Case::try_new("broken", text.to_owned()).expect("the case reads");
    assert_eq!(reject(&case).len(), 2);
    let mended = text.replace("spec.nowhere", "spec.ingress[0].ports[0].port line 11");
    let case = Case::try_new("mended", mended).expect("the case reads");
    assert_eq!(reject(&case), Vec::<String>::new());
}
