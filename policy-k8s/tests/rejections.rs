//! Every rejection of semantics sections 16 and 17.8, with line, column and field path.
//!
//! In the texts `¦` marks the place that the error must name.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test support: the lints know tests, but not the functions they share"
)]

use netpol_core::model::Position;
use netpol_k8s::manifest::{ReadErrors, ReadOptions, read_str};
use rstest::rstest;

#[track_caller]
fn errors_of(text: &str) -> ReadErrors {
    match read_str("f.yaml", text, &ReadOptions::default()) {
        Ok(manifests) => panic!("accepted: {manifests:?}\n{text}"),
        Err(errors) => errors,
    }
}

/// Takes the mark out, and returns where it stood.
#[track_caller]
fn unmark(marked: &str) -> (String, Position) {
    let before = marked.split('¦').next().unwrap();
    assert_eq!(marked.matches('¦').count(), 1, "one mark in {marked}");
    let line = u32::try_from(before.matches('\n').count() + 1).unwrap();
    let column = u32::try_from(before.rsplit('\n').next().unwrap().chars().count() + 1).unwrap();
    (marked.replace('¦', ""), Position { line, column })
}

/// The first error has the place of the mark, this path and this number.
#[track_caller]
fn check(marked: &str, path: &str, id: &str) {
    let (text, position) = unmark(marked);
    let errors = errors_of(&text);
    let error = &errors.errors[0];
    let found = (error.position, error.path.as_str(), error.id().unwrap_or("-"));
    assert_eq!(found, (position, path, id), "{errors}\nin\n{text}");
    assert_eq!(errors.errors.len(), 1, "one cause, one error: {errors}");
}

#[track_caller]
fn check_policy(spec: &str, path: &str, id: &str) {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: ns}\n";
    check(&format!("{head}spec: {spec}\n"), path, id);
}

#[track_caller]
fn check_cluster_policy(rest_of_spec: &str, path: &str, id: &str) {
    let head = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\n";
    check(&format!("{head}spec: {rest_of_spec}\n"), path, id);
}

const NP: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";

#[rstest]
#[case::no_api_version("¦kind: Pod", "apiVersion", "VAL-001")]
#[case::no_kind("¦apiVersion: v1", "kind", "VAL-001")]
#[case::old_version(
    "apiVersion: ¦extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: ns}",
    "apiVersion",
    "VAL-001"
)]
#[case::core_version(
    "apiVersion: ¦v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: ns}",
    "apiVersion",
    "VAL-001"
)]
#[case::misspelled_kind(
    "apiVersion: networking.k8s.io/v1\nkind: ¦Networkpolicy\nmetadata: {name: a, namespace: ns}",
    "kind",
    "VAL-001"
)]
#[case::alpha_1_with_the_new_kind(
    "apiVersion: ¦policy.networking.k8s.io/v1alpha1\nkind: ClusterNetworkPolicy\nmetadata: {name: a}",
    "apiVersion",
    "VAL-001"
)]
#[case::no_metadata(
    "¦apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy",
    "metadata",
    "VAL-001"
)]
#[case::no_name(&format!("{NP}metadata: ¦{{namespace: ns}}"), "metadata.name", "VAL-001")]
#[case::generated_name(&format!("{NP}metadata: ¦{{namespace: ns, generateName: a-}}"), "metadata.name", "VAL-001")]
#[case::name_in_upper_case(&format!("{NP}metadata: {{name: ¦Allow, namespace: ns}}"), "metadata.name", "VAL-002")]
#[case::name_with_underscore(&format!("{NP}metadata: {{name: ¦a_b, namespace: ns}}"), "metadata.name", "VAL-002")]
#[case::namespace_with_a_dot(&format!("{NP}metadata: {{name: a, namespace: ¦a.b}}"), "metadata.namespace", "VAL-002")]
#[case::namespace_object_with_a_dot(
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: ¦a.b}",
    "metadata.name",
    "VAL-002"
)]
#[case::name_that_is_a_number(&format!("{NP}metadata: {{name: ¦12, namespace: ns}}"), "metadata.name", "VAL-006")]
#[case::name_that_is_a_boolean(&format!("{NP}metadata: {{name: ¦on, namespace: ns}}"), "metadata.name", "VAL-006")]
#[case::unknown_top_field(&format!("{NP}metadata: {{name: a, namespace: ns}}\n¦Spec: {{}}"), "Spec", "VAL-004")]
#[case::unknown_metadata(&format!("{NP}metadata: {{name: a, ¦nameSpace: n, namespace: ns}}"), "metadata.nameSpace", "VAL-004")]
#[case::label_boolean(&format!("{NP}metadata: {{name: a, namespace: ns, labels: {{a: ¦yes}}}}"), "metadata.labels.a", "VAL-006")]
#[case::bad_label_key(&format!("{NP}metadata: {{name: a, namespace: ns, labels: {{¦-a: b}}}}"), "metadata.labels[-a]", "VAL-033")]
#[case::bad_label_value(&format!("{NP}metadata: {{name: a, namespace: ns, labels: {{a: ¦b-}}}}"), "metadata.labels.a", "VAL-034")]
#[case::namespace_label(
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {kubernetes.io/metadata.name: ¦b}}",
    "metadata.labels[kubernetes.io/metadata.name]",
    "VAL-035"
)]
#[case::not_an_object("¦hello", "", "VAL-006")]
#[case::list_item(
    "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata: {name: a, namespace: ns}\n  spec: {¦podselector: {}}",
    "items[0].spec.podselector",
    "VAL-004"
)]
#[case::null_list_item("apiVersion: v1\nkind: List\nitems: [¦null]", "items[0]", "DEC-17")]
fn a_bad_head_is_rejected(#[case] text: &str, #[case] path: &str, #[case] id: &str) {
    check(text, path, id);
}

