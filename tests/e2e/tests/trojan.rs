//! The Trojan detector says what an independent implementation of its algorithm says, of real captures: every
//! stage of every host at the packet that makes it, and the verdicts.

use chc_actors::chain::compile::compile;
use chc_actors::config::{Format, load_text};
use chc_actors::functions::Catalog;
use chc_actors::ideal::IdealChain;
use chc_actors::topology::Topology;
use chc_api::{Event, EventKind, VertexId};
use chc_e2e::chain::{assert_balanced, capture, keep, kill};
use chc_e2e::trw::{Capture, captures, shared};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What is said of a host, by the oracle's columns: packets of each stage, joined by commas or `-`.
type Stages = BTreeMap<String, [String; 6]>;

/// What a detector reports: the stages of each host, and who is infected.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    stages: Stages,
    infected: BTreeSet<String>,
}

fn report(events: impl Iterator<Item = (Event, u64)>) -> Report {
    let mut seen: BTreeMap<String, [Vec<u64>; 6]> = BTreeMap::new();
    let mut infected = BTreeSet::new();
    for (event, number) in events {
        let host = event.key.source(event.direction).addr.to_string();
        let column = match event.kind {
            EventKind::Alert { signature: "trojan", severity: 1, .. } => {
                assert!(infected.insert(host), "a host is reported once");
                continue;
            }
            EventKind::Stage { name: "ssh", role: "initiator" } => 0,
            EventKind::Stage { name: "ssh", role: "responder" } => 1,
            EventKind::Stage { name: "html", .. } => 2,
            EventKind::Stage { name: "zip", .. } => 3,
            EventKind::Stage { name: "exe", .. } => 4,
            EventKind::Stage { name: "irc", .. } => 5,
            _ => continue,
        };
        seen.entry(host).or_default()[column].push(number);
    }
    let show = |numbers: Vec<u64>| {
        let all: Vec<String> = numbers.iter().map(u64::to_string).collect();
        // The tables are cut at this width.
        let mut all = all.join(",");
        all.truncate(60);
        if all.is_empty() { "-".to_owned() } else { all }
    };
    Report { stages: seen.into_iter().map(|(host, all)| (host, all.map(show))).collect(), infected }
}

/// What the ideal chain of a detector alone says.
fn ideal(capture: &Capture, config: &Value) -> Report {
    let mut chain = IdealChain::new(8192, Topology::line(1), None);
    chc_nf_catalog::with("trojan", config, 64, 1, chain.append(VertexId(0))).unwrap();
    for input in capture.inputs() {
        chain.feed(&input);
    }
    report(chain.take_events().into_iter().map(|record| (record.event, record.number.unwrap_or(0))))
}

/// A table of the oracle: by file what it says of each host, and who is infected in any and in strict order.
struct Table(BTreeMap<String, (Stages, [BTreeSet<String>; 2])>);

impl Table {
    fn read(path: &Path) -> Table {
        let text = std::fs::read_to_string(path).unwrap();
        let mut files: BTreeMap<String, (Stages, [BTreeSet<String>; 2])> = BTreeMap::new();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split('\t').collect();
            let [file, host, stages @ .., any, strict, _] = columns.as_slice() else { panic!("{line}") };
            let of = files.entry((*file).to_owned()).or_default();
            let stages: [&str; 6] = stages.try_into().unwrap();
            of.0.insert((*host).to_owned(), stages.map(str::to_owned));
            for (infected, verdict) in of.1.iter_mut().zip([any, strict]) {
                if *verdict == "1" {
                    infected.insert((*host).to_owned());
                }
            }
        }
        Table(files)
    }
}

#[test]
fn every_stage_of_every_host_in_every_capture_is_that_of_the_oracle() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let traces = shared.join("traces");
    let table = Table::read(&shared.join("oracles/expected/trojan.tsv"));
    let none = (Stages::new(), Default::default());
    let mut stages = 0;
    for path in captures(&traces).unwrap() {
        let file = path.strip_prefix(&traces).unwrap().display().to_string();
        if file.starts_with("composed") {
            continue;
        }
        let said = ideal(&Capture::read(&path).unwrap(), &json!({}));
        let (want, [any, _]) = table.0.get(&file).unwrap_or(&none);
        assert_eq!(&said.stages, want, "{file}");
        assert_eq!(&said.infected, any, "{file}");
        stages += want.len();
    }
    assert!(stages >= 30, "{stages} hosts have stages");
}

/// The 11 infected hosts of the composed capture.
fn infected(shared: &Path) -> BTreeSet<String> {
    let key = std::fs::read_to_string(shared.join("traces/composed/trojan11_mix.key.tsv")).unwrap();
    let positive = key.lines().filter(|line| line.split('\t').nth(1) == Some("positive"));
    positive.filter_map(|line| Some(line.split('\t').next()?.to_owned())).collect()
}

#[test]
fn the_hosts_of_the_key_and_none_of_the_decoys_are_found_by_banner_and_by_port() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let composed = shared.join("traces/composed");
    let capture = Capture::read(&composed.join("trojan11_mix.pcap")).unwrap();
    let key = infected(&shared);
    assert_eq!(key.len(), 11);
    let ports = json!({ "ssh": "port", "irc": "port", "ftp": "command" });
    for (table, config) in [("trojan_oracle.tsv", json!({})), ("trojan_oracle_ports.tsv", ports)] {
        let table = Table::read(&composed.join(table));
        let (stages, [any, strict]) = table.0.values().next().unwrap();
        let said = ideal(&capture, &config);
        // The table leaves out hosts of one stage.
        let listed = said.stages.into_iter().filter(|(host, _)| stages.contains_key(host));
        assert_eq!(&listed.collect::<Stages>(), stages);
        assert_eq!((&said.infected, any), (&key, &key));
        let mut config = config;
        config["file_order"] = json!("strict");
        assert_eq!(&ideal(&capture, &config).infected, strict);
        assert!(!strict.is_empty() && strict.len() < 11);
    }
}

#[test]
fn the_real_detector_says_the_same_while_its_instances_die() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let path = shared.join("traces/composed/trojan11_mix.pcap");
    let chain =
        "[chain]\nname = \"alone\"\nentry = [\"trojan\"]\n[vertex.trojan]\nnf = \"trojan\"\ninstances = 2\n";
    let config = load_text("alone.toml", Format::Toml, chain, &[], &Catalog).unwrap();
    let alone = compile(&config, &Catalog).unwrap();
    let kills = [5_000, 12_000, 20_000, 38_000].map(|after| kill("trojan/0", after));
    let kills = kills.into_iter().chain([kill("trojan/1", 12_000), kill("trojan/1", 30_000)]).collect();
    let (outcome, everything) = keep(&alone, capture(&path), kills).unwrap();
    assert_balanced(&outcome);
    assert_eq!(outcome.recoveries.len(), 6);
    let real = report(everything.events.iter().map(|(_, record)| (record.event, record.number)));
    assert_eq!(real, ideal(&Capture::read(&path).unwrap(), &json!({})));
}
