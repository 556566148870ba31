//! What the kernel makes of commands.
#![expect(clippy::unwrap_used, reason = "test support")]

use netpol_conformance::netlab::in_fresh_network;

use super::{Commands, Failure, Ipset, Kind, Refusal};
use crate::restore::{Elements, Member};
use netpol_core::ir::Family;
use netpol_core::model::Protocol;

fn with_ipset(test: fn(&Ipset)) {
    in_fresh_network(|| test(&Ipset::open().unwrap()));
}

fn samples() -> Vec<Elements> {
    let many = |count: u32| (1..=count).map(|number| core::net::Ipv4Addr::from(number << 3).into());
    let six = |text: &str| text.parse::<core::net::IpAddr>().unwrap();
    let mut ports = Vec::new();
    for address in many(3000) {
        ports.extend(Protocol::ALL.map(|protocol| (address, protocol, 80)));
    }
    vec![
        Elements::Addresses(Family::V4, many(100_000).collect()),
        Elements::Addresses(Family::V6, vec![six("fd00::1"), six("fd00::2")]),
        Elements::Networks(
            Family::V4,
            ["0.0.0.0/1", "128.0.0.0/2", "192.0.2.0/24"].map(|net| net.parse().unwrap()).into(),
        ),
        Elements::Networks(
            Family::V6,
            vec!["::/1".parse().unwrap(), "fd00::1/128".parse().unwrap()],
        ),
        Elements::AddressPorts(Family::V4, ports),
        Elements::AddressPorts(Family::V6, vec![(six("fd00::1"), Protocol::Sctp, 65535)]),
        Elements::Addresses(Family::V4, Vec::new()),
    ]
}

#[test]
fn what_is_made_is_listed_and_what_is_taken_out_is_gone() {
    with_ipset(|ipset| {
        for elements in samples() {
            let mut commands = Commands::default();
            commands.create("ours", &elements, ipset.revision_of(&elements), elements.room());
            commands.add("ours", elements.iter());
            ipset.run(commands).unwrap();
            let listed = ipset.listed("our").unwrap().remove("ours").unwrap();
            assert_eq!(listed.elements.as_ref(), Some(&elements));
            assert_eq!(listed.room, elements.room());
            if let Some(first) = elements.iter().next() {
                assert!(ipset.test("ours", &first).unwrap());
                let mut commands = Commands::default();
                // Twice: what is not there is not missed.
                commands.delete("ours", [first, first]);
                ipset.run(commands).unwrap();
                assert!(!ipset.test("ours", &first).unwrap());
            }
            let mut commands = Commands::default();
            commands.flush("ours");
            ipset.run(commands).unwrap();
            let listed = ipset.listed("our").unwrap().remove("ours").unwrap();
            assert!(listed.elements.unwrap().is_empty());
            let mut commands = Commands::default();
            commands.destroy("ours");
            ipset.run(commands).unwrap();
            assert_eq!(ipset.names().unwrap(), Vec::<String>::new());
        }
    });
}

#[test]
fn a_swap_exchanges_members_and_a_failure_names_the_set() {
    with_ipset(|ipset| {
        let set = |text: &str| Elements::Addresses(Family::V4, vec![text.parse().unwrap()]);
        let (one, other) = (set("10.0.0.1"), set("10.0.0.2"));
        let mut commands = Commands::default();
        for (name, elements) in [("one", &one), ("other", &other)] {
            commands.create(name, elements, ipset.revision_of(elements), 64);
            commands.add(name, elements.iter());
        }
        commands.swap("one", "other");
        ipset.run(commands).unwrap();
        let listed = ipset.listed("").unwrap();
        assert_eq!(
            (&listed["one"].elements, &listed["other"].elements),
            (&Some(other), &Some(one))
        );
        let mut commands = Commands::default();
        commands.flush("nobody");
        commands.destroy("one");
        match ipset.run(commands) {
            Err(Failure::Refused(name, refusal)) => {
                assert_eq!((name.as_str(), refusal), ("nobody", Refusal::ABSENT));
            }
            result => panic!("{result:?}"),
        }
        assert_eq!(ipset.names().unwrap(), ["other"]); // The others were carried out.
        assert!(Kind::ALL.into_iter().all(|kind| ipset.has(kind)));
    });
}

#[test]
fn a_full_set_says_so() {
    with_ipset(|ipset| {
        let all = (1..=200_u32).map(|number| core::net::Ipv4Addr::from(number).into());
        let elements = Elements::Addresses(Family::V4, all.collect());
        let mut commands = Commands::default();
        commands.create("small", &elements, ipset.revision_of(&elements), 100);
        ipset.run(commands).unwrap();
        let mut commands = Commands::default();
        commands.add("small", elements.iter());
        let error = match ipset.run(commands) {
            Err(Failure::Refused(_, refusal)) => refusal.to_string(),
            result => panic!("{result:?}"),
        };
        assert_eq!(error, "the set is full");
        assert!(!ipset.test("small", &Member::Address("9.9.9.9".parse().unwrap())).unwrap());
    });
}
