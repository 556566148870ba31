//! Rulesets from a file: whatever the bytes are, reading ends, never panics, and what is accepted is a ruleset that
//! `verify` has nothing against. The corpus under `tests/corpus/ir` is replayed.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test support")]

use std::path::Path;

use netpol_conformance::generate::{Shape, case};
use netpol_core::compile::{Options, compile};
use netpol_core::ir::{Ruleset, RulesetForm, verify};
use proptest::prelude::*;

/// Reads as a program would; accepted bytes must make a good ruleset that writes back to itself.
fn read(bytes: &[u8]) -> Option<Ruleset> {
    let form: RulesetForm = serde_json::from_slice(bytes).ok()?;
    let ruleset = Ruleset::try_from(form).ok()?;
    assert_eq!(verify(&ruleset), Vec::new());
    let again: RulesetForm =
        serde_json::from_str(&write(&ruleset)).expect("what was written reads");
    assert_eq!(Ruleset::try_from(again).expect("what was written is a ruleset"), ruleset);
    Some(ruleset)
}

fn write(ruleset: &Ruleset) -> String {
    serde_json::to_string(&RulesetForm::from(ruleset)).unwrap()
}

fn ruleset(seed: u64) -> Ruleset {
    compile(&case(seed, Shape { flows: 0, ..Shape::default() }).cluster, &Options::default())
        .ruleset
}

proptest! {
    #[test]
    fn every_compiled_ruleset_reads_back_as_itself(seed in any::<u64>()) {
        let ruleset = ruleset(seed);
        prop_assert_eq!(read(write(&ruleset).as_bytes()), Some(ruleset));
    }

    #[test]
    fn random_bytes_are_refused_or_read_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read(&bytes).is_none());
    }

    /// Cuts, copies and flips pieces of a good file: most results are refused, by JSON or by an id that does not fit.
    #[test]
    fn a_damaged_ruleset_is_refused_or_harmless(
        seed in 0..64_u64,
        damages in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = write(&ruleset(seed)).into_bytes();
        for (from, to, byte) in damages {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            match byte % 3 {
                0 => bytes[from] = b"0123456789abcdef\"{}[],:"[usize::from(byte) % 23],
                1 => bytes.drain(from.min(to)..from.max(to)).for_each(drop),
                _ => {
                    let piece = bytes[from.min(to)..from.max(to)].to_vec();
                    bytes.splice(to..to, piece);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let _ = read(&bytes);
    }
}

#[test]
fn the_corpus_is_refused_or_read_as_its_names_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/ir");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let accepted = read(&std::fs::read(&path).unwrap()).is_some();
        assert_eq!(accepted, name.starts_with("good-"), "{name}");
        replayed += 1;
    }
    assert_eq!(replayed, 6);
}
