//! `chc state`, on a chain that runs and on one that has run.

use chc_e2e::command::{Answer, Scratch, config};
use serde_json::Value;
use std::collections::BTreeSet;

const PACKETS: u64 = 6_000;
const KEEP: &[&str] = &["--set", "store.checkpoint_dir=kept"];

fn state(scratch: &Scratch, arguments: &[&str]) -> Answer {
    let chain = config("quickstart");
    let mut all = vec!["state", chain.to_str().expect("a path of text")];
    all.extend(KEEP.iter().chain(arguments));
    scratch.chc(&all)
}

fn page(scratch: &Scratch, arguments: &[&str]) -> Value {
    state(scratch, &[arguments, &["--json"]].concat()).expect(0).json()
}

fn run<'a>(chain: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["run", chain, "--input", "mix.pcap", "--json"], KEEP, more].concat()
}

fn with_mix() -> Scratch {
    let scratch = Scratch::new();
    scratch.mix(PACKETS, 11);
    scratch
}

/// All entries, a page at a time.
fn all(scratch: &Scratch, arguments: &[&str]) -> Vec<Value> {
    let mut entries = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let more = cursor.as_ref().map_or(Vec::new(), |cursor| vec!["--cursor", cursor.as_str()]);
        let page = page(scratch, &[arguments, &["--limit", "97"], &more].concat());
        entries.extend(page["objects"].as_array().expect("a list").iter().cloned());
        match page["cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return entries,
        }
    }
}

#[test]
fn what_a_chain_has_left_is_listed_page_by_page() {
    let scratch = with_mix();
    let chain = config("quickstart");
    let _ = scratch.chc(&run(chain.to_str().unwrap(), &[])).expect(0);
    let entries = all(&scratch, &[]);
    let cursors: BTreeSet<&str> = entries.iter().map(|entry| entry["cursor"].as_str().unwrap()).collect();
    assert_eq!(cursors.len(), entries.len(), "no entry comes twice");
    assert_eq!(entries.len(), String::from_utf8(scratch.read("kept/state.jsonl")).unwrap().lines().count());
    assert!(entries.len() > 200, "several pages");
    let totals = all(&scratch, &["--vertex", "nat", "--object", "packets_total"]);
    assert_eq!(totals.iter().map(|entry| entry["value"].as_u64().unwrap()).sum::<u64>(), PACKETS);
    // A mapping is of a connection that still holds a port of its pool.
    let mappings = all(&scratch, &["--object", "mapping"]).len();
    let taken = |entry: &Value| entry["value"].as_object().unwrap().len();
    let pools = all(&scratch, &["--object", "free_ports"]);
    assert!(mappings > 0);
    assert_eq!(pools.iter().map(taken).sum::<usize>(), mappings);
}

#[test]
fn a_chain_that_runs_can_be_asked() {
    let scratch = with_mix();
    let chain = config("quickstart");
    // Two seconds of packets.
    let mut running = scratch.spawn(&run(chain.to_str().unwrap(), &["--rate", "3000"]));
    let mut asked = Vec::new();
    while running.try_wait().unwrap().is_none() {
        let answer = state(&scratch, &["--object", "packets_total", "--json"]);
        let is_running = running.try_wait().unwrap().is_none();
        if is_running && !answer.stdout.is_empty() {
            asked.push(answer.json()["objects"][0]["value"].as_u64().unwrap_or(0));
        }
    }
    assert!(asked.is_sorted() && asked.iter().any(|n| (1..PACKETS).contains(n)), "{asked:?}");
    assert!(!scratch.path("kept/control.sock").exists(), "it does not answer any more");
    let last = page(&scratch, &["--object", "packets_total"]);
    assert_eq!(last["objects"][0]["value"].as_u64(), Some(PACKETS));
}

#[test]
fn a_directory_is_of_one_run_at_a_time() {
    let scratch = with_mix();
    let chain = config("quickstart");
    let chain = chain.to_str().unwrap();
    let mut running = scratch.spawn(&run(chain, &["--rate", "3000"]));
    while !scratch.path("kept/control.sock").exists() && running.try_wait().unwrap().is_none() {}
    let _ = scratch.chc(&run(chain, &[])).expect(3).says(&["it is in use"]);
    assert!(running.wait().unwrap().success());
}

#[test]
fn what_cannot_be_shown_is_an_error_that_says_why() {
    let scratch = with_mix();
    let chain = config("quickstart");
    let chain = chain.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["state", chain], 2, "set store.checkpoint_dir"),
        (&["state", chain, "--vertex", "nut"], 2, "there is no \"nut\"; there are nat, portscan"),
        (&["state", chain, "--object", "nut"], 2, "there is no \"nut\""),
        (&["state", chain, "--cursor", "nut"], 2, "\"nut\" is no cursor"),
        (&["state", chain, "--set", "store.checkpoint_dir=none"], 3, "no chain runs or has run"),
    ];
    for (arguments, code, says) in cases {
        let _ = scratch.chc(arguments).expect(code).says(&[says]);
    }
}
