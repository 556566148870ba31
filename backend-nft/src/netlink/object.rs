//! Operations on the objects of our table, as messages.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter::Peekable;
use core::slice;

use super::batch::Batch;
use super::element::{self, Element, Kind as SetKind, VERDICT};
use super::expression::{expressions, write_all};
use super::message::{APPEND, CREATE, Kind};
use super::table::Holding;
use crate::script::{Elements, Hook, Name, Rule, TABLE, Targets};

/// A list of elements is split before its message's attribute reaches 64 KB.
const LIST: usize = 60_000;

/// One step of a transaction.
#[derive(Clone, Debug)]
pub(crate) enum Operation<'a> {
    /// Declares the table; one that is there and that nobody owns is taken over, if so asked.
    NewTable(Holding),
    /// With everything in it.
    DeleteTable,
    /// Declares a set, empty, and for how many members.
    NewSet(&'a Name, &'a Elements, Option<u32>),
    /// Declares a map, empty.
    NewMap(&'a Name, &'a Targets),
    AddMembers(&'a Name, Cow<'a, Elements>),
    DeleteMembers(&'a Name, Elements),
    AddEntries(&'a Name, Cow<'a, Targets>),
    DeleteEntries(&'a Name, Targets),
    /// Takes all members or entries out.
    Empty(&'a Name),
    /// Sets and maps are one kind of thing to the kernel.
    DeleteSet(&'a Name),
    NewChain(&'a Name, Option<Hook>),
    AddRules(&'a Name, &'a [Rule]),
    /// Takes all rules out.
    Flush(&'a Name),
    DeleteChain(&'a Name),
}

/// The messages that an operation comes down to, which are written one by one.
pub(crate) struct Messages<'a>(Rest<'a>);

/// What is not written yet.
enum Rest<'a> {
    /// One message.
    One(&'a Operation<'a>),
    /// Lists of elements of a set or map.
    Elements(Kind, &'a Name, Peekable<Box<dyn Iterator<Item = Element> + 'a>>),
    /// A chain's rules.
    Rules(&'a Name, slice::Iter<'a, Rule>),
    /// Nothing.
    Nothing,
}

impl<'a> Operation<'a> {
    /// Returns whether it adds what has verdicts, which can lead to other chains.
    pub(crate) const fn adds_verdicts(&self) -> bool {
        matches!(self, Self::AddRules(..) | Self::AddEntries(..))
    }

    /// Returns the messages that the operation comes down to.
    pub(crate) fn messages(&'a self) -> Messages<'a> {
        let (kind, name, elements) = match self {
            Self::AddMembers(name, members) => (Kind::NewSetElem, name, element::of_set(members)),
            Self::DeleteMembers(name, members) => {
                (Kind::DelSetElem, name, element::of_set(members))
            }
            Self::AddEntries(name, entries) => (Kind::NewSetElem, name, element::of_map(entries)),
            Self::DeleteEntries(name, entries) => {
                (Kind::DelSetElem, name, element::of_map(entries))
            }
            Self::AddRules(name, rules) => return Messages(Rest::Rules(name, rules.iter())),
            Self::NewTable(_)
            | Self::DeleteTable
            | Self::NewSet(..)
            | Self::NewMap(..)
            | Self::Empty(_)
            | Self::DeleteSet(_)
            | Self::NewChain(..)
            | Self::Flush(_)
            | Self::DeleteChain(_) => return Messages(Rest::One(self)),
        };
        Messages(Rest::Elements(kind, name, elements.peekable()))
    }
}

impl Messages<'_> {
    /// Adds the next message to a transaction. Returns whether there was one.
    pub(crate) fn push_next(&mut self, batch: &mut Batch) -> bool {
        match &mut self.0 {
            Rest::One(operation) => {
                batch.push_one(operation);
                self.0 = Rest::Nothing;
            }
            Rest::Elements(kind, name, elements) => {
                if elements.peek().is_none() {
                    return false;
                }
                batch.elements(*kind, name, elements);
            }
            Rest::Rules(chain, rules) => {
                let Some(rule) = rules.next() else { return false };
                batch.new_rule(chain, rule);
            }
            Rest::Nothing => return false,
        }
        true
    }
}

impl Batch {
    /// Adds an operation.
    pub(crate) fn push(&mut self, operation: &Operation<'_>) {
        let mut messages = operation.messages();
        while messages.push_next(self) {}
    }

    /// Adds an operation that is one message.
    fn push_one(&mut self, operation: &Operation<'_>) {
        match operation {
            Operation::NewTable(holding) => self.new_table(TABLE, *holding),
            Operation::DeleteTable => {
                self.message(Kind::DelTable, 0, ("table", None), |writer| writer.text(1, TABLE));
            }
            Operation::NewSet(name, elements, room) => {
                self.new_set(name, SetKind::from(*elements), *room);
            }
            Operation::NewMap(name, targets) => {
                self.new_set(name, SetKind::from(*targets), targets.room());
            }
            Operation::Empty(name) => {
                self.message(Kind::DelSetElem, 0, ("set", Some(name)), |writer| {
                    writer.text(1, TABLE);
                    writer.text(2, name);
                });
            }
            Operation::DeleteSet(name) => {
                self.message(Kind::DelSet, 0, ("set", Some(name)), |writer| {
                    writer.text(1, TABLE);
                    writer.text(2, name);
                });
            }
            Operation::NewChain(name, hook) => self.new_chain(name, *hook),
            Operation::Flush(name) => {
                self.message(Kind::DelRule, 0, ("chain", Some(name)), |writer| {
                    writer.text(1, TABLE);
                    writer.text(2, name);
                });
            }
            Operation::DeleteChain(name) => {
                self.message(Kind::DelChain, 0, ("chain", Some(name)), |writer| {
                    writer.text(1, TABLE);
                    writer.text(3, name);
                });
            }
            // Lists, which are not one message.
            Operation::AddMembers(..)
            | Operation::DeleteMembers(..)
            | Operation::AddEntries(..)
            | Operation::DeleteEntries(..)
            | Operation::AddRules(..) => {}
        }
    }

    fn new_set(&mut self, name: &Name, kind: SetKind, room: Option<u32>) {
        let number = self.number(name);
        self.message(Kind::NewSet, CREATE, ("set", Some(name)), |writer| {
            writer.text(1, TABLE);
            writer.text(2, name);
            writer.number(3, kind.flags);
            writer.number(4, kind.key_type);
            writer.number(5, kind.key_length);
            if kind.is_map() {
                writer.number(6, VERDICT);
                writer.number(7, 0);
            }
            if let Some(room) = room {
                writer.nest(9, |writer| writer.number(1, room));
            }
            writer.number(10, number);
            if kind.is_of_words() {
                // For nft, which keeps it as type 0, length, `BYTEORDER_HOST_ENDIAN`.
                let [a, b, c, d] = 1_u32.to_ne_bytes();
                writer.bytes_attribute(13, &[0, 4, a, b, c, d]);
            }
        });
    }

    /// Adds a list of elements, as many of them as fit into one message.
    ///
    /// The kernel finds a set by comparing names, those of all sets of the table; by the number that the transaction gave it
    /// only among those that the transaction makes.
    fn elements(
        &mut self,
        kind: Kind,
        name: &Name,
        elements: &mut Peekable<impl Iterator<Item = Element>>,
    ) {
        // Only who adds may say the number.
        let (flags, number) = match kind == Kind::NewSetElem {
            true => (CREATE, self.made(name)),
            false => (0, None),
        };
        self.message(kind, flags, ("set", Some(name)), |writer| {
            writer.text(1, TABLE);
            match number {
                Some(number) => writer.number(4, number),
                None => writer.text(2, name),
            }
            writer.nest(3, |writer| {
                let start = writer.len();
                while let Some(element) = elements.next_if(|_| writer.len() - start < LIST) {
                    element.write(writer);
                }
            });
        });
    }

    fn new_chain(&mut self, name: &Name, hook: Option<Hook>) {
        self.message(Kind::NewChain, CREATE, ("chain", Some(name)), |writer| {
            writer.text(1, TABLE);
            writer.text(3, name);
            if let Some(hook) = hook {
                writer.nest(4, |writer| {
                    writer.number(1, hook.number());
                    writer.number(2, 0); // NF_IP_PRI_FILTER
                });
                writer.number(5, 1); // NF_ACCEPT
                writer.text(7, "filter");
            }
        });
    }

    fn new_rule(&mut self, chain: &Name, rule: &Rule) {
        self.message(Kind::NewRule, CREATE | APPEND, ("chain", Some(chain)), |writer| {
            writer.text(1, TABLE);
            writer.text(2, chain);
            writer.nest(4, |writer| write_all(writer, &expressions(rule)));
            if let Some(userdata) = userdata(rule) {
                writer.bytes_attribute(7, &userdata);
            }
        });
    }
}

/// Returns a rule's comment as `nft` stores it: type 0, length, text, zero.
pub(super) fn userdata(rule: &Rule) -> Option<Vec<u8>> {
    let comment = rule.comment.as_ref()?;
    let length = u8::try_from(comment.len() + 1).ok()?;
    Some([0, length].into_iter().chain(comment.bytes()).chain([0]).collect())
}

impl Hook {
    /// Returns `NF_INET_…`.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Input => 1,
            Self::Forward => 2,
        }
    }
}
