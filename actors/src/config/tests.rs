//! What the checker reads and refuses: a catalog and a chain to check it with, and what holds of every input.

mod mistakes;
mod notations;
mod shape;

use super::*;
use crate::functions::{Catalog, Function, NfRegistry};
use chc_nf_catalog::ConfigProblem;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

/// A catalog of two functions, with the mistakes the real ones find: unknown keys, values, overlaps between
/// keys.
struct Registry;

impl NfRegistry for Registry {
    fn names(&self) -> Vec<&str> {
        vec!["nat", "portscan"]
    }

    fn function(
        &self,
        nf: &str,
        config: &Json,
        slots: u16,
        seed: u64,
    ) -> Result<Function, Vec<ConfigProblem>> {
        let mut found = Vec::new();
        let mut push = |key: String, problem: &str, remedy: &str| {
            found.push(ConfigProblem { key, problem: problem.to_owned(), remedy: remedy.to_owned() });
        };
        let known: &[&str] = match nf {
            "nat" => &["internal", "external", "ports", "idle_s", "port_order"],
            _ => &[
                "theta0",
                "theta1",
                "alpha",
                "beta",
                "timeout_s",
                "pick",
                "walk",
                "fail_pending_at_end",
                "action",
            ],
        };
        for key in config.as_object().into_iter().flat_map(|keys| keys.keys()) {
            if !known.contains(&key.as_str()) {
                push(key.clone(), "unknown key", "remove it");
            }
        }
        if let Some(external) = config["external"].as_array() {
            for (i, address) in external.iter().enumerate() {
                if external[..i].contains(address) {
                    push(format!("external[{i}]"), "the address is listed twice", "list it once");
                }
                if address.as_str().is_some_and(|address| address.starts_with("10.")) {
                    push(format!("external[{i}]"), "the address is internal", "choose one outside internal");
                }
            }
        } else if nf == "nat" {
            push(String::new(), "no external address", "add external = [\"ADDRESS\"]");
        }
        if config["ports"].as_u64().is_some_and(|ports| ports < slots.into()) {
            push("ports".to_owned(), "fewer ports than slots", "widen the range");
        }
        if config["pick"]
            .as_str()
            .is_some_and(|pick| !pick.starts_with("every") && !pick.starts_with("first_per"))
        {
            push("pick".to_owned(), "unknown value", "use every");
        }
        if !found.is_empty() {
            return Err(found);
        }
        Catalog.function("portscan", &json!({}), slots, seed)
    }
}

const CHAIN: &str = r#"[chain]
name = "enterprise"
entry = ["nat"]

[vertex.nat]
nf = "nat"
instances = 2
next = ["portscan"]

[vertex.nat.config]
internal = ["10.0.0.0/8"]
external = [
  "203.0.113.1",
  "203.0.113.2",
]

[vertex.portscan]
nf = "portscan"
"#;

fn toml(text: &str) -> Result<ChainConfig, Diagnostics> {
    load_text("chain.toml", Format::Toml, text, &[], &Registry)
}

fn with_overrides(overrides: &[&str]) -> Result<ChainConfig, Diagnostics> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    load_text("chain.toml", Format::Toml, CHAIN, &overrides, &Registry)
}

/// What is printed for `CHAIN` after one edit.
fn edited(from: &str, to: &str) -> Vec<String> {
    assert!(CHAIN.contains(from), "{from:?} is in the chain");
    lines(toml(&CHAIN.replacen(from, to, 1)))
}

/// What is printed for `CHAIN` with further text, which begins in line 20.
fn appended(text: &str) -> Vec<String> {
    lines(toml(&format!("{CHAIN}\n{text}")))
}

fn lines(result: Result<ChainConfig, Diagnostics>) -> Vec<String> {
    result
        .err()
        .map_or(Vec::new(), |diagnostics| diagnostics.to_string().lines().map(str::to_owned).collect())
}

#[test]
fn defaults_are_those_of_the_file_format() {
    let chain = toml(CHAIN).unwrap();
    assert_eq!(chain.name, "enterprise");
    assert_eq!(chain.entry, [Edge::new("nat")]);
    let names: Vec<&str> = chain.vertices.iter().map(|vertex| vertex.name.as_str()).collect();
    assert_eq!(names, ["nat", "portscan"]);
    assert_eq!((chain.vertices[0].instances, chain.vertices[1].instances), (2, 1));
    assert_eq!(chain.vertices[0].config["external"][1], json!("203.0.113.2"));
    assert_eq!(
        (
            chain.root.window,
            chain.root.tick_us,
            chain.root.clock_lease,
            chain.store.epoch,
            chain.store.shards
        ),
        (8192, 1000, 100_000, 1024, 2)
    );
    assert_eq!(chain.store.mode, StoreMode::ExternalCacheNoAckWait);
    assert_eq!((chain.runtime.arbiters, chain.runtime.burst, chain.runtime.nf_panics_max), (1, 256, 3));
    assert_eq!(chain.vertex("portscan").map(|(number, vertex)| (number, vertex.slots)), Some((1, 64)));
}

