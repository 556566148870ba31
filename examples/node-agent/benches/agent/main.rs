//! What an agent costs, and how fast it is, on a cluster of ten thousand pods: from the API to the packet.
//!
//! `cargo bench -p netpol-agent --features kernel-tests --bench agent -- [latency|resources] [BACKEND] [NUMBER]`
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark"
)]

extern crate alloc;

mod cluster;
mod latency;
mod process;
mod resources;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let what = arguments.first().map_or("all", String::as_str);
    let backends: Vec<&str> = match arguments.get(1) {
        Some(backend) => vec![backend],
        None => vec!["nft", "ebpf", "iptables-nft", "iptables-legacy"],
    };
    let number = arguments.get(2).map(|number| number.parse().unwrap());
    if matches!(what, "all" | "latency") {
        for backend in &backends {
            latency::run(backend, number.unwrap_or(300));
        }
    }
    if matches!(what, "all" | "resources") {
        for backend in &backends {
            resources::run(backend, number.unwrap_or(10_000));
        }
    }
}
