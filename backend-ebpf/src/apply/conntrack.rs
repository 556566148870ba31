//! Has the kernel track connections in a network namespace.
//!
//! It does so only where something asks for it. A rule that looks at a connection's state asks, even in a chain that no
//! packet ever comes to: the table `inet netpol-ebpf` holds such a chain and nothing else.

use std::io;

use super::sys::Netlink;

/// The name of our table.
const TABLE: &str = "netpol-ebpf";
const CHAIN: &str = "tracks-connections";

/// `enum nf_tables_msg_types`, of the subsystem nftables (10).
const NEW_TABLE: u16 = 10 << 8;
const DELETE_TABLE: u16 = 10 << 8 | 2;
const NEW_CHAIN: u16 = 10 << 8 | 3;
const GET_CHAIN: u16 = 10 << 8 | 4;
const NEW_RULE: u16 = 10 << 8 | 6;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NLMSG_ERROR: u16 = 2;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;

/// Turns tracking on, whatever was there of ours.
pub(super) fn on() -> io::Result<()> {
    let mut batch = Batch::new();
    batch.table(NEW_TABLE, CREATE);
    batch.table(DELETE_TABLE, 0);
    batch.table(NEW_TABLE, CREATE);
    batch.message(NEW_CHAIN, CREATE, NFPROTO_INET, |message| {
        message.text(1, TABLE);
        message.text(3, CHAIN);
    });
    batch.message(NEW_RULE, CREATE, NFPROTO_INET, |message| {
        message.text(1, TABLE);
        message.text(2, CHAIN);
        message.nested(4, |expressions| {
            // ct state established
            expressions.expression("ct", |ct| {
                ct.number(1, 1); // Into register 1,
                ct.number(2, 0); // the state.
            });
            expressions.expression("bitwise", |bitwise| {
                bitwise.number(1, 1);
                bitwise.number(2, 1);
                bitwise.number(3, 4);
                bitwise.nested(4, |mask| mask.attribute(1, &2_u32.to_ne_bytes()));
                bitwise.nested(5, |xor| xor.attribute(1, &0_u32.to_ne_bytes()));
            });
            expressions.expression("cmp", |compare| {
                compare.number(1, 1);
                compare.number(2, 1); // Not equal to
                compare.nested(3, |value| value.attribute(1, &0_u32.to_ne_bytes()));
            });
        });
    });
    batch.send()
}

/// Takes our table out again. Others who ask for tracking keep it.
pub(super) fn off() -> io::Result<()> {
    let mut batch = Batch::new();
    // Adding first makes it hold also where there is none.
    batch.table(NEW_TABLE, CREATE);
    batch.table(DELETE_TABLE, 0);
    batch.send()
}

/// Returns whether our chain is there.
pub(super) fn is_on() -> io::Result<bool> {
    let mut question = Batch { bytes: Vec::new(), messages: 0 };
    question.message(GET_CHAIN, 0, NFPROTO_INET, |message| {
        message.text(1, TABLE);
        message.text(3, CHAIN);
    });
    let socket = Netlink::netfilter()?;
    socket.send(&question.bytes)?;
    let mut buffer = vec![0; 1 << 16];
    let answer = socket.receive(&mut buffer)?;
    // An error, or the chain itself.
    let is_error = answer.get(4..6) == Some(&NLMSG_ERROR.to_ne_bytes());
    match field(answer, 16).filter(|code| is_error && *code != 0) {
        None => Ok(true),
        Some(code) => {
            let error = io::Error::from_raw_os_error(code.cast_signed().wrapping_neg());
            if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) }
        }
    }
}

/// A transaction of nftables.
struct Batch {
    bytes: Vec<u8>,
    messages: u32,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), messages: 0 };
        batch.header(BATCH_BEGIN, 0, NFPROTO_UNSPEC, [0, 10], |_| {});
        batch
    }

    fn table(&mut self, kind: u16, flags: u16) {
        self.message(kind, flags, NFPROTO_INET, |message| message.text(1, TABLE));
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Message<'_>)) {
        self.messages += 1;
        self.header(kind, flags | ACKNOWLEDGE, family, [0, 0], fill);
    }

    fn header(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: [u8; 2],
        fill: impl FnOnce(&mut Message<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.messages.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource);
        fill(&mut Message(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// Sends all of it; the kernel takes all or nothing.
    fn send(mut self) -> io::Result<()> {
        self.header(BATCH_END, 0, NFPROTO_UNSPEC, [0, 10], |_| {});
        let socket = Netlink::netfilter()?;
        socket.send(&self.bytes)?;
        let mut buffer = vec![0; 1 << 16];
        let mut left = self.messages;
        while left > 0 {
            let mut answers = socket.receive(&mut buffer)?;
            while let Some(code) = field(answers, 16) {
                let length = field(answers, 0).and_then(|length| usize::try_from(length).ok());
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(code.cast_signed().wrapping_neg()));
                }
                left = left.saturating_sub(1);
                let next = length.unwrap_or(0).next_multiple_of(4).max(20);
                answers = answers.get(next..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

fn field(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*field))
}

/// Attributes, one after another.
pub(super) struct Message<'a>(pub(super) &'a mut Vec<u8>);

impl Message<'_> {
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat());
    }

    /// Numbers of nftables are in network order.
    fn number(&mut self, kind: u16, number: u32) {
        self.attribute(kind, &number.to_be_bytes());
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Message<'_>)) {
        const NESTED: u16 = 1 << 15;
        let mut inner = Vec::new();
        fill(&mut Message(&mut inner));
        self.attribute(kind | NESTED, &inner);
    }

    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Message<'_>)) {
        self.nested(1, |element| {
            element.text(1, name);
            element.nested(2, fill);
        });
    }
}
