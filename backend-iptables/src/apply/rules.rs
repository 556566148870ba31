//! Our chains in one family of one variant: what is there, and the way to what is wanted.

use alloc::borrow::ToOwned as _;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;

use netpol_core::backend::{Difference, Drift, SyncError};
use netpol_core::ir::Family;

use super::variant::Variant;
use super::{Patience, process, program_prefix};
use crate::restore::{Filter, Hook, Match, Name, PREFIX, Rule, Target};

/// The name of a chain that nothing refers to.
const PROBE: &str = "NETPOL-PROBE";

/// Our chains as text, and our jumps out of the built-in chains.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Chains {
    chains: BTreeMap<String, Vec<String>>,
    jumps: BTreeMap<Hook, Jumps>,
}

/// The jumps into our chain from a built-in one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Jumps {
    count: usize,
    /// Whether one of them is the very first rule.
    first: bool,
}

/// One jump, before everything else.
const ONE: Jumps = Jumps { count: 1, first: true };

impl Chains {
    pub(super) fn of(filter: &Filter) -> Self {
        let chains = filter.chains.iter().map(|(name, rules)| {
            (name.as_ref().to_owned(), rules.iter().map(ToString::to_string).collect())
        });
        let used = |hook: &Hook| filter.chains.contains_key(hook.chain());
        let jumps = Hook::ALL.into_iter().filter(used).map(|hook| (hook, ONE));
        Self { chains: chains.collect(), jumps: jumps.collect() }
    }

    /// Returns the words of all rules that may be names of sets of ours.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let words = self.chains.values().flatten().flat_map(|rule| rule.split(' '));
        words.filter(|word| word.starts_with(PREFIX))
    }

    /// Returns the value that settled connections are marked with, if all rules say the same.
    pub(super) fn mark(&self, mask: u32) -> Option<u32> {
        let mut values = self.chains.values().flatten().flat_map(|rule| {
            let words = rule.split(' ');
            words.clone().zip(words.skip(1)).filter_map(|(option, value)| match option {
                "--mark" | "--set-xmark" => marked(value, mask),
                _ => None,
            })
        });
        let first = values.next()?;
        values.all(|value| value == first).then_some(first)
    }

    /// Returns how the chains and jumps that are there differ from those that are wanted.
    pub(super) fn drift(&self, wanted: &Self, program: &str) -> Vec<Drift> {
        let mut drift = Vec::new();
        let names: BTreeSet<&String> = self.chains.keys().chain(wanted.chains.keys()).collect();
        for name in names {
            let difference = match (self.chains.get(name), wanted.chains.get(name)) {
                (None, _) => Difference::Missing,
                (Some(_), None) => Difference::Unexpected,
                (Some(there), Some(rules)) if there == rules => continue,
                (Some(_), Some(_)) => Difference::Changed,
            };
            drift.push(Drift { object: format!("{program} chain {name}"), difference });
        }
        for hook in Hook::ALL {
            let (there, wanted) = (self.jumps.get(&hook), wanted.jumps.get(&hook));
            let difference = match (there, wanted) {
                (there, wanted) if there == wanted => continue,
                (None, _) => Difference::Missing,
                (Some(_), None) => Difference::Unexpected,
                (Some(_), Some(_)) => Difference::Changed,
            };
            let object = format!("{program} jump {} to {}", hook.as_str(), hook.chain());
            drift.push(Drift { object, difference });
        }
        drift
    }

    /// Reads what `iptables-save` writes; only what is ours is kept.
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut rules_before = [0_usize; Hook::ALL.len()];
        let mut in_filter = false;
        for line in text.lines() {
            if let Some(table) = line.strip_prefix('*') {
                in_filter = table == "filter";
            }
            if !in_filter {
                continue;
            }
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split(' ').next().unwrap_or_default();
                if name.starts_with(PREFIX) {
                    found.chains.entry(name.to_owned()).or_default();
                }
            } else if let Some((name, rule)) =
                line.strip_prefix("-A ").and_then(|rule| rule.split_once(' '))
            {
                for (hook, before) in Hook::ALL.into_iter().zip(&mut rules_before) {
                    if name == hook.as_str() {
                        if rule == format!("-j {}", hook.chain()) {
                            let jumps = found.jumps.entry(hook).or_default();
                            jumps.first |= *before == 0;
                            jumps.count += 1;
                        }
                        *before += 1;
                    }
                }
                if let Some(rules) = found.chains.get_mut(name) {
                    rules.push(rule.to_owned());
                }
            }
        }
        found
    }

    /// Returns the input of `restore` that leads to `wanted`; `None` if there is nothing to do.
    pub(super) fn way_to(&self, wanted: &Self) -> Option<String> {
        let changed =
            || wanted.chains.iter().filter(|(name, rules)| self.chains.get(*name) != Some(*rules));
        let mut text = String::new();
        // Writing to a String cannot fail. Without `--noflush` these lines would be about the whole table; with it,
        // they empty the chain, or make it.
        for (name, _) in changed() {
            let _ = writeln!(text, ":{name} - [0:0]");
        }
        for (name, rules) in changed() {
            for rule in rules {
                let _ = writeln!(text, "-A {name} {rule}");
            }
        }
        for hook in Hook::ALL {
            let (builtin, chain) = (hook.as_str(), hook.chain());
            let there = self.jumps.get(&hook).copied().unwrap_or_default();
            let wanted = wanted.jumps.get(&hook).copied().unwrap_or_default();
            if there == wanted {
                continue;
            }
            for _ in 0..there.count {
                let _ = writeln!(text, "-D {builtin} -j {chain}");
            }
            for _ in 0..wanted.count {
                let _ = writeln!(text, "-I {builtin} 1 -j {chain}");
            }
        }
        let stale = || self.chains.keys().filter(|name| !wanted.chains.contains_key(*name));
        // Emptied first, all of them, because they go to one another.
        for (command, name) in
            stale().map(|name| ('F', name)).chain(stale().map(|name| ('X', name)))
        {
            let _ = writeln!(text, "-{command} {name}");
        }
        (!text.is_empty()).then(|| format!("*filter\n{text}COMMIT\n"))
    }
}

