//! Sets of ports as rows of prefixes, each list kept once.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use netpol_core::atoms::Allowed;
use netpol_core::model::Protocol;
use netpol_core::net::Intervals;

use crate::image::{PortRow, PortsId, Word};

/// The port lists, by content.
#[derive(Debug, Default)]
pub(super) struct PortLists {
    known: BTreeMap<Vec<PortRow>, PortsId>,
}

impl PortLists {
    /// Returns the word for what a class may do.
    ///
    /// A protocol's default is what takes fewer rows to say the rest. One that passes or is denied as a whole has none:
    /// that a protocol has rows means that not all of its ports are judged alike.
    pub(super) fn word(&mut self, allowed: &Allowed) -> Word {
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
            return word;
        }
        for row in &rows {
            word = word.with_rows(row.protocol, row.prefix);
        }
        rows.sort_unstable();
        let next = u32::try_from(self.known.len()).map_or(u32::MAX, |count| count + 1);
        word.with_ports(*self.known.entry(rows).or_insert(next))
    }

    pub(super) fn into_lists(self) -> BTreeMap<PortsId, Vec<PortRow>> {
        self.known.into_iter().map(|(rows, id)| (id, rows)).collect()
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
        assert_eq!(lists.word(&allowed).to_string(), word);
        let lists = lists.into_lists();
        let told: Vec<String> = lists.values().flatten().map(ToString::to_string).collect();
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
