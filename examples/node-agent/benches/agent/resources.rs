//! Memory and processor time, idle and while a hundred things happen in a second.

use core::time::Duration;
use std::time::Instant;

use netpol_conformance::api_server::{ApiServer, Options};
use serde_json::json;

use crate::cluster::{APPS, fill, pod};
use crate::process::Agent;

const OBSERVED: Duration = Duration::from_secs(10);

const RATE: u32 = 100;

pub(crate) fn run(pods: u32) {
    let server = ApiServer::start(Options::default()).unwrap();
    fill(&server, pods, 1000);
    for listing in ["pages", "streaming"] {
        let any = "127.0.0.1:9109".parse().unwrap();
        // The kernel is left alone: nothing of this machine's is touched.
        let arguments = ["--dry-run", "--listing", listing, "--socket", "@netpol-agent-bench"];
        let agent = Agent::start("node-7", server.address(), any, &arguments);
        let ready = agent.until_ready();
        let before = agent.usage();
        std::thread::sleep(OBSERVED);
        let idle = agent.usage();
        churn(&server, pods);
        let busy = agent.usage();
        let share = |from: Duration, to: Duration| {
            100.0 * (to - from).as_secs_f64() / OBSERVED.as_secs_f64()
        };
        println!(
            "| {pods} | 1000 | {listing} | {:.1} s | {:.2} s | {:.1} MiB | {:.1} MiB | {:.1} MiB | {:.1} % | {:.1} % |",
            ready.as_secs_f64(),
            before.processor.as_secs_f64(),
            mib(idle.resident_kib),
            mib(before.peak_kib),
            mib(busy.resident_kib),
            share(before.processor, idle.processor),
            share(idle.processor, busy.processor),
        );
    }
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
