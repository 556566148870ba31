//! Content-addressed names.

use core::fmt;

use sha2::{Digest as _, Sha256};

/// Hashes a text that identifies content.
///
/// Tenants write the content, so the hash must resist crafted collisions: SHA-256, cut to 128 bits.
fn digest(text: &str) -> [u8; 16] {
    let full: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut half = [0; 16];
    half.copy_from_slice(full.split_at(16).0);
    half
}

/// Writes two digits for each byte, in one piece: texts of ids are what digests are taken of.
fn hexadecimal(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' + half - 10 };
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    f.write_str(core::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id of the content that `text` describes.
            #[must_use]
            pub fn of(text: &str) -> Self {
                Self(digest(text))
            }

            /// Returns the raw digest.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Takes back a digest that [`Self::as_bytes`] gave.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                hexadecimal(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// Names a [`Pipeline`](super::Pipeline) by its content: `p` and 32 hexadecimal digits.
    PipelineId, "p"
);
id!(
    /// Names a [`PeerSet`](super::PeerSet) by its selector, not by its members: `s` and 32 hexadecimal digits.
    PeerSetId, "s"
);
id!(
    /// Names a [`RuleBlock`](super::RuleBlock) by its content: `b` and 32 hexadecimal digits.
    RuleBlockId, "b"
);
