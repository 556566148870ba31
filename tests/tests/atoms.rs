//! Atoms against the evaluator: the same verdict for the same reason, from disjoint pieces that leave nothing out.
//!
//! `NETPOL_SEED` and `NETPOL_FLOWS` repeat or lengthen a run.
#![expect(clippy::panic, clippy::print_stderr, reason = "test support")]

extern crate alloc;

use alloc::collections::BTreeSet;
use core::fmt::Write as _;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use netpol_conformance::generate::{Campaign, Case, Oddities, Shape};
use netpol_core::atoms::{Atoms, Bound, ClassId, Classes, Fallback, Piece, Pieces};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{
    Dialled, Direction, Endpoint, Family, Flow, OtherProtocols, OwnNodeEgress, PeerSetId, Peers,
    Pipeline, Reason, Ruleset, Scope, Settings, SideDecision, Situation, Transport, Verdict,
    decide,
};
use netpol_core::matrix::{Matrix, Party};
use netpol_core::model::{
    Cluster, Field, LabelSelector, Labels, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule,
    ObjectMeta, ObjectRef, Pod, Protocol,
};

const SITUATIONS: [Situation; 3] = [Situation::Ordinary, Situation::Hairpin, Situation::OwnNode];

#[track_caller]
fn hold(shape: Shape, flows: u64, check: impl Fn(&Case, &Ruleset) -> Option<String>) {
    let flows = if cfg!(debug_assertions) { flows } else { flows * 10 };
    let campaign = Campaign::from_env(shape, flows).unwrap_or_else(|error| panic!("{error}"));
    let check = |case: &Case| {
        let options =
            Options { scope: Scope::Cluster, settings: case.settings, ..Options::default() };
        check(case, &compile(&case.cluster, &options).ruleset)
    };
    match campaign.run(check) {
        Ok(report) => eprintln!("{report}"),
        Err(failure) => panic!("{failure}"),
    }
}

fn live() -> Shape {
    Shape { oddities: Oddities::Live, ..Shape::default() }
}

/// The ends of a flow as one side sees them: its own pod, and the other end.
fn side<'a>(
    ruleset: &'a Ruleset,
    flow: &Flow,
    direction: Direction,
) -> Option<(&'a Endpoint, IpAddr, Situation)> {
    let (own, peer) = match direction {
        Direction::Ingress => (flow.destination, flow.source),
        Direction::Egress => (flow.source, flow.destination),
    };
    let subject = ruleset.owner(own)?;
    let to_itself = ruleset.owner(peer).is_some_and(|owner| owner.pod == subject.pod);
    let situation = match (to_itself, flow.dialled) {
        (true, Dialled::Address) => return None,
        (true, Dialled::Service) => Situation::Hairpin,
        (false, _) if ruleset.is_own_node(subject, peer) => Situation::OwnNode,
        (false, _) => Situation::Ordinary,
    };
    Some((subject, peer, situation))
}

fn fallback(pipeline: &Pipeline, settings: Settings, classes: &Classes) -> Box<Fallback> {
    match Atoms::new(pipeline, settings, classes, Bound { max_pieces: 0 }) {
        Err(fallback) => fallback,
        Ok(_) => panic!("nothing fits a bound of zero"),
    }
}

fn differs(
    ruleset: &Ruleset,
    classes: &Classes,
    flow: &Flow,
    direction: Direction,
) -> Option<String> {
    let (subject, peer, situation) = side(ruleset, flow, direction)?;
    let decision = ruleset.verdict(flow);
    let expected = match direction {
        Direction::Ingress => decision.ingress,
        Direction::Egress => decision.egress,
    };
    let pipeline = ruleset.pipeline(subject.pipeline(direction))?;
    let settings = ruleset.settings();
    let class = classes.class_of(peer);
    let atoms = Atoms::unbounded(pipeline, settings, classes);
    let listed = fallback(pipeline, settings, classes);
    let in_set = |peers: Peers| match peers {
        Peers::Any => true,
        Peers::Set(set) => ruleset.peer_set(set).is_some_and(|set| set.contains(peer)),
    };
    let by_atoms = atoms.pieces(class, situation).decide(flow.transport);
    let by_list = listed.list(situation).decide(flow.transport, in_set);
    let may_pass = atoms.without_origin(situation).allowed(class).contains(flow.transport);
    let agree = *by_atoms == expected
        && *by_list == expected
        && may_pass == (expected.verdict == Verdict::Allow);
    (!agree).then(|| {
        let mut text =
            format!("{flow} ({:?}), {direction}, {situation:?}, {class}\n", flow.dialled);
        let _ = writeln!(text, "ruleset {expected:?}\natoms   {by_atoms:?}\nlist    {by_list:?}");
        let _ = writeln!(text, "without origin: {may_pass}\n{pipeline}");
        text
    })
}

