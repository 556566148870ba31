//! Expressions as `nft --debug=netlink` writes them.

use core::fmt;

use super::{
    AT_MOST, DIRECTION, EQUAL, Expression, MARK, NETWORK, NFPROTO, NOT_EQUAL, ORIGINAL, PROTO_SRC,
    SRC_IP, STATE,
};
use crate::script::Verdict;

impl fmt::Display for Expression {
    /// Writes what `nft --debug=netlink` does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta { key, to } => {
                let name = if *key == NFPROTO { "nfproto" } else { "l4proto" };
                write!(f, "[ meta load {name} => reg {to} ]")
            }
            Self::Connection { key, direction, to } => {
                let name = match *key {
                    STATE => "state",
                    DIRECTION => "direction",
                    MARK => "mark",
                    PROTO_SRC => "proto_src",
                    SRC_IP => "src_ip",
                    _ => "src_ip6",
                };
                write!(f, "[ ct load {name} => reg {to}")?;
                match direction {
                    None => f.write_str(" ]"),
                    Some(ORIGINAL) => f.write_str(" , dir original ]"),
                    Some(_) => f.write_str(" , dir reply ]"),
                }
            }
            Self::Counter => f.write_str("[ counter pkts 0 bytes 0 ]"),
            Self::Limit { rate, burst } => {
                write!(f, "[ limit rate {rate}/second burst {burst} type packets flags 0x0 ]")
            }
            Self::Log { group, prefix } => {
                write!(f, "[ log prefix {prefix} group {group} snaplen 0 qthreshold 0 ]")
            }
            Self::SetMark { from } => write!(f, "[ ct set mark with reg {from} ]"),
            Self::Payload { base, offset, length, to } => {
                let base = if *base == NETWORK { "network" } else { "transport" };
                write!(f, "[ payload load {length}b @ {base} header + {offset} => reg {to} ]")
            }
            Self::Compare { from, operator, value } => {
                let operator = match *operator {
                    EQUAL => "eq",
                    NOT_EQUAL => "neq",
                    AT_MOST => "lte",
                    _ => "gte",
                };
                write!(f, "[ cmp {operator} reg {from}{} ]", Words(value))
            }
            Self::Mask { register, mask, flip } => {
                write!(
                    f,
                    "[ bitwise reg {register} = ( reg {register} &{} ) ^{} ]",
                    Words(mask),
                    Words(flip)
                )
            }
            Self::Lookup { from, set, inverted, verdict } => {
                write!(f, "[ lookup reg {from} set {set}")?;
                f.write_str(if *verdict { " dreg 0" } else { "" })?;
                f.write_str(if *inverted { " 0x1 ]" } else { " ]" })
            }
            Self::Verdict(verdict) => match verdict {
                Verdict::Accept => f.write_str("[ immediate reg 0 accept ]"),
                Verdict::Drop => f.write_str("[ immediate reg 0 drop ]"),
                Verdict::Goto(chain) => write!(f, "[ immediate reg 0 goto -> {chain} ]"),
                Verdict::Jump(chain) => write!(f, "[ immediate reg 0 jump -> {chain} ]"),
            },
            Self::Foreign(name) => write!(f, "[ {name} ? ]"),
        }
    }
}

/// Bytes as machine words.
struct Words<'a>(&'a [u8]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chunks(4).try_for_each(|chunk| {
            let mut word = [0; 4];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            write!(f, " 0x{:08x}", u32::from_ne_bytes(word))
        })
    }
}
