//! The packet exam: rulesets of generated clusters, one after the other on one node, each asked by thousands of packets.

use alloc::sync::Arc;
use std::env;
use std::time::Instant;

use netpol_conformance::exam::{self, PacketExam, Report, Subject, busiest_node};
use netpol_conformance::generate::{self, Random, Shape};
use netpol_conformance::workload;
use netpol_core::ir::{Flow, Settings, Transport};
use netpol_core::model::{Cidr, Cluster, Protocol};

use super::planted::{Bug, Planted};
use super::{Backend, Offers, check, fail};

const SHAPE: Shape = Shape {
    pods: 16,
    network_policies: 10,
    cluster_network_policies: 6,
    flows: 6000,
    oddities: generate::Oddities::Valid,
};
/// Flows of one large cluster.
const LARGE: usize = 6000;

/// A cluster and what is asked of one of its nodes.
struct Question {
    cluster: Cluster,
    node: Arc<str>,
    settings: Settings,
    strict: Vec<Cidr>,
    flows: Vec<Flow>,
}

impl Question {
    fn of_seed(seed: u64, offers: Offers) -> Option<Self> {
        let generate::Case { mut cluster, settings, mut flows } = generate::case(seed, SHAPE);
        let mut random = Random::seeded(seed);
        let strict = match offers {
            Offers { strict: true, .. } if seed % 4 == 3 => pod_ranges(&mut random),
            Offers { .. } => Vec::new(),
        };
        exam::complete(&mut cluster, &flows);
        let node = busiest_node(&cluster)?;
        for pod in cluster.pods.values_mut() {
            // All addresses of strict mode belong to one node.
            if !strict.is_empty() || random.one_in(2) {
                pod.node = Some(node.clone());
            }
        }
        if !strict.is_empty() {
            cluster.nodes.retain(|name, _| *name == node);
        }
        for flow in &mut flows {
            if random.one_in(25) {
                flow.transport = Transport::Other(random.pick([50, 89, 103, 253]));
            }
        }
        let mut question = Self { cluster, node, settings, strict, flows };
        let concerns = |question: &Self, flow: &Flow| {
            [flow.source, flow.destination].into_iter().any(|end| {
                question.subject().is_pod(end)
                    || question.strict.iter().any(|range| range.contains(end))
            })
        };
        // What concerns no pod of the node is of little interest.
        let flows = core::mem::take(&mut question.flows);
        question.flows = flows
            .into_iter()
            .filter(|flow| concerns(&question, flow) || random.one_in(10))
            .collect();
        Some(question)
    }

    /// Hundreds of pods on the node, thousands of peers, networks with excepts.
    fn large(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let cluster = workload::cluster(2000, 60, workload::MEDIUM);
        let node = busiest_node(&cluster).unwrap();
        let policed = cluster.pods.values().flat_map(|pod| pod.addresses.iter().copied());
        let all: Vec<_> = policed.collect();
        let local = cluster.pods.values().filter(|pod| pod.node.as_ref() == Some(&node));
        let local: Vec<_> = local.flat_map(|pod| pod.addresses.iter().copied()).collect();
        let mut flows = Vec::new();
        while flows.len() < LARGE {
            let here = *random.pick_from(&local).unwrap();
            let there = *random.pick_from(&all).unwrap();
            let [source, destination] =
                if random.one_in(2) { [here, there] } else { [there, here] };
            let protocol = random.pick([Protocol::Tcp, Protocol::Udp]);
            let port = random.pick([80, 443, 1000, 8080]) + u16::try_from(random.below(4)).unwrap();
            flows.push(Flow::new(source, destination, Transport::Port(protocol, port)));
        }
        Self { cluster, node, settings: Settings::default(), strict: Vec::new(), flows }
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            cluster: &self.cluster,
            node: &self.node,
            settings: self.settings,
            pod_ranges: &self.strict,
        }
    }
}

/// Some of the addresses that pods and flows have.
fn pod_ranges(random: &mut Random) -> Vec<Cidr> {
    let v4 = ["10.0.0.0/24", "10.0.0.0/28", "10.0.0.0/29", "10.0.0.8/30", "10.0.0.0/23"];
    let v6 = ["fd00::/64", "fd00::/124", "fd00::10/124", "fd00::/122", "fd00::4/126"];
    [random.pick(v4), random.pick(v6)].map(|cidr| Cidr::parse(cidr).unwrap()).into()
}

/// Asks until there were so many verdicts.
pub(super) fn holds(backend: Backend, offers: Offers, verdicts: usize) {
    let number = |name, otherwise| env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let verdicts = number("NETPOL_PACKETS", verdicts);
    let seed = u64::try_from(number("NETPOL_SEED", 1)).unwrap();
    eprintln!("packet exam: NETPOL_SEED={seed} NETPOL_PACKETS={verdicts}");
    let begun = Instant::now();
    let mut exam = PacketExam::new().unwrap_or_else(|error| fail("packet exam", &error));
    let mut dataplane = backend();
    let (mut report, mut rulesets, mut strict) = (Report::default(), 0, 0);
    for seed in seed.. {
        if report.asked >= verdicts {
            break;
        }
        let question = match seed % 20 {
            10 => Some(Question::large(seed)),
            _ => Question::of_seed(seed, offers),
        };
        let Some(question) = question else { continue };
        let found = ask(&mut exam, dataplane.as_mut(), &question, &format!("seed {seed}"));
        if !found.wrong.is_empty() {
            let wrong = found.wrong.iter().take(5).map(ToString::to_string);
            eprintln!(
                "seed {seed} on {}, strict in {:?}, is wrong:\n{}\n{}",
                question.node,
                question.strict,
                wrong.collect::<Vec<_>>().join("\n"),
                netpol_k8s::manifest::write_yaml(&question.cluster)
            );
        }
        rulesets += 1;
        strict += usize::from(!question.strict.is_empty());
        report.add(found);
        if report.wrong.len() > 50 {
            break;
        }
    }
    exam.crowd().in_node(|| dataplane.remove()).unwrap().unwrap();
    check(
        &format!("packet exam, {rulesets} rulesets, {strict} strict, {:?}", begun.elapsed()),
        &report,
        verdicts.min(1000),
    );
}

fn ask(
    exam: &mut PacketExam,
    dataplane: &mut (dyn netpol_core::backend::Dataplane + Send),
    question: &Question,
    name: &str,
) -> Report {
    let subject = question.subject();
    let held = exam.enforce(&subject, dataplane).and_then(|()| {
        if !question.strict.is_empty() {
            let unknown: Vec<_> = question
                .flows
                .iter()
                .flat_map(|flow| [flow.source, flow.destination])
                .filter(|end| question.strict.iter().any(|range| range.contains(*end)))
                .collect();
            exam.settle(&subject, &unknown)?;
        }
        exam.ask(&subject, &question.flows)
    });
    held.unwrap_or_else(|error| fail(name, &error))
}

/// Plants bugs and expects the exam to find each of them.
pub(super) fn catches(backend: Backend) {
    for bug in Bug::AT_REST {
        let mut exam = PacketExam::new().unwrap();
        let mut dataplane = Planted::new(backend(), bug);
        let caught = (1..20).any(|seed| {
            let Some(question) = Question::of_seed(seed, Offers::default()) else { return false };
            let report = ask(&mut exam, &mut dataplane, &question, "a planted bug");
            !report.wrong.is_empty()
        });
        exam.crowd()
            .in_node(|| netpol_core::backend::Dataplane::remove(&mut dataplane))
            .unwrap()
            .unwrap();
        assert!(caught, "{bug:?} was not caught");
    }
}
