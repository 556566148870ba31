//! How large the maps may get.

use netpol_core::backend::LowerError;

use crate::image::{MAX_COUNTERS, MAX_LISTS, Rows};

/// How many rows each map may have. What does not fit is an error with the numbers, never a row less.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "plain input")]
pub struct Limits {
    /// Addresses with a class of their own, of pods with policies, and in strict mode of pods and nodes.
    pub hosts: usize,
    /// Networks.
    pub networks: usize,
    /// Pods with policies.
    pub pods: usize,
    /// Policies.
    pub policies: usize,
    /// Words that are not their policy's default.
    pub words: usize,
    /// Rows of port lists.
    pub ports: usize,
    /// Networks of pods' addresses, in strict mode.
    pub ranges: usize,
    /// Counters. Each costs eight bytes a processor.
    pub counters: usize,
    /// Pieces of one pipeline's atoms ([`Bound`](netpol_core::atoms::Bound)).
    pub pieces: usize,
}

impl Default for Limits {
    /// What some 500 MB of kernel memory hold.
    fn default() -> Self {
        Self {
            hosts: 1 << 20,
            networks: 1 << 18,
            pods: 1 << 18,
            policies: 1 << 18,
            words: 1 << 22,
            ports: MAX_LISTS - 1,
            ranges: 1 << 16,
            counters: MAX_COUNTERS - (1 << 16),
            pieces: 1_000_000,
        }
    }
}

impl Limits {
    pub(super) fn check(self, rows: &Rows) -> Result<(), LowerError> {
        for (object, needed, limit) in [
            ("map hosts", rows.hosts, self.hosts),
            ("map networks", rows.networks, self.networks),
            ("map pods", rows.pods, self.pods),
            ("map policies", rows.policies, self.policies),
            ("map words", rows.words, self.words),
            ("map ports", rows.ports, self.ports.min(MAX_LISTS - 1)),
            ("map ranges", rows.ranges, self.ranges),
            ("map counters", rows.counters, self.counters.min(MAX_COUNTERS - 1)),
        ] {
            if needed > limit {
                let object = object.into();
                return Err(LowerError::CapacityExceeded { object, needed, limit, unit: "rows" });
            }
        }
        Ok(())
    }
}