/// Reads `0x100/0xff00`, if the mask is this one.
fn marked(text: &str, mask: u32) -> Option<u32> {
    let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (value, of) = text.split_once('/')?;
    (number(of)? == mask).then(|| number(value))?
}

/// Returns the input of `restore` that leads from one program's chains to another's; `None` if they are the same.
pub(super) fn difference(from: &Filter, to: &Filter) -> Option<String> {
    let stays = |name: &Name, rules: &Arc<[Rule]>| {
        from.chains.get(name).is_some_and(|old| Arc::ptr_eq(old, rules) || old == rules)
    };
    let changed = || to.chains.iter().filter(|(name, rules)| !stays(name, rules));
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (name, _) in changed() {
        let _ = writeln!(text, ":{name} - [0:0]");
    }
    for (name, rules) in changed() {
        for rule in rules.iter() {
            let _ = writeln!(text, "-A {name} {rule}");
        }
    }
    for hook in Hook::ALL {
        let (builtin, chain) = (hook.as_str(), hook.chain());
        let has = |filter: &Filter| filter.chains.contains_key(chain);
        match (has(from), has(to)) {
            (false, true) => {
                let _ = writeln!(text, "-I {builtin} 1 -j {chain}");
            }
            (true, false) => {
                let _ = writeln!(text, "-D {builtin} -j {chain}");
            }
            (true, true) | (false, false) => {}
        }
    }
    let stale = || from.chains.keys().filter(|name| !to.chains.contains_key(*name));
    for (command, name) in stale().map(|name| ('F', name)).chain(stale().map(|name| ('X', name))) {
        let _ = writeln!(text, "-{command} {name}");
    }
    (!text.is_empty()).then(|| format!("*filter\n{text}COMMIT\n"))
}

