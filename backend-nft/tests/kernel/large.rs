//! Tables with many members, or many pods: what does not fit, and what takes many transactions.

use alloc::sync::Arc;
use core::net::IpAddr;
use std::process::Command;

use netpol_conformance::netlab::in_fresh_network;
use netpol_core::backend::{Dataplane as _, Updated};
use netpol_core::engine::{Delta, MemberChange, Switch};
use netpol_core::ir::{
    Action, Direction, Endpoint, Parts, PeerSet, Peers, Pipeline, PolicyKind, PolicyRef, Ports,
    Rule, RuleBlock, Ruleset, Scope,
};
use netpol_core::model::ObjectRef;
use netpol_core::net::{AddressSet, PrefixSet};
use netpol_nft::NftDataplane;

use super::{assert_in_kernel, nft, rulesets};

/// Tells the process that it is the one without the privilege.
const CONFINED: &str = "NETPOL_TEST_CONFINED";

/// A set of pods by number.
pub(super) fn members(numbers: core::ops::Range<u32>) -> PeerSet {
    let address = |number: u32| IpAddr::V4((0x0a40_0000 + number).into());
    PeerSet {
        selector: rulesets::pods_selector("many"),
        addresses: numbers.map(address).collect(),
        networks: PrefixSet::default(),
    }
}

/// One pod that only the members of a set reach.
pub(super) fn open_to(set: &PeerSet) -> Ruleset {
    pods_open_to(1, set)
}

/// So many pods that only the members of a set reach.
fn pods_open_to(count: u8, set: &PeerSet) -> Ruleset {
    let policy = PolicyRef {
        kind: PolicyKind::NetworkPolicy,
        object: ObjectRef::new("default", "many"),
        uid: None,
    };
    let rule = Rule {
        rule: 0,
        peer: Some(0),
        action: Action::Accept,
        peers: Peers::Set(set.id()),
        ports: Ports::Any,
    };
    let block = RuleBlock::new(Arc::new(policy), Direction::Ingress, vec![rule]);
    let ingress = Pipeline {
        network_policy: Some(vec![Arc::new(block)]),
        ..Pipeline::open(Direction::Ingress)
    };
    let egress = Pipeline::open(Direction::Egress);
    let (first, pipelines) = rulesets::pod(0, &ingress, &egress);
    let others = (1..count).map(|number| {
        let pod = ObjectRef::new("default", &format!("other-{number}"));
        let addresses = vec![[10, 77, 0, number].into()];
        (Endpoint { pod, addresses, ..first.clone() }, pipelines.clone())
    });
    let pods = core::iter::once((first.clone(), pipelines.clone())).chain(others);
    let parts = Parts { scope: Scope::Node("n1".into()), ..Parts::default() };
    rulesets::assemble(parts, pods.collect(), vec![set.clone()])
}

#[test]
fn an_edit_of_a_hundred_thousand_members_is_one_transaction() {
    in_fresh_network(|| {
        let mut set = members(0..100_000);
        let ruleset = open_to(&set);
        let mut dataplane = NftDataplane::new();
        dataplane.sync(&ruleset).unwrap();
        assert_in_kernel(&ruleset);
        set = members(1..100_001);
        let ruleset = open_to(&set);
        let generation = dataplane.generation().unwrap();
        dataplane.sync(&ruleset).unwrap();
        assert_in_kernel(&ruleset);
        let written = dataplane.generation().unwrap() - generation;
        assert_eq!(written, 2, "one edit of one set, and what connections get behind it");
    });
}

/// A set has room for more members than it holds; when that is used up, a bigger one takes its place.
#[test]
fn a_set_that_is_full_is_made_anew() {
    in_fresh_network(|| {
        let (mut set, mut dataplane) = (members(0..3), NftDataplane::new());
        dataplane.sync(&open_to(&set)).unwrap();
        let mut made_anew = 0;
        for number in (3..103).step_by(10) {
            set.addresses = members(0..number + 10).addresses;
            let joins = members(number..number + 10).addresses;
            let change = MemberChange { set: set.id(), joins, leaves: AddressSet::default() };
            let switch = Switch { members: vec![change], ..Switch::default() };
            let delta = Delta { switch, ..Delta::default() };
            let before = dataplane.generation().unwrap();
            assert_eq!(dataplane.update(&open_to(&set), &delta).unwrap(), Updated::ByDelta);
            // What it left is deleted.
            assert_eq!(dataplane.verify(&open_to(&set)).unwrap(), []);
            // Joins are one transaction; another set is made and switched to, in up to three, and the old one deleted.
            let transactions = dataplane.generation().unwrap() - before;
            assert!(matches!(transactions, 1 | 2 | 4), "{transactions} transactions");
            made_anew += usize::from(transactions > 1);
            assert_in_kernel(&open_to(&set));
            // Who comes later knows how much room there is.
            let generation = dataplane.generation().unwrap();
            let mut successor = NftDataplane::new();
            successor.sync(&open_to(&set)).unwrap();
            assert_eq!(successor.generation().unwrap(), generation);
            assert_eq!(successor.verify(&open_to(&set)).unwrap(), []);
        }
        // 24, 48, 96, 192.
        assert_eq!(made_anew, 3);
        // A sync alone meets the same: its predecessor left less room than it needs.
        set.addresses = members(0..5000).addresses;
        NftDataplane::new().sync(&open_to(&set)).unwrap();
        assert_in_kernel(&open_to(&set));
    });
}

