//! A model of how the kernel evaluates the table.

use core::net::IpAddr;

use netpol_core::ir::{self, Dialled, Family, Flow, Transport};
use netpol_core::model::Protocol;

use super::{AddressRange, Chain, End, Hook, Key, Match, Rule, Script, Statement, Table, Verdict};

impl Script {
    /// Returns the hook that a flow's packets pass, if they pass one at all.
    fn hook(&self, flow: &Flow) -> Option<Hook> {
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
        let on_node = |pod: Option<&(usize, alloc::sync::Arc<[IpAddr]>)>, address: IpAddr| {
            pod.is_some_and(|(_, node)| node.contains(&address))
        };
        if on_node(destination, flow.source) {
            return None; // NP-125: generated on the node, so it leaves through output.
        }
        if source.is_none() && destination.is_none() && self.topology.nodes.contains(&flow.source) {
            return None; // A node reaches pods that are not known yet, which strict mode keeps from everybody else.
        }
        Some(if on_node(source, flow.destination) { Hook::Input } else { Hook::Forward })
    }

    pub(crate) fn judge(&self, flow: &Flow) -> ir::Verdict {
        let Some(hook) = self.hook(flow) else { return ir::Verdict::Allow };
        let packet = Packet::from(flow);
        for chain in self.table.chains.values().filter(|chain| chain.hook == Some(hook)) {
            match self.table.walk(chain, &packet) {
                Some(Ending::Drop) => return ir::Verdict::Deny,
                Some(Ending::Accept) | None => {} // The policy is accept.
            }
        }
        ir::Verdict::Allow
    }
}

/// What the rules can see of a packet that opens a connection.
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// The destination port; other protocols have bytes there that no rule ever asks for.
    port: Option<u16>,
}

impl From<&Flow> for Packet {
    fn from(flow: &Flow) -> Self {
        let (protocol, port) = match flow.transport {
            Transport::Port(protocol, port) => (protocol.number(), Some(port)),
            Transport::Other(number) => (number, None),
        };
        Self { source: flow.source, destination: flow.destination, protocol, port }
    }
}

impl Packet {
    const fn address(&self, end: End) -> IpAddr {
        match end {
            End::Source => self.source,
            End::Destination => self.destination,
        }
    }

    fn port_of(&self, protocol: Protocol) -> Option<u16> {
        self.port.filter(|_| self.protocol == protocol.number())
    }
}

/// How the evaluation of the table ends.
enum Ending {
    Accept,
    Drop,
}

impl Table {
    /// Walks a chain; `None` where it ends without a verdict.
    fn walk(&self, chain: &Chain, packet: &Packet) -> Option<Ending> {
        for rule in &chain.rules {
            match self.statement(rule, packet) {
                None => {}
                Some(Verdict::Accept) => return Some(Ending::Accept),
                Some(Verdict::Drop) => return Some(Ending::Drop),
                Some(Verdict::Goto(name)) => return self.walk(self.chains.get(name)?, packet),
                Some(Verdict::Jump(name)) => {
                    if let Some(ending) =
                        self.chains.get(name).and_then(|chain| self.walk(chain, packet))
                    {
                        return Some(ending);
                    }
                }
            }
        }
        None
    }

    fn statement<'a>(&'a self, rule: &'a Rule, packet: &Packet) -> Option<&'a Verdict> {
        if !rule.matches.iter().all(|condition| self.holds(condition, packet)) {
            return None;
        }
        match &rule.statement {
            Statement::Verdict(verdict) => Some(verdict),
            Statement::Stamp(_) | Statement::Report(_) => None,
            Statement::Map(key, name) => {
                let map = self.maps.get(name)?;
                match key {
                    Key::Address(_, family, end) => {
                        let address = packet.address(*end);
                        map.of_address(address).filter(|_| Family::of(address) == *family)
                    }
                    Key::Port(_, protocol) => map.of_port(packet.port_of(*protocol)?),
                    Key::Addresses(..) | Key::Protocol | Key::ProtocolPort => None,
                }
            }
        }
    }

    fn holds(&self, condition: &Match, packet: &Packet) -> bool {
        match condition {
            // A flow is a connection's first packet, and ICMPv6 among flows is an echo request.
            Match::EstablishedOrRelated
            | Match::NeighbourDiscovery
            | Match::Related
            | Match::Reply
            | Match::Stamped(..) => false,
            Match::In(key, set) => self.looked_up(*key, set, packet) == Some(true),
            Match::NotIn(key, set) => self.looked_up(*key, set, packet) == Some(false),
            Match::Within(_, end, range) => range.contains(packet.address(*end)),
            Match::Protocol(protocol) => packet.protocol == protocol.number(),
            Match::Port(_, protocol, low, high) => {
                packet.port_of(*protocol).is_some_and(|port| (*low..=*high).contains(&port))
            }
        }
    }

    /// Looks a key up; `None` where the packet has no such key, which ends the rule in the kernel too.
    fn looked_up(&self, key: Key, set: &str, packet: &Packet) -> Option<bool> {
        let set = self.sets.get(set)?;
        let of_family = |family| {
            (Family::of(packet.source) == family).then_some((packet.source, packet.destination))
        };
        Some(match key {
            Key::Address(_, family, end) => {
                of_family(family)?;
                set.contains_address(packet.address(end))
            }
            Key::Addresses(_, family) => {
                let (source, destination) = of_family(family)?;
                set.contains_pair(source, destination)
            }
            Key::Port(_, protocol) => set.contains_port(packet.port_of(protocol)?),
            Key::Protocol => set.contains_protocol(packet.protocol),
            Key::ProtocolPort => set.contains_protocol_port(packet.protocol, packet.port?),
        })
    }
}

impl AddressRange {
    fn contains(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(low, high), IpAddr::V4(address)) => (*low..=*high).contains(&address),
            (Self::V6(low, high), IpAddr::V6(address)) => (*low..=*high).contains(&address),
            (Self::V4(..), IpAddr::V6(_)) | (Self::V6(..), IpAddr::V4(_)) => false,
        }
    }
}
