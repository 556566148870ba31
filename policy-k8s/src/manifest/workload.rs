//! Workloads stand for their pods: one model pod each, with the labels of the template (NP-047).

use netpol_core::model::{Kind, Pod, Workload};

use super::decode::{Fields, Reader};
use super::error::Problem;
use super::metadata::{Metadata, template_labels};
use super::path::Path;
use super::pod::pod_spec;
use super::tree::Node;

pub(super) fn workload(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
    kind: Kind,
) -> Option<Pod> {
    reader.no_misspelled(root, &["metadata", "spec"], &["status"]);
    let path = root.path.key("spec");
    let spec = required(reader, root, "spec")?;
    let fields = reader.mapping(spec, &path)?;
    if kind != Kind::CronJob {
        return template(reader, &fields, metadata, kind);
    }
    let path = path.key("jobTemplate");
    let job = required(reader, &fields, "jobTemplate")?;
    let fields = reader.mapping(job, &path)?;
    let path = path.key("spec");
    let spec = required(reader, &fields, "spec")?;
    let fields = reader.mapping(spec, &path)?;
    template(reader, &fields, metadata, kind)
}

fn template(
    reader: &mut Reader<'_>,
    spec: &Fields<'_, '_, '_>,
    metadata: Metadata,
    kind: Kind,
) -> Option<Pod> {
    reader.no_misspelled(spec, &["replicas", "template"], &[]);
    let replicas = reader.optional(spec, "replicas", replicas).unwrap_or(1);
    let path = spec.path.key("template");
    let template = required(reader, spec, "template")?;
    let fields = reader.mapping(template, &path)?;
    reader.only(&fields, &["metadata", "spec", "apiVersion", "kind"]);
    let labels = reader.optional(&fields, "metadata", template_labels).unwrap_or_default();
    let pod = reader.optional(&fields, "spec", pod_spec).unwrap_or_default();
    let workload = Workload { kind, name: metadata.meta.object.name.clone(), replicas };
    let mut meta = metadata.meta;
    meta.labels = labels;
    Some(Pod {
        meta,
        node: pod.node,
        host_network: pod.host_network,
        containers: pod.containers,
        workload: Some(workload),
        ..Pod::default()
    })
}

fn required<'n, 't>(
    reader: &mut Reader<'_>,
    fields: &Fields<'n, 't, '_>,
    name: &'static str,
) -> Option<&'n Node<'t>> {
    let node = fields.entry(name).map(|entry| &entry.value).filter(|node| !node.is_null());
    if node.is_none() {
        reader.report(fields.position, &fields.path.key(name), Problem::MissingField(name));
    }
    node
}

fn replicas(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<u32> {
    let number = reader.integer(node, path)?;
    let replicas = u32::try_from(number).ok();
    if replicas.is_none() {
        let found = number.to_string();
        reader.report(
            node.position,
            path,
            Problem::UnknownValue { found, allowed: "numbers from 0 on" },
        );
    }
    replicas
}
