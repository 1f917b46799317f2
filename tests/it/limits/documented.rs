//! `docs/LIMITS.md` names a test for each bound: they exist.

use std::{collections::BTreeSet, fs, path::Path};

/// The names of all functions in the Rust files under a folder.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let after = text.split("fn ").skip(1);
            let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
            names.extend(after.map(|rest| rest.chars().take_while(|it| is_name(*it)).collect()));
        }
    }
}

#[test]
fn every_test_that_the_limits_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    for folder in ["src", "tests/it"] {
        functions(&root.join(folder), &mut known);
    }
    let text = fs::read_to_string(root.join("docs/LIMITS.md")).unwrap();
    let named = text.split('`').skip(1).step_by(2);
    let tests: Vec<_> = named
        .filter(|name| name.contains("_") && name.len() > 27)
        .collect();
    assert!(tests.len() > 30, "{tests:?}");
    let missing: Vec<_> = tests
        .iter()
        .filter(|name| !known.contains(**name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