#[rstest]
#[case("{¦podselector: {}}", "spec.podselector", "VAL-004")]
#[case(
    "{ingress: [{from: [{¦namespaceselector: {}, podSelector: {}}]}]}",
    "spec.ingress[0].from[0].namespaceselector",
    "VAL-004"
)]
#[case("{ingress: [{¦port: [{port: 80}]}]}", "spec.ingress[0].port", "VAL-004")]
#[case("{ingress: [{¦to: []}]}", "spec.ingress[0].to", "VAL-004")]
#[case(
    "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ¦cidr: 10.0.0.0/8}]}",
    "spec.ingress[0].cidr",
    "VAL-004"
)]
#[case("{podSelector: {¦app: a}}", "spec.podSelector.app", "VAL-004")]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, ¦cidr: 0.0.0.0/0}}]}]}",
    "spec.egress[0].to[0].ipBlock.cidr",
    "VAL-005"
)]
#[case("{podSelector: ¦[]}", "spec.podSelector", "VAL-006")]
#[case("{podSelector: {matchLabels: {a: ¦1}}}", "spec.podSelector.matchLabels.a", "VAL-006")]
#[case("{podSelector: {matchLabels: {a: ¦true}}}", "spec.podSelector.matchLabels.a", "VAL-006")]
#[case("{podSelector: {matchLabels: {a: ¦off}}}", "spec.podSelector.matchLabels.a", "VAL-006")]
#[case("{podSelector: {matchLabels: {a: ¦1e3}}}", "spec.podSelector.matchLabels.a", "VAL-006")]
#[case("{podSelector: {matchLabels: {a: ¦~}}}", "spec.podSelector.matchLabels.a", "VAL-006")]
#[case("{podSelector: {matchLabels: {¦y: a}}}", "spec.podSelector.matchLabels.y", "VAL-006")]
#[case("{policyTypes: ¦Ingress}", "spec.policyTypes", "VAL-006")]
#[case("{ingress: ¦{}}", "spec.ingress", "VAL-006")]
#[case("{ingress: [{ports: [{port: ¦true}]}]}", "spec.ingress[0].ports[0].port", "VAL-006")]
#[case("{ingress: [{ports: [{port: ¦8.5}]}]}", "spec.ingress[0].ports[0].port", "VAL-006")]
#[case("{ingress: [{ports: [{port: ¦010}]}]}", "spec.ingress[0].ports[0].port", "VAL-006")]
#[case(
    "{ingress: [{ports: [{port: 1, endPort: ¦'80'}]}]}",
    "spec.ingress[0].ports[0].endPort",
    "VAL-006"
)]
#[case("{policyTypes: ¦[Ingress, Egress, Ingress]}", "spec.policyTypes", "VAL-010")]
#[case("{policyTypes: [¦ingress]}", "spec.policyTypes[0]", "VAL-011")]
#[case("{policyTypes: [Ingress, ¦Both]}", "spec.policyTypes[1]", "VAL-011")]
#[case("{ingress: [{from: [¦{}]}]}", "spec.ingress[0].from[0]", "VAL-020")]
#[case("{egress: [{to: [¦{podSelector: null}]}]}", "spec.egress[0].to[0]", "VAL-020")]
#[case("{ingress: [{from: [¦{ipBlock: }]}]}", "spec.ingress[0].from[0]", "VAL-020")]
#[case(
    "{ingress: [{from: [{podSelector: {}, ¦ipBlock: {cidr: 10.0.0.0/8}}]}]}",
    "spec.ingress[0].from[0].ipBlock",
    "VAL-021"
)]
#[case(
    "{ingress: [{from: [{¦ipBlock: {cidr: 10.0.0.0/8}, namespaceSelector: {}}]}]}",
    "spec.ingress[0].from[0].ipBlock",
    "VAL-021"
)]
#[case("{ingress: [{ports: [{protocol: ¦tcp}]}]}", "spec.ingress[0].ports[0].protocol", "VAL-022")]
#[case("{ingress: [{ports: [{protocol: ¦ICMP}]}]}", "spec.ingress[0].ports[0].protocol", "VAL-022")]
#[case("{ingress: [{ports: [{protocol: ¦''}]}]}", "spec.ingress[0].ports[0].protocol", "VAL-022")]
#[case(
    "{ingress: [{ports: [{port: 80}, {port: ¦0}]}]}",
    "spec.ingress[0].ports[1].port",
    "VAL-023"
)]
#[case("{ingress: [{ports: [{port: ¦-1}]}]}", "spec.ingress[0].ports[0].port", "VAL-023")]
#[case("{ingress: [{ports: [{port: ¦65536}]}]}", "spec.ingress[0].ports[0].port", "VAL-023")]
#[case("{ingress: [{ports: [{port: ¦'80'}]}]}", "spec.ingress[0].ports[0].port", "VAL-024")]
#[case("{ingress: [{ports: [{port: ¦8000-9000}]}]}", "spec.ingress[0].ports[0].port", "VAL-024")]
#[case("{ingress: [{ports: [{port: ¦HTTP}]}]}", "spec.ingress[0].ports[0].port", "VAL-024")]
#[case("{ingress: [{ports: [{port: ¦a--b}]}]}", "spec.ingress[0].ports[0].port", "VAL-024")]
#[case("{ingress: [{ports: [{port: ¦a-}]}]}", "spec.ingress[0].ports[0].port", "VAL-024")]
#[case(
    "{ingress: [{ports: [{port: ¦abcdefghijklmnop}]}]}",
    "spec.ingress[0].ports[0].port",
    "VAL-024"
)]
#[case("{ingress: [{ports: [{port: ¦''}]}]}", "spec.ingress[0].ports[0].port", "VAL-024")]
#[case("{ingress: [{ports: [{endPort: ¦80}]}]}", "spec.ingress[0].ports[0].endPort", "VAL-025")]
#[case(
    "{ingress: [{ports: [{port: http, endPort: ¦80}]}]}",
    "spec.ingress[0].ports[0].endPort",
    "VAL-025"
)]
#[case(
    "{ingress: [{ports: [{port: 81, endPort: ¦80}]}]}",
    "spec.ingress[0].ports[0].endPort",
    "VAL-025"
)]
#[case(
    "{ingress: [{ports: [{port: 81, endPort: ¦65536}]}]}",
    "spec.ingress[0].ports[0].endPort",
    "VAL-025"
)]
#[case("{egress: [{to: [{ipBlock: ¦{}}]}]}", "spec.egress[0].to[0].ipBlock.cidr", "VAL-026")]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: ¦''}}]}]}",
    "spec.egress[0].to[0].ipBlock.cidr",
    "VAL-026"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: ¦10.0.0.1}}]}]}",
    "spec.egress[0].to[0].ipBlock.cidr",
    "VAL-027"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: ¦10.0.0.0/33}}]}]}",
    "spec.egress[0].to[0].ipBlock.cidr",
    "VAL-027"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: ¦'fe80::%eth0/64'}}]}]}",
    "spec.egress[0].to[0].ipBlock.cidr",
    "VAL-027"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [¦'']}}]}]}",
    "spec.egress[0].to[0].ipBlock.except[0]",
    "VAL-027"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24, except: [¦10.0.0.0/24]}}]}]}",
    "spec.egress[0].to[0].ipBlock.except[0]",
    "VAL-028"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24, except: [¦10.0.0.0/8]}}]}]}",
    "spec.egress[0].to[0].ipBlock.except[0]",
    "VAL-028"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24, except: [¦'::/0']}}]}]}",
    "spec.egress[0].to[0].ipBlock.except[0]",
    "VAL-028"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: ¦10.0.0.1/24}}]}]}",
    "spec.egress[0].to[0].ipBlock.cidr",
    "VAL-029"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: ¦010.0.0.0/8}}]}]}",
    "spec.egress[0].to[0].ipBlock.cidr",
    "VAL-029"
)]
#[case(
    "{egress: [{to: [{ipBlock: {cidr: ¦'::ffff:10.0.0.0/104'}}]}]}",
    "spec.egress[0].to[0].ipBlock.cidr",
    "VAL-029"
)]
#[case(
    "{podSelector: {matchExpressions: [{key: a, operator: In, values: ¦[]}]}}",
    "spec.podSelector.matchExpressions[0].values",
    "VAL-030"
)]
#[case(
    "{podSelector: {matchExpressions: [¦{key: a, operator: NotIn}]}}",
    "spec.podSelector.matchExpressions[0].values",
    "VAL-030"
)]
#[case(
    "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: ¦[b]}]}}",
    "spec.podSelector.matchExpressions[0].values",
    "VAL-031"
)]
#[case(
    "{podSelector: {matchExpressions: [{key: a, operator: ¦in, values: [b]}]}}",
    "spec.podSelector.matchExpressions[0].operator",
    "VAL-032"
)]
#[case(
    "{podSelector: {matchExpressions: [{key: a, operator: ¦Gt, values: ['1']}]}}",
    "spec.podSelector.matchExpressions[0].operator",
    "VAL-032"
)]
#[case(
    "{podSelector: {matchExpressions: [¦{key: a}]}}",
    "spec.podSelector.matchExpressions[0].operator",
    "VAL-032"
)]
#[case(
    "{podSelector: {matchExpressions: [{key: ¦a/b/c, operator: Exists}]}}",
    "spec.podSelector.matchExpressions[0].key",
    "VAL-033"
)]
#[case(
    "{podSelector: {matchExpressions: [¦{operator: Exists}]}}",
    "spec.podSelector.matchExpressions[0].key",
    "VAL-033"
)]
#[case(
    "{podSelector: {matchLabels: {¦A.b/-: c}}}",
    "spec.podSelector.matchLabels[A.b/-]",
    "VAL-033"
)]
#[case("{podSelector: {matchLabels: {a: ¦'b c'}}}", "spec.podSelector.matchLabels.a", "VAL-034")]
#[case(
    "{podSelector: {matchExpressions: [{key: a, operator: In, values: [¦-a]}]}}",
    "spec.podSelector.matchExpressions[0].values[0]",
    "VAL-034"
)]
#[case("{ingress: [¦null]}", "spec.ingress[0]", "DEC-17")]
#[case("{ingress: [{from: [¦~]}]}", "spec.ingress[0].from[0]", "DEC-17")]
#[case("{ingress: [{ports: [¦null]}]}", "spec.ingress[0].ports[0]", "DEC-17")]
fn a_bad_network_policy_is_rejected(#[case] spec: &str, #[case] path: &str, #[case] id: &str) {
    check_policy(spec, path, id);
}

