//! Netlink messages and attributes, written and read.

use alloc::vec::Vec;

/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const NFTABLES: u16 = 10;
/// `NFPROTO_INET`.
pub(super) const INET: u8 = 1;
/// `NLM_F_REQUEST`.
pub(super) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(super) const ACK: u16 = 0x4;
/// `NLM_F_DUMP`.
pub(super) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(super) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(super) const APPEND: u16 = 0x800;
/// `NLM_F_DUMP_INTR`: the dump met a change, and is no snapshot.
pub(super) const INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`.
pub(super) const ERROR: u16 = 2;
/// `NLMSG_DONE`.
pub(super) const DONE: u16 = 3;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`.
const TYPE: u16 = 0x3fff;
/// `NFTA_LIST_ELEM`.
pub(super) const ITEM: u16 = 1;
/// `NFTA_SET_ELEM_KEY` and `NFTA_DATA_VALUE`.
const KEY: u16 = 1;
const VALUE: u16 = 1;

/// The messages of nf_tables, by `NFT_MSG_…` number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub(super) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    GetSet = 10,
    DelSet = 11,
    NewSetElem = 12,
    GetSetElem = 13,
    DelSetElem = 14,
    GetGen = 16,
}

impl Kind {
    /// Returns `nlmsg_type`.
    pub(super) const fn number(self) -> u16 {
        Self::of(self as u16)
    }

    /// Returns `nlmsg_type` of an `NFT_MSG_…`.
    pub(super) const fn of(number: u16) -> u16 {
        NFTABLES << 8 | number
    }
}

/// Messages under construction.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes an nf_tables message.
    pub(super) fn message(
        &mut self,
        kind: Kind,
        flags: u16,
        sequence: u32,
        content: impl FnOnce(&mut Self),
    ) {
        self.raw_message(kind.number(), flags, sequence, (INET, 0), content);
    }

    /// Writes a message of any type; `family` comes with the resource id that some types carry.
    pub(super) fn raw_message(
        &mut self,
        number: u16,
        flags: u16,
        sequence: u32,
        family: (u8, u16),
        content: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend(0_u32.to_ne_bytes()); // The length, once it is known.
        self.bytes.extend(number.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes()); // To the kernel.
        self.bytes.extend([family.0, 0]);
        self.bytes.extend(family.1.to_be_bytes());
        content(self);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.patch(start, &length.to_ne_bytes());
    }

    /// Adds flags to the message that starts at `offset`.
    pub(super) fn add_flags(&mut self, offset: usize, flags: u16) {
        let at = offset + 6;
        if let Some(&[low, high]) = self.bytes.get(at..at + 2) {
            let flags = u16::from_ne_bytes([low, high]) | flags;
            self.patch(at, &flags.to_ne_bytes());
        }
    }

    /// Gives the message of an index another type.
    #[cfg(feature = "kernel-tests")]
    pub(super) fn retype(&mut self, index: usize, number: u16) {
        let mut offset = 0;
        for _ in 0..index {
            let length = self.bytes.get(offset..).and_then(|rest| rest.first_chunk().copied());
            let length = usize::try_from(length.map_or(0, u32::from_ne_bytes)).unwrap_or(0);
            offset += length.next_multiple_of(4);
        }
        self.patch(offset + 4, &number.to_ne_bytes());
    }

    pub(super) fn bytes_attribute(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |writer| writer.bytes.extend(value));
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes_attribute(kind, &value.to_be_bytes());
    }

    /// Writes a string with its final zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |writer| {
            writer.bytes.extend(value.as_bytes());
            writer.bytes.push(0);
        });
    }

    pub(super) fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, content);
    }

    /// Writes a nest whose content is there already.
    pub(super) fn nested_bytes(&mut self, kind: u16, content: &[u8]) {
        self.bytes_attribute(kind | NESTED, content);
    }

    /// Writes an item of a list of elements that is nothing but its key, of up to 64 bytes: what [`Self::nest`] would write, at a
    /// third of the cost, as most of what is ever sent is this.
    pub(super) fn bare_key(&mut self, key: &[u8]) {
        let length = u16::try_from(key.len()).unwrap_or(u16::MAX).min(64);
        let padded = length.next_multiple_of(4);
        let header = |length: u16, kind: u16| {
            let ([a, b], [c, d]) = (length.to_ne_bytes(), kind.to_ne_bytes());
            [a, b, c, d]
        };
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l]] = [
            header(padded + 12, ITEM | NESTED),
            header(padded + 8, KEY | NESTED),
            header(length + 4, VALUE),
        ];
        self.bytes.extend_from_slice(&[a, b, c, d, e, f, g, h, i, j, k, l]);
        self.bytes.extend_from_slice(key);
        self.bytes.extend(core::iter::repeat_n(0, usize::from(padded - length)));
    }

    fn attribute(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend(0_u16.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        content(self);
        // Lists are split before they reach 64 KB, and nothing else comes near.
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.patch(start, &length.to_ne_bytes());
        let padding = usize::from(length).next_multiple_of(4) - usize::from(length);
        self.bytes.extend(core::iter::repeat_n(0, padding));
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(target) = self.bytes.get_mut(at..at + value.len()) {
            target.copy_from_slice(value);
        }
    }
}

