//! The verdict on a resolved flow, and what it hangs on.

mod doubt;

use core::net::IpAddr;

use netpol_core::ir::{
    Decision, Direction, Family, Flow, Ruleset, SideDecision, Transport, Verdict,
};
use netpol_core::model::ObjectRef;

use crate::cli::FamilyChoice;
use crate::input::Input;
use crate::resolve::{End, EndKind, ResolveError, ResolvedFlow, Target, Targets};

/// Manifests with what they compile to, ready for flows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge<'a> {
    pub(crate) input: &'a Input,
    pub(crate) ruleset: &'a Ruleset,
    pub(crate) family: FamilyChoice,
}

/// The answer to one flow.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    /// The one target, or the first backend that decides the verdict.
    pub(crate) decisive: Case,
    /// Every backend, if the destination is a Service.
    pub(crate) service: Option<(ObjectRef, Vec<Case>)>,
    /// What the answer hangs on, one sentence each; none if it is certain.
    pub(crate) doubts: Vec<String>,
    /// What else to know.
    pub(crate) notes: Vec<String>,
}

/// One flow between two addresses, judged.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) source: JudgedEnd,
    pub(crate) destination: JudgedEnd,
    pub(crate) flow: Flow,
    pub(crate) decision: Decision,
    /// The verdict of the other family, where both ends have it and it differs.
    pub(crate) other_family: Option<(Family, Verdict)>,
}

/// An end as it was judged.
#[derive(Clone, Debug)]
pub(crate) struct JudgedEnd {
    pub(crate) kind: EndKind,
    /// The pod that owns the address, also where the flow names only the address.
    pub(crate) pod: Option<ObjectRef>,
    pub(crate) address: IpAddr,
    pub(crate) stand_in: bool,
}

