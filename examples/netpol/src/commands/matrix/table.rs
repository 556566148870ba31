//! The matrix for people: groups in rows and columns, letters for sets of ports.

use alloc::collections::BTreeMap;
use std::io::{self, Write};

use netpol_core::matrix::Allowed;

use super::view::{Group, View};
use crate::input::list;
use crate::output::Style;
use crate::output::table::{Table, letter};

/// Wider tables are not read any more; a list is.
const WIDEST: usize = 40;

pub(super) fn text(
    out: &mut impl Write,
    style: Style,
    view: &View,
    notes: &[String],
) -> io::Result<()> {
    writeln!(out, "{}", style.strong(format_args!("who reaches whom ({})", view.title())))?;
    if view.groups.iter().all(|group| group.is_external()) {
        writeln!(out, "no pods in these manifests")?;
    } else if view.groups.len() > WIDEST {
        groups(out, view)?;
        connections(out, view)?;
    } else {
        grid(out, style, view)?;
    }
    notes.iter().try_for_each(|note| writeln!(out, "{} {note}", style.faint("note:")))
}

/// Rows are sources, columns destinations.
fn grid(out: &mut impl Write, style: Style, view: &View) -> io::Result<()> {
    let legend = Legend::new(view);
    let mut table = Table::default();
    let numbers = (1..=view.groups.len()).map(|number| number.to_string());
    table.row([String::new(), "from \\ to".to_owned()].into_iter().chain(numbers));
    for (from, group) in view.groups.iter().enumerate() {
        let cells = (0..view.groups.len()).map(|to| legend.cell(view, from, to));
        table.row([(from + 1).to_string(), group.label()].into_iter().chain(cells));
    }
    write!(out, "{table}")?;
    writeln!(out)?;
    for (letter, allowed) in &legend.letters {
        writeln!(out, "  {letter}  {allowed}")?;
    }
    writeln!(out, "  {}  nothing", Legend::NOTHING)?;
    let grouped = view.groups.iter().enumerate().filter(|(_, group)| group.members.len() > 1);
    for (index, group) in grouped {
        writeln!(out, "{} {}", style.faint(format_args!("{} is", index + 1)), members(group))?;
    }
    Ok(())
}

fn groups(out: &mut impl Write, view: &View) -> io::Result<()> {
    for (index, group) in view.groups.iter().enumerate() {
        writeln!(out, "{:>4}  {}", index + 1, members(group))?;
    }
    writeln!(out)
}

/// One line for each source and set of ports.
fn connections(out: &mut impl Write, view: &View) -> io::Result<()> {
    let mut lines: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
    for ((from, to), allowed) in &view.cells {
        let to = to + 1;
        lines.entry((*from, view.text(allowed))).or_default().push(to.to_string());
    }
    for ((from, allowed), to) in lines {
        writeln!(out, "{:>4} -> {}: {allowed}", from + 1, to.join(", "))?;
    }
    Ok(())
}

pub(super) fn markdown(out: &mut impl Write, view: &View, notes: &[String]) -> io::Result<()> {
    let escaped = |text: &str| text.replace('|', "\\|");
    write!(out, "| from \\\\ to ({}) |", view.title())?;
    view.groups.iter().try_for_each(|group| write!(out, " {} |", escaped(&group.label())))?;
    write!(out, "\n|---|")?;
    view.groups.iter().try_for_each(|_| write!(out, "---|"))?;
    writeln!(out)?;
    for (from, group) in view.groups.iter().enumerate() {
        write!(out, "| **{}** |", escaped(&group.label()))?;
        for to in 0..view.groups.len() {
            let cell = view.cells.get(&(from, to));
            let text = match cell {
                _ if is_nobody(view, from, to) => String::new(),
                Some(allowed) => view.text(allowed),
                None => "-".to_owned(),
            };
            write!(out, " {text} |")?;
        }
        writeln!(out)?;
    }
    writeln!(out)?;
    for group in view.groups.iter().filter(|group| group.members.len() > 1) {
        writeln!(out, "- {} is {}", group.label(), members(group))?;
    }
    notes.iter().try_for_each(|note| writeln!(out, "- note: {note}"))
}

/// Whether a cell speaks of no pair at all: one pod and itself, or two ends outside.
fn is_nobody(view: &View, from: usize, to: usize) -> bool {
    match (view.groups.get(from), view.groups.get(to)) {
        (Some(source), Some(destination)) => {
            (source.is_external() && destination.is_external())
                || (from == to && source.members.len() == 1)
        }
        (None, _) | (_, None) => true,
    }
}

/// The first members, and how many more there are.
fn members(group: &Group) -> String {
    list(group.members.iter().map(String::as_str))
}

/// Letters for the sets of ports of a matrix.
struct Legend {
    letters: Vec<(String, String)>,
}

impl Legend {
    const NOTHING: &str = ".";

    fn new(view: &View) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for ((from, to), allowed) in &view.cells {
            let text = view.text(allowed);
            if !is_nobody(view, *from, *to) && !Self::is_short(&text) && !texts.contains(&text) {
                texts.push(text);
            }
        }
        texts.sort_unstable();
        let letters = (0_u32..).zip(texts);
        Self { letters: letters.map(|(index, text)| (letter(index), text)).collect() }
    }

    fn is_short(text: &str) -> bool {
        matches!(text, "all" | "yes")
    }

    fn cell(&self, view: &View, from: usize, to: usize) -> String {
        if is_nobody(view, from, to) {
            return String::new();
        }
        let of = |allowed: &Allowed| {
            let text = view.text(allowed);
            match self.letters.iter().find(|(_, known)| *known == text) {
                Some((letter, _)) => letter.clone(),
                None => text,
            }
        };
        view.cells.get(&(from, to)).map_or_else(|| Self::NOTHING.to_owned(), of)
    }
}
