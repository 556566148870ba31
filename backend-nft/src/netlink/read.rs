//! The kernel's table, read back and compared with what is wanted.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use std::thread;

use super::batch::Failure;
use super::element::{self, Element, Kind as SetKind, VERDICT};
use super::expression::{self, Expression, expressions};
use super::message::{Attributes, ITEM, Kind};
use super::object::userdata;
use super::socket::Socket;
use super::table::{self, Flags, Holder};
use crate::script::{
    Chain, Elements, Key, Match, Name, Rule, Stamp, Statement, TABLE, Table, Targets, Verdict,
};

/// How often a set is read that is growing at the moment.
const LOOKS: u32 = 50;
/// How long it is left alone in between.
const PAUSE: Duration = Duration::from_millis(20);

/// What is in the kernel, as far as it matters for reaching a wanted table.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// Who may change the table of our name; `None` where there is none.
    pub(crate) holder: Option<Holder>,
    /// Whether something of ours has another type, or the table is switched off: it cannot be changed in place.
    pub(crate) foreign: bool,
    /// Objects by name. What is not wanted is there by name only; a chain that is not as wanted is there as one that
    /// nobody would ever want.
    pub(crate) table: Table,
}

/// A rule as the kernel has it: expressions, and what user space keeps with them.
type Compiled = (Vec<Expression>, Option<Vec<u8>>);

/// Returns the names of the sets and maps of our table, and for how many members they are declared.
pub(crate) fn declared_sets(socket: &Socket) -> Result<Vec<(Name, Option<u32>)>, Failure> {
    let mut sets = Vec::new();
    let answer = socket.dump(
        Kind::GetSet,
        |writer| writer.text(1, TABLE),
        |message| {
            let attributes = message.attributes();
            if attributes.text(1) == Some(TABLE)
                && let Some(name) = attributes.text(2)
            {
                sets.push((name.into(), room(attributes)));
            }
        },
    );
    match answer {
        Err(Failure::Gone) => Ok(Vec::new()),
        answer => answer.map(|()| sets),
    }
}

/// Returns the generation that the rules of a base chain let pass.
pub(crate) fn stamp(socket: &Socket, chain: &str) -> Result<Option<Stamp>, Failure> {
    let find = |list: &[Expression]| expression::stamp(list).map(|(mask, set)| (mask, set.clone()));
    let found: Option<(u32, Name)> = first_of_rules(socket, chain, find)?;
    let Some((mask, set)) = found else { return Ok(None) };
    let there = elements(socket, &set)?;
    let marks = there.and_then(|there| element::to_set(&Elements::Marks(Vec::new()), &there));
    Ok(match marks {
        Some(Elements::Marks(marks)) => match marks.as_slice() {
            [value] => Some(Stamp { mask, value: *value }),
            _ => None, // Damage.
        },
        Some(_) | None => None,
    })
}

/// Returns the generation that a chain writes.
pub(crate) fn written(socket: &Socket, chain: &str) -> Result<Option<Stamp>, Failure> {
    first_of_rules(socket, chain, expression::written)
}

/// Returns what is first found in the rules of a chain of our table.
fn first_of_rules<T>(
    socket: &Socket,
    chain: &str,
    find: impl Fn(&[Expression]) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let mut found = None;
    let answer = socket.dump(
        Kind::GetRule,
        |writer| {
            writer.text(1, TABLE);
            writer.text(2, chain);
        },
        |message| {
            let attributes = message.attributes();
            if attributes.text(1) == Some(TABLE) && attributes.text(2) == Some(chain) {
                let list = attributes.nest(4).unwrap_or_default();
                let list = list.filter(|(kind, _)| *kind == ITEM);
                let list: Vec<_> =
                    list.map(|(_, value)| Expression::read(Attributes(value))).collect();
                found = found.take().or_else(|| find(&list));
            }
        },
    );
    match answer {
        Err(Failure::Gone) => Ok(None),
        answer => answer.map(|()| found),
    }
}