impl Judge<'_> {
    pub(crate) fn judge(&self, flow: &ResolvedFlow) -> Result<Judged, ResolveError> {
        let mut doubts = Vec::new();
        let mut notes = self.end_notes(&flow.source);
        notes.extend(flow.hint.clone());
        let (service, targets) = match &flow.targets {
            Targets::One(target) => (None, core::slice::from_ref(target)),
            Targets::Service { service, backends } => (Some(service), backends.as_slice()),
        };
        let mut cases = Vec::new();
        for target in targets {
            notes.extend(self.end_notes(&target.end));
            let case = self.case(&flow.source, target)?;
            if let Some((family, verdict)) = case.other_family {
                notes.push(format!(
                    "{} {}, {family} {verdict}: the two ends have both families, and blocks of one never match the \
                     other (NP-068)",
                    Family::of(case.flow.source),
                    case.decision.verdict
                ));
            }
            doubts.extend(doubt::doubts(self, &case));
            cases.push(case);
        }
        let denied = cases.iter().filter(|case| case.decision.verdict == Verdict::Deny).count();
        let verdict = if denied == 0 { Verdict::Allow } else { Verdict::Deny };
        if let Some(service) = service
            && denied != 0
            && denied != cases.len()
        {
            doubts.push(format!(
                "{denied} of {} backends of Service {service} deny it, and a connection goes to any of them",
                cases.len()
            ));
        }
        doubts.dedup();
        notes.dedup();
        let decisive = cases.iter().find(|case| case.decision.verdict == verdict);
        let Some(decisive) = decisive.cloned() else {
            // Targets are never empty.
            return Err(ResolveError::NoBackend(service.cloned().unwrap_or_default()));
        };
        let service = service.map(|service| (service.clone(), cases));
        Ok(Judged { verdict, decisive, service, doubts, notes })
    }

    fn case(&self, source: &End, target: &Target) -> Result<Case, ResolveError> {
        let in_family = |family: Family| {
            let transport = target.wanted.transport(family)?;
            let mut flow = Flow::new(
                self.address_of(source, family)?,
                self.address_of(&target.end, family)?,
                transport,
            );
            flow.dialled = target.dialled;
            Some(flow)
        };
        let (v4, v6) = (in_family(Family::V4), in_family(Family::V6));
        let (flow, other) = match self.family {
            FamilyChoice::Ipv4 => {
                (v4.ok_or_else(|| ResolveError::NoSuchFamily("IPv4".into()))?, None)
            }
            FamilyChoice::Ipv6 => {
                (v6.ok_or_else(|| ResolveError::NoSuchFamily("IPv6".into()))?, None)
            }
            FamilyChoice::Auto => match (v4, v6) {
                (Some(v4), v6) => (v4, v6),
                (None, Some(v6)) => (v6, None),
                (None, None) => {
                    return Err(ResolveError::NoCommonFamily {
                        source: name_of(source),
                        destination: name_of(&target.end),
                    });
                }
            },
        };
        let decision = self.ruleset.verdict(&flow);
        let other_family = other
            .map(|other| (Family::of(other.source), self.ruleset.verdict(&other).verdict))
            .filter(|(_, verdict)| *verdict != decision.verdict);
        Ok(Case {
            source: self.judged(source, flow.source),
            destination: self.judged(&target.end, flow.destination),
            flow,
            decision,
            other_family,
        })
    }

    /// The address an end uses: one that belongs to it where several pods claim its addresses (NP-140).
    fn address_of(&self, end: &End, family: Family) -> Option<IpAddr> {
        let owned = |address: &&IpAddr| match &end.what {
            EndKind::Pod(pod) => {
                self.ruleset.owner(**address).is_some_and(|owner| owner.pod == *pod)
            }
            EndKind::Address | EndKind::Node(_) => true,
        };
        let of_family = |address: &&IpAddr| Family::of(**address) == family;
        end.addresses
            .iter()
            .filter(of_family)
            .find(owned)
            .copied()
            .or_else(|| end.address_of(family))
    }

    fn judged(&self, end: &End, address: IpAddr) -> JudgedEnd {
        let pod = match &end.what {
            EndKind::Pod(pod) => Some(pod.clone()),
            EndKind::Address | EndKind::Node(_) => {
                self.ruleset.owner(address).map(|owner| owner.pod.clone())
            }
        };
        JudgedEnd { kind: end.what.clone(), pod, address, stand_in: end.stand_in }
    }

    fn end_notes(&self, end: &End) -> Vec<String> {
        let mut notes = Vec::new();
        let pod = match (&end.what, end.addresses.first()) {
            (EndKind::Pod(pod), _) => Some(pod),
            (EndKind::Address, Some(address)) => {
                self.ruleset.owner(*address).map(|owner| &owner.pod)
            }
            (EndKind::Address, None) | (EndKind::Node(_), _) => None,
        };
        let Some(pod) = pod.and_then(|pod| self.input.cluster.pods.get(pod)) else { return notes };
        let name = &pod.meta.object;
        if pod.phase.is_finished() {
            notes.push(format!(
                "pod {name} has ended: no policy applies to it, and no traffic reaches it (NP-137)"
            ));
        } else if pod.host_network {
            notes.push(format!("pod {name} is on the host network: its traffic is its node's, and no policy selects it (NP-131)"));
        } else if end.what == EndKind::Address {
            notes.extend(end.addresses.iter().map(|address| format!("{address} is pod {name}")));
        } else {
            for address in &pod.addresses {
                if let Some(owner) = self.ruleset.owner(*address)
                    && owner.pod != *name
                {
                    notes.push(format!(
                        "address {address} of pod {name} belongs to pod {} (NP-140)",
                        owner.pod
                    ));
                }
            }
        }
        notes
    }
}

fn name_of(end: &End) -> String {
    match &end.what {
        EndKind::Address => end.addresses.first().map(ToString::to_string).unwrap_or_default(),
        EndKind::Node(name) => format!("node/{name}"),
        EndKind::Pod(pod) => pod.to_string(),
    }
}

impl Case {
    pub(crate) const fn side(&self, direction: Direction) -> &SideDecision {
        match direction {
            Direction::Ingress => &self.decision.ingress,
            Direction::Egress => &self.decision.egress,
        }
    }

    /// The end that a side judges.
    pub(crate) const fn subject(&self, direction: Direction) -> &JudgedEnd {
        match direction {
            Direction::Ingress => &self.destination,
            Direction::Egress => &self.source,
        }
    }

    /// The other end.
    pub(crate) const fn peer(&self, direction: Direction) -> &JudgedEnd {
        match direction {
            Direction::Ingress => &self.source,
            Direction::Egress => &self.destination,
        }
    }
}

/// Protocol and port as JSON gives them.
pub(crate) fn protocol_and_port(transport: Transport) -> (String, Option<u16>) {
    match transport {
        Transport::Port(protocol, port) => (protocol.to_string(), Some(port)),
        Transport::Other(number @ (1 | 58)) => (Transport::Other(number).to_string(), None),
        Transport::Other(number) => (number.to_string(), None),
    }
}
