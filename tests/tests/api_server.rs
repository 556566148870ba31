//! What the test API server does, as it was observed on a kube-apiserver 1.36: other tests stand on it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test support")]

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use netpol_conformance::api_server::{ApiServer, Fault, Options, StreamingLists};
use serde_json::{Value, json};

fn server() -> ApiServer {
    ApiServer::start(Options::default()).unwrap()
}

fn open(address: SocketAddr, method: &str, path: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    // A server that refuses may close before it has read anything; the answer tells.
    let _ = write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    BufReader::new(stream)
}

/// Sends a request, returns status and body.
fn call(server: &ApiServer, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut text = String::new();
    open(server.address(), method, path, &body).read_to_string(&mut text).unwrap();
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (code, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn get(server: &ApiServer, path: &str) -> (u16, Value) {
    call(server, "GET", path, &Value::Null)
}

/// The events of a watch, as `TYPE name version`.
fn watch(server: &ApiServer, path: &str) -> impl Iterator<Item = (String, Value)> + use<> {
    // Each event is a chunk of its own.
    let lines = open(server.address(), "GET", path, "").lines().map_while(Result::ok);
    let events = lines.filter(|line| line.starts_with('{'));
    events.map(|line| {
        let event: Value = serde_json::from_str(&line).unwrap();
        (event["type"].as_str().unwrap().to_owned(), event["object"].clone())
    })
}

fn pod(name: &str) -> Value {
    json!({ "kind": "Pod", "metadata": { "name": name, "namespace": "default", "labels": { "app": "a" } } })
}

fn put_pods(server: &ApiServer, count: usize) {
    for number in 0..count {
        server.put(&pod(&format!("p{number}"))).unwrap();
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

const PODS: &str = "/api/v1/pods";

#[test]
fn pages_show_the_state_of_the_first_page_whatever_happens_between() {
    let server = server();
    put_pods(&server, 5);
    let (_, first) = get(&server, "/api/v1/pods?limit=2");
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    server.delete("Pod", "default", "p3").unwrap();
    server.put(&pod("p9")).unwrap();
    let mut names = vec![];
    let mut page = first.clone();
    loop {
        assert_eq!(version(&page), version(&first));
        names.extend(
            page["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].clone()),
        );
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        page = get(&server, &format!("/api/v1/pods?limit=2&continue={token}")).1;
    }
    assert_eq!(names, ["p0", "p1", "p2", "p3", "p4"]);
}

#[test]
fn a_continue_token_from_before_a_compaction_is_410() {
    let server = server();
    put_pods(&server, 3);
    let (_, page) = get(&server, "/api/v1/pods?limit=1");
    put_pods(&server, 1);
    server
        .patch("Pod", "default", "p0", &json!({ "metadata": { "labels": { "a": "b" } } }))
        .unwrap();
    server.compact();
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (code, status) = get(&server, &format!("/api/v1/pods?limit=1&continue={token}"));
    assert_eq!((code, status["reason"].as_str()), (410, Some("Expired")));
}

#[test]
fn version_zero_ignores_the_limit_and_a_future_version_is_a_timeout() {
    let server = server();
    put_pods(&server, 3);
    let (_, list) = get(&server, "/api/v1/pods?limit=1&resourceVersion=0");
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    assert_eq!(list["metadata"].get("continue"), None);
    let (code, status) =
        get(&server, "/api/v1/pods?resourceVersion=999&resourceVersionMatch=NotOlderThan");
    assert_eq!((code, status["reason"].as_str()), (504, Some("Timeout")));
}

#[test]
fn built_in_items_have_no_kind_and_custom_ones_have() {
    let server = server();
    put_pods(&server, 1);
    server
        .put(&json!({ "kind": "ClusterNetworkPolicy", "metadata": { "name": "a" }, "spec": {} }))
        .unwrap();
    assert_eq!(get(&server, PODS).1["items"][0].get("kind"), None);
    let path = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
    assert_eq!(get(&server, path).1["items"][0]["kind"], "ClusterNetworkPolicy");
}

#[test]
fn deleting_a_pod_is_modified_and_then_deleted_with_a_newer_version() {
    let server = server();
    put_pods(&server, 1);
    let start = server.revision();
    let mut events = watch(&server, &format!("{PODS}?watch=1&resourceVersion={start}"));
    server.delete("Pod", "default", "p0").unwrap();
    let (kind, modified) = events.next().unwrap();
    assert_eq!(kind, "MODIFIED");
    assert!(modified["metadata"]["deletionTimestamp"].is_string());
    let (kind, deleted) = events.next().unwrap();
    assert_eq!(kind, "DELETED");
    assert!(version(&deleted) > version(&modified));
}

#[test]
fn a_scheduled_pod_stays_until_it_is_deleted_by_force() {
    let server = server();
    let mut object = pod("p0");
    object["spec"] = json!({ "nodeName": "n" });
    server.put(&object).unwrap();
    let path = "/api/v1/namespaces/default/pods/p0";
    call(&server, "DELETE", path, &Value::Null);
    assert_eq!(get(&server, path).0, 200);
    call(&server, "DELETE", &format!("{path}?gracePeriodSeconds=0"), &Value::Null);
    assert_eq!(get(&server, path).0, 404);
}

#[test]
fn a_write_that_changes_nothing_is_no_event() {
    let server = server();
    put_pods(&server, 1);
    let before = server.revision();
    server.put(&pod("p0")).unwrap();
    let path = "/api/v1/namespaces/default/pods/p0";
    let (code, _) =
        call(&server, "PATCH", path, &json!({ "metadata": { "labels": { "app": "a" } } }));
    assert_eq!((code, server.revision()), (200, before));
}

#[test]
fn a_selector_sees_an_object_come_and_go_with_its_labels() {
    let server = server();
    put_pods(&server, 1);
    let start = server.revision();
    let path = format!("{PODS}?watch=1&labelSelector=app%3Db&resourceVersion={start}");
    let mut events = watch(&server, &path);
    let label = |value: &str| {
        let patch = json!({ "metadata": { "labels": { "app": value } } });
        server.patch("Pod", "default", "p0", &patch).unwrap();
    };
    label("b");
    label("c");
    let (kind, added) = events.next().unwrap();
    assert_eq!((kind.as_str(), &added["metadata"]["labels"]["app"]), ("ADDED", &json!("b")));
    let (kind, gone) = events.next().unwrap();
    // As it was, at the version of its going.
    assert_eq!((kind.as_str(), &gone["metadata"]["labels"]["app"]), ("DELETED", &json!("b")));
    assert_eq!(version(&gone), server.revision());
}

#[test]
fn an_expired_watch_is_200_with_a_410_inside() {
    let server = server();
    put_pods(&server, 2);
    server.compact();
    let mut reader = open(server.address(), "GET", "/api/v1/pods?watch=1&resourceVersion=1", "");
    let mut head = String::new();
    reader.read_line(&mut head).unwrap();
    assert!(head.contains("200"), "{head}");
    let (kind, status) = watch(&server, "/api/v1/pods?watch=1&resourceVersion=1").next().unwrap();
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
}

#[test]
fn a_restarted_server_finds_every_older_version_too_old() {
    let server = server();
    put_pods(&server, 1);
    let before = server.revision();
    server.restart();
    let path = format!("/api/v1/pods?watch=1&resourceVersion={before}");
    let (kind, status) = watch(&server, &path).next().unwrap();
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert!(version(&get(&server, PODS).1) > before);
}

#[test]
fn a_streaming_list_ends_with_a_marked_bookmark() {
    let server = server();
    put_pods(&server, 2);
    let path = "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let events: Vec<_> = watch(&server, path).take(3).collect();
    let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "BOOKMARK"]);
    assert_eq!(events[2].1["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let (code, _) = get(&server, "/api/v1/pods?watch=1&sendInitialEvents=true");
    assert_eq!(code, 422);
}

#[test]
fn servers_that_cannot_stream_lists_say_so_in_their_two_ways() {
    let path = "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let with = |streaming_lists| {
        ApiServer::start(Options { streaming_lists, ..Options::default() }).unwrap()
    };
    assert_eq!(get(&with(StreamingLists::Forbidden), path).0, 422);
    let server = with(StreamingLists::Unsupported);
    let (kind, status) = watch(&server, path).next().unwrap();
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(500)));
}

#[test]
fn bookmarks_carry_the_version_that_a_quiet_watch_has_reached() {
    let options = Options { bookmark_interval: Duration::from_millis(20), ..Options::default() };
    let server = ApiServer::start(options).unwrap();
    let start = server.revision();
    let path = format!("{PODS}?watch=1&allowWatchBookmarks=true&resourceVersion={start}");
    let mut events = watch(&server, &path);
    server.put(&json!({ "kind": "Namespace", "metadata": { "name": "other" } })).unwrap();
    let reached = events.find(|(_, object)| version(object) == server.revision());
    assert_eq!(reached.unwrap().0, "BOOKMARK");
}

#[test]
fn writes_are_defaulted_numbered_and_held_against_conflicts() {
    let server = server();
    let path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let policy = json!({ "metadata": { "name": "a" }, "spec": { "podSelector": {}, "ingress": [{ "ports": [{ "port": 1 }] }] } });
    let (code, created) = call(&server, "POST", path, &policy);
    assert_eq!(code, 201);
    assert_eq!(created["spec"]["policyTypes"], json!(["Ingress"]));
    assert_eq!(created["spec"]["ingress"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(call(&server, "POST", path, &policy).0, 409);
    let mut stale = created;
    stale["metadata"]["resourceVersion"] = json!("1");
    let (code, status) = call(&server, "PUT", &format!("{path}/a"), &stale);
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let (_, changed) = call(
        &server,
        "PATCH",
        &format!("{path}/a"),
        &json!({ "spec": { "policyTypes": ["Egress"] } }),
    );
    assert_eq!(changed["metadata"]["generation"], 2);
    let (code, _) = call(&server, "POST", "/api/v1/namespaces/none/pods", &pod("a"));
    assert_eq!(code, 404, "a namespace has to be there");
}

#[test]
fn status_is_written_apart() {
    let server = server();
    let path = "/api/v1/namespaces/default/pods";
    let mut object = pod("a");
    object["status"] = json!({ "phase": "Running" });
    let (_, created) = call(&server, "POST", path, &object);
    assert_eq!(created["status"]["phase"], "Pending");
    let patch =
        json!({ "status": { "podIP": "10.0.0.1" }, "metadata": { "labels": { "app": "z" } } });
    let (_, changed) = call(&server, "PATCH", &format!("{path}/a/status"), &patch);
    assert_eq!(changed["status"]["podIP"], "10.0.0.1");
    assert_eq!(changed["metadata"]["labels"]["app"], "a");
}

#[test]
fn namespaces_carry_their_name_and_nodes_no_generation() {
    let server = server();
    server.put(&json!({ "kind": "Node", "metadata": { "name": "n" } })).unwrap();
    assert_eq!(get(&server, "/api/v1/nodes/n").1["metadata"].get("generation"), None);
    let (_, namespace) = get(&server, "/api/v1/namespaces/default");
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "default");
}

#[test]
fn unknown_field_selectors_are_refused() {
    let server = server();
    assert_eq!(get(&server, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn").0, 200);
    let (code, status) = get(&server, "/api/v1/pods?fieldSelector=spec.hostNetwork%3Dtrue");
    assert_eq!(code, 400);
    assert!(status["message"].as_str().unwrap().contains("field label not supported"));
}

#[test]
fn discovery_follows_the_custom_resource() {
    let server = server();
    let path = "/apis/policy.networking.k8s.io/v1alpha2";
    assert_eq!(get(&server, path).1["resources"][0]["name"], "clusternetworkpolicies");
    server.remove_crd();
    assert_eq!(get(&server, path).0, 404);
    assert_eq!(get(&server, &format!("{path}/clusternetworkpolicies")).0, 404);
    server.install_crd();
    assert_eq!(get(&server, &format!("{path}/clusternetworkpolicies")).0, 200);
}

#[test]
fn faults_are_what_they_are_called() {
    let server = server();
    put_pods(&server, 1);
    server.set_fault(Some(Fault::Forbidden));
    assert_eq!(get(&server, PODS).0, 403);
    server.set_fault(Some(Fault::Refuse));
    let mut text = String::new();
    let _ = open(server.address(), "GET", PODS, "").read_to_string(&mut text);
    assert_eq!(text, "");
    server.set_fault(Some(Fault::Expired));
    let start = server.revision();
    let path = format!("{PODS}?watch=1&resourceVersion={start}");
    assert_eq!(watch(&server, &path).next().unwrap().0, "ERROR");
    server.set_fault(Some(Fault::Cut));
    let mut reader = open(server.address(), "GET", &path, "");
    server
        .patch("Pod", "default", "p0", &json!({ "metadata": { "labels": { "app": "b" } } }))
        .unwrap();
    let mut text = String::new();
    let _ = reader.read_to_string(&mut text);
    assert!(text.contains("{\"type\":\"MODIFIED\"") && !text.contains("}\n"), "{text}");
    server.set_fault(Some(Fault::Drip(Duration::from_micros(10))));
    assert_eq!(get(&server, "/version").0, 200);
    server.set_fault(None);
    let mut events = watch(&server, &path);
    assert_eq!(events.next().unwrap().0, "MODIFIED");
    server.set_fault(Some(Fault::StreamError));
    server.cut_off();
    let (kind, status) = events.next().unwrap();
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(500)));
}
