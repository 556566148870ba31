//! Sets of ports as rows of prefixes, each list kept once.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use netpol_core::atoms::Allowed;
use netpol_core::model::Protocol;
use netpol_core::net::Intervals;

use super::numbers::Numbers;
use crate::image::{PortRow, PortsId, Word};

/// The port lists, by content.
#[derive(Clone, Debug, Default)]
pub(super) struct PortLists {
    known: HashMap<Arc<[PortRow]>, PortsId>,
    /// By number: the rows, and how often the list is in use.
    lists: BTreeMap<PortsId, (Arc<[PortRow]>, usize)>,
    numbers: Numbers,
}

impl PortLists {
    /// Returns the word for what a class may do, without counters, and the rows of its port list. A list that is new is
    /// there until it is [`retained`](Self::retain) and then released as often.
    ///
    /// A protocol's default is what takes fewer rows to say the rest. One that passes or is denied as a whole has none:
    /// that a protocol has rows means that not all of its ports are judged alike.
    pub(super) fn word(&mut self, allowed: &Allowed) -> (Word, Arc<[PortRow]>) {
        let mut word = Word::NOTHING;
        if allowed.others {
            word = word.with_others();
        }
        let mut rows: Vec<PortRow> = Vec::new();
        for protocol in Protocol::ALL {
            let open = allowed.ports.of(protocol);
            let (allows, denies) =
                (prefixes(protocol, open, true), prefixes(protocol, &open.complement(), false));
            if denies.len() < allows.len() || open.is_all() {
                word = word.with_default(protocol);
                rows.extend(denies);
            } else {
                rows.extend(allows);
            }
        }
        if rows.is_empty() {
            return (word, Arc::default());
        }
        for row in &rows {
            word = word.with_rows(row.protocol, row.prefix);
        }
        rows.sort_unstable();
        let rows: Arc<[PortRow]> = rows.into();
        let (number, rows) = match self.known.get_key_value(&rows) {
            Some((rows, number)) => (*number, rows.clone()),
            None => {
                let number = self.numbers.take();
                self.known.insert(rows.clone(), number);
                self.lists.insert(number, (rows.clone(), 0));
                (number, rows)
            }
        };
        (word.with_ports(number), rows)
    }

    /// Uses a list once more. Returns whether it was not in use.
    pub(super) fn retain(&mut self, list: PortsId) -> bool {
        let Some((_, uses)) = self.lists.get_mut(&list) else { return false };
        *uses += 1;
        *uses == 1
    }

    /// Uses a list once less. Returns whether it is no longer in use: then its number rests until it is
    /// [`freed`](Self::free).
    pub(super) fn release(&mut self, list: PortsId) -> bool {
        let Some((rows, uses)) = self.lists.get_mut(&list) else { return false };
        *uses = uses.saturating_sub(1);
        let is_out = *uses == 0;
        if is_out {
            self.known.remove(rows);
            self.lists.remove(&list);
        }
        is_out
    }

    /// Lets the number of a list that is gone name another.
    pub(super) fn free(&mut self, list: PortsId) {
        self.numbers.free(list);
    }

    /// Returns the rows of a list.
    pub(super) fn rows(&self, list: PortsId) -> Vec<PortRow> {
        self.lists.get(&list).map(|(rows, _)| rows.to_vec()).unwrap_or_default()
    }
}

/// Cuts ranges into aligned prefixes.
fn prefixes(protocol: Protocol, ports: &Intervals<u16>, allow: bool) -> Vec<PortRow> {
    let mut rows = Vec::new();
    for (low, high) in ports.iter().filter(|_| !ports.is_all()) {
        let (mut low, end) = (u32::from(low), u32::from(high) + 1);
        while low < end {
            let aligned = low.trailing_zeros().min(16);
            let bits = (0..=aligned).rev().find(|bits| low + (1 << bits) <= end).unwrap_or(0);
            rows.push(PortRow {
                protocol,
                prefix: u8::try_from(16 - bits).unwrap_or(16),
                port: u16::try_from(low).unwrap_or(u16::MAX),
                allow,
            });
            low += 1 << bits;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString as _};
    use alloc::vec::Vec;

    use netpol_core::atoms::Allowed;
    use netpol_core::model::Protocol;
    use netpol_core::net::PortSet;

    use super::PortLists;

    #[track_caller]
    fn check(ranges: &[(u16, u16)], word: &str, rows: &[&str]) {
        let ranges = ranges.iter().map(|(low, high)| (Protocol::Tcp, *low, *high));
        let allowed = Allowed { ports: PortSet::from_ranges(ranges), others: false };
        let mut lists = PortLists::default();
        let (said, list) = lists.word(&allowed);
        assert_eq!(said.to_string(), word);
        let told: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(told, rows);
    }

    #[test]
    fn a_range_is_cut_into_aligned_prefixes() {
        check(
            &[(79, 82)],
            "others deny, TCP deny but ports 1, UDP deny, SCTP deny",
            &["TCP 80/15 -> allow", "TCP 79/16 -> allow", "TCP 82/16 -> allow"],
        );
    }

    #[test]
    fn all_ports_but_one_are_one_row() {
        check(
            &[(0, 79), (81, 65535)],
            "others deny, TCP allow but ports 1, UDP deny, SCTP deny",
            &["TCP 80/16 -> deny"],
        );
    }

    #[test]
    fn every_port_of_a_protocol_needs_no_row() {
        check(&[(0, 65535)], "others deny, TCP allow, UDP deny, SCTP deny", &[]);
        check(&[], "nothing", &[]);
    }
}
