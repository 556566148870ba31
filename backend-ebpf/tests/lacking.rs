//! Kernels that lack something: a seccomp filter answers for chosen commands of bpf(2) as they would. What can be done
//! otherwise is; else the error names what is missing, and the ruleset in force stays.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "test support")]

extern crate alloc;

#[path = "support/bpf.rs"]
mod bpf;

use core::error::Error;
use core::num::NonZeroU16;
use std::process::Command;

use netpol_conformance::netlab::{
    End, Lab, Observation, Plan, PlannedNode, PlannedPod, Probe, Traffic,
};
use netpol_core::backend::{Dataplane as _, SyncError};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Ruleset, Scope};
use netpol_core::model::{Cidr, ObjectRef};
use netpol_core::net::PrefixSet;
use netpol_ebpf::{EbpfDataplane, Updates};
use netpol_k8s::manifest::{ReadOptions, read_str};

/// What the child is told: whether it hooks in after the filter came, the command, and what is answered.
const LACK: &str = "NETPOL_LACK";

/// Commands of bpf(2).
const MAP_CREATE: u32 = 0;
const PROG_LOAD: u32 = 5;
const MAP_LOOKUP_BATCH: u32 = 24;
const MAP_UPDATE_BATCH: u32 = 26;
const LINK_CREATE: u32 = 28;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum When {
    /// Before anything is in the kernel.
    AtFirst,
    /// While a ruleset is in force.
    Later,
}

#[test]
fn what_the_kernel_lacks_is_done_otherwise_or_named() {
    bpf::kernel_test("missing features", || {
        let netfilter = "Linux 6.4";
        let privilege = "CAP_BPF";
        let cases = [
            (When::AtFirst, MAP_UPDATE_BATCH, libc::EINVAL, Ok(())),
            (When::AtFirst, MAP_UPDATE_BATCH, 524, Ok(())),
            (When::Later, MAP_LOOKUP_BATCH, libc::EINVAL, Ok(())),
            (When::AtFirst, LINK_CREATE, libc::EINVAL, Err(netfilter)),
            (When::AtFirst, LINK_CREATE, libc::EPERM, Err(privilege)),
            (When::AtFirst, PROG_LOAD, libc::EINVAL, Err(netfilter)),
            (When::Later, PROG_LOAD, libc::EINVAL, Err(netfilter)),
            (When::Later, PROG_LOAD, libc::EPERM, Err(privilege)),
            (When::AtFirst, MAP_CREATE, libc::ENOSYS, Err("CONFIG_BPF_SYSCALL")),
            (When::Later, MAP_CREATE, libc::EPERM, Err(privilege)),
            (When::Later, MAP_CREATE, libc::ENOMEM, Err("map")),
        ];
        for (when, command, errno, expected) in cases {
            let told = format!("{} {command} {errno}", u8::from(when == When::Later));
            let mut child = Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", "child", "--nocapture"]).env(LACK, told);
            let output = output.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let what = format!("command {command}, errno {errno}, {when:?}: {text}");
            assert!(output.status.success(), "{what}");
            let said = text.lines().find_map(|line| line.strip_prefix("sync: ")).unwrap();
            match expected {
                Ok(()) => assert_eq!(said, "done", "{what}"),
                Err(part) => assert!(said.contains(part), "{what}"),
            }
        }
    });
}

/// The process whose bpf(2) lacks something. In the test run itself it does nothing.
#[test]
fn child() {
    let Ok(lack) = std::env::var(LACK) else { return };
    let numbers: Vec<u32> = lack.split(' ').map(|number| number.parse().unwrap()).collect();
    let [later, command, errno] = numbers[..] else { panic!("{lack}") };
    let pod = |name, address: &str| PlannedPod {
        pod: ObjectRef::new("x", name),
        node: "node".into(),
        addresses: vec![address.parse().unwrap()],
    };
    let addresses = vec!["192.168.7.1".parse().unwrap()];
    let lab = Lab::build(&Plan {
        nodes: vec![PlannedNode { name: "node".into(), addresses }],
        pods: vec![pod("a", "10.1.0.1"), pod("b", "10.1.0.2")],
        ..Plan::default()
    })
    .unwrap();
    // What is loaded beside needs everything.
    let mut dataplane = EbpfDataplane::default().with_updates(Updates::Beside);
    let mut sync = |ruleset: &Ruleset| lab.in_node("node", || dataplane.sync(ruleset)).unwrap();
    if later == 1 {
        sync(&open(80)).unwrap();
    }
    deny(command, errno);
    let outcome = sync(&open(81));
    let seen = [80, 81].map(|port| {
        let traffic = Traffic::Tcp(NonZeroU16::new(port).unwrap());
        let from = End::Pod(ObjectRef::new("x", "a"));
        lab.probe(&[Probe { from, to: "10.1.0.2".parse().unwrap(), traffic }]).unwrap()[0]
    });
    let passed = seen.map(|seen| seen == Observation::Passed);
    match outcome {
        Ok(()) => {
            assert_eq!(passed, [false, true]);
            let drifts = lab.in_node("node", || dataplane.verify(&open(81))).unwrap().unwrap();
            assert_eq!(drifts, []);
            println!("\nsync: done");
        }
        Err(error) => {
            assert_eq!(passed, [true, later == 0], "what was in force is");
            println!("\nsync: {}", chain(&error));
        }
    }
}

fn chain(error: &SyncError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text.replace('\n', " ")
}

/// Pod `b` takes this port from everybody; there are networks, and addresses that only pods may have.
fn open(port: u16) -> Ruleset {
    let pod = |name, number| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: x, name: {name}, labels: {{name: {name}}}}}\n\
             spec: {{nodeName: node, containers: [{{name: c, image: i}}]}}\n\
             status: {{phase: Running, podIPs: [{{ip: 10.1.0.{number}}}]}}\n"
        )
    };
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n{}{}---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: x, name: b}}\n\
         spec:\n  podSelector: {{matchLabels: {{name: b}}}}\n  ingress:\n  \
         - from: [{{ipBlock: {{cidr: 10.0.0.0/8, except: [10.7.0.0/16]}}}}, {{podSelector: {{}}}}]\n    \
         ports: [{{port: {port}}}, {{port: 7, endPort: 9}}]\n",
        pod("a", 1),
        pod("b", 2)
    );
    let manifests = read_str("p.yaml", &text, &ReadOptions::default()).unwrap();
    let pods = ["10.1.0.0/24", "10.2.0.0/16"].map(|text| Cidr::parse(text).unwrap());
    let options = Options {
        scope: Scope::Node("node".into()),
        pod_ranges: PrefixSet::from_cidrs(&pods),
        ..Options::default()
    };
    compile(&manifests.cluster, &options).ruleset
}

/// Has every thread of this process get `errno` for a command of bpf(2) from now on.
#[expect(unsafe_code, reason = "there is no safe way to filter system calls")]
fn deny(command: u32, errno: u32) {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = u32::try_from(libc::SYS_bpf).unwrap();
    let filter = [
        instruction(LOAD, 0, 0, 0), // The number of the call,
        instruction(JUMP_IF_EQUAL, 0, 3, number),
        instruction(LOAD, 0, 0, 16), // the lower half of its first argument.
        instruction(JUMP_IF_EQUAL, 0, 1, command),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap(),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and what it points to are valid until the call returns; the kernel copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
        assert_eq!(libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program), 0);
    }
}
