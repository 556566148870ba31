//! The reference algorithm of the semantics (section 0.1), written literally and slowly over the objects.
//!
//! It is the judge of `compile` and of every backend, so it shares nothing with them but the data types of `model` and
//! the words for a flow and a verdict: selectors, defaults, peers, ports and tiers are read here a second time, from the
//! numbered statements alone. It scans every object for every flow; nothing is indexed, merged or remembered.
#![expect(
    clippy::exhaustive_structs,
    clippy::exhaustive_enums,
    reason = "plain results that suites take apart; a new reason must reach each of them"
)]

mod cluster_network_policy;
mod network_policy;
mod objects;
mod selector;

use alloc::sync::Arc;
use core::fmt;
use core::net::IpAddr;

use netpol_core::ir::{
    Dialled, Direction, Flow, OtherProtocols, OwnNodeEgress, Reason, Settings, SideDecision,
    Transport, Verdict,
};
use netpol_core::model::{Cidr, Cluster, ObjectRef, Pod, Tier};

pub use objects::owner;

/// The verdict on a flow with both sides (NP-006).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judged {
    /// Allow only if both sides allow.
    pub verdict: Verdict,
    /// The source pod's egress.
    pub egress: Side,
    /// The destination pod's ingress.
    pub ingress: Side,
}

/// One side's verdict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Side {
    /// The verdict.
    pub verdict: Verdict,
    /// Which line of the reference algorithm returned it.
    pub why: Why,
}

/// Which line of the reference algorithm returned a verdict.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Why {
    /// No policed pod is at this end (NP-010, NP-131, NP-137).
    NotPoliced,
    /// The same pod by its own address (NP-120, CNP-019).
    SelfTraffic,
    /// The same pod through a Service, and an NP selects it (NP-121, DEC-03).
    Hairpin,
    /// The pod's own node (NP-125, NP-127, DEC-01).
    OwnNode,
    /// A protocol without ports under [`OtherProtocols::Pass`] (DEC-02).
    UnjudgedProtocol,
    /// Strict mode: an address of pods that no pod owns.
    UnknownPod,
    /// A rule of a ClusterNetworkPolicy: the policy and the index of the rule.
    ClusterRule(Arc<str>, usize),
    /// Every rule of every NetworkPolicy that matches: policy and index of the rule. Never empty.
    Admitted(Vec<(ObjectRef, usize)>),
    /// NetworkPolicies isolate the pod and no rule matches (NP-005).
    Isolated,
    /// The cluster's default (NP-003, CNP-033).
    Default,
}

/// Returns whether the flow is allowed.
#[must_use]
pub fn allowed(cluster: &Cluster, settings: Settings, flow: &Flow) -> Verdict {
    judge(cluster, settings, flow).verdict
}

/// Judges a flow on both sides.
#[must_use]
pub fn judge(cluster: &Cluster, settings: Settings, flow: &Flow) -> Judged {
    let source = owner(cluster, flow.source);
    let destination = owner(cluster, flow.destination);
    let same_pod = match (source, destination) {
        (Some(source), Some(destination)) => source.meta.object == destination.meta.object,
        (Some(_) | None, Some(_) | None) => false,
    };
    if same_pod && flow.dialled == Dialled::Address {
        let side = Side { verdict: Verdict::Allow, why: Why::SelfTraffic };
        return Judged { verdict: Verdict::Allow, egress: side.clone(), ingress: side };
    }
    let hairpin = same_pod;
    let situation = |direction| Situation { cluster, settings, flow, hairpin, direction };
    let egress = situation(Direction::Egress).side(source, flow.destination);
    let ingress = situation(Direction::Ingress).side(destination, flow.source);
    let verdict = match (egress.verdict, ingress.verdict) {
        (Verdict::Allow, Verdict::Allow) => Verdict::Allow,
        (Verdict::Deny, _) | (_, Verdict::Deny) => Verdict::Deny,
    };
    Judged { verdict, egress, ingress }
}

/// Judges a flow as [`judge`] does, in strict mode: the addresses of `pod_ranges` that are nobody's, neither a pod's nor a
/// node's, may neither send nor receive, except from a node.
#[must_use]
pub fn judge_strict(
    cluster: &Cluster,
    settings: Settings,
    pod_ranges: &[Cidr],
    flow: &Flow,
) -> Judged {
    let mut judged = judge(cluster, settings, flow);
    let is_node = |address| cluster.nodes.values().any(|node| node.addresses.contains(&address));
    let is_unknown = |address: IpAddr| {
        pod_ranges.iter().any(|range| range.contains(address))
            && owner(cluster, address).is_none()
            && !is_node(address)
    };
    let denied = Side { verdict: Verdict::Deny, why: Why::UnknownPod };
    if is_unknown(flow.source) {
        judged.egress = denied.clone();
        judged.verdict = Verdict::Deny;
    }
    if is_unknown(flow.destination) && !is_node(flow.source) {
        judged.ingress = denied;
        judged.verdict = Verdict::Deny;
    }
    judged
}

/// One side of one flow, before anything is decided.
struct Situation<'a> {
    cluster: &'a Cluster,
    settings: Settings,
    flow: &'a Flow,
    hairpin: bool,
    direction: Direction,
}

