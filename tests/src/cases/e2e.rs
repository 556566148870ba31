//! The upstream end-to-end cases (`e2e_cases.yaml`) as clusters, step by step, with the whole matrix after each step.
//!
//! A [`Scenario`] unfolds over any cluster that has the nine pods; [`nine_pods`] is the plain one. Each [`Step`] holds the
//! changes, for suites that speak to an API server or to a running engine, and the cluster after them, for suites that
//! judge snapshots. Expectations cover every pair of different pods (`matrix9`); where upstream probes a pair itself, what
//! it says (`ops`) must agree, or unfolding fails.

mod topology;

use alloc::sync::Arc;
use core::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use netpol_core::ir::{Family, Flow, Transport, Verdict};
use netpol_core::model::{Cluster, Labels, ObjectRef, Protocol};
use netpol_k8s::manifest::{ReadErrors, ReadOptions, read_str};

use super::yaml::{Yaml, YamlError};

pub use topology::nine_pods;

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// One upstream case.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// Its id, such as `E2E-17`.
    pub id: String,
    /// Its upstream title.
    pub name: String,
    /// The pods that upstream probes; the expectations here cover all nine.
    pub pods: Vec<ObjectRef>,
    steps: Vec<Yaml>,
}

/// What happens in a step, and what must hold after it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Step {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// All objects after the changes.
    pub cluster: Cluster,
    /// What must hold then.
    pub matrices: Vec<Matrix>,
}

/// A change to one object.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a new change must reach every suite")]
pub enum Change {
    /// The labels are added to the namespace.
    AddNamespaceLabels(Arc<str>, Labels),
    /// The manifest is applied; an object of the same name is replaced.
    Apply(String),
    /// The NetworkPolicy is deleted.
    Delete(ObjectRef),
    /// The labels replace those of the pod.
    SetPodLabels(ObjectRef, Labels),
}

/// Who must reach whom on one port: every ordered pair of different pods.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Matrix {
    /// The port and protocol.
    pub transport: Transport,
    /// Source, destination, verdict.
    pub cells: Vec<(ObjectRef, ObjectRef, Verdict)>,
}

impl Matrix {
    /// Returns the cells as flows of one family.
    pub fn flows<'a>(
        &'a self,
        cluster: &'a Cluster,
        family: Family,
    ) -> impl Iterator<Item = (Flow, Verdict)> + 'a {
        self.cells.iter().filter_map(move |(source, destination, verdict)| {
            let source = address(cluster, source, family)?;
            let destination = address(cluster, destination, family)?;
            Some((Flow::new(source, destination, self.transport), *verdict))
        })
    }
}

/// Why the scenarios cannot be read or unfolded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("the scenarios cannot be read")]
    Io(#[source] std::io::Error),
    /// The file is not YAML.
    #[error("the scenarios cannot be read")]
    Yaml(#[source] YamlError),
    /// A part is missing or not understood.
    #[error("scenario `{id}`: `{part}` is missing or not understood")]
    Malformed {
        /// Which scenario.
        id: String,
        /// Which part.
        part: String,
    },
    /// A manifest is rejected.
    #[error("scenario `{id}`: a manifest is rejected")]
    Rejected {
        /// Which scenario.
        id: String,
        /// Why.
        source: ReadErrors,
    },
    /// The two forms of an expectation contradict each other.
    #[error("scenario `{id}`: `ops` and `matrix9` disagree on {source_pod} -> {destination}")]
    Disagreement {
        /// Which scenario.
        id: String,
        /// The cell's source.
        source_pod: ObjectRef,
        /// The cell's destination.
        destination: ObjectRef,
    },
}

/// Reads the scenarios that come with this crate.
///
/// # Errors
///
/// If the file is not what [`e2e`](self) describes.
pub fn all() -> Result<Vec<Scenario>, ScenarioError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e_cases.yaml");
    let text = std::fs::read_to_string(path).map_err(ScenarioError::Io)?;
    let root = Yaml::first_document(&text).map_err(ScenarioError::Yaml)?;
    let cases = root.field("cases").map(Yaml::items).unwrap_or_default();
    cases.iter().map(Scenario::try_new).collect()
}

