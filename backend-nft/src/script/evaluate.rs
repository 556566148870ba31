//! A model of how the kernel evaluates the table.

use core::net::IpAddr;

use netpol_core::ir::{self, Dialled, Family, Flow, Transport};
use netpol_core::model::Protocol;

use super::{
    AddressRange, Chain, Elements, End, Hook, Key, Match, Rule, Script, Stamp, Statement, Table,
    Targets, Verdict,
};

impl Script {
    /// Returns the hook that a flow's packets pass, if they pass one at all.
    pub(crate) fn hook(&self, flow: &Flow) -> Option<Hook> {
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
            match walk(&self.table, chain, &packet) {
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

/// What a packet finds on its way.
trait Way {
    /// The chain that it enters.
    fn chain(&self, name: &str) -> Option<&Chain>;
    /// The map or set that it looks into.
    fn map(&self, name: &str) -> Option<&Targets>;
    fn set(&self, name: &str) -> Option<&Elements>;
    /// It marks its connection.
    fn marks(&self, _: Stamp) {}
}

impl Way for Table {
    fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.get(name)
    }

    fn map(&self, name: &str) -> Option<&Targets> {
        self.maps.get(name)
    }

    fn set(&self, name: &str) -> Option<&Elements> {
        self.sets.get(name)
    }
}

/// Walks a chain; `None` where it ends without a verdict.
fn walk(way: &impl Way, chain: &Chain, packet: &Packet) -> Option<Ending> {
    for rule in &chain.rules {
        match statement(way, rule, packet) {
            None => {}
            Some(Verdict::Accept) => return Some(Ending::Accept),
            Some(Verdict::Drop) => return Some(Ending::Drop),
            Some(Verdict::Goto(name)) => return walk(way, way.chain(name)?, packet),
            Some(Verdict::Jump(name)) => {
                if let Some(ending) = way.chain(name).and_then(|chain| walk(way, chain, packet)) {
                    return Some(ending);
                }
            }
        }
    }
    None
}

fn statement<'a>(way: &'a impl Way, rule: &'a Rule, packet: &Packet) -> Option<&'a Verdict> {
    if !rule.matches.iter().all(|condition| holds(way, condition, packet)) {
        return None;
    }
    match &rule.statement {
        Statement::Verdict(verdict) => Some(verdict),
        Statement::Stamp(stamp) => {
            way.marks(*stamp);
            None
        }
        Statement::Report(_) => None,
        Statement::Map(key, name) => {
            let map = way.map(name)?;
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

fn holds(way: &impl Way, condition: &Match, packet: &Packet) -> bool {
    match condition {
        // A flow is a connection's first packet, and ICMPv6 among flows is an echo request.
        Match::EstablishedOrRelated
        | Match::NeighbourDiscovery
        | Match::Related
        | Match::Reply
        | Match::Stamped(..) => false,
        Match::In(key, set) => looked_up(way, *key, set, packet) == Some(true),
        Match::NotIn(key, set) => looked_up(way, *key, set, packet) == Some(false),
        Match::Within(_, end, range) => range.contains(packet.address(*end)),
        Match::Protocol(protocol) => packet.protocol == protocol.number(),
        Match::Port(_, protocol, low, high) => {
            packet.port_of(*protocol).is_some_and(|port| (*low..=*high).contains(&port))
        }
    }
}

/// Looks a key up; `None` where the packet has no such key, which ends the rule in the kernel too.
fn looked_up(way: &impl Way, key: Key, set: &str, packet: &Packet) -> Option<bool> {
    let set = way.set(set)?;
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

impl AddressRange {
    fn contains(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(low, high), IpAddr::V4(address)) => (*low..=*high).contains(&address),
            (Self::V6(low, high), IpAddr::V6(address)) => (*low..=*high).contains(&address),
            (Self::V4(..), IpAddr::V6(_)) | (Self::V6(..), IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(all(test, feature = "apply"))]
pub(crate) mod across;
