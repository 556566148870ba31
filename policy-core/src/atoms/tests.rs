use alloc::string::ToString as _;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::{Atoms, Bound, ClassId, Classes, Cost, Listed, Then};
use crate::ir::{
    Action, Direction, PeerSelector, PeerSet, PeerSetId, Peers, Pipeline, PolicyKind, PolicyRef,
    Ports, Reason, Rule, RuleBlock, Settings, Situation, Transport, Verdict,
};
use crate::model::{Cidr, ObjectRef, Protocol};
use crate::net::{PortSet, PrefixSet};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id(name: &str) -> PeerSetId {
    PeerSetId::of(name)
}

fn set(addresses: &[&str], cidrs: &[&str]) -> PeerSet {
    let cidrs: Vec<Cidr> = cidrs.iter().map(|text| Cidr::parse(text).unwrap()).collect();
    let networks = PrefixSet::from_cidrs(&cidrs);
    PeerSet {
        selector: PeerSelector::Networks(networks.clone()),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        networks,
    }
}

fn classes(sets: &[(&str, PeerSet)]) -> Classes {
    Classes::new(sets.iter().map(|(name, set)| (id(name), set)))
}

fn rule(action: Action, set: Option<&str>, ports: &[(u16, u16)]) -> Rule {
    let ranges = ports.iter().map(|(low, high)| (Protocol::Tcp, *low, *high));
    Rule {
        rule: 0,
        peer: None,
        action,
        peers: set.map_or(Peers::Any, |name| Peers::Set(id(name))),
        ports: if ports.is_empty() {
            Ports::Any
        } else {
            Ports::Set(Arc::new(PortSet::from_ranges(ranges)))
        },
    }
}

fn block(kind: PolicyKind, rules: Vec<Rule>) -> Vec<Arc<RuleBlock>> {
    let numbered = (0..).zip(rules).map(|(number, rule)| Rule { rule: number, ..rule }).collect();
    let policy = Arc::new(PolicyRef { kind, object: ObjectRef::new("x", "p"), uid: None });
    vec![Arc::new(RuleBlock::new(policy, Direction::Ingress, numbered))]
}

/// Admin rules over NetworkPolicy rules.
fn pipeline(admin: Vec<Rule>, network_policy: Vec<Rule>) -> Pipeline {
    Pipeline {
        direction: Direction::Ingress,
        admin: block(PolicyKind::ClusterNetworkPolicy, admin),
        network_policy: Some(block(PolicyKind::NetworkPolicy, network_policy)),
        baseline: Vec::new(),
    }
}

/// Writes pieces as `0-79 deny isolated, 80 allow …` for TCP, and protocols without ports behind a slash.
#[track_caller]
fn check(pipeline: &Pipeline, classes: &Classes, class: ClassId, expect: &str) {
    let atoms = Atoms::unbounded(pipeline, Settings::default(), classes);
    let pieces = atoms.pieces(class, Situation::Ordinary);
    let told = pieces.ports().iter().filter(|piece| piece.protocol == Protocol::Tcp).map(|piece| {
        let by = if let Reason::Rule(origin) = &piece.decision.reason {
            alloc::format!("{}", origin.rule)
        } else {
            piece.decision.reason.to_string()
        };
        alloc::format!("{}-{} {} by {by}", piece.low, piece.high, piece.decision.verdict)
    });
    let told = told.collect::<Vec<_>>().join(", ");
    assert_eq!(alloc::format!("{told} / {}", pieces.others().verdict), expect);
}

#[test]
fn what_no_set_tells_apart_is_one_class() {
    let classes = classes(&[
        ("a", set(&["10.0.0.1", "10.0.0.2", "fd00::1"], &[])),
        ("b", set(&["10.0.0.1", "10.0.0.2", "fd00::1"], &[])),
        ("c", set(&[], &["10.0.0.0/24"])),
    ]);
    assert_eq!(classes.len(), 4);
    assert_eq!(classes.class_of(address("10.0.0.1")), classes.class_of(address("10.0.0.2")));
    assert_eq!(classes.class_of(address("8.8.8.8")), ClassId::NOBODY);
    assert_eq!(classes.class_of(address("fd00::2")), ClassId::NOBODY);
    assert_ne!(classes.class_of(address("fd00::1")), classes.class_of(address("10.0.0.1")));
}

#[test]
fn an_address_with_the_class_of_its_range_has_no_place_in_the_exact_table() {
    let mut classes =
        classes(&[("pods", set(&["10.0.0.1"], &["10.0.0.0/24"])), ("other", set(&[], &[]))]);
    assert_eq!(classes.addresses().count(), 0);
    let joined = classes.join(address("10.0.0.1"), id("other")).unwrap();
    assert_eq!(joined.addresses.len(), 1);
    assert_eq!(joined.addresses[0].listed, Listed::Exactly);
    let left = classes.leave(address("10.0.0.1"), id("other")).unwrap();
    assert_eq!(left.addresses[0].listed, Listed::ByRange);
    assert_eq!((left.died, classes.addresses().count()), (joined.born, 0));
    assert!(classes.join(address("10.0.0.1"), id("unheard of")).is_err());
}

