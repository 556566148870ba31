//! The ends of a flow, looked up in what the engine knows.

use core::fmt;
use core::net::IpAddr;

use netpol_core::engine::Engine;
use netpol_core::ir::{Family, Flow, Transport};
use netpol_core::model::{ObjectRef, Pod};
use netpol_text::flow_text::{EndText, ServiceText};

/// One end.
#[derive(Debug)]
pub(super) struct End {
    name: String,
    addresses: Vec<IpAddr>,
    /// The pod that is there, also where only its address was given.
    pub(super) pod: Option<Pod>,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

pub(super) fn find(engine: &Engine, end: &EndText, namespace: &str) -> Result<End, String> {
    match end {
        EndText::Address(address) => {
            let pod = engine.pod_with(*address);
            Ok(End { name: address.to_string(), addresses: vec![*address], pod })
        }
        EndText::Named { namespace: own, name, kind: _ } => {
            let object = ObjectRef::new(own.as_deref().unwrap_or(namespace), name);
            let pod = engine.pod(&object).ok_or_else(|| {
                format!("no policed pod `{object}` with an address is known; a pod on the host network is its node: `node/NAME`")
            })?;
            if pod.addresses.is_empty() {
                return Err(format!("another pod has the addresses of `{object}` now"));
            }
            Ok(End { name: object.to_string(), addresses: pod.addresses.clone(), pod: Some(pod) })
        }
        EndText::Node(name) => {
            let node = engine.nodes().find(|node| **node.name() == **name);
            let node = node.ok_or_else(|| format!("no node `{name}` is known"))?;
            Ok(End { name: format!("node/{name}"), addresses: node.addresses, pod: None })
        }
        EndText::Service { .. } => {
            Err("the agent follows no Services; name the pod that the Service leads to".to_owned())
        }
    }
}

/// The flow between two ends, in the first family that both have.
pub(super) fn flow(from: &End, to: &End, service: &ServiceText) -> Result<Flow, String> {
    for family in [Family::V4, Family::V6] {
        let of = |end: &End| {
            end.addresses.iter().copied().find(|address| Family::of(*address) == family)
        };
        if let (Some(source), Some(destination)) = (of(from), of(to))
            && let Some(transport) = transport(to, service, family)?
        {
            return Ok(Flow::new(source, destination, transport));
        }
    }
    Err(format!("{from} and {to} have no family in common that can carry this"))
}

fn transport(to: &End, service: &ServiceText, family: Family) -> Result<Option<Transport>, String> {
    Ok(match (service, family) {
        (ServiceText::Port(number, protocol), _) => {
            Some(Transport::Port(protocol.unwrap_or_default(), *number))
        }
        (ServiceText::Name(name, protocol), _) => {
            let protocol = protocol.unwrap_or_default();
            let pod = to
                .pod
                .as_ref()
                .ok_or_else(|| format!("{to} is no pod, so `{name}` names no port"))?;
            let mut numbers = pod.named_ports(name).filter(|(own, _)| *own == protocol);
            let (_, number) = numbers
                .next()
                .ok_or_else(|| format!("{to} has no port named `{name}` for {protocol}"))?;
            Some(Transport::Port(protocol, number.get()))
        }
        (ServiceText::Icmp, Family::V4) => Some(Transport::Other(1)),
        (ServiceText::Icmp, Family::V6) => Some(Transport::Other(58)),
        (ServiceText::Other(1), Family::V6) | (ServiceText::Other(58), Family::V4) => None,
        (ServiceText::Other(number), _) => Some(Transport::Other(*number)),
    })
}