/// A message that was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received<'a> {
    pub(super) number: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// Everything behind the netlink header.
    pub(super) body: &'a [u8],
}

impl<'a> Received<'a> {
    /// Returns the attributes of an nf_tables message.
    pub(super) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(4..).unwrap_or_default())
    }
}

/// Splits a datagram into messages.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = datagram;
    core::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
        let (message, behind) = rest.split_at_checked(length)?;
        rest = behind.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        let [_, _, _, _, n0, n1, f0, f1, s0, s1, s2, s3, _, _, _, _] = *message.first_chunk()?;
        Some(Received {
            number: u16::from_ne_bytes([n0, n1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body: message.get(16..)?,
        })
    })
}

/// Attributes that were received, in order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1] = *self.0.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & TYPE, value))
    }
}

impl<'a> Attributes<'a> {
    /// Returns the first attribute of a kind.
    pub(super) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(number, value)| (number == kind).then_some(value))
    }

    pub(super) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(*self.find(kind)?.first_chunk()?))
    }

    pub(super) fn text(self, kind: u16) -> Option<&'a str> {
        core::str::from_utf8(self.find(kind)?).ok().map(|text| text.trim_end_matches('\0'))
    }

    pub(super) fn nest(self, kind: u16) -> Option<Self> {
        self.find(kind).map(Attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Attributes, ITEM, KEY, Kind, VALUE, Writer, messages};

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = Writer::default();
        writer.message(Kind::NewSet, 0, 7, |writer| {
            writer.text(1, "abc");
            writer.nest(2, |writer| writer.number(3, 0x0102_0304));
        });
        writer.message(Kind::DelSet, 0, 8, |writer| writer.bytes_attribute(1, &[9]));
        assert_eq!(writer.len() % 4, 0);
        let read: Vec<_> = messages(writer.bytes()).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].number, read[0].sequence), (Kind::NewSet.number(), 7));
        let attributes = read[0].attributes();
        assert_eq!(attributes.text(1), Some("abc"));
        assert_eq!(attributes.nest(2).unwrap().number(3), Some(0x0102_0304));
        assert_eq!(attributes.find(9), None);
        assert_eq!(read[1].attributes().find(1), Some(&[9][..]));
    }

    #[test]
    fn a_bare_key_is_written_as_nests_would_be() {
        for length in [1, 2, 4, 8, 16, 32] {
            let key: Vec<u8> = (1..=length).collect();
            let [mut short, mut long] = [Writer::default(), Writer::default()];
            short.bare_key(&key);
            long.nest(ITEM, |writer| {
                writer.nest(KEY, |writer| writer.bytes_attribute(VALUE, &key));
            });
            assert_eq!(short.bytes(), long.bytes());
        }
    }

    #[test]
    fn what_is_cut_off_ends_the_reading() {
        let mut writer = Writer::default();
        writer.message(Kind::NewSet, 0, 7, |writer| writer.text(1, "abc"));
        for end in 0..writer.len() {
            assert_eq!(messages(&writer.bytes()[..end]).count(), 0);
            let _ = Attributes(&writer.bytes()[..end]).count();
        }
    }
}