fn head(rest: &str) -> String {
    format!("{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {rest}}}")
}

fn egress(rule: &str) -> String {
    head(&format!("egress: [{rule}]"))
}

fn protocol(entry: &str) -> String {
    egress(&format!("{{action: Deny, to: [{{namespaces: {{}}}}], protocols: [{entry}]}}"))
}

#[rstest]
#[case("{tier: ¦admin, priority: 1, subject: {namespaces: {}}}", "spec.tier", "VAL-C-01")]
#[case("¦{priority: 1, subject: {namespaces: {}}}", "spec.tier", "VAL-C-01")]
#[case(&egress("{action: ¦Allow, to: [{namespaces: {}}]}"), "spec.egress[0].action", "VAL-C-01")]
#[case("¦{tier: Admin, subject: {namespaces: {}}}", "spec.priority", "VAL-C-02")]
#[case("{tier: Admin, priority: ¦1001, subject: {namespaces: {}}}", "spec.priority", "VAL-C-02")]
#[case("{tier: Admin, priority: ¦-1, subject: {namespaces: {}}}", "spec.priority", "VAL-C-02")]
#[case("{tier: Admin, priority: 1, subject: ¦{}}", "spec.subject", "VAL-C-03")]
#[case(
    "{tier: Admin, priority: 1, subject: ¦{namespaces: {}, pods: {podSelector: {}}}}",
    "spec.subject",
    "VAL-C-03"
)]
#[case("¦{tier: Admin, priority: 1}", "spec.subject", "VAL-C-03")]
#[case(&egress("{action: Deny, to: [¦{}]}"), "spec.egress[0].to[0]", "VAL-C-03")]
#[case(&egress("{action: Deny, to: [¦{namespaces: {}, nodes: {}}]}"), "spec.egress[0].to[0]", "VAL-C-03")]
#[case(&protocol("¦{}"), "spec.egress[0].protocols[0]", "VAL-C-03")]
#[case(&protocol("¦{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}"), "spec.egress[0].protocols[0]", "VAL-C-03")]
#[case(&protocol("{tcp: {destinationPort: ¦{}}}"), "spec.egress[0].protocols[0].tcp.destinationPort", "VAL-C-03")]
#[case(&protocol("{tcp: {destinationPort: ¦{number: 1, range: {start: 1, end: 2}}}}"), "spec.egress[0].protocols[0].tcp.destinationPort", "VAL-C-03")]
#[case(&egress("¦{to: [{namespaces: {}}]}"), "spec.egress[0].action", "VAL-C-04")]
#[case(&egress("¦{action: Deny}"), "spec.egress[0].to", "VAL-C-04")]
#[case(&egress("¦{action: Deny, to: []}"), "spec.egress[0].to", "VAL-C-04")]
#[case(&egress("{action: Deny, to: [{namespaces: {}}], protocols: ¦[]}"), "spec.egress[0].protocols", "VAL-C-04")]
#[case(&egress("{action: Deny, to: [{networks: ¦[]}]}"), "spec.egress[0].to[0].networks", "VAL-C-04")]
#[case(&head("ingress: [{action: Deny, from: [{pods: ¦{namespaceSelector: {}}}]}]"), "spec.ingress[0].from[0].pods.podSelector", "VAL-C-05")]
#[case(&protocol("{tcp: {destinationPort: {number: ¦0}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.number", "VAL-C-06")]
#[case(&protocol("{tcp: {destinationPort: {range: ¦{start: 5, end: 5}}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.range", "VAL-C-06")]
#[case(&protocol("{sctp: ¦{}}"), "spec.egress[0].protocols[0].sctp", "VAL-C-07")]
#[case(&egress("{action: Deny, to: [{networks: [¦10.0.0.0]}]}"), "spec.egress[0].to[0].networks[0]", "VAL-C-08")]
#[case(&egress("{action: Deny, to: [{networks: [10.0.0.0/8, ¦10.0.0.0/8]}]}"), "spec.egress[0].to[0].networks[1]", "VAL-C-08")]
#[case(&egress("{action: Accept, to: [{domainNames: [¦com]}]}"), "spec.egress[0].to[0].domainNames[0]", "VAL-C-08")]
#[case(&egress("{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: ¦web}]}"), "spec.egress[0].protocols[0].destinationNamedPort", "VAL-C-09")]
#[case(
    "{tier: Admin, priority: 1, subject: {namespaces: {matchExpressions: [{key: a, operator: ¦Is}]}}}",
    "spec.subject.namespaces.matchExpressions[0].operator",
    "VAL-C-10"
)]
#[case(
    "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {a: ¦'b c'}}}}",
    "spec.subject.namespaces.matchLabels.a",
    "VAL-C-10"
)]
#[case(&egress("{action: Deny, to: [{networks: [¦10.0.0.1/8]}]}"), "spec.egress[0].to[0].networks[0]", "VAL-C-11")]
#[case(
    "{tier: Admin, priority: 1, subject: {namespaces: {¦namespaceSelector: {}}}}",
    "spec.subject.namespaces.namespaceSelector",
    "VAL-C-12"
)]
#[case(&egress("{action: Deny, to: [{namespaces: {}}], ¦ports: []}"), "spec.egress[0].ports", "VAL-C-12")]
#[case(&egress("{action: Pass, to: [{¦domainNames: [example.com]}]}"), "spec.egress[0].to[0].domainNames", "VAL-C-13")]
#[case(&head("ingress: [{action: Deny, from: [{¦networks: [10.0.0.0/8]}]}]"), "spec.ingress[0].from[0].networks", "VAL-C-14")]
#[case(&protocol("{destinationNamedPort: ¦''}"), "spec.egress[0].protocols[0].destinationNamedPort", "VAL-C-15")]
#[case(&head("ingress: [¦null]"), "spec.ingress[0]", "DEC-17")]
fn a_bad_cluster_network_policy_is_rejected(
    #[case] spec: &str,
    #[case] path: &str,
    #[case] id: &str,
) {
    check_cluster_policy(spec, path, id);
}

