//! Meetings of two pods of one node, whose verdict no change touches but in two halves.

use netpol_conformance::events::puts;
use netpol_core::compile::Options;
use netpol_core::engine::{Engine, Event};
use netpol_core::ir::{Dialled, Flow, Scope, Transport, Verdict};
use netpol_core::model::{Cidr, ObjectRef, Protocol};
use netpol_core::net::PrefixSet;
use netpol_k8s::manifest::{ReadOptions, read_str};

use super::super::{Step, Steps};
use super::{Kernel, styles};
use crate::apply::under_way::Unsettled;
use crate::lower::{Changes, Object};
use crate::script::{self, Chain, Rule, Table};

/// A node with a pod `server`, to which pods may send that carry a label, and which may send to pods that carry one.
const MEETING: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: default}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in, namespace: default}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
    - {from: [{podSelector: {matchLabels: {one: is}}}], ports: [{port: 1}]}
    - {from: [{podSelector: {matchLabels: {two: is}}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out, namespace: default}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {friend: is}}}]}]
---
";

fn pod(name: &str, labels: &str, address: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: default, labels: {{app: {name}{labels}}}}}, \
         spec: {{nodeName: n1, containers: [{{name: c, image: i}}]}}, status: {{podIPs: [{{ip: {address}}}]}}}}\n---\n"
    )
}

fn server(labels: &str) -> String {
    pod("server", labels, "10.0.0.1")
}

fn client(labels: &str) -> String {
    pod("client", labels, "10.0.0.2")
}

/// Carries out changes one right after the other, with packets under way to port 1 of the server, whose verdict none of them
/// changes. Returns how often packets were waited for.
#[track_caller]
fn waits(source: &str, objects: &[String], changes: &[String], verdict: Verdict) -> usize {
    let options = Options { scope: Scope::Node("n1".into()), ..Options::default() };
    waits_with(&options, source, objects, changes, verdict)
}

#[track_caller]
fn waits_with(
    options: &Options,
    source: &str,
    objects: &[String],
    changes: &[String],
    verdict: Verdict,
) -> usize {
    let read = |text: &str| match text.strip_prefix(GONE) {
        Some(pod) => vec![Event::DeletePod(ObjectRef::new("default", pod))],
        None => puts(&read_str("meeting.yaml", text, &ReadOptions::default()).unwrap().cluster),
    };
    let mut waits = 0;
    for style in styles() {
        let mut engine = Engine::new(options.clone());
        let objects = format!("{MEETING}{}", objects.concat());
        engine.apply_batch(read(&objects).into_iter().chain([Event::InSync]));
        let to = Transport::Port(Protocol::Tcp, 1);
        let flow = Flow::new(source.parse().unwrap(), "10.0.0.1".parse().unwrap(), to);
        let flow = Flow { dialled: Dialled::Service, ..flow };
        let mut kernel = Kernel::new(style, engine.snapshot(), &[flow]);
        assert_eq!(engine.snapshot().verdict(&flow).verdict, verdict);
        for change in changes {
            let delta = engine.apply_batch(read(change));
            kernel.update(engine.snapshot(), &delta);
            assert_eq!(engine.snapshot().verdict(&flow).verdict, verdict, "{change}");
        }
        let tally = kernel.tally;
        assert!(tally.packets > 0 && tally.transactions >= changes.len(), "{tally:?}");
        waits += kernel.tally.waits;
    }
    waits
}

/// In front of the name of a pod that goes.
const GONE: &str = "gone: ";
const CLIENT: &str = "10.0.0.2";
const PEER: &str = "10.0.1.1";

#[test]
fn no_packet_under_way_misses_a_peer_that_changes_its_label() {
    let peer = |labels| pod("peer", labels, PEER).replace("n1", "n2");
    for (one, other) in [(", one: is", ", two: is"), (", two: is", ", one: is")] {
        let objects = [server(""), peer(one)];
        assert!(waits(PEER, &objects, &[peer(other)], Verdict::Allow) > 0);
        // The same in two changes.
        let both = peer(", one: is, two: is");
        assert!(waits(PEER, &objects, &[both, peer(other)], Verdict::Allow) > 0);
    }
}

#[test]
fn no_packet_under_way_leaves_before_a_change_and_comes_in_behind_the_next() {
    let objects = [server(", friend: is"), client("")];
    let changes = [server(""), client(", one: is")];
    assert!(waits(CLIENT, &objects, &changes, Verdict::Deny) > 0);
    // The destination's side may open by another policy, too.
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: in, namespace: default}, \
                  spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}}\n---\n";
    assert!(waits(CLIENT, &objects, &[server(""), policy.into()], Verdict::Deny) > 0);
}

/// A tier that denies one end with the label of a direction.
fn tier(direction: &str, end: &str) -> String {
    format!(
        "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {direction}}}, \
         spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, \
         {direction}: [{{action: Deny, {end}: [{{pods: {{podSelector: {{matchLabels: {{{direction}: is}}}}, namespaceSelector: {{}}}}}}]}}]}}}}\n---\n"
    )
}

#[test]
fn no_packet_under_way_slips_between_two_changes_where_order_decides() {
    let tiers = [tier("egress", "to"), tier("ingress", "from")];
    let peer = |labels| pod("peer", labels, PEER);
    let objects = [tiers.concat(), server(""), peer(", one: is, ingress: is")];
    let changes = [server(", egress: is"), peer(", one: is")];
    assert!(waits(PEER, &objects, &changes, Verdict::Deny) > 0);
}

