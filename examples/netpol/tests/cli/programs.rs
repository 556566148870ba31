//! `compile`, `lower` and `explain`.

use expect_test::expect;

use crate::support::{SHOP, netpol, netpol_with_stdin};

const PAIR: &str = "\
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x}, spec: {nodeName: n2}, status: {podIP: 10.0.0.2}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}
";

#[test]
fn compile_shows_the_pods_of_the_node_only() {
    let run = netpol_with_stdin(&["compile", "-q", "-f", "-", "--node", "n1"], PAIR);
    expect![[r#"
        ruleset of node n1
        settings own-node-egress Allow other-protocols Judge
        node n1 192.0.2.1 fd00:192::1
        endpoint x/a on n1 10.0.0.1 ingress pfe5dc1823028208488de4454f7c6e68f egress p739b61b8a83bc38ba312b278cd5b3977
        pipeline p739b61b8a83bc38ba312b278cd5b3977 egress
         not isolated
        pipeline pfe5dc1823028208488de4454f7c6e68f ingress
         isolated
          NetworkPolicy x/p ingress
            ingress[0].from[0] accept sd42a337577846bc9c54c02b1b0e58579 TCP 80
          otherwise deny
        set sd42a337577846bc9c54c02b1b0e58579 pods {} of namespace x
         10.0.0.1
         10.0.0.2
        [exit 0]
    "#]].assert_eq(&run.all());
}

#[test]
fn compiled_json_is_read_back_as_the_same_ruleset() {
    let json = netpol(&["compile", "-q", "-f", SHOP, "-o", "json"]);
    let form: netpol_core::ir::RulesetForm = serde_json::from_str(&json.stdout).unwrap();
    let ruleset = netpol_core::ir::Ruleset::try_from(form).unwrap();
    assert_eq!(ruleset.to_string(), netpol(&["compile", "-q", "-f", SHOP]).stdout);
}

#[test]
fn a_node_that_is_not_there_is_an_error_with_those_that_are() {
    for command in ["compile", "lower"] {
        let run = netpol_with_stdin(&[command, "-q", "-f", "-", "--node", "n3"], PAIR);
        assert_eq!(run.all(), "[stderr]\nnetpol: no node `n3`; there are: n1, n2\n[exit 2]\n");
    }
}

#[test]
fn manifests_that_know_no_node_are_asked_as_if_the_one_named_were_the_cluster() {
    let run = netpol(&["compile", "-f", SHOP, "--node", "n1"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("endpoint backend/api on n1 "), "{}", run.stdout);
    assert!(run.stderr.contains("8 pods on no node in the manifests: put on n1"), "{}", run.stderr);
}

#[test]
fn lower_prints_a_table_of_the_node() {
    let run =
        netpol_with_stdin(&["lower", "-q", "-f", "-", "--node", "n1", "--backend", "nft"], PAIR);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.starts_with("table inet netpol {"), "{}", run.stdout);
    assert!(run.stdout.contains("10.0.0.1") && run.stdout.ends_with("}\n"), "{}", run.stdout);
}

#[test]
fn lower_prints_json_of_nftables_and_of_nothing_else() {
    let lower = |backend| {
        let arguments =
            ["lower", "-q", "-f", "-", "--node", "n1", "-o", "json", "--backend", backend];
        netpol_with_stdin(&arguments, PAIR)
    };
    let run = lower("nft");
    assert_eq!(run.code, 0, "{}", run.stderr);
    let program: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let table = serde_json::json!({ "table": { "family": "inet", "name": "netpol" } });
    assert_eq!(program["nftables"][0], table);
    for backend in ["iptables", "ebpf", "ebpf-tc"] {
        let said = "[stderr]\nnetpol: `--output json` is for `--backend nft` alone\n[exit 2]\n";
        assert_eq!(lower(backend).all(), said);
    }
}

#[test]
fn lower_prints_the_same_maps_for_both_places_of_the_ebpf_program() {
    let [forward, interfaces] = ["ebpf", "ebpf-tc"].map(|backend| {
        let arguments = ["lower", "-q", "-f", "-", "--node", "n1", "--backend", backend];
        netpol_with_stdin(&arguments, PAIR)
    });
    assert_eq!((interfaces.code, forward.code), (0, 0), "{}", interfaces.stderr);
    assert!(interfaces.stdout.contains("10.0.0.1"), "{}", interfaces.stdout);
    assert_eq!(interfaces.stdout, forward.stdout);
}

#[test]
fn explain_says_which_rule_decided_and_what_came_nearest() {
    let flows = ["x/a -> x/b:80", "x/a -> x/b:81"];
    let run = netpol_with_stdin(&["explain", "-q", "-f", "-", flows[0], flows[1]], PAIR);
    expect![[r#"
        allow  x/a -> x/b:80
               10.0.0.1 -> 10.0.0.2 80/TCP

        allow egress of x/a to x/b
          so: not isolated

        allow ingress of x/b from x/a
          NetworkPolicies: they isolate the pod; any rule that matches allows
            NetworkPolicy x/p  -:5:1
              => ingress[0].from[0] accept: decides  -:8:43
          so: NetworkPolicy x/p ingress[0].from[0]

        deny   x/a -> x/b:81
               10.0.0.1 -> 10.0.0.2 81/TCP

        allow egress of x/a to x/b
          so: not isolated

        deny  ingress of x/b from x/a
          NetworkPolicies: they isolate the pod; any rule that matches allows
            NetworkPolicy x/p  -:5:1
               - ingress[0].from[0] accept  -:8:43
                   no: port 81/TCP is not among TCP 80
          so: isolated by NetworkPolicy x/p, and no rule matches
          nearest: NetworkPolicy x/p ingress[0].from[0]  -:8:43
                   ports: port 81/TCP is not among TCP 80
        [exit 1]
    "#]]
    .assert_eq(&run.all());
}

#[test]
fn explain_shows_every_tier() {
    let run =
        netpol(&["explain", "-q", "-f", SHOP, "monitoring/prometheus -> data/postgres:metrics"]);
    expect![[r#"
        allow  monitoring/prometheus -> data/postgres:metrics
               10.244.0.7 -> 10.244.0.3 9187/TCP

        allow egress of monitoring/prometheus to data/postgres
          Admin tier: the first rule that matches decides, Pass leaves the tier
            ClusterNetworkPolicy platform  examples/manifests/shop/cluster-policies.yaml:3:1
               - egress[0].to[0] accept  examples/manifests/shop/cluster-policies.yaml:24:11
                   no: namespaceSelector `kubernetes.io/metadata.name=kube-system` does not match namespace data (kubernetes.io/metadata.name=data,part-of=shop,tier=data)
                   no: podSelector `k8s-app=kube-dns` does not match the other end's labels (app=postgres)
                   no: port 9187/TCP is not among TCP 53 UDP 53
               - egress[1].to[0] deny  examples/manifests/shop/cluster-policies.yaml:33:12
                   no: address 10.244.0.3 is not in 169.254.169.254/32
          so: not isolated

        allow ingress of data/postgres from monitoring/prometheus
          Admin tier: the first rule that matches decides, Pass leaves the tier
            ClusterNetworkPolicy platform  examples/manifests/shop/cluster-policies.yaml:3:1
              => ingress[0].from[0] accept: decides  examples/manifests/shop/cluster-policies.yaml:15:11
          NetworkPolicies: not asked, since the Admin tier decides
            NetworkPolicy data/default-deny  examples/manifests/shop/data.yaml:53:1
            NetworkPolicy data/postgres  examples/manifests/shop/data.yaml:60:1
          so: ClusterNetworkPolicy platform ingress[0].from[0]
        [exit 0]
    "#]].assert_eq(&run.all());
}

#[test]
fn explain_as_json_names_the_clauses_that_failed() {
    let run = netpol_with_stdin(&["explain", "-q", "-f", "-", "x/a -> x/b:81", "-o", "json"], PAIR);
    let line: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(line["schema"], "netpol.explain/v1");
    let nearest = &line["cases"][0]["ingress"]["nearest"][0];
    assert_eq!(nearest["misses"][0]["clause"], "ports");
    assert_eq!((&nearest["rule"], &nearest["line"]), (&0.into(), &8.into()));
}
