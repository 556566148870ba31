//! What of netfilter is spoken to over netlink: ipset, and the log of packets.
//!
//! Attribute and message numbers are those of `linux/netfilter/ipset/ip_set.h`, `linux/netfilter/nfnetlink_log.h` and
//! `linux/netfilter/nfnetlink.h`, which are part of the kernel's stable interface.

mod generation;
mod ipset;
mod log;
mod message;
mod socket;

pub(crate) use generation::{freed, generation};
pub(crate) use ipset::{Commands, Failure, Ipset, Kind, Listed, Refusal};
pub(crate) use log::{Log, Packet};
pub(crate) use socket::{Socket, legacy_table};
