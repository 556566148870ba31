//! What others did to our table: heard of, and looked for.

use alloc::vec::Vec;

use netpol_core::backend::{Difference, Drift};
use netpol_core::ir::Ruleset;

use super::clearing::Clearing;
use super::sync::versions_of;
use super::{BASE, Connection};
use crate::lower::{Lowering, STAMP};
use crate::netlink::{Failure, Listener, declared_sets, observe, stamp, written};
use crate::options::Style;
use crate::script::{Name, TABLE};

impl Connection {
    /// Takes in what was told. What is about to be read shows all of it.
    pub(super) fn look(&mut self) {
        self.drifted = match &self.listener {
            Some(listener) => listener.hear().is_err(),
            None => true,
        };
    }

    /// Returns whether somebody else may have changed what is ours since we last looked.
    pub(super) fn has_drifted(&mut self) -> Result<bool, Failure> {
        self.clear(Clearing::InPause);
        match &self.listener {
            Some(listener) => {
                let heard = listener.hear()?;
                self.drifted |= heard.ours;
            }
            None => {
                let listener = Listener::open(&self.socket).map_err(Failure::Socket)?;
                self.listener = Some(listener);
                // Nothing was heard until now, but where the generation is the one that we made, there was nothing to hear.
                let known = self.known.as_ref().map(|(generation, _)| *generation);
                self.drifted = known != Some(self.socket.generation()?);
            }
        }
        Ok(self.drifted)
    }

    /// Returns the generation until which others changed nothing of ours, if we heard them.
    pub(super) fn since_unchanged(&mut self) -> Result<Option<u32>, Failure> {
        let Some(listener) = self.listener.as_ref().filter(|_| !self.drifted) else {
            return Ok(None);
        };
        let heard = listener.hear()?;
        self.drifted |= heard.ours;
        Ok(heard.generation.filter(|_| !self.drifted))
    }

    /// Compares our table with what a ruleset asks for.
    pub(super) fn compare(
        &mut self,
        ruleset: &Ruleset,
        style: Style,
    ) -> Result<Vec<Drift>, Failure> {
        self.look();
        self.clear(Clearing::Now);
        let generation = self.socket.generation()?;
        let declared = declared_sets(&self.socket)?;
        let versions = versions_of(&declared);
        // Without a generation that can be read, the chains that hold it differ.
        let stamp = match style.stamp {
            Some(first) => {
                Some(stamp(&self.socket, BASE)?.filter(|s| s.mask == first.mask).unwrap_or(first))
            }
            None => None,
        };
        // Behind a change connections get a generation from before it for a while.
        let written = match stamp {
            Some(stamp) => written(&self.socket, STAMP)?.filter(|there| there.mask == stamp.mask),
            None => None,
        };
        let wanted = Lowering::new(ruleset, versions, Style { stamp, written, ..style }).table;
        let observed = observe(&self.socket, &declared, &wanted)?;
        let (holder, is_foreign) = (observed.holder, observed.foreign);
        let there = observed.into_table(&wanted);
        let mut found = Vec::new();
        let table = |difference| Drift { object: alloc::format!("table inet {TABLE}"), difference };
        if holder.is_none() {
            found.push(table(Difference::Missing));
            return Ok(found);
        }
        if is_foreign {
            found.push(table(Difference::Changed));
        }
        differences("set", (&there.sets, &wanted.sets), &mut found);
        differences("map", (&there.maps, &wanted.maps), &mut found);
        differences("chain", (&there.chains, &wanted.chains), &mut found);
        if self.socket.generation()? != generation {
            return Err(Failure::Outdated);
        }
        found.sort();
        Ok(found)
    }
}

type Objects<'a, T> = &'a alloc::collections::BTreeMap<Name, T>;

fn differences<T: PartialEq>(
    kind: &str,
    (there, wanted): (Objects<'_, T>, Objects<'_, T>),
    found: &mut Vec<Drift>,
) {
    let mut add = |name: &Name, difference| {
        found.push(Drift { object: alloc::format!("{kind} {name}"), difference });
    };
    for (name, content) in wanted {
        match there.get(name) {
            None => add(name, Difference::Missing),
            Some(present) if present != content => add(name, Difference::Changed),
            Some(_) => {}
        }
    }
    there
        .keys()
        .filter(|name| !wanted.contains_key(*name))
        .for_each(|name| add(name, Difference::Unexpected));
}
