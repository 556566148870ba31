use expect_test::expect;

use crate::support::{SHOP, netpol, netpol_with_stdin};

const WRONG: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: x}
spec:
  podselector: {}
  ingress:
    - ports: [{port: 80, protocol: tcp}]
";

const ODD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a}
spec:
  podSelector: {}
  policyTypes: [Egress]
  ingress: [{}]
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
";

#[test]
fn the_shop_is_right() {
    expect![[r#"
        right: 9 NetworkPolicies, 3 ClusterNetworkPolicies, 8 pods or workloads, 6 namespaces, 6 Services; 0 warnings
        [exit 0]
    "#]].assert_eq(&netpol(&["check", "-f", SHOP]).all());
}

#[test]
fn errors_are_exit_code_1_with_place_field_and_rule() {
    expect![[r#"
        error:   -:5:3: NetworkPolicy x/a: spec.podselector: unknown field `podselector`; did you mean `podSelector`? (VAL-004)
        error:   -:7:36: NetworkPolicy x/a: spec.ingress[0].ports[0].protocol: unknown protocol `tcp`; `TCP`, `UDP` and `SCTP` exist, in upper case (VAL-022)
        wrong: 2 errors; nothing is evaluated while there is one (OFF-002)
        [exit 1]
    "#]].assert_eq(&netpol_with_stdin(&["check", "-f", "-"], WRONG).all());
    expect![[r#"
        {
          "schema": "netpol.check/v1",
          "valid": false,
          "errors": [
            {
              "message": "-:5:3: NetworkPolicy x/a: spec.podselector: unknown field `podselector`; did you mean `podSelector`? (VAL-004)",
              "id": "VAL-004",
              "file": "-",
              "document": 1,
              "line": 5,
              "column": 3,
              "kind": "NetworkPolicy",
              "namespace": "x",
              "name": "a",
              "path": "spec.podselector"
            },
            {
              "message": "-:7:36: NetworkPolicy x/a: spec.ingress[0].ports[0].protocol: unknown protocol `tcp`; `TCP`, `UDP` and `SCTP` exist, in upper case (VAL-022)",
              "id": "VAL-022",
              "file": "-",
              "document": 1,
              "line": 7,
              "column": 36,
              "kind": "NetworkPolicy",
              "namespace": "x",
              "name": "a",
              "path": "spec.ingress[0].ports[0].protocol"
            }
          ],
          "warnings": [],
          "notes": [],
          "objects": {
            "cluster_network_policies": 0,
            "namespaces": 0,
            "network_policies": 0,
            "nodes": 0,
            "pods": 0,
            "services": 0
          }
        }
        [exit 1]
    "#]].assert_eq(&netpol_with_stdin(&["check", "-f", "-", "-o", "json"], WRONG).all());
}

#[test]
fn warnings_and_notes_leave_the_exit_code_0() {
    expect![[r#"
        warning: -:1:1: NetworkPolicy default/a: selects no pod of these manifests (VAL-040)
        warning: -:7:13: NetworkPolicy default/a: spec.ingress: these rules have no effect: `policyTypes` does not list Ingress (NP-024)
        note:    -:3:11: NetworkPolicy default/a: metadata.namespace: no `metadata.namespace`; taken as `default` (VAL-003)
        note:    -:9:1: ConfigMap default/a: skipped: ConfigMap of `v1` says nothing about network policy (OFF-005)
        right: 1 NetworkPolicy, 0 ClusterNetworkPolicies, 0 pods or workloads, 1 namespace, 0 Services; 2 warnings
        [exit 0]
    "#]].assert_eq(&netpol_with_stdin(&["check", "-f", "-"], ODD).all());
}
