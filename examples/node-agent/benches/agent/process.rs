//! The agent's process.

use core::net::SocketAddr;
use core::time::Duration;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use netpol_conformance::api_server;
use netpol_conformance::netlab::bpf_file_system;

pub(crate) struct Agent {
    process: Child,
    listens: SocketAddr,
}

/// Whose processor time, how much memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) resident_kib: u64,
    pub(crate) peak_kib: u64,
    pub(crate) processor: Duration,
}

impl Agent {
    /// Starts one that asks `server` and answers at `listens`; in the namespaces of the calling thread.
    pub(crate) fn start(
        node: &str,
        server: SocketAddr,
        listens: SocketAddr,
        more: &[&str],
    ) -> Self {
        let kubeconfig = folder().join(format!("{node}-{}.kubeconfig", server.port()));
        fs::write(&kubeconfig, api_server::kubeconfig(server)).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_netpol-agent"))
            .args(["--node-name", node, "--log", "warn", "--listen", &listens.to_string()])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, listens }
    }

    /// Asks it over HTTP; empty while it does not answer. From the namespace that it is in.
    pub(crate) fn ask(&self, path: &str) -> String {
        let ask = || {
            let mut stream = TcpStream::connect(self.listens).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        };
        ask().unwrap_or_default()
    }

    pub(crate) fn until_ready(&self) -> Duration {
        let began = Instant::now();
        while !self.ask("/readyz").contains("200 OK") {
            assert!(began.elapsed() < Duration::from_secs(120), "never ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        began.elapsed()
    }

    pub(crate) fn usage(&self) -> Usage {
        let read = |name: &str| {
            fs::read_to_string(Path::new("/proc").join(self.process.id().to_string()).join(name))
                .unwrap()
        };
        let status = read("status");
        let kib = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        // Behind the name in brackets: user and system time are the 12th and 13th, those of children that ended follow.
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..15].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Usage {
            resident_kib: kib("VmRSS:"),
            peak_kib: kib("VmHWM:"),
            processor: Duration::from_millis(ticks * 10),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where eBPF's hooks are pinned.
const PINS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/bench-bpf");

/// The options that choose a backend. Called before a lab is built: eBPF needs a file system that its threads see too.
pub(crate) fn options(backend: &str) -> Vec<&str> {
    match backend {
        "ebpf" => {
            bpf_file_system(Path::new(PINS)).unwrap();
            vec!["--backend", "ebpf", "--ebpf-pins", PINS]
        }
        "iptables-legacy" => vec!["--backend", "iptables", "--iptables-variant", "legacy"],
        "iptables-nft" => vec!["--backend", "iptables", "--iptables-variant", "nft"],
        other => vec!["--backend", other],
    }
}

/// Pinned hooks would keep the namespace of the calling thread alive.
pub(crate) fn remove(backend: &str) {
    if backend == "ebpf" {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netpol-agent"));
        command.args(["remove", "--backend", "ebpf", "--ebpf-pins", PINS]);
        assert!(command.status().unwrap().success());
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
