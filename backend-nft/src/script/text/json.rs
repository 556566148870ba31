//! The program in the JSON that `nft -j list table` writes and `nft -j -f` loads (libnftables-json(5)).
//!
//! Written by hand: the schema of the crate `nftables` (0.6) has no maps of verdicts, which this program is made of.

use alloc::string::ToString as _;
use alloc::vec::Vec;
use core::fmt::Display;

use ipnet::{Ipv4Subnets, Ipv6Subnets};
use netpol_core::ir::Family;
use serde_json::{Value, json};

use super::{Number, Six, TABLE, whole, word};
use crate::script::{
    AddressRange, Chain, Elements, End, Key, Match, Report, Rule, Script, Stamp, Statement,
    Targets, Verdict, View,
};

impl Script {
    /// Returns the program as JSON: `nft -j -f` loads it, and `nft -j list table` writes it back with handles.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let table = self.table();
        // Chains before the maps that lead to them.
        let mut objects: Vec<Value> =
            Vec::from([json!({ "table": { "family": "inet", "name": TABLE } })]);
        objects.extend(table.chains.iter().map(|(name, chain)| chain_object(name, chain)));
        objects.extend(table.sets.iter().map(|(name, set)| {
            let declared = (set_type(set), set.is_interval(), table.room(name, set));
            json!({ "set": contents(name, declared, set_elements(set)) })
        }));
        objects.extend(table.maps.iter().map(|(name, map)| {
            let is_interval = matches!(map, Targets::Ports(_));
            let declared = (map_type(map), is_interval, map.room());
            let mut object = contents(name, declared, map_elements(map));
            if let Value::Object(fields) = &mut object {
                fields.insert("map".into(), "verdict".into());
            }
            json!({ "map": object })
        }));
        for (name, chain) in &table.chains {
            objects.extend(chain.rules.iter().map(|rule| rule_object(name, rule)));
        }
        json!({ "nftables": objects })
    }
}

fn chain_object(name: &str, chain: &Chain) -> Value {
    let mut object = json!({ "family": "inet", "table": TABLE, "name": name });
    if let (Some(hook), Value::Object(fields)) = (chain.hook, &mut object) {
        fields.insert("type".into(), "filter".into());
        fields.insert("hook".into(), hook.to_string().into());
        fields.insert("prio".into(), 0.into());
        fields.insert("policy".into(), "accept".into());
    }
    json!({ "chain": object })
}

fn rule_object(chain: &str, rule: &Rule) -> Value {
    let mut expressions: Vec<Value> = rule.matches.iter().flat_map(conditions).collect();
    if rule.counted.is_some() {
        expressions.push(json!({ "counter": { "packets": 0, "bytes": 0 } }));
    }
    match &rule.statement {
        Statement::Report(Report { group, per_second, prefix }) => {
            let limit = json!({ "rate": per_second, "burst": per_second, "per": "second" });
            expressions.push(json!({ "limit": limit }));
            expressions.push(json!({ "log": { "prefix": **prefix, "group": group } }));
        }
        Statement::Verdict(verdict) => expressions.push(verdict_value(verdict)),
        Statement::Map(key, map) => {
            expressions.extend(implied(*key));
            let lookup = json!({ "key": key_value(*key), "data": reference(map) });
            expressions.push(json!({ "vmap": lookup }));
        }
        Statement::Stamp(Stamp { mask, value }) => {
            // As nft writes it: the bits that are set are among those that are kept.
            let kept = json!({ "&": [connection("mark"), !mask | value] });
            let marked = json!({ "key": connection("mark"), "value": { "|": [kept, value] } });
            expressions.push(json!({ "mangle": marked }));
        }
    }
    let mut object =
        json!({ "family": "inet", "table": TABLE, "chain": chain, "expr": expressions });
    if let (Some(comment), Value::Object(fields)) = (&rule.comment, &mut object) {
        fields.insert("comment".into(), comment.as_ref().into());
    }
    json!({ "rule": object })
}

