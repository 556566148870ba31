//! Questions to rtnetlink, and its answers.

use std::io;

use super::super::sys::Netlink;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// `NLM_F_DUMP`: everything there is.
pub(super) const DUMP: u16 = 0x300;
/// `NLM_F_EXCL` and `NLM_F_CREATE`: what is not there yet.
pub(super) const NEW: u16 = 0x200 | 0x400;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Asks, and returns the bodies of the answers.
pub(super) fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    ask_over(&Netlink::route()?, kind, flags, body)
}

/// Asks for everything there is under conditions, and has the kernel heed them.
pub(super) fn ask_strictly(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = Netlink::route()?;
    socket.be_strict()?;
    ask_over(&socket, kind, flags, body)
}

fn ask_over(socket: &Netlink, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut message =
        u32::try_from(body.len() + 16).map_err(io::Error::other)?.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((flags | REQUEST | ACKNOWLEDGE).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    socket.send(&message)?;
    // One answer has a page; of a dump the kernel puts as many together as there is room for.
    let size = if flags & DUMP == DUMP { 1 << 18 } else { 1 << 15 };
    let mut buffer = vec![0; size];
    let mut bodies = Vec::new();
    loop {
        let mut answers = socket.receive(&mut buffer)?;
        if answers.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((length, kind)) = header(answers) {
            let body = answers.get(16..length).ok_or(io::ErrorKind::InvalidData)?;
            match kind {
                DONE => return Ok(bodies),
                ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return match code {
                        0 => Ok(bodies),
                        code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                    };
                }
                _ => bodies.push(body.to_vec()),
            }
            answers = answers.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let [a, b, c, d, e, f] = *bytes.first_chunk::<6>()?;
    let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
    (length >= 16).then_some((length, u16::from_ne_bytes([e, f])))
}

/// Returns the attributes in some bytes.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The two upper bits say how the value is written.
    const KIND: u16 = 0x3fff;
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & KIND, value))
    })
}

/// Returns the value of the first attribute of a kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Reads a number.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes))
}
