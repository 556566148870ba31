use std::path::Path;

use expect_test::{Expect, expect};

use crate::support::{SHOP, netpol, netpol_with_stdin};

#[track_caller]
fn check(arguments: &[&str], expected: &Expect) {
    let mut all = vec!["matrix", "-q", "-f", SHOP];
    all.extend(arguments);
    let run = netpol(&all);
    assert_eq!(run.code, 0, "{}", run.all());
    expected.assert_eq(&run.stdout);
}

#[test]
fn the_matrix_of_the_shop() {
    check(
        &[],
        &expect![[r#"
            who reaches whom (IPv4)
                from \ to                          1  2  3  4  5  6    7    8  9    10  11   12
            1   backend/api[Deployment]               .  C  D  .  B    .    .  .    .   .    .
            2   backend/worker[Deployment]         .     .  D  .  B    .    .  .    .   .    A
            3   data/postgres[StatefulSet]         .  .     .  .  B    .    .  .    .   .    .
            4   data/redis[StatefulSet]            .  .  .     .  B    .    .  .    .   .    .
            5   edge/gateway[Deployment]           .  .  .  .     B    .    F  .    .   .    .
            6   kube-system/coredns[Deployment]    .  .  .  .  G       all  .  all  .   all  all
            7   monitoring/prometheus[Deployment]  I  I  K  .  H  all       J  all  .   all  all
            8   storefront/web[Deployment]         E  .  .  .  .  B    .       .    .   .    .
            9   0.0.0.0-169.254.169.253 (+4)       .  .  .  .  G  all  all  .
            10  169.254.169.254/32                 .  .  .  .  G  all  all  .
            11  198.51.100.0/24                    .  .  .  .  .  all  all  .
            12  203.0.113.0/26 (+1)                .  .  .  .  G  all  all  .

              A  TCP 443
              B  TCP 53 UDP 53
              C  TCP 5432
              D  TCP 6379
              E  TCP 8000
              F  TCP 8080
              G  TCP 8443
              H  TCP 8443,9102
              I  TCP 9100
              J  TCP 9113
              K  TCP 9187
              .  nothing
            9 is 0.0.0.0-169.254.169.253, 169.254.169.255-198.51.99.255, 198.51.101.0-203.0.112.255, 203.0.113.64/26, 203.0.114.0-255.255.255.255
            12 is 203.0.113.0/26, 203.0.113.128/25
            note: a pod always reaches itself, and its own node always reaches it; neither is shown (OFF-010)
            note: 8 pods without address in the manifests got stand-ins, which match only blocks that cover a whole family; give their network with --pod-cidr (OFF-006)
            note: uncertain, since addresses that the manifests do not give decide: kube-system/coredns -> edge/gateway, monitoring/prometheus -> edge/gateway (OFF-006)
        "#]],
    );
}

#[test]
fn one_port_makes_it_small() {
    check(
        &["--port", "53/UDP"],
        &expect![[r#"
            who reaches whom (IPv4, port 53/UDP)
               from \ to                          1  2    3    4    5
            1  backend/api[Deployment] (+5)       .  yes  .    .    .
            2  kube-system/coredns[Deployment]    .       yes  yes  .
            3  monitoring/prometheus[Deployment]  .  yes       yes  .
            4  0.0.0.0-169.254.169.253 (+1)       .  yes  yes
            5  169.254.169.254/32                 .  yes  yes

              .  nothing
            1 is backend/api[Deployment], backend/worker[Deployment], data/postgres[StatefulSet], data/redis[StatefulSet], edge/gateway[Deployment], storefront/web[Deployment]
            4 is 0.0.0.0-169.254.169.253, 169.254.169.255-255.255.255.255
            note: a pod always reaches itself, and its own node always reaches it; neither is shown (OFF-010)
            note: 8 pods without address in the manifests got stand-ins, which match only blocks that cover a whole family; give their network with --pod-cidr (OFF-006)
        "#]],
    );
    check(
        &["--port", "8443", "-o", "md"],
        &expect![[r#"
            | from \\ to (IPv4, port 8443/TCP) | backend/api[Deployment] (+4) | edge/gateway[Deployment] | kube-system/coredns[Deployment] (+1) | 0.0.0.0-169.254.169.253 (+2) | 169.254.169.254/32 | 198.51.100.0/24 |
            |---|---|---|---|---|---|---|
            | **backend/api[Deployment] (+4)** | - | - | - | - | - | - |
            | **edge/gateway[Deployment]** | - |  | - | - | - | - |
            | **kube-system/coredns[Deployment] (+1)** | - | yes | yes | yes | - | yes |
            | **0.0.0.0-169.254.169.253 (+2)** | - | yes | yes |  |  |  |
            | **169.254.169.254/32** | - | yes | yes |  |  |  |
            | **198.51.100.0/24** | - | - | yes |  |  |  |

            - backend/api[Deployment] (+4) is backend/api[Deployment], backend/worker[Deployment], data/postgres[StatefulSet], data/redis[StatefulSet], storefront/web[Deployment]
            - kube-system/coredns[Deployment] (+1) is kube-system/coredns[Deployment], monitoring/prometheus[Deployment]
            - 0.0.0.0-169.254.169.253 (+2) is 0.0.0.0-169.254.169.253, 169.254.169.255-198.51.99.255, 198.51.101.0-255.255.255.255
            - note: a pod always reaches itself, and its own node always reaches it; neither is shown (OFF-010)
            - note: 8 pods without address in the manifests got stand-ins, which match only blocks that cover a whole family; give their network with --pod-cidr (OFF-006)
            - note: uncertain, since addresses that the manifests do not give decide: kube-system/coredns -> edge/gateway, monitoring/prometheus -> edge/gateway (OFF-006)
        "#]],
    );
}

#[test]
fn a_graph_for_graphviz() {
    check(
        &["--port", "5432", "-o", "dot"],
        &expect![[r#"
        digraph netpol {
          rankdir=LR;
          label="IPv4, port 5432/TCP";
          node [shape=box, fontname="sans-serif"];
          edge [fontname="sans-serif", fontsize=10];
          g0 [label="backend/api[Deployment]"];
          g1 [label="backend/worker[Deployment]\ndata/redis[StatefulSet]\nedge/gateway[Deployment]\nstorefront/web[Deployment]"];
          g2 [label="data/postgres[StatefulSet]"];
          g3 [label="kube-system/coredns[Deployment]\nmonitoring/prometheus[Deployment]"];
          g4 [label="0.0.0.0-169.254.169.253\n169.254.169.255-255.255.255.255", style=dashed];
          g5 [label="169.254.169.254/32", style=dashed];
          g0 -> g2 [label="yes"];
          g3 -> g3 [label="yes"];
          g3 -> g4 [label="yes"];
          g4 -> g3 [label="yes"];
          g5 -> g3 [label="yes"];
        }
    "#]],
    );
}

/// Two pods, one of which admits the other on some ports and one network on all.
const PAIR: &str = "\
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {app: a}}, status: {podIP: 10.0.0.1}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: b, namespace: x}, spec: {template: {metadata: {labels: {app: b}}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b, namespace: x}
spec:
  podSelector: {matchLabels: {app: b}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: a}}}]
      ports: [{port: 80, endPort: 90}, {port: 443}, {protocol: UDP}]
    - from: [{ipBlock: {cidr: 172.16.0.0/12, except: [172.16.5.0/24]}}]
";

#[test]
fn json_lists_every_pair_and_leaves_out_what_is_denied() {
    let run = netpol_with_stdin(&["matrix", "-q", "-f", "-", "-o", "json"], PAIR);
    expect![[r#"
        {"connections":[
        {"src":"0.0.0.0-172.15.255.255","dst":"x/a[Pod]","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"172.16.0.0-172.16.4.255","dst":"x/a[Pod]","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"172.16.0.0-172.16.4.255","dst":"x/b[Deployment]","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"172.16.5.0/24","dst":"x/a[Pod]","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"172.16.6.0-172.31.255.255","dst":"x/a[Pod]","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"172.16.6.0-172.31.255.255","dst":"x/b[Deployment]","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"172.32.0.0-255.255.255.255","dst":"x/a[Pod]","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/a[Pod]","dst":"0.0.0.0-172.15.255.255","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/a[Pod]","dst":"172.16.0.0-172.16.4.255","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/a[Pod]","dst":"172.16.5.0/24","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/a[Pod]","dst":"172.16.6.0-172.31.255.255","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/a[Pod]","dst":"172.32.0.0-255.255.255.255","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/a[Pod]","dst":"x/b[Deployment]","all":false,"ports":{"TCP":[[80,90],[443,443]],"UDP":[[1,65535]]}},
        {"src":"x/b[Deployment]","dst":"0.0.0.0-172.15.255.255","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/b[Deployment]","dst":"172.16.0.0-172.16.4.255","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/b[Deployment]","dst":"172.16.5.0/24","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/b[Deployment]","dst":"172.16.6.0-172.31.255.255","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/b[Deployment]","dst":"172.32.0.0-255.255.255.255","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}},
        {"src":"x/b[Deployment]","dst":"x/a[Pod]","all":true,"ports":{"SCTP":[[1,65535]],"TCP":[[1,65535]],"UDP":[[1,65535]]}}
        ],"family":"IPv4","notes":["a pod always reaches itself, and its own node always reaches it; neither is shown (OFF-010)","1 pod without address in the manifests got stand-ins, which match only blocks that cover a whole family; give their network with --pod-cidr (OFF-006)","namespaces without manifest, taken to have no labels of their own: x (OFF-003)"],"schema":"netpol.matrix/v1"}
        [exit 0]
    "#]].assert_eq(&run.all());
    let _: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
}

#[test]
fn csv_lists_every_pair() {
    let run = netpol_with_stdin(&["matrix", "-q", "-f", "-", "-o", "csv"], PAIR);
    expect![[r#"
        src,dst,all,ports,other_protocols
        0.0.0.0-172.15.255.255,x/a[Pod],true,TCP UDP SCTP,true
        172.16.0.0-172.16.4.255,x/a[Pod],true,TCP UDP SCTP,true
        172.16.0.0-172.16.4.255,x/b[Deployment],true,TCP UDP SCTP,true
        172.16.5.0/24,x/a[Pod],true,TCP UDP SCTP,true
        172.16.6.0-172.31.255.255,x/a[Pod],true,TCP UDP SCTP,true
        172.16.6.0-172.31.255.255,x/b[Deployment],true,TCP UDP SCTP,true
        172.32.0.0-255.255.255.255,x/a[Pod],true,TCP UDP SCTP,true
        x/a[Pod],0.0.0.0-172.15.255.255,true,TCP UDP SCTP,true
        x/a[Pod],172.16.0.0-172.16.4.255,true,TCP UDP SCTP,true
        x/a[Pod],172.16.5.0/24,true,TCP UDP SCTP,true
        x/a[Pod],172.16.6.0-172.31.255.255,true,TCP UDP SCTP,true
        x/a[Pod],172.32.0.0-255.255.255.255,true,TCP UDP SCTP,true
        x/a[Pod],x/b[Deployment],false,"TCP 80-90,443 UDP",false
        x/b[Deployment],0.0.0.0-172.15.255.255,true,TCP UDP SCTP,true
        x/b[Deployment],172.16.0.0-172.16.4.255,true,TCP UDP SCTP,true
        x/b[Deployment],172.16.5.0/24,true,TCP UDP SCTP,true
        x/b[Deployment],172.16.6.0-172.31.255.255,true,TCP UDP SCTP,true
        x/b[Deployment],172.32.0.0-255.255.255.255,true,TCP UDP SCTP,true
        x/b[Deployment],x/a[Pod],true,TCP UDP SCTP,true
        [exit 0]
    "#]]
    .assert_eq(&run.all());
}

#[test]
fn no_pods_no_matrix() {
    let run = netpol_with_stdin(&["matrix", "-f", "-"], "");
    expect![[r#"
        who reaches whom (IPv4)
        no pods in these manifests
        note: a pod always reaches itself, and its own node always reaches it; neither is shown (OFF-010)
        [exit 0]
    "#]].assert_eq(&run.all());
}

#[test]
fn cells_that_hang_on_unknown_addresses_are_named_and_strict_exits_with_3() {
    let manifests = PAIR.replace("status: {podIP: 10.0.0.1}", "status: {}");
    let run = netpol_with_stdin(&["matrix", "-q", "--strict", "-f", "-"], &manifests);
    assert!(
        run.stdout.contains(
            "note: uncertain, since addresses that the manifests do not give decide: x/a -> x/b"
        ),
        "{}",
        run.stdout
    );
    assert_eq!(run.code, 3);
    let known = ["matrix", "-q", "--strict", "-f", "-", "--pod-cidr", "10.0.0.0/24"];
    assert_eq!(netpol_with_stdin(&known, &manifests).code, 0);
}

/// The matrix says of every pair and port what `verdict` says.
#[test]
fn matrix_and_verdict_agree_on_the_shop() {
    let matrix = netpol(&["matrix", "-q", "-f", SHOP, "-o", "json"]).stdout;
    let matrix: serde_json::Value = serde_json::from_str(&matrix).unwrap();
    let connections = matrix["connections"].as_array().unwrap();
    let pods = [
        "backend/api[Deployment]",
        "backend/worker[Deployment]",
        "data/postgres[StatefulSet]",
        "data/redis[StatefulSet]",
        "edge/gateway[Deployment]",
        "kube-system/coredns[Deployment]",
        "monitoring/prometheus[Deployment]",
        "storefront/web[Deployment]",
    ];
    let ports = [
        (53, "UDP"),
        (53, "TCP"),
        (80, "TCP"),
        (5432, "TCP"),
        (6379, "TCP"),
        (8000, "TCP"),
        (8080, "TCP"),
        (9100, "TCP"),
    ];
    let mut flows = String::new();
    let mut expected = Vec::new();
    for source in pods {
        for destination in pods.iter().filter(|other| **other != source) {
            let connection = connections
                .iter()
                .find(|entry| entry["src"] == source && entry["dst"] == **destination);
            for (port, protocol) in ports {
                flows.push_str(&format!("{source} -> {destination}:{port}/{protocol}\n"));
                let ranges = connection.and_then(|entry| entry["ports"][protocol].as_array());
                let open = ranges.is_some_and(|ranges| {
                    ranges.iter().any(|range| {
                        (range[0].as_u64().unwrap()..=range[1].as_u64().unwrap()).contains(&port)
                    })
                });
                expected.push(if open { "allow" } else { "deny" });
            }
        }
    }
    let run =
        netpol_with_stdin(&["verdict", "-q", "-f", SHOP, "--flows", "-", "-o", "json"], &flows);
    let verdicts: Vec<String> = run
        .stdout
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["verdict"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(verdicts.len(), flows.lines().count(), "{}", run.stderr);
    for ((flow, verdict), expected) in flows.lines().zip(&verdicts).zip(expected) {
        assert_eq!(verdict, expected, "{flow}");
    }
    assert!(verdicts.iter().any(|verdict| verdict == "allow"));
    assert!(Path::new(env!("CARGO_BIN_EXE_netpol")).exists());
}

#[test]
fn five_hundred_pods_stay_readable() {
    let mut manifests = String::new();
    for index in 0..500 {
        let (namespace, app) = (index / 50, index % 2);
        manifests.push_str(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p{index}, namespace: n{namespace}, labels: {{app: a{app}}}}}}}\n---\n"
        ));
    }
    for namespace in 0..10 {
        manifests.push_str(&format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: own, namespace: n{namespace}}}, spec: \
             {{podSelector: {{matchLabels: {{app: a0}}}}, ingress: [{{from: [{{podSelector: {{}}}}]}}]}}}}\n---\n"
        ));
    }
    let run = netpol_with_stdin(&["matrix", "-q", "-f", "-"], &manifests);
    assert_eq!(run.code, 0);
    // A row for each namespace's open and closed pods and one for the outside, a legend and a list of members.
    assert!(run.stdout.lines().count() < 60, "{}", run.stdout);
}
