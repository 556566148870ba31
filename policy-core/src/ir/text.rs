//! The canonical text: what `netpol compile` prints and what digests are taken of.

use core::fmt;

use super::{Peers, Pipeline, Rule, RuleBlock, Ruleset, Scope};
use crate::ir::Direction;

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Set(id) => fmt::Display::fmt(id, f),
        }
    }
}

impl fmt::Display for RuleBlock {
    /// Writes the policy, then a line for each rule: `  ingress[0].from[1] accept s… TCP 80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In pieces rather than by `write!`: a cluster's load takes the digest of a hundred thousand of these.
        fmt::Display::fmt(self.policy(), f)?;
        if let Some(uid) = &self.policy().uid {
            f.write_str(" uid ")?;
            f.write_str(uid)?;
        }
        f.write_str(" ")?;
        fmt::Display::fmt(&self.direction(), f)?;
        f.write_str("\n")?;
        let list = match self.direction() {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        for Rule { rule, peer, action, peers, ports } in self.rules() {
            f.write_str("  ")?;
            fmt::Display::fmt(&self.direction(), f)?;
            f.write_str("[")?;
            fmt::Display::fmt(rule, f)?;
            f.write_str("]")?;
            if let Some(peer) = peer {
                f.write_str(".")?;
                f.write_str(list)?;
                f.write_str("[")?;
                fmt::Display::fmt(peer, f)?;
                f.write_str("]")?;
            }
            f.write_str(" ")?;
            fmt::Display::fmt(action, f)?;
            f.write_str(" ")?;
            fmt::Display::fmt(peers, f)?;
            f.write_str(" ")?;
            fmt::Display::fmt(ports, f)?;
            f.write_str("\n")?;
        }
        Ok(())
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pipeline {} {}", self.id(), self.direction)?;
        if !self.admin.is_empty() {
            writeln!(f, " admin")?;
        }
        self.admin.iter().try_for_each(|block| write!(f, "{}", Indented(block)))?;
        match &self.network_policy {
            Some(blocks) => {
                writeln!(f, " isolated")?;
                blocks.iter().try_for_each(|block| write!(f, "{}", Indented(block)))?;
                writeln!(f, "  otherwise deny")?;
            }
            None => writeln!(f, " not isolated")?,
        }
        if !self.baseline.is_empty() {
            writeln!(f, " baseline")?;
        }
        self.baseline.iter().try_for_each(|block| write!(f, "{}", Indented(block)))
    }
}

struct Indented<'a>(&'a RuleBlock);

impl fmt::Display for Indented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        alloc::format!("{}", self.0).lines().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Node(name) => write!(f, "node {name}"),
        }
    }
}

impl fmt::Display for Ruleset {
    /// Writes endpoints by pod, pipelines and peer sets by id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ruleset of {}", self.scope())?;
        let settings = self.settings();
        writeln!(
            f,
            "settings own-node-egress {:?} other-protocols {:?}",
            settings.own_node_egress, settings.other_protocols
        )?;
        let ranges = self.pod_ranges().cidrs();
        if !ranges.is_empty() {
            write!(f, "pod ranges")?;
            ranges.iter().try_for_each(|range| write!(f, " {range}"))?;
            writeln!(f)?;
        }
        for (name, addresses) in self.nodes() {
            write!(f, "node {name}")?;
            addresses.iter().try_for_each(|address| write!(f, " {address}"))?;
            writeln!(f)?;
        }
        for endpoint in self.endpoints() {
            write!(f, "endpoint {}", endpoint.pod)?;
            if let Some(node) = &endpoint.node {
                write!(f, " on {node}")?;
            }
            endpoint.addresses.iter().try_for_each(|address| write!(f, " {address}"))?;
            writeln!(f, " ingress {} egress {}", endpoint.ingress, endpoint.egress)?;
        }
        self.pipelines().try_for_each(|(_, pipeline)| write!(f, "{pipeline}"))?;
        for (id, set) in self.peer_sets() {
            writeln!(f, "set {id} {}", set.selector)?;
            set.addresses.iter().try_for_each(|address| writeln!(f, " {address}"))?;
        }
        Ok(())
    }
}
