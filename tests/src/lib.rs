//! The exam for netpol: an independent oracle, generators of adversarial clusters, and workloads for benchmarks.

extern crate alloc;

pub mod events;
pub mod generate;
pub mod oracle;
