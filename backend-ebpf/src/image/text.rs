//! The image as text, so that a person can follow a packet by hand.

use core::fmt;

use netpol_core::ir::Verdict;
use netpol_core::model::Protocol;

use super::{MapImage, PolicyNumber, PortRow, Word};

impl fmt::Display for MapImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "hosts: address -> class and pod, where there is one")?;
        for (address, host) in &self.hosts {
            write!(f, "  {address} ->")?;
            if let Some(class) = host.class {
                write!(f, " c{class}")?;
            }
            if host.pod != 0 {
                write!(f, " pod {}", host.pod)?;
            }
            if host.is_node {
                f.write_str(" node")?;
            }
            if let Some(place) = self.topology.pods.get(address) {
                write!(f, " ({})", place.pod)?;
            }
            writeln!(f)?;
        }
        writeln!(f, "pods: pod -> policy by direction and situation")?;
        for (pod, row) in &self.pods {
            write!(f, "  {pod} ->")?;
            for (separator, what, policy) in [
                ("", "ingress", row.ingress),
                (",", "egress", row.egress),
                (",", "hairpin ingress", row.ingress_of_hairpin),
                (",", "hairpin egress", row.egress_of_hairpin),
                (",", "egress to node", row.egress_to_node),
            ] {
                write!(f, "{separator} {what} ")?;
                if policy == 0 { f.write_str("open")? } else { write!(f, "policy {policy}")? }
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "networks: prefix -> class, where the address has none of its own; nothing matches: c0"
        )?;
        for (network, class) in &self.networks {
            writeln!(f, "  {network} -> c{class}")?;
        }
        writeln!(f, "words: policy, class -> what passes")?;
        for (number, policy) in &self.policies {
            match policy.pipeline {
                Some(pipeline) => writeln!(f, "  policy {number} (pipeline {pipeline})")?,
                None => writeln!(f, "  policy {number} (unknown pods)")?,
            }
            for ((_, class), word) in self.words_of(*number) {
                writeln!(f, "    c{class} -> {word}")?;
            }
            writeln!(f, "    every other class -> {}", policy.default)?;
        }
        writeln!(f, "ports: list, protocol, port/prefix -> verdict")?;
        for (list, rows) in &self.ports {
            for row in rows {
                writeln!(f, "  {list} {row}")?;
            }
        }
        if self.is_strict() {
            writeln!(f, "ranges: only known pods and nodes talk here")?;
            for network in self.ranges.cidrs() {
                writeln!(f, "  {network}")?;
            }
        }
        Ok(())
    }
}

impl MapImage {
    fn words_of(
        &self,
        policy: PolicyNumber,
    ) -> impl Iterator<Item = (&(PolicyNumber, u32), &Word)> {
        self.words.range((policy, 0)..=(policy, u32::MAX))
    }
}

impl fmt::Display for Word {
    /// Writes what protocols without ports and each protocol may do: `all`, `nothing`, or
    /// `others deny, TCP deny but ports 3, UDP allow, SCTP deny`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::EVERYTHING => return f.write_str("all"),
            Self::NOTHING => return f.write_str("nothing"),
            _ => {}
        }
        write!(f, "others {}", self.others())?;
        for protocol in Protocol::ALL {
            write!(f, ", {protocol} {}", self.default(protocol))?;
            if self.has_rows(protocol) {
                write!(f, " but ports {}", self.ports())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for PortRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, prefix, port, allow } = self;
        let verdict = if *allow { Verdict::Allow } else { Verdict::Deny };
        write!(f, "{protocol} {port}/{prefix} -> {verdict}")
    }
}
