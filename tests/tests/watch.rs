//! The watch of `netpol-k8s` against the test API server and everything that can go wrong between them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "test support"
)]

use core::time::Duration;

use netpol_conformance::api_server::{self, ApiServer, Fault, StreamingLists};
use netpol_core::model::{Cluster, Field, Kind, ObjectRef};
use netpol_k8s::watch::{Change, Event, KINDS, Listing, Options, Watch, apply};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

/// What a watch has told so far.
struct Follower {
    watch: Watch,
    cluster: Cluster,
    /// Everything that was told, for looking at afterwards.
    told: Vec<Event>,
    is_synced: bool,
}

fn options() -> Options {
    Options {
        page: 3,
        answer_timeout: Duration::from_millis(400),
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(200),
        look_again: Duration::from_millis(50),
        ..Options::default()
    }
}

fn client(server: &ApiServer) -> kube::Client {
    let mut config = kube::Config::new(format!("http://{}", server.address()).parse().unwrap());
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

impl Follower {
    fn new(server: &ApiServer, options: Options) -> Self {
        let watch = Watch::start(client(server), options);
        Self { watch, cluster: Cluster::default(), told: vec![], is_synced: false }
    }

    /// Waits until something is so.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(self) {
            let event = timeout(deadline - Instant::now(), self.watch.next()).await;
            let Ok(Some(event)) = event else { panic!("{what}: never; told {:?}", self.told) };
            if let Event::Change { change, .. } = &event {
                self.apply(change);
            }
            self.told.push(event);
        }
    }

    async fn synced(&mut self) {
        self.until("in sync", |follower| follower.is_synced).await;
    }

    fn apply(&mut self, change: &Change) {
        self.is_synced |= *change == Change::InSync;
        apply(change.clone(), &mut self.cluster);
    }

    fn has_pod(&self, name: &str) -> bool {
        self.cluster.pods.contains_key(&ObjectRef::new("default", name))
    }

    fn reasons(&self) -> Vec<&'static str> {
        let failures = self.told.iter().filter_map(|event| match event {
            Event::Failing { failure, .. } => Some(failure.reason()),
            _ => None,
        });
        failures.collect()
    }

    fn deletes(&self) -> usize {
        let deleted =
            |event: &&Event| matches!(event, Event::Change { change: Change::DeletePod(_), .. });
        self.told.iter().filter(deleted).count()
    }
}

fn server() -> ApiServer {
    ApiServer::start(api_server::Options::default()).unwrap()
}

fn pod(name: &str) -> Value {
    json!({
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": "a" } },
        "spec": {
            "nodeName": "n",
            "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": 80 }, { "containerPort": 81 }] }],
            "initContainers": [{ "restartPolicy": "Always", "ports": [{ "name": "side", "containerPort": 82 }] }],
        },
        "status": { "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] },
    })
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({ "kind": "NetworkPolicy", "metadata": { "name": name, "namespace": "default" }, "spec": spec })
}

