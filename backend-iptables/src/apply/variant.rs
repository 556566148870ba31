//! The two programs that are called iptables.

use alloc::format;
use alloc::string::String;

use netpol_core::backend::SyncError;
use netpol_core::ir::Family;

use super::{process, program_prefix};
use crate::restore::PREFIX;

/// Which of the kernel's packet filters iptables' rules live in. Rules of both are in force; a node should use one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "there is no third")]
pub enum Variant {
    /// nf_tables: `iptables-nft`.
    Nft,
    /// The old tables: `iptables-legacy`.
    Legacy,
}

impl Variant {
    /// Returns the variant as the names of programs spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    pub(super) const fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }

    /// Returns what the variant lists of every table that is in use. Never brings a table into use.
    pub(super) fn save(self, family: Family) -> Result<String, SyncError> {
        self.run_save(family, &[])
    }

    /// Returns the rules of our table with what they counted.
    pub(super) fn counters(self, family: Family) -> Result<String, SyncError> {
        self.run_save(family, &["-c", "-t", "filter"])
    }

    fn run_save(self, family: Family, arguments: &[&str]) -> Result<String, SyncError> {
        let family = program_prefix(family);
        let program = format!("{family}-{self}-save");
        process::run(&program, arguments, "", &format!("the rules of {program}"))
    }

    /// Finds the variant that the others on this node use: the one in which the kubelet left its mark, or else the one
    /// with more rules of others, or else what `iptables` itself is.
    pub(super) fn in_use() -> Result<Self, SyncError> {
        let (mut marks, mut rules) = ([false; 2], [0_usize; 2]);
        for (variant, (mark, rules)) in
            [Self::Nft, Self::Legacy].into_iter().zip(marks.iter_mut().zip(&mut rules))
        {
            for family in [Family::V4, Family::V6] {
                let text = match variant.save(family) {
                    Err(SyncError::Missing { .. }) => continue,
                    text => text?,
                };
                *mark |= text.lines().any(|line| {
                    line.starts_with(":KUBE-IPTABLES-HINT ")
                        || line.starts_with(":KUBE-KUBELET-CANARY ")
                });
                let foreign = |line: &&str| line.starts_with("-A ") && !line.contains(PREFIX);
                *rules += text.lines().filter(foreign).count();
            }
        }
        Ok(match (marks, rules) {
            ([true, false], _) => Self::Nft,
            ([false, true], _) => Self::Legacy,
            (_, [nft, legacy]) if nft > legacy => Self::Nft,
            (_, [nft, legacy]) if nft < legacy => Self::Legacy,
            _ => {
                let said = process::run("iptables", &["--version"], "", "the program `iptables`")?;
                if said.contains("nf_tables") { Self::Nft } else { Self::Legacy }
            }
        })
    }
}
