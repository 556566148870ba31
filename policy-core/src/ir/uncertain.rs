//! Verdicts that hang on an address nobody knows yet (OFF-006).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Direction, Flow, PeerSet, Peers, Pipeline, Ruleset, Situation, Verdict, decide};
use crate::net::{Intervals, PrefixSet};

/// Returns whether some address of the other end would change the verdict of one side of `flow`.
///
/// `direction` names the side that judges; the other end is a pod whose real address is unknown and for which the flow
/// carries a stand-in. Selectors are certain (they go by labels), address ranges are not: the side is judged again with
/// one address from every piece that the ranges of its rules cut the family into.
#[must_use]
pub fn depends_on_unknown_address(ruleset: &Ruleset, flow: &Flow, direction: Direction) -> bool {
    let (subject, peer) = match direction {
        Direction::Ingress => (flow.destination, flow.source),
        Direction::Egress => (flow.source, flow.destination),
    };
    let Some(subject) = ruleset.owner(subject) else { return false };
    let Some(pipeline) = ruleset.pipeline(subject.pipeline(direction)) else { return false };
    if ruleset.owner(peer).is_some_and(|owner| owner.pod == subject.pod) {
        return false;
    }
    let own_node = ruleset.is_own_node(subject, peer);
    let situation = if own_node { Situation::OwnNode } else { Situation::Ordinary };
    let judge = |address: IpAddr| {
        let contains =
            |set: &PeerSet| set.addresses.contains(peer) || set.networks.contains(address);
        decide(pipeline, situation, ruleset.settings(), |rule| {
            rule.ports.contains(flow.transport)
                && match rule.peers {
                    Peers::Any => true,
                    Peers::Set(id) => ruleset.peer_set(id).is_some_and(contains),
                }
        })
        .verdict
    };
    let verdicts: Vec<Verdict> = pieces(ruleset, pipeline, peer).into_iter().map(judge).collect();
    verdicts.windows(2).any(|pair| matches!(pair, [left, right] if left != right))
}

/// Returns one address of every piece that the pipeline's ranges cut the family of `peer` into.
fn pieces(ruleset: &Ruleset, pipeline: &Pipeline, peer: IpAddr) -> Vec<IpAddr> {
    let sets = pipeline.rules().filter_map(|(_, rule)| match rule.peers {
        Peers::Any => None,
        Peers::Set(id) => ruleset.peer_set(id),
    });
    let mut starts = Vec::new();
    for set in sets {
        // A piece begins where a range begins, right behind its end, and where addresses of hosts begin.
        match peer {
            IpAddr::V4(_) => starts.extend(set.networks.v4().iter().flat_map(|(low, high)| {
                [Some(low), high.checked_add(1)]
                    .into_iter()
                    .flatten()
                    .map(|start| IpAddr::V4(Ipv4Addr::from(start)))
            })),
            IpAddr::V6(_) => starts.extend(set.networks.v6().iter().flat_map(|(low, high)| {
                [Some(low), high.checked_add(1)]
                    .into_iter()
                    .flatten()
                    .map(|start| IpAddr::V6(Ipv6Addr::from(start)))
            })),
        }
    }
    // No host has a loopback, link-local or multicast address: a rule about the metadata service makes no pod uncertain.
    let hosts = hosts();
    starts.extend(match peer {
        IpAddr::V4(_) => {
            hosts.v4().iter().map(|(low, _)| IpAddr::V4(low.into())).collect::<Vec<_>>()
        }
        IpAddr::V6(_) => {
            hosts.v6().iter().map(|(low, _)| IpAddr::V6(low.into())).collect::<Vec<_>>()
        }
    });
    starts.retain(|start| hosts.contains(*start));
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// Every address a pod could have: all but "this network", loopback, link-local, multicast and broadcast ones. (Some
/// clouds give pods class E addresses.)
fn hosts() -> PrefixSet {
    let v4 = |low: [u8; 4], high: [u8; 4]| {
        (u32::from(Ipv4Addr::from(low)), u32::from(Ipv4Addr::from(high)))
    };
    let v6 = |low: u128, high: u128| (low << 112, (high << 112) - 1);
    PrefixSet::from_intervals(
        Intervals::from_ranges([
            v4([1, 0, 0, 0], [126, 255, 255, 255]),
            v4([128, 0, 0, 0], [169, 253, 255, 255]),
            v4([169, 255, 0, 0], [223, 255, 255, 255]),
            v4([240, 0, 0, 0], [255, 255, 255, 254]),
        ]),
        Intervals::from_ranges([v6(0x1, 0xfe80), v6(0xfec0, 0xff00)]),
    )
}