#[test]
fn more_than_25_rules_peers_or_protocols_are_rejected() {
    let many = |entry: &str| vec![entry; 26].join(", ");
    let rules = many("{action: Deny, to: [{namespaces: {}}]}");
    check_cluster_policy(&head(&format!("egress: ¦[{rules}]")), "spec.egress", "VAL-C-04");
    let peers = format!("{{action: Deny, to: ¦[{}]}}", many("{namespaces: {}}"));
    check_cluster_policy(&egress(&peers), "spec.egress[0].to", "VAL-C-04");
    let protocols = many("{tcp: {destinationPort: {number: 1}}}");
    let rule = format!("{{action: Deny, to: [{{namespaces: {{}}}}], protocols: ¦[{protocols}]}}");
    check_cluster_policy(&egress(&rule), "spec.egress[0].protocols", "VAL-C-04");
}

#[rstest]
#[case::deny_in_old_words(
    "Admin",
    "{priority: 1, subject: {namespaces: {}}, ingress: [{action: ¦Accept, from: [{namespaces: {}}]}]}",
    "spec.ingress[0].action",
    "VAL-C-01"
)]
#[case::pass_in_baseline(
    "BaselineAdmin",
    "{subject: {namespaces: {}}, ingress: [{action: ¦Pass, from: [{namespaces: {}}]}]}",
    "spec.ingress[0].action",
    "VAL-C-01"
)]
#[case::priority_in_baseline(
    "BaselineAdmin",
    "{¦priority: 1, subject: {namespaces: {}}}",
    "spec.priority",
    "VAL-C-12"
)]
#[case::old_namespaces(
    "Admin",
    "{priority: 1, subject: {namespaces: {¦namespaceSelector: {}}}}",
    "spec.subject.namespaces.namespaceSelector",
    "ANP-005"
)]
#[case::pods_without_namespaces(
    "Admin",
    "{priority: 1, subject: {pods: ¦{podSelector: {}}}}",
    "spec.subject.pods.namespaceSelector",
    "-"
)]
#[case::missing_number(
    "Admin",
    "{priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{portNumber: ¦{protocol: UDP}}]}]}",
    "spec.ingress[0].ports[0].portNumber.port",
    "-"
)]
fn a_bad_v1alpha1_policy_is_rejected(
    #[case] kind: &str,
    #[case] spec: &str,
    #[case] path: &str,
    #[case] id: &str,
) {
    let head =
        format!("apiVersion: policy.networking.k8s.io/v1alpha1\nkind: {kind}NetworkPolicy\n");
    check(&format!("{head}metadata: {{name: default}}\nspec: {spec}"), path, id);
}

