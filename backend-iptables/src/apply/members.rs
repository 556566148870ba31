//! What `ipset save` writes, as sets that can be compared.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use ipnet::IpNet;
use netpol_core::ir::Family;
use netpol_core::model::Protocol;

use crate::restore::{Elements, PREFIX};

/// Our sets by name. `None` is a set of ours that we would never have made so.
pub(super) type Listing = BTreeMap<String, Option<Elements>>;

/// Reads the sets whose names are ours.
pub(super) fn parse(text: &str) -> Listing {
    let mut sets = Listing::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(command), Some(name)) = (words.next(), words.next()) else { continue };
        if !name.starts_with(PREFIX) {
            continue;
        }
        match command {
            "create" => {
                let words: Vec<&str> = words.collect();
                sets.insert(name.to_owned(), empty(&words));
            }
            "add" => {
                if let Some(set) = sets.get_mut(name) {
                    let word = words.next().unwrap_or_default();
                    let understood = words.next().is_none()
                        && set.as_mut().is_some_and(|set| add(set, word).is_some());
                    if !understood {
                        *set = None;
                    }
                }
            }
            _ => {}
        }
    }
    for set in sets.values_mut().flatten() {
        match set {
            Elements::Addresses(_, members) => members.sort_unstable(),
            Elements::Networks(_, members) => members.sort_unstable(),
            Elements::AddressPorts(_, members) => members.sort_unstable(),
        }
    }
    sets
}

fn empty(words: &[&str]) -> Option<Elements> {
    let [kind, "family", family, options @ ..] = words else { return None };
    let family = match *family {
        "inet" => Family::V4,
        "inet6" => Family::V6,
        _ => return None,
    };
    // These change what a set holds, or for how long.
    let foreign = ["timeout", "netmask", "bitmask", "range", "skbinfo", "markmask"];
    if options.iter().any(|option| foreign.contains(option)) {
        return None;
    }
    Some(match *kind {
        "hash:ip" => Elements::Addresses(family, Vec::new()),
        "hash:net" => Elements::Networks(family, Vec::new()),
        "hash:ip,port" => Elements::AddressPorts(family, Vec::new()),
        _ => return None,
    })
}

fn add(set: &mut Elements, word: &str) -> Option<()> {
    match set {
        Elements::Addresses(_, members) => members.push(word.parse().ok()?),
        Elements::Networks(_, members) => members.push(network(word)?),
        Elements::AddressPorts(_, members) => {
            let (address, port) = word.split_once(',')?;
            let (protocol, port) = port.split_once(':')?;
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                "sctp" => Protocol::Sctp,
                _ => return None,
            };
            members.push((address.parse().ok()?, protocol, port.parse().ok()?));
        }
    }
    Some(())
}

/// A network of one address is written without its length.
fn network(word: &str) -> Option<IpNet> {
    match word.parse::<IpAddr>() {
        Ok(address) => Some(address.into()),
        Err(_) => word.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::restore::Elements;
    use netpol_core::ir::Family;

    #[test]
    fn sets_are_read_in_any_order_and_what_is_odd_is_told() {
        let text = "create NETPOL-a hash:ip family inet hashsize 64 maxelem 65536 bucketsize 12 initval 0x1\n\
            add NETPOL-a 10.0.0.2\nadd NETPOL-a 10.0.0.1\ncreate other hash:ip family inet\nadd other 1.1.1.1\n\
            create NETPOL-n hash:net family inet6 hashsize 64\nadd NETPOL-n fd00::1\nadd NETPOL-n ::/1\n\
            create NETPOL-x hash:ip family inet hashsize 64\nadd NETPOL-x 1.1.1.1 nomatch\n\
            create NETPOL-t hash:ip family inet hashsize 64 timeout 5\n";
        let sets = parse(text);
        let address = |text: &str| text.parse().unwrap();
        let addresses = vec![address("10.0.0.1"), address("10.0.0.2")];
        assert_eq!(sets["NETPOL-a"], Some(Elements::Addresses(Family::V4, addresses)));
        let networks = vec!["::/1".parse().unwrap(), "fd00::1/128".parse().unwrap()];
        assert_eq!(sets["NETPOL-n"], Some(Elements::Networks(Family::V6, networks)));
        assert_eq!((&sets["NETPOL-x"], &sets["NETPOL-t"]), (&None, &None));
        assert_eq!(sets.len(), 4);
    }
}