/// Returns what is there.
pub(super) fn listed(variant: Variant, family: Family) -> Result<Chains, SyncError> {
    variant.save(family).map(|text| Chains::parse(&text))
}

/// Leads from one state to another, at once or not at all.
pub(super) fn lead(
    variant: Variant,
    family: Family,
    from: &Chains,
    to: &Chains,
    patience: Patience,
) -> Result<(), SyncError> {
    match from.way_to(to) {
        Some(text) => restore(variant, family, &text, patience),
        None => Ok(()),
    }
}

/// Has the restore command carry out a text, all of it or nothing.
pub(super) fn restore(
    variant: Variant,
    family: Family,
    text: &str,
    Patience(seconds): Patience,
) -> Result<(), SyncError> {
    let seconds = seconds.to_string();
    let program = program(variant, family);
    process::run(&program, &["--noflush", "--wait", &seconds], text, &chains_of(&program)).map(drop)
}

/// Returns the restore command.
pub(super) fn program(variant: Variant, family: Family) -> String {
    format!("{}-{variant}-restore", program_prefix(family))
}

/// Returns what of ours it changes.
pub(super) fn chains_of(program: &str) -> String {
    format!("the chains `{PREFIX}*` of {program}")
}

/// Returns whether the kernel compares addresses in BPF: a chain that does is loaded, and taken out again.
pub(super) fn can_compare(variant: Variant, patience: Patience) -> Result<bool, SyncError> {
    let rule = Rule::new(alloc::vec![Match::SameAddress(Family::V4)], Target::Return);
    let mut probe = Chains::default();
    probe.chains.insert(PROBE.to_owned(), alloc::vec![rule.to_string()]);
    let nothing = Chains::default();
    match lead(variant, Family::V4, &nothing, &probe, patience) {
        Ok(()) => lead(variant, Family::V4, &probe, &nothing, patience).map(|()| true),
        Err(SyncError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{Chains, Hook, Jumps};

    const SAVED: &str = "*nat\n:NETPOL-OTHER - [0:0]\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n\
        :KUBE-FORWARD - [0:0]\n:NETPOL-FORWARD - [3:180]\n-A FORWARD -j KUBE-FORWARD\n-A FORWARD -j NETPOL-FORWARD\n\
        -A KUBE-FORWARD -j ACCEPT\n-A NETPOL-FORWARD -s 10.0.0.1/32 -j DROP\nCOMMIT\n";

    #[test]
    fn only_what_is_ours_is_read() {
        let chains = Chains::parse(SAVED);
        let expected = ("NETPOL-FORWARD".into(), vec!["-s 10.0.0.1/32 -j DROP".into()]);
        assert_eq!(chains.chains.into_iter().collect::<Vec<_>>(), [expected]);
        let jump = (Hook::Forward, Jumps { count: 1, first: false });
        assert_eq!(chains.jumps.into_iter().collect::<Vec<_>>(), [jump]);
    }

    #[test]
    fn the_way_is_empty_where_nothing_changes_and_leads_back_where_it_does() {
        let there = Chains::parse(SAVED);
        assert_eq!(there.way_to(&there), None);
        assert_eq!(
            there.way_to(&Chains::default()).unwrap(),
            "*filter\n-D FORWARD -j NETPOL-FORWARD\n-F NETPOL-FORWARD\n-X NETPOL-FORWARD\nCOMMIT\n"
        );
        assert_eq!(
            Chains::default().way_to(&there).unwrap(),
            "*filter\n:NETPOL-FORWARD - [0:0]\n-A NETPOL-FORWARD -s 10.0.0.1/32 -j DROP\n\
             -I FORWARD 1 -j NETPOL-FORWARD\nCOMMIT\n"
        );
    }
}
