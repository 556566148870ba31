//! The algebra under every rule: disjoint sets of addresses and of ports.
//!
//! A value here is canonical: two sets that hold the same members are equal, whatever they were built from.

mod address_set;
mod intervals;
mod port_set;
mod prefix_set;

pub use address_set::AddressSet;
pub use intervals::{Intervals, Point};
pub use port_set::PortSet;
pub use prefix_set::PrefixSet;
