//! The manifests, held against the API's own types, against the command line, and against what the agent really asks.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "test support"
)]

extern crate alloc;

use alloc::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use netpol_conformance::api_server::{self, ApiServer, Options};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// Reads a file of the base, or of an overlay beside it.
fn read(name: &str) -> Value {
    let text = fs::read_to_string(folder().join("base").join(name)).unwrap();
    let mut events = Parser::new_from_str(&text);
    loop {
        match next(&mut events) {
            Event::StreamStart | Event::DocumentStart(_) => {}
            event => return value(event, &mut events),
        }
    }
}

type Events<'t> = Parser<'t, saphyr_parser::StrInput<'t>>;

fn next<'t>(events: &mut Events<'t>) -> Event<'t> {
    events.next_event().unwrap().unwrap().0
}

/// YAML 1.2 as far as these files use it.
fn value<'t>(event: Event<'t>, events: &mut Events<'t>) -> Value {
    match event {
        Event::Scalar(text, ScalarStyle::Plain, ..) => match text.as_ref() {
            "true" => json!(true),
            "false" => json!(false),
            text => text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number)),
        },
        Event::Scalar(text, ..) => json!(text),
        Event::SequenceStart(..) => {
            let mut items = vec![];
            loop {
                match next(events) {
                    Event::SequenceEnd => return json!(items),
                    event => items.push(value(event, events)),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut fields = serde_json::Map::new();
            loop {
                match next(events) {
                    Event::MappingEnd => return Value::Object(fields),
                    Event::Scalar(key, ..) => {
                        let event = next(events);
                        let value = value(event, events);
                        assert!(fields.insert(key.to_string(), value).is_none(), "{key} twice");
                    }
                    event => panic!("not a key: {event:?}"),
                }
            }
        }
        event => panic!("unexpected: {event:?}"),
    }
}

/// Reads a file as an object of the API. A field that the API does not know would be lost on the way back.
fn object<T: DeserializeOwned + Serialize>(name: &str) -> T {
    let written = read(name);
    let object: T = serde_json::from_value(written.clone()).unwrap();
    let back = serde_json::to_value(&object).unwrap();
    assert_eq!(lost(&written, &back), None, "{name}");
    object
}

/// Returns the first thing of `written` that is not in `back`.
fn lost(written: &Value, back: &Value) -> Option<String> {
    match (written, back) {
        (Value::Object(fields), Value::Object(_)) => fields.iter().find_map(|(name, value)| {
            lost(value, back.get(name).unwrap_or(&Value::Null)).map(|path| format!("{name}.{path}"))
        }),
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            items.iter().zip(others).find_map(|(item, other)| lost(item, other))
        }
        (written, back) if written == back => None,
        (written, back) => Some(format!("{written} became {back}")),
    }
}

#[test]
fn every_manifest_is_an_object_of_the_api_and_part_of_the_kustomization() {
    let account: ServiceAccount = object("service-account.yaml");
    let role: ClusterRole = object("cluster-role.yaml");
    let binding: ClusterRoleBinding = object("cluster-role-binding.yaml");
    let agents: DaemonSet = object("daemon-set.yaml");
    // They fit together.
    assert_eq!(Some(&binding.role_ref.name), role.metadata.name.as_ref());
    let subject = &binding.subjects.unwrap()[0];
    assert_eq!(Some(&subject.name), account.metadata.name.as_ref());
    assert_eq!(subject.namespace, account.metadata.namespace);
    let spec = agents.spec.unwrap();
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.service_account_name, account.metadata.name);
    let labels: BTreeMap<String, String> = spec.template.metadata.unwrap().labels.unwrap();
    assert_eq!(spec.selector.match_labels, Some(labels));
    let listed: BTreeSet<String> = read("kustomization.yaml")["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    let there: BTreeSet<String> = fs::read_dir(folder().join("base"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn every_variable_of_the_daemon_set_is_one_the_agent_reads() {
    let help = Command::new(env!("CARGO_BIN_EXE_netpol-agent")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let agents: DaemonSet = object("daemon-set.yaml");
    let pod = agents.spec.unwrap().template.spec.unwrap();
    let variables = pod.containers.into_iter().flat_map(|container| container.env.unwrap());
    for variable in variables {
        assert!(help.contains(&format!("[env: {}=", variable.name)), "{}", variable.name);
    }
}

#[test]
fn the_role_allows_exactly_what_the_agent_asks() {
    let server = ApiServer::start(Options::default()).unwrap();
    let kubeconfig = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("role.kubeconfig");
    fs::write(&kubeconfig, api_server::kubeconfig(server.address())).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_netpol-agent"))
        .args(["--node-name", "n", "--once", "--dry-run", "--kubeconfig"])
        .arg(&kubeconfig)
        .output()
        .unwrap()
        .status;
    assert!(status.success());
    let asked: BTreeSet<(String, String)> = server
        .received()
        .iter()
        .map(|received| {
            let (method, rest) = received.line.split_once(' ').unwrap();
            assert_eq!(method, "GET");
            rest.split('?').next().unwrap().to_owned()
        })
        .filter_map(|path| {
            let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
            match *parts {
                ["api", "v1", resource] => Some((String::new(), resource.to_owned())),
                ["apis", group, _, resource] => Some((group.to_owned(), resource.to_owned())),
                // Discovery, which everybody may ask.
                ["apis", _, _] => None,
                _ => panic!("{path}"),
            }
        })
        .collect();
    let role: ClusterRole = object("cluster-role.yaml");
    let mut allowed = BTreeSet::new();
    for rule in role.rules.unwrap() {
        assert_eq!(rule.verbs, ["list", "watch"]);
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.iter().flatten() {
                allowed.insert((group.clone(), resource.clone()));
            }
        }
    }
    assert_eq!(asked, allowed);
}