#[test]
fn vertices_keep_the_order_of_the_file() {
    for (format, text) in [
        (Format::Toml, "chain = {name='c', entry=['z']}\n[vertex.m]\nnf='portscan'\nnext=['a']\n[vertex.z]\nnf='portscan'\nnext=['m']\n[vertex.a]\nnf='portscan'".to_owned()),
        (Format::Json, json!({"chain": {"name": "c", "entry": ["z"]}, "vertex": {
            "m": {"nf": "portscan", "next": ["a"]}, "z": {"nf": "portscan", "next": ["m"]}, "a": {"nf": "portscan"}}}).to_string()),
    ] {
        let chain = load_text("chain", format, &text, &[], &Registry).unwrap();
        let names: Vec<&str> = chain.vertices.iter().map(|vertex| vertex.name.as_str()).collect();
        assert_eq!(names, ["m", "z", "a"]);
    }
}

#[test]
fn every_shipped_chain_file_is_valid() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    for (name, vertices) in [("quickstart.toml", 2), ("nat.toml", 1), ("portscan.toml", 1)] {
        let chain = load(&configs.join(name), &[], &Catalog).unwrap_or_else(|found| panic!("{found}"));
        assert_eq!(chain.vertices.len(), vertices, "{name}");
    }
    assert_eq!(load(&configs.join("portscan.toml"), &[], &Catalog).unwrap().root.tick_us, 0);
}

#[test]
fn nesting_without_end_is_refused() {
    let deep = "- ".repeat(100_000);
    let found = load_text("c.yaml", Format::Yaml, &deep, &[], &Registry).unwrap_err().to_string();
    assert!(found.ends_with("nest less deeply"), "{found}");
    for (format, text) in [
        (Format::Yaml, format!("a: {}", "[".repeat(100_000))),
        (Format::Yaml, format!("a: {}", "{a: ".repeat(100_000))),
        (Format::Json, "[".repeat(100_000)),
        (Format::Toml, format!("a = {}", "[".repeat(100_000))),
        (Format::Toml, format!("{}a = 1", "a.".repeat(100_000))),
        (Format::Yaml, "&a - ".repeat(100_000)),
        (Format::Yaml, "- &a ".repeat(100_000)),
        (Format::Yaml, "- !a ".repeat(100_000)),
        (Format::Yaml, "? !a ".repeat(100_000)),
        (Format::Yaml, " ".repeat(2 << 20)),
    ] {
        assert!(load_text("c", format, &text, &[], &Registry).is_err());
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_check_panic(text in ".{0,200}", key in "[a-z.=\\[\\]\"' ]{0,20}") {
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            prop_assert!(load_text("c", format, &text, &[key.clone(), text.clone()], &Registry).is_err());
        }
    }

    /// A chain file with a stretch of it replaced by pieces of chain files.
    #[test]
    fn no_damaged_chain_makes_the_check_panic(
        (at, len) in (0..CHAIN.len(), 0..60_usize),
        piece in prop::sample::select(vec![
            "", "=", "[", "]", "{", "}", "\"", "\n", "[vertex.nat]\n", "next = [\"nat\"]\n", "1e400", "-9223372036854775808",
            "[[vertex]]\n", "vertex.nat.config.external = [[1, {}], {}]\n", "nf = {}\n", "to = 1\n",
        ]),
        overrides in prop::collection::vec(
            prop::sample::select(vec!["vertex=1", "vertex.nat=[]", "chain={}", "vertex.nat.next={to=1}", "root.window=-1", "a.b.c=1"]),
            0..3,
        ),
        format in prop::sample::select(vec![Format::Toml, Format::Yaml, Format::Json]),
    ) {
        let text = match format {
            Format::Toml => CHAIN.to_owned(),
            _ => toml(CHAIN).unwrap().to_json().to_string(),
        };
        let at = at.min(text.len());
        let text = format!("{}{piece}{}", &text[..at], &text[(at + len).min(text.len())..]);
        let overrides: Vec<String> = overrides.into_iter().map(str::to_owned).collect();
        match load_text("c", format, &text, &overrides, &Registry) {
            Ok(chain) => prop_assert!(!chain.vertices.is_empty()),
            Err(found) => prop_assert!(!found.0.is_empty()),
        }
    }

    #[test]
    fn an_unknown_key_one_letter_off_is_recognised(at in 0..9_usize, letter in "[x-z]") {
        let mut key = "instances".to_owned();
        key.replace_range(at..=at, &letter);
        prop_assert_eq!(nearest(&key, ["nf", "instances", "next"]), Some("instances"));
    }
}
