//! Which cells of a matrix hang on addresses that manifests do not give (OFF-006).

use alloc::collections::BTreeSet;
use core::net::IpAddr;

use netpol_core::ir::{
    Direction, Family, Flow, Ports, Ruleset, Transport, Verdict, depends_on_unknown_address,
};
use netpol_core::matrix::Matrix;
use netpol_core::model::{ObjectRef, Protocol};

use crate::input::Input;

/// Beyond so many classes of pods, pairs are not looked at one by one any more.
const CLASSES: usize = 150;

/// What is uncertain about a matrix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Doubt {
    /// Nothing.
    Nothing,
    /// What passes between these pods, named as `source -> destination`; the first of each class.
    Pairs(Vec<String>),
    /// Too many pods to say.
    Unknown,
}

/// Judges every port where an answer can change, for one pair of pods of every pair of classes.
pub(super) fn doubt(
    input: &Input,
    ruleset: &Ruleset,
    matrix: &Matrix,
    port: Option<(Protocol, u16)>,
) -> Doubt {
    let has_ranges = ruleset.peer_sets().any(|(_, set)| !set.networks.is_empty());
    if input.assigned.stand_ins.is_empty() || !has_ranges {
        return Doubt::Nothing;
    }
    if matrix.pods.len() > CLASSES {
        return Doubt::Unknown;
    }
    let mut pairs = Vec::new();
    for sources in &matrix.pods {
        for destinations in &matrix.pods {
            let Some(source) = sources.first() else { continue };
            let Some(destination) = destinations.iter().find(|other| *other != source) else {
                continue;
            };
            let transports = match port {
                Some((protocol, port)) => BTreeSet::from([Transport::Port(protocol, port)]),
                None => {
                    let mut transports = ports(ruleset, source, Direction::Egress);
                    transports.extend(ports(ruleset, destination, Direction::Ingress));
                    transports
                }
            };
            let addresses = address(ruleset, matrix.family, source).zip(address(
                ruleset,
                matrix.family,
                destination,
            ));
            let Some((from, to)) = addresses else { continue };
            let is_doubtful =
                |transport: Transport| is_doubtful(input, ruleset, &Flow::new(from, to, transport));
            if transports.into_iter().any(is_doubtful) {
                pairs.push(format!("{source} -> {destination}"));
            }
        }
    }
    if pairs.is_empty() { Doubt::Nothing } else { Doubt::Pairs(pairs) }
}

fn address(ruleset: &Ruleset, family: Family, pod: &ObjectRef) -> Option<IpAddr> {
    let endpoint = ruleset.endpoint(pod)?;
    endpoint.addresses.iter().copied().find(|address| Family::of(*address) == family)
}

fn is_doubtful(input: &Input, ruleset: &Ruleset, flow: &Flow) -> bool {
    let hangs = |peer: IpAddr, direction: Direction| {
        input.is_stand_in(peer) && depends_on_unknown_address(ruleset, flow, direction)
    };
    let egress = hangs(flow.destination, Direction::Egress);
    let ingress = hangs(flow.source, Direction::Ingress);
    if !egress && !ingress {
        return false;
    }
    // A side that denies for certain leaves nothing open.
    let decision = ruleset.verdict(flow);
    (egress || decision.egress.verdict == Verdict::Allow)
        && (ingress || decision.ingress.verdict == Verdict::Allow)
}

/// Where the port ranges of one side begin and what lies right behind them, and a protocol without ports.
fn ports(ruleset: &Ruleset, pod: &ObjectRef, direction: Direction) -> BTreeSet<Transport> {
    let endpoint = ruleset.endpoint(pod);
    let pipeline = endpoint.and_then(|endpoint| ruleset.pipeline(endpoint.pipeline(direction)));
    let mut ports: BTreeSet<Transport> =
        Protocol::ALL.into_iter().map(|protocol| Transport::Port(protocol, 0)).collect();
    ports.insert(Transport::Other(1));
    for (_, rule) in pipeline.into_iter().flat_map(|pipeline| pipeline.rules()) {
        if let Ports::Set(set) = &rule.ports {
            for (protocol, low, high) in set.ranges() {
                ports.insert(Transport::Port(protocol, low));
                ports.extend(high.checked_add(1).map(|next| Transport::Port(protocol, next)));
            }
        }
    }
    ports
}