#[test]
fn the_baseline_must_be_named_default() {
    let head = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\n";
    let errors = errors_of(&format!(
        "{head}metadata: {{name: other}}\nspec: {{subject: {{namespaces: {{}}}}}}"
    ));
    assert_eq!(errors.errors[0].id(), Some("ANP-002"), "{errors}");
}

#[rstest]
#[case::host_network("Pod", "v1", "{¦hostnetwork: true}", "spec.hostnetwork", "VAL-004")]
#[case::host_network_text("Pod", "v1", "{hostNetwork: ¦'yes'}", "spec.hostNetwork", "VAL-006")]
#[case::port_range(
    "Pod",
    "v1",
    "{containers: [{ports: [{containerPort: ¦0}]}]}",
    "spec.containers[0].ports[0].containerPort",
    "VAL-023"
)]
#[case::port_name(
    "Pod",
    "v1",
    "{containers: [{ports: [{containerPort: 1, name: ¦Web}]}]}",
    "spec.containers[0].ports[0].name",
    "VAL-024"
)]
#[case::protocol(
    "Pod",
    "v1",
    "{containers: [{ports: [{containerPort: 1, protocol: ¦udp}]}]}",
    "spec.containers[0].ports[0].protocol",
    "VAL-022"
)]
#[case::template(
    "Deployment",
    "apps/v1",
    "{template: {metadata: {labels: {a: ¦1}}}}",
    "spec.template.metadata.labels.a",
    "VAL-006"
)]
#[case::no_template("Deployment", "apps/v1", "¦{replicas: 1}", "spec.template", "-")]
fn a_bad_pod_or_workload_is_rejected(
    #[case] kind: &str,
    #[case] version: &str,
    #[case] spec: &str,
    #[case] path: &str,
    #[case] id: &str,
) {
    check(
        &format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p, namespace: ns}}\nspec: {spec}\n"
        ),
        path,
        id,
    );
}

