//! Memory and processor time, idle and while a hundred things happen in a second.

use core::time::Duration;
use std::net::TcpListener;
use std::time::Instant;

use netpol_conformance::api_server::{ApiServer, Options};
use netpol_conformance::netlab::{Lab, Plan, PlannedNode};
use serde_json::json;

use crate::cluster::{APPS, fill, pod};
use crate::process::{Agent, options, remove};

const OBSERVED: Duration = Duration::from_secs(10);

const RATE: u32 = 100;

/// One of the nodes of the cluster.
const NODE: &str = "node-7";

pub(crate) fn run(backend: &str, pods: u32) {
    let chosen = options(backend);
    let server = ApiServer::start(Options::default()).unwrap();
    fill(&server, pods, 1000);
    let address = [192, 0, 2, 1].into();
    let node = PlannedNode { name: NODE.into(), addresses: vec![address] };
    let lab = Lab::build(&Plan { nodes: vec![node], ..Plan::default() }).unwrap();
    let listener = lab.in_node(NODE, || TcpListener::bind(("127.0.0.1", 0)).unwrap()).unwrap();
    let inside = listener.local_addr().unwrap();
    server.listen(listener);
    for listing in ["pages", "streaming"] {
        let listens = "127.0.0.1:9099".parse().unwrap();
        let arguments = [&chosen[..], &["--listing", listing]].concat();
        let start = || Agent::start(NODE, inside, listens, &arguments);
        let agent = lab.in_node(NODE, start).unwrap();
        let ready = lab.in_node(NODE, || agent.until_ready()).unwrap();
        let before = agent.usage();
        std::thread::sleep(OBSERVED);
        let idle = agent.usage();
        churn(&server, pods);
        let busy = agent.usage();
        let share = |from: Duration, to: Duration| {
            100.0 * (to - from).as_secs_f64() / OBSERVED.as_secs_f64()
        };
        println!(
            "| {backend} | {pods} | {listing} | {:.1} s | {:.2} s | {:.1} MiB | {:.1} MiB | {:.1} MiB | {:.1} % | {:.1} % |",
            ready.as_secs_f64(),
            before.processor.as_secs_f64(),
            mib(idle.resident_kib),
            mib(before.peak_kib),
            mib(busy.resident_kib),
            share(before.processor, idle.processor),
            share(idle.processor, busy.processor),
        );
    }
    lab.in_node(NODE, || remove(backend)).unwrap();
}

fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap()) / 1024.0
}

/// Pods come and go and change their labels, each number in turn.
fn churn(server: &ApiServer, pods: u32) {
    let began = Instant::now();
    let events = RATE * u32::try_from(OBSERVED.as_secs()).unwrap();
    for event in 0..events {
        let number = event * 7 % pods;
        let object = pod(number);
        let name = object["metadata"]["name"].as_str().unwrap();
        let namespace = object["metadata"]["namespace"].as_str().unwrap();
        match event % 4 {
            0 => server.delete("Pod", namespace, name).unwrap(),
            1 => server.put(&pod((event - 1) * 7 % pods)).unwrap(),
            _ => {
                let app = format!("app-{}", (number + event) % APPS);
                let patch = json!({ "metadata": { "labels": { "app": app } } });
                server.patch("Pod", namespace, name, &patch).unwrap();
            }
        }
        std::thread::sleep(
            (began + (event + 1) * Duration::from_secs(1) / RATE)
                .saturating_duration_since(Instant::now()),
        );
    }
}
