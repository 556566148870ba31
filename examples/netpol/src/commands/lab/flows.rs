//! Which flows a lab tries when none are given: every pair of ends, on the ports that matter to it.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_conformance::netlab::is_routable;
use netpol_core::ir::{Direction, Endpoint, Family, Flow, Ports, Ruleset, Transport};
use netpol_core::matrix::Matrix;
use netpol_core::model::{ObjectRef, Protocol};
use netpol_core::net::PrefixSet;

use super::{Observed, Trial};
use crate::evaluate::{Case, JudgedEnd};
use crate::input::Input;
use crate::output::say;
use crate::resolve::EndKind;

/// The names of a flow's ends, and how the flow is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Pair {
    pub(super) written: Option<String>,
    pub(super) source: String,
    pub(super) destination: String,
}

impl Pair {
    pub(super) fn of_case(written: &str, case: &Case) -> Self {
        let name = |end: &JudgedEnd| match &end.kind {
            EndKind::Address => end.address.to_string(),
            EndKind::Node(name) => format!("node/{name}"),
            EndKind::Pod(pod) => pod.to_string(),
        };
        Self {
            written: Some(written.to_owned()),
            source: name(&case.source),
            destination: name(&case.destination),
        }
    }
}

/// Ports tried on one pair.
const PORTS: usize = 12;
/// Probes that are still sent in reasonable time; beyond it, pairs are left out evenly.
const PROBES: usize = 20_000;
/// Hosts outside, for each family.
const EXTERNALS: usize = 8;

/// Something that sends or receives.
struct Party<'a> {
    name: String,
    addresses: Vec<IpAddr>,
    endpoint: Option<&'a Endpoint>,
    declared: Vec<Transport>,
}

/// Every pair of a pod with a pod, a node or a host outside, both ways, in both families.
pub(super) fn every_pair(input: &Input, ruleset: &Ruleset) -> Vec<Trial> {
    let parties = parties(input, ruleset);
    let unlisted = unlisted_port(&parties, ruleset);
    let mut trials = Vec::new();
    for source in &parties {
        for destination in &parties {
            let is_pair = source.name != destination.name
                && (source.endpoint.is_some() || destination.endpoint.is_some());
            if is_pair {
                trials.extend(pair(ruleset, source, destination, unlisted));
            }
        }
    }
    let all = trials.len();
    if all > PROBES {
        let step = all.div_ceil(PROBES);
        // A step that shares no factor with the number of ports does not always skip the same ones.
        let step = if step.is_multiple_of(2) { step + 1 } else { step };
        trials = trials.into_iter().step_by(step).collect();
        say(format_args!("note: {all} flows are too many to send; every {step}th is tried"));
    }
    trials
}

fn pair(
    ruleset: &Ruleset,
    source: &Party<'_>,
    destination: &Party<'_>,
    unlisted: u16,
) -> Vec<Trial> {
    let mut transports: Vec<Transport> = destination.declared.clone();
    transports.extend(policy_ports(ruleset, destination.endpoint, Direction::Ingress));
    transports.extend(policy_ports(ruleset, source.endpoint, Direction::Egress));
    let mut known = BTreeSet::new();
    transports.retain(|transport| known.insert(*transport));
    transports.truncate(PORTS);
    transports.push(Transport::Port(Protocol::Tcp, unlisted));
    let mut trials = Vec::new();
    for family in [Family::V4, Family::V6] {
        let of_family = |party: &Party<'_>| {
            party.addresses.iter().copied().find(|address| Family::of(*address) == family)
        };
        let Some((from, to)) = of_family(source).zip(of_family(destination)) else { continue };
        let icmp = Transport::Other(if family == Family::V4 { 1 } else { 58 });
        for transport in transports.iter().copied().chain([icmp]) {
            let flow = Flow::new(from, to, transport);
            trials.push(Trial {
                pair: Pair {
                    written: None,
                    source: source.name.clone(),
                    destination: destination.name.clone(),
                },
                flow,
                expected: ruleset.verdict(&flow).verdict,
                observed: Observed::Untried,
            });
        }
    }
    trials
}

