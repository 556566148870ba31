//! ipset: commands in batches, and listings.

use alloc::borrow::ToOwned as _;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::io;

use ipnet::IpNet;
use netpol_core::ir::Family;
use netpol_core::model::Protocol;

use super::message::{
    ACK, Attributes, BIG_ENDIAN, CREATE, DONE, DUMP, ERROR, EXCLUSIVE, Received, Writer, messages,
};
use super::socket::Socket;
use crate::restore::{Elements, Member};

/// `NFNL_SUBSYS_IPSET`.
const IPSET: u16 = 6;
/// The version of the protocol that every kernel of the last ten years speaks.
const PROTOCOL: u8 = 6;
/// `NFPROTO_IPV4`, which means nothing here, and no resource id.
const FAMILY: (u8, u16) = (2, 0);
/// A list of members is at most this long: attributes count their bytes in 16 bits.
const LIST: usize = 60_000;
/// Messages are sent in pieces of about this size.
const PIECE: usize = 180_000;

/// `IPSET_CMD_…`.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
enum Command {
    Create = 2,
    Destroy = 3,
    Flush = 4,
    Swap = 6,
    List = 7,
    Add = 9,
    Delete = 10,
    #[cfg(all(test, feature = "kernel-tests"))]
    Test = 11,
    Type = 13,
}

impl Command {
    const fn number(self) -> u16 {
        IPSET << 8 | self as u16
    }
}

/// `IPSET_ATTR_…`, of commands.
mod attribute {
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const NAME: u16 = 2;
    pub(super) const TYPE: u16 = 3;
    /// The second name of a swap.
    pub(super) const OTHER: u16 = 3;
    pub(super) const REVISION: u16 = 4;
    pub(super) const FAMILY: u16 = 5;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const DATA: u16 = 7;
    pub(super) const MEMBERS: u16 = 8;
    pub(super) const LINE: u16 = 9;
}

/// `IPSET_ATTR_…`, of sets and members.
mod data {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const LENGTH: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const PROTOCOL: u16 = 7;
    pub(super) const SIZE: u16 = 18;
    pub(super) const ROOM: u16 = 19;
    pub(super) const MEMBERS: u16 = 24;
    /// What a set of ours may say of itself besides: the numbers of its making, and those of its use.
    pub(super) const HARMLESS: [u16; 7] = [17, 18, 19, 21, 24, 25, 26];
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// A type of sets.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    Address,
    AddressPort,
    Network,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Address, Self::AddressPort, Self::Network];

    pub(crate) const fn of(elements: &Elements) -> Self {
        match elements {
            Elements::Addresses(..) => Self::Address,
            Elements::AddressPorts(..) => Self::AddressPort,
            Elements::Networks(..) => Self::Network,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "hash:ip",
            Self::AddressPort => "hash:ip,port",
            Self::Network => "hash:net",
        }
    }
}

/// A set that is there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Listed {
    /// What is in it; `None` for a set that we would never have made so.
    pub(crate) elements: Option<Elements>,
    /// How many members it has room for.
    pub(crate) room: usize,
}

/// Why something was not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kernel refused it, about this set.
    Refused(String, Refusal),
    /// The socket failed, or an answer was lost: what was asked for may have happened.
    Socket(io::Error),
}

/// An error number of the kernel's, or of ipset's own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refusal(pub(crate) i32);

impl Refusal {
    /// There is no such set.
    pub(crate) const ABSENT: Self = Self(libc::ENOENT);
    /// The caller may not.
    pub(crate) const DENIED: Self = Self(libc::EPERM);
    /// `IPSET_ERR_FIND_TYPE`.
    const NO_TYPE: Self = Self(4098);
}

impl core::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            4097 => "the kernel speaks another version of the protocol of ipset",
            4098 => "the kernel does not have this type of sets",
            4099 => "there are as many sets as the kernel has room for",
            4100 => "the set is in use",
            4101 => "a set of the other name is there already",
            4102 => "the two sets are not of the same type",
            4103 => "there already, or not there",
            4352 => "the set is full",
            4353 => "the address is none that a set can hold",
            libc::ENOENT => "there is no such set",
            number => return fmt::Display::fmt(&io::Error::from_raw_os_error(number), f),
        })
    }
}

/// Commands that the kernel carries out one after the other, each for itself.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    writer: Writer,
    /// Where each piece ends, and where its last message begins.
    pieces: Vec<(usize, usize)>,
    /// Where the piece begins, and where its last message does.
    start: usize,
    last: usize,
    /// What set each message is about, by sequence number from 1.
    about: Vec<String>,
}

impl Commands {
    pub(crate) const fn is_empty(&self) -> bool {
        self.about.is_empty()
    }

