//! What the project depends on may be used as it is licensed: the list in `deny.toml` holds for every dependency.

extern crate alloc;

use alloc::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Returns whether an SPDX expression can be met with the allowed licences: some alternative of `OR` in which every part
/// of `AND` is allowed.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace(['(', ')'], "").replace('/', " OR ");
    expression.split(" OR ").any(|alternative| {
        alternative.split(" AND ").all(|licence| allowed.contains(licence.trim()))
    })
}

#[test]
fn every_dependency_is_under_a_licence_of_the_list() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let deny = std::fs::read_to_string(root.join("deny.toml")).unwrap();
    let list =
        deny.lines().find(|line| line.starts_with("allow = ")).expect("deny.toml lists licences");
    let allowed: BTreeSet<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(allowed.contains("MIT") && !allowed.iter().any(|licence| licence.contains("GPL")));
    let output = Command::new(env!("CARGO"))
        // Crates of other systems are not fetched.
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--all-features"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 40, "only {} packages", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !is_met(package["license"].as_str().unwrap_or("none stated"), &allowed))
        .map(|package| {
            format!("{} {}: {}", package["name"], package["version"], package["license"])
        })
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn an_expression_needs_every_part_of_one_alternative() {
    let allowed = ["MIT", "ISC"].map(str::to_owned).into();
    assert!(
        is_met("GPL-3.0 OR MIT", &allowed)
            && is_met("MIT/Apache-2.0", &allowed)
            && is_met("(MIT AND ISC)", &allowed)
    );
    assert!(!is_met("MIT AND GPL-3.0", &allowed) && !is_met("none stated", &allowed));
}
