//! The lab where it can run, and what it says where it cannot. Packets stay inside its own network namespaces.

use std::path::Path;

use expect_test::expect;

use crate::support::{SHOP, netpol, netpol_as};

/// Whether a lab can run here; says so where it cannot, since then the test shows less.
fn can_enforce(code: i32) -> bool {
    if code == 3 {
        let required =
            ["CI", "NETPOL_REQUIRE_KERNEL"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "no lab can run here, and one is required");
        #[expect(clippy::print_stderr, reason = "a tier that was left out is told")]
        {
            eprintln!("no lab can run here: only its refusal was tested");
        }
    }
    code != 3
}

#[test]
fn the_shop_is_enforced_as_expected() {
    for backend in ["nft", "iptables", "ebpf", "ebpf-tc"] {
        let run = netpol(&["lab", "-q", "-f", SHOP, "--backend", backend]);
        if can_enforce(run.code) {
            assert_eq!(run.code, 0, "{}", run.all());
            assert!(run.stdout.contains("expected = observed"), "{}", run.stdout);
            let enforced = format!("policies enforced by {backend}\n");
            assert!(run.stdout.contains(&enforced), "{}", run.stdout);
        } else {
            assert!(run.stdout.starts_with("NOT ENFORCED: "), "{}", run.all());
        }
    }
}

#[test]
fn given_flows_are_probed_and_echoed() {
    let flows = ["backend/worker -> 203.0.113.70:443", "backend/worker -> 203.0.113.7:443"];
    let run =
        netpol(&["lab", "-q", "-f", SHOP, "--flow", flows[0], "--flow", flows[1], "-o", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let expected: Vec<&str> = answer["flows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flow| flow["expected"].as_str().unwrap())
        .collect();
    assert_eq!(expected, ["deny", "allow"]);
    if can_enforce(run.code) {
        assert_eq!(answer["flows"][0]["observed"], "deny");
        assert_eq!(answer["flows"][1]["observed"], "allow");
        assert_eq!((&answer["differences"], &answer["enforced"]), (&0.into(), &true.into()));
    } else {
        assert_eq!(answer["flows"][0]["observed"], serde_json::Value::Null);
    }
}

/// Runs the lab in a user namespace that allows no further one, without any capability.
#[test]
fn without_privileges_the_expected_matrix_is_printed_with_the_reason_and_exit_code_3() {
    let powerless = "echo 0 > /proc/sys/user/max_user_namespaces && \
                     exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs \"$@\"";
    let flow = "storefront/web -> data/redis:6379";
    let program = env!("CARGO_BIN_EXE_netpol");
    let arguments = [
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        powerless,
        "sh",
        program,
        "lab",
        "-q",
        "-f",
        SHOP,
        "--flow",
        flow,
    ];
    let run = netpol_as(Path::new("unshare"), &arguments, "", &[]);
    let Some(run) = run.ok().filter(|run| !run.stdout.is_empty()) else {
        #[expect(clippy::print_stderr, reason = "a tier that was left out is told")]
        {
            eprintln!("no user namespace can be made here: the refusal was not tested");
        }
        return;
    };
    assert!(run.stdout.starts_with("NOT ENFORCED: no lab can run here"), "{}", run.all());
    let rest: String = run.stdout.lines().skip(1).map(|line| format!("{line}\n")).collect();
    expect![[r#"
        What follows is only what is expected; no packet was sent.

        expected  observed              flow
        deny      nothing (not sent)    storefront/web -> data/redis:6379  (10.244.0.8 -> 10.244.0.4 6379/TCP)

        1 flow expected: 0 allowed, 1 denied; none tried
    "#]]
    .assert_eq(&rest);
    assert_eq!(run.code, 3);
}

#[test]
fn a_shell_opens_in_the_network_of_the_pod() {
    let program = Path::new(env!("CARGO_BIN_EXE_netpol"));
    let arguments = [
        "lab",
        "-q",
        "-f",
        SHOP,
        "--flow",
        "storefront/web -> data/redis:6379",
        "--shell",
        "storefront/web",
    ];
    let run =
        netpol_as(program, &arguments, "cat /proc/net/fib_trie; exit\n", &[("SHELL", "/bin/sh")])
            .unwrap();
    if can_enforce(run.code) {
        assert!(run.stderr.contains("network of pod storefront/web (10.244.0.8"), "{}", run.all());
        assert!(run.stdout.contains("10.244.0.8"), "{}", run.stdout);
    }
}

#[test]
fn without_pods_there_is_nothing_to_send() {
    assert_eq!(netpol(&["lab", "-q", "-f", &format!("{SHOP}/namespaces.yaml")]).code, 2);
}

#[test]
fn an_unknown_pod_for_the_shell_is_an_error_before_anything_is_built() {
    let run = netpol(&["lab", "-q", "-f", SHOP, "--shell", "storefront/nobody"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("no pod or workload `storefront/nobody`"), "{}", run.stderr);
}
