//! What a set is for: its name says that, and its members follow from it and the ruleset.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::ir::{Direction, Family, PeerSetId, PipelineId, Ruleset};
use netpol_core::model::Protocol;

#[cfg(feature = "apply")]
use crate::restore::Member;
use crate::restore::{Elements, Name, set_name};

/// Peer sets with the ports that one step asks for.
pub(crate) type Part = (BTreeSet<PeerSetId>, Vec<(Protocol, u16)>);

/// What a set of one family is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// The addresses of pods that are bound to any of these pipelines.
    Bound(Direction, Arc<BTreeSet<PipelineId>>),
    /// Strict mode: addresses that somebody owns, pod or node.
    Known,
    /// These networks.
    Networks(Vec<IpNet>),
    /// Strict mode: the addresses of nodes.
    Nodes,
    /// The members of any of these peer sets.
    Peers(BTreeSet<PeerSetId>),
    /// The members of peer sets, each with its ports.
    Ports(Vec<Part>),
    /// Addresses whose connections are judged anew with each packet; what is in it is not the program's.
    Unsettled,
}

impl Role {
    /// Returns the name of a set of this role, in its first edition.
    pub(crate) fn name(&self, family: Family) -> Name {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let letter = match self {
            Self::Bound(direction, pipelines) => {
                let _ = write!(text, "{direction}");
                for pipeline in pipelines.iter() {
                    let _ = write!(text, " {pipeline}");
                }
                'b'
            }
            Self::Known => 'k',
            Self::Networks(networks) => {
                for network in networks {
                    let _ = write!(text, "{network} ");
                }
                'n'
            }
            Self::Nodes => 'o',
            Self::Peers(ids) => {
                for id in ids {
                    let _ = write!(text, "{id} ");
                }
                'a'
            }
            Self::Ports(parts) => {
                for (ids, ports) in parts {
                    for id in ids {
                        let _ = write!(text, "{id} ");
                    }
                    for (protocol, port) in ports {
                        let _ = write!(text, "{protocol} {port} ");
                    }
                    text.push(';');
                }
                'p'
            }
            Self::Unsettled => 'u',
        };
        set_name(letter, family, &text)
    }

    /// Returns the members.
    pub(crate) fn elements(&self, ruleset: &Ruleset, family: Family) -> Elements {
        match self {
            Self::Networks(networks) => Elements::Networks(family, networks.clone()),
            Self::Bound(direction, pipelines) => {
                let bound = ruleset
                    .endpoints()
                    .filter(|endpoint| pipelines.contains(&endpoint.pipeline(*direction)));
                addresses(family, bound.flat_map(|endpoint| endpoint.addresses.iter().copied()))
            }
            Self::Known => {
                let pods = ruleset.endpoints().flat_map(|endpoint| &endpoint.addresses);
                let nodes = ruleset.nodes().values().flatten();
                addresses(family, pods.chain(nodes).copied())
            }
            Self::Nodes => addresses(family, ruleset.nodes().values().flatten().copied()),
            Self::Peers(ids) => addresses(family, members(ruleset, family, ids)),
            Self::Ports(parts) => {
                let mut all = Vec::new();
                for (ids, ports) in parts {
                    for address in members(ruleset, family, ids) {
                        all.extend(
                            ports.iter().map(|(protocol, port)| (address, *protocol, *port)),
                        );
                    }
                }
                all.sort_unstable();
                all.dedup();
                Elements::AddressPorts(family, all)
            }
            Self::Unsettled => Elements::Addresses(family, Vec::new()),
        }
    }

    /// Returns the members that an address makes, if `is_member` says which peer sets it belongs to.
    #[cfg(feature = "apply")]
    pub(crate) fn made_by(
        &self,
        address: IpAddr,
        is_member: impl Fn(PeerSetId) -> bool,
    ) -> BTreeSet<Member> {
        match self {
            Self::Peers(ids) => ids
                .iter()
                .copied()
                .any(is_member)
                .then_some(Member::Address(address))
                .into_iter()
                .collect(),
            Self::Ports(parts) => parts
                .iter()
                .filter(|(ids, _)| ids.iter().copied().any(&is_member))
                .flat_map(|(_, ports)| ports)
                .map(|(protocol, port)| Member::AddressPort(address, *protocol, *port))
                .collect(),
            Self::Bound(..) | Self::Known | Self::Networks(_) | Self::Nodes | Self::Unsettled => {
                BTreeSet::new()
            }
        }
    }
}

/// Returns the exact addresses in any of the sets, in one family, perhaps repeatedly.
fn members(
    ruleset: &Ruleset,
    family: Family,
    ids: &BTreeSet<PeerSetId>,
) -> impl Iterator<Item = IpAddr> {
    ids.iter().filter_map(|id| ruleset.peer_set(*id)).flat_map(move |set| {
        let (v4, v6) = match family {
            Family::V4 => (set.addresses.v4(), &[][..]),
            Family::V6 => (&[][..], set.addresses.v6()),
        };
        v4.iter().copied().map(IpAddr::V4).chain(v6.iter().copied().map(IpAddr::V6))
    })
}

/// Returns the set of those addresses that are of the family.
fn addresses(family: Family, all: impl Iterator<Item = IpAddr>) -> Elements {
    let mut members: Vec<IpAddr> = all.filter(|address| Family::of(*address) == family).collect();
    members.sort_unstable();
    members.dedup();
    if members.first().is_some_and(IpAddr::is_unspecified) {
        // A hash:ip refuses 0.0.0.0; a hash:net takes it.
        return Elements::Networks(family, members.into_iter().map(IpNet::from).collect());
    }
    Elements::Addresses(family, members)
}
