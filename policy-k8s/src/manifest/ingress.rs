//! `networking.k8s.io/v1` Ingress.

use netpol_core::model::{Ingress, IngressBackend, IngressPath, TargetPort, Violation};

use super::decode::{Fields, Reader};
use super::metadata::Metadata;
use super::path::Path;
use super::service::target_port;
use super::tree::Node;

pub(super) fn ingress(
    reader: &mut Reader<'_>,
    root: &Fields<'_, '_, '_>,
    metadata: Metadata,
) -> Option<Ingress> {
    reader.no_misspelled(root, &["metadata", "spec"], &["status"]);
    let mut ingress = Ingress { meta: metadata.meta, ..Ingress::default() };
    reader.optional(root, "spec", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.only(&fields, &["defaultBackend", "ingressClassName", "rules", "tls"]);
        ingress.class = reader.optional(&fields, "ingressClassName", Reader::text);
        ingress.default_backend = reader.optional(&fields, "defaultBackend", backend);
        ingress.paths = reader.list_field(&fields, "rules", rule).into_iter().flatten().collect();
        Some(())
    });
    Some(ingress)
}

fn rule(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Vec<IngressPath>> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["host", "http"]);
    let host = reader.optional(&fields, "host", Reader::text).filter(|host| !host.is_empty());
    reader.optional(&fields, "http", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.only(&fields, &["paths"]);
        Some(reader.list_field(&fields, "paths", |reader, node, path| {
            let fields = reader.mapping(node, path)?;
            reader.only(&fields, &["path", "pathType", "backend"]);
            let path = reader.optional(&fields, "path", Reader::text);
            let backend = reader.optional(&fields, "backend", backend)?;
            Some(IngressPath { host: host.clone(), path, backend })
        }))
    })
}

fn backend(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<IngressBackend> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["service", "resource"]);
    let none = IngressBackend { service: None, port: None };
    let service = reader.optional(&fields, "service", |reader, node, path| {
        let fields = reader.mapping(node, path)?;
        reader.only(&fields, &["name", "port"]);
        let service = reader.optional(&fields, "name", Reader::text);
        let port = reader.optional(&fields, "port", port).flatten();
        Some(IngressBackend { service, port })
    });
    Some(service.unwrap_or(none))
}

fn port(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Option<TargetPort>> {
    let fields = reader.mapping(node, path)?;
    reader.only(&fields, &["name", "number"]);
    let number = reader.optional(&fields, "number", |reader, node, path| {
        reader.port_number(node, path, Violation::PortOutOfRange)
    });
    let name = reader.optional(&fields, "name", target_port).flatten();
    Some(number.map(TargetPort::Number).or(name))
}
