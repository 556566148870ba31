//! The exact text of a few programs, so that a change of the lowering is seen and read.
#![expect(clippy::unwrap_used, clippy::panic, reason = "test support")]

extern crate alloc;

use expect_test::{ExpectFile, expect_file};
use netpol_core::backend::Backend as _;
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{OtherProtocols, OwnNodeEgress, Scope, Settings};
use netpol_iptables::Iptables;
use netpol_k8s::manifest::{ReadOptions, read_str};

/// A shop of three pods on one node, and a database on another.
const SHOP: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.1.1}, {ip: 'fd00::1:1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.1.2}, {ip: 'fd00::1:2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: batch, namespace: shop, labels: {app: batch}}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.1.3}, {ip: 'fd00::1:3'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n2, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.0.2.1}, {ip: 'fd00::2:1'}]}
";

#[track_caller]
fn check(policies: &str, settings: Settings, expect: &ExpectFile) {
    let text = format!("{SHOP}---\n{policies}");
    let read = read_str("shop.yaml", &text, &ReadOptions::default());
    let cluster = read.unwrap_or_else(|errors| panic!("{errors}")).cluster;
    let options = Options { scope: Scope::Node("n1".into()), settings, ..Options::default() };
    let compiled = compile(&cluster, &options);
    assert_eq!(compiled.diagnostics, []);
    expect.assert_eq(&Iptables::default().lower(&compiled.ruleset).unwrap().to_string());
}

#[test]
fn no_policy_leaves_only_the_frame() {
    check("", Settings::default(), &expect_file!["golden/no-policy.txt"]);
}

#[test]
fn pod_peers_networks_and_ports_become_sets() {
    let policies = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
    - from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]
      ports: [{port: 80}, {port: 443}, {port: 8000, endPort: 8999}]
    - from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [api, batch]}]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: batch, namespace: shop}
spec:
  podSelector: {matchLabels: {app: batch}}
  policyTypes: [Ingress, Egress]
  egress:
    - to: [{podSelector: {matchLabels: {app: db}}}]
      ports: [{port: 5432}]
    - to: [{ipBlock: {cidr: 'fd00::/16'}}]
      ports: [{port: 53, protocol: UDP}, {protocol: SCTP}]
";
    check(policies, Settings::default(), &expect_file!["golden/network-policies.txt"]);
}

#[test]
fn many_peers_with_ports_of_their_own_become_one_set() {
    let policies = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
    - {from: [{podSelector: {matchLabels: {app: api}}}], ports: [{port: 80}]}
    - {from: [{podSelector: {matchLabels: {app: batch}}}], ports: [{port: 81}]}
    - {from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 82, protocol: UDP}, {port: 83, protocol: SCTP}]}
    - {from: [{ipBlock: {cidr: 172.16.0.0/12}}], ports: [{port: 84}]}
";
    check(policies, Settings::default(), &expect_file!["golden/by-port.txt"]);
}

#[test]
fn tiers_become_ordered_rules_and_reach_the_own_node() {
    let policies = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard-rails}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
    - action: Pass
      to: [{nodes: {}}]
      protocols: [{tcp: {destinationPort: {number: 443}}}]
    - action: Deny
      to: [{nodes: {}}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: default}
spec:
  tier: Baseline
  priority: 10
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}]}]
";
    check(policies, Settings::default(), &expect_file!["golden/tiers.txt"]);
    let strict =
        Settings { own_node_egress: OwnNodeEgress::Enforce, other_protocols: OtherProtocols::Pass };
    check(policies, strict, &expect_file!["golden/tiers-strict.txt"]);
}
