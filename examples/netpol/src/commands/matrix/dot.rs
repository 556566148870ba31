//! The matrix as a graph of groups for Graphviz.

use std::io::{self, Write};

use super::view::View;

pub(super) fn write(out: &mut impl Write, view: &View) -> io::Result<()> {
    writeln!(out, "digraph netpol {{")?;
    writeln!(out, "  rankdir=LR;")?;
    writeln!(out, "  label={};", quoted(&view.title()))?;
    writeln!(out, "  node [shape=box, fontname=\"sans-serif\"];")?;
    writeln!(out, "  edge [fontname=\"sans-serif\", fontsize=10];")?;
    for (index, group) in view.groups.iter().enumerate() {
        let style = if group.is_external() { ", style=dashed" } else { "" };
        writeln!(out, "  g{index} [label={}{style}];", quoted(&group.members.join("\n")))?;
    }
    for ((from, to), allowed) in &view.cells {
        let alone = view.groups.get(*from).is_some_and(|group| group.members.len() == 1);
        if from != to || !alone {
            writeln!(out, "  g{from} -> g{to} [label={}];", quoted(&view.text(allowed)))?;
        }
    }
    writeln!(out, "}}")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