#[test]
fn a_pod_that_comes_and_may_not_send_never_sends_to_who_admits_it() {
    let objects = [server("")];
    assert!(waits(CLIENT, &objects, &[client(", two: is")], Verdict::Deny) > 0);
}

#[test]
fn a_single_peer_that_comes_or_goes_waits_for_nothing() {
    let peer = |labels| pod("peer", labels, PEER).replace("n1", "n2");
    let other = |labels| pod("other", labels, "10.0.1.2").replace("n1", "n2");
    let objects = [server(""), client(""), peer(", two: is"), other("")];
    let mut changes = Vec::new();
    for _ in 0..4 {
        let more = [other(", one: is"), other(""), other(", friend: is"), other("")];
        changes.extend(more);
    }
    assert_eq!(waits(PEER, &objects, &changes, Verdict::Allow), 0);
}

#[test]
fn no_packet_under_way_meets_what_is_of_one_pod_with_the_rules_of_two() {
    let deny = tier("ingress", "from");
    // The address of one pod goes over to another that has one already, and may not send to itself.
    let moved = server("").replace("10.0.0.1", "10.0.0.9");
    let both = pod("both", ", ingress: is", "10.0.0.2}, {ip: 10.0.0.1")
        .replace("app: both", "app: server");
    let objects = [deny, server("")];
    // What comes behind shows those under way all of it.
    let changes = [[moved, both].concat(), pod("peer", ", two: is", PEER)];
    assert!(waits(CLIENT, &objects, &changes, Verdict::Deny) > 0);
}

/// A policy in place of one that there is.
fn policy(name: &str, selected: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: default}}, \
         spec: {{podSelector: {{matchLabels: {{app: {selected}}}}}, {rules}}}}}\n---\n"
    )
}

fn nobody_may_be_sent_to() -> String {
    policy("out", "client", "policyTypes: [Egress]")
}

fn everybody_may_send() -> String {
    policy("in", "server", "ingress: [{}]")
}

/// What comes behind a change has nothing to do with it.
fn behind() -> String {
    policy("more", "peer", "ingress: []")
}

#[test]
fn no_packet_under_way_passes_where_one_side_closes_as_the_other_opens() {
    let objects = [server(", friend: is"), client(""), pod("peer", "", PEER)];
    let both = [nobody_may_be_sent_to(), everybody_may_send()];
    assert!(waits(CLIENT, &objects, &[both.concat(), behind()], Verdict::Deny) > 0);
    assert!(waits(CLIENT, &objects, &both, Verdict::Deny) > 0);
    // The same by members.
    let members = [server(""), client(", one: is")].concat();
    assert!(waits(CLIENT, &objects, &[members, behind()], Verdict::Deny) > 0);
}

#[test]
fn no_packet_under_way_reaches_a_pod_that_goes() {
    let gone = format!("{GONE}server");
    // As a peer it is sent to no more.
    let objects = [server(", friend: is"), client(""), pod("peer", "", PEER)];
    assert!(waits(CLIENT, &objects, &[gone.clone(), behind()], Verdict::Deny) > 0);
    // In strict mode nobody sends to who is not known.
    let ranges = [Cidr::parse("10.0.0.0/8").unwrap()];
    let options = Options {
        scope: Scope::Node("n1".into()),
        pod_ranges: PrefixSet::from_cidrs(&ranges),
        ..Options::default()
    };
    let objects = [server(""), pod("peer", "", PEER)];
    let waits = waits_with(&options, PEER, &objects, &[gone, client("")], Verdict::Deny);
    assert!(waits > 0);
}

#[test]
fn no_packet_under_way_passes_between_what_is_ordered_and_what_is_not() {
    // A tier closes the source's side, and a policy opens the destination's.
    let objects = [tier("egress", "to"), server(", friend: is"), client("")];
    let changes = [server(", friend: is, egress: is"), everybody_may_send()];
    assert!(waits(CLIENT, &objects, &changes, Verdict::Deny) > 0);
    // A policy closes the source's side, and a tier opens the destination's.
    let objects =
        [tier("ingress", "from"), server(", friend: is"), client(", one: is, ingress: is")];
    let changes = [nobody_may_be_sent_to(), client(", one: is")];
    assert!(waits(CLIENT, &objects, &changes, Verdict::Deny) > 0);
}

#[test]
fn rules_that_lead_to_new_chains_themselves_wait_for_who_could_find_them_empty() {
    let rules = vec![Rule::always(script::Verdict::Goto("new".into()))];
    let mut table = Table::default();
    for name in ["to-pods", "new"] {
        table.chains.insert(name.into(), Chain { hook: None, rules: rules.clone() });
    }
    let mut changes = Changes { frame: ["to-pods".into()].into(), ..Changes::default() };
    changes.log.created.insert(Object::Chain("new".into()));
    let mut unsettled = Unsettled::default();
    let is_wait = |step: &Step<'_>| matches!(step, Step::Wait);
    assert!(!Steps::new(&changes, &table, &mut unsettled).list.iter().any(is_wait));
    let steps = Steps::new(&changes, &table, &mut unsettled).list;
    assert!(matches!(steps.as_slice(), [Step::Commit(_), Step::Wait, Step::Commit(_)]));
}