#[test]
fn the_same_object_twice_names_both_places() {
    let one = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: ns}\nspec: {}\n";
    let errors = errors_of(&format!("{one}---\n{one}"));
    assert_eq!(
        errors.to_string(),
        "f.yaml:6:1: NetworkPolicy ns/a: the same object is given twice; first in f.yaml:1:1 (OFF-004)"
    );
}

#[test]
fn all_errors_of_all_documents_are_listed_one_line_each() {
    let text = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: yes
  ingress:
    - from:
        - ipBlock:
            cidr: 10.0.0.1/8
      ports:
        - port: '80'
        - port: 70000
---
kind: Pod
";
    let found = errors_of(text).to_string();
    assert_eq!(
        found,
        "\
f.yaml:9:12: NetworkPolicy shop/web: spec.podSelector.matchLabels.app: expected a string, found the boolean `yes`; put it in quotes (VAL-006)
f.yaml:13:19: NetworkPolicy shop/web: spec.ingress[0].from[0].ipBlock.cidr: `10.0.0.1/8` has host bits set; did you mean the network `10.0.0.0/8` or the single address `10.0.0.1/32`? (VAL-029)
f.yaml:15:17: NetworkPolicy shop/web: spec.ingress[0].ports[0].port: `80` is not a valid port name: needs at least one letter; write a number without quotes (VAL-024)
f.yaml:16:17: NetworkPolicy shop/web: spec.ingress[0].ports[1].port: port 70000 is outside 1 to 65535 (VAL-023)
f.yaml:18:1: apiVersion: missing `apiVersion`; every manifest names its `apiVersion` and `kind` (VAL-001)"
    );
}

