//! From names to addresses: the ends of a flow looked up in the cluster.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_core::ir::{Dialled, Family, Transport};
use netpol_core::model::{ObjectRef, Pod, Protocol};
use netpol_text::flow_text::{EndText, FlowText, ServiceText};

use crate::input::{Input, list};

mod error;
mod service;

pub(crate) use error::ResolveError;

/// A flow whose ends are known.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedFlow {
    pub(crate) source: End,
    pub(crate) targets: Targets,
    /// What the author of the flow may have meant instead.
    pub(crate) hint: Option<String>,
}

/// Where a flow goes.
#[derive(Clone, Debug)]
pub(crate) enum Targets {
    /// To the end the flow names.
    One(Target),
    /// To any backend of a Service (NP-157); never empty.
    Service { service: ObjectRef, backends: Vec<Target> },
}

/// One destination and what it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) end: End,
    pub(crate) wanted: Wanted,
    pub(crate) dialled: Dialled,
}

/// What the destination is asked for, in whichever family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wanted {
    Port(Protocol, u16),
    Icmp,
    Other(u8),
}

impl Wanted {
    /// Returns the transport in a family; ICMP differs, and ICMPv6 exists only on IPv6.
    pub(crate) const fn transport(self, family: Family) -> Option<Transport> {
        match (self, family) {
            (Self::Port(protocol, port), _) => Some(Transport::Port(protocol, port)),
            (Self::Icmp, Family::V4) => Some(Transport::Other(1)),
            (Self::Icmp, Family::V6) => Some(Transport::Other(58)),
            (Self::Other(1), Family::V6) | (Self::Other(58), Family::V4) => None,
            (Self::Other(number), _) => Some(Transport::Other(number)),
        }
    }
}

/// One end with its addresses.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) what: EndKind,
    /// At least one.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether the addresses were made up.
    pub(crate) stand_in: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum EndKind {
    Address,
    Node(Arc<str>),
    Pod(ObjectRef),
}

