//! Much at once, and addresses that change hands.

use netpol_conformance::cases::e2e;
use netpol_core::ir::{Family, Flow, Transport};
use netpol_core::model::{Labels, ObjectRef, Phase, Protocol};
use serde_json::json;

use crate::fleet::{Backend, Fleet, Setup};
use crate::{address, deny_ingress};

pub(crate) fn thousand_policies(backend: Backend) {
    const POLICIES: u16 = 1000;
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new("thousand", base.clone(), Setup::of(backend));
    let (step, flows) = deny_ingress(&base);
    fleet.until_ready();
    fleet.step(&step);
    // Each admits the pods of z to x/a on one port; the last one matters to the flows that are sent.
    for number in 0..POLICIES {
        let port = if number + 1 == POLICIES { 80 } else { 1000 + number };
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": format!("many-{number}"), "namespace": "x" },
            "spec": {
                "podSelector": { "matchLabels": { "pod": "a" } },
                "ingress": [{
                    "from": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "z" } } }],
                    "ports": [{ "port": port }],
                }],
            },
        });
        fleet.put_policy(&policy);
    }
    let report = fleet.until_right("a thousand", &flows);
    assert!(report.denied > 0 && report.denied < report.asked);
    // Each of them has a part in what the kernel counts, alone or with others.
    let node = fleet.agents.iter().position(|agent| agent.node == "node-a").unwrap();
    let metrics = fleet.until_says(node, "/metrics", "netpol_agent_policy_packets_total{");
    let missing = (0..POLICIES).filter(|number| {
        let name = format!("NetworkPolicy x/many-{number}");
        ![",", "\""].iter().any(|end| metrics.contains(&format!("{name}{end}")))
    });
    assert_eq!(missing.collect::<Vec<_>>(), [0_u16; 0]);
    // And gone again as fast.
    fleet.reset(&base);
    fleet.until_right("none", &flows);
}

/// Admits pods labelled `pod: a`, from any namespace, to the pods of x.
pub(crate) fn admit_a() -> serde_json::Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "admit-a", "namespace": "x" },
        "spec": {
            "podSelector": {},
            "ingress": [{ "from": [{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "pod": "a" } } }] }],
        },
    })
}

pub(crate) fn address_reuse(backend: Backend) {
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new("reuse", base.clone(), Setup::of(backend));
    fleet.put_policy(&admit_a());
    let to = ObjectRef::new("x", "b");
    let tcp = Transport::Port(Protocol::Tcp, 80);
    let ends = |family| {
        let from = address(&base, &ObjectRef::new("y", "a"), family);
        let other = address(&base, &ObjectRef::new("z", "a"), family);
        let to = address(&base, &to, family);
        [Flow::new(from, to, tcp), Flow::new(other, to, tcp)]
    };
    let flows: Vec<Flow> = [Family::V4, Family::V6].into_iter().flat_map(ends).collect();
    let right = |fleet: &Fleet, what: &str, denied: usize| {
        let report = fleet.until_right(what, &flows);
        assert_eq!((report.asked, report.denied), (4, denied), "{what}");
    };
    right(&fleet, "both are admitted", 0);
    let old = base.pods[&ObjectRef::new("y", "a")].clone();
    let mut new = old.clone();
    new.meta.object = ObjectRef::new("y", "new");
    new.meta.labels = Labels::from_iter([("pod", "stranger")]);
    new.meta.created = Some("2030-01-01T00:00:00Z".into());
    // Deleted, and the address given to a stranger at once.
    fleet.delete_pod(&old.meta.object);
    fleet.put_pod(&new);
    right(&fleet, "a stranger has the address", 2);
    // The other way round.
    fleet.delete_pod(&new.meta.object);
    fleet.put_pod(&old);
    right(&fleet, "the first pod is back", 0);
    // The stranger comes before the first pod's end is told: two claim one address, the newer one has it.
    fleet.put_pod(&new);
    right(&fleet, "two claim the address", 2);
    fleet.delete_pod(&old.meta.object);
    right(&fleet, "one of them is gone", 2);
    fleet.delete_pod(&new.meta.object);
    // A pod that has ended keeps its address in its status, and has lost it (NP-137).
    let mut ended = old.clone();
    ended.phase = Phase::Succeeded;
    fleet.put_pod(&ended);
    fleet.put_pod(&new);
    right(&fleet, "the first pod has ended", 2);
    fleet.put_pod(&old);
    fleet.delete_pod(&new.meta.object);
    right(&fleet, "it runs again", 0);
}

pub(crate) fn storm(backend: Backend) {
    const ROUNDS: u32 = 40;
    let base = e2e::nine_pods();
    let mut fleet = Fleet::new("storm", base.clone(), Setup::of(backend));
    fleet.put_policy(&admit_a());
    let tcp = Transport::Port(Protocol::Tcp, 80);
    let at = |namespace, name| address(&base, &ObjectRef::new(namespace, name), Family::V4);
    // Pods that take no part.
    let calm =
        [Flow::new(at("y", "a"), at("x", "b"), tcp), Flow::new(at("y", "b"), at("x", "b"), tcp)];
    fleet.until_right("before", &calm);
    let stormy = ["x/a", "x/c", "y/c", "z/a", "z/b", "z/c"].map(|pod| {
        let (namespace, name) = pod.split_once('/').unwrap();
        ObjectRef::new(namespace, name)
    });
    let label = |round: u32, name: &str| {
        let is_a = (round + u32::try_from(name.len()).unwrap()).is_multiple_of(2);
        Labels::from_iter([("pod", if is_a { "a" } else { "other" })])
    };
    for round in 0..ROUNDS {
        for pod in &stormy {
            fleet.delete_pod(pod);
        }
        for pod in &stormy {
            let mut pod = base.pods[pod].clone();
            pod.meta.labels = label(round, &pod.meta.object.name);
            fleet.put_pod(&pod);
        }
        if round % 10 == 9 {
            fleet.is_right("in the storm", &calm);
        }
    }
    // One of those that are admitted goes for good.
    fleet.delete_pod(&stormy[3]);
    let all: Vec<Flow> = base
        .pods
        .keys()
        .flat_map(|from| base.pods.keys().map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .map(|(from, to)| {
            let end = |pod| address(&base, pod, Family::V4);
            Flow::new(end(from), end(to), tcp)
        })
        .collect();
    let report = fleet.until_right("after the storm", &all);
    assert!(report.denied > 2 && report.denied < report.asked, "{report:?}");
}