/// What a rule is asked about.
#[derive(Clone, Copy)]
struct Traffic<'a> {
    cluster: &'a Cluster,
    direction: Direction,
    /// The other end.
    peer: IpAddr,
    /// The policed pod that owns the other end, if one does (NP-132, CNP-013).
    peer_pod: Option<&'a Pod>,
    /// The policed pod at the destination, on which names resolve (NP-086, NP-087, CNP-056).
    destination_pod: Option<&'a Pod>,
    transport: Transport,
}

impl Situation<'_> {
    /// `side` of the reference algorithm, line by line.
    fn side(&self, subject: Option<&Pod>, peer: IpAddr) -> Side {
        let allow = |why| Side { verdict: Verdict::Allow, why };
        let deny = |why| Side { verdict: Verdict::Deny, why };
        let Some(subject) = subject else { return allow(Why::NotPoliced) };
        if self.settings.other_protocols == OtherProtocols::Pass
            && let Transport::Other(_) = self.flow.transport
        {
            return allow(Why::UnjudgedProtocol);
        }
        // A pod that reaches itself is at the other end itself; its node is not (NP-121).
        let own_node = !self.hairpin && objects::is_own_node(self.cluster, subject, peer);
        if self.direction == Direction::Ingress && own_node {
            return allow(Why::OwnNode);
        }
        let traffic = Traffic {
            cluster: self.cluster,
            direction: self.direction,
            peer,
            peer_pod: owner(self.cluster, peer),
            destination_pod: owner(self.cluster, self.flow.destination),
            transport: self.flow.transport,
        };
        match cluster_network_policy::tier(Tier::Admin, subject, traffic) {
            Some((Verdict::Allow, why)) => return allow(why),
            Some((Verdict::Deny, why)) => return deny(why),
            None => {}
        }
        if let Some(matching) = network_policy::judge(subject, traffic) {
            if self.hairpin {
                return allow(Why::Hairpin);
            }
            if own_node && self.settings.own_node_egress == OwnNodeEgress::Allow {
                return allow(Why::OwnNode);
            }
            return if matching.is_empty() {
                deny(Why::Isolated)
            } else {
                allow(Why::Admitted(matching))
            };
        }
        match cluster_network_policy::tier(Tier::Baseline, subject, traffic) {
            Some((Verdict::Allow, why)) => allow(why),
            Some((Verdict::Deny, why)) => deny(why),
            None => allow(Why::Default),
        }
    }
}

impl Side {
    /// Returns whether the evaluator of the IR came to the same verdict by the same line.
    #[must_use]
    pub fn agrees_with(&self, decision: &SideDecision) -> bool {
        self.verdict == decision.verdict
            && match (&self.why, &decision.reason) {
                (Why::NotPoliced, Reason::NotPoliced)
                | (Why::SelfTraffic, Reason::SelfTraffic)
                | (Why::Hairpin, Reason::Hairpin)
                | (Why::OwnNode, Reason::OwnNode)
                | (Why::UnjudgedProtocol, Reason::UnjudgedProtocol)
                | (Why::UnknownPod, Reason::UnknownPod)
                | (Why::Isolated, Reason::Isolated)
                | (Why::Default, Reason::NotIsolated) => true,
                (Why::ClusterRule(policy, rule), Reason::Rule(origin)) => {
                    origin.policy.object.namespace.is_empty()
                        && origin.policy.object.name == *policy
                        && usize::try_from(origin.rule) == Ok(*rule)
                }
                (Why::Admitted(rules), Reason::Rule(origin)) => {
                    rules.iter().any(|(policy, rule)| {
                        origin.policy.object == *policy && usize::try_from(origin.rule) == Ok(*rule)
                    })
                }
                (
                    Why::NotPoliced
                    | Why::SelfTraffic
                    | Why::Hairpin
                    | Why::OwnNode
                    | Why::UnjudgedProtocol
                    | Why::UnknownPod
                    | Why::ClusterRule(..)
                    | Why::Admitted(_)
                    | Why::Isolated
                    | Why::Default,
                    _,
                ) => false,
            }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.verdict)?;
        match &self.why {
            Why::NotPoliced => f.write_str("no policed pod at this end"),
            Why::SelfTraffic => f.write_str("a pod always reaches itself"),
            Why::Hairpin => f.write_str("a pod reaches itself through a Service"),
            Why::OwnNode => f.write_str("the pod's own node"),
            Why::UnjudgedProtocol => f.write_str("protocols without ports pass by configuration"),
            Why::UnknownPod => f.write_str("an address of pods that no pod owns"),
            Why::ClusterRule(policy, rule) => {
                write!(f, "ClusterNetworkPolicy {policy} rule {rule}")
            }
            Why::Admitted(rules) => {
                f.write_str("admitted by")?;
                rules.iter().try_for_each(|(policy, rule)| write!(f, " {policy} rule {rule}"))
            }
            Why::Isolated => f.write_str("isolated, and no rule matches"),
            Why::Default => f.write_str("not isolated"),
        }
    }
}
