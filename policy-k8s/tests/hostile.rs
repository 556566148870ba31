//! Input that is broken, huge or made to hurt: a clear error with its place, never a panic, never without end.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test support: the lints know tests, but not the functions they share"
)]

use core::time::Duration;
use std::fs;
use std::time::Instant;

use netpol_k8s::manifest::{Limits, Problem, ReadOptions, read_paths, read_str};
use proptest::prelude::*;

#[track_caller]
fn first_problem(text: &str) -> (String, Problem) {
    let begin = Instant::now();
    let errors = read_str("f.yaml", text, &ReadOptions::default()).expect_err("must be refused");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    (errors.errors[0].to_string(), errors.errors[0].problem.clone())
}

#[test]
fn broken_yaml_names_the_place() {
    let (message, _) = first_problem("apiVersion: v1\nkind: Pod\nmetadata: {name: a\n");
    assert!(message.starts_with("f.yaml:4:1: not valid YAML: "), "{message}");
    let (message, _) = first_problem("a: b\nc: [d\n\te: }\n");
    assert!(message.contains("not valid YAML"), "{message}");
}

#[test]
fn errors_before_broken_yaml_are_kept() {
    let errors = read_str("f", "kind: Pod\n---\n[}\n", &ReadOptions::default()).unwrap_err();
    assert_eq!(errors.errors.len(), 2, "{errors}");
    assert_eq!(errors.errors[1].document, 2);
}

#[test]
fn deep_nesting_is_refused_at_the_limit() {
    let flow = "[".repeat(100_000);
    let block: String = (0..5_000).map(|level| format!("{:level$}- \n", "")).collect();
    let inline = "- ".repeat(50_000);
    let mappings: String = "{a: ".repeat(50_000);
    for text in [flow, block, inline, mappings] {
        let (message, problem) = first_problem(&text);
        assert!(matches!(problem, Problem::TooDeep { .. } | Problem::Syntax(_)), "{message}");
    }
}

#[test]
fn a_billion_laughs_are_not_laughed() {
    let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..20 {
        let before = format!("*a{}", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", "));
    }
    let (message, problem) = first_problem(&text);
    assert!(matches!(problem, Problem::TooManyAliases { .. }), "{message}");
}

#[test]
fn an_alias_to_itself_is_an_error() {
    let (message, _) = first_problem("a: &a [*a]\n");
    assert!(message.contains("not complete"), "{message}");
}

#[test]
fn a_file_over_the_limit_is_refused_without_reading_it_all() {
    let limits = Limits { file_bytes: 1000, ..Limits::default() };
    let options = ReadOptions { limits, ..ReadOptions::default() };
    let errors = read_str("f", &"#".repeat(1001), &options).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "f: larger than the limit of 1000 bytes; split the file, or raise the limit"
    );
    let errors = read_paths(&["/dev/zero"], &options).unwrap_err();
    assert!(matches!(errors.errors[0].problem, Problem::TooLarge { limit: 1000 }));
}

#[test]
fn one_flow_collection_without_end_is_refused() {
    let (message, problem) = first_problem(&format!("[{}", "a,".repeat(2_000_000)));
    assert!(matches!(problem, Problem::FlowTooLarge { .. }), "{message}");
}

#[test]
fn ten_thousand_documents_are_read() {
    let document = |index| {
        format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{index}, namespace: ns}}\n")
    };
    let text: String = (0..10_000).map(document).collect();
    let manifests = read_str("f", &text, &ReadOptions::default()).unwrap();
    assert_eq!(manifests.cluster.pods.len(), 10_000);
}

#[test]
fn ten_thousand_errors_end_in_a_summary() {
    let text = "---\nkind: Pod\n".repeat(10_000);
    let errors = read_str("f", &text, &ReadOptions::default()).unwrap_err();
    assert_eq!(errors.errors.len(), 1001);
    assert!(errors.to_string().ends_with("more than 1000 errors; the rest is left out"));
}

