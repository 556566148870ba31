//! Names that say what an object is, cut to what the kernel has room for.

use alloc::format;
use alloc::string::String;

use netpol_core::backend::LowerError;
use netpol_core::ir::Family;
use sha2::{Digest as _, Sha256};

use super::{Name, PREFIX};

/// What the second edition of a set's name ends in.
const SECOND: char = '+';

/// Returns the name of a chain of these rules. A chain's name has room for 28 bytes: 18 digits are 90 bits.
pub(crate) fn chain_name(letters: &str, text: &str) -> Name {
    format!("{PREFIX}{letters}-{}", digest(text, 18)).into()
}

/// Returns the name of a set of this description. A set's name has room for 31 bytes: 20 digits are 100 bits, and one
/// byte is left for the edition.
pub(crate) fn set_name(letter: char, family: Family, text: &str) -> Name {
    let digit = match family {
        Family::V4 => '4',
        Family::V6 => '6',
    };
    format!("{PREFIX}{letter}{digit}-{}", digest(text, 20)).into()
}

/// Returns the name under which a set with the same description and other members can be made beside the first.
pub(crate) fn other_edition(name: &str) -> Name {
    match name.strip_suffix(SECOND) {
        Some(first) => first.into(),
        None => format!("{name}{SECOND}").into(),
    }
}

pub(crate) fn collision(name: &str) -> LowerError {
    LowerError::Unsupported { object: name.into(), what: "two different contents of this name" }
}

/// Digests content to letters and digits. Tenants write it, so crafted collisions must cost: SHA-256, cut to what a name
/// holds at five bits a digit; and they are checked for.
fn digest(text: &str, digits: usize) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut name = String::with_capacity(digits);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in Sha256::digest(text.as_bytes()) {
        bits = (bits << 8) | u32::from(byte);
        count += 8;
        while count >= 5 && name.len() < digits {
            count -= 5;
            let index = usize::try_from((bits >> count) & 31).unwrap_or_default();
            name.extend(DIGITS.get(index).map(|digit| char::from(*digit)));
        }
        bits &= 0xff;
    }
    name
}
