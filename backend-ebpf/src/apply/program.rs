//! The compiled programs, made ready for the running kernel.
//!
//! They come without relocations: where a map, a function or a field of the kernel is meant, there is a number that
//! nothing else is (`bpf/patched.h`).

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use super::btf::Kernel;
use super::error::LoadError;
use super::sys::{self, Kind};

/// The program of one ruleset.
pub(super) const JUDGE: Code =
    Code { name: "netpol_judge", bytes: include_bytes!("../bpf/judge.bin") };
/// What the hooks run: goes to the program of the ruleset in force.
pub(super) const SLOT: Code =
    Code { name: "netpol_slot", bytes: include_bytes!("../bpf/slot.bin") };

/// The program of one ruleset at interfaces.
pub(super) const TC_JUDGE: Code =
    Code { name: "netpol_judge", bytes: include_bytes!("../bpf/tc-judge.bin") };
/// What runs for what comes from pods.
pub(super) const TC_FROM: Code =
    Code { name: "netpol_from", bytes: include_bytes!("../bpf/tc-from.bin") };
/// What runs for what goes to pods.
pub(super) const TC_TO: Code =
    Code { name: "netpol_to", bytes: include_bytes!("../bpf/tc-to.bin") };

/// `BPF_PROG_TYPE_SCHED_CLS`.
pub(super) const TC: Kind = Kind { program: 3, attach: 0 };
/// `BPF_PROG_TYPE_NETFILTER`, `BPF_NETFILTER`.
pub(super) const NETFILTER: Kind = Kind { program: 32, attach: 45 };

/// A compiled program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code {
    name: &'static str,
    bytes: &'static [u8],
}

/// Loads 64 bits.
const LOAD_CONSTANT: u8 = 0x18;
/// Calls.
const CALL: u8 = 0x85;
/// Reads 64 bits from memory, and 32.
const READ: u8 = 0x79;
const READ_HALF: u8 = 0x61;

/// Stands for a map: this, with the map's number in the lowest byte.
const MAP: u64 = 0x6e70_6d61_7000_0000;
/// Stands for the value of a map, likewise.
const VALUE: u64 = 0x6e70_7661_6c00_0000;
/// Stands for `bpf_dynptr_from_skb`.
const DYNPTR_FROM_SKB: i32 = 0x6e70_0001;
/// Stands for the offset of `sk_buff._nfct`.
const CONNTRACK: i16 = 0x7ee0;
/// Stands for that of `sk_buff.len`.
const LENGTH: i16 = 0x7ee1;

/// Says that a constant is a map or a map's value, given by descriptor, or that a call is of a function of the kernel.
const PSEUDO_MAP: u8 = 1;
const PSEUDO_VALUE: u8 = 2;
const PSEUDO_FUNCTION: u8 = 2;

/// How many bytes of the verifier's last words an error carries.
const LAST_WORDS: usize = 1200;

impl Code {
    /// Loads the program with these maps, each with the number it has in the source. Only netfilter programs need to
    /// know the kernel.
    pub(super) fn load(
        self,
        kind: Kind,
        kernel: Option<&Kernel>,
        maps: &[(u8, BorrowedFd<'_>)],
    ) -> Result<OwnedFd, LoadError> {
        let instructions = self.patch(kernel, maps).ok_or(LoadError::Damaged(self.name))?;
        let refused = match sys::load(self.name, kind, &instructions, &mut []) {
            Ok(program) => return Ok(program),
            Err(error) => error,
        };
        let mut log = vec![0; 1 << 20];
        let _ = sys::load(self.name, kind, &instructions, &mut log);
        let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
        let last = said.get(said.len().saturating_sub(LAST_WORDS)..).unwrap_or_default();
        let verifier = String::from_utf8_lossy(last).trim().to_owned();
        Err(LoadError::Program { name: self.name, verifier, source: refused })
    }

    /// Fills in what the numbers stand for; `None` if one is not known, or one of the maps is not used.
    fn patch(self, kernel: Option<&Kernel>, maps: &[(u8, BorrowedFd<'_>)]) -> Option<Vec<u8>> {
        let mut patched = Vec::with_capacity(self.bytes.len());
        let mut used = vec![false; maps.len()];
        let mut instructions = self.bytes.chunks_exact(8);
        while let Some(instruction) = instructions.next() {
            let [code, registers, a, b, immediate @ ..] = <[u8; 8]>::try_from(instruction).ok()?;
            let (offset, low) = (i16::from_le_bytes([a, b]), i32::from_le_bytes(immediate));
            match code {
                LOAD_CONSTANT => {
                    let second = <[u8; 8]>::try_from(instructions.next()?).ok()?;
                    let [_, _, _, _, high @ ..] = second;
                    let value = u64::from(i32::from_le_bytes(high).cast_unsigned()) << 32
                        | u64::from(low.cast_unsigned());
                    let stands_for = value & !0xff;
                    if stands_for == MAP || stands_for == VALUE {
                        let place = maps
                            .iter()
                            .position(|(number, _)| u64::from(*number) == value & 0xff)?;
                        *used.get_mut(place)? = true;
                        let (_, map) = maps.get(place)?;
                        let kind = if stands_for == MAP { PSEUDO_MAP } else { PSEUDO_VALUE };
                        put(&mut patched, code, registers | kind << 4, 0, map.as_raw_fd());
                        put(&mut patched, 0, 0, 0, 0);
                    } else {
                        patched.extend(instruction);
                        patched.extend(second);
                    }
                }
                CALL if low == DYNPTR_FROM_SKB => {
                    put(&mut patched, code, PSEUDO_FUNCTION << 4, 0, kernel?.dynptr_from_skb);
                }
                READ if offset == CONNTRACK => {
                    put(&mut patched, code, registers, kernel?.conntrack, 0);
                }
                READ_HALF if offset == LENGTH => {
                    put(&mut patched, code, registers, kernel?.length, 0);
                }
                _ => patched.extend(instruction),
            }
        }
        used.into_iter().all(|used| used).then_some(patched)
    }
}

fn put(to: &mut Vec<u8>, code: u8, registers: u8, offset: i16, immediate: i32) {
    to.extend([code, registers]);
    to.extend(offset.to_le_bytes());
    to.extend(immediate.to_le_bytes());
}
