//! What was expected and what was observed.

use alloc::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};

use netpol_conformance::netlab::Privilege;
use netpol_core::ir::{Family, Ruleset, Transport, Verdict};
use netpol_text::json::verdict_name;
use serde::Serialize;

use super::{Observed, Trial};
use crate::cli::BackendChoice;
use crate::evaluate::protocol_and_port;
use crate::input::{Input, count};
use crate::output::Style;
use crate::output::table::{Table, letter};

const SCHEMA: &str = "netpol.lab/v1";
const WIDEST: usize = 40;

/// How the trials came about.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) backend: BackendChoice,
    pub(super) privilege: Option<Privilege>,
    /// Why nothing was enforced, if so.
    pub(super) failure: Option<String>,
}

impl Report {
    const fn backend(&self) -> &'static str {
        match self.backend {
            BackendChoice::Nft => "nft",
            BackendChoice::Iptables => "iptables",
            BackendChoice::Ebpf => "ebpf",
            BackendChoice::EbpfTc => "ebpf-tc",
        }
    }

    pub(super) fn text(
        &self,
        style: Style,
        input: &Input,
        ruleset: &Ruleset,
        trials: &[Trial],
    ) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        match (&self.failure, self.privilege) {
            (Some(failure), _) => {
                writeln!(out, "{}: {failure}", style.bad("NOT ENFORCED"))?;
                writeln!(out, "What follows is only what is expected; no packet was sent.")?;
            }
            (None, privilege) => {
                let right = privilege.map_or_else(String::new, |right| format!(", as {right}"));
                writeln!(
                    out,
                    "{} on {} in network namespaces{right}; policies enforced by {}",
                    count(ruleset.endpoints().len(), "pod"),
                    count(input.cluster.nodes.len(), "node"),
                    self.backend()
                )?;
            }
        }
        writeln!(out)?;
        if trials.iter().any(|trial| trial.pair.written.is_some()) {
            list(&mut out, trials)?;
        } else {
            grid(&mut out, trials)?;
        }
        let wrong: Vec<&Trial> = trials.iter().filter(|trial| trial.differs()).collect();
        writeln!(out)?;
        for trial in &wrong {
            writeln!(
                out,
                "{} {} -> {}  {}: expected {}, {}",
                style.bad("DIFFERENT"),
                trial.pair.source,
                trial.pair.destination,
                trial.flow,
                trial.expected,
                observed(trial)
            )?;
        }
        let untried = trials.iter().filter(|trial| trial.observed == Observed::Untried).count();
        let allowed = trials.iter().filter(|trial| trial.expected == Verdict::Allow).count();
        let (all, denied) = (trials.len(), trials.len() - allowed);
        if self.failure.is_some() {
            return writeln!(
                out,
                "{} expected: {allowed} allowed, {denied} denied; none tried",
                count(all, "flow")
            );
        }
        let sent = all - untried;
        if untried > 0 {
            writeln!(out, "{} that a lab cannot send were left out", count(untried, "flow"))?;
        }
        let verdict = match wrong.len() {
            0 => style.good("expected = observed"),
            different => style.bad(format_args!("{different} of them DIFFERENT")),
        };
        writeln!(
            out,
            "{} sent, {allowed} to pass and {denied} to be dropped: {verdict}",
            count(sent, "flow")
        )?;
        out.flush()
    }

    pub(super) fn json(&self, input: &Input, trials: &[Trial]) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        writeln!(out, "{{\"flows\":[")?;
        let last = trials.len().saturating_sub(1);
        for (index, trial) in trials.iter().enumerate() {
            serde_json::to_writer(&mut out, &line(trial))?;
            writeln!(out, "{}", if index == last { "" } else { "," })?;
        }
        let summary = Summary {
            backend: self.backend(),
            differences: trials.iter().filter(|trial| trial.differs()).count(),
            enforced: self.failure.is_none(),
            not_enforced_because: self.failure.as_deref(),
            nodes: input.cluster.nodes.keys().map(ToString::to_string).collect(),
            notes: input.remarks(),
            schema: SCHEMA,
        };
        let summary = serde_json::to_string(&summary)?;
        writeln!(out, "],{}", summary.trim_start_matches('{'))?;
        out.flush()
    }
}

/// A line a flow, for flows that were given.
fn list(out: &mut impl Write, trials: &[Trial]) -> io::Result<()> {
    let mut table = Table::default();
    table.row(["expected", "observed", "", "flow"]);
    for trial in trials {
        let mark = if trial.differs() { "DIFFERENT" } else { "" };
        let flow = trial.pair.written.as_deref().unwrap_or_default();
        let flow = format!("{flow}  ({})", trial.flow);
        table.row([trial.expected.to_string(), observed(trial), mark.to_owned(), flow]);
    }
    write!(out, "{table}")
}

fn observed(trial: &Trial) -> String {
    match trial.observed {
        Observed::Untried => "nothing (not sent)".to_owned(),
        Observed::Seen(observation) => observation.to_string(),
    }
}