#[test]
fn pass_shields_only_its_ports_and_only_from_the_rest_of_its_tier() {
    let classes = classes(&[("a", set(&["10.0.0.1"], &[]))]);
    let pipeline = pipeline(
        vec![
            rule(Action::Pass, Some("a"), &[(80, 89)]),
            rule(Action::Deny, Some("a"), &[(70, 99)]),
        ],
        vec![rule(Action::Accept, None, &[(85, 95)])],
    );
    check(
        &pipeline,
        &classes,
        classes.class_of(address("10.0.0.1")),
        "0-69 deny by isolated, and no rule matches, 70-79 deny by 1, \
         80-84 deny by isolated, and no rule matches, 85-89 allow by 0, 90-99 deny by 1, \
         100-65535 deny by isolated, and no rule matches / deny",
    );
    check(
        &pipeline,
        &classes,
        ClassId::NOBODY,
        "0-84 deny by isolated, and no rule matches, 85-95 allow by 0, \
         96-65535 deny by isolated, and no rule matches / deny",
    );
}

#[test]
fn classes_that_the_pipeline_cannot_tell_apart_share_their_pieces() {
    let classes = classes(&[
        ("a", set(&["10.0.0.1", "10.0.0.2"], &[])),
        ("b", set(&["10.0.0.2", "10.0.0.3"], &[])),
    ]);
    let pipeline = pipeline(Vec::new(), vec![rule(Action::Accept, Some("a"), &[(80, 80)])]);
    let atoms = Atoms::unbounded(&pipeline, Settings::default(), &classes);
    let pieces = |text| atoms.pieces(classes.class_of(address(text)), Situation::Ordinary);
    assert!(Arc::ptr_eq(pieces("10.0.0.1"), pieces("10.0.0.2")));
    assert!(Arc::ptr_eq(pieces("10.0.0.3"), atoms.default_pieces(Situation::Ordinary)));
    assert_eq!(atoms.rows(Situation::Ordinary).count(), 2);
    assert_eq!(atoms.rows(Situation::OwnNode).count(), 0);
    let verdicts = atoms.without_origin(Situation::Ordinary);
    assert_eq!(verdicts.allowed(classes.class_of(address("10.0.0.1"))).to_string(), "TCP 80");
    assert!(verdicts.default_allowed().is_nothing());
}

#[test]
fn without_origin_neighbours_that_differ_by_origin_only_are_one() {
    let pipeline = pipeline(
        Vec::new(),
        vec![rule(Action::Accept, None, &[(80, 89)]), rule(Action::Accept, None, &[(90, 99)])],
    );
    let atoms = Atoms::unbounded(&pipeline, Settings::default(), &Classes::default());
    let pieces = atoms.default_pieces(Situation::Ordinary);
    assert_eq!(pieces.len(), 7);
    assert_eq!(pieces.without_origin().to_string(), "TCP 80-99");
}

#[test]
fn what_exceeds_the_bound_comes_as_a_list_with_the_numbers() {
    let classes = classes(&[("a", set(&["10.0.0.1"], &[]))]);
    let pipeline = pipeline(
        vec![
            rule(Action::Pass, Some("a"), &[]),
            rule(Action::Deny, Some("a"), &[(80, 80)]),
            rule(Action::Deny, None, &[(80, 80)]),
        ],
        vec![rule(Action::Accept, Some("a"), &[(80, 80)]), rule(Action::Accept, None, &[(80, 80)])],
    );
    let bound = Bound { max_pieces: 15 };
    let fallback = Atoms::new(&pipeline, Settings::default(), &classes, bound).unwrap_err();
    // Four pieces, two more for each range of a rule for everybody, and for the members of `a` two more for theirs.
    let cost = Cost { classes: 2, pieces_per_class: 12, pieces: 20 };
    assert_eq!((fallback.cost, fallback.bound), (cost, bound));
    let then: Vec<_> = fallback
        .ordinary
        .entries
        .iter()
        .map(|entry| match &entry.then {
            Then::Decide(decision) => decision.verdict.to_string(),
            Then::GoTo(at) => alloc::format!("go to {at}"),
        })
        .collect();
    // The second rule is forestalled by the first.
    assert_eq!(then, ["go to 2", "deny", "allow", "allow"]);
    assert!(fallback.own_node.entries.is_empty());
    let decision = fallback.ordinary.decide(Transport::Port(Protocol::Tcp, 80), |_| true);
    assert_eq!(decision.verdict, Verdict::Allow);
    assert!(Atoms::new(&pipeline, Settings::default(), &classes, Bound { max_pieces: 20 }).is_ok());
}

#[test]
fn a_number_admitted_again_loses_what_it_meant_before() {
    let mut classes = classes(&[("a", set(&["10.0.0.1"], &[])), ("b", set(&[], &[]))]);
    let pipeline = pipeline(Vec::new(), vec![rule(Action::Accept, Some("a"), &[])]);
    let mut atoms = Atoms::unbounded(&pipeline, Settings::default(), &classes);
    let before = classes.class_of(address("10.0.0.1"));
    classes.leave(address("10.0.0.1"), id("a")).unwrap();
    classes.recycle();
    classes.join(address("10.0.0.1"), id("b")).unwrap();
    assert_eq!(classes.class_of(address("10.0.0.1")), before);
    assert_eq!(atoms.pieces(before, Situation::Ordinary).others().verdict, Verdict::Allow);
    atoms.admit(before, &classes);
    assert_eq!(atoms.pieces(before, Situation::Ordinary).others().verdict, Verdict::Deny);
}
