//! Experiments that need a process of their own: a shard at the other end of a link, or memory nobody else takes.

use serde_json::Value;
use std::process::Command;

fn lines(arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_chc-bench")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_shard_in_another_process_does_what_is_asked() {
    let lines =
        lines(&["datastore", "--path", "link", "--op", "incr", "--keys", "1000", "--quick", "--json"]);
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(line["path"], "link");
    assert!(line["median"].as_f64().is_some_and(|median| median > 0.0), "{line}");
}

#[test]
fn both_systems_are_measured_on_both_paths() {
    let lines = lines(&["offload", "--quick", "--json"]);
    let of = |line: &Value| ["path", "system", "unit"].map(|key| line[key].as_str().unwrap().to_owned());
    let all: Vec<String> = lines.iter().map(|line| of(line).join(" ")).collect();
    let expected = ["memory", "link"].map(|path| {
        ["offloaded", "read-modify-write"]
            .map(|system| ["ns", "Mops"].map(|unit| format!("{path} {system} {unit}")))
    });
    assert_eq!(all, expected.concat().concat());
    assert!(lines.iter().all(|line| line["median"].as_f64() > Some(0.0)), "{lines:?}");
}

#[test]
fn many_connections_have_their_memory_told() {
    let lines = lines(&["scale", "--what", "flows", "--n", "100000", "--packets", "2000", "--json"]);
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let bytes = line["bytes_per_connection"].as_f64();
    assert!(bytes.is_some_and(|bytes| (64.0..4096.0).contains(&bytes)), "{line}");
}
