//! What the running kernel says of itself in BTF: where a field lies, and the number of a function.

use std::io;

/// Where the kernel shows its types.
const PATH: &str = "/sys/kernel/btf/vmlinux";

/// What the program must be told of the running kernel.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Offset of `sk_buff._nfct`.
    pub(super) conntrack: i16,
    /// Offset of `sk_buff.len`.
    pub(super) length: i16,
    /// Number of the function `bpf_dynptr_from_skb`.
    pub(super) dynptr_from_skb: i32,
}

/// Why the kernel cannot run the program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Its types cannot be read.
    #[error("cannot read `{PATH}`")]
    Unreadable(#[source] io::Error),
    /// Its types are not in the form we know.
    #[error("`{PATH}` is damaged")]
    Damaged,
    /// It has no such thing.
    #[error("the kernel has no `{0}`")]
    Lacks(&'static str),
}

impl Kernel {
    /// Asks the running kernel.
    ///
    /// # Errors
    /// Says what it lacks.
    pub fn probe() -> Result<Self, KernelError> {
        Self::parse(&std::fs::read(PATH).map_err(KernelError::Unreadable)?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, KernelError> {
        let types = Types::parse(bytes).ok_or(KernelError::Damaged)?;
        let packet = types.find(STRUCT, "sk_buff");
        let field = |member, name| {
            let bits = packet.and_then(|packet| types.bit_offset(packet, member));
            let bits = bits.ok_or(KernelError::Lacks(name))?;
            i16::try_from(bits / 8).map_err(|_| KernelError::Damaged)
        };
        let conntrack = field("_nfct", "sk_buff._nfct")?;
        let length = field("len", "sk_buff.len")?;
        let name = "bpf_dynptr_from_skb";
        let function = types.find(FUNCTION, name).ok_or(KernelError::Lacks(name))?;
        let dynptr_from_skb = i32::try_from(function).map_err(|_| KernelError::Damaged)?;
        Ok(Self { conntrack, length, dynptr_from_skb })
    }
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNCTION: u32 = 12;

/// The types of a kernel, by number.
struct Types<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins, by its number less one.
    starts: Vec<usize>,
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

impl<'a> Types<'a> {
    fn parse(file: &'a [u8]) -> Option<Self> {
        if file.get(..2)? != 0xeb9f_u16.to_ne_bytes() {
            return None;
        }
        let at = |offset| usize::try_from(word(file, offset)?).ok();
        let body = file.get(at(4)?..)?;
        let bytes = body.get(at(8)?..)?.get(..at(12)?)?;
        let strings = body.get(at(16)?..)?.get(..at(20)?)?;
        let mut starts = Vec::new();
        let mut offset = 0;
        while offset < bytes.len() {
            starts.push(offset);
            let info = word(bytes, offset + 4)?;
            let count = usize::try_from(info & 0xffff).ok()?;
            offset += 12
                + match kind(info) {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    STRUCT | UNION | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return None,
                };
        }
        Some(Self { bytes, strings, starts })
    }

    fn name(&self, offset: u32) -> Option<&[u8]> {
        self.strings.get(usize::try_from(offset).ok()?..)?.split(|byte| *byte == 0).next()
    }

    /// Returns the number of the type of this kind and name.
    fn find(&self, wanted: u32, name: &str) -> Option<u32> {
        let is = |start: usize| {
            let info = word(self.bytes, start + 4)?;
            (kind(info) == wanted && self.name(word(self.bytes, start)?)? == name.as_bytes())
                .then_some(())
        };
        let index = self.starts.iter().position(|start| is(*start).is_some())?;
        u32::try_from(index + 1).ok()
    }

    /// Returns where a member begins, in bits, also one inside members without a name.
    fn bit_offset(&self, number: u32, member: &str) -> Option<u32> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        let start = *self.starts.get(index)?;
        let info = word(self.bytes, start + 4)?;
        if !matches!(kind(info), STRUCT | UNION) {
            return None;
        }
        for place in 0..usize::try_from(info & 0xffff).ok()? {
            let at = start + 12 + 12 * place;
            let offset = word(self.bytes, at + 8)?;
            // With bit fields, the upper eight bits are their width.
            let offset = if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            let name = self.name(word(self.bytes, at)?)?;
            if name == member.as_bytes() {
                return Some(offset);
            }
            if name.is_empty()
                && let Some(inner) = self.bit_offset(word(self.bytes, at + 4)?, member)
            {
                return Some(offset + inner);
            }
        }
        None
    }
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}