/// Reads what every rule of our table counted: chain, index of the rule in it, packets and bytes.
pub(crate) fn counters(
    socket: &Socket,
    mut each: impl FnMut(&str, usize, (u64, u64)),
) -> Result<(), Failure> {
    let mut last = (String::new(), 0);
    socket.dump(
        Kind::GetRule,
        |writer| writer.text(1, TABLE),
        |message| {
            let attributes = message.attributes();
            let chain = attributes.text(2).unwrap_or_default();
            if attributes.text(1) != Some(TABLE) {
                return;
            }
            if last.0 == chain {
                last.1 += 1;
            } else {
                last = (chain.into(), 0);
            }
            if let Some(counted) = expression::counted(attributes.nest(4).unwrap_or_default()) {
                each(chain, last.1, counted);
            }
        },
    )
}

/// Looks at our table.
pub(crate) fn observe(socket: &Socket, wanted: &Table) -> Result<Observed, Failure> {
    let Some(Flags { holder, is_dormant }) = table::flags(socket)? else {
        return Ok(Observed::default());
    };
    let mut observed =
        Observed { holder: Some(holder), foreign: is_dormant, table: Table::default() };
    observed.sets(socket, wanted)?;
    observed.chains(socket, wanted)?;
    Ok(observed)
}

impl Observed {
    fn sets(&mut self, socket: &Socket, wanted: &Table) -> Result<(), Failure> {
        let mut kinds: Vec<(Name, Option<SetKind>, Option<u32>)> = Vec::new();
        socket.dump(
            Kind::GetSet,
            |writer| writer.text(1, TABLE),
            |message| {
                let attributes = message.attributes();
                if attributes.text(1) == Some(TABLE)
                    && let Some(name) = attributes.text(2)
                {
                    kinds.push((name.into(), set_kind(attributes), room(attributes)));
                }
            },
        )?;
        for (name, kind, room) in kinds {
            if let Some(like) = wanted.sets.get(&name) {
                // A set of peers that is full is made anew; nothing else may be too small for what it always holds.
                let is_edited = wanted.rooms.contains_key(&name);
                if kind != Some(SetKind::from(like)) || !(is_edited || is_roomy(room, like.len())) {
                    self.foreign = true;
                    continue;
                }
                if let Some(room) = room.filter(|_| is_edited) {
                    self.table.rooms.insert(name.clone(), room);
                }
                let there = elements(socket, &name)?;
                match there.and_then(|there| element::to_set(like, &there)) {
                    Some(there) => drop(self.table.sets.insert(name, there)),
                    None => self.foreign = true,
                }
            } else if let Some(like) = wanted.maps.get(&name) {
                // One that is too small holds something else, and is made anew under another name.
                if kind != Some(SetKind::from(like)) {
                    self.foreign = true;
                    continue;
                }
                let there = elements(socket, &name)?;
                match there.and_then(|there| element::to_map(like, there)) {
                    Some(there) => drop(self.table.maps.insert(name, there)),
                    None => self.foreign = true,
                }
            } else if kind.is_some_and(SetKind::is_map) {
                self.table.maps.insert(name, Targets::Ports(Vec::new()));
            } else {
                self.table.sets.insert(name, Elements::Protocols(Vec::new()));
            }
        }
        Ok(())
    }

