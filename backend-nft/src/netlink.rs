//! nf_tables over netlink: the program as the kernel's own messages, and the kernel's table read back.
//!
//! Attribute and message numbers are those of `linux/netfilter/nf_tables.h` and `linux/netfilter/nfnetlink.h`, which are
//! part of the kernel's stable interface.

mod batch;
mod conntrack;
mod element;
mod expression;
mod listener;
mod log;
mod message;
mod object;
mod read;
mod socket;
mod table;

pub(crate) use batch::{Batch, Failure};
pub(crate) use conntrack::{Half, clear};
pub(crate) use listener::Listener;
pub(crate) use log::Log;
pub(crate) use object::Operation;
pub(crate) use read::{Declared, Observed, counters, declared_sets, observe, stamp, written};
pub(crate) use socket::{Socket, wait_for_packets};
pub(crate) use table::{Holder, Holding, can_own, holder};

use alloc::string::String;
use core::fmt::Write as _;

use crate::script::Script;

impl Script {
    /// Returns the rules as the kernel's expressions, in the words of `nft --debug=netlink`.
    #[must_use]
    pub fn expressions(&self) -> String {
        let mut text = String::new();
        for (name, chain) in &self.table.chains {
            for rule in &chain.rules {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "inet {} {name}", crate::script::TABLE);
                for expression in expression::expressions(rule) {
                    let _ = writeln!(text, "  {expression}");
                }
            }
        }
        text
    }
}