#[test]
fn the_daemon_set_asks_for_no_more_than_it_needs() {
    let agents: DaemonSet = object("daemon-set.yaml");
    let pod = agents.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.volumes, None, "nothing of the host is mounted");
    for container in pod.containers {
        let security = container.security_context.unwrap();
        assert_eq!(security.privileged, None);
        assert_eq!(security.allow_privilege_escalation, Some(false));
        assert_eq!(security.read_only_root_filesystem, Some(true));
        let capabilities = security.capabilities.unwrap();
        assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(capabilities.add, Some(vec!["NET_ADMIN".to_owned()]));
    }
}

#[test]
fn each_overlay_adds_what_its_backend_needs_and_nothing_else() {
    for (backend, capabilities, mount) in [
        ("ebpf", ["BPF", "NET_ADMIN", "PERFMON"].as_slice(), "/sys/fs/bpf"),
        ("iptables", ["NET_ADMIN", "NET_RAW"].as_slice(), "/run/xtables.lock"),
    ] {
        let patch: DaemonSet = object(&format!("../{backend}/daemon-set.yaml"));
        let pod = patch.spec.unwrap().template.spec.unwrap();
        let [container] = pod.containers.try_into().unwrap();
        let environment = container.env.unwrap();
        assert_eq!(environment[0].value.as_deref(), Some(backend));
        let security = container.security_context.unwrap();
        assert_eq!(security.privileged, None);
        assert_eq!(security.capabilities.unwrap().add.unwrap(), capabilities);
        let mounts: Vec<String> =
            container.volume_mounts.unwrap().into_iter().map(|mount| mount.mount_path).collect();
        assert_eq!(mounts, [mount]);
        let paths: Vec<String> =
            pod.volumes.unwrap().into_iter().map(|volume| volume.host_path.unwrap().path).collect();
        assert_eq!(paths, [mount]);
    }
}

#[test]
fn kubectl_builds_the_base_and_every_overlay() {
    for name in ["base", "ebpf", "iptables"] {
        let output = Command::new("kubectl").arg("kustomize").arg(folder().join(name)).output();
        let Ok(output) = output else {
            eprintln!("DID NOT RUN: there is no kubectl");
            return;
        };
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.matches("\nkind: ").count(), 4, "{name}: {text}");
        // What the base drops, no overlay brings back.
        assert!(text.contains("readOnlyRootFilesystem: true") && !text.contains("privileged:"));
    }
}

#[test]
fn strict_mode_without_pod_ranges_is_refused_with_a_word_on_what_to_do() {
    let server = ApiServer::start(Options::default()).unwrap();
    let kubeconfig = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("strict.kubeconfig");
    fs::write(&kubeconfig, api_server::kubeconfig(server.address())).unwrap();
    let told = || {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_netpol-agent"));
        agent.args(["--node-name", "n", "--strict", "--dry-run", "--once", "--socket", ""]);
        let output = agent.arg("--kubeconfig").arg(&kubeconfig).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let text = told();
    assert!(text.contains("`--strict` needs `--pod-cidr`: there is no node `n` to ask"), "{text}");
    server.put(&json!({ "kind": "Node", "metadata": { "name": "n" } })).unwrap();
    let text = told();
    assert!(
        text.contains("`--strict` needs `--pod-cidr`: node `n` has no spec.podCIDRs"),
        "{text}"
    );
}
