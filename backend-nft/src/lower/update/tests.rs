//! A table that follows deltas against one that is lowered anew.

use alloc::collections::{BTreeMap, BTreeSet};

use netpol_conformance::events::{Happening, Script, listing, remember};
use netpol_core::compile::Options;
use netpol_core::engine::{Delta, Engine, Event};
use netpol_core::ir::Ruleset;
use netpol_core::model::{Cidr, Cluster};
use netpol_core::net::PrefixSet;

use super::super::{Lowering, Versions};
use crate::NftOptions;
use crate::options::Style;
use crate::script::{Name, Table};

fn style() -> Style {
    NftOptions::default().style()
}

/// Follows the deltas of a script. Returns how many could be followed, and how many not.
fn follow(script: &Script, options: &Options) -> (usize, usize) {
    let mut engine = Engine::with_tuning(options.clone(), script.tuning);
    let mut cluster = Cluster::default();
    let mut state = Lowering::new(engine.snapshot(), Versions::new(), style());
    let (mut followed, mut not) = (0, 0);
    for happening in &script.happenings {
        let delta = match happening {
            Happening::Event(event) => {
                remember(&mut cluster, event);
                engine.apply(event.clone())
            }
            Happening::Batch(events) => {
                events.iter().for_each(|event| remember(&mut cluster, event));
                engine.apply_batch(events.clone())
            }
            Happening::Restart(order) => {
                engine = Engine::with_tuning(options.clone(), script.tuning);
                engine.apply_batch(listing(&cluster, *order));
                engine.apply(Event::InSync);
                state = Lowering::new(engine.snapshot(), Versions::new(), style());
                continue;
            }
        };
        if delta.is_empty() {
            continue;
        }
        if check(&mut state, engine.snapshot(), &delta) {
            followed += 1;
        } else {
            not += 1;
        }
    }
    (followed, not)
}

fn check(state: &mut Lowering, ruleset: &Ruleset, delta: &Delta) -> bool {
    let before = state.stamp;
    let result = state.update(ruleset, delta);
    // Maps of dispatch may have versions.
    let style_now = Style { stamp: state.stamp, written: state.written, ..style() };
    let wanted = Lowering::new(ruleset, state.versions.clone(), style_now);
    let Ok(changes) = result else {
        *state = Lowering::new(ruleset, Versions::new(), style_now);
        return false;
    };
    let differ = differences(&state.table, &wanted.table);
    assert!(differ.is_empty(), "{differ:#?} after\n{delta:#?}");
    assert!(state.is_as(&wanted), "what is remembered differs after\n{delta:#?}");
    // Whatever closes anything must have open connections judged again.
    let closes = !changes.leaves.is_empty()
        || !changes.frame.is_empty()
        || !changes.redirects.is_empty()
        || changes.is_ordered && !changes.joins.is_empty();
    assert_eq!(changes.generation.is_some(), closes);
    assert_eq!(before != state.stamp, closes);
    assert_eq!(before, state.written, "connections get it later");
    if before != state.stamp {
        state.ratify();
    }
    assert_eq!(state.stamp, state.written);
    let style_now = Style { stamp: state.stamp, ..style() };
    assert_eq!(
        state.table.chains,
        Lowering::new(ruleset, state.versions.clone(), style_now).table.chains
    );
    true
}

fn differences(there: &Table, wanted: &Table) -> Vec<String> {
    fn of<T: PartialEq + core::fmt::Debug>(
        there: &BTreeMap<Name, T>,
        wanted: &BTreeMap<Name, T>,
    ) -> Vec<String> {
        let names: BTreeSet<&Name> = there.keys().chain(wanted.keys()).collect();
        let differ = names.into_iter().filter(|name| there.get(*name) != wanted.get(*name));
        differ
            .map(|name| format!("{name}: is {:?}, must be {:?}", there.get(name), wanted.get(name)))
            .collect()
    }
    [
        of(&there.sets, &wanted.sets),
        of(&there.maps, &wanted.maps),
        of(&there.chains, &wanted.chains),
    ]
    .concat()
}

#[test]
fn a_table_that_follows_deltas_is_what_the_ruleset_lowers_to() {
    let (mut followed, mut not) = (0, 0);
    for seed in 0..120 {
        let script = Script::new(seed, 60);
        let mut options = script.options.clone();
        if seed % 3 == 0 {
            // The pods of generated clusters live here, and some do not.
            options.pod_ranges = PrefixSet::from_cidrs([
                &Cidr::parse("10.0.0.0/15").unwrap(),
                &Cidr::parse("fd00::/16").unwrap(),
            ]);
        }
        let (yes, no) = follow(&script, &options);
        (followed, not) = (followed + yes, not + no);
    }
    for seed in 0..40 {
        let script = Script::relabels(seed, 60);
        let (yes, no) = follow(&script, &script.options);
        (followed, not) = (followed + yes, not + no);
    }
    assert!(followed > 1000 && not == 0, "{followed}, and {not} not");
}
