//! A model of the program: what it does with a packet that opens a connection.

use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::ir::{Dialled, Flow, Transport, Verdict};
use netpol_core::model::Protocol;

use super::{Class, EndpointRow, MapImage, PolicyNumber, Word};

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
        let source = self.topology.pods.get(&flow.source);
        let destination = self.topology.pods.get(&flow.destination);
        if let (Some((source, _)), Some((destination, _))) = (source, destination)
            && source == destination
        {
            return match flow.dialled {
                Dialled::Address => None, // NP-120: never leaves the pod.
                Dialled::Service => Some(Hook::Forward),
            };
        }
        if destination.is_some_and(|(_, node)| node.contains(&flow.source)) {
            return None; // NP-125: generated on the node, so it leaves through output.
        }
        let to_node = source.is_some_and(|(_, node)| node.contains(&flow.destination));
        Some(if to_node { Hook::LocalIn } else { Hook::Forward })
    }

    /// Judges a flow's first packet.
    pub(crate) fn judge_flow(&self, flow: &Flow) -> Verdict {
        let (from, to) = (flow.source, flow.destination);
        let content = Content::Transport(flow.transport);
        let source = self.topology.pods.get(&from);
        let destination = self.topology.pods.get(&to);
        let to_node = source.is_some_and(|(_, node)| node.contains(&to));
        let from_node = destination.is_some_and(|(_, node)| node.contains(&from));
        let same_pod = source.zip(destination).is_some_and(|((a, _), (b, _))| a == b);
        let both_pods = source.is_some() && destination.is_some();
        if both_pods && !same_pod && (to_node || from_node) {
            // An address that, oddly, a pod and a node both have: the pod's side is judged all the same.
            let egress = self.endpoints.get(&from);
            let egress =
                egress.map_or(0, |row| if to_node { row.egress_to_node } else { row.egress });
            let ingress = self.endpoints.get(&to).filter(|_| !from_node);
            let ingress = ingress.map_or(0, |row| row.ingress);
            return self.judge_sides((egress, to), (ingress, from), content);
        }
        self.hook(flow).map_or(Verdict::Allow, |hook| {
            self.judge(&Packet { hook, source: from, destination: to, content })
        })
    }

    /// Judges a packet as the program does.
    #[must_use]
    pub fn judge(&self, packet: &Packet) -> Verdict {
        let source = self.endpoints.get(&packet.source);
        let destination =
            self.endpoints.get(&packet.destination).filter(|_| packet.hook == Hook::Forward);
        let hairpin = source.zip(destination).is_some_and(|(a, b)| a.number == b.number);
        let egress = source.map_or(0, |row: &EndpointRow| match (packet.hook, hairpin) {
            (Hook::LocalIn, _) => row.egress_to_node,
            (Hook::Forward, true) => row.egress_of_hairpin,
            (Hook::Forward, false) => row.egress,
        });
        let ingress =
            destination.map_or(0, |row| if hairpin { row.ingress_of_hairpin } else { row.ingress });
        self.judge_sides((egress, packet.destination), (ingress, packet.source), packet.content)
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
        if let Some(class) = self.addresses.get(&address) {
            return *class;
        }
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefixes = (0..longest).rev().filter_map(|length| IpNet::new(address, length).ok());
        prefixes.filter_map(|net| self.networks.get(&net.trunc())).copied().next().unwrap_or(0)
    }

    fn word(&self, policy: PolicyNumber, peer: IpAddr) -> Word {
        self.words
            .get(&(policy, self.class_of(peer)))
            .copied()
            // INVARIANT (closed) gives every policy a default; should it break, fail closed.
            .unwrap_or_else(|| self.policy(policy).map_or(Word::NOTHING, |policy| policy.default))
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
