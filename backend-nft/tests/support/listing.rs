//! What `nft list table` prints, as objects that can be compared.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// The kinds of objects in a table. The order is the order of deletion.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    Map,
    Chain,
    Set,
}

/// What is in a table, as text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Listing {
    pub(crate) objects: BTreeMap<(Kind, String), Object>,
}

/// A set, map or chain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Object {
    /// What cannot be changed: type, flags, hook.
    pub(crate) header: Vec<String>,
    /// Rules in order, or elements sorted.
    pub(crate) items: Vec<String>,
}

impl Listing {
    /// Reads the text of one table. What it does not understand becomes part of a header, which then differs.
    pub(crate) fn parse(text: &str) -> Self {
        let text = &without_versions(text);
        let text = &without_generations(text);
        let mut listing = Self::default();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        while let Some(line) = lines.next() {
            let mut words = line.split_ascii_whitespace();
            let kind = match words.next() {
                Some("set") => Kind::Set,
                Some("map") => Kind::Map,
                Some("chain") => Kind::Chain,
                Some(_) | None => continue,
            };
            let name = words.next().unwrap_or_default().to_owned();
            let object = match kind {
                Kind::Chain => Object::chain(&mut lines),
                Kind::Map | Kind::Set => Object::set(&mut lines),
            };
            let object = match name.as_str() {
                // It counts changes.
                "generation" => Object { items: Vec::new(), ..object },
                _ => object,
            };
            listing.objects.insert((kind, name), object);
        }
        listing
    }
}

/// Takes the generation out, which counts changes.
fn without_generations(text: &str) -> String {
    let mut plain = String::new();
    for line in text.lines() {
        let place = line.find("ct mark 0x").or_else(|| line.find("ct mark set "));
        plain.push_str(place.and_then(|place| line.get(..place + 8)).unwrap_or(line));
        plain.push('\n');
    }
    plain
}

/// Takes `-v` and eight hexadecimal digits out: what a name carries while a set is being made anew.
fn without_versions(text: &str) -> String {
    let mut plain = String::new();
    for (index, part) in text.split("-v").enumerate() {
        let version = part
            .get(..8)
            .filter(|version| index > 0 && version.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match version {
            Some(_) => plain.push_str(part.get(8..).unwrap_or_default()),
            None => {
                plain.push_str(if index > 0 { "-v" } else { "" });
                plain.push_str(part);
            }
        }
    }
    plain
}

impl Object {
    fn chain<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Self {
        let mut object = Self::default();
        for line in lines.take_while(|line| *line != "}") {
            if line.starts_with("type ") {
                object.header.push(line.to_owned());
            } else {
                object.items.push(line.to_owned());
            }
        }
        object
    }

    fn set<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Self {
        let mut object = Self::default();
        let mut in_elements = false;
        for line in lines.take_while(|line| *line != "}") {
            let first = line.strip_prefix("elements = {");
            in_elements |= first.is_some();
            if in_elements {
                let line = first.unwrap_or(line);
                in_elements = !line.ends_with('}');
                let elements = line.trim_end_matches('}').split(',').map(str::trim);
                object
                    .items
                    .extend(elements.filter(|element| !element.is_empty()).map(ToOwned::to_owned));
            } else if !line.starts_with("size ") {
                // How much room a set has depends on what it held.
                object.header.push(line.to_owned());
            }
        }
        object.items.sort_unstable();
        object
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Listing};

    #[test]
    fn elements_compare_in_any_order_and_rules_in_theirs() {
        let parse = |elements: &str, rules: &str| {
            Listing::parse(&alloc::format!(
                "table inet netpol {{\n\tset s {{\n\t\ttype ipv4_addr\n\t\telements = {{ {elements} }}\n\t}}\n\n\
                 \tchain c {{\n\t\t{rules}\n\t}}\n}}\n"
            ))
        };
        assert_eq!(
            parse("10.0.0.1,\n\t\t10.0.0.2", "a\n\t\tb"),
            parse("10.0.0.2, 10.0.0.1", "a\n\t\tb")
        );
        assert_ne!(parse("10.0.0.1", "a\n\t\tb"), parse("10.0.0.1", "b\n\t\ta"));
        assert_eq!(parse("10.0.0.1", "a").objects.len(), 2);
        assert_eq!(parse("1, 2", "a").objects[&(Kind::Set, "s".into())].items, ["1", "2"]);
    }
}