#[tokio::test]
async fn every_kind_is_listed_in_pages_and_then_followed() {
    let server = server();
    for number in 0..8 {
        server.put(&pod(&format!("p{number}"))).unwrap();
    }
    server.put(&json!({ "kind": "Node", "metadata": { "name": "n" }, "spec": { "podCIDRs": ["10.0.0.0/24"] },
        "status": { "addresses": [{ "type": "Hostname", "address": "n" }, { "type": "InternalIP", "address": "192.0.2.1" }] } })).unwrap();
    server.put(&policy("np", &json!({ "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] } }], "ports": [{ "port": 80, "endPort": 90 }, { "port": "http" }] }] }))).unwrap();
    server.put(&json!({ "kind": "ClusterNetworkPolicy", "metadata": { "name": "cnp" }, "spec": { "tier": "Admin", "priority": 10,
        "subject": { "namespaces": {} }, "egress": [{ "action": "Deny", "to": [{ "networks": ["0.0.0.0/0"] }], "protocols": [{ "tcp": { "destinationPort": { "number": 25 } } }] }] } })).unwrap();
    let mut follower = Follower::new(&server, options());
    follower.synced().await;
    assert_eq!(follower.cluster.pods.len(), 8);
    let read = &follower.cluster.pods[&ObjectRef::new("default", "p0")];
    assert_eq!(read.addresses.len(), 2);
    assert_eq!(read.resolvable_ports().count(), 2);
    assert_eq!(read.node.as_deref(), Some("n"));
    // The same objects as the strict reader makes of the same text, but for where they were written.
    assert_eq!(follower.cluster.nodes["n"].addresses.len(), 1);
    assert_eq!(follower.cluster.network_policies.len(), 1);
    assert_eq!(follower.cluster.cluster_network_policies.len(), 1);
    assert_eq!(follower.reasons(), Vec::<&str>::new());
    server.put(&pod("late")).unwrap();
    follower.until("the new pod", |follower| follower.has_pod("late")).await;
    server.delete("Pod", "default", "p3").unwrap();
    follower.until("the deletion", |follower| !follower.has_pod("p3")).await;
    server
        .patch("Pod", "default", "p0", &json!({ "metadata": { "labels": { "app": "z" } } }))
        .unwrap();
    follower
        .until("the label", |follower| {
            follower.cluster.pods[&ObjectRef::new("default", "p0")].meta.labels.value("app")
                == Some("z")
        })
        .await;
    assert_eq!(follower.deletes(), 1);
    let lists = |kind: &str| {
        server
            .received()
            .iter()
            .filter(|r| r.line.contains(kind) && !r.line.contains("watch"))
            .count()
    };
    assert_eq!(lists("/pods"), 3, "three pages of three");
}

#[tokio::test]
async fn a_restart_that_lost_its_history_flushes_nothing_and_ends_in_the_new_state() {
    let server = server();
    for number in 0..5 {
        server.put(&pod(&format!("p{number}"))).unwrap();
    }
    let mut follower = Follower::new(&server, options());
    follower.synced().await;
    // Connection refused, then 403 while access rules are loaded, then 410 for every version.
    server.set_fault(Some(Fault::Refuse));
    server.restart();
    follower.until("refused connections", |f| f.reasons().contains(&"unreachable")).await;
    server.delete("Pod", "default", "p1").unwrap();
    server.put(&pod("p7")).unwrap();
    server.set_fault(Some(Fault::Forbidden));
    follower.until("403", |f| f.reasons().iter().filter(|r| **r == "forbidden").count() > 5).await;
    assert_eq!(follower.cluster.pods.len(), 5, "the last known state stands");
    server.compact();
    server.set_fault(None);
    follower.until("the new state", |f| f.has_pod("p7") && !f.has_pod("p1")).await;
    assert!(follower.reasons().contains(&"expired"), "{:?}", follower.reasons());
    assert_eq!((follower.cluster.pods.len(), follower.deletes()), (5, 1));
    let kinds = KINDS.len();
    follower
        .until("recovery of all", |f| {
            f.told.iter().filter(|event| matches!(event, Event::Recovered(_))).count() >= kinds
        })
        .await;
}

#[tokio::test]
async fn the_pause_grows_while_a_list_keeps_failing() {
    let server = server();
    server.set_fault(Some(Fault::Forbidden));
    let mut follower = Follower::new(&server, options());
    follower.until("failures", |follower| follower.reasons().len() > 40).await;
    let pauses: Vec<Duration> = follower
        .told
        .iter()
        .filter_map(|event| match event {
            Event::Failing { kind: Kind::Pod, pause, .. } => Some(*pause),
            _ => None,
        })
        .collect();
    assert!(pauses[0] <= Duration::from_millis(10), "{pauses:?}");
    assert!(pauses.last().unwrap() >= &Duration::from_millis(80), "{pauses:?}");
    server.set_fault(None);
    follower.synced().await;
}

#[tokio::test]
async fn a_watch_that_expires_whenever_it_is_opened_does_not_list_in_a_loop() {
    let server = server();
    server.set_fault(Some(Fault::Expired));
    let mut follower = Follower::new(&server, options());
    follower.until("expiries", |follower| follower.reasons().len() >= 30).await;
    let last = follower.told.iter().rev().find_map(|event| match event {
        Event::Failing { pause, .. } => Some(*pause),
        _ => None,
    });
    assert!(last.unwrap() >= Duration::from_millis(80), "{last:?}");
    server.set_fault(None);
    server.put(&pod("a")).unwrap();
    follower.until("the pod", |follower| follower.has_pod("a")).await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_takes_nothing_with_it_and_keeps_its_last_state() {
    let server = server();
    server.put(&pod("good")).unwrap();
    let mut odd = pod("odd");
    odd["metadata"]["labels"] = json!(["not", "a", "map"]);
    server.put(&odd).unwrap();
    let mut follower = Follower::new(&server, options());
    follower.synced().await;
    assert!(follower.has_pod("good") && !follower.has_pod("odd"));
    let oddity = |follower: &Follower| {
        follower
            .told
            .iter()
            .filter_map(|event| match event {
                Event::Odd(oddity) => Some(oddity.to_string()),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let told = oddity(&follower);
    assert!(
        told[0].starts_with("Pod default/odd:") && told[0].ends_with("it is left out"),
        "{told:?}"
    );
    // On the watch: the good pod goes bad, and stays as it was.
    server.patch("Pod", "default", "good", &json!({ "metadata": { "labels": 7 } })).unwrap();
    server.put(&pod("later")).unwrap();
    follower.until("the pod after it", |follower| follower.has_pod("later")).await;
    assert!(follower.has_pod("good"));
    assert!(oddity(&follower).last().unwrap().ends_with("its last known state stays in force"));
    // And over a new list it is not taken for deleted.
    server.restart();
    server.put(&pod("last")).unwrap();
    follower.until("the pod after the list", |follower| follower.has_pod("last")).await;
    assert!(follower.has_pod("good"));
    assert_eq!(follower.deletes(), 0);
}

#[tokio::test]
async fn a_policy_that_is_partly_unreadable_fails_closed_there_and_is_named() {
    let server = server();
    server
        .put(&policy(
            "odd",
            &json!({ "podSelector": {}, "ingress": [
        { "from": [{ "podSelector": {} }, { "newerSelector": {} }] },
        { "from": [{ "ipBlock": { "cidr": "10.0.0.0/8", "except": ["nonsense"] } }] },
        { "newerField": 1 },
        null,
    ] }),
        ))
        .unwrap();
    let mut follower = Follower::new(&server, options());
    follower.synced().await;
    let odd = &follower.cluster.network_policies[&ObjectRef::new("default", "odd")];
    let rules = odd.ingress.given().unwrap();
    let peers = rules[0].peers.given().unwrap();
    assert!(peers[0].pod_selector.given().is_some());
    assert_eq!(peers[1].pod_selector, Field::Unreadable);
    assert_eq!(rules[1].peers.given().unwrap()[0].ip_block, Field::Unreadable);
    assert_eq!((&rules[2].peers, &rules[3].peers), (&Field::Unreadable, &Field::Unreadable));
    let paths: Vec<&str> = follower
        .told
        .iter()
        .filter_map(|event| match event {
            Event::Odd(oddity) => Some(oddity.path.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        paths,
        [
            "spec.ingress[0].from[1].newerSelector",
            "spec.ingress[1].from[0].ipBlock.except[0]",
            "spec.ingress[2].newerField",
            "spec.ingress[3]",
        ]
    );
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_noticed() {
    let server = server();
    server.set_fault(Some(Fault::Hang));
    let mut follower = Follower::new(&server, options());
    follower.until("silence", |follower| follower.reasons().contains(&"silent")).await;
    server.set_fault(None);
    server.cut_off();
    follower.synced().await;
}

#[tokio::test]
async fn a_list_that_drips_is_given_up_and_tried_again() {
    let server = server();
    server.put(&pod("a")).unwrap();
    server.set_fault(Some(Fault::Drip(Duration::from_millis(50))));
    let mut follower = Follower::new(&server, options());
    follower.until("silence", |follower| follower.reasons().contains(&"silent")).await;
    server.set_fault(None);
    follower.synced().await;
    assert!(follower.has_pod("a"));
}

#[tokio::test]
async fn an_event_cut_in_the_middle_is_had_again() {
    let server = server();
    server.put(&pod("a")).unwrap();
    let mut follower = Follower::new(&server, options());
    follower.synced().await;
    server.set_fault(Some(Fault::Cut));
    server.put(&pod("b")).unwrap();
    follower.until("the cut", |follower| follower.reasons().contains(&"cut-off")).await;
    server.set_fault(None);
    follower.until("the pod", |follower| follower.has_pod("b")).await;
    assert_eq!(follower.deletes(), 0);
}

#[tokio::test]
async fn an_error_inside_the_stream_is_survived() {
    let server = server();
    let mut follower = Follower::new(&server, options());
    follower.synced().await;
    server.set_fault(Some(Fault::StreamError));
    server.cut_off();
    follower.until("the error", |follower| follower.reasons().contains(&"refused")).await;
    server.set_fault(None);
    server.put(&pod("a")).unwrap();
    follower.until("the pod", |follower| follower.has_pod("a")).await;
}

#[tokio::test]
async fn a_list_that_expires_between_its_pages_is_had_in_one_piece() {
    let server = server();
    for number in 0..9 {
        server.put(&pod(&format!("p{number}"))).unwrap();
    }
    // Dripping keeps the first page open long enough to compact behind it.
    server.set_fault(Some(Fault::Drip(Duration::from_micros(1))));
    let watch_options = Options { answer_timeout: Duration::from_secs(10), ..options() };
    let mut follower = Follower::new(&server, watch_options);
    while !server.received().iter().any(|r| r.line.contains("/pods") && r.line.contains("limit")) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.put(&pod("more")).unwrap();
    server.compact();
    follower.synced().await;
    assert_eq!(follower.cluster.pods.len(), 10);
    assert!(follower.reasons().contains(&"expired"));
    assert!(server.received().iter().any(|r| r.line.ends_with("/pods?")));
}

#[tokio::test]
async fn streaming_lists_are_used_where_they_are_and_left_where_they_are_not() {
    for streaming_lists in
        [StreamingLists::Supported, StreamingLists::Forbidden, StreamingLists::Unsupported]
    {
        let options_of_server =
            api_server::Options { streaming_lists, ..api_server::Options::default() };
        let server = ApiServer::start(options_of_server).unwrap();
        server.put(&pod("a")).unwrap();
        server.put(&pod("b")).unwrap();
        let options = Options { listing: Listing::Streaming, ..options() };
        let mut follower = Follower::new(&server, options);
        follower.synced().await;
        assert_eq!(follower.cluster.pods.len(), 2, "{streaming_lists:?}");
        server.delete("Pod", "default", "a").unwrap();
        follower.until("the deletion", |follower| !follower.has_pod("a")).await;
        server.restart();
        server.delete("Pod", "default", "b").unwrap();
        follower.until("the deletion", |follower| !follower.has_pod("b")).await;
        let pages = server.received().iter().filter(|r| r.line.contains("/pods?limit")).count();
        assert_eq!(pages == 0, streaming_lists == StreamingLists::Supported, "{streaming_lists:?}");
    }
}

#[tokio::test]
async fn cluster_policies_are_followed_once_they_are_served_and_go_with_their_kind() {
    let server = server();
    server.remove_crd();
    let mut follower = Follower::new(&server, options());
    follower.synced().await;
    let lists =
        || server.received().iter().filter(|r| r.line.contains("/clusternetworkpolicies")).count();
    assert_eq!(lists(), 0, "nothing is asked of a kind that is not there");
    server.install_crd();
    let spec = json!({ "tier": "Admin", "priority": 1, "subject": { "namespaces": {} } });
    server
        .put(&json!({ "kind": "ClusterNetworkPolicy", "metadata": { "name": "a" }, "spec": spec }))
        .unwrap();
    follower.until("the policy", |f| !f.cluster.cluster_network_policies.is_empty()).await;
    server.remove_crd();
    server.cut_off();
    follower.until("its end", |f| f.cluster.cluster_network_policies.is_empty()).await;
}

#[tokio::test]
async fn a_watch_that_falls_silent_for_ever_is_opened_again_and_has_missed_nothing() {
    let server = server();
    server.put(&pod("a")).unwrap();
    let options = Options { watch_timeout: Duration::from_secs(1), ..options() };
    let mut follower = Follower::new(&server, options);
    follower.synced().await;
    server.set_fault(Some(Fault::Mute));
    server.put(&pod("b")).unwrap();
    server.delete("Pod", "default", "a").unwrap();
    follower.until("silence", |follower| follower.reasons().contains(&"silent")).await;
    assert!(follower.has_pod("a") && !follower.has_pod("b"), "the last known state stands");
    server.set_fault(None);
    follower.until("both events", |f| f.has_pod("b") && !f.has_pod("a")).await;
    assert_eq!(follower.deletes(), 1);
}

#[tokio::test]
async fn objects_are_counted_by_kind_as_they_come_and_go() {
    let server = server();
    server.put(&pod("a")).unwrap();
    server.put(&pod("b")).unwrap();
    server.put(&policy("p", &json!({ "podSelector": {} }))).unwrap();
    let mut follower = Follower::new(&server, options());
    follower.synced().await;
    let counts = |follower: &Follower| follower.watch.counts().map(|(_, count)| count);
    assert_eq!(counts(&follower), [2, 1, 0, 1, 0]);
    server.delete("Pod", "default", "a").unwrap();
    follower.until("the deletion", |follower| !follower.has_pod("a")).await;
    assert_eq!(counts(&follower), [1, 1, 0, 1, 0]);
}

#[tokio::test]
async fn one_node_can_be_asked_for_before_the_watch() {
    let server = server();
    for (name, range) in [("n", "10.0.0.0/24"), ("other", "10.0.1.0/24")] {
        let spec = json!({ "podCIDRs": [range] });
        server.put(&json!({ "kind": "Node", "metadata": { "name": name }, "spec": spec })).unwrap();
    }
    let ask = async |name: &str| netpol_k8s::watch::node(&client(&server), &options(), name).await;
    let ranges: Vec<String> =
        ask("other").await.unwrap().unwrap().pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.1.0/24"]);
    assert_eq!(ask("nobody").await.unwrap(), None);
    server.set_fault(Some(Fault::Hang));
    assert_eq!(ask("n").await.unwrap_err().reason(), "silent");
}