    /// Makes a set; it must not be there.
    pub(crate) fn create(&mut self, name: &str, elements: &Elements, revision: u8, room: usize) {
        self.message(Command::Create, CREATE | EXCLUSIVE, name, |writer| {
            writer.text(attribute::TYPE, elements.kind());
            writer.byte(attribute::REVISION, revision);
            writer.byte(attribute::FAMILY, family_number(elements.family()));
            writer.nest(attribute::DATA, |writer| {
                let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
                writer.number(data::SIZE | BIG_ENDIAN, number(elements.size()));
                writer.number(data::ROOM | BIG_ENDIAN, number(room));
            });
        });
    }

    /// Adds members; those that are there already stay.
    pub(crate) fn add(&mut self, name: &str, members: impl IntoIterator<Item = Member>) {
        self.members(Command::Add, name, members);
    }

    /// Takes members out; those that are not there are not missed.
    pub(crate) fn delete(&mut self, name: &str, members: impl IntoIterator<Item = Member>) {
        self.members(Command::Delete, name, members);
    }

    fn members(&mut self, command: Command, name: &str, members: impl IntoIterator<Item = Member>) {
        let mut members = members.into_iter().peekable();
        while members.peek().is_some() {
            self.message(command, 0, name, |writer| {
                // Asked for where there is a list; says nothing to us, who know the set.
                writer.number(attribute::LINE, 0);
                writer.nest(attribute::MEMBERS, |writer| {
                    let start = writer.len();
                    while writer.len() - start < LIST
                        && let Some(member) = members.next()
                    {
                        writer.nest(attribute::DATA, |writer| write_member(writer, &member));
                    }
                });
            });
        }
    }

    /// Exchanges the contents of two sets of one type.
    pub(crate) fn swap(&mut self, name: &str, other: &str) {
        self.message(Command::Swap, 0, name, |writer| writer.text(attribute::OTHER, other));
    }

    /// Takes all members out.
    pub(crate) fn flush(&mut self, name: &str) {
        self.message(Command::Flush, 0, name, |_| {});
    }

    /// Destroys a set that nothing refers to.
    pub(crate) fn destroy(&mut self, name: &str) {
        self.message(Command::Destroy, 0, name, |_| {});
    }

    fn message(
        &mut self,
        command: Command,
        flags: u16,
        name: &str,
        content: impl FnOnce(&mut Writer),
    ) {
        self.about.push(name.to_owned());
        let sequence = u32::try_from(self.about.len()).unwrap_or(u32::MAX);
        self.last = self.writer.len();
        self.writer.message(command.number(), flags, sequence, FAMILY, |writer| {
            writer.byte(attribute::PROTOCOL, PROTOCOL);
            writer.text(attribute::NAME, name);
            content(writer);
        });
        if self.writer.len() - self.start > PIECE {
            self.pieces.push((self.writer.len(), self.last));
            self.start = self.writer.len();
        }
    }
}

fn write_member(writer: &mut Writer, member: &Member) {
    let address = |writer: &mut Writer, address: IpAddr| {
        writer.nest(data::ADDRESS, |writer| match address {
            IpAddr::V4(address) => writer.bytes_attribute(1 | BIG_ENDIAN, &address.octets()),
            IpAddr::V6(address) => writer.bytes_attribute(2 | BIG_ENDIAN, &address.octets()),
        });
    };
    match member {
        Member::Address(own) => address(writer, *own),
        Member::Network(net) => {
            address(writer, net.network());
            writer.byte(data::LENGTH, net.prefix_len());
        }
        Member::AddressPort(own, protocol, port) => {
            address(writer, *own);
            writer.bytes_attribute(data::PORT | BIG_ENDIAN, &port.to_be_bytes());
            writer.byte(data::PROTOCOL, protocol_number(*protocol));
        }
    }
}

/// The kernel's sets, in one network namespace.
#[derive(Debug)]
pub(crate) struct Ipset {
    socket: Socket,
    /// The revisions of the types that the kernel has.
    types: BTreeMap<Kind, u8>,
}

impl Ipset {
    /// Opens a socket in the network namespace of the calling thread, and asks which types of sets there are.
    pub(crate) fn open() -> Result<Self, Failure> {
        let mut ipset =
            Self { socket: Socket::open().map_err(Failure::Socket)?, types: BTreeMap::new() };
        for kind in Kind::ALL {
            // A type is the same for both families, or there only for IPv4.
            if let Some(revision) = ipset.revision(kind)? {
                ipset.types.insert(kind, revision);
            }
        }
        Ok(ipset)
    }

