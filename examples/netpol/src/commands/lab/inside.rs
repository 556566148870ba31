//! A person's look into the lab: a shell in a namespace, or the ways in while it waits.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::process::{Command, id};

use anyhow::{Context as _, bail};
use netpol_conformance::netlab::{End, Lab, Privilege};
use netpol_core::model::ObjectRef;

use crate::input::{Input, list};
use crate::output::say;

/// Finds what `--shell` names.
pub(super) fn find(input: &Input, namespace: &str, name: &str) -> anyhow::Result<End> {
    if let Some(node) = name.strip_prefix("node/") {
        let found = input.cluster.nodes.get_key_value(node);
        let Some((name, _)) = found else {
            bail!(
                "no node `{node}`; there are: {}",
                list(input.cluster.nodes.keys().map(AsRef::as_ref))
            );
        };
        return Ok(End::Node(name.clone()));
    }
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    let pod = ObjectRef::new(namespace, name);
    if !input.cluster.pods.contains_key(&pod) {
        let names: Vec<String> = input.cluster.pods.keys().map(ToString::to_string).collect();
        bail!("no pod or workload `{pod}`; there are: {}", list(names.iter().map(String::as_str)));
    }
    Ok(End::Pod(pod))
}

/// Runs a shell in the namespace of an end, until it is left.
pub(super) fn shell(lab: &Lab, end: &End) -> anyhow::Result<()> {
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let addresses: Vec<String> = lab.addresses(end)?.iter().map(ToString::to_string).collect();
    say(format_args!(
        "netpol: {} in the network of {end} ({}); exit ends the lab",
        shell.to_string_lossy(),
        addresses.join(", ")
    ));
    let status =
        lab.in_end(end, || Command::new(&shell).env("NETPOL_LAB", end.to_string()).status())?;
    status.with_context(|| format!("cannot start `{}`", shell.to_string_lossy()))?;
    Ok(())
}

/// Prints how to enter every namespace, and waits for Enter or the end of standard input.
pub(super) fn keep(lab: &Lab, privilege: Option<Privilege>) -> anyhow::Result<()> {
    let user = match privilege {
        Some(Privilege::UserNamespace) => " --user --preserve-credentials",
        Some(_) | None => "",
    };
    say(format_args!("netpol: the lab is kept; enter a namespace with"));
    let nodes = lab.nodes().map(|name| End::Node(name.clone()));
    let pods = lab.pods().map(|pod| End::Pod(pod.clone()));
    for end in nodes.chain(pods) {
        if let Some(file) = lab.in_end(&end, own_namespace)? {
            say(format_args!(
                "  nsenter --target {pid}{user} --net=/proc/{pid}/fd/{file}   # {end}",
                pid = id()
            ));
        }
    }
    let press = if io::stdin().is_terminal() { "press Enter" } else { "close standard input" };
    say(format_args!("netpol: {press} to remove it"));
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// The open file of this process that is the calling thread's network namespace.
fn own_namespace() -> Option<String> {
    let own = std::fs::read_link("/proc/thread-self/ns/net").ok()?;
    let files = std::fs::read_dir("/proc/self/fd").ok()?;
    files.filter_map(Result::ok).find_map(|file| {
        let is_own = std::fs::read_link(file.path()).is_ok_and(|target| target == own);
        is_own.then(|| file.file_name().to_string_lossy().into_owned())
    })
}
