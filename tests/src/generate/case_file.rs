//! A generated case as the text of a case file, to be saved where the others are.

use core::fmt;
use core::net::IpAddr;

use netpol_core::ir::{Dialled, Flow, OtherProtocols, OwnNodeEgress, Transport};
use netpol_k8s::manifest::write_yaml;

use super::Case;
use crate::oracle;

impl fmt::Display for Case {
    /// Writes the flows with the verdicts of the oracle, the choices and the objects.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "apiVersion: netpol.test/v1\nkind: Case\nwhy: Found by the generator.\ncites: []"
        )?;
        if self.settings.own_node_egress == OwnNodeEgress::Enforce
            || self.settings.other_protocols == OtherProtocols::Pass
        {
            writeln!(f, "settings:")?;
        }
        match self.settings.own_node_egress {
            OwnNodeEgress::Allow => {}
            OwnNodeEgress::Enforce => writeln!(f, "  own-node-egress: enforce")?,
        }
        match self.settings.other_protocols {
            OtherProtocols::Judge => {}
            OtherProtocols::Pass => writeln!(f, "  other-protocols: pass")?,
        }
        writeln!(f, "flows:")?;
        for flow in &self.flows {
            let verdict = oracle::allowed(&self.cluster, self.settings, flow);
            writeln!(f, "  \"{}\": {verdict}", Line(flow))?;
        }
        writeln!(f, "---")?;
        f.write_str(&write_yaml(&self.cluster))
    }
}

/// A flow as a case file writes it.
struct Line<'a>(&'a Flow);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flow { source, destination, transport, dialled } = self.0;
        write!(f, "{} -> {}:", End(*source), End(*destination))?;
        match transport {
            Transport::Port(protocol, port) => write!(f, "{port}/{protocol}")?,
            Transport::Other(number) => write!(f, "{number}")?,
        }
        match dialled {
            Dialled::Address => Ok(()),
            Dialled::Service => f.write_str(" via Service"),
        }
    }
}

/// An address, the family with colons in brackets.
struct End(IpAddr);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => fmt::Display::fmt(&address, f),
            IpAddr::V6(address) => write!(f, "[{address}]"),
        }
    }
}