fn parties<'a>(input: &'a Input, ruleset: &'a Ruleset) -> Vec<Party<'a>> {
    let declared = |pod: &ObjectRef| -> Vec<Transport> {
        let pod = input.cluster.pods.get(pod);
        let ports = pod.into_iter().flat_map(|pod| pod.resolvable_ports());
        ports.map(|port| Transport::Port(port.protocol, port.port.get())).collect()
    };
    let pods = ruleset.endpoints().filter(|endpoint| endpoint.node.is_some());
    let mut parties: Vec<Party<'a>> = pods
        .map(|endpoint| Party {
            name: endpoint.pod.to_string(),
            addresses: endpoint.addresses.clone(),
            endpoint: Some(endpoint),
            declared: declared(&endpoint.pod),
        })
        .collect();
    let nodes = input.cluster.nodes.iter();
    parties.extend(nodes.map(|(name, node): (&Arc<str>, _)| Party {
        name: format!("node/{name}"),
        addresses: node.addresses.clone(),
        endpoint: None,
        declared: Vec::new(),
    }));
    let mut taken: BTreeSet<IpAddr> =
        parties.iter().flat_map(|party| party.addresses.iter().copied()).collect();
    for family in [Family::V4, Family::V6] {
        let classes = Matrix::new(ruleset, family).externals;
        for class in classes.iter().take(EXTERNALS) {
            if let Some(address) = host_in(class, &taken) {
                taken.insert(address);
                parties.push(Party {
                    name: address.to_string(),
                    addresses: vec![address],
                    endpoint: None,
                    declared: Vec::new(),
                });
            }
        }
    }
    parties
}

/// An address of the set that a host of the lab can have and none has yet; a well-known one where it fits.
fn host_in(addresses: &PrefixSet, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let known = [
        IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
    ];
    let v4 = addresses.v4().iter().flat_map(|(low, high)| {
        [low.saturating_add(1).min(high), low, high].map(|bits| IpAddr::V4(Ipv4Addr::from(bits)))
    });
    let v6 = addresses.v6().iter().flat_map(|(low, high)| {
        [low.saturating_add(1).min(high), low, high].map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
    });
    let mut candidates =
        known.into_iter().filter(|address| addresses.contains(*address)).chain(v4).chain(v6);
    candidates.find(|address| is_routable(*address) && !taken.contains(address))
}

/// The ends of the port ranges that the rules about a pod name.
fn policy_ports(
    ruleset: &Ruleset,
    endpoint: Option<&Endpoint>,
    direction: Direction,
) -> Vec<Transport> {
    let pipeline = endpoint.and_then(|endpoint| ruleset.pipeline(endpoint.pipeline(direction)));
    let rules = pipeline.into_iter().flat_map(|pipeline| pipeline.rules());
    let mut ports = Vec::new();
    for (_, rule) in rules {
        if let Ports::Set(set) = &rule.ports {
            let ends = set.ranges().flat_map(|(protocol, low, high)| {
                [low.max(1), high].map(|port| Transport::Port(protocol, port))
            });
            ports.extend(ends.filter(|transport| *transport != Transport::Port(Protocol::Tcp, 0)));
        }
    }
    ports
}

/// A TCP port that nobody declares and no policy names by itself.
fn unlisted_port(parties: &[Party<'_>], ruleset: &Ruleset) -> u16 {
    let mut named: BTreeSet<Transport> =
        parties.iter().flat_map(|party| party.declared.iter().copied()).collect();
    for party in parties {
        for direction in [Direction::Ingress, Direction::Egress] {
            named.extend(policy_ports(ruleset, party.endpoint, direction));
        }
    }
    let free = |port: &u16| !named.contains(&Transport::Port(Protocol::Tcp, *port));
    (7777..=u16::MAX).find(free).unwrap_or(7777)
}
