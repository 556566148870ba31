//! A transaction: messages that the kernel applies all or none.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use std::io;

use super::message::{ACK, Attributes, ERROR, Kind, Received, Writer, messages};
use super::socket::Socket;
use crate::script::{Name, TABLE, Table};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`; the resource id of both is the subsystem.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
const NFTABLES: (u8, u16) = (0, 10);
/// `NLM_F_CAPPED` and `NLM_F_ACK_TLVS`: what an error carries behind its number.
const CAPPED: u16 = 0x100;
const EXPLAINED: u16 = 0x200;

/// Why a transaction or a look did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Somebody else changed nftables in between, or the answer was lost: look again.
    Outdated,
    /// What was asked for is not there, or no longer.
    Gone,
    /// The table belongs to the socket of this number, of another process.
    Owned(u32),
    /// The kernel knows no tables that are owned and outlive their owner.
    CannotOwn,
    /// The kernel refused an object.
    Refused { object: String, name: Option<Name>, source: Refusal },
    /// The socket failed.
    Socket(io::Error),
}

/// What the kernel said.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: io::Error,
    /// Its own words, where it has any.
    words: Option<String>,
}

impl core::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.words {
            Some(words) => write!(f, "{words} ({})", self.error),
            None => fmt::Display::fmt(&self.error, f),
        }
    }
}

/// A kind of object, with its name unless it is the table.
type Object<'a> = (&'static str, Option<&'a Name>);

/// A transaction under construction.
#[derive(Debug)]
pub(crate) struct Batch {
    writer: Writer,
    /// Which object each message is about, by sequence number from 1.
    objects: Vec<(&'static str, Option<Name>)>,
    /// The sets and maps that the transaction makes, with the numbers it gives them.
    made: BTreeMap<Name, u32>,
    /// Where the last message starts.
    last: usize,
}

impl Batch {
    /// A transaction that the kernel applies only if nothing changed since `generation`; without one, in any case.
    pub(crate) fn new(generation: Option<u32>) -> Self {
        let mut writer = Writer::default();
        writer.raw_message(BEGIN, 0, 0, NFTABLES, |writer| {
            if let Some(generation) = generation {
                writer.number(1, generation);
            }
        });
        Self { writer, objects: Vec::new(), made: BTreeMap::new(), last: 0 }
    }

    /// Returns whether nothing is to be done.
    pub(crate) const fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Returns how many bytes there are.
    pub(crate) const fn bytes(&self) -> usize {
        self.writer.len()
    }

    /// Notes that the next message makes a set or map, and returns the number it goes by in this transaction.
    pub(super) fn number(&mut self, name: &Name) -> u32 {
        let number = self.sequence();
        self.made.insert(name.clone(), number);
        number
    }

    /// Returns the number of a set or map that the transaction makes.
    pub(super) fn made(&self, name: &Name) -> Option<u32> {
        self.made.get(name).copied()
    }

    /// Returns how many messages there are.
    #[cfg(feature = "kernel-tests")]
    pub(crate) const fn len(&self) -> usize {
        self.objects.len()
    }

    /// Makes the kernel refuse the message of an index: questions have no place in a transaction. Returns its object.
    #[cfg(feature = "kernel-tests")]
    pub(crate) fn spoil(&mut self, index: usize) -> String {
        let index = index + 1; // Behind the beginning.
        self.writer.retype(index, Kind::GetGen.number());
        self.object(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Returns the sequence number of the next message.
    pub(super) fn sequence(&self) -> u32 {
        u32::try_from(self.objects.len() + 1).unwrap_or(u32::MAX)
    }

    pub(super) fn message(
        &mut self,
        kind: Kind,
        flags: u16,
        (what, name): Object<'_>,
        content: impl FnOnce(&mut Writer),
    ) {
        let sequence = self.sequence();
        self.objects.push((what, name.cloned()));
        self.last = self.writer.len();
        self.writer.message(kind, flags, sequence, content);
    }

    /// Applies the transaction.
    pub(crate) fn commit(mut self, socket: &Socket) -> Result<(), Failure> {
        let last = u32::try_from(self.objects.len()).unwrap_or(u32::MAX);
        if last == 0 {
            return Ok(());
        }
        // One acknowledgement, of the last message: thousands would not fit the socket's buffer.
        self.writer.add_flags(self.last, ACK);
        self.writer.raw_message(END, 0, last.saturating_add(1), NFTABLES, |_| {});
        socket.send(self.writer.bytes()).map_err(Failure::Socket)?;
        let mut refused = None;
        loop {
            let datagram = socket.receive()?;
            for message in messages(&datagram).filter(|message| message.number == ERROR) {
                match refusal(&message) {
                    Some(source) if is_outdated(&source.error) => return Err(Failure::Outdated),
                    // Refused as a whole, not for any object of ours.
                    Some(source) if message.sequence == 0 => {
                        return Err(Failure::Socket(source.error));
                    }
                    Some(source) => {
                        refused.get_or_insert((message.sequence, source));
                    }
                    None => {}
                }
                if message.sequence == last {
                    return match refused {
                        None => Ok(()),
                        Some((sequence, mut source)) => {
                            if source.is_of_memory() {
                                let (messages, bytes) = (self.objects.len(), self.writer.len());
                                source.words.get_or_insert(alloc::format!(
                                    "no memory for a transaction of {messages} messages and {bytes} bytes"
                                ));
                            }
                            let (object, name) = (self.object(sequence), self.name(sequence));
                            Err(Failure::Refused { object, name, source })
                        }
                    };
                }
            }
        }
    }

    fn object(&self, sequence: u32) -> String {
        match self.about(sequence) {
            Some((what, Some(name))) => alloc::format!("{what} `{name}` of table inet {TABLE}"),
            Some((_, None)) | None => alloc::format!("table inet {TABLE}"),
        }
    }

    fn name(&self, sequence: u32) -> Option<Name> {
        self.about(sequence).and_then(|(_, name)| name.clone())
    }

    fn about(&self, sequence: u32) -> Option<&(&'static str, Option<Name>)> {
        let index = usize::try_from(sequence).ok()?.checked_sub(1)?;
        self.objects.get(index)
    }
}

impl Refusal {
    /// Returns whether the kernel had no memory.
    fn is_of_memory(&self) -> bool {
        self.error.raw_os_error() == Some(libc::ENOMEM)
    }

    /// Returns whether an object of the kernel is full: it says so as if it were a table of files, or a disk.
    fn is_of_room(&self) -> bool {
        matches!(self.error.raw_os_error(), Some(libc::ENFILE | libc::ENOSPC))
    }
}

impl Failure {
    /// Says how much an object that is full would hold, and how much it can.
    pub(crate) fn measured(mut self, wanted: &Table) -> Self {
        if let Self::Refused { name: Some(name), source, .. } = &mut self
            && source.is_of_room()
        {
            let set = wanted.sets.get(name).map(|set| (set.len(), wanted.room(name, set)));
            let map = || wanted.maps.get(name).map(|map| (map.len(), map.room()));
            if let Some((holds, room)) = set.or_else(map) {
                let room = match room {
                    Some(room) => alloc::format!("it is declared for {room} elements"),
                    None => "it is declared for any number of elements".into(),
                };
                source.words = Some(alloc::format!("{room} and would hold {holds}"));
            }
        }
        self
    }
}

/// Returns the error a message reports; `None` for an acknowledgement.
pub(super) fn refusal(message: &Received<'_>) -> Option<Refusal> {
    let code = i32::from_ne_bytes(*message.body.first_chunk()?);
    if code == 0 {
        return None;
    }
    // Behind the number stands the header of the message in question, or all of it, and then words.
    let words = (message.flags & EXPLAINED != 0).then(|| {
        let length = if message.flags & CAPPED != 0 {
            16
        } else {
            let length = message.body.get(4..)?.first_chunk().copied().map(u32::from_ne_bytes)?;
            usize::try_from(length).ok()?.next_multiple_of(4)
        };
        Attributes(message.body.get(4 + length..)?).text(1).map(String::from)
    });
    Some(Refusal {
        error: io::Error::from_raw_os_error(code.saturating_neg()),
        words: words.flatten(),
    })
}

fn is_outdated(error: &io::Error) -> bool {
    /// `ERESTART`: the generation is not the one the batch names.
    const RESTART: i32 = 85;
    error.raw_os_error() == Some(RESTART)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Failure, Refusal};
    use crate::script::{Elements, Table};

    fn told(code: i32, table: &Table) -> String {
        let source = Refusal { error: io::Error::from_raw_os_error(code), words: None };
        let object = "set `s` of table inet netpol".into();
        let failure = Failure::Refused { object, name: Some("s".into()), source };
        let Failure::Refused { source, .. } = failure.measured(table) else { panic!() };
        source.to_string()
    }

    #[test]
    fn what_is_full_is_told_with_numbers() {
        let mut table = Table::default();
        let members = (0..30_u32).map(|number| number.into()).collect();
        table.sets.insert("s".into(), Elements::V4(members));
        table.rooms.insert("s".into(), 24);
        let words = "it is declared for 24 elements and would hold 30 (";
        assert!(told(libc::ENFILE, &table).starts_with(words), "{}", told(libc::ENFILE, &table));
        assert!(told(libc::ENOSPC, &table).starts_with(words));
        assert!(!told(libc::EEXIST, &table).contains("24"));
    }
}

/// The kernel's own refusals.
#[cfg(all(test, feature = "kernel-tests"))]
mod kernel_tests {
    use alloc::borrow::Cow;

    use netpol_conformance::netlab::in_fresh_network;

    use super::{Batch, Failure};
    use crate::netlink::{Holding, Operation, Socket};
    use crate::script::{Elements, Table};

    #[test]
    fn a_set_that_the_kernel_finds_full_is_told_with_numbers() {
        in_fresh_network(|| {
            let (socket, name) = (Socket::open().unwrap(), "s".into());
            let members = Elements::V4((0..30_u32).map(|number| number.into()).collect());
            let mut batch = Batch::new(None);
            for operation in [
                Operation::NewTable(Holding::Shared),
                Operation::NewSet(&name, &members, Some(24)),
                Operation::AddMembers(&name, Cow::Borrowed(&members)),
            ] {
                batch.push(&operation);
            }
            let mut wanted = Table::default();
            wanted.sets.insert(name.clone(), members.clone());
            wanted.rooms.insert(name.clone(), 24);
            let failure = batch.commit(&socket).map_err(|failure| failure.measured(&wanted));
            let Err(Failure::Refused { object, source, .. }) = failure else {
                panic!("{failure:?}")
            };
            assert_eq!(object, "set `s` of table inet netpol");
            let words = "it is declared for 24 elements and would hold 30 (";
            assert!(source.to_string().starts_with(words), "{source}");
        });
    }
}
