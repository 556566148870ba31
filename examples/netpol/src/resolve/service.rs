//! A Service as destination: judged at its backends, since policy looks after destination NAT (NP-150, NP-157).

use core::net::IpAddr;

use netpol_core::ir::Dialled;
use netpol_core::model::{ObjectRef, Pod, Protocol, Service, ServicePort, ServiceType, TargetPort};
use netpol_text::flow_text::ServiceText;

use super::{End, ResolveError, Target, Targets, Wanted, address_end, named_port, pod_end};
use crate::input::{Input, list};

pub(super) fn find<'a>(input: &'a Input, name: &ObjectRef) -> Result<&'a Service, ResolveError> {
    let services = &input.cluster.services;
    services.get(name).ok_or_else(|| {
        let known: Vec<&str> = services
            .keys()
            .filter(|other| other.namespace == name.namespace)
            .map(|other| other.name.as_ref())
            .collect();
        ResolveError::UnknownService { service: name.clone(), known: list(known) }
    })
}

/// Returns the Service whose cluster address this is.
pub(super) fn with_cluster_ip(input: &Input, address: IpAddr) -> Option<&Service> {
    input.cluster.services.get(input.cluster_ips.get(&address)?)
}

pub(super) fn targets(
    input: &Input,
    service: &Service,
    asked: &ServiceText,
) -> Result<Targets, ResolveError> {
    let name = &service.meta.object;
    if service.service_type == ServiceType::ExternalName {
        let alias = service.external_name.as_deref().unwrap_or_default();
        return Err(ResolveError::ExternalName(name.clone(), alias.into()));
    }
    let port = service_port(service, asked)?;
    let backends = match &service.selector {
        Some(_) => selected(input, service, port)?,
        None => listed(input, service, port),
    };
    if backends.is_empty() {
        return Err(ResolveError::NoBackend(name.clone()));
    }
    Ok(Targets::Service { service: name.clone(), backends })
}

fn service_port<'a>(
    service: &'a Service,
    asked: &ServiceText,
) -> Result<&'a ServicePort, ResolveError> {
    let name = &service.meta.object;
    let is_asked = |port: &&ServicePort| match asked {
        ServiceText::Port(number, protocol) => {
            port.port.get() == *number && port.protocol == protocol.unwrap_or(Protocol::Tcp)
        }
        // A Service's port names are unique, so the name alone says the protocol.
        ServiceText::Name(name, protocol) => {
            port.name.as_deref() == Some(name)
                && protocol.is_none_or(|asked| asked == port.protocol)
        }
        ServiceText::Icmp | ServiceText::Other(_) => false,
    };
    if let Some(port) = service.ports.iter().find(is_asked) {
        return Ok(port);
    }
    let port = match asked {
        ServiceText::Port(number, protocol) => format!("{number}/{}", protocol.unwrap_or_default()),
        ServiceText::Name(name, _) => name.clone(),
        ServiceText::Icmp | ServiceText::Other(_) => {
            return Err(ResolveError::PortlessService(name.clone()));
        }
    };
    let known: Vec<String> = service
        .ports
        .iter()
        .map(|port| match &port.name {
            Some(name) => format!("{name} ({}/{})", port.port, port.protocol),
            None => format!("{}/{}", port.port, port.protocol),
        })
        .collect();
    let known = list(known.iter().map(String::as_str));
    Err(ResolveError::NoServicePort { service: name.clone(), port, known })
}

/// The pods a selector picks, each at the port the target resolves to there; headless the same (NP-157). One on which the target port's name does not resolve is no backend of this port.
fn selected(
    input: &Input,
    service: &Service,
    port: &ServicePort,
) -> Result<Vec<Target>, ResolveError> {
    let namespace = &service.meta.object.namespace;
    let matches = |pod: &&Pod| {
        let labels = &pod.meta.labels;
        let mut pairs = service.selector.iter().flatten();
        pod.meta.object.namespace == *namespace
            && !pod.phase.is_finished()
            && pairs.all(|(key, value)| labels.value(key) == Some(value.as_ref()))
    };
    let mut pods = input.cluster.pods.values().filter(matches).peekable();
    let mut backends = Vec::new();
    let mut unresolved = None;
    if pods.peek().is_none() || service.selector.as_ref().is_none_or(|pairs| pairs.is_empty()) {
        return Ok(listed(input, service, port));
    }
    for pod in pods {
        let number = match &port.target {
            TargetPort::Number(number) => Ok(number.get()),
            TargetPort::Name(name) => named_port(Some(pod), name.as_str(), port.protocol),
        };
        match number {
            Ok(number) => {
                backends.push(target(pod_end(input, pod), port.protocol, number, service));
            }
            Err(error) => unresolved = Some(error),
        }
    }
    match unresolved {
        Some(error) if backends.is_empty() => Err(error),
        Some(_) | None => Ok(backends),
    }
}

/// The addresses given by hand in Endpoints or EndpointSlices.
fn listed(input: &Input, service: &Service, port: &ServicePort) -> Vec<Target> {
    let mut backends = Vec::new();
    let own = input.cluster.endpoints.iter().filter(|slice| slice.service == service.meta.object);
    for slice in own {
        let ports = slice
            .ports
            .iter()
            .filter(|other| other.protocol == port.protocol && other.name == port.name)
            .map(|other| other.port.unwrap_or(port.port).get());
        for number in ports {
            for address in &slice.addresses {
                let end = match address.pod.as_ref().and_then(|pod| input.cluster.pods.get(pod)) {
                    Some(pod) => pod_end(input, pod),
                    None => address_end(address.address),
                };
                backends.push(target(end, port.protocol, number, service));
            }
        }
    }
    backends
}

fn target(end: End, protocol: Protocol, number: u16, service: &Service) -> Target {
    // The name of a headless Service stands for pod addresses, which the client dials itself (CNP-019).
    let dialled = if service.headless { Dialled::Address } else { Dialled::Service };
    Target { end, wanted: Wanted::Port(protocol, number), dialled }
}
