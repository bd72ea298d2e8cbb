//! The product has no weakenings: it knows one set of protections, all of them.

use chc_sim::weaken::WEAKENINGS;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(under: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(under) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn the_product_implements_protections_once_and_for_all() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for part in ["runtime", "store", "nf-catalog", "actors"] {
        sources(&root.join(part), &mut files);
    }
    assert!(files.len() > 30, "the sources are where they are looked for");
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains("Protections for "));
        found.extend(lines.map(|line| (file.clone(), line.trim().to_owned())));
    }
    let said: Vec<&str> = found.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(said, ["impl Protections for All {"], "{found:?}");
}

#[test]
fn the_built_program_names_no_weakening() {
    // Tests run from target/PROFILE/deps.
    let built = std::env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.join("chc")));
    let Some(program) = built.and_then(|path| fs::read(path).ok()) else {
        println!("skipped: the program chc is not built beside this test");
        return;
    };
    for (name, ..) in WEAKENINGS {
        let is_there = program.windows(name.len()).any(|bytes| bytes == name.as_bytes());
        assert!(!is_there, "chc contains \"{name}\"");
    }
}