#[test]
fn a_successor_with_many_more_pods_changes_the_table_and_does_not_replace_it() {
    in_fresh_network(|| {
        // While a table is replaced whole, packets can miss what its interval sets hold.
        let handle = || {
            let table = nft(&["--handle", "list", "table", "inet", "netpol"], "");
            let first = table.lines().next().unwrap();
            assert!(first.contains("# handle "), "{first}");
            first.to_owned()
        };
        let table_of = |pods| pods_open_to(pods, &members(0..3));
        NftDataplane::new().sync(&table_of(1)).unwrap();
        let before = handle();
        NftDataplane::new().sync(&table_of(200)).unwrap();
        assert_eq!(handle(), before);
        assert_in_kernel(&table_of(200));
    });
}

#[test]
fn whichever_message_of_many_transactions_is_refused_nothing_is_left_behind() {
    in_fresh_network(|| {
        let tables = || nft(&["list", "tables"], "");
        // More members than one transaction makes.
        let [small, large] = [3, 10_000].map(|count| open_to(&members(0..count)));
        let mut refused = 0;
        for message in 0.. {
            let mut dataplane = NftDataplane::new();
            dataplane.refuse(message);
            if dataplane.sync(&large).is_ok() {
                dataplane.remove().unwrap();
                break;
            }
            assert_eq!(tables(), "", "message {message}");
            refused += 1;
        }
        let mut dataplane = NftDataplane::new();
        dataplane.sync(&small).unwrap();
        let mut early = 0;
        for message in 0.. {
            dataplane.refuse(message);
            if dataplane.sync(&large).is_ok() {
                break;
            }
            if dataplane.verify(&small).unwrap().is_empty() {
                early += 1;
            } else {
                // Refused behind the switch: the new rules are in force.
                dataplane.sync(&small).unwrap();
                assert_eq!(dataplane.verify(&small).unwrap(), [], "message {message}");
            }
        }
        assert!(refused > 20 && early > 10, "{refused} refused, {early} early");
        assert_in_kernel(&large);
    });
}

/// In a user namespace of its own, where nobody may have a long buffer.
#[test]
fn confined() {
    if std::env::var_os(CONFINED).is_none() {
        return;
    }
    let mut dataplane = NftDataplane::new();
    // What packets do not see yet is made in pieces; what they see changes at once, of a large set in place.
    let large = open_to(&members(0..60_000));
    dataplane.sync(&large).unwrap();
    assert_eq!(dataplane.verify(&large).unwrap(), []);
    let error = dataplane.sync(&open_to(&members(60_000..120_000))).unwrap_err();
    eprintln!("\n{error}: {}", core::error::Error::source(&error).unwrap());
    assert_eq!(dataplane.verify(&large).unwrap(), []);
    let larger = open_to(&members(0..60_001));
    dataplane.sync(&larger).unwrap();
    assert_eq!(dataplane.verify(&larger).unwrap(), []);
    eprintln!("in force");
}

#[test]
fn a_transaction_that_is_longer_than_the_buffer_is_told_with_both_lengths() {
    in_fresh_network(|| {
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(std::env::current_exe().unwrap())
            .args(["large::confined", "--exact", "--nocapture"])
            .env(CONFINED, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find(|line| line.contains("a transaction of ")).unwrap_or(&said);
        let words = line.split(' ').map(|word| word.trim_end_matches(','));
        let numbers: Vec<usize> = words.filter_map(|word| word.parse().ok()).collect();
        assert!(matches!(numbers[..], [needed, room] if needed > room && room > 100_000), "{line}");
        assert!(said.contains("in force"), "{said}");
    });
}
