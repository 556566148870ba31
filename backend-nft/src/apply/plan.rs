//! The difference between what is there and what is wanted, as transactions.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::listing::{Kind, Listing};
use crate::script::{TABLE, Table};

/// What has to be done to each object.
pub(super) struct Plan<'a> {
    table: &'a Table,
    create: Vec<(Kind, &'a str)>,
    refill: Vec<(Kind, &'a str)>,
    delete: Vec<(Kind, &'a str)>,
    in_place: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(table: &'a Table, wanted: &'a Listing, there: &'a Listing) -> Self {
        let mut plan = Self {
            table,
            create: Vec::new(),
            refill: Vec::new(),
            delete: Vec::new(),
            in_place: true,
        };
        for (key, object) in &wanted.objects {
            let name = (key.0, key.1.as_str());
            match there.objects.get(key) {
                None => plan.create.push(name),
                Some(present) if present == object => {}
                Some(present) => {
                    plan.in_place &= present.header == object.header;
                    plan.refill.push(name);
                }
            }
        }
        for key in there.objects.keys().filter(|key| !wanted.objects.contains_key(key)) {
            plan.delete.push((key.0, key.1.as_str()));
        }
        plan
    }

    /// Returns whether every object that has to change can be changed.
    pub(super) const fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// Returns the transactions that are not empty, in order.
    pub(super) fn transactions(&self) -> impl Iterator<Item = String> {
        [self.creation(), self.switch(), self.deletion()]
            .into_iter()
            .filter(|transaction| !transaction.is_empty())
    }

    /// Everything new except base chains, which would see packets at once.
    fn creation(&self) -> String {
        self.block(self.create.iter().filter(|object| !self.is_base(**object)))
    }

    /// New base chains, and new contents of what is in use.
    fn switch(&self) -> String {
        let mut text = String::new();
        for (kind, name) in &self.refill {
            let _ = writeln!(text, "flush {} inet {TABLE} {name}", kind.as_str());
        }
        let new = self.create.iter().filter(|object| self.is_base(**object));
        text.push_str(&self.block(new.chain(&self.refill)));
        text
    }

    fn deletion(&self) -> String {
        let mut text = String::new();
        for (kind, name) in &self.delete {
            if *kind == Kind::Chain {
                let _ = writeln!(text, "flush chain inet {TABLE} {name}");
            }
        }
        for (kind, name) in &self.delete {
            let _ = writeln!(text, "delete {} inet {TABLE} {name}", kind.as_str());
        }
        text
    }

    fn is_base(&self, (kind, name): (Kind, &str)) -> bool {
        kind == Kind::Chain && self.table.chains.get(name).is_some_and(|chain| chain.hook.is_some())
    }

    /// Writes objects as a table block, which adds to what is there.
    fn block<'b>(&self, objects: impl Iterator<Item = &'b (Kind, &'b str)>) -> String {
        let mut part = Table::default();
        let mut empty = true;
        for (kind, name) in objects {
            empty = false;
            match kind {
                Kind::Chain => {
                    let chain = self.table.chains.get_key_value(*name);
                    part.chains.extend(chain.map(|(name, chain)| (name.clone(), chain.clone())));
                }
                Kind::Map => {
                    let map = self.table.maps.get_key_value(*name);
                    part.maps.extend(map.map(|(name, map)| (name.clone(), map.clone())));
                }
                Kind::Set => {
                    let set = self.table.sets.get_key_value(*name);
                    part.sets.extend(set.map(|(name, set)| (name.clone(), set.clone())));
                }
            }
        }
        if empty { String::new() } else { part.to_string() }
    }
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Map => "map",
            Self::Set => "set",
        }
    }
}
