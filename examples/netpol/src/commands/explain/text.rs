//! An explanation for people.

use std::io::{self, Write};

use netpol_text::explanation::side;

use super::Explained;
use crate::commands::verdict::report::end_name;
use crate::evaluate::Judged;
use crate::input::count;
use crate::output::Style;

pub(super) fn write(
    out: &mut impl Write,
    style: Style,
    flow: &str,
    answer: &Judged,
    explained: &[Explained<'_>],
) -> io::Result<()> {
    writeln!(out, "{}  {}", style.verdict(answer.verdict), style.strong(flow))?;
    if let Some((service, cases)) = &answer.service {
        writeln!(
            out,
            "       Service {service}: judged at {} (NP-157)",
            count(cases.len(), "backend")
        )?;
    }
    for Explained { case, explanation } in explained {
        let (from, to) = (end_name(&case.source), end_name(&case.destination));
        writeln!(out, "       {}", style.faint(explanation.flow))?;
        side(out, style, &explanation.egress, &format!("{from} to {to}"))?;
        side(out, style, &explanation.ingress, &format!("{to} from {from}"))?;
    }
    for doubt in &answer.doubts {
        writeln!(out, "{} {doubt}", style.warning("uncertain"))?;
    }
    for note in &answer.notes {
        writeln!(out, "{} {note}", style.faint("note"))?;
    }
    Ok(())
}
