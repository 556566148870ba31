//! How large the maps may get.

use netpol_core::backend::LowerError;

use crate::image::Rows;

/// How many rows each map may have. What does not fit is an error with the numbers, never a row less.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "plain input")]
pub struct Limits {
    /// Addresses of pods with policies.
    pub endpoints: usize,
    /// Addresses with a class of their own.
    pub addresses: usize,
    /// Networks.
    pub networks: usize,
    /// Policies.
    pub policies: usize,
    /// Words that are not their policy's default.
    pub words: usize,
    /// Rows of port lists.
    pub ports: usize,
    /// Pieces of one pipeline's atoms ([`Bound`](netpol_core::atoms::Bound)).
    pub pieces: usize,
}

impl Default for Limits {
    /// What some 500 MB of kernel memory hold.
    fn default() -> Self {
        Self {
            endpoints: 1 << 18,
            addresses: 1 << 20,
            networks: 1 << 18,
            policies: 1 << 18,
            words: 1 << 22,
            ports: 1 << 20,
            pieces: 1_000_000,
        }
    }
}

impl Limits {
    pub(super) fn check(self, rows: &Rows) -> Result<(), LowerError> {
        for (object, needed, limit) in [
            ("map endpoints", rows.endpoints, self.endpoints),
            ("map addresses", rows.addresses, self.addresses),
            ("map networks", rows.networks, self.networks),
            ("map policies", rows.policies, self.policies),
            ("map words", rows.words, self.words),
            ("map ports", rows.ports, self.ports),
        ] {
            if needed > limit {
                let object = object.into();
                return Err(LowerError::CapacityExceeded { object, needed, limit, unit: "rows" });
            }
        }
        Ok(())
    }
}
