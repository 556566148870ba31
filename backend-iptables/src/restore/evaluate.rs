//! A model of how the kernel walks the chains.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::net::IpAddr;

use netpol_core::ir::{self, Dialled, Family, Flow, Transport};
use netpol_core::model::Protocol;

use super::{Elements, End, Filter, Hook, Key, Match, Name, RestoreInput, Rule, Target};

impl RestoreInput {
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
        let on_node = |pod: Option<&(usize, Arc<[IpAddr]>)>, address: IpAddr| {
            pod.is_some_and(|(_, node)| node.contains(&address))
        };
        if on_node(destination, flow.source) {
            return None; // NP-125: generated on the node, so it leaves through OUTPUT.
        }
        Some(if on_node(source, flow.destination) { Hook::Input } else { Hook::Forward })
    }

    pub(crate) fn judge(&self, flow: &Flow) -> ir::Verdict {
        let Some(hook) = self.hook(flow) else { return ir::Verdict::Allow };
        self.walk(flow, &self.sets).verdict(hook)
    }

    /// Returns the verdicts on packets that were on their way while the sets of `earlier` became those of now: each looked
    /// up a few of them before, and the others after.
    #[cfg(all(test, feature = "apply"))]
    pub(crate) fn judge_across(
        &self,
        earlier: &BTreeMap<Name, Elements>,
        flow: &Flow,
    ) -> Vec<ir::Verdict> {
        let Some(hook) = self.hook(flow) else { return alloc::vec![ir::Verdict::Allow] };
        let mut verdicts = Vec::new();
        loop {
            let mut walk = self.walk(flow, &self.sets);
            walk.earlier = Some((verdicts.len(), earlier));
            let verdict = walk.verdict(hook);
            verdicts.push(verdict);
            if walk.look_ups.get() < verdicts.len() {
                return verdicts;
            }
        }
    }

    fn walk<'a>(&'a self, flow: &Flow, sets: &'a BTreeMap<Name, Elements>) -> Walk<'a> {
        Walk {
            sets,
            #[cfg(all(test, feature = "apply"))]
            earlier: None,
            #[cfg(all(test, feature = "apply"))]
            look_ups: core::cell::Cell::new(0),
            filter: self.filter(Family::of(flow.source)),
            packet: Packet::from(flow),
        }
    }
}

/// What the rules can see of a packet that opens a connection.
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    /// The protocol with its destination port; other protocols have bytes there that no rule ever asks for.
    port: Option<(Protocol, u16)>,
}

impl From<&Flow> for Packet {
    fn from(flow: &Flow) -> Self {
        let port = match flow.transport {
            Transport::Port(protocol, port) => Some((protocol, port)),
            Transport::Other(_) => None,
        };
        Self { source: flow.source, destination: flow.destination, port }
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
        self.port.filter(|(own, _)| *own == protocol).map(|(_, port)| port)
    }
}

/// How a chain ends.
enum Ending {
    Drop,
    /// Behind the jump that led here.
    Return,
}

/// A packet on its way.
struct Walk<'a> {
    sets: &'a BTreeMap<Name, Elements>,
    /// What so many of the first look-ups find instead.
    #[cfg(all(test, feature = "apply"))]
    earlier: Option<(usize, &'a BTreeMap<Name, Elements>)>,
    /// How many there were.
    #[cfg(all(test, feature = "apply"))]
    look_ups: core::cell::Cell<usize>,
    filter: &'a Filter,
    packet: Packet,
}

impl Walk<'_> {
    fn verdict(&self, hook: Hook) -> ir::Verdict {
        match self.chain(hook.chain()) {
            Ending::Drop => ir::Verdict::Deny,
            Ending::Return => ir::Verdict::Allow,
        }
    }

    fn chain(&self, name: &str) -> Ending {
        let rules = self.filter.chains.get(name).map_or(&[][..], |rules| rules);
        for rule in rules.iter().filter(|rule| self.matches(rule)) {
            match &rule.target {
                Target::Drop => return Ending::Drop,
                Target::Return => return Ending::Return,
                Target::Goto(name) => return self.chain(name),
                Target::Mark(_) | Target::Log(..) => {}
                Target::Jump(name) => match self.chain(name) {
                    Ending::Drop => return Ending::Drop,
                    Ending::Return => {}
                },
            }
        }
        Ending::Return
    }

    fn matches(&self, rule: &Rule) -> bool {
        rule.matches.iter().all(|condition| self.holds(condition))
    }

    fn holds(&self, condition: &Match) -> bool {
        let within = |port: u16, (low, high): (u16, u16)| (low..=high).contains(&port);
        match condition {
            Match::Within(end, net) => net.contains(&self.packet.address(*end)),
            Match::Protocol(protocol) => self.packet.port_of(*protocol).is_some(),
            Match::Port(End::Destination, protocol, low, high) => {
                self.packet.port_of(*protocol).is_some_and(|port| within(port, (*low, *high)))
            }
            Match::Ports(End::Destination, protocol, ranges) => self
                .packet
                .port_of(*protocol)
                .is_some_and(|port| ranges.iter().any(|range| within(port, *range))),
            // A flow is a connection's first packet, and ICMPv6 among flows is an echo request. Only answers are asked for
            // their source port. The limit is one of reports.
            Match::State(_)
            | Match::Mark(_)
            | Match::Icmpv6(_)
            | Match::Limit(_)
            | Match::Port(End::Source, ..)
            | Match::Ports(End::Source, ..) => false,
            Match::SameAddress(_) => self.packet.source == self.packet.destination,
            Match::In(set, key) => self.looked_up(set, *key),
            Match::NotIn(set, key) => !self.looked_up(set, *key),
        }
    }

    #[cfg(not(all(test, feature = "apply")))]
    const fn sets(&self) -> &BTreeMap<Name, Elements> {
        self.sets
    }

    #[cfg(all(test, feature = "apply"))]
    fn sets(&self) -> &BTreeMap<Name, Elements> {
        let number = self.look_ups.get();
        self.look_ups.set(number + 1);
        match self.earlier {
            Some((first, sets)) if number < first => sets,
            Some(_) | None => self.sets,
        }
    }

    fn looked_up(&self, set: &str, key: Key) -> bool {
        let Some(set) = self.sets().get(set) else { return false };
        match key {
            Key::Address(end) => set.contains(self.packet.address(end)),
            Key::AddressPort(_, End::Source) => false,
            Key::AddressPort(end, End::Destination) => {
                self.packet.port.is_some_and(|(protocol, port)| {
                    set.contains_port(self.packet.address(end), protocol, port)
                })
            }
        }
    }
}
