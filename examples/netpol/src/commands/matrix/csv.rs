//! The matrix as comma-separated values, a pair a line.

use std::io::{self, Write};

use super::view::View;

pub(super) fn write(out: &mut impl Write, view: &View) -> io::Result<()> {
    writeln!(out, "src,dst,all,ports,other_protocols")?;
    for (source, destination, allowed) in view.pairs() {
        writeln!(
            out,
            "{},{},{},{},{}",
            quoted(source),
            quoted(destination),
            allowed.is_everything(),
            quoted(&allowed.ports.to_string()),
            allowed.others
        )?;
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
