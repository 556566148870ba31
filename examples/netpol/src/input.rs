//! Manifests in, a cluster with nothing missing out.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::net::IpAddr;
use std::collections::HashMap;

use anyhow::bail;
use netpol_core::addresses::{AddressPlan, Assigned, assign};
use netpol_core::compile::Diagnostic;
use netpol_core::ir;
use netpol_core::model::{Cluster, ObjectRef};
use netpol_k8s::manifest::{
    HostBits, Manifests, Note, ReadErrors, ReadOptions, Remark, Severity, read_paths,
};

use crate::cli::{EvaluationArgs, InputArgs, OtherProtocols, OwnNodeEgress};
use crate::outcome::all_wrong;
use crate::output::progress::Progress;
use crate::output::say;

/// What was read, ready to be judged.
#[derive(Debug)]
pub(crate) struct Input {
    /// The objects; every policed pod has addresses.
    pub(crate) cluster: Cluster,
    /// What the reader remarked.
    pub(crate) notes: Vec<Note>,
    /// What was made up.
    pub(crate) assigned: Assigned,
    /// How many nodes the manifests declare.
    pub(crate) declared_nodes: usize,
    /// The Service of each cluster address.
    pub(crate) cluster_ips: HashMap<IpAddr, ObjectRef>,
}

/// Reads the manifests.
pub(crate) fn read(args: &InputArgs) -> Result<Manifests, ReadErrors> {
    let _progress = Progress::start("reading manifests");
    let host_bits = if args.lenient { HostBits::Mask } else { HostBits::Reject };
    let options = ReadOptions {
        host_bits,
        default_namespace: args.namespace.clone(),
        ..ReadOptions::default()
    };
    read_paths(&args.filename, &options)
}

impl Input {
    /// Reads manifests and fills in addresses. `reserved` are addresses that flows name; `nodes`, if any, are made up
    /// for pods that are on none.
    pub(crate) fn load(
        input: &InputArgs,
        evaluation: &EvaluationArgs,
        reserved: Vec<IpAddr>,
        nodes: Vec<Arc<str>>,
    ) -> anyhow::Result<Self> {
        let Manifests { mut cluster, notes, .. } =
            read(input).map_err(|ReadErrors { errors, .. }| {
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                all_wrong("these manifests cannot be evaluated (OFF-002)", &lines)
            })?;
        let declared_nodes = cluster.nodes.len();
        let plan = AddressPlan { pod_networks: evaluation.pod_cidr.clone(), reserved, nodes };
        let assigned = assign(&mut cluster, &plan);
        let addresses = cluster.services.iter().flat_map(|(name, service)| {
            service.cluster_ips.iter().map(|address| (*address, name.clone()))
        });
        let cluster_ips = addresses.collect();
        Ok(Self { cluster, notes, assigned, declared_nodes, cluster_ips })
    }

    /// Puts pods that are on no node on these, in turn.
    pub(crate) fn schedule(mut self, nodes: Vec<Arc<str>>, reserved: Vec<IpAddr>) -> Self {
        let plan = AddressPlan { nodes, reserved, ..AddressPlan::default() };
        let more = assign(&mut self.cluster, &plan);
        self.assigned.stand_ins.extend(more.stand_ins);
        self.assigned.pods.extend(more.pods);
        self.assigned.nodes.extend(more.nodes);
        self.assigned.scheduled.extend(more.scheduled);
        self
    }

    /// Returns the scope of one node, or of the cluster where none is named.
    pub(crate) fn scope(&self, node: Option<&str>) -> anyhow::Result<ir::Scope> {
        let Some(node) = node else { return Ok(ir::Scope::Cluster) };
        match self.cluster.nodes.get_key_value(node) {
            Some((name, _)) => Ok(ir::Scope::Node(name.clone())),
            None => bail!(
                "no node `{node}`; there are: {}",
                list(self.cluster.nodes.keys().map(AsRef::as_ref))
            ),
        }
    }

    /// Returns whether this address was made up.
    pub(crate) fn is_stand_in(&self, address: IpAddr) -> bool {
        self.assigned.stand_ins.contains(&address)
    }

