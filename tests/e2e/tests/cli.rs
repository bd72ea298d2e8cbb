//! The command line: exit codes, messages, JSON, and the files it writes.

use chc_api::packet::parse;
use chc_e2e::command::{Answer, Scratch, config};
use chc_runtime::capture::CaptureReader;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

const PACKETS: u64 = 6_000;

/// A directory with `mix.pcap` in it.
fn with_mix() -> Scratch {
    let scratch = Scratch::new();
    scratch.mix(PACKETS, 11);
    scratch
}

/// `chc COMMAND CHAIN --input mix.pcap ARGUMENTS`.
fn on_mix(scratch: &Scratch, command: &str, chain: &str, arguments: &[&str]) -> Answer {
    let chain = config(chain);
    let mut all = vec![command, chain.to_str().expect("a path of text"), "--input", "mix.pcap"];
    all.extend(arguments);
    scratch.chc(&all)
}

#[track_caller]
fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("{key} in {report:#}"))
}

/// Checks the equation that holds of every run, and the type of every documented key.
#[track_caller]
fn assert_whole(report: &Value) {
    let drops = report["drops"].as_object().unwrap_or_else(|| panic!("drops in {report:#}"));
    let dropped: u64 = drops.values().map(|n| n.as_u64().expect("drops are counted")).sum();
    let n = |key: &str| number(report, key);
    let ended = n("packets_out") + dropped + n("ingest_drops");
    assert_eq!(n("packets_in") + n("packets_extra"), ended, "{report:#}");
    n("alerts");
    let suppressed = &report["duplicates_suppressed"];
    assert!(suppressed["outputs"].is_u64() && suppressed["updates"].is_u64(), "{report:#}");
    for key in ["elapsed_s", "mpps", "gbps"] {
        assert!(report[key].as_f64().is_some_and(|n| n > 0.0), "{key} in {report:#}");
    }
    assert!(report["instances"].is_object() && report["recoveries"].is_array(), "{report:#}");
}

/// Packets of a capture, and the numbers by which their identities differ.
fn packets(path: &Path) -> u64 {
    let mut reader = CaptureReader::open(path).unwrap();
    let mut packets = 0;
    while reader.next().unwrap().is_some() {
        packets += 1;
    }
    packets
}

/// Source and destination of a packet of a capture, by its number.
fn addresses(path: &Path, number: u64) -> (IpAddr, IpAddr) {
    let mut reader = CaptureReader::open(path).unwrap();
    loop {
        let record = reader.next().unwrap().expect("the capture has such a packet");
        if record.number == number {
            let identity = parse(record.link, record.data).identity();
            return (identity.source().addr, identity.destination().addr);
        }
    }
}

