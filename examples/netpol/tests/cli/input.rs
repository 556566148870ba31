use expect_test::{Expect, expect};

use crate::support::{SHOP, netpol, netpol_with_stdin, verdict};

#[track_caller]
fn check(arguments: &[&str], stdin: &str, expected: &Expect) {
    expected.assert_eq(&netpol_with_stdin(arguments, stdin).all());
}

#[test]
fn bad_manifests_are_exit_code_2_with_every_place_and_nothing_is_judged() {
    let manifests = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: x}
spec:
  podSelector: {}
  ingress:
    - ports: [{endPort: 90}]
      from: [{ipBlock: {cidr: 10.0.0.1/8}}]
";
    expect![[r#"
        [stderr]
        netpol: these manifests cannot be evaluated (OFF-002):
        -:8:31: NetworkPolicy x/a: spec.ingress[0].from[0].ipBlock.cidr: `10.0.0.1/8` has host bits set; did you mean the network `10.0.0.0/8` or the single address `10.0.0.1/32`? (VAL-029)
        -:7:25: NetworkPolicy x/a: spec.ingress[0].ports[0].endPort: `endPort` needs a numeric `port` to start from (VAL-025)
        [exit 2]
    "#]].assert_eq(&verdict(manifests, &[], &["x/a -> x/b:80"]).all());
}

#[test]
fn host_bits_are_masked_only_when_asked_for() {
    let manifests = "\
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: x},
 spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8}}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x}, status: {podIP: 172.16.0.1}}
";
    assert_eq!(verdict(manifests, &[], &["10.5.5.5 -> x/a:80"]).code, 2);
    let run = verdict(manifests, &["--lenient"], &["10.5.5.5 -> x/a:80"]);
    assert_eq!(run.code, 0, "{}", run.all());
    assert!(run.stderr.contains("has host bits set"), "{}", run.stderr);
}

#[test]
fn kinds_that_say_nothing_about_policy_are_skipped_with_one_note() {
    let manifests = "\
{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
---
{apiVersion: v1, kind: Secret, metadata: {name: a}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a}}
";
    let run = verdict(manifests, &["-n", "shop"], &["1.1.1.1 -> a:80"]);
    expect![[r#"
        allow  1.1.1.1 -> a:80
               egress    allow no policed pod at this end
               ingress   allow not isolated
        [stderr]
        note: skipped 2 objects that say nothing about network policy: ConfigMap (1), Secret (1) (OFF-005)
        note: 1 pod without address in the manifests got stand-ins, which match only blocks that cover a whole family; give their network with --pod-cidr (OFF-006)
        note: namespaces without manifest, taken to have no labels of their own: shop (OFF-003)
        [exit 0]
    "#]].assert_eq(&run.all());
}

#[test]
fn a_path_that_is_not_there_is_exit_code_2() {
    check(
        &["verdict", "-f", "no/such/path", "--flow", "a -> b:80"],
        "",
        &expect![[r#"
        [stderr]
        netpol: no/such/path: cannot be read: No such file or directory (os error 2)
        [exit 2]
    "#]],
    );
    check(
        &["check", "-f", "no/such/path"],
        "",
        &expect![[r#"
        [stderr]
        netpol: no/such/path: cannot be read: No such file or directory (os error 2)
        [exit 2]
    "#]],
    );
}

#[test]
fn manifests_and_flows_cannot_both_be_standard_input() {
    check(
        &["verdict", "-f", "-", "--flows", "-"],
        "",
        &expect![[r#"
        [stderr]
        netpol: `-f -` and `--flows -` both read standard input; give one of them as a file
        [exit 2]
    "#]],
    );
}

#[test]
fn several_paths_may_follow_one_option() {
    let one = format!("{SHOP}/backend.yaml");
    let two = format!("{SHOP}/data.yaml");
    let run = netpol(&["explain", "-q", "-f", &one, &two, "backend/api -> data/redis:6379"]);
    assert!(run.stdout.contains("namespace"), "{}", run.all());
    let verdicts =
        ["verdict", "-q", "-f", &one, &two, "--flow", "backend/api -> backend/worker:80"];
    assert_eq!(netpol(&verdicts).code, 1);
}

#[test]
fn hostile_input_is_an_error_and_never_a_panic() {
    let deep = "[".repeat(100_000);
    let random: String = (0..5000_u32)
        .filter_map(|n| char::from_u32(n.wrapping_mul(2_654_435_761) % 0x500))
        .collect();
    for text in ["\0", "{", "- -\n\t- a", "a: &a [*a]", "apiVersion: 1\nkind: []", &deep, &random] {
        for command in ["check", "compile", "matrix"] {
            let run = netpol_with_stdin(&[command, "-f", "-"], text);
            assert!(matches!(run.code, 0..=2), "{command}: {}", run.all());
            assert!(!run.stderr.contains("panicked"), "{command}: {}", run.stderr);
        }
    }
}

#[test]
fn usage_errors_are_exit_code_2() {
    for arguments in
        [&["verdict"] as &[&str], &["matrix", "-f", SHOP, "--port", "0"], &["no-such-command"], &[]]
    {
        assert_eq!(netpol(arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn help_of_every_command_has_examples() {
    for command in ["check", "compile", "explain", "lab", "lower", "matrix", "verdict"] {
        let run = netpol(&[command, "--help"]);
        assert_eq!(run.code, 0);
        assert!(run.stdout.contains("Examples:"), "{command}");
        assert!(run.stdout.contains(&format!("netpol {command} -f manifests/")), "{command}");
    }
}
