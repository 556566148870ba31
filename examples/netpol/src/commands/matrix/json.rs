//! The matrix for programs (`netpol.matrix/v1`).

use alloc::collections::BTreeMap;
use std::io::{self, Write};

use netpol_core::matrix::Allowed;
use netpol_core::model::Protocol;
use serde::Serialize;

use super::view::View;

const SCHEMA: &str = "netpol.matrix/v1";

/// Writes one connection a line, so that the text can be read, grepped and compared.
pub(super) fn write(out: &mut impl Write, view: &View, notes: &[String]) -> io::Result<()> {
    writeln!(out, "{{\"connections\":[")?;
    let mut separator = "";
    for (src, dst, allowed) in view.pairs() {
        out.write_all(separator.as_bytes())?;
        let connection =
            Connection { src, dst, all: allowed.is_everything(), ports: ports(allowed) };
        serde_json::to_writer(&mut *out, &connection)?;
        separator = ",\n";
    }
    if !separator.is_empty() {
        writeln!(out)?;
    }
    write!(out, "],\"family\":\"{}\",\"notes\":", view.family)?;
    serde_json::to_writer(&mut *out, notes)?;
    writeln!(out, ",\"schema\":\"{SCHEMA}\"}}")
}

#[derive(Serialize)]
struct Connection<'a> {
    src: &'a str,
    dst: &'a str,
    /// Everything passes, protocols without ports too; `ports` lists all ports then.
    all: bool,
    ports: BTreeMap<&'static str, Vec<(u16, u16)>>,
}

/// Port 0 cannot be named by objects or dialled, so ranges begin at 1.
fn ports(allowed: &Allowed) -> BTreeMap<&'static str, Vec<(u16, u16)>> {
    let of = |protocol: Protocol| -> Vec<(u16, u16)> {
        let ranges = allowed.ports.of(protocol).iter();
        ranges.filter(|(_, high)| *high > 0).map(|(low, high)| (low.max(1), high)).collect()
    };
    Protocol::ALL
        .into_iter()
        .map(|protocol| (protocol.as_str(), of(protocol)))
        .filter(|(_, ranges)| !ranges.is_empty())
        .collect()
}