/// A condition; where nft must be told the protocol first, two.
fn conditions(condition: &Match) -> Vec<Value> {
    let state = |states: Value| comparison("in", &connection("state"), &states);
    let mut conditions = Vec::new();
    let condition = match condition {
        Match::EstablishedOrRelated => state(json!(["established", "related"])),
        Match::Related => state("related".into()),
        Match::Reply => equal(&connection("direction"), &"reply".into()),
        Match::Stamped(mask, set) => {
            equal(&json!({ "&": [connection("mark"), mask] }), &reference(set))
        }
        Match::NeighbourDiscovery => {
            // As nft names 133 and 137.
            let types = json!({ "range": ["nd-router-solicit", "nd-redirect"] });
            equal(&field("icmpv6", "type"), &types)
        }
        Match::In(key, set) => {
            conditions.extend(implied(*key));
            equal(&key_value(*key), &reference(set))
        }
        Match::NotIn(key, set) => {
            conditions.extend(implied(*key));
            comparison("!=", &key_value(*key), &reference(set))
        }
        Match::Within(view, end, range) => {
            let family = match range {
                AddressRange::V4(..) => Family::V4,
                AddressRange::V6(..) => Family::V6,
            };
            equal(&key_value(Key::Address(*view, family, *end)), &range_value(*range))
        }
        Match::Protocol(protocol) => equal(&key_value(Key::Protocol), &word(*protocol).into()),
        Match::Port(view, protocol, low, high) => {
            let key = Key::Port(*view, *protocol);
            conditions.extend(implied(key));
            equal(&key_value(key), &span(*low, *high))
        }
    };
    conditions.push(condition);
    conditions
}

/// What must be asked before a key can be: the ports of a connection do not say of which protocol they are.
fn implied(key: Key) -> Option<Value> {
    match key {
        Key::Port(View::Connection, protocol) => {
            Some(equal(&key_value(Key::Protocol), &word(protocol).into()))
        }
        Key::Port(View::Packet, _)
        | Key::Address(..)
        | Key::Addresses(..)
        | Key::Protocol
        | Key::ProtocolPort => None,
    }
}

fn equal(left: &Value, right: &Value) -> Value {
    comparison("==", left, right)
}

fn comparison(operator: &str, left: &Value, right: &Value) -> Value {
    json!({ "match": { "op": operator, "left": left, "right": right } })
}

fn reference(name: &str) -> Value {
    alloc::format!("@{name}").into()
}

fn field(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn connection(key: &str) -> Value {
    json!({ "ct": { "key": key } })
}

fn connection_address(family: Family, end: End) -> Value {
    // After destination NAT: the replies' source is the original packets' destination.
    let direction = match end {
        End::Source => "original",
        End::Destination => "reply",
    };
    json!({ "ct": { "key": alloc::format!("{} saddr", header(family)), "dir": direction } })
}

const fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn key_value(key: Key) -> Value {
    let protocol = || json!({ "meta": { "key": "l4proto" } });
    match key {
        Key::Address(View::Packet, family, end) => field(header(family), &end.to_string()),
        Key::Address(View::Connection, family, end) => connection_address(family, end),
        Key::Addresses(view, family) => {
            let ends = [End::Source, End::Destination];
            json!({ "concat": ends.map(|end| key_value(Key::Address(view, family, end))) })
        }
        Key::Port(View::Packet, protocol) => field(word(protocol), "dport"),
        Key::Port(View::Connection, _) => {
            json!({ "ct": { "key": "proto-src", "dir": "reply" } })
        }
        Key::Protocol => protocol(),
        Key::ProtocolPort => json!({ "concat": [protocol(), field("th", "dport")] }),
    }
}

fn verdict_value(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Accept => json!({ "accept": null }),
        Verdict::Drop => json!({ "drop": null }),
        Verdict::Goto(chain) => json!({ "goto": { "target": **chain } }),
        Verdict::Jump(chain) => json!({ "jump": { "target": **chain } }),
    }
}

/// The fields that sets and maps share.
fn contents(
    name: &str,
    (kind, is_interval, room): (Value, bool, Option<u32>),
    elements: Vec<Value>,
) -> Value {
    let mut object = json!({ "family": "inet", "table": TABLE, "name": name, "type": kind });
    if let Value::Object(fields) = &mut object {
        if let Some(room) = room {
            fields.insert("size".into(), room.into());
        }
        if is_interval {
            fields.insert("flags".into(), json!(["interval"]));
        }
        if !elements.is_empty() {
            fields.insert("elem".into(), elements.into());
        }
    }
    object
}

