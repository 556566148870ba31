//! The kernel's table, read back and compared with what is wanted.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use std::thread;

use super::batch::Failure;
use super::element::{self, Element, Kind as SetKind, Place, VERDICT};
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
    /// Objects by name, but for those that are equal to what is wanted. What is not wanted is there by name only; a chain that is
    /// not as wanted is there as one that nobody would ever want.
    table: Table,
    equal: Equal,
}

/// What of a wanted table was found as it is wanted.
#[derive(Debug, Default)]
struct Equal {
    sets: Vec<Name>,
    maps: Vec<Name>,
    chains: Vec<Name>,
}

/// A set or map of our table, as it is declared.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) name: Name,
    /// For how many members.
    pub(crate) room: Option<u32>,
    /// `None` for what is not of any type of ours.
    kind: Option<SetKind>,
}

/// Returns the sets and maps of our table.
pub(crate) fn declared_sets(socket: &Socket) -> Result<Vec<Declared>, Failure> {
    let mut sets = Vec::new();
    let answer = socket.dump(
        Kind::GetSet,
        |writer| writer.text(1, TABLE),
        |message| {
            let attributes = message.attributes();
            if attributes.text(1) == Some(TABLE)
                && let Some(name) = attributes.text(2)
            {
                let (room, kind) = (room(attributes), set_kind(attributes));
                sets.push(Declared { name: name.into(), room, kind });
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

/// Looks at our table, of which the declarations of sets and maps are known.
pub(crate) fn observe(
    socket: &Socket,
    declared: &[Declared],
    wanted: &Table,
) -> Result<Observed, Failure> {
    let Some(Flags { holder, is_dormant }) = table::flags(socket)? else {
        return Ok(Observed::default());
    };
    let mut observed =
        Observed { holder: Some(holder), foreign: is_dormant, ..Observed::default() };
    observed.sets(socket, declared, wanted)?;
    observed.chains(socket, wanted)?;
    Ok(observed)
}

impl Observed {
    /// A table that is known to the last element.
    pub(crate) fn known(holder: Option<Holder>, table: Table) -> Self {
        Self { holder, foreign: false, table, equal: Equal::default() }
    }

    /// Returns whether a table is there and as it is wanted.
    pub(crate) fn is_as(&self, wanted: &Table) -> bool {
        let Equal { sets, maps, chains } = &self.equal;
        let there = &self.table;
        self.holder.is_some()
            && !self.foreign
            && sets.len() + there.sets.len() == wanted.sets.len()
            && maps.len() + there.maps.len() == wanted.maps.len()
            && chains.len() + there.chains.len() == wanted.chains.len()
            && is_part(&there.sets, &wanted.sets)
            && is_part(&there.maps, &wanted.maps)
            && is_part(&there.chains, &wanted.chains)
    }

    /// Returns all of the table, compared with the one that was wanted when it was looked at.
    pub(crate) fn into_table(mut self, wanted: &Table) -> Table {
        fn copy<T: Clone>(names: Vec<Name>, from: &BTreeMap<Name, T>, to: &mut BTreeMap<Name, T>) {
            for name in names {
                if let Some(object) = from.get(&name) {
                    to.insert(name, object.clone());
                }
            }
        }
        let Equal { sets, maps, chains } = self.equal;
        copy(sets, &wanted.sets, &mut self.table.sets);
        copy(maps, &wanted.maps, &mut self.table.maps);
        copy(chains, &wanted.chains, &mut self.table.chains);
        self.table
    }

    fn sets(
        &mut self,
        socket: &Socket,
        declared: &[Declared],
        wanted: &Table,
    ) -> Result<(), Failure> {
        let mut look = Look::new(socket);
        for Declared { name, room, kind } in declared {
            if let Some((name, like)) = wanted.sets.get_key_value(name) {
                // A set of peers that is full is made anew; nothing else may be too small for what it always holds.
                let is_edited = wanted.rooms.contains_key(name);
                let is_kind = *kind == Some(SetKind::from(like));
                if !is_kind || !(is_edited || is_roomy(*room, like.len())) {
                    self.foreign = true;
                    continue;
                }
                if let Some(room) = room.filter(|_| is_edited) {
                    self.table.rooms.insert(name.clone(), room);
                }
                if look.holds(name, like)? {
                    self.equal.sets.push(name.clone());
                    continue;
                }
                let there = elements(socket, name)?;
                match there.and_then(|there| element::to_set(like, &there)) {
                    Some(there) => drop(self.table.sets.insert(name.clone(), there)),
                    None => self.foreign = true,
                }
            } else if let Some(like) = wanted.maps.get(name) {
                // One that is too small holds something else, and is made anew under another name.
                if *kind != Some(SetKind::from(like)) {
                    self.foreign = true;
                    continue;
                }
                let there = elements(socket, name)?;
                match there.and_then(|there| element::to_map(like, there)) {
                    Some(there) if there == *like => self.equal.maps.push(name.clone()),
                    Some(there) => drop(self.table.maps.insert(name.clone(), there)),
                    None => self.foreign = true,
                }
            } else if kind.is_some_and(SetKind::is_map) {
                self.table.maps.insert(name.clone(), Targets::Ports(Vec::new()));
            } else {
                self.table.sets.insert(name.clone(), Elements::Protocols(Vec::new()));
            }
        }
        Ok(())
    }

    fn chains(&mut self, socket: &Socket, wanted: &Table) -> Result<(), Failure> {
        // How many rules each chain has, and whether they are those that are wanted.
        let mut found: BTreeMap<&Name, (usize, bool)> = BTreeMap::new();
        socket.dump(
            Kind::GetRule,
            |writer| writer.text(1, TABLE),
            |message| {
                let attributes = message.attributes();
                let name = attributes.text(2).unwrap_or_default();
                if attributes.text(1) == Some(TABLE)
                    && let Some((name, chain)) = wanted.chains.get_key_value(name)
                {
                    let (number, same) = found.entry(name).or_insert((0, true));
                    *same &= chain.rules.get(*number).is_some_and(|rule| is_rule(attributes, rule));
                    *number += 1;
                }
            },
        )?;
        let (mut foreign, mut equal) = (false, Vec::new());
        let chains = &mut self.table.chains;
        socket.dump(
            Kind::GetChain,
            |_| {},
            |message| {
                let attributes = message.attributes();
                let (Some(TABLE), Some(name)) = (attributes.text(1), attributes.text(3)) else {
                    return;
                };
                let Some((name, wanted)) = wanted.chains.get_key_value(name) else {
                    chains.insert(name.into(), Chain::default());
                    return;
                };
                foreign |= base(attributes) != wanted.hook.map(|hook| (hook.number(), 0, 1, true));
                let (number, same) = found.get(name).copied().unwrap_or((0, true));
                if same && number == wanted.rules.len() {
                    equal.push(name.clone());
                } else {
                    chains.insert(name.clone(), unwanted(wanted));
                }
            },
        )?;
        self.foreign |= foreign;
        self.equal.chains = equal;
        Ok(())
    }
}

/// Returns whether all objects are the same among others.
fn is_part<T: PartialEq>(part: &BTreeMap<Name, T>, all: &BTreeMap<Name, T>) -> bool {
    part.iter().all(|(name, object)| all.get(name) == Some(object))
}

/// Returns whether a rule of the kernel's is ours: expressions, and what user space keeps with them.
fn is_rule(attributes: Attributes<'_>, rule: &Rule) -> bool {
    let list = attributes.nest(4).unwrap_or_default();
    let list = list.filter(|(kind, _)| *kind == ITEM);
    list.map(|(_, value)| Expression::read(Attributes(value))).eq(expressions(rule))
        && attributes.find(7) == userdata(rule).as_deref()
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

/// Looks at sets, one after the other, without keeping what is in them.
struct Look<'a> {
    socket: &'a Socket,
    buffer: Vec<u8>,
    places: Vec<Place>,
}

impl<'a> Look<'a> {
    const fn new(socket: &'a Socket) -> Self {
        Self { socket, buffer: Vec::new(), places: Vec::new() }
    }

    /// Returns whether a set certainly holds just these members.
    fn holds(&mut self, set: &str, members: &Elements) -> Result<bool, Failure> {
        let (places, mut is_plain) = (&mut self.places, true);
        places.clear();
        self.socket.dump_through(
            &mut self.buffer,
            Kind::GetSetElem,
            |writer| {
                writer.text(1, TABLE);
                writer.text(2, set);
            },
            |message| {
                let items = message.attributes().nest(3).unwrap_or_default();
                for (_, value) in items.filter(|(kind, _)| *kind == ITEM) {
                    match element::place(Attributes(value)) {
                        Some(place) => places.push(place),
                        None => is_plain = false,
                    }
                }
            },
        )?;
        Ok(is_plain && element::are_places_of(places, members))
    }
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
