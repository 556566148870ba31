//! Others lay hands on our objects: that is heard, found, and made good by the next sync.

use core::time::Duration;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use netpol_conformance::netlab::{Crowd, bpf_file_system};
use netpol_core::backend::{Dataplane, Drift, SyncError};
use netpol_core::ir::Ruleset;

use super::killed::Surviving;
use super::traffic::{History, Traffic};
use super::world::{OWN, Temper, World};

/// What somebody does, and how, as a shell script in the node's namespace. It fails if there is nothing to do it to, or
/// it is not allowed.
pub(super) type Vandal = (&'static str, &'static str);

/// With nft.
pub(super) const NFT: &[Vandal] = &[
    ("deletes the table", "nft delete table inet netpol"),
    ("flushes the table", "nft flush table inet netpol"),
    ("flushes everything", "nft flush ruleset"),
    ("lets everything pass", "nft insert rule inet netpol forward accept"),
    (
        "empties a chain of a pod",
        "c=$(nft list table inet netpol | sed -n 's/^\tchain \\([a-z]*-4-[^ ]*\\) {/\\1/p' | tail -1); [ \"$c\" ] && nft flush chain inet netpol $c",
    ),
    (
        "empties a set",
        "for s in $(nft -t list table inet netpol | sed -n 's/^\tset \\(s[0-9a-f-]*-4\\) {/\\1/p'); do \
         nft list set inet netpol $s | grep -q elements && nft flush set inet netpol $s && exit 0; done; exit 1",
    ),
];

/// With iptables of either variant, and ipset.
pub(super) const IPTABLES_NFT: &[Vandal] = &[
    ("flushes FORWARD", "iptables-nft -F FORWARD"),
    ("flushes FORWARD of IPv6", "ip6tables-nft -F FORWARD"),
    (
        "empties a chain",
        "c=$(iptables-nft -S | sed -n 's/^-N \\(NETPOL[^ ]*\\)/\\1/p' | tail -1); [ \"$c\" ] && iptables-nft -F $c",
    ),
    (
        "lets everything pass",
        "c=$(iptables-nft -S | sed -n 's/^-N \\(NETPOL[^ ]*\\)/\\1/p' | head -1); [ \"$c\" ] && iptables-nft -I $c -j ACCEPT",
    ),
    ("takes everything", "iptables-nft -F && iptables-nft -X"),
    (
        "empties a set",
        "for s in $(ipset list -n); do ipset list $s | grep -q '^10\\.' && ipset flush $s && exit 0; done; exit 1",
    ),
    (
        "adds to a set",
        "for s in $(ipset list -n); do ipset list $s | grep -q '^10\\.' && ipset add $s 10.0.0.250 && exit 0; done; exit 1",
    ),
];
pub(super) const IPTABLES_LEGACY: &[Vandal] = &[
    ("flushes FORWARD", "iptables-legacy -F FORWARD"),
    ("flushes FORWARD of IPv6", "ip6tables-legacy -F FORWARD"),
    (
        "empties a chain",
        "c=$(iptables-legacy -S | sed -n 's/^-N \\(NETPOL[^ ]*\\)/\\1/p' | tail -1); [ \"$c\" ] && iptables-legacy -F $c",
    ),
    (
        "lets everything pass",
        "c=$(iptables-legacy -S | sed -n 's/^-N \\(NETPOL[^ ]*\\)/\\1/p' | head -1); [ \"$c\" ] && iptables-legacy -I $c -j ACCEPT",
    ),
    ("takes everything", "iptables-legacy -F && iptables-legacy -X"),
    (
        "empties a set",
        "for s in $(ipset list -n); do ipset list $s | grep -q '^10\\.' && ipset flush $s && exit 0; done; exit 1",
    ),
];
/// With bpftool, on what is pinned, and with nft on the table that has connections tracked.
pub(super) const EBPF: &[Vandal] = &[
    ("stops connection tracking", "nft delete table inet netpol-ebpf"),
    (
        "takes a hook off",
        "for f in $(find $PINS -type f); do bpftool link detach pinned $f && exit 0; done; exit 1",
    ),
    (
        "takes every hook off",
        "n=1; for f in $(find $PINS -type f); do bpftool link detach pinned $f && n=0; done; exit $n",
    ),
];