    /// Returns whether the kernel has a type.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.types.contains_key(&kind)
    }

    /// Returns the revision of a type to make a set with.
    pub(crate) fn revision_of(&self, elements: &Elements) -> u8 {
        self.types.get(&Kind::of(elements)).copied().unwrap_or_default()
    }

    fn revision(&self, kind: Kind) -> Result<Option<u8>, Failure> {
        let mut writer = Writer::default();
        writer.message(Command::Type.number(), 0, 1, FAMILY, |writer| {
            writer.byte(attribute::PROTOCOL, PROTOCOL);
            writer.text(attribute::TYPE, kind.as_str());
            writer.byte(attribute::FAMILY, family_number(Family::V4));
        });
        self.socket.send(writer.bytes()).map_err(Failure::Socket)?;
        let datagram = self.socket.receive().map_err(Failure::Socket)?;
        let Some(message) = messages(&datagram).next() else { return Ok(None) };
        match refusal(&message) {
            None => Ok(message
                .attributes()
                .find(attribute::REVISION)
                .and_then(|value| value.first())
                .copied()),
            Some(Refusal::NO_TYPE) => Ok(None),
            Some(refusal) => Err(Failure::Refused(kind.as_str().to_owned(), refusal)),
        }
    }

    /// Has commands carried out, all of them, also after one that fails. Returns the first failure.
    pub(crate) fn run(&self, mut commands: Commands) -> Result<(), Failure> {
        let mut failures = Vec::new();
        self.each(&mut commands, |about, refusal| failures.push((about.to_owned(), refusal)))?;
        match failures.into_iter().next() {
            None => Ok(()),
            Some((about, refusal)) => Err(Failure::Refused(about, refusal)),
        }
    }

    /// Has commands carried out, and tells which sets' were refused.
    pub(crate) fn each(
        &self,
        commands: &mut Commands,
        mut refused: impl FnMut(&str, Refusal),
    ) -> Result<(), Failure> {
        if commands.is_empty() {
            return Ok(());
        }
        if commands.start < commands.writer.len() {
            commands.pieces.push((commands.writer.len(), commands.last));
        }
        let mut start = 0;
        for (end, last) in &commands.pieces {
            // Errors come in any case; a success only of the last, which the others come before.
            commands.writer.add_flags(*last, ACK);
            let piece = commands.writer.bytes().get(start..*end).unwrap_or_default();
            let awaited = messages(commands.writer.bytes().get(*last..*end).unwrap_or_default())
                .next()
                .map(|message| message.sequence);
            self.socket.send(piece).map_err(Failure::Socket)?;
            start = *end;
            let mut done = false;
            while !done {
                let datagram = self.socket.receive().map_err(Failure::Socket)?;
                for message in messages(&datagram).filter(|message| message.number == ERROR) {
                    if let Some(refusal) = refusal(&message) {
                        let index = usize::try_from(message.sequence).unwrap_or_default();
                        let about =
                            index.checked_sub(1).and_then(|index| commands.about.get(index));
                        refused(about.map_or("", String::as_str), refusal);
                    }
                    done |= Some(message.sequence) == awaited;
                }
            }
        }
        Ok(())
    }

    /// Returns the names of all sets.
    pub(crate) fn names(&self) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        // `IPSET_FLAG_LIST_SETNAME`
        self.dump(None, 2, |attributes| {
            names.extend(attributes.text(attribute::NAME).map(ToOwned::to_owned));
        })?;
        Ok(names)
    }

    /// Returns how many members the sets have whose names begin so, without listing these.
    pub(crate) fn sizes(&self, prefix: &str) -> Result<BTreeMap<String, Option<u32>>, Failure> {
        let mut sizes = BTreeMap::new();
        // `IPSET_FLAG_LIST_HEADER`
        self.dump(None, 4, |attributes| {
            if let Some(name) = attributes.text(attribute::NAME)
                && name.starts_with(prefix)
            {
                let said = attributes.nest(attribute::DATA).unwrap_or_default();
                sizes.insert(name.to_owned(), said.number(data::MEMBERS));
            }
        })?;
        Ok(sizes)
    }

    /// Returns the sets whose names begin so.
    pub(crate) fn listed(&self, prefix: &str) -> Result<BTreeMap<String, Listed>, Failure> {
        let mut sets: BTreeMap<String, Listed> = BTreeMap::new();
        self.dump(None, 0, |attributes| {
            let Some(name) = attributes.text(attribute::NAME) else { return };
            if !name.starts_with(prefix) {
                return;
            }
            if attributes.find(attribute::TYPE).is_some() {
                sets.insert(name.to_owned(), empty(attributes));
            }
            if let Some(set) = sets.get_mut(name)
                && let Some(members) = attributes.nest(attribute::MEMBERS)
            {
                for (_, member) in members {
                    let read = set.elements.as_mut().and_then(|set| add(set, Attributes(member)));
                    if read.is_none() {
                        set.elements = None;
                    }
                }
            }
        })?;
        for set in sets.values_mut() {
            match &mut set.elements {
                Some(Elements::Addresses(_, members)) => members.sort_unstable(),
                Some(Elements::Networks(_, members)) => members.sort_unstable(),
                Some(Elements::AddressPorts(_, members)) => members.sort_unstable(),
                None => {}
            }
        }
        Ok(sets)
    }

    fn dump(
        &self,
        name: Option<&str>,
        flags: u32,
        mut each: impl FnMut(Attributes<'_>),
    ) -> Result<(), Failure> {
        let mut writer = Writer::default();
        writer.message(Command::List.number(), DUMP, 1, FAMILY, |writer| {
            writer.byte(attribute::PROTOCOL, PROTOCOL);
            if let Some(name) = name {
                writer.text(attribute::NAME, name);
            }
            if flags != 0 {
                writer.number(attribute::FLAGS | BIG_ENDIAN, flags);
            }
        });
        self.socket.send(writer.bytes()).map_err(Failure::Socket)?;
        loop {
            let datagram = self.socket.receive().map_err(Failure::Socket)?;
            for message in messages(&datagram) {
                match message.number {
                    DONE => return Ok(()),
                    ERROR => {
                        return match refusal(&message) {
                            None => Ok(()),
                            Some(refusal) => {
                                Err(Failure::Refused(name.unwrap_or_default().to_owned(), refusal))
                            }
                        };
                    }
                    _ => each(message.attributes()),
                }
            }
        }
    }

    /// Returns whether a set has a member.
    #[cfg(all(test, feature = "kernel-tests"))]
    pub(crate) fn test(&self, name: &str, member: &Member) -> Result<bool, Failure> {
        let mut commands = Commands::default();
        commands.message(Command::Test, 0, name, |writer| {
            writer.nest(attribute::DATA, |writer| write_member(writer, member));
        });
        match self.run(commands) {
            Ok(()) => Ok(true),
            Err(Failure::Refused(_, Refusal(4103))) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Reads an error message; `None` where it says that there was none.
fn refusal(message: &Received<'_>) -> Option<Refusal> {
    if message.number != ERROR {
        return None;
    }
    let number = message.body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    // An answer that is too short to be read is no success.
    Some(Refusal(number.unwrap_or(-libc::EBADMSG).saturating_neg()))
        .filter(|refusal| refusal.0 != 0)
}

/// Reads the head of a listing.
fn empty(attributes: Attributes<'_>) -> Listed {
    let settings = attributes.nest(attribute::DATA).unwrap_or_default();
    let number = |kind| settings.number(kind).and_then(|number| usize::try_from(number).ok());
    let room = number(data::ROOM).unwrap_or_default();
    // Others change what a set holds, or for how long.
    let plain = settings.into_iter().all(|(kind, _)| data::HARMLESS.contains(&kind));
    let family = match attributes.find(attribute::FAMILY) {
        Some([2]) => Some(Family::V4),
        Some([10]) => Some(Family::V6),
        Some(_) | None => None,
    };
    let elements =
        family.filter(|_| plain).and_then(|family| match attributes.text(attribute::TYPE)? {
            "hash:ip" => Some(Elements::Addresses(family, Vec::new())),
            "hash:net" => Some(Elements::Networks(family, Vec::new())),
            "hash:ip,port" => Some(Elements::AddressPorts(family, Vec::new())),
            _ => None,
        });
    Listed { elements, room }
}

/// Reads a member.
fn add(set: &mut Elements, member: Attributes<'_>) -> Option<()> {
    let [mut address, mut length, mut port, mut protocol] = [None; 4];
    for (kind, value) in member {
        match kind {
            data::ADDRESS => address = Some(value),
            data::LENGTH => length = Some(value),
            data::PORT => port = Some(value),
            data::PROTOCOL => protocol = Some(value),
            _ => return None,
        }
    }
    let address = match (set.family(), Attributes(address?).next()?) {
        (Family::V4, (1, value)) => IpAddr::V4(Ipv4Addr::from(*value.first_chunk::<4>()?)),
        (Family::V6, (2, value)) => IpAddr::V6(Ipv6Addr::from(*value.first_chunk::<16>()?)),
        (Family::V4 | Family::V6, _) => return None,
    };
    match set {
        Elements::Addresses(_, members) => members.push(address),
        Elements::Networks(_, members) => {
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let length = length.map_or(Some(whole), |value| value.first().copied())?;
            members.push(IpNet::new(address, length).ok()?);
        }
        Elements::AddressPorts(_, members) => {
            let protocol = match protocol? {
                [6] => Protocol::Tcp,
                [17] => Protocol::Udp,
                [132] => Protocol::Sctp,
                _ => return None,
            };
            members.push((address, protocol, u16::from_be_bytes(*port?.first_chunk()?)));
        }
    }
    Some(())
}

#[cfg(all(test, feature = "kernel-tests"))]
mod tests;
