//! Explanations from the state of an enforcer.

use core::time::Duration;
use std::time::Instant;

use netpol_core::backend::{Dataplane, SyncError};
use netpol_core::compile::Options;
use netpol_core::ir::{Ruleset, Scope};
use netpol_k8s::manifest::{ReadOptions, read_str};
use netpol_k8s::watch::Change;

use super::{Question, answer};
use crate::enforcer::{Enforcer, Mode};
use crate::status::Shared;

const OBJECTS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: api, namespace: shop, labels: {app: api}},
 spec: {nodeName: n1, containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]},
 status: {phase: Running, podIPs: [{ip: 10.0.0.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}},
 spec: {nodeName: n2, containers: [{name: c, image: i}]}, status: {phase: Running, podIPs: [{ip: 10.0.1.1}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: api, namespace: shop},
 spec: {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}]}}
";

#[derive(Debug)]
struct Nothing;

impl Dataplane for Nothing {
    fn sync(&mut self, _: &Ruleset) -> Result<(), SyncError> {
        Ok(())
    }

    fn remove(&mut self) -> Result<(), SyncError> {
        Ok(())
    }
}

fn enforcer() -> Enforcer {
    let cluster = read_str("objects", OBJECTS, &ReadOptions::default()).unwrap().cluster;
    let options = Options { scope: Scope::Node("n1".into()), ..Options::default() };
    let hour = Duration::from_secs(3600);
    let mut enforcer =
        Enforcer::new(options, Box::new(Nothing), Mode::Enforce, hour, Shared::new());
    let mut changes: Vec<Change> = cluster.nodes.into_values().map(Change::PutNode).collect();
    changes.extend(cluster.namespaces.into_values().map(Change::PutNamespace));
    changes.extend(cluster.pods.into_values().map(Change::PutPod));
    changes.extend(cluster.network_policies.into_values().map(Change::PutNetworkPolicy));
    changes.push(Change::InSync);
    enforcer.take(changes, Instant::now());
    enforcer
}

fn ask(flow: &str, is_json: bool) -> Result<String, String> {
    let (flow, namespace) = (flow.to_owned(), "shop".to_owned());
    answer("n1", &mut enforcer(), &Question { flow, namespace, is_json })
}

#[test]
fn an_answer_names_the_rule_that_decides_and_where_the_other_side_is_judged() {
    let text = ask("shop/web -> api:http", false).unwrap();
    for part in [
        "allow  10.0.1.1 -> 10.0.0.2 8080/TCP  (as node n1 judges)",
        "egress of shop/web to shop/api: judged on node n2, not here",
        "ingress of shop/api from shop/web",
        "=> ingress[0].from[0] accept: decides",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_denial_says_what_came_nearest() {
    let text = ask("192.0.2.7 -> shop/api:80", false).unwrap();
    for part in [
        "deny  192.0.2.7",
        "isolated by NetworkPolicy shop/api, and no rule matches",
        "podSelector or namespaceSelector: the other end is not a pod",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn json_says_the_same() {
    let line = ask("shop/web -> api:http", true).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["verdict"], "allow");
    assert_eq!(line["in_force"], true);
    assert_eq!(line["egress_is_judged_on"], "n2");
    assert_eq!(line["ingress"]["policies"][0]["rules"][0]["decided"], true);
}

#[test]
fn a_question_that_cannot_be_answered_is_told_why() {
    for (flow, why) in [
        ("web", "no `->`"),
        ("web -> nobody:80", "no policed pod `shop/nobody`"),
        ("web -> svc/api:80", "follows no Services"),
        ("web -> api:grpc", "no port named `grpc`"),
        ("node/n9 -> api:80", "no node `n9`"),
        ("fd00::1 -> api:80", "no family in common"),
    ] {
        let told = ask(flow, false).unwrap_err();
        assert!(told.contains(why), "{flow}: {told}");
    }
}