#[test]
fn atoms_and_lists_decide_as_the_ruleset_for_the_same_reason() {
    for (shape, flows) in [(Shape::default(), 20_000), (live(), 10_000)] {
        hold(shape, flows, |case, ruleset| {
            let classes = Classes::of_ruleset(ruleset);
            case.flows.iter().find_map(|flow| {
                differs(ruleset, &classes, flow, Direction::Egress)
                    .or_else(|| differs(ruleset, &classes, flow, Direction::Ingress))
            })
        });
    }
}

#[test]
fn a_partition_by_one_pipeline_is_enough_for_that_pipeline() {
    hold(Shape { flows: 60, ..Shape::default() }, 6_000, |case, ruleset| {
        case.flows.iter().find_map(|flow| {
            let (subject, ..) = side(ruleset, flow, Direction::Egress)?;
            let pipeline = ruleset.pipeline(subject.egress)?;
            let classes = Classes::of_pipelines(ruleset, [pipeline]);
            differs(ruleset, &classes, flow, Direction::Egress)
        })
    });
}

/// Every address where a set begins, ends or lists one, and its neighbours; and both ends of both families.
fn edges(ruleset: &Ruleset) -> BTreeSet<IpAddr> {
    let v4 = |point: u32| {
        [point.saturating_sub(1), point, point.saturating_add(1)]
            .map(|point| IpAddr::V4(Ipv4Addr::from(point)))
    };
    let v6 = |point: u128| {
        [point.saturating_sub(1), point, point.saturating_add(1)]
            .map(|point| IpAddr::V6(Ipv6Addr::from(point)))
    };
    let mut edges = BTreeSet::new();
    for (_, set) in ruleset.peer_sets() {
        edges.extend(set.networks.v4().iter().flat_map(|(low, high)| [low, high]).flat_map(v4));
        edges.extend(set.networks.v6().iter().flat_map(|(low, high)| [low, high]).flat_map(v6));
        edges.extend(set.addresses.v4().iter().flat_map(|address| v4(u32::from(*address))));
        edges.extend(set.addresses.v6().iter().flat_map(|address| v6(u128::from(*address))));
    }
    edges.extend([0, u32::MAX].into_iter().flat_map(v4));
    edges.extend([0, u128::MAX].into_iter().flat_map(v6));
    edges
}

fn holders(ruleset: &Ruleset, address: IpAddr) -> BTreeSet<PeerSetId> {
    ruleset.peer_sets().filter(|(_, set)| set.contains(address)).map(|(id, _)| id).collect()
}

/// Looks an address up as a dataplane would: in the exact table, then among the prefixes.
fn looked_up(classes: &Classes, address: IpAddr) -> Result<ClassId, String> {
    let exact: Vec<_> =
        classes.addresses().filter(|(listed, _)| *listed == address).map(|(_, c)| c).collect();
    let prefixes: Vec<_> = classes
        .prefixes(Family::of(address))
        .filter(|(network, _)| network.contains(&address))
        .map(|(_, class)| class)
        .collect();
    match (exact.as_slice(), prefixes.as_slice()) {
        ([class], [] | [_]) | ([], [class]) => Ok(*class),
        ([], []) => Ok(ClassId::NOBODY),
        _ => Err(format!("{address} stands more than once: {exact:?}, {prefixes:?}")),
    }
}