impl End {
    pub(crate) fn address_of(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// Looks both ends of a flow up.
pub(crate) fn resolve(
    input: &Input,
    default_namespace: &str,
    flow: &FlowText,
) -> Result<ResolvedFlow, ResolveError> {
    let source = match &flow.source {
        EndText::Address(address) => address_end(*address),
        EndText::Named { namespace, name, kind } => {
            let namespace = namespace.as_deref().unwrap_or(default_namespace);
            pod_end(input, find_pod(input, namespace, name, kind.as_deref())?)
        }
        EndText::Node(name) => node_end(input, name)?,
        EndText::Service { name, .. } => return Err(ResolveError::NoPodNamed(name.clone())),
    };
    let targets = match &flow.destination {
        EndText::Address(address) => match service::with_cluster_ip(input, *address) {
            Some(service) => service::targets(input, service, &flow.service)?,
            None => Targets::One(to_end(input, address_end(*address), &flow.service)?),
        },
        EndText::Named { namespace, name, kind } => {
            let namespace = namespace.as_deref().unwrap_or(default_namespace);
            let service = ObjectRef::new(namespace, name);
            match find_pod(input, namespace, name, kind.as_deref()) {
                Ok(pod) => Targets::One(to_end(input, pod_end(input, pod), &flow.service)?),
                Err(ResolveError::UnknownPod { .. })
                    if kind.is_none() && input.cluster.services.contains_key(&service) =>
                {
                    service::targets(input, service::find(input, &service)?, &flow.service)?
                }
                Err(error) => return Err(error),
            }
        }
        EndText::Node(name) => Targets::One(to_end(input, node_end(input, name)?, &flow.service)?),
        EndText::Service { namespace, name } => {
            let namespace = namespace.as_deref().unwrap_or(default_namespace);
            let service = service::find(input, &ObjectRef::new(namespace, name))?;
            service::targets(input, service, &flow.service)?
        }
    };
    let hint = service_meant(input, default_namespace, flow, &targets);
    Ok(ResolvedFlow { source, targets, hint })
}

/// Pods and Services often share a name, and Services often have ports that their pods do not.
fn service_meant(
    input: &Input,
    default_namespace: &str,
    flow: &FlowText,
    targets: &Targets,
) -> Option<String> {
    let (EndText::Named { namespace, name, kind: None }, Targets::One(target)) =
        (&flow.destination, targets)
    else {
        return None;
    };
    let (EndKind::Pod(pod), Wanted::Port(protocol, number)) = (&target.end.what, target.wanted)
    else {
        return None;
    };
    let service = ObjectRef::new(namespace.as_deref().unwrap_or(default_namespace), name);
    let forwards = input.cluster.services.get(&service)?.ports.iter();
    let mut forwards =
        forwards.filter(|port| port.port.get() == number && port.protocol == protocol);
    let pod = input.cluster.pods.get(pod)?;
    let mut declared = pod.resolvable_ports();
    if declared.any(|port| port.port.get() == number && port.protocol == protocol) {
        return None;
    }
    forwards.next()?;
    Some(format!(
        "judged at port {number} of the pod; Service {service} has that port too, and `svc/{service}:{number}` judges it"
    ))
}

fn address_end(address: IpAddr) -> End {
    End { what: EndKind::Address, addresses: vec![address], stand_in: false }
}

fn node_end(input: &Input, name: &str) -> Result<End, ResolveError> {
    let Some((name, node)) = input.cluster.nodes.get_key_value(name) else {
        let known: Vec<&str> = input.cluster.nodes.keys().map(AsRef::as_ref).collect();
        return Err(ResolveError::UnknownNode { node: name.into(), known: list(known) });
    };
    Ok(End {
        what: EndKind::Node(name.clone()),
        addresses: node.addresses.clone(),
        stand_in: input.assigned.nodes.contains(name),
    })
}

/// Finds a pod by name, or the pod that stands for a workload. `name[Kind]` looks for that kind only.
fn find_pod<'a>(
    input: &'a Input,
    namespace: &str,
    name: &str,
    kind: Option<&str>,
) -> Result<&'a Pod, ResolveError> {
    let pods = &input.cluster.pods;
    let exact = pods.get(&ObjectRef::new(namespace, name));
    let is_kind = |pod: &Pod, kind: &str| {
        let own = pod.workload.as_ref().map_or("Pod", |workload| workload.kind.as_str());
        own.eq_ignore_ascii_case(kind)
    };
    // The reader calls two workloads of one name `name` and `name-kind`.
    let of_name =
        |pod: &&Pod| pod.workload.as_ref().is_some_and(|workload| *workload.name == *name);
    let workloads: Vec<&Pod> = pods_named(pods, namespace, name).filter(of_name).collect();
    let found = match kind {
        Some(kind) => exact
            .filter(|pod| is_kind(pod, kind))
            .or_else(|| workloads.iter().copied().find(|pod| is_kind(pod, kind))),
        None => match workloads.as_slice() {
            // A pod's own name is never ambiguous.
            _ if exact.is_some_and(|pod| pod.workload.is_none()) => exact,
            [_, _, ..] => {
                let kinds = workloads.iter().filter_map(|pod| pod.workload.as_ref());
                let choices: Vec<String> =
                    kinds.map(|workload| format!("{namespace}/{workload}")).collect();
                return Err(ResolveError::AmbiguousName {
                    name: format!("{namespace}/{name}"),
                    choices: choices.join(", "),
                });
            }
            [only] => exact.or(Some(only)),
            [] => exact,
        },
    };
    found.ok_or_else(|| {
        let wanted = match kind {
            Some(kind) => format!("{namespace}/{name}[{kind}]"),
            None => format!("{namespace}/{name}"),
        };
        let all: Vec<&str> =
            pods_named(pods, namespace, "").map(|pod| pod.meta.object.name.as_ref()).collect();
        let near: Vec<&str> = all.iter().copied().filter(|other| other.contains(name)).collect();
        let elsewhere: BTreeSet<String> = pods
            .keys()
            .filter(|pod| *pod.name == *name && *pod.namespace != *namespace)
            .map(ToString::to_string)
            .collect();
        let known = if !near.is_empty() {
            format!("like it there: {}", list(near))
        } else if !elsewhere.is_empty() {
            format!("elsewhere: {}", list(elsewhere.iter().map(String::as_str)))
        } else if all.is_empty() {
            let namespaces: BTreeSet<&str> =
                pods.keys().map(|pod| pod.namespace.as_ref()).collect();
            format!("namespaces with pods: {}", list(namespaces))
        } else {
            format!("pods there: {}", list(all))
        };
        ResolveError::UnknownPod { pod: wanted, known }
    })
}

