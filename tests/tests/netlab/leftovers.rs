//! A lab leaves nothing behind: not when it is dropped, and not when its process is killed.

use alloc::collections::BTreeSet;
use core::time::Duration;
use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use netpol_conformance::netlab::{Lab, kernel_test};

use crate::support::{ends, six_pods};

/// Set in the process that builds a lab to be killed with it.
const HOLD: &str = "NETPOL_LAB_HOLD";

/// The namespaces of a lab, as the kernel names them (`net:[4026532000]`).
fn namespaces(lab: &Lab) -> BTreeSet<PathBuf> {
    let name = || fs::read_link("/proc/thread-self/ns/net").unwrap();
    ends(lab).iter().map(|end| lab.in_end(end, name).unwrap()).collect()
}

/// Returns those that anything on this machine still refers to: a process, a thread, or an open file. What nothing
/// refers to, the kernel removes.
fn referred(wanted: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut note = |link: PathBuf| {
        found.extend(fs::read_link(link).ok().filter(|target| wanted.contains(target)));
    };
    for process in entries("/proc".into()) {
        entries(process.join("fd")).into_iter().for_each(&mut note);
        entries(process.join("task")).into_iter().for_each(|task| note(task.join("ns/net")));
    }
    found
}

fn entries(folder: PathBuf) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What a lab could leave in the namespace of the process itself: links, mounts, names of namespaces.
fn surroundings() -> (Vec<String>, usize, usize) {
    let links = fs::read_to_string("/proc/self/net/dev").unwrap();
    let links = links
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap().lines().count();
    (links, mounts, entries("/run/netns".into()).len())
}

#[test]
fn a_dropped_lab_is_referred_to_by_nothing_and_was_never_seen_outside() {
    kernel_test(|| {
        let before = surroundings();
        let lab = Lab::build(&six_pods()).unwrap();
        let namespaces = namespaces(&lab);
        assert_eq!(namespaces.len(), 10, "2 nodes, 6 pods, 2 hosts outside");
        assert_eq!(referred(&namespaces), namespaces);
        assert_eq!(surroundings(), before);
        drop(lab);
        assert_eq!(referred(&namespaces), BTreeSet::new());
        assert_eq!(surroundings(), before);
    });
}

#[test]
fn a_killed_process_leaves_no_namespace() {
    const NAME: &str = "leftovers::a_killed_process_leaves_no_namespace";
    kernel_test(|| {
        if env::var_os(HOLD).is_some() {
            return hold();
        }
        let mut child = Command::new("/proc/self/exe")
            .args(["--exact", NAME, "--nocapture"])
            .env(HOLD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let told = lines
            .take_while(|line| line != "built")
            .filter(|line| line.starts_with("net:["))
            .map(PathBuf::from);
        let namespaces: BTreeSet<PathBuf> = told.collect();
        assert_eq!(namespaces.len(), 10);
        assert_eq!(referred(&namespaces), namespaces);
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !referred(&namespaces).is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(referred(&namespaces), BTreeSet::new());
    });
}

/// Builds a lab, names its namespaces, and waits to be killed (or for the parent to be gone).
fn hold() {
    let lab = Lab::build(&six_pods()).unwrap();
    println!();
    for namespace in namespaces(&lab) {
        println!("{}", namespace.display());
    }
    println!("built");
    io::stdin().read_line(&mut String::new()).unwrap();
    drop(lab);
}
