//! The program has four forms, and they say the same: what is sent over netlink, `Display`, `to_json`, and what the kernel
//! holds afterwards. Shown on the rulesets of every case file, for every node and for the whole cluster.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test support")]

extern crate alloc;

#[path = "support/listing.rs"]
mod listing;

use std::io::Write as _;
use std::process::{Command, Stdio};

use listing::Listing;
use netpol_conformance::cases;
use netpol_conformance::netlab::in_fresh_network;
use netpol_core::backend::{Backend as _, Dataplane as _};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Ruleset, Scope};
use netpol_nft::{Nft, NftDataplane};
use serde_json::Value;

fn nft(arguments: &[&str], stdin: &str) -> String {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {arguments:?}: {said}\n{stdin}");
    String::from_utf8(output.stdout).unwrap()
}

/// The rulesets of every case file.
fn rulesets() -> Vec<(String, Ruleset)> {
    let mut rulesets = Vec::new();
    for case in cases::all().unwrap().into_iter().filter(|case| !case.flows.is_empty()) {
        let cluster = case.cluster().unwrap().cluster;
        let nodes = cluster.nodes.keys().cloned().map(Scope::Node);
        for scope in nodes.chain([Scope::Cluster]) {
            let options = Options { scope, settings: case.settings, ..Options::default() };
            let ruleset = compile(&cluster, &options).ruleset;
            if !rulesets.iter().any(|(_, other)| *other == ruleset) {
                rulesets.push((case.name.clone(), ruleset));
            }
        }
    }
    assert!(rulesets.len() > 100, "only {} rulesets", rulesets.len());
    rulesets
}

/// Keeps what is about rules: which chain, and its expressions.
fn compiled(text: &str) -> Vec<&str> {
    let is_rule = |line: &&str| {
        line.starts_with("[ ") || (line.starts_with("inet netpol ") && !line.contains(" use "))
    };
    text.lines().map(str::trim).filter(is_rule).collect()
}

/// A listing without what the kernel adds, and in an order of its own where nothing hangs on the order.
fn plain(mut listing: Value) -> Vec<Value> {
    let mut objects: Vec<Value> = listing["nftables"].as_array_mut().unwrap().drain(..).collect();
    objects.retain(|object| object.get("metainfo").is_none());
    for object in &mut objects {
        let (_, content) = object.as_object_mut().unwrap().iter_mut().next().unwrap();
        let content = content.as_object_mut().unwrap();
        content.remove("handle");
        if let Some(Value::Array(elements)) = content.get_mut("elem") {
            elements.sort_by_key(Value::to_string);
        }
    }
    // Rules keep their order in their chain, since the sort is stable.
    objects.sort_by_key(|object| match object.get("rule") {
        Some(rule) => rule["chain"].to_string(),
        None => object.to_string(),
    });
    objects
}

#[test]
fn what_is_sent_is_what_nft_compiles_from_the_text() {
    in_fresh_network(|| {
        for (case, ruleset) in rulesets() {
            let script = Nft::default().lower(&ruleset).unwrap();
            let theirs = nft(&["--debug=netlink", "-f", "-"], &script.to_string());
            nft(&["delete", "table", "inet", "netpol"], "");
            assert_eq!(compiled(&script.expressions()), compiled(&theirs), "{case}\n{script}");
        }
    });
}

#[test]
fn what_the_kernel_holds_after_a_sync_reads_as_the_text_and_the_json() {
    in_fresh_network(|| {
        for (case, ruleset) in rulesets() {
            let script = Nft::default().lower(&ruleset).unwrap();
            NftDataplane::new().sync(&ruleset).unwrap();
            let listed = nft(&["list", "table", "inet", "netpol"], "");
            assert_eq!(Listing::parse(&listed), Listing::parse(&script.to_string()), "{case}");
            let listed = nft(&["-j", "list", "table", "inet", "netpol"], "");
            let listed = plain(serde_json::from_str(&listed).unwrap());
            let meant = plain(script.to_json());
            for (listed, meant) in listed.iter().zip(&meant) {
                assert_eq!(listed, meant, "{case}");
            }
            assert_eq!(listed.len(), meant.len(), "{case}");
            NftDataplane::new().remove().unwrap();
        }
    });
}

#[test]
fn nft_takes_the_json_and_makes_of_it_what_the_text_says() {
    in_fresh_network(|| {
        for (case, ruleset) in rulesets() {
            let script = Nft::default().lower(&ruleset).unwrap();
            let json = script.to_json().to_string();
            nft(&["-j", "-c", "-f", "-"], &json);
            nft(&["-j", "-f", "-"], &json);
            let listed = nft(&["list", "table", "inet", "netpol"], "");
            assert_eq!(Listing::parse(&listed), Listing::parse(&script.to_string()), "{case}");
            nft(&["delete", "table", "inet", "netpol"], "");
        }
    });
}