#[test]
fn the_classes_are_the_memberships_of_every_address_and_no_two_are_alike() {
    hold(Shape { flows: 1, ..live() }, 150, |_, ruleset| {
        let classes = Classes::of_ruleset(ruleset);
        let mut seen = BTreeSet::new();
        for address in edges(ruleset) {
            let expected = holders(ruleset, address);
            let class = classes.class_of(address);
            seen.extend([class, classes.class_of_range(address)]);
            match looked_up(&classes, address) {
                Ok(found) if found == class => {}
                other => return Some(format!("{address} is of {class}, looked up {other:?}")),
            }
            if classes.sets_of(class) != expected {
                return Some(format!("{address} is of {class}, but {expected:?} hold it"));
            }
            let holds = ruleset.peer_sets().all(|(id, _)| {
                let held = classes.held_by(id).any(|held| held == class);
                classes.holds(id, class) == expected.contains(&id) && held == expected.contains(&id)
            });
            if !holds {
                return Some(format!("{class} is not held by {expected:?}"));
            }
        }
        let there: BTreeSet<ClassId> = classes.iter().collect();
        let distinct: BTreeSet<_> = classes.iter().map(|class| classes.sets_of(class)).collect();
        seen.insert(ClassId::NOBODY);
        if there != seen || there.len() != classes.len() || there.len() != distinct.len() {
            return Some(format!("{there:?} are there, {seen:?} are used, {distinct:?}"));
        }
        None
    });
}

#[test]
fn the_ranges_of_a_family_follow_each_other_without_gap_from_first_to_last_address() {
    hold(Shape { flows: 1, ..live() }, 150, |_, ruleset| {
        let classes = Classes::of_ruleset(ruleset);
        [Family::V4, Family::V6].into_iter().find_map(|family| {
            let number = |address| match address {
                IpAddr::V4(address) => u128::from(u32::from(address)),
                IpAddr::V6(address) => u128::from(address),
            };
            let last = if family == Family::V4 { u128::from(u32::MAX) } else { u128::MAX };
            let mut next = Some(0);
            let mut before = None;
            for (low, high, class) in classes.ranges(family) {
                if next != Some(number(low)) || low > high || before == Some(class) {
                    return Some(format!("{low}-{high} {class}"));
                }
                next = number(high).checked_add(1);
                before = Some(class);
            }
            (next != last.checked_add(1)).then(|| format!("{family} ends at {next:?}"))
        })
    });
}

/// Says what is wrong with pieces, taken by themselves.
fn malformed(pieces: &Pieces) -> Option<String> {
    for protocol in Protocol::ALL {
        let of: Vec<&Piece> =
            pieces.ports().iter().filter(|piece| piece.protocol == protocol).collect();
        let whole = of.first().is_some_and(|first| first.low == 0)
            && of.last().is_some_and(|last| last.high == u16::MAX);
        let joined = of.windows(2).all(|pair| {
            let [left, right] = pair else { return false };
            left.high.checked_add(1) == Some(right.low) && left.decision != right.decision
        });
        if !whole || !joined || of.iter().any(|piece| piece.low > piece.high) {
            return Some(format!("{protocol}: {of:#?}"));
        }
    }
    None
}

/// Ports where a rule of the pipeline begins or ends, and their neighbours.
fn transports(pipeline: &Pipeline) -> Vec<Transport> {
    let mut all = vec![Transport::Other(1), Transport::Other(58), Transport::Other(132)];
    for protocol in Protocol::ALL {
        let mut ports = BTreeSet::from([0, u16::MAX]);
        for (_, rule) in pipeline.rules() {
            if let netpol_core::ir::Ports::Set(set) = &rule.ports {
                ports.extend(set.of(protocol).iter().flat_map(|(low, high)| {
                    [low.saturating_sub(1), low, high, high.saturating_add(1)]
                }));
            }
        }
        all.extend(ports.into_iter().map(|port| Transport::Port(protocol, port)));
    }
    all
}

/// What the evaluator says about an address of a class, of which only its sets count.
fn evaluated(
    pipeline: &Pipeline,
    settings: Settings,
    situation: Situation,
    sets: &BTreeSet<PeerSetId>,
    transport: Transport,
) -> SideDecision {
    if settings.other_protocols == OtherProtocols::Pass && matches!(transport, Transport::Other(_))
    {
        return SideDecision { verdict: Verdict::Allow, reason: Reason::UnjudgedProtocol };
    }
    decide(pipeline, situation, settings, |rule| {
        rule.ports.contains(transport)
            && match rule.peers {
                Peers::Any => true,
                Peers::Set(id) => sets.contains(&id),
            }
    })
}

