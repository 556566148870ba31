use expect_test::{Expect, expect};

use crate::support::{SHOP, netpol, netpol_with_stdin, verdict};

#[track_caller]
fn check_shop(arguments: &[&str], expected: &Expect) {
    let mut all = vec!["verdict", "-q", "-f", SHOP];
    all.extend(arguments);
    expected.assert_eq(&netpol(&all).all());
}

#[test]
fn text_names_both_sides_with_file_and_line() {
    check_shop(
        &[
            "--flow",
            "storefront/web -> backend/api:http",
            "--flow",
            "storefront/web -> data/postgres:5432",
            "--flow",
            "backend/worker -> 203.0.113.70:443",
            "--flow",
            "203.0.113.9 -> edge/gateway:https",
        ],
        &expect![[r#"
            allow  storefront/web -> backend/api:http
                   egress    allow NetworkPolicy storefront/web egress[0].to[0]  examples/manifests/shop/storefront.yaml:43:12
                   ingress   allow NetworkPolicy backend/api ingress[0].from[0]  examples/manifests/shop/backend.yaml:53:14
            deny   storefront/web -> data/postgres:5432
                   egress    deny  isolated by NetworkPolicy storefront/default-deny, storefront/web, and no rule matches
                   ingress   deny  isolated by NetworkPolicy data/default-deny, data/postgres, and no rule matches
            deny   backend/worker -> 203.0.113.70:443
                   egress    deny  isolated by NetworkPolicy backend/default-deny, backend/worker, and no rule matches
                   ingress   allow no policed pod at this end
            allow  203.0.113.9 -> edge/gateway:https
                   egress    allow no policed pod at this end
                   ingress   allow NetworkPolicy edge/gateway ingress[0].from[0]  examples/manifests/shop/edge.yaml:35:11
            [exit 1]
        "#]],
    );
}

#[test]
fn json_is_one_line_for_each_flow_in_order_with_the_text_as_written() {
    check_shop(
        &[
            "-o",
            "json",
            "--flow",
            "  storefront/web->backend/api:8000/tcp ",
            "--flow",
            "data/postgres -> 8.8.8.8:53/UDP",
            "--flow",
            "198.51.100.7 -> edge/gateway:8443",
        ],
        &expect![[r#"
            {"flow":"  storefront/web->backend/api:8000/tcp ","verdict":"allow","egress":{"verdict":"allow","reason":"rule","text":"NetworkPolicy storefront/web egress[0].to[0]","tier":"NetworkPolicy","action":"accept","policy":{"kind":"NetworkPolicy","namespace":"storefront","name":"web"},"rule":0,"peer":0,"file":"examples/manifests/shop/storefront.yaml","line":43},"ingress":{"verdict":"allow","reason":"rule","text":"NetworkPolicy backend/api ingress[0].from[0]","tier":"NetworkPolicy","action":"accept","policy":{"kind":"NetworkPolicy","namespace":"backend","name":"api"},"rule":0,"peer":0,"file":"examples/manifests/shop/backend.yaml","line":53},"source":{"pod":"storefront/web","address":"10.244.0.8","stand_in":true},"destination":{"pod":"backend/api","address":"10.244.0.1","stand_in":true},"protocol":"TCP","port":8000,"family":"IPv4","uncertain":false,"notes":[],"schema":"netpol.verdict/v1"}
            {"flow":"data/postgres -> 8.8.8.8:53/UDP","verdict":"deny","egress":{"verdict":"deny","reason":"rule","text":"ClusterNetworkPolicy data-stays-inside egress[1].to[0]","tier":"Admin","action":"deny","policy":{"kind":"ClusterNetworkPolicy","name":"data-stays-inside"},"rule":1,"peer":0,"file":"examples/manifests/shop/cluster-policies.yaml","line":45},"ingress":{"verdict":"allow","reason":"not-policed","text":"no policed pod at this end"},"source":{"pod":"data/postgres","address":"10.244.0.3","stand_in":true},"destination":{"address":"8.8.8.8","stand_in":false},"protocol":"UDP","port":53,"family":"IPv4","uncertain":false,"notes":[],"schema":"netpol.verdict/v1"}
            {"flow":"198.51.100.7 -> edge/gateway:8443","verdict":"deny","egress":{"verdict":"allow","reason":"not-policed","text":"no policed pod at this end"},"ingress":{"verdict":"deny","reason":"isolated","text":"isolated, and no rule matches","isolated_by":[{"kind":"NetworkPolicy","namespace":"edge","name":"gateway"}]},"source":{"address":"198.51.100.7","stand_in":false},"destination":{"pod":"edge/gateway","address":"10.244.0.5","stand_in":true},"protocol":"TCP","port":8443,"family":"IPv4","uncertain":false,"notes":[],"schema":"netpol.verdict/v1"}
            [exit 1]
        "#]],
    );
}

#[test]
fn a_service_is_judged_at_its_backends_and_their_target_port() {
    check_shop(
        &[
            "--flow",
            "storefront/web -> svc/backend/api:80",
            "--flow",
            "storefront/web -> svc/kube-system/kube-dns:dns",
        ],
        &expect![[r#"
            allow  storefront/web -> svc/backend/api:80
                   Service backend/api, 1 backend
                   allow backend/api 8000/TCP
                   egress    allow NetworkPolicy storefront/web egress[0].to[0]  examples/manifests/shop/storefront.yaml:43:12
                   ingress   allow NetworkPolicy backend/api ingress[0].from[0]  examples/manifests/shop/backend.yaml:53:14
            allow  storefront/web -> svc/kube-system/kube-dns:dns
                   Service kube-system/kube-dns, 1 backend
                   allow kube-system/coredns 53/UDP
                   egress    allow ClusterNetworkPolicy platform egress[0].to[0]  examples/manifests/shop/cluster-policies.yaml:24:11
                   ingress   allow ClusterNetworkPolicy platform-default ingress[0].from[0]  examples/manifests/shop/cluster-policies.yaml:58:14
            [exit 0]
        "#]],
    );
}

#[test]
fn a_port_that_only_the_service_of_that_name_has_is_pointed_out() {
    check_shop(
        &["--flow", "storefront/web -> backend/api:80"],
        &expect![[r#"
        deny   storefront/web -> backend/api:80
               egress    deny  isolated by NetworkPolicy storefront/default-deny, storefront/web, and no rule matches
               ingress   deny  isolated by NetworkPolicy backend/api, backend/default-deny, and no rule matches
               note      judged at port 80 of the pod; Service backend/api has that port too, and `svc/backend/api:80` judges it
        [exit 1]
    "#]],
    );
}

#[test]
fn flows_of_a_file_follow_those_of_the_command_line_and_comments_are_skipped() {
    let flows = "# who may\n\nstorefront/web -> backend/api:8000\n  # not\nbackend/api -> data/redis:redis\n";
    let arguments = [
        "verdict",
        "-q",
        "-f",
        SHOP,
        "--flows",
        "-",
        "--flow",
        "data/redis -> data/postgres:5432",
        "-o",
        "json",
    ];
    let run = netpol_with_stdin(&arguments, flows);
    let verdicts: Vec<(String, String)> = run
        .stdout
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            (
                value["flow"].as_str().unwrap().to_owned(),
                value["verdict"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let expected = [
        ("data/redis -> data/postgres:5432", "deny"),
        ("storefront/web -> backend/api:8000", "allow"),
        ("backend/api -> data/redis:redis", "allow"),
    ];
    assert_eq!(verdicts, expected.map(|(flow, verdict)| (flow.to_owned(), verdict.to_owned())));
    assert_eq!(run.code, 1, "{}", run.stderr);
}

#[test]
fn exit_code_is_0_where_every_flow_is_allowed() {
    let run = netpol(&["verdict", "-f", SHOP, "--flow", "storefront/web -> backend/api:8000"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

const TWO_PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: x}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: some, namespace: x}
spec:
  podSelector: {}
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]
";

#[test]
fn a_verdict_that_hangs_on_an_unknown_address_is_uncertain_and_strict_exits_with_3() {
    let run = verdict(TWO_PODS, &["-q"], &["x/a -> x/b:80"]);
    expect![[r#"
        deny   x/a -> x/b:80  (uncertain)
               egress    allow not isolated
               ingress   deny  isolated by NetworkPolicy x/some, and no rule matches
               uncertain ingress: hangs on the address of pod x/a, which the manifests do not give (OFF-006)
        [exit 1]
    "#]].assert_eq(&run.all());
    let run = verdict(TWO_PODS, &["--strict"], &["x/a -> x/b:80"]);
    assert_eq!(run.code, 3);
}

#[test]
fn a_pod_network_makes_the_same_verdict_certain() {
    let run =
        verdict(TWO_PODS, &["-q", "--strict", "--pod-cidr", "10.9.0.0/24"], &["x/a -> x/b:80"]);
    assert_eq!(run.code, 0, "{}", run.all());
    let run =
        verdict(TWO_PODS, &["-q", "--strict", "--pod-cidr", "172.16.0.0/24"], &["x/a -> x/b:80"]);
    assert_eq!(run.code, 1, "{}", run.all());
}

#[test]
fn families_that_differ_are_told_apart() {
    let manifests = TWO_PODS.replace("10.0.0.0/8", "0.0.0.0/0");
    let run = verdict(&manifests, &["-q", "-o", "json"], &["x/a -> x/b:80"]);
    let line: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(line["families"], serde_json::json!({"IPv4": "allow", "IPv6": "deny"}));
    assert_eq!(line["uncertain"], false);
    assert_eq!(verdict(&manifests, &["-q", "--family", "ipv6"], &["x/a -> x/b:80"]).code, 1);
}

#[test]
fn portless_protocols_match_rules_without_ports_only() {
    let open = TWO_PODS.replace("cidr: 10.0.0.0/8", "cidr: 0.0.0.0/0");
    assert_eq!(verdict(&open, &["-q"], &["x/a -> x/b ICMP"]).code, 0);
    let ported = open.replace("0.0.0.0/0}}]}]", "0.0.0.0/0}}], ports: [{port: 80}]}]");
    assert_eq!(verdict(&ported, &["-q"], &["x/a -> x/b ICMP"]).code, 1);
    assert_eq!(
        verdict(&ported, &["-q", "--other-protocols", "pass"], &["x/a -> x/b ICMP"]).code,
        0
    );
}

const NODES: &str = "\
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.1.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.168.1.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}
";

#[test]
fn the_own_node_always_gets_in_and_out_unless_egress_is_enforced() {
    let code = |arguments: &[&str], flow| verdict(NODES, arguments, &[flow]).code;
    assert_eq!(code(&["-q"], "node/n1 -> x/a:80"), 0);
    assert_eq!(code(&["-q"], "node/n2 -> x/a:80"), 1);
    assert_eq!(code(&["-q"], "192.168.1.1 -> x/a:80"), 0);
    assert_eq!(code(&["-q"], "x/a -> node/n1:10250"), 0);
    assert_eq!(code(&["-q", "--own-node-egress", "enforce"], "x/a -> node/n1:10250"), 1);
    assert_eq!(code(&["-q"], "x/a -> node/n2:10250"), 1);
}

#[test]
fn a_node_and_a_pod_on_no_known_node_leave_the_verdict_uncertain() {
    let unplaced = NODES.replace("spec: {nodeName: n1}", "spec: {}");
    let run = verdict(&unplaced, &["-q", "--strict"], &["node/n1 -> x/a:80"]);
    assert_eq!(run.code, 3, "{}", run.all());
}

#[test]
fn dns_names_leave_a_denial_uncertain_only_where_they_could_matter() {
    let policy = "\
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: names}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
    - {action: Accept, to: [{domainNames: [api.example.com]}], protocols: [{tcp: {destinationPort: {number: 443}}}]}
";
    let manifests = format!("{NODES}{policy}");
    let code = |flow| verdict(&manifests, &["-q", "--strict"], &[flow]).code;
    assert_eq!(code("x/a -> 203.0.113.1:443"), 3);
    assert_eq!(code("x/a -> 203.0.113.1:80"), 1);
    assert_eq!(code("203.0.113.1 -> x/a:443"), 1);
}

#[test]
fn workloads_go_by_name_and_kind_and_two_of_one_name_must_be_told_apart() {
    let workload = |kind: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: {kind}, metadata: {{name: web, namespace: x}}, spec: {{selector: {{}}, template: \
             {{metadata: {{labels: {{kind: {kind}}}}}, spec: {{}}}}}}}}\n---\n"
        )
    };
    let both = workload("Deployment") + &workload("StatefulSet");
    let run = verdict(&both, &["-q"], &["x/web[StatefulSet] -> x/web[Deployment]:80"]);
    assert_eq!(run.code, 0, "{}", run.all());
    let run = verdict(&both, &["-q"], &["x/web -> x/web[Deployment]:80"]);
    expect![[r#"
        [stderr]
        netpol: `x/web -> x/web[Deployment]:80`: several workloads are named `x/web`; write one of x/web[Deployment], x/web[StatefulSet]
        [exit 2]
    "#]].assert_eq(&run.all());
    assert_eq!(verdict(&workload("Deployment"), &["-q"], &["x/web -> x/web:80"]).code, 0);
}

#[test]
fn names_that_are_not_there_are_told_all_at_once_with_what_is_there() {
    let flows = [
        "x/c -> x/b:80",
        "x/a -> x/a:metrics",
        "x/b -> x/a:dns",
        "x/a -> node/n1:80",
        "x/a -> svc/x/web:80",
        "x/a -> 10.0.0.1:http",
        "x/a -> fd00::1 ICMP",
    ];
    expect![[r#"
        [stderr]
        note: 2 pods without address in the manifests got stand-ins, which match only blocks that cover a whole family; give their network with --pod-cidr (OFF-006)
        note: namespaces without manifest, taken to have no labels of their own: x (OFF-003)
        netpol: these flows cannot be judged:
        `x/c -> x/b:80`: no pod or workload `x/c`; pods there: a, b
        `x/a -> x/a:metrics`: pod x/a has no TCP port named `metrics`; it has: http (8080/TCP), dns (53/UDP)
        `x/b -> x/a:dns`: pod x/a has no TCP port named `dns`; it has: http (8080/TCP), dns (53/UDP)
        `x/a -> node/n1:80`: no node `n1`: the manifests name no nodes; add Node objects or write the node's address
        `x/a -> svc/x/web:80`: no Service `x/web`; its namespace has none
        `x/a -> 10.0.0.1:http`: port name `http` cannot be resolved: only pods have port names; write the number
        [exit 2]
    "#]].assert_eq(&verdict(TWO_PODS, &[], &flows).all());
}
