//! The program `chc-sim`.

use serde_json::Value;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_chc-sim");
    Command::new(program).args(arguments).output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_range_of_seeds_is_reported_as_json() {
    let output = run(&["--seeds", "0..3", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: Value = serde_json::from_str(&stdout(&output)).expect("one JSON object");
    assert_eq!(json["seeds"], 3);
    assert_eq!(json["failed"], Value::Array(Vec::new()));
    assert!(json["packets"].as_u64().is_some_and(|packets| packets >= 900));
    assert!(json["steps"].is_u64());
    for kind in ["nf-crash", "zombie", "delay", "burst-cut"] {
        assert!(json["faults"][kind].is_u64(), "{kind}");
    }
}

#[test]
fn a_failed_seed_is_named_and_the_exit_code_says_so() {
    let output = run(&["--seeds", "0..8", "--weaken", "timers-in-version", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let json: Value = serde_json::from_str(&stdout(&output)).expect("one JSON object");
    assert!(json["failed"].as_array().is_some_and(|failed| !failed.is_empty()));
}

#[test]
fn only_the_faults_asked_for_are_injected() {
    let output = run(&["--seeds", "0..6", "--faults", "zombie,burst-cut", "--json"]);
    let json: Value = serde_json::from_str(&stdout(&output)).expect("one JSON object");
    assert_eq!((&json["faults"]["nf-crash"], &json["faults"]["delay"]), (&0.into(), &0.into()));
    assert!(json["faults"]["zombie"].as_u64() > Some(0) && json["faults"]["burst-cut"].as_u64() > Some(0));
}

#[test]
fn a_trace_shows_every_message() {
    let output = run(&["--seed", "1", "--trace"]);
    let text = stdout(&output);
    for part in ["root 0 > v0/", "#1: progress", "> shard 0: Batch", "> egress: progress", "in 1 at"] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn weakenings_are_listed_with_what_they_do() {
    let output = run(&["--list-weakenings"]);
    let text = stdout(&output);
    assert_eq!(text.lines().count(), chc_sim::weaken::WEAKENINGS.len());
    assert!(text.lines().all(|line| line.split_whitespace().count() > 5));
}

#[test]
fn mistakes_are_answered_with_what_would_be_right() {
    for (arguments, said) in [
        (&["--seeds", "5"][..], "write 0..100"),
        (&["--seeds", "0..1", "--faults", "rain"], "nf-crash"),
        (&["--seeds", "0..1", "--weaken", "x"], "--list-weakenings"),
        (&[], "--seeds A..B"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{arguments:?}");
    }
}