/// The pods of a namespace whose names begin with `name`.
fn pods_named<'a>(
    pods: &'a BTreeMap<ObjectRef, Pod>,
    namespace: &str,
    name: &str,
) -> impl Iterator<Item = &'a Pod> {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let from = pods.range(ObjectRef::new(&namespace, &name)..).map(|(_, pod)| pod);
    from.take_while(move |pod| {
        let ObjectRef { namespace: own, name: full } = &pod.meta.object;
        **own == *namespace && full.starts_with(&name)
    })
}

fn pod_end(input: &Input, pod: &Pod) -> End {
    let object = pod.meta.object.clone();
    if pod.addresses.is_empty() {
        // On the host network of a node nobody knows, or finished: any address will do, and it is known to be made up.
        let (v4, v6) = (Ipv4Addr::new(192, 0, 0, 8), Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8));
        let addresses = vec![IpAddr::V4(v4), IpAddr::V6(v6)];
        return End { what: EndKind::Pod(object), addresses, stand_in: true };
    }
    let host_stand_in = pod.host_network
        && pod.node.as_ref().is_some_and(|node| input.assigned.nodes.contains(node));
    let stand_in = host_stand_in || pod.addresses.iter().any(|address| input.is_stand_in(*address));
    End { what: EndKind::Pod(object), addresses: pod.addresses.clone(), stand_in }
}

fn to_end(input: &Input, end: End, service: &ServiceText) -> Result<Target, ResolveError> {
    let wanted = match service {
        ServiceText::Port(number, protocol) => Wanted::Port(protocol.unwrap_or_default(), *number),
        ServiceText::Name(name, protocol) => {
            let protocol = protocol.unwrap_or_default();
            Wanted::Port(protocol, named_port(pod_of(input, &end), name, protocol)?)
        }
        ServiceText::Icmp => Wanted::Icmp,
        ServiceText::Other(number) => Wanted::Other(*number),
    };
    Ok(Target { end, wanted, dialled: Dialled::Address })
}

/// The pod at an end: by name, or by an address that a pod has.
fn pod_of<'a>(input: &'a Input, end: &End) -> Option<&'a Pod> {
    match &end.what {
        EndKind::Pod(pod) => input.cluster.pods.get(pod),
        EndKind::Address => {
            let address = end.addresses.first()?;
            let mut pods = input.cluster.pods.values();
            pods.find(|pod| pod.is_policed() && pod.addresses.contains(address))
        }
        EndKind::Node(_) => None,
    }
}

/// Resolves a port name on a pod (NP-087); the protocol is part of the question (NP-086).
fn named_port(pod: Option<&Pod>, name: &str, protocol: Protocol) -> Result<u16, ResolveError> {
    let Some(pod) = pod else { return Err(ResolveError::PortNameWithoutPod(name.into())) };
    let all: Vec<_> = pod.named_ports(name).collect();
    let numbers: BTreeSet<u16> =
        all.iter().filter(|(own, _)| *own == protocol).map(|(_, number)| number.get()).collect();
    let mut numbers = numbers.into_iter();
    match (numbers.next(), numbers.next()) {
        (Some(number), None) => Ok(number),
        (Some(_), Some(_)) => {
            let choices: Vec<String> =
                all.iter().map(|(protocol, number)| format!("{number}/{protocol}")).collect();
            Err(ResolveError::AmbiguousPort {
                name: name.into(),
                pod: pod.meta.object.clone(),
                choices: choices.join(", "),
            })
        }
        (None, _) => {
            let known: Vec<String> = pod
                .resolvable_ports()
                .filter_map(|port| {
                    let name = port.name.as_deref()?;
                    Some(format!("{name} ({}/{})", port.port, port.protocol))
                })
                .collect();
            Err(ResolveError::UnknownPort {
                name: name.into(),
                protocol,
                pod: pod.meta.object.clone(),
                known: list(known.iter().map(String::as_str)),
            })
        }
    }
}