fn events(scratch: &Scratch, name: &str) -> Vec<Value> {
    let text = String::from_utf8(scratch.read(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

#[test]
fn every_shard_says_what_it_did_and_a_vertex_can_have_one_to_itself() {
    let scratch = with_mix();
    let applied = |placement: &str| -> Vec<u64> {
        let placement = format!("store.placement={placement}");
        let arguments = ["--set", "store.shards=4", "--set", &placement, "--kill", "nat/0@40", "--json"];
        let verified = on_mix(&scratch, "verify", "quickstart", &arguments).expect(0).json();
        assert_eq!(verified["equivalent"], true);
        let report = on_mix(&scratch, "run", "quickstart", &arguments).expect(0).json();
        let shards = report["store"].as_array().expect("a list of shards");
        shards.iter().map(|shard| number(shard, "applied")).collect()
    };
    assert!(applied("spread").iter().all(|n| *n > 0));
    let by_vertex = applied("by_vertex");
    assert!(by_vertex[0] > 0 && by_vertex[1] > 0 && by_vertex[2..] == [0, 0], "{by_vertex:?}");
}

#[test]
fn check_accepts_every_configuration_of_the_repository() {
    let names = ["quickstart", "nat", "portscan", "enterprise", "trojan", "load_balancer", "gateway"];
    let found = std::fs::read_dir(config("nat").parent().unwrap()).unwrap();
    let is_chain = |path: std::path::PathBuf| path.extension().is_some_and(|kind| kind == "toml");
    let found = found.filter(|entry| entry.as_ref().is_ok_and(|entry| is_chain(entry.path()))).count();
    assert_eq!(found, names.len(), "a configuration was added: name it here");
    let paths = names.map(config);
    let mut arguments = vec!["check"];
    arguments.extend(paths.iter().map(|path| path.to_str().unwrap()));
    let answer = Scratch::new().chc(&arguments).expect(0);
    assert_eq!(answer.stdout.matches(": ok").count(), names.len(), "{answer}");
}

#[test]
fn check_reports_every_mistake_with_its_file_line_and_key() {
    let scratch = Scratch::new();
    let first = "[chain]\nname = \"c\"\nentry = [\"nat\"]\n[vertex.nat]\nnf = \"nta\"\ninstances = 0\n[root]\nwindow = 100\n";
    scratch.write("first.toml", first);
    scratch.write("second.toml", "[chain]\nname = \"c\"\nentry = [\"missing\"]\n[vertex.a]\nnf = \"portscan\"\n[vertex.a.config]\npick = \"evry\"\n");
    scratch.write("broken.toml", "[chain\n");
    let answer = scratch.chc(&["check", "first.toml", "second.toml", "broken.toml"]).expect(2);
    let answer = answer.says(&[
        "first.toml:5: vertex.nat.nf: ",
        "did you mean \"nat\"",
        "first.toml:6: vertex.nat.instances: ",
        "first.toml:8: root.window: ",
        "second.toml:3: chain.entry",
        "second.toml:7: vertex.a.config.pick: ",
        "broken.toml:1: ",
    ]);
    assert_eq!(answer.stdout, "");
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let scratch = with_mix();
    let refused = [
        "--clone nat/0@50",
        "--slow nat/0=100@50",
        "--kill root/0@50",
        "--kill store/0@50",
        "--kill egress/0@50",
        "--kill node/2@50",
    ];
    let arguments: Vec<&str> = refused.iter().flat_map(|both| both.split(' ')).collect();
    for command in ["run", "verify"] {
        let answer = on_mix(&scratch, command, "quickstart", &arguments).expect(2);
        for one in refused {
            assert!(answer.stderr.contains(&format!("{one}: not available")), "{one}\n{answer}");
        }
    }
    let policy = "[chain]\nname = \"c\"\nentry = [\"a\"]\n[vertex.a]\nnf = \"portscan\"\n\
                  policy = { straggler = \"p50_us > 9.0\" }\n";
    scratch.write("policy.toml", policy);
    scratch
        .chc(&["check", "policy.toml"])
        .expect(2)
        .says(&["policy.toml:6: vertex.a.policy.straggler", "not available"]);
}

#[test]
fn what_a_policy_can_speak_of_is_explained() {
    let answer = with_mix().chc(&["check", "--explain"]).expect(0).stdout;
    for variable in ["instances", "rate_pps", "queue", "p50_us", "p99_us", "cpu", "imbalance"] {
        assert!(answer.lines().any(|line| line.starts_with(variable)), "{variable}\n{answer}");
    }
}

#[test]
fn wrong_faults_are_refused_all_at_once() {
    let scratch = with_mix();
    let wrong = [
        "--kill nta/0@50",
        "--kill nat/2@50",
        "--kill nat/x@50",
        "--kill nat@50",
        "--kill nat/0@101",
        "--kill nat/0@-1",
        "--kill nat/0@half",
        "--kill nat/0@nan",
        "--kill nat/0",
        "--kill nat/0/arm@50",
        "--kill nat/manager/0@50",
        "--scale nat=0@50",
        "--scale nat=65@50",
        "--scale nat=many@50",
        "--scale nta=2@50",
        "--scale nat@50",
        "--scale nat=2",
        "--move nat:0@50",
        "--move nat:0>0@50",
        "--move nat:0>9@50",
        "--move nat:0>1:0@50",
        "--move nat:0>1:1.5@50",
        "--move nat:0>1:half@50",
        "--move nat:0>1:0.5:1@50",
        "--move nta:0>1@50",
        "--move nat:0>1@200",
    ];
    let arguments: Vec<&str> = wrong.iter().flat_map(|both| both.split(' ')).collect();
    let answer = on_mix(&scratch, "run", "quickstart", &arguments).expect(2);
    for one in wrong {
        assert!(answer.stderr.contains(&format!("{one}: ")), "{one}\n{answer}");
    }
    assert_eq!((answer.stderr.lines().count(), answer.stdout.as_str()), (wrong.len(), ""), "{answer}");
    let alone = ["--set", "store.mode=traditional", "--move", "nat:0>1@50"];
    on_mix(&scratch, "run", "quickstart", &alone)
        .expect(2)
        .says(&["--move nat:0>1@50", "a mode with a store"]);
}

#[test]
fn a_run_reports_how_many_slots_changed_hands() {
    let scratch = with_mix();
    let arguments = ["--scale", "nat=3@20", "--move", "portscan:0>1@40", "--json"];
    let report = on_mix(&scratch, "run", "quickstart", &arguments).expect(0).json();
    assert_eq!(report["instances"]["nat"], 3);
    assert_eq!(report["instances"]["portscan"], 1);
    assert_eq!(report["handovers"]["changes"], 2);
    assert!(report["handovers"]["slots"].as_u64().is_some_and(|slots| slots >= 32));
    let text = on_mix(&scratch, "verify", "quickstart", &arguments[..4]).expect(0).stdout;
    assert!(text.contains("2 changes"), "{text}");
}

#[test]
fn wrong_arguments_are_refused() {
    let scratch = with_mix();
    on_mix(&scratch, "run", "quickstart", &["--rate", "0"]).expect(2).says(&["--rate"]);
    on_mix(&scratch, "run", "quickstart", &["--rate", "nan"]).expect(2).says(&["--rate"]);
    on_mix(&scratch, "run", "quickstart", &["--set", "root.windw=8192"])
        .expect(2)
        .says(&["--set root.windw=8192", "window"]);
    on_mix(&scratch, "run", "quickstart", &["--nothing"]).expect(2);
    on_mix(&scratch, "run", "missing", &[]).expect(2).says(&["missing.toml"]);
    scratch.chc(&["run"]).expect(2);
    scratch.chc(&[]).expect(2);
}

#[test]
fn run_reports_every_documented_key_and_loses_nothing() {
    let scratch = with_mix();
    let kills = ["--kill", "nat/0@50", "--kill", "portscan/1/splitter@75", "--kill", "nat/manager@20"];
    let mut arguments = vec!["--output", "out.pcap", "--events", "eve.json", "--json"];
    arguments.extend(kills);
    let answer = on_mix(&scratch, "run", "quickstart", &arguments).expect(0);
    let report = answer.json();
    assert_whole(&report);
    assert_eq!((number(&report, "packets_in"), number(&report, "ingest_drops")), (PACKETS, 0));
    assert_eq!(report["instances"], serde_json::json!({"nat": 2, "portscan": 2}));
    let recoveries = report["recoveries"].as_array().unwrap();
    let mut actors: Vec<&str> = recoveries.iter().filter_map(|r| r["actor"].as_str()).collect();
    actors.sort_unstable();
    assert_eq!(actors, ["nat/0", "nat/manager", "portscan/1"], "{answer}");
    for recovery in recoveries {
        assert_eq!(recovery["kind"], "kill");
        let [detected, recovered, _] =
            ["detected_us", "recovered_us", "replayed"].map(|key| recovery[key].as_u64().unwrap());
        assert!(detected <= recovered, "{recovery}");
    }
    assert_eq!(packets(&scratch.path("out.pcap")), number(&report, "packets_out"));
    let events = events(&scratch, "eve.json");
    let of_type = |wanted: &'static str| events.iter().filter(move |e| e["event_type"] == wanted);
    let recovered: Vec<&Value> = of_type("recovery").map(|event| &event["recovery"]).collect();
    assert_eq!(recovered, recoveries.iter().collect::<Vec<_>>());
    let statistics: Vec<&Value> = of_type("stats").map(|event| &event["stats"]).collect();
    assert_eq!(statistics, [&report]);
    let alerts = of_type("alert").count();
    assert!(alerts > 0 && number(&report, "alerts") == alerts as u64, "{answer}");
}

#[test]
fn a_run_without_json_prints_a_summary_and_no_messages() {
    let scratch = with_mix();
    let answer = on_mix(&scratch, "run", "quickstart", &["--kill", "nat/0@50"]).expect(0);
    for part in [format!("packets in      {PACKETS}"), "recovered       nat/0 after kill".into()] {
        assert!(answer.stdout.contains(&part), "{answer}");
    }
}

#[test]
fn events_are_lines_in_the_manner_of_eve_json() {
    let scratch = with_mix();
    on_mix(&scratch, "run", "quickstart", &["--events", "eve.json"]).expect(0);
    let mut events = events(&scratch, "eve.json");
    assert_eq!(events.pop().unwrap()["event_type"], "stats", "the last line sums up");
    let mut types = BTreeSet::new();
    for event in &events {
        types.insert(event["event_type"].as_str().unwrap().to_owned());
        let time = event["timestamp"].as_str().unwrap();
        assert!(time.starts_with("2020-09-13T12:") && time.ends_with("+0000") && time.len() == 31, "{event}");
        for key in ["src_ip", "dest_ip"] {
            assert!(event[key].as_str().unwrap().parse::<IpAddr>().is_ok(), "{event}");
        }
        for key in ["src_port", "dest_port"] {
            assert!(event[key].as_u64().is_some_and(|port| port <= 65_535), "{event}");
        }
        let proto = event["proto"].as_str().unwrap();
        assert!(["TCP", "UDP", "ICMP"].contains(&proto), "{event}");
        let cause = event["pcap_cnt"].as_u64().unwrap();
        assert!((1..=PACKETS).contains(&cause), "{event}");
        let chc = &event["chc"];
        assert!(chc["clock"].is_u64() && chc["instance"].as_u64().is_some_and(|i| i < 2), "{event}");
        let by = if event["event_type"] == "alert" { "portscan" } else { "nat" };
        assert_eq!(chc["vertex"], by, "{event}");
        if event["event_type"] == "nat" {
            let nat = &event["nat"];
            assert!(
                ["203.0.113.1", "203.0.113.2"].contains(&nat["external_ip"].as_str().unwrap()),
                "{event}"
            );
            assert!(nat["external_port"].as_u64().is_some_and(|port| port >= 1024), "{event}");
        }
        // The first packet of a connection opens its translation.
        if event["nat"]["action"] == "open" {
            let (source, destination) = addresses(&scratch.path("mix.pcap"), cause);
            let named: [IpAddr; 2] =
                ["src_ip", "dest_ip"].map(|key| event[key].as_str().unwrap().parse().unwrap());
            assert_eq!([source, destination], named, "{event}");
        }
    }
    assert_eq!(types, ["alert", "nat"].map(str::to_owned).into());
}

/// Ethernet frames of a capture, a second apart.
fn write_capture(scratch: &Scratch, name: &str, frames: &[Vec<u8>]) {
    use chc_runtime::capture::{CaptureWriter, Format, LinkType};
    let mut writer = CaptureWriter::create(scratch.path(name), Format::Pcap, LinkType::ETHERNET).unwrap();
    for (frame, time) in frames.iter().zip(1..) {
        writer.write(time * 1_000_000_000, LinkType::ETHERNET, frame.len() as u32, &[frame]).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn alerts_name_the_scanner_behind_the_translator_and_the_packet_that_gave_it_away() {
    use chc_e2e::driver::{RST, SYN, tcp};
    let scratch = Scratch::new();
    let scanner = ([10, 1, 2, 3], 40_000);
    let mut frames = Vec::new();
    for n in 1..=6 {
        let target = ([198, 51, 100, n], 80);
        frames.push(tcp(scanner, target, SYN));
        frames.push(tcp(target, scanner, RST));
    }
    write_capture(&scratch, "mix.pcap", &frames);
    let arguments = ["--events", "eve.json", "--output", "out.pcap"];
    on_mix(&scratch, "run", "quickstart", &arguments).expect(0);
    let mut alerts = events(&scratch, "eve.json");
    alerts.retain(|event| event["event_type"] == "alert");
    let [alert] = alerts.as_slice() else { panic!("{alerts:#?}") };
    assert_eq!(alert["alert"]["signature"], "portscan");
    assert!(alert["alert"]["category"].is_string() && alert["alert"]["severity"].is_u64(), "{alert}");
    assert_eq!((&alert["src_ip"], &alert["dest_ip"]), (&"10.1.2.3".into(), &"198.51.100.4".into()));
    // The answer to the fourth attempt.
    assert_eq!(alert["pcap_cnt"], 8);
    assert_eq!(alert["timestamp"], "1970-01-01T00:00:08.000000+0000");
    // What leaves is translated all the same.
    let (source, _) = addresses(&scratch.path("out.pcap"), 1);
    assert!(["203.0.113.1", "203.0.113.2"].map(|a| a.parse::<IpAddr>().unwrap()).contains(&source));
}

#[test]
fn an_alert_at_the_end_of_the_input_has_no_packet() {
    use chc_e2e::driver::{SYN, tcp};
    let scratch = Scratch::new();
    let targets = (1..=4).map(|n| ([198, 51, 100, n], 80));
    let frames: Vec<_> = targets.map(|target| tcp(([10, 1, 2, 3], 40_000), target, SYN)).collect();
    write_capture(&scratch, "mix.pcap", &frames);
    let at_end = ["--events", "eve.json", "--set", "vertex.portscan.config.fail_pending_at_end=true"];
    on_mix(&scratch, "run", "portscan", &at_end).expect(0);
    let mut alerts = events(&scratch, "eve.json");
    alerts.retain(|event| event["event_type"] == "alert");
    let [alert] = alerts.as_slice() else { panic!("{alerts:#?}") };
    assert_eq!((alert.get("pcap_cnt"), &alert["src_ip"]), (None, &"10.1.2.3".into()));
}

#[test]
fn verify_says_what_it_compared() {
    let scratch = with_mix();
    let kills = ["--kill", "nat/0@50", "--kill", "portscan/1@50", "--json"];
    let report = on_mix(&scratch, "verify", "quickstart", &kills).expect(0).json();
    assert_eq!((&report["equivalent"], &report["first_difference"]), (&true.into(), &Value::Null));
    assert_eq!(number(&report, "outputs_compared"), PACKETS);
    assert!(
        number(&report, "alerts_compared") > 0 && number(&report, "state_objects_compared") > 0,
        "{report:#}"
    );
    assert!(report["relations"].as_array().is_some_and(|relations| relations.len() == 1), "{report:#}");
    assert_eq!(report["recoveries"].as_array().unwrap().len(), 2, "{report:#}");
}

#[test]
fn traditional_mode_forgets_what_an_instance_knew_and_verify_says_so() {
    let scratch = with_mix();
    let traditional = ["--set", "store.mode=traditional", "--json"];
    let report = on_mix(&scratch, "run", "quickstart", &traditional).expect(0).json();
    assert_whole(&report);
    assert_eq!(number(&report, "packets_in"), PACKETS);
    assert!(number(&report, "alerts") > 0, "{report:#}");
    let mut alone = traditional.to_vec();
    alone.extend(["--set", "vertex.portscan.instances=1"]);
    let report = on_mix(&scratch, "run", "portscan", &alone).expect(0).json();
    assert_eq!(number(&report, "packets_out"), PACKETS, "what comes before its receiver waits for it");
    let mut killed = traditional.to_vec();
    killed.extend(["--kill", "portscan/0@50"]);
    // What was at an instance when it died is lost, and counted.
    let mut died = traditional.to_vec();
    died.extend(["--kill", "nat/0@50", "--kill", "portscan/1@50"]);
    assert_whole(&on_mix(&scratch, "run", "quickstart", &died).expect(0).json());
    let report = on_mix(&scratch, "verify", "portscan", &killed).expect(1).json();
    assert_eq!(report["equivalent"], false);
    assert!(report["first_difference"].is_string(), "{report:#}");
}

#[test]
fn a_missing_input_is_a_failure_that_names_it() {
    let scratch = Scratch::new();
    for command in ["run", "verify"] {
        let answer = on_mix(&scratch, command, "quickstart", &["--json"]).expect(3);
        let answer = answer.says(&["mix.pcap: cannot open: "]);
        assert_eq!(
            (answer.stdout.as_str(), answer.stderr.matches("No such file").count()),
            ("", 1),
            "{answer}"
        );
    }
    scratch.chc(&["trace", "info", "mix.pcap"]).expect(3).says(&["mix.pcap: cannot open: "]);
    scratch.write("mix.pcap", "this is no capture");
    on_mix(&scratch, "run", "quickstart", &[]).expect(3).says(&["mix.pcap: at byte 0: ", "magic number"]);
}

#[test]
fn of_a_truncated_capture_everything_readable_is_processed() {
    let scratch = with_mix();
    let whole = scratch.read("mix.pcap");
    // The end of the third record, by its lengths, and some bytes of the fourth.
    let mut end = 24;
    for _ in 0..3 {
        let captured = &whole[end + 8..end + 12];
        end += 16 + u32::from_le_bytes(captured.try_into().unwrap()) as usize;
    }
    scratch.write("mix.pcap", &whole[..end + 20]);
    let place = format!("mix.pcap: at byte {end}: ");
    let answer = on_mix(&scratch, "run", "quickstart", &["--json", "--output", "out.pcap"]).expect(3);
    let answer = answer.says(&["everything readable was processed", &place]);
    let report = answer.json();
    assert_whole(&report);
    assert_eq!((number(&report, "packets_in"), packets(&scratch.path("out.pcap"))), (3, 3));
    let answer = on_mix(&scratch, "verify", "quickstart", &["--json"]).expect(3).says(&[&place]);
    assert_eq!(answer.json()["equivalent"], true);
}

#[test]
fn an_output_that_cannot_be_written_is_a_failure() {
    let scratch = with_mix();
    for flag in ["--output", "--events"] {
        on_mix(&scratch, "run", "quickstart", &[flag, "no/such/directory"])
            .expect(3)
            .says(&["no/such/directory"]);
    }
}

#[test]
fn an_output_never_destroys_an_input_or_another_output() {
    let scratch = with_mix();
    let before = scratch.read("mix.pcap");
    std::os::unix::fs::symlink(scratch.path("mix.pcap"), scratch.path("link.pcap")).unwrap();
    for flag in ["--output", "--events"] {
        for path in ["mix.pcap", "./mix.pcap", "link.pcap"] {
            on_mix(&scratch, "run", "quickstart", &[flag, path]).expect(2).says(&[flag, "this is the input"]);
        }
    }
    assert!(scratch.read("mix.pcap") == before);
    on_mix(&scratch, "run", "quickstart", &["--output", "both", "--events", "both"])
        .expect(2)
        .says(&["--events both"]);
    on_mix(&scratch, "run", "quickstart", &["--output", "/dev/null", "--events", "/dev/null"]).expect(0);
}

#[test]
fn a_result_that_cannot_be_printed_is_a_failure() {
    let scratch = with_mix();
    let chain = config("quickstart");
    let chain = chain.to_str().unwrap();
    let input = ["--input", "mix.pcap"];
    let commands: [&[&str]; 4] = [
        &["check", chain],
        &["run", chain, input[0], input[1], "--json"],
        &["verify", chain, input[0], input[1]],
        &["trace", "info", "mix.pcap"],
    ];
    for command in commands {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        scratch.chc_into(command, full).expect(3).says(&["the result cannot be written"]);
    }
}

#[test]
fn offered_too_fast_the_root_alone_drops() {
    let scratch = with_mix();
    let small = ["--set", "root.window=128", "--set", "store.epoch=64", "--json"];
    let mut fast = small.to_vec();
    fast.extend(["--rate", "100000000"]);
    let report = on_mix(&scratch, "run", "portscan", &fast).expect(0).json();
    assert_whole(&report);
    assert_eq!(number(&report, "packets_in"), PACKETS);
    assert!(number(&report, "ingest_drops") > 0, "{report:#}");
    assert_eq!(report["drops"], serde_json::json!({}));
    // Without a rate it waits instead.
    let report = on_mix(&scratch, "run", "portscan", &small).expect(0).json();
    assert_eq!((number(&report, "ingest_drops"), number(&report, "packets_out")), (0, PACKETS));
}

#[test]
fn set_overrides_one_key() {
    let scratch = with_mix();
    let instances = ["--set", "vertex.nat.instances=3", "--kill", "nat/2@50", "--json"];
    let report = on_mix(&scratch, "run", "quickstart", &instances).expect(0).json();
    assert_eq!(report["instances"]["nat"], 3);
    let block = ["--set", "vertex.portscan.config.action=block", "--json"];
    let report = on_mix(&scratch, "run", "quickstart", &block).expect(0).json();
    assert_whole(&report);
    assert!(report["drops"]["portscan_blocked"].as_u64().is_some_and(|n| n > 0), "{report:#}");
}

#[test]
fn chains_in_yaml_and_json_run_too() {
    let scratch = with_mix();
    scratch.write(
        "chain.yaml",
        "chain: {name: c, entry: [scan]}\nvertex: {scan: {nf: portscan, instances: 2}}\n",
    );
    scratch.write(
        "chain.json",
        r#"{"chain": {"name": "c", "entry": ["scan"]}, "vertex": {"scan": {"nf": "portscan"}}}"#,
    );
    for (chain, instances) in [("chain.yaml", 2), ("chain.json", 1)] {
        let report = scratch.chc(&["run", chain, "--input", "mix.pcap", "--json"]).expect(0).json();
        assert_eq!(
            (number(&report, "packets_out"), &report["instances"]["scan"]),
            (PACKETS, &instances.into())
        );
    }
}

#[test]
fn the_same_seed_generates_the_same_bytes() {
    let scratch = Scratch::new();
    let generate = |name: &str, seed: &str, more: &[&str]| {
        let mut arguments =
            vec!["trace", "gen", "--profile", "mix", "--packets", "2000", "--seed", seed, "-o", name];
        arguments.extend(more);
        scratch.chc(&arguments).expect(0);
        scratch.read(name)
    };
    let first = generate("a.pcap", "5", &[]);
    assert!(first == generate("b.pcap", "5", &[]) && first != generate("c.pcap", "6", &[]));
    let short = generate("d.pcap", "5", &["--snaplen", "64"]);
    assert!(short.len() < first.len());
    let info = |name: &str| scratch.chc(&["trace", "info", name, "--json"]).expect(0).json();
    let (whole, cut) = (info("a.pcap"), info("d.pcap"));
    for key in ["packets", "duration_s", "wire_bytes", "median_wire_len"] {
        assert_eq!(whole[key], cut[key], "{key}");
    }
    assert!(number(&cut, "snaplen_cut_packets") > 0 && number(&whole, "snaplen_cut_packets") == 0);
}

#[test]
fn trace_info_counts_what_is_there() {
    use chc_e2e::driver::{SYN, echo, tcp, udp};
    let scratch = Scratch::new();
    let (a, b) = (([10, 0, 0, 1], 1000), ([192, 0, 2, 1], 80));
    let frames = [
        tcp(a, b, SYN),
        tcp(b, a, SYN),
        udp(a, b),
        echo(a.0, b.0, 7, true),
        tcp(a, ([192, 0, 2, 2], 80), SYN),
    ];
    write_capture(&scratch, "five.pcap", &frames);
    let answer = scratch.chc(&["trace", "info", "five.pcap", "--json"]).expect(0);
    let info = answer.json();
    let expected = [
        ("packets", 5),
        ("connections", 4),
        ("tcp_connections", 2),
        ("udp_connections", 1),
        ("icmp_connections", 1),
        ("other_connections", 0),
        ("hosts", 3),
        ("packets_without_connection", 0),
        ("wire_bytes", frames.iter().map(Vec::len).sum::<usize>() as u64),
        ("snaplen_cut_packets", 0),
    ];
    for (key, value) in expected {
        assert_eq!(number(&info, key), value, "{key}\n{answer}");
    }
    assert_eq!(
        (info["duration_s"].as_f64(), &info["format"], &info["error"]),
        (Some(4.0), &"pcap".into(), &Value::Null)
    );
    let mut lengths = frames.map(|frame| frame.len());
    lengths.sort_unstable();
    assert_eq!(info["median_wire_len"].as_f64(), Some(lengths[2] as f64));
}