impl Scenario {
    fn try_new(case: &Yaml) -> Result<Self, ScenarioError> {
        let text = |field: &str| case.field(field).and_then(Yaml::text).map(str::to_owned);
        let id = text("id").unwrap_or_default();
        let malformed = |part: &str| ScenarioError::Malformed { id: id.clone(), part: part.into() };
        let pods = case.field("pods").map(Yaml::items).unwrap_or_default();
        let pods = pods.iter().filter_map(Yaml::text).map(|pod| {
            pod.split_once('/')
                .map(|(namespace, name)| ObjectRef::new(namespace, name))
                .ok_or_else(|| malformed("pods"))
        });
        let pods = pods.collect::<Result<Vec<_>, _>>()?;
        let steps = case.field("steps").map(Yaml::items).unwrap_or_default().to_vec();
        if id.is_empty() || pods.is_empty() || steps.is_empty() {
            return Err(malformed("steps"));
        }
        let name = text("name").ok_or_else(|| malformed("name"))?;
        Ok(Self { id, name, pods, steps })
    }

    /// Unfolds the scenario over `base`, which has the nine pods; addresses in policies are those of one family.
    ///
    /// # Errors
    ///
    /// If a step is malformed, or its two forms of expectation contradict each other.
    pub fn steps(&self, base: &Cluster, family: Family) -> Result<Vec<Step>, ScenarioError> {
        let mut cluster = base.clone();
        self.steps
            .iter()
            .map(|step| {
                let changes = self.changes(step, base, family)?;
                for change in &changes {
                    self.apply(change, &mut cluster)?;
                }
                let expected = step.field("expect").map(Yaml::items).unwrap_or_default();
                let matrices = expected.iter().map(|expect| self.matrix(expect));
                let matrices = matrices.collect::<Result<Vec<_>, _>>()?;
                if changes.is_empty() || matrices.is_empty() {
                    return Err(self.malformed("steps"));
                }
                Ok(Step { changes, cluster: cluster.clone(), matrices })
            })
            .collect()
    }

    fn malformed(&self, part: &str) -> ScenarioError {
        ScenarioError::Malformed { id: self.id.clone(), part: part.to_owned() }
    }

