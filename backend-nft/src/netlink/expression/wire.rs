//! Expressions as attributes of netlink messages, both ways.

use alloc::string::ToString as _;

use super::{Expression, MARK};
use crate::netlink::message::{Attributes, ITEM, Writer};
use crate::script::Verdict;

/// Returns what a rule of these expressions counted: packets and bytes.
pub(in crate::netlink) fn counted(list: Attributes<'_>) -> Option<(u64, u64)> {
    let counter = list
        .filter(|(kind, _)| *kind == ITEM)
        .map(|(_, value)| Attributes(value))
        .find(|expression| expression.text(1) == Some("counter"))?;
    let data = counter.nest(2)?;
    let word = |kind| Some(u64::from_be_bytes(*data.find(kind)?.first_chunk()?));
    Some((word(2)?, word(1)?))
}

/// Writes the list of a rule's expressions.
pub(in crate::netlink) fn write_all(writer: &mut Writer, list: &[Expression]) {
    for expression in list {
        writer.nest(ITEM, |writer| expression.write(writer));
    }
}

impl Expression {
    /// Writes `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
    fn write(&self, writer: &mut Writer) {
        writer.text(1, self.name());
        writer.nest(2, |writer| match self {
            Self::Meta { key, to } => {
                writer.number(2, *key);
                writer.number(1, *to);
            }
            Self::Connection { key, direction, to } => {
                writer.number(2, *key);
                writer.number(1, *to);
                if let Some(direction) = direction {
                    writer.bytes_attribute(3, &[*direction]);
                }
            }
            Self::Counter => {
                writer.bytes_attribute(1, &[0; 8]);
                writer.bytes_attribute(2, &[0; 8]);
            }
            Self::Limit { rate, burst } => {
                writer.bytes_attribute(1, &rate.to_be_bytes());
                writer.bytes_attribute(2, &1_u64.to_be_bytes()); // A second.
                writer.number(3, *burst);
                writer.number(4, 0); // NFT_LIMIT_PKTS
                writer.number(5, 0);
            }
            Self::Log { group, prefix } => {
                writer.bytes_attribute(1, &group.to_be_bytes());
                writer.text(2, prefix);
            }
            Self::SetMark { from } => {
                writer.number(2, MARK);
                writer.number(4, *from);
            }
            Self::Payload { base, offset, length, to } => {
                writer.number(1, *to);
                writer.number(2, *base);
                writer.number(3, *offset);
                writer.number(4, *length);
            }
            Self::Compare { from, operator, value } => {
                writer.number(1, *from);
                writer.number(2, *operator);
                writer.nest(3, |writer| writer.bytes_attribute(1, value));
            }
            Self::Mask { register, mask, flip } => {
                writer.number(1, *register);
                writer.number(2, *register);
                writer.number(3, u32::try_from(mask.len()).unwrap_or_default());
                writer.nest(4, |writer| writer.bytes_attribute(1, mask));
                writer.nest(5, |writer| writer.bytes_attribute(1, flip));
            }
            Self::Lookup { from, set, inverted, verdict } => {
                writer.text(1, set);
                writer.number(2, *from);
                if *verdict {
                    writer.number(3, 0); // NFT_REG_VERDICT
                }
                if *inverted {
                    writer.number(5, 1); // NFT_LOOKUP_F_INV
                }
            }
            Self::Verdict(verdict) => {
                writer.number(1, 0); // NFT_REG_VERDICT
                writer.nest(2, |writer| write_verdict(writer, verdict));
            }
            Self::Foreign(_) => {}
        });
    }

    fn name(&self) -> &str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Connection { .. } | Self::SetMark { .. } => "ct",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Counter => "counter",
            Self::Limit { .. } => "limit",
            Self::Log { .. } => "log",
            Self::Verdict(_) => "immediate",
            Self::Foreign(name) => name,
        }
    }

    /// Reads `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
    pub(in crate::netlink) fn read(attributes: Attributes<'_>) -> Self {
        let name = attributes.text(1).unwrap_or_default();
        let data = attributes.nest(2).unwrap_or_default();
        Self::known(name, data).unwrap_or_else(|| Self::Foreign(name.to_string()))
    }

    fn known(name: &str, data: Attributes<'_>) -> Option<Self> {
        let value = |kind| data.nest(kind)?.find(1).map(<[u8]>::to_vec);
        match name {
            "meta" => Some(Self::Meta { key: data.number(2)?, to: data.number(1)? }),
            "ct" => match data.number(4) {
                Some(from) => (data.number(2)? == MARK).then_some(Self::SetMark { from }),
                None => Some(Self::Connection {
                    key: data.number(2)?,
                    direction: data.find(3).and_then(|value| value.first().copied()),
                    to: data.number(1)?,
                }),
            },
            "payload" => Some(Self::Payload {
                base: data.number(2)?,
                offset: data.number(3)?,
                length: data.number(4)?,
                to: data.number(1)?,
            }),
            "cmp" => Some(Self::Compare {
                from: data.number(1)?,
                operator: data.number(2)?,
                value: value(3)?,
            }),
            "bitwise" => {
                let (from, to) = (data.number(1)?, data.number(2)?);
                let plain = data.number(6).unwrap_or(0) == 0;
                (from == to && plain).then_some(Self::Mask {
                    register: from,
                    mask: value(4)?,
                    flip: value(5)?,
                })
            }
            "lookup" => Some(Self::Lookup {
                from: data.number(2)?,
                set: data.text(1)?.into(),
                inverted: data.number(5).unwrap_or(0) & 1 == 1,
                verdict: match data.number(3) {
                    None => false,
                    Some(0) => true,
                    Some(_) => return None,
                },
            }),
            "counter" => Some(Self::Counter),
            "limit" => {
                let word = |kind| Some(u64::from_be_bytes(*data.find(kind)?.first_chunk()?));
                let plain = data.number(4).unwrap_or(0) == 0 && data.number(5).unwrap_or(0) == 0;
                (plain && word(2)? == 1)
                    .then_some(Self::Limit { rate: word(1)?, burst: data.number(3)? })
            }
            "log" => Some(Self::Log {
                group: u16::from_be_bytes(*data.find(1)?.first_chunk()?),
                prefix: data.text(2)?.to_string(),
            }),
            "immediate" if data.number(1)? == 0 => read_verdict(data.nest(2)?).map(Self::Verdict),
            _ => None,
        }
    }
}

/// Writes `NFTA_DATA_VERDICT`.
pub(in crate::netlink) fn write_verdict(writer: &mut Writer, verdict: &Verdict) {
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (JUMP.cast_unsigned(), Some(chain)),
        Verdict::Goto(chain) => (GOTO.cast_unsigned(), Some(chain)),
    };
    writer.nest(2, |writer| {
        writer.number(1, code);
        if let Some(chain) = chain {
            writer.text(2, chain);
        }
    });
}

/// Reads `NFTA_DATA_VERDICT`.
pub(in crate::netlink) fn read_verdict(data: Attributes<'_>) -> Option<Verdict> {
    let verdict = data.nest(2)?;
    match verdict.number(1)?.cast_signed() {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -3 => Some(Verdict::Jump(verdict.text(2)?.into())),
        -4 => Some(Verdict::Goto(verdict.text(2)?.into())),
        _ => None,
    }
}