#[test]
fn a_huge_mapping_with_one_duplicate_finds_it() {
    let keys: String = (0..200_000).map(|index| format!("k{index}: 1\n")).collect();
    let (_, problem) = first_problem(&format!("apiVersion: v1\nkind: ConfigMap\n{keys}k7: 1\n"));
    assert!(matches!(problem, Problem::DuplicateKey { key, .. } if key == "k7"));
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let path = std::env::temp_dir().join(format!("netpol-bytes-{}.yaml", std::process::id()));
    fs::write(&path, b"kind: \xff\xfe").unwrap();
    let result = read_paths(&[path.to_str().unwrap()], &ReadOptions::default());
    fs::remove_file(&path).unwrap();
    assert_eq!(result.unwrap_err().errors[0].problem, Problem::NotUtf8 { byte: 6 });
}

/// Everything a reader ever stumbled over, and one valid file of each kind.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn the_corpus_is_read_without_a_panic() {
    let corpus = corpus();
    assert!(corpus.len() >= 10);
    for (name, bytes) in corpus {
        let result = read_str(&name, &String::from_utf8_lossy(&bytes), &ReadOptions::default());
        let is_valid = name.contains("valid-");
        assert_eq!(
            result.is_ok(),
            is_valid,
            "{name}: {:?}",
            result.err().map(|errors| errors.to_string())
        );
        if let Err(errors) = result {
            assert!(!errors.errors.is_empty());
        }
    }
}

fn small() -> ReadOptions {
    let limits = Limits { nodes: 100_000, copied_nodes: 10_000, ..Limits::default() };
    ReadOptions { limits, ..ReadOptions::default() }
}

/// A place in a valid manifest and what happens there.
#[derive(Clone, Debug)]
enum Mutation {
    Insert(usize, String),
    Remove(usize, usize),
    Copy(usize, usize, usize),
    Replace(usize, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let token = prop_oneof![
        Just("&a "),
        Just("*a"),
        Just("<<: *a"),
        Just("!!str "),
        Just("!x "),
        Just("null"),
        Just("[]"),
        Just("{}"),
        Just("- "),
        Just("? "),
        Just(": "),
        Just("\n---\n"),
        Just("\n...\n"),
        Just("%YAML 1.1\n"),
        Just("|\n"),
        Just(">-\n"),
        Just("\t"),
        Just("'"),
        Just("\""),
        Just("\\u"),
        Just("#"),
        Just("\u{feff}"),
        Just("\r"),
        Just("99999999999999999999"),
        Just("yes"),
        Just("0x"),
        Just("\u{0}"),
        Just("[{"),
        Just("}]"),
        Just(", "),
    ];
    prop_oneof![
        (any::<usize>(), token).prop_map(|(at, text)| Mutation::Insert(at, text.to_owned())),
        (any::<usize>(), 0..40_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (any::<usize>(), any::<usize>(), 0..80_usize)
            .prop_map(|(from, to, count)| Mutation::Copy(from, to, count)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let length = bytes.len() + 1;
    match mutation {
        Mutation::Insert(at, text) => drop(bytes.splice(at % length..at % length, text.bytes())),
        Mutation::Remove(at, count) => {
            let at = at % length;
            drop(bytes.drain(at..(at + count).min(length - 1)));
        }
        Mutation::Copy(from, to, count) => {
            let from = from % length;
            let piece = bytes[from..(from + count).min(length - 1)].to_vec();
            drop(bytes.splice(to % length..to % length, piece));
        }
        Mutation::Replace(at, byte) => {
            if let Some(old) = bytes.get_mut(at % length) {
                *old = *byte;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(read_str("f", &String::from_utf8_lossy(&bytes), &small()));
    }

    #[test]
    fn random_yaml_punctuation_never_panics(text in "[-\\[\\]{}:,&*?|>!%@#'\"\\\\ \t\r\na<0~.]{0,120}") {
        drop(read_str("f", &text, &small()));
    }

    #[test]
    fn mutated_manifests_never_panic(
        index in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..6),
    ) {
        let corpus = corpus();
        let (name, mut bytes) = corpus[index.index(corpus.len())].clone();
        for mutation in &mutations {
            mutate(&mut bytes, mutation);
        }
        if let Err(errors) = read_str(&name, &String::from_utf8_lossy(&bytes), &small()) {
            prop_assert!(!errors.errors.is_empty());
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}