    fn chains(&mut self, socket: &Socket, wanted: &Table) -> Result<(), Failure> {
        let mut rules: BTreeMap<String, Vec<Compiled>> = BTreeMap::new();
        socket.dump(
            Kind::GetRule,
            |writer| writer.text(1, TABLE),
            |message| {
                let attributes = message.attributes();
                if attributes.text(1) != Some(TABLE) {
                    return;
                }
                let list = attributes.nest(4).unwrap_or_default();
                let list = list.filter(|(kind, _)| *kind == ITEM);
                rules.entry(attributes.text(2).unwrap_or_default().into()).or_default().push((
                    list.map(|(_, value)| Expression::read(Attributes(value))).collect(),
                    attributes.find(7).map(<[u8]>::to_vec),
                ));
            },
        )?;
        let mut foreign = false;
        let chains = &mut self.table.chains;
        socket.dump(
            Kind::GetChain,
            |_| {},
            |message| {
                let attributes = message.attributes();
                let (Some(TABLE), Some(name)) = (attributes.text(1), attributes.text(3)) else {
                    return;
                };
                let Some(wanted) = wanted.chains.get(name) else {
                    chains.insert(name.into(), Chain::default());
                    return;
                };
                foreign |= base(attributes) != wanted.hook.map(|hook| (hook.number(), 0, 1, true));
                let there = rules.remove(name).unwrap_or_default();
                let same = there.len() == wanted.rules.len()
                    && there.iter().zip(&wanted.rules).all(|((list, comment), rule)| {
                        *list == expressions(rule) && *comment == userdata(rule)
                    });
                let chain = if same { wanted.clone() } else { unwanted(wanted) };
                chains.insert(name.into(), chain);
            },
        )?;
        self.foreign |= foreign;
        Ok(())
    }
}

/// Returns hook, priority, policy, and whether the type is `filter`; `None` for a chain without a hook.
fn base(attributes: Attributes<'_>) -> Option<(u32, u32, u32, bool)> {
    let hook = attributes.nest(4)?;
    Some((
        hook.number(1)?,
        hook.number(2)?,
        attributes.number(5)?,
        attributes.text(7) == Some("filter"),
    ))
}

/// Returns what cannot be changed about a set; `None` for what is not of any type of ours.
fn set_kind(attributes: Attributes<'_>) -> Option<SetKind> {
    let kind = SetKind {
        flags: attributes.number(3).unwrap_or(0),
        key_type: attributes.number(4)?,
        key_length: attributes.number(5)?,
    };
    (!kind.is_map() || attributes.number(6) == Some(VERDICT)).then_some(kind)
}

/// Returns for how many members a set is declared.
fn room(attributes: Attributes<'_>) -> Option<u32> {
    attributes.nest(9)?.number(1)
}

/// Returns whether so many members fit.
fn is_roomy(room: Option<u32>, members: usize) -> bool {
    room.is_none_or(|room| usize::try_from(room).is_ok_and(|room| members <= room))
}

/// Returns the elements of a set, in order; `None` where one is of a kind that we never write.
///
/// While the kernel grows a hash set, a dump of it repeats some elements and leaves as many others out. Repetition gives it
/// away; then we look again, for growing ends by itself.
fn elements(socket: &Socket, set: &str) -> Result<Option<Vec<Element>>, Failure> {
    for _ in 0..LOOKS {
        let mut list = dump_elements(socket, set)?;
        if list.as_mut().is_none_or(|list| element::sort(list)) {
            return Ok(list);
        }
        thread::sleep(PAUSE);
    }
    Err(Failure::Outdated)
}

fn dump_elements(socket: &Socket, set: &str) -> Result<Option<Vec<Element>>, Failure> {
    let mut list = Some(Vec::new());
    socket.dump(
        Kind::GetSetElem,
        |writer| {
            writer.text(1, TABLE);
            writer.text(2, set);
        },
        |message| {
            let items = message.attributes().nest(3).unwrap_or_default();
            let items = items.filter(|(kind, _)| *kind == ITEM);
            for (_, value) in items {
                match (Element::read(Attributes(value)), &mut list) {
                    (Some(element), Some(list)) => list.push(element),
                    (Some(_) | None, _) => list = None,
                }
            }
        },
    )?;
    Ok(list)
}

/// A chain that differs from every wanted one.
fn unwanted(wanted: &Chain) -> Chain {
    let nonsense = Rule::new(
        alloc::vec![Match::NotIn(Key::Protocol, "".into())],
        Statement::Verdict(Verdict::Drop),
    );
    Chain { hook: wanted.hook, rules: alloc::vec![nonsense] }
}
