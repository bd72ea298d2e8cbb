//! The shape of the repository: who may depend on whom, what pure code must not mention, and that what
//! the documents name exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item};

/// What each member of the workspace may depend on, of our own crates. Tests may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("runtime/api", &[]),
    ("runtime", &["chc-api"]),
    ("store", &["chc-api"]),
    ("nf-catalog", &["chc-api"]),
    ("actors", &["chc-api", "chc-runtime", "chc-store", "chc-nf-catalog"]),
    ("tests/sim", ALL),
    ("tests/bench", ALL),
    ("tests/e2e", ALL),
];
const ALL: &[&str] = &["chc-api", "chc-runtime", "chc-store", "chc-nf-catalog", "chc-actors"];

/// Sources that must be pure, besides every `core.rs`.
const PURE: &[&str] = &[
    "runtime/api/src",
    "store/src",
    "nf-catalog/src",
    "runtime/src/supervision/policy.rs",
    "actors/src/ideal",
];

/// Threads, executors, sockets and clocks, as code names them.
const IMPURE: &[&str] = &[
    "actix",
    "tokio",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "std::thread",
    "SystemTime",
    "Instant::now",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn manifest(member: &str) -> DocumentMut {
    let path = root().join(member).join("Cargo.toml");
    read(&path).parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn keys(item: Option<&Item>) -> BTreeSet<String> {
    item.and_then(Item::as_table_like)
        .map(|table| table.iter().map(|(key, _)| key.to_owned()).collect())
        .unwrap_or_default()
}

/// Files below `dir` (or `dir` itself) that end in `.rs`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    if dir.is_file() {
        return vec![dir.to_owned()];
    }
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("a directory can be listed").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What stands between single backticks, and the lines of fenced blocks.
fn code_of(markdown: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut spans, mut lines, mut fenced) = (Vec::new(), Vec::new(), false);
    for line in markdown.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            lines.push(line);
        } else {
            spans.extend(line.split('`').skip(1).step_by(2));
        }
    }
    (spans, lines)
}

#[test]
fn every_member_of_the_workspace_has_its_place_in_the_order() {
    let workspace = manifest("");
    let members = workspace["workspace"]["members"].as_array().expect("members is a list");
    let members: BTreeSet<&str> = members.iter().filter_map(|m| m.as_str()).collect();
    let placed: BTreeSet<&str> = ARROWS.iter().map(|(member, _)| *member).collect();
    assert_eq!(members, placed);
}

#[test]
fn crates_depend_only_on_what_lies_below_them() {
    for (member, allowed) in ARROWS {
        let manifest = manifest(member);
        let mut depends = keys(manifest.get("dependencies"));
        depends.extend(keys(manifest.get("build-dependencies")));
        for (_, target) in manifest.get("target").and_then(Item::as_table_like).iter().flat_map(|t| t.iter())
        {
            depends.extend(keys(target.get("dependencies")));
        }
        let wrong: Vec<_> =
            depends.iter().filter(|d| d.starts_with("chc-") && !allowed.contains(&d.as_str())).collect();
        assert!(wrong.is_empty(), "{member} depends on {wrong:?}; it may depend on {allowed:?}");
    }
}

#[test]
fn executors_are_dependencies_of_the_runtime_alone() {
    for (member, _) in ARROWS.iter().filter(|(member, _)| *member != "runtime") {
        let depends = keys(manifest(member).get("dependencies"));
        let wrong: Vec<_> =
            depends.iter().filter(|d| d.starts_with("actix") || d.starts_with("tokio")).collect();
        assert!(wrong.is_empty(), "{member} depends on {wrong:?}");
    }
}

#[test]
fn pure_code_names_no_thread_executor_socket_or_clock() {
    let root = root();
    let cores = sources(&root.join("actors/src")).into_iter().filter(|p| p.ends_with("core.rs"));
    let files: BTreeSet<PathBuf> =
        PURE.iter().flat_map(|dir| sources(&root.join(dir))).chain(cores).collect();
    assert!(files.iter().any(|f| f.ends_with("instance/core.rs")), "the cores are found");
    let mut wrong = Vec::new();
    for file in &files {
        for (number, line) in read(file).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                wrong.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "pure code must not mention these:\n{}", wrong.join("\n"));
}

#[test]
fn scripts_the_documents_name_exist_and_can_be_executed() {
    let root = root();
    let mut named = BTreeMap::new();
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = read(&root.join(document));
        let (spans, lines) = code_of(&text);
        let words = spans.into_iter().chain(lines).flat_map(str::split_whitespace);
        named.extend(words.filter(|w| w.starts_with("scripts/")).map(|w| (w.to_owned(), document)));
    }
    assert!(named.contains_key("scripts/test") && named.contains_key("scripts/quickstart"), "{named:?}");
    for (script, document) in named {
        let mode = fs::metadata(root.join(&script)).map(|m| m.permissions().mode()).unwrap_or(0);
        assert_eq!(mode & 0o111, 0o111, "{document} names {script}, which is not an executable file");
    }
}

#[test]
fn the_readme_lists_every_configuration() {
    let root = root();
    let readme = read(&root.join("README.md"));
    let configs = fs::read_dir(root.join("configs")).expect("configs can be listed");
    let mut count = 0;
    for config in configs {
        let name = config.expect("configs can be listed").file_name().into_string().expect("a plain name");
        count += 1;
        assert!(readme.contains(&format!("`configs/{name}`")), "README.md does not mention configs/{name}");
    }
    assert!(count > 0, "there are configurations");
}

#[test]
fn packages_the_readme_runs_exist() {
    let root = root();
    let text = read(&root.join("README.md"));
    let (_, lines) = code_of(&text);
    let run = lines.iter().filter(|l| l.starts_with("cargo run")).map(|line| {
        line.split_whitespace().skip_while(|word| *word != "-p").nth(1).expect("cargo run -p PACKAGE")
    });
    let run: BTreeSet<&str> = run.collect();
    let packages: Vec<DocumentMut> = ARROWS.iter().map(|(member, _)| manifest(member)).collect();
    let packages: BTreeSet<&str> = packages.iter().filter_map(|m| m["package"]["name"].as_str()).collect();
    assert!(run.contains("chc-sim") && run.contains("chc-bench"), "{run:?}");
    assert!(run.is_subset(&packages), "the README runs {run:?}, the workspace has {packages:?}");
}

#[test]
fn paths_the_documents_name_exist() {
    let root = root();
    let mut missing = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(&root.join(document));
        for span in code_of(&text).0 {
            let Some((top, _)) = span.split_once('/') else { continue };
            let is_path = span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            let is_pattern = span.chars().any(|c| c.is_ascii_uppercase());
            let ours = !top.is_empty() && !top.starts_with('.') && root.join(top).is_dir();
            // What a build makes is not there before it.
            if is_path && !is_pattern && ours && top != "target" && !root.join(span).exists() {
                missing.push(format!("{document}: {span}"));
            }
        }
    }
    assert!(missing.is_empty(), "these do not exist:\n{}", missing.join("\n"));
}