    fn object(&self, text: &str) -> Result<ObjectRef, ScenarioError> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| self.malformed(text))?;
        Ok(ObjectRef::new(namespace, name))
    }

    fn changes(
        &self,
        step: &Yaml,
        base: &Cluster,
        family: Family,
    ) -> Result<Vec<Change>, ScenarioError> {
        let mut changes = Vec::new();
        for (key, value) in step.entries() {
            match key.as_str() {
                "expect" => {}
                "apply" => {
                    for manifest in value.items() {
                        let manifest =
                            manifest.map_text(&|text| self.substitute(text, base, family))?;
                        changes.push(Change::Apply(manifest.to_string()));
                    }
                }
                "delete" => {
                    for name in value.items() {
                        let name = name.text().unwrap_or_default();
                        changes.push(Change::Delete(self.object(name)?));
                    }
                }
                "set_pod_labels" => {
                    for (pod, labels) in value.entries() {
                        changes.push(Change::SetPodLabels(self.object(pod)?, labels_of(labels)));
                    }
                }
                "add_namespace_labels" => {
                    for (name, labels) in value.entries() {
                        let name = name.as_str().into();
                        changes.push(Change::AddNamespaceLabels(name, labels_of(labels)));
                    }
                }
                other => return Err(self.malformed(other)),
            }
        }
        Ok(changes)
    }

    fn apply(&self, change: &Change, cluster: &mut Cluster) -> Result<(), ScenarioError> {
        match change {
            Change::AddNamespaceLabels(name, labels) => {
                let namespace = cluster.namespaces.get_mut(name);
                let namespace = namespace.ok_or_else(|| self.malformed(name))?;
                namespace.meta.labels.0.extend(labels.0.clone());
            }
            Change::Apply(text) => {
                let manifests = read_str(&self.id, text, &ReadOptions::default())
                    .map_err(|source| ScenarioError::Rejected { id: self.id.clone(), source })?;
                if manifests.cluster.network_policies.len() != 1 {
                    return Err(self.malformed("apply"));
                }
                cluster.network_policies.extend(manifests.cluster.network_policies);
            }
            Change::Delete(policy) => {
                let removed = cluster.network_policies.remove(policy);
                removed.ok_or_else(|| self.malformed("delete"))?;
            }
            Change::SetPodLabels(pod, labels) => {
                let pod =
                    cluster.pods.get_mut(pod).ok_or_else(|| self.malformed("set_pod_labels"))?;
                pod.meta.labels = labels.clone();
            }
        }
        Ok(())
    }

    /// Replaces `${ip P}`, `${bits}`, `${net4 P}` and `${net24 P}`.
    fn substitute(
        &self,
        text: &str,
        base: &Cluster,
        family: Family,
    ) -> Result<String, ScenarioError> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once("${") {
            let (inside, after) = tail.split_once('}').ok_or_else(|| self.malformed(text))?;
            out.push_str(before);
            let (what, pod) = inside.split_once(' ').unwrap_or((inside, ""));
            let address_of =
                || address(base, &self.object(pod)?, family).ok_or_else(|| self.malformed(inside));
            let network = |length: u8| -> Result<String, ScenarioError> {
                let network = IpNet::new(address_of()?, length);
                Ok(network.map_err(|_error| self.malformed(inside))?.trunc().to_string())
            };
            out.push_str(&match (what, family) {
                ("bits", Family::V4) => "32".to_owned(),
                ("bits", Family::V6) => "128".to_owned(),
                ("ip", _) => address_of()?.to_string(),
                ("net4", _) => network(4)?,
                ("net24", Family::V4) => network(24)?,
                ("net24", Family::V6) => network(64)?,
                _ => return Err(self.malformed(inside)),
            });
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn matrix(&self, expect: &Yaml) -> Result<Matrix, ScenarioError> {
        let text = |field: &str| expect.field(field).and_then(Yaml::text);
        let protocol = match text("protocol") {
            Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => return Err(self.malformed("protocol")),
        };
        let port = text("port").and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| self.malformed("port"))?;
        let rows = expect.field("matrix9").map(Yaml::items).unwrap_or_default();
        let ops = expect.field("ops").ok_or_else(|| self.malformed("ops"))?.items();
        let pods: Vec<ObjectRef> = NAMESPACES
            .iter()
            .flat_map(|namespace| NAMES.map(|name| ObjectRef::new(namespace, name)))
            .collect();
        if rows.len() != pods.len() {
            return Err(self.malformed("matrix9"));
        }
        let mut cells = Vec::new();
        for (row, source) in rows.iter().zip(&pods) {
            let row = row.text().unwrap_or_default();
            if row.chars().count() != pods.len() {
                return Err(self.malformed("matrix9"));
            }
            for (mark, destination) in row.chars().zip(&pods) {
                let verdict = match mark {
                    '.' => Verdict::Allow,
                    'X' => Verdict::Deny,
                    '-' if source == destination => continue,
                    _ => return Err(self.malformed("matrix9")),
                };
                // The operations speak of the pods that upstream probes, the matrix of all nine.
                let probed = self.pods.contains(source) && self.pods.contains(destination);
                if probed && self.verdict_by_ops(ops, source, destination)? != verdict {
                    return Err(ScenarioError::Disagreement {
                        id: self.id.clone(),
                        source_pod: source.clone(),
                        destination: destination.clone(),
                    });
                }
                cells.push((source.clone(), destination.clone(), verdict));
            }
        }
        Ok(Matrix { transport: Transport::Port(protocol, port), cells })
    }

    /// The last of the operations that speaks of the pair decides; if none does, it is allowed.
    fn verdict_by_ops(
        &self,
        ops: &[Yaml],
        source: &ObjectRef,
        destination: &ObjectRef,
    ) -> Result<Verdict, ScenarioError> {
        let mut verdict = Verdict::Allow;
        for op in ops {
            let op = op.text().unwrap_or_default();
            let (word, pair) = op.split_once(' ').ok_or_else(|| self.malformed(op))?;
            let (from, to) = pair.split_once(" -> ").ok_or_else(|| self.malformed(op))?;
            let set = match word {
                "allow" => Verdict::Allow,
                "deny" => Verdict::Deny,
                _ => return Err(self.malformed(op)),
            };
            if matches(from, source) && matches(to, destination) {
                verdict = set;
            }
        }
        Ok(verdict)
    }
}

/// `*`, `namespace/*` or `namespace/name`.
fn matches(pattern: &str, pod: &ObjectRef) -> bool {
    match pattern.split_once('/') {
        Some((namespace, "*")) => *pod.namespace == *namespace,
        Some((namespace, name)) => *pod.namespace == *namespace && *pod.name == *name,
        None => pattern == "*",
    }
}

fn labels_of(labels: &Yaml) -> Labels {
    let entries = labels.entries().iter();
    Labels(
        entries
            .map(|(key, value)| (key.as_str().into(), value.text().unwrap_or_default().into()))
            .collect(),
    )
}

fn address(cluster: &Cluster, pod: &ObjectRef, family: Family) -> Option<IpAddr> {
    let addresses = &cluster.pods.get(pod)?.addresses;
    addresses.iter().copied().find(|address| Family::of(*address) == family)
}