/// VAL-042: the tutorial as it was printed, with its indentation lost.
#[test]
fn the_tutorial_as_printed_is_rejected_with_a_hint() {
    let text = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: test-network-policy
  namespace: default
spec:
  podSelector:
    matchLabels:
      role: db
  policyTypes:
  - Ingress
  - Egress
  ingress:
  - from:
    - ipBlock:
      cidr: 172.17.0.0/16
      except:
      - 172.17.1.0/24
    - namespaceSelector:
      matchLabels:
        project: myproject
    ports:
    - protocol: TCP
      port: 6379
";
    let found = errors_of(text).to_string();
    assert_eq!(
        found,
        "\
f.yaml:16:7: NetworkPolicy default/test-network-policy: spec.ingress[0].from[0].cidr: unknown field `cidr`; did you mean `cidr` inside `ipBlock`? (VAL-004)
f.yaml:17:7: NetworkPolicy default/test-network-policy: spec.ingress[0].from[0].except: unknown field `except`; did you mean `except` inside `ipBlock`? (VAL-004)
f.yaml:15:7: NetworkPolicy default/test-network-policy: spec.ingress[0].from[0]: a peer must give `podSelector`, `namespaceSelector` or `ipBlock`; to match everybody, leave the whole list out (VAL-020)
f.yaml:20:7: NetworkPolicy default/test-network-policy: spec.ingress[0].from[1].matchLabels: unknown field `matchLabels`; did you mean `matchLabels` inside `podSelector` or `namespaceSelector`? (VAL-004)
f.yaml:19:7: NetworkPolicy default/test-network-policy: spec.ingress[0].from[1]: a peer must give `podSelector`, `namespaceSelector` or `ipBlock`; to match everybody, leave the whole list out (VAL-020)"
    );
}