#[test]
fn every_class_is_decided_as_by_the_evaluator_at_every_edge_in_every_situation_and_setting() {
    hold(Shape { flows: 1, ..live() }, 120, |_, ruleset| {
        let classes = Classes::of_ruleset(ruleset);
        for own_node_egress in [OwnNodeEgress::Allow, OwnNodeEgress::Enforce] {
            for other_protocols in [OtherProtocols::Judge, OtherProtocols::Pass] {
                let settings = Settings { own_node_egress, other_protocols };
                for (_, pipeline) in ruleset.pipelines() {
                    let found = disagreement(pipeline, settings, &classes);
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
        None
    });
}

fn disagreement(pipeline: &Pipeline, settings: Settings, classes: &Classes) -> Option<String> {
    let atoms = Atoms::unbounded(pipeline, settings, classes);
    let listed = fallback(pipeline, settings, classes);
    let estimate = Atoms::estimate(pipeline, settings, classes);
    let transports = transports(pipeline);
    for situation in SITUATIONS {
        let verdicts = atoms.without_origin(situation);
        let cost = atoms.cost(situation);
        if cost.pieces > estimate.pieces
            || cost.classes > estimate.classes
            || cost.pieces_per_class > estimate.pieces_per_class
        {
            return Some(format!("estimated {estimate}, but {cost}\n{pipeline}"));
        }
        if atoms.rows(situation).any(|(_, row)| row == atoms.default_pieces(situation)) {
            return Some(format!("a row repeats the default\n{pipeline}"));
        }
        for class in classes.iter() {
            let sets = classes.sets_of(class);
            let pieces = atoms.pieces(class, situation);
            if let Some(malformed) = malformed(pieces) {
                return Some(format!("{class}, {situation:?}, {malformed}\n{pipeline}"));
            }
            for transport in &transports {
                let expected = evaluated(pipeline, settings, situation, &sets, *transport);
                let by_atoms = pieces.decide(*transport);
                let by_list = listed.list(situation).decide(*transport, |peers| match peers {
                    Peers::Any => true,
                    Peers::Set(id) => sets.contains(&id),
                });
                let may_pass = verdicts.allowed(class).contains(*transport);
                if *by_atoms != expected
                    || *by_list != expected
                    || may_pass != (expected.verdict == Verdict::Allow)
                {
                    return Some(format!(
                        "{class} {transport} {situation:?} {settings:?}\nevaluator {expected:?}\natoms \
                         {by_atoms:?}\nlist {by_list:?}\nmay pass {may_pass}\n{pipeline}"
                    ));
                }
            }
        }
    }
    None
}

#[test]
fn the_same_sets_in_any_order_give_the_same_numbers() {
    hold(Shape { flows: 1, ..live() }, 100, |_, ruleset| {
        let sets: Vec<_> = ruleset.peer_sets().collect();
        let told = |classes: &Classes| {
            let ranges = [Family::V4, Family::V6].map(|f| classes.ranges(f).collect::<Vec<_>>());
            (classes.addresses().collect::<Vec<_>>(), ranges)
        };
        let forward = told(&Classes::new(sets.iter().copied()));
        let backward = told(&Classes::new(sets.iter().rev().copied()));
        (forward != backward).then(|| format!("{forward:?}\n{backward:?}"))
    });
}

/// A pod has at most one address of a family; of a generated one that has more, the matrix takes the first.
fn speaks_for(owner: &Endpoint, address: IpAddr) -> bool {
    let mut of_family =
        owner.addresses.iter().filter(|other| Family::of(**other) == Family::of(address));
    of_family.next() == Some(&address)
}

/// The matrix speaks of ordinary traffic between different parties only (OFF-010).
#[test]
fn the_matrix_allows_what_the_ruleset_allows() {
    hold(Shape { flows: 200, ..Shape::default() }, 10_000, |case, ruleset| {
        [Family::V4, Family::V6].into_iter().find_map(|family| {
            let matrix = Matrix::new(ruleset, family);
            let party = |address| match ruleset.owner(address) {
                Some(owner) => matrix
                    .pods
                    .iter()
                    .position(|members| members.contains(&owner.pod))
                    .filter(|_| speaks_for(owner, address))
                    .map(Party::Pods),
                None => matrix
                    .externals
                    .iter()
                    .position(|external| external.contains(address))
                    .map(Party::External),
            };
            let flows = case.flows.iter().filter(|flow| Family::of(flow.source) == family);
            flows.into_iter().find_map(|flow| {
                let (source, destination) = (party(flow.source)?, party(flow.destination)?);
                let known = |end| {
                    ruleset.owner(end).is_some()
                        || ruleset.peer_sets().all(|(_, set)| !set.addresses.contains(end))
                };
                let ordinary =
                    [Direction::Egress, Direction::Ingress].into_iter().all(|direction| {
                        side(ruleset, flow, direction)
                            .is_none_or(|(_, _, s)| s == Situation::Ordinary)
                    });
                let itself = ruleset.owner(flow.source).map(|owner| &owner.pod)
                    == ruleset.owner(flow.destination).map(|owner| &owner.pod);
                if !ordinary || itself || !known(flow.source) || !known(flow.destination) {
                    return None;
                }
                let cell = matrix.allowed(source, destination).contains(flow.transport);
                let expected = ruleset.verdict(flow).verdict == Verdict::Allow;
                (cell != expected).then(|| format!("{flow}: the matrix says {cell}\n{ruleset}"))
            })
        })
    });
}

#[test]
fn thirty_five_thousand_label_sets_under_one_hub_policy_are_three_classes() {
    let mut cluster = Cluster::default();
    for number in 0..35_000_u32 {
        let role = if number == 0 { "hub" } else { "spoke" };
        let unique = number.to_string();
        let labels = Labels::from_iter([("role", role), ("unique", unique.as_str())]);
        let name = format!("pod-{number}");
        let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number));
        let meta = ObjectMeta::new("x", &name, labels);
        let pod = Pod { meta, addresses: vec![address], ..Pod::default() };
        cluster.pods.insert(ObjectRef::new("x", &name), pod);
    }
    let select = |role| Field::Given(LabelSelector::labels([("role", role)]));
    let spokes =
        NetworkPolicyPeer { pod_selector: select("spoke"), ..NetworkPolicyPeer::default() };
    let rule =
        NetworkPolicyRule { peers: Field::Given(vec![spokes]), ..NetworkPolicyRule::default() };
    let policy = NetworkPolicy {
        meta: ObjectMeta::new("x", "hub", Labels::default()),
        pod_selector: select("hub"),
        ingress: Field::Given(vec![rule]),
        ..NetworkPolicy::default()
    };
    cluster.network_policies.insert(ObjectRef::new("x", "hub"), policy);
    cluster.mention_namespaces();
    let ruleset = compile(&cluster, &Options::default()).ruleset;

    let start = Instant::now();
    let classes = Classes::of_ruleset(&ruleset);
    let partitioned = start.elapsed();
    let hub = ruleset.endpoint(&ObjectRef::new("x", "pod-0")).map(|endpoint| endpoint.ingress);
    let pipeline = hub.and_then(|id| ruleset.pipeline(id)).unwrap_or_else(|| panic!("the hub"));
    let atoms = Atoms::unbounded(pipeline, ruleset.settings(), &classes);
    eprintln!(
        "35,000 pods: {} classes in {partitioned:?}, atoms {:?}",
        classes.len(),
        start.elapsed()
    );

    assert!(classes.len() <= 3, "{} classes", classes.len());
    assert_eq!(atoms.rows(Situation::Ordinary).count(), 1);
    for (last, verdict) in [(0, Verdict::Deny), (1, Verdict::Allow), (34_999, Verdict::Allow)] {
        let class = classes.class_of(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + last)));
        let pieces = atoms.pieces(class, Situation::Ordinary);
        assert_eq!(pieces.decide(Transport::Port(Protocol::Tcp, 80)).verdict, verdict);
    }
}
