//! What the rules tell: counters, and denied flows.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use netpol_core::backend::{Counter, Denial, Denials};

use super::Connection;
use crate::lower::DENIED;
use crate::netlink::{Failure, Log, counters};
use crate::script::{Counted, Name, Table};

/// So many causes of rules that are gone are remembered: reports of what they denied may still be on their way.
const REMEMBERED: usize = 8192;

/// Hears of denied flows.
#[derive(Debug)]
pub(super) struct Denying {
    log: Log,
}

impl Connection {
    /// Returns what the rules counted; `None` where it is not known which rules there are.
    pub(super) fn count(&mut self) -> Result<Option<Vec<Counter>>, Failure> {
        let Some((_, known)) = &self.known else { return Ok(None) };
        let mut sums: BTreeMap<&Counted, (u64, u64)> = BTreeMap::new();
        let chains = &known.table.chains;
        for rule in chains.values().flat_map(|chain| &chain.rules) {
            if let Some(counted) = &rule.counted {
                sums.entry(counted).or_default();
            }
        }
        counters(&self.socket, |chain, index, (packets, bytes)| {
            let rule = chains.get(chain).and_then(|chain| chain.rules.get(index));
            if let Some(counted) = rule.and_then(|rule| rule.counted.as_ref()) {
                let sum = sums.entry(counted).or_default();
                *sum = (sum.0.saturating_add(packets), sum.1.saturating_add(bytes));
            }
        })?;
        let counter = |(counted, (packets, bytes)): (&Counted, _)| Counter {
            direction: counted.direction,
            verdict: counted.verdict,
            cause: counted.cause.clone(),
            packets,
            bytes,
        };
        Ok(Some(sums.into_iter().map(counter).collect()))
    }

    /// Returns the denied flows that were reported to a group since the last time.
    pub(super) fn denied(&mut self, group: u16) -> Result<Denials, Failure> {
        if self.denying.is_none() {
            self.denying = Some(Denying { log: Log::open(group).map_err(Failure::Socket)? });
        }
        let Some(denying) = &mut self.denying else { return Ok(Denials::default()) };
        let (reported, lost) = denying.log.hear()?;
        let mut denials = Denials { flows: Vec::new(), lost };
        if let Some((_, known)) = self.known.as_ref().filter(|_| !reported.is_empty()) {
            learn(&mut self.causes, &known.table);
        }
        for report in reported {
            match self.causes.get(&report.prefix) {
                Some(counted) => denials.flows.push(Denial {
                    flow: report.flow,
                    source_port: report.source_port,
                    direction: counted.direction,
                    cause: counted.cause.clone(),
                }),
                None => denials.lost += 1,
            }
        }
        Ok(denials)
    }
}

/// Remembers the causes that a table reports.
fn learn(causes: &mut BTreeMap<String, Arc<Counted>>, table: &Table) {
    if causes.len() > REMEMBERED {
        causes.clear();
    }
    let chains = table.chains.range::<Name, _>(Name::from(DENIED)..);
    for (name, chain) in chains.take_while(|(name, _)| name.starts_with(DENIED)) {
        let counted = chain.rules.last().and_then(|rule| rule.counted.as_ref());
        if let Some(counted) = counted.filter(|_| !causes.contains_key(&**name)) {
            causes.insert(String::from(&**name), counted.clone());
        }
    }
}
