//! The exam for netpol backends: an independent oracle, case files, generators of adversarial clusters, workloads for
//! benchmarks, and clusters of network namespaces that send real packets.

extern crate alloc;

#[cfg(feature = "api-server")]
pub mod api_server;
pub mod cases;
pub mod events;
pub mod exam;
pub mod generate;
pub mod netlab;
pub mod oracle;
pub mod workload;