/// Sources in rows, destinations in columns; letters for the sets of ports that pass.
fn grid(out: &mut impl Write, trials: &[Trial]) -> io::Result<()> {
    let mut names: Vec<&str> = Vec::new();
    let mut seen = BTreeSet::new();
    for trial in trials {
        for name in [trial.pair.source.as_str(), trial.pair.destination.as_str()] {
            if seen.insert(name) {
                names.push(name);
            }
        }
    }
    let mut cells: BTreeMap<(&str, &str), Vec<&Trial>> = BTreeMap::new();
    for trial in trials {
        cells.entry((&trial.pair.source, &trial.pair.destination)).or_default().push(trial);
    }
    let texts: BTreeMap<(&str, &str), (String, String)> = cells
        .into_iter()
        .map(|(pair, trials)| {
            let expected = passing(&trials, |trial| trial.expected == Verdict::Allow);
            let observed = passing(&trials, |trial| match trial.observed {
                Observed::Untried => trial.expected == Verdict::Allow,
                // A denial that is not silent is a difference too, and listed below.
                Observed::Seen(observation) => observation.has_passed(),
            });
            (pair, (expected, observed))
        })
        .collect();
    let sets: BTreeSet<&str> = texts
        .values()
        .flat_map(|(expected, observed)| [expected.as_str(), observed.as_str()])
        .filter(|text| !text.is_empty() && *text != ALL)
        .collect();
    let letters: BTreeMap<&str, String> = sets.into_iter().zip((0_u32..).map(letter)).collect();
    let short = |text: &str| match text {
        "" => ".".to_owned(),
        ALL => "*".to_owned(),
        text => letters.get(text).cloned().unwrap_or_default(),
    };
    if names.len() > WIDEST {
        for ((source, destination), (expected, observed)) in &texts {
            let expected = if expected.is_empty() { "nothing" } else { expected };
            let observed = if observed.is_empty() { "nothing" } else { observed };
            writeln!(out, "{source} -> {destination}: expected {expected}; observed {observed}")?;
        }
        return Ok(());
    }
    let mut table = Table::default();
    let numbers = (1..=names.len()).map(|number| number.to_string());
    table.row([String::new(), "from \\ to".to_owned()].into_iter().chain(numbers));
    for (index, source) in names.iter().enumerate() {
        let row = names.iter().map(|destination| match texts.get(&(*source, *destination)) {
            None => String::new(),
            Some((expected, observed)) if expected == observed => short(expected),
            Some((expected, observed)) => format!("{}≠{}", short(expected), short(observed)),
        });
        table.row([(index + 1).to_string(), (*source).to_owned()].into_iter().chain(row));
    }
    write!(out, "{table}")?;
    writeln!(
        out,
        "\n  each cell: what passes, as expected and as observed; X≠Y where X was expected and Y observed"
    )?;
    writeln!(out, "  *  everything that was tried")?;
    writeln!(out, "  .  nothing")?;
    for (text, letter) in &letters {
        writeln!(out, "  {letter}  {text}")?;
    }
    Ok(())
}

const ALL: &str = "everything";

/// Names what passes of what was tried between two ends; a family where only one passes.
fn passing(trials: &[&Trial], passes: impl Fn(&Trial) -> bool) -> String {
    let mut passing: BTreeMap<(u8, String), BTreeSet<Family>> = BTreeMap::new();
    let mut tried: BTreeSet<Family> = BTreeSet::new();
    let mut all = true;
    for trial in trials {
        let family = Family::of(trial.flow.source);
        tried.insert(family);
        if !passes(trial) {
            all = false;
            continue;
        }
        let key = match trial.flow.transport {
            Transport::Port(protocol, port) => (protocol.number(), format!("{port}/{protocol}")),
            Transport::Other(1 | 58) => (u8::MAX, "ICMP".to_owned()),
            other @ Transport::Other(_) => (u8::MAX, other.to_string()),
        };
        passing.entry(key).or_default().insert(family);
    }
    if all {
        return ALL.to_owned();
    }
    let name = |((_, name), families): (&(u8, String), &BTreeSet<Family>)| match families.first() {
        Some(family) if *families != tried => format!("{name} ({family} only)"),
        Some(_) | None => name.clone(),
    };
    passing.iter().map(name).collect::<Vec<_>>().join(" ")
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    flow: Option<&'a str>,
    source: &'a str,
    destination: &'a str,
    source_address: String,
    destination_address: String,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    expected: &'static str,
    /// `null` where nothing was sent.
    observed: Option<&'static str>,
    detail: String,
    different: bool,
}

fn line(trial: &Trial) -> Line<'_> {
    let (protocol, port) = protocol_and_port(trial.flow.transport);
    Line {
        flow: trial.pair.written.as_deref(),
        source: &trial.pair.source,
        destination: &trial.pair.destination,
        source_address: trial.flow.source.to_string(),
        destination_address: trial.flow.destination.to_string(),
        protocol,
        port,
        expected: verdict_name(trial.expected),
        observed: match trial.observed {
            Observed::Untried => None,
            Observed::Seen(observation) if observation.has_passed() => Some("allow"),
            Observed::Seen(_) => Some("deny"),
        },
        detail: observed(trial),
        different: trial.differs(),
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    backend: &'static str,
    differences: usize,
    enforced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_enforced_because: Option<&'a str>,
    nodes: Vec<String>,
    notes: Vec<String>,
    schema: &'static str,
}