/// The same, where it is links at interfaces and no connections are tracked by others.
pub(super) const EBPF_TC: &[Vandal] = {
    let [_, one, every] = EBPF else { panic!("three of them") };
    &[*one, *every]
};

pub(super) fn is_made_good(new: Surviving, pins: bool, name: &str, vandals: &[Vandal]) {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("drift-{name}-{}", std::process::id()));
    if pins {
        bpf_file_system(&directory).unwrap();
    }
    let mut world = World::new(3, 200, Temper::Wild);
    let mut crowd = Crowd::build().unwrap();
    crowd.settle(OWN.map(|own| own.parse().unwrap()).into(), World::pod_addresses()).unwrap();
    let mut dataplane = new(&directory);
    let (mut done, mut found) = (0, 0);
    for (what, script) in vandals {
        world.change();
        let (flows, verdicts) = (world.flows.clone(), world.oracle());
        let history = History::new(verdicts.clone());
        let mut traffic = Traffic::new(&crowd, &flows, &history);
        let mut at_node = |work: &mut (dyn FnMut(&mut (dyn Dataplane + Send)) + Send)| {
            crowd.in_node(|| work(dataplane.as_mut())).unwrap();
        };
        let ruleset = world.ruleset();
        let mut offers_verify = false;
        at_node(&mut |dataplane| {
            dataplane.sync(ruleset).unwrap();
            offers_verify = is_as_it_should(dataplane, ruleset);
            dataplane.may_have_drifted().unwrap();
        });
        traffic.check_all(&verdicts);
        let mut was_done = false;
        at_node(&mut |_| {
            let mut shell = Command::new("sh");
            shell.args(["-c", script]).env("PINS", &directory);
            let ended = shell.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            was_done = ended.success();
        });
        done += usize::from(was_done);
        at_node(&mut |dataplane| {
            if !was_done {
                eprintln!("{name}: somebody who {what} is refused");
                is_as_it_should(dataplane, ruleset);
                return;
            }
            let begun = Instant::now();
            while !dataplane.may_have_drifted().unwrap() {
                assert!(begun.elapsed() < Duration::from_secs(2), "{what}: nobody heard of it");
                thread::sleep(Duration::from_millis(5));
            }
            if let Some(drift) = drift(dataplane, ruleset) {
                assert!(!drift.is_empty(), "{what}: not found");
                eprintln!("{name}: {what}: {}", drift[0]);
                found += 1;
            }
            dataplane.sync(ruleset).unwrap();
            is_as_it_should(dataplane, ruleset);
        });
        traffic.check_all(&verdicts);
        let wrong = &traffic.tally.wrong;
        assert!(wrong.is_empty(), "{what}: {}", wrong.join("\n"));
        if !offers_verify {
            eprintln!("NOT OFFERED by this backend: verify");
        }
    }
    crowd.in_node(|| dataplane.remove()).unwrap().unwrap();
    eprintln!(
        "{name}: {} vandals, {done} did it, {found} of that found, all made good",
        vandals.len()
    );
    assert!(done > 0, "nobody did anything");
}

/// Returns what is not as it should be, if the backend can tell.
fn drift(dataplane: &mut (dyn Dataplane + Send), ruleset: &Ruleset) -> Option<Vec<Drift>> {
    match dataplane.verify(ruleset) {
        Ok(drift) => Some(drift),
        Err(SyncError::Missing { hint, .. }) if hint.contains("does not offer") => None,
        Err(error) => panic!("verify: {error:?}"),
    }
}

/// Expects that nothing is to be found. Returns whether the backend can tell.
fn is_as_it_should(dataplane: &mut (dyn Dataplane + Send), ruleset: &Ruleset) -> bool {
    match drift(dataplane, ruleset) {
        Some(drift) => {
            assert_eq!(drift, []);
            true
        }
        None => false,
    }
}