fn set_type(set: &Elements) -> Value {
    match set {
        Elements::V4(_) | Elements::V4Ranges(_) => "ipv4_addr".into(),
        Elements::V6(_) | Elements::V6Ranges(_) => "ipv6_addr".into(),
        Elements::V4Pairs(_) => json!(["ipv4_addr", "ipv4_addr"]),
        Elements::V6Pairs(_) => json!(["ipv6_addr", "ipv6_addr"]),
        Elements::Protocols(_) => "inet_proto".into(),
        Elements::ProtocolPorts(_) => json!(["inet_proto", "inet_service"]),
        Elements::Ports(_) => "inet_service".into(),
        Elements::Marks(_) => "mark".into(),
    }
}

fn map_type(map: &Targets) -> Value {
    match map {
        Targets::V4(_) => "ipv4_addr",
        Targets::V6(_) => "ipv6_addr",
        Targets::Ports(_) => "inet_service",
    }
    .into()
}

fn set_elements(set: &Elements) -> Vec<Value> {
    match set {
        Elements::V4(members) => members.iter().map(text).collect(),
        Elements::V6(members) => members.iter().map(|address| text(Six(*address))).collect(),
        Elements::V4Pairs(members) => members.iter().map(|(a, b)| pair(text(a), text(b))).collect(),
        Elements::V6Pairs(members) => {
            members.iter().map(|(a, b)| pair(text(Six(*a)), text(Six(*b)))).collect()
        }
        Elements::V4Ranges(members) => members
            .iter()
            .map(|(low, high)| range_value(AddressRange::V4(low.into(), high.into())))
            .collect(),
        Elements::V6Ranges(members) => members
            .iter()
            .map(|(low, high)| range_value(AddressRange::V6(low.into(), high.into())))
            .collect(),
        Elements::Protocols(members) => members.iter().map(|number| protocol(*number)).collect(),
        Elements::ProtocolPorts(members) => {
            members.iter().map(|(number, port)| pair(protocol(*number), (*port).into())).collect()
        }
        Elements::Ports(members) => members.iter().map(|(low, high)| span(low, high)).collect(),
        Elements::Marks(members) => members.iter().map(|mark| (*mark).into()).collect(),
    }
}

fn map_elements(map: &Targets) -> Vec<Value> {
    let entry = |key: Value, verdict: &Verdict| json!([key, verdict_value(verdict)]);
    match map {
        Targets::V4(entries) => entries.iter().map(|(key, to)| entry(text(key), to)).collect(),
        Targets::V6(entries) => {
            entries.iter().map(|(key, to)| entry(text(Six(*key)), to)).collect()
        }
        Targets::Ports(entries) => {
            entries.iter().map(|((low, high), to)| entry(span(*low, *high), to)).collect()
        }
    }
}

fn text(value: impl Display) -> Value {
    value.to_string().into()
}

/// A protocol by name, or else by number.
fn protocol(number: u8) -> Value {
    let name = Number(number).to_string();
    name.parse::<u8>().map_or_else(|_| name.into(), Value::from)
}

fn pair(first: Value, second: Value) -> Value {
    json!({ "concat": [first, second] })
}

fn span(low: u16, high: u16) -> Value {
    if low == high { low.into() } else { json!({ "range": [low, high] }) }
}

fn range_value(range: AddressRange) -> Value {
    let (first, last, length) = match range {
        AddressRange::V4(low, high) => {
            let net = whole(Ipv4Subnets::new(low, high, 0));
            (text(low), text(high), net.map(|net| net.prefix_len()))
        }
        AddressRange::V6(low, high) => {
            let net = whole(Ipv6Subnets::new(low, high, 0));
            (text(Six(low)), text(Six(high)), net.map(|net| net.prefix_len()))
        }
    };
    match length {
        _ if first == last => first,
        Some(length) => json!({ "prefix": { "addr": first, "len": length } }),
        None => json!({ "range": [first, last] }),
    }
}
