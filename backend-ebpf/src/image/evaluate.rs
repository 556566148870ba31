//! A model of the program: what it does with a packet that opens a connection.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::ir::{Dialled, Flow, Transport, Verdict};
use netpol_core::model::Protocol;

use super::{Class, MapImage, NOBODY, PodNumber, PodRow, PolicyNumber, Topology, Word};

/// Where the kernel shows a packet to the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the program knows two hooks")]
pub enum Hook {
    /// Between two hosts: pods, or a pod and anything else.
    Forward,
    /// To the node itself: a pod to its own node (DEC-01).
    LocalIn,
}

/// What the program sees of a packet that opens a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "all that the program looks at")]
pub struct Packet {
    /// Where it is.
    pub hook: Hook,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What is inside.
    pub content: Content,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "all that the program tells apart")]
pub enum Content {
    /// Something whose ports, if it has any, can be read.
    Transport(Transport),
    /// A fragment other than the first, of a protocol with ports: it passes where all ports do (NP-116).
    LaterFragment(Protocol),
    /// Neighbour or router discovery (NP-115).
    NeighbourDiscovery,
    /// Headers that cannot be read to their end: a pod with a policy never gets it.
    Unreadable,
}

impl MapImage {
    /// Returns the hook that a flow's packets pass, if they pass one at all.
    #[must_use]
    pub fn hook(&self, flow: &Flow) -> Option<Hook> {
        let Topology { pods, .. } = &self.topology;
        let (source, destination) = (pods.get(&flow.source), pods.get(&flow.destination));
        if let (Some(source), Some(destination)) = (source, destination)
            && source.pod == destination.pod
        {
            return match flow.dialled {
                Dialled::Address => None, // NP-120: never leaves the pod.
                Dialled::Service => Some(Hook::Forward),
            };
        }
        if self.topology.is_own_node(destination, flow.source) {
            return None; // NP-125: generated on the node, so it leaves through output.
        }
        let to_node = self.topology.is_own_node(source, flow.destination);
        Some(if to_node { Hook::LocalIn } else { Hook::Forward })
    }

    /// Judges a flow's first packet.
    pub(crate) fn judge_flow(&self, flow: &Flow) -> Verdict {
        let (from, to) = (flow.source, flow.destination);
        let content = Content::Transport(flow.transport);
        let Topology { pods, .. } = &self.topology;
        let (source, destination) = (pods.get(&from), pods.get(&to));
        let to_node = self.topology.is_own_node(source, to);
        let from_node = self.topology.is_own_node(destination, from);
        let same_pod = source.zip(destination).is_some_and(|(a, b)| a.pod == b.pod);
        if source.is_some() && destination.is_some() && !same_pod && (to_node || from_node) {
            // An address that, oddly, a pod and a node both have: the pod's side is judged all the same.
            let egress = self.pod(self.host(from).pod);
            let egress = if to_node { egress.egress_to_node } else { egress.egress };
            let ingress = if from_node { 0 } else { self.pod(self.host(to).pod).ingress };
            return self.judge_sides((egress, to), (ingress, from), content);
        }
        self.hook(flow).map_or(Verdict::Allow, |hook| {
            self.judge(&Packet { hook, source: from, destination: to, content })
        })
    }

    /// Judges a packet as the program does.
    #[must_use]
    pub fn judge(&self, packet: &Packet) -> Verdict {
        let Packet { hook, source: from, destination: to, content } = *packet;
        let (source, destination) = (self.host(from), self.host(to));
        let of_source = if self.is_unknown(from) { NOBODY } else { source.pod };
        let to_nobody = hook == Hook::Forward && !source.is_node && self.is_unknown(to);
        let of_destination = if to_nobody { NOBODY } else { destination.pod };
        let hairpin = of_source == of_destination;
        let row = self.pod(of_source);
        let egress = match (hook, hairpin) {
            (Hook::LocalIn, _) => row.egress_to_node,
            (Hook::Forward, true) => row.egress_of_hairpin,
            (Hook::Forward, false) => row.egress,
        };
        let row = self.pod(of_destination);
        let ingress = match (hook, hairpin) {
            (Hook::LocalIn, _) => 0,
            (Hook::Forward, true) => row.ingress_of_hairpin,
            (Hook::Forward, false) => row.ingress,
        };
        self.judge_sides((egress, to), (ingress, from), content)
    }

    /// Returns the policies of a pod; none for 0.
    fn pod(&self, number: PodNumber) -> PodRow {
        self.pods.get(&number).copied().unwrap_or_default()
    }

    /// Judges both sides, each a policy and the other end.
    fn judge_sides(
        &self,
        egress: (PolicyNumber, IpAddr),
        ingress: (PolicyNumber, IpAddr),
        content: Content,
    ) -> Verdict {
        if egress.0 == 0 && ingress.0 == 0 {
            return Verdict::Allow;
        }
        match content {
            Content::NeighbourDiscovery => return Verdict::Allow,
            Content::Unreadable => return Verdict::Deny,
            Content::Transport(_) | Content::LaterFragment(_) => {}
        }
        let passes = |(policy, peer): (PolicyNumber, IpAddr)| {
            policy == 0 || self.decide(self.word(policy, peer), content) == Verdict::Allow
        };
        if passes(egress) && passes(ingress) { Verdict::Allow } else { Verdict::Deny }
    }

    /// Returns the class of an address.
    #[must_use]
    pub fn class_of(&self, address: IpAddr) -> Class {
        self.host(address).class.unwrap_or_else(|| class_in(&self.networks, address.into()))
    }

    fn word(&self, policy: PolicyNumber, peer: IpAddr) -> Word {
        let word = self.words.get(&(policy, self.class_of(peer))).copied();
        // INVARIANT (closed) gives every policy a default; should it break, fail closed.
        let default = || self.policies.get(&policy).map_or(Word::NOTHING, |row| row.default);
        word.unwrap_or_else(default)
    }

    fn decide(&self, word: Word, content: Content) -> Verdict {
        let (protocol, port) = match content {
            Content::Transport(Transport::Port(protocol, port)) => (protocol, Some(port)),
            Content::LaterFragment(protocol) => (protocol, None),
            Content::Transport(Transport::Other(_)) => return word.others(),
            Content::NeighbourDiscovery | Content::Unreadable => return Verdict::Deny,
        };
        if !word.has_rows(protocol) {
            return word.default(protocol);
        }
        // The rows say something else than the default for some port, so not every port passes.
        let Some(port) = port else { return Verdict::Deny };
        let rows = self.ports.get(&word.ports()).map(Vec::as_slice).unwrap_or_default();
        for prefix in word.prefixes() {
            let masked = port & (u16::MAX << (16 - prefix));
            let row = rows
                .iter()
                .find(|row| (row.protocol, row.prefix, row.port) == (protocol, prefix, masked));
            if let Some(row) = row {
                return if row.allow { Verdict::Allow } else { Verdict::Deny };
            }
        }
        word.default(protocol)
    }
}

/// Returns the class of the longest of these networks that holds all of `network`; 0 if none does.
pub(crate) fn class_in(networks: &BTreeMap<IpNet, Class>, network: IpNet) -> Class {
    let prefixes = (0..=network.prefix_len()).rev();
    prefixes
        .filter_map(|length| IpNet::new(network.addr(), length).ok())
        .find_map(|prefix| networks.get(&prefix.trunc()))
        .copied()
        .unwrap_or(0)
}