    /// Returns what was made up and which namespaces were only mentioned, one sentence each.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let stand_ins = self
            .assigned
            .pods
            .iter()
            .filter(|pod| {
                let pod = self.cluster.pods.get(pod);
                pod.is_some_and(|pod| {
                    pod.addresses.iter().any(|address| self.is_stand_in(*address))
                })
            })
            .count();
        let given = self.assigned.pods.len() - stand_ins;
        if stand_ins > 0 {
            remarks.push(format!(
                "{} without address in the manifests got stand-ins, which match only blocks that cover a whole family; \
                 give their network with --pod-cidr (OFF-006)",
                count(stand_ins, "pod")
            ));
        }
        if given > 0 {
            remarks.push(format!(
                "{} without address in the manifests got one from --pod-cidr",
                count(given, "pod")
            ));
        }
        if !self.assigned.nodes.is_empty() {
            let names = list(self.assigned.nodes.iter().map(|name| name.as_ref()));
            remarks.push(format!("nodes without address in the manifests got stand-ins: {names}"));
        }
        if !self.assigned.scheduled.is_empty() {
            let nodes = list(self.cluster.nodes.keys().map(AsRef::as_ref));
            let pods = count(self.assigned.scheduled.len(), "pod");
            let how = if self.cluster.nodes.len() == 1 { "put on" } else { "spread over" };
            remarks.push(format!("{pods} on no node in the manifests: {how} {nodes}"));
        }
        let mentioned: Vec<&str> = self
            .cluster
            .namespaces
            .iter()
            .filter(|(_, namespace)| !namespace.declared)
            .map(|(name, _)| name.as_ref())
            .collect();
        if !mentioned.is_empty() {
            remarks.push(format!(
                "namespaces without manifest, taken to have no labels of their own: {} (OFF-003)",
                list(mentioned)
            ));
        }
        remarks
    }

    /// Says once, on standard error, what the reader and the compiler remarked.
    pub(crate) fn say_notes(&self, diagnostics: &[Diagnostic]) {
        summary(&self.notes).iter().for_each(|note| say(format_args!("note: {note}")));
        diagnostics.iter().for_each(|diagnostic| say(format_args!("note: {diagnostic}")));
    }
}

/// A number of things, `1 pod` or `2 pods`.
pub(crate) fn count(number: usize, singular: &str) -> String {
    match (number, singular.strip_suffix('y')) {
        (1, _) => format!("1 {singular}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => match singular.split_once(" or ") {
            Some((one, other)) => format!("{number} {one}s or {other}s"),
            None => format!("{number} {singular}s"),
        },
    }
}

/// Returns the choices of the command line as settings.
pub(crate) const fn settings(args: &EvaluationArgs) -> ir::Settings {
    ir::Settings {
        own_node_egress: match args.own_node_egress {
            OwnNodeEgress::Allow => ir::OwnNodeEgress::Allow,
            OwnNodeEgress::Enforce => ir::OwnNodeEgress::Enforce,
        },
        other_protocols: match args.other_protocols {
            OtherProtocols::Judge => ir::OtherProtocols::Judge,
            OtherProtocols::Pass => ir::OtherProtocols::Pass,
        },
    }
}

const LISTED: usize = 10;

/// Joins names, the first ten of them.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(LISTED) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// Warnings in full (the first ten), skipped kinds in one line, the rest is for `netpol check`.
fn summary(notes: &[Note]) -> Vec<String> {
    let warnings: Vec<&Note> =
        notes.iter().filter(|note| note.severity() == Severity::Warning).collect();
    let mut lines: Vec<String> = warnings.iter().take(LISTED).map(ToString::to_string).collect();
    if let Some(more @ 1..) = warnings.len().checked_sub(LISTED) {
        lines.push(format!("{more} more warnings; `netpol check` lists them"));
    }
    let mut skipped: BTreeMap<&str, usize> = BTreeMap::new();
    for note in notes {
        if let Remark::SkippedKind { kind, .. } = &note.remark {
            *skipped.entry(kind).or_default() += 1;
        }
    }
    if !skipped.is_empty() {
        let objects = count(skipped.values().sum(), "object");
        let kinds: Vec<String> =
            skipped.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
        let kinds = list(kinds.iter().map(String::as_str));
        lines.push(format!(
            "skipped {objects} that say nothing about network policy: {kinds} (OFF-005)"
        ));
    }
    lines
}
