//! `netpol matrix`: who reaches whom.

mod csv;
mod dot;
mod doubt;
mod json;
mod table;
mod view;

use std::io::{self, BufWriter, Write as _};

use netpol_core::ir::{Family, Ruleset};
use netpol_core::matrix::{Matrix, Party};

use super::Session;
use super::verdict::compile_quietly;
use crate::cli::{FamilyChoice, MatrixArgs, MatrixForm};
use crate::input::{Input, list};
use crate::outcome::Outcome;
use crate::output::progress::Progress;
use crate::output::say;

use doubt::Doubt;
use view::View;

pub(crate) fn run(session: Session, args: &MatrixArgs) -> anyhow::Result<Outcome> {
    let input = Input::load(&args.input, &args.evaluation, Vec::new(), Vec::new())?;
    let ruleset = compile_quietly(session, &input, &args.evaluation);
    let family = family(args.family, &ruleset);
    let (view, notes, doubt) = {
        let _progress = Progress::start("computing the matrix");
        let matrix = Matrix::new(&ruleset, family);
        let doubt = doubt::doubt(&input, &ruleset, &matrix, args.port);
        let mut notes = notes(&input, &ruleset, &matrix);
        notes.extend(about(&doubt));
        (View::new(&input, matrix, args.port), notes, doubt)
    };
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        MatrixForm::Csv => csv::write(&mut out, &view)?,
        MatrixForm::Dot => dot::write(&mut out, &view)?,
        MatrixForm::Json => json::write(&mut out, &view, &notes)?,
        MatrixForm::Md => table::markdown(&mut out, &view, &notes)?,
        MatrixForm::Text => table::text(&mut out, session.style, &view, &notes)?,
    }
    out.flush()?;
    if !session.quiet && matches!(args.output, MatrixForm::Csv | MatrixForm::Dot) {
        notes.iter().for_each(|note| say(format_args!("note: {note}")));
    }
    Ok(if args.strict && doubt != Doubt::Nothing { Outcome::Uncertain } else { Outcome::Holds })
}

fn about(doubt: &Doubt) -> Option<String> {
    match doubt {
        Doubt::Nothing => None,
        Doubt::Pairs(pairs) => Some(format!(
            "uncertain, since addresses that the manifests do not give decide: {} (OFF-006)",
            list(pairs.iter().map(String::as_str))
        )),
        Doubt::Unknown => Some(
            "rules name address ranges, and the manifests do not give the pods' addresses: whether ranges hold pods is \
             not known; `netpol verdict` says it for each flow (OFF-006)"
                .to_owned(),
        ),
    }
}

fn family(choice: FamilyChoice, ruleset: &Ruleset) -> Family {
    let has_v4 = |ruleset: &Ruleset| {
        ruleset
            .endpoints()
            .any(|endpoint| endpoint.addresses.iter().any(|address| address.is_ipv4()))
    };
    match choice {
        FamilyChoice::Ipv4 => Family::V4,
        FamilyChoice::Ipv6 => Family::V6,
        FamilyChoice::Auto if ruleset.endpoints().len() == 0 || has_v4(ruleset) => Family::V4,
        FamilyChoice::Auto => Family::V6,
    }
}

/// What the matrix does not show.
fn notes(input: &Input, ruleset: &Ruleset, matrix: &Matrix) -> Vec<String> {
    let family = matrix.family;
    let mut notes = vec![
        "a pod always reaches itself, and its own node always reaches it; neither is shown (OFF-010)".to_owned(),
    ];
    notes.extend(input.remarks());
    let on_host: Vec<String> = input
        .cluster
        .pods
        .values()
        .filter(|pod| pod.host_network && !pod.phase.is_finished())
        .map(|pod| pod.meta.object.to_string())
        .collect();
    if !on_host.is_empty() {
        notes.push(format!(
            "not shown, since their traffic is their node's: pods on the host network {} (NP-131)",
            list(on_host.iter().map(String::as_str))
        ));
    }
    let without: Vec<String> = ruleset
        .endpoints()
        .filter(|endpoint| !endpoint.addresses.iter().any(|address| Family::of(*address) == family))
        .map(|endpoint| endpoint.pod.to_string())
        .collect();
    if !without.is_empty() {
        let names = list(without.iter().map(String::as_str));
        notes.push(format!("not shown, since they have no {family} address: {names}"));
    }
    let other = match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    // Where some pods have one family only, the other matrix speaks of other pods and says nothing about these.
    let has_other = ruleset
        .endpoints()
        .all(|endpoint| endpoint.addresses.iter().any(|address| Family::of(*address) == other));
    if has_other && !are_alike(matrix, &Matrix::new(ruleset, other)) {
        notes.push(format!(
            "this is {family}; {other} differs between pods (see --family), since blocks of one family never match the \
             other (NP-068)"
        ));
    }
    notes
}

/// Whether two matrices let the same pass between pods.
fn are_alike(one: &Matrix, other: &Matrix) -> bool {
    let between_pods = |matrix: &Matrix| -> Vec<_> {
        let inside = |party: &Party| match party {
            Party::Pods(_) => true,
            Party::External(_) => false,
        };
        let cells = matrix.cells.iter().filter(|((from, to), _)| inside(from) && inside(to));
        cells.map(|(pair, allowed)| (*pair, allowed.clone())).collect()
    };
    one.pods == other.pods && between_pods(one) == between_pods(other)
}
