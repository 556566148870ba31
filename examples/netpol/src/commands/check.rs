//! `netpol check`: what is wrong with manifests, and what may not mean what it seems to.

use std::io::{self, BufWriter, Write};

use netpol_core::compile::{Options, compile};
use netpol_core::model::{Cluster, ObjectRef, Position};
use netpol_k8s::manifest::{Manifests, Note, Problem, ReadError, ReadErrors, Severity};
use serde::Serialize;

use super::Session;
use crate::cli::{CheckArgs, TextOrJson};
use crate::input::{count, read};
use crate::outcome::Outcome;
use crate::output::Style;

const SCHEMA: &str = "netpol.check/v1";

pub(crate) fn run(session: Session, args: &CheckArgs) -> anyhow::Result<Outcome> {
    let (cluster, notes, errors) = match read(&args.input) {
        Ok(Manifests { cluster, notes, .. }) => (cluster, notes, Vec::new()),
        Err(ReadErrors { errors, .. }) => (Cluster::default(), Vec::new(), errors),
    };
    // A path that cannot be read is no finding about a manifest: it is an error of the call.
    if let Some(error) = errors.iter().find(|error| matches!(error.problem, Problem::Io { .. })) {
        anyhow::bail!("{error}");
    }
    // The addresses of pods do not matter to what compile finds, so nothing is made up here. Namespaces that are only
    // mentioned have a note of the reader's.
    let diagnostics: Vec<String> = compile(&cluster, &Options::default())
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect();
    let report =
        Report { cluster: &cluster, notes: &notes, errors: &errors, diagnostics: &diagnostics };
    let mut out = BufWriter::new(io::stdout().lock());
    match args.output {
        TextOrJson::Text => report.text(&mut out, session.style)?,
        TextOrJson::Json => report.json(&mut out)?,
    }
    out.flush()?;
    Ok(if errors.is_empty() { Outcome::Holds } else { Outcome::Negative })
}

struct Report<'a> {
    cluster: &'a Cluster,
    notes: &'a [Note],
    errors: &'a [ReadError],
    diagnostics: &'a [String],
}

impl Report<'_> {
    fn of_severity(&self, severity: Severity) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(move |note| note.severity() == severity)
    }

    fn text(&self, out: &mut impl Write, style: Style) -> io::Result<()> {
        for error in self.errors {
            writeln!(out, "{} {error}", style.bad("error:  "))?;
        }
        for note in self.of_severity(Severity::Warning) {
            writeln!(out, "{} {note}", style.warning("warning:"))?;
        }
        for diagnostic in self.diagnostics {
            writeln!(out, "{} {diagnostic}", style.warning("warning:"))?;
        }
        for note in self.of_severity(Severity::Info) {
            writeln!(out, "{} {note}", style.faint("note:   "))?;
        }
        if !self.errors.is_empty() {
            return writeln!(
                out,
                "{}: {}; nothing is evaluated while there is one (OFF-002)",
                style.bad("wrong"),
                count(self.errors.len(), "error")
            );
        }
        let warnings = self.of_severity(Severity::Warning).count() + self.diagnostics.len();
        writeln!(
            out,
            "{}: {}, {}, {}, {}, {}; {}",
            style.good("right"),
            count(self.cluster.network_policies.len(), "NetworkPolicy"),
            count(self.cluster.cluster_network_policies.len(), "ClusterNetworkPolicy"),
            count(self.cluster.pods.len(), "pod or workload"),
            count(self.cluster.namespaces.len(), "namespace"),
            count(self.cluster.services.len(), "Service"),
            count(warnings, "warning"),
        )
    }

    fn json(&self, out: &mut impl Write) -> io::Result<()> {
        let json = Json {
            schema: SCHEMA,
            valid: self.errors.is_empty(),
            errors: self.errors.iter().map(finding_of_error).collect(),
            warnings: self
                .of_severity(Severity::Warning)
                .map(finding_of_note)
                .chain(
                    self.diagnostics
                        .iter()
                        .map(|message| Finding { message: message.clone(), ..Finding::default() }),
                )
                .collect(),
            notes: self.of_severity(Severity::Info).map(finding_of_note).collect(),
            objects: Objects {
                cluster_network_policies: self.cluster.cluster_network_policies.len(),
                namespaces: self.cluster.namespaces.len(),
                network_policies: self.cluster.network_policies.len(),
                nodes: self.cluster.nodes.len(),
                pods: self.cluster.pods.len(),
                services: self.cluster.services.len(),
            },
        };
        serde_json::to_writer_pretty(&mut *out, &json)?;
        writeln!(out)
    }
}

#[derive(Serialize)]
struct Json {
    schema: &'static str,
    valid: bool,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    notes: Vec<Finding>,
    objects: Objects,
}

#[derive(Serialize)]
struct Objects {
    cluster_network_policies: usize,
    namespaces: usize,
    network_policies: usize,
    nodes: usize,
    pods: usize,
    services: usize,
}

/// Something found in a manifest.
#[derive(Default, Serialize)]
struct Finding {
    /// The whole line as the text form shows it.
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

impl Finding {
    fn at(
        message: String,
        file: &str,
        position: Position,
        object: Option<&(String, ObjectRef)>,
        path: &str,
    ) -> Self {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Self {
            message,
            file: Some(file.to_owned()),
            line: position.is_known().then_some(position.line),
            column: position.is_known().then_some(position.column),
            kind: object.map(|(kind, _)| kind.clone()),
            namespace: object.and_then(|(_, object)| named(&object.namespace)),
            name: object.and_then(|(_, object)| named(&object.name)),
            path: named(path),
            ..Self::default()
        }
    }
}

fn finding_of_error(error: &ReadError) -> Finding {
    let message = error.to_string();
    let finding =
        Finding::at(message, &error.file, error.position, error.object.as_ref(), &error.path);
    Finding {
        id: error.id(),
        document: Some(error.document).filter(|number| *number != 0),
        ..finding
    }
}

fn finding_of_note(note: &Note) -> Finding {
    let message = note.to_string();
    let finding = Finding::at(message, &note.file, note.position, note.object.as_ref(), &note.path);
    Finding { id: note.remark.id(), ..finding }
}
