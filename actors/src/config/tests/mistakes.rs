//! Mistakes in keys and values, each with its line, key and remedy.

use super::*;

#[test]
fn an_unknown_key_is_reported_with_the_key_that_was_meant() {
    let expected = r#"chain.toml:7: vertex.nat.instance: unknown key; did you mean "instances"?"#;
    assert_eq!(edited("instances", "instance"), [expected]);
    for (text, expected) in [
        ("[roots]", r#"20: roots: unknown key; did you mean "root"?"#),
        ("[root]\nepoch = 64", "21: root.epoch: unknown key; move it to [store]"),
        ("[egress]\nxyz = 1", "21: egress.xyz: unknown key; use one of delete"),
        ("[cluster]\nname = 'x'", "20: cluster: cluster files are not available yet; give a chain file"),
    ] {
        assert_eq!(appended(text), [format!("chain.toml:{expected}")]);
    }
}

#[test]
fn an_unknown_function_is_reported_with_the_function_that_was_meant() {
    for (from, to, expected) in [
        (
            "\"nat\"\ninst",
            "\"nta\"\ninst",
            r#"6: vertex.nat.nf: there is no network function "nta"; did you mean "nat"?"#,
        ),
        (
            "\"nat\"\ninst",
            "\"firewall\"\ninst",
            r#"6: vertex.nat.nf: there is no network function "firewall"; use one of nat, portscan"#,
        ),
        (
            "nf = \"portscan\"\n",
            "",
            r#"17: vertex.portscan.nf: missing; add nf = "..." to [vertex.portscan]: nat, portscan"#,
        ),
    ] {
        assert_eq!(edited(from, to), [format!("chain.toml:{expected}")]);
    }
}

#[test]
fn a_wrong_type_is_reported_with_what_was_found() {
    for (from, to, expected) in [
        (
            "= 2",
            r#"= "two""#,
            r#"7: vertex.nat.instances: expected a whole number, found the string "two"; use a whole number from 1 to 64"#,
        ),
        (
            "= 2",
            "= 2.5",
            "7: vertex.nat.instances: expected a whole number, found the number 2.5; use a whole number from 1 to 64",
        ),
        (
            r#""enterprise""#,
            "1979-05-27",
            "2: chain.name: expected a string, found the date 1979-05-27; write a string in quotes",
        ),
        (
            r#"["portscan"]"#,
            r#""portscan""#,
            r#"8: vertex.nat.next: expected a list, found the string "portscan"; write next = ["portscan"]"#,
        ),
        (
            r#"["portscan"]"#,
            r#"["portscan", 3]"#,
            "8: vertex.nat.next[1]: expected the name of a vertex, found the integer 3; write it in quotes",
        ),
    ] {
        assert_eq!(edited(from, to), [format!("chain.toml:{expected}")]);
    }
    for (text, expected) in [
        ("[[store]]", "20: store: expected a table, found a list; write a table, [store]"),
        (
            "[runtime]\npins = 0",
            "21: runtime.pins: expected a list, found the integer 0; write a list, e.g. [0, 1]",
        ),
    ] {
        assert_eq!(appended(text), [format!("chain.toml:{expected}")]);
    }
}

#[test]
fn a_value_out_of_range_is_reported_with_the_range() {
    for (from, to, expected) in [
        ("= 2", "= 65", "7: vertex.nat.instances: 65 is out of range; use a whole number from 1 to 64"),
        ("= 2", "= 0", "7: vertex.nat.instances: 0 is out of range; use a whole number from 1 to 64"),
        (
            "= 2",
            "= 2\nslots = 0",
            "8: vertex.nat.slots: 0 is out of range; use a whole number from 1 to 4096",
        ),
    ] {
        assert_eq!(edited(from, to), [format!("chain.toml:{expected}")]);
    }
    for (text, expected) in [
        ("[store]\nshards = 65", "21: store.shards: 65 is out of range; use a whole number from 1 to 64"),
        (
            "[root]\ntick_us = -1",
            "21: root.tick_us: -1 is out of range; use a whole number from 0 to 1000000",
        ),
        (
            "[store]\nretransmit_us = 10",
            "21: store.retransmit_us: 10 is out of range; use a whole number from 1000 to 60000000",
        ),
        (
            "[root]\nclock_lease = 0",
            "21: root.clock_lease: 0 is out of range; use a whole number from 1 to 1000000000",
        ),
        (
            "[runtime]\nburst = 257",
            "21: runtime.burst: 257 is out of range; use a whole number from 1 to 256",
        ),
        (
            "[runtime]\nnf_panics_max = 0",
            "21: runtime.nf_panics_max: 0 is out of range; use a whole number from 1 to 100",
        ),
        (
            "[runtime]\narbiters = 0",
            "21: runtime.arbiters: 0 is out of range; use a whole number from 1 to 64",
        ),
        ("[store]\nepoch = 32", "21: store.epoch: 32 is out of range; use a whole number from 64 to 524288"),
        ("[store]\nepoch = 192", "21: store.epoch: 192 is not a power of two; use 128 or 256"),
        ("[root]\nwindow = 5000", "21: root.window: 5000 is not a power of two; use 4096 or 8192"),
    ] {
        assert_eq!(appended(text), [format!("chain.toml:{expected}")]);
    }
}

#[test]
fn values_that_contradict_each_other_are_reported_with_both_ways_out() {
    let expected = "chain.toml:7: vertex.nat.instances: 9 instances are more than the vertex has slots (8); use at most 8 instances, or raise vertex.nat.slots to 9";
    assert_eq!(edited("= 2", "= 9\nslots = 8"), [expected]);
    for (text, expected) in [
        (
            "[root]\nwindow = 1024",
            "21: root.window: a window of 1024 is less than two epochs of 1024; set root.window to at least 2048 or store.epoch to at most 512",
        ),
        (
            "[store]\nepoch = 8192",
            "21: store.epoch: a window of 8192 is less than two epochs of 8192; set root.window to at least 16384 or store.epoch to at most 4096",
        ),
        (
            "[runtime]\npins = [0, 1]",
            "21: runtime.pins: 2 CPU(s) for 1 arbiter(s); give 1 CPU number(s), one for each, or none",
        ),
        (
            "[runtime]\narbiters = 2\npins = [\n 4,\n 4]",
            "24: runtime.pins[1]: CPU 4 is pinned twice; pin every arbiter to a CPU of its own",
        ),
    ] {
        assert_eq!(appended(text), [format!("chain.toml:{expected}")]);
    }
}

#[test]
fn an_unknown_value_is_reported_with_the_values_there_are() {
    for (text, expected) in [
        (
            "[store]\nmode = \"tradtional\"",
            r#"21: store.mode: unknown value "tradtional"; did you mean "traditional"?"#,
        ),
        ("[egress]\ndelete = \"never\"", r#"21: egress.delete: unknown value "never"; use one of egress"#),
    ] {
        assert_eq!(appended(text), [format!("chain.toml:{expected}")]);
    }
}

#[test]
fn a_mistake_found_by_the_function_is_reported_at_its_line() {
    for (from, to, expected) in [
        (
            r#""203.0.113.2""#,
            r#""203.0.113.1""#,
            "14: vertex.nat.config.external[1]: the address is listed twice; list it once",
        ),
        (
            r#""203.0.113.2""#,
            r#""10.0.0.9""#,
            "14: vertex.nat.config.external[1]: the address is internal; choose one outside internal",
        ),
        ("internal", "intern", "11: vertex.nat.config.intern: unknown key; remove it"),
    ] {
        assert_eq!(edited(from, to), [format!("chain.toml:{expected}")]);
    }
    for (text, expected) in [
        (
            "[vertex.portscan.config]\npick = \"all\"",
            "21: vertex.portscan.config.pick: unknown value; use every",
        ),
        (
            "[vertex.portscan.config]\nalpha = nan",
            "21: vertex.portscan.config.alpha: the number NaN is no usable number; use a finite number of at most 64 bits",
        ),
        (
            "[vertex.portscan.config]\nwalk = 07:32:00",
            r#"21: vertex.portscan.config.walk: found the date 07:32:00; write it in quotes: "07:32:00""#,
        ),
        (
            "config = 1",
            "20: vertex.portscan.config: expected a table, found the integer 1; write a table, [vertex.portscan.config]",
        ),
    ] {
        assert_eq!(appended(text), [format!("chain.toml:{expected}")]);
    }
}

#[test]
fn a_function_learns_how_many_slots_its_vertex_has() {
    let expected = "chain.toml:11: vertex.nat.config.ports: fewer ports than slots; widen the range";
    assert_eq!(edited("internal = [\"10.0.0.0/8\"]", "ports = 63"), [expected]);
    assert!(edited("internal = [\"10.0.0.0/8\"]", "ports = 64").is_empty());
}

#[test]
fn overlapping_ranges_are_reported_by_the_catalog_at_their_line() {
    let text = CHAIN.replace("203.0.113.2", "10.0.0.9");
    let found = load_text("chain.toml", Format::Toml, &text, &[], &Catalog).unwrap_err().0;
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert!(only.line.is_some_and(|line| (12..=14).contains(&line)), "{only}");
    assert!(only.key.starts_with("vertex.nat.config.external"), "{only}");
}

#[test]
fn a_missing_function_configuration_is_reported_at_the_vertex() {
    let text = "[chain]\nname='c'\nentry=['n']\n\n[vertex.n]\nnf='nat'\n";
    let expected = "chain.toml:5: vertex.n.config: no external address; add external = [\"ADDRESS\"]";
    assert_eq!(lines(toml(text)), [expected]);
}

#[test]
fn packets_are_logged_in_the_store_only_where_there_is_one() {
    assert_eq!(appended("[root]\nlog = \"store\""), [""; 0]);
    let text = "[root]\nlog = \"store\"\n[store]\nmode = \"traditional\"";
    let expected = "chain.toml:21: root.log: there is no store to log packets in, with store.mode = \"traditional\"; \
                    use \"local\", or another mode";
    assert_eq!(appended(text), [expected]);
}

#[test]
fn a_chain_lies_between_two_interfaces_as_a_bridge_or_as_a_router() {
    assert_eq!(appended("[io]\ninside = \"eth0\"\noutside = \"eth1\""), [""; 0]);
    let routed = "[io]\ninside = \"a\"\noutside = \"b\"\nmode = \"routed\"\n\
                  inside_addresses = [\"10.0.0.1/8\"]\noutside_addresses = [\"192.0.2.2/24\"]\n";
    assert_eq!(appended(&format!("{routed}gateways = [\"192.0.2.1\"]")), [""; 0]);
    for (text, expected) in [
        (
            "[io]\ninside = \"eth0\"",
            vec![
                "21: io.inside: a chain between interfaces has two, and \"outside\" is missing; add outside = \"...\"",
            ],
        ),
        (
            "[io]\ninside = \"a\"\noutside = \"a\"",
            vec!["22: io.outside: \"a\" is the inside, too; give two interfaces"],
        ),
        (
            "[io]\ninside = \"a-name-too-long-\"\noutside = \"a\"",
            vec![
                "21: io.inside: \"a-name-too-long-\" is no name of an interface; give 1 to 15 bytes, as the system lists it",
            ],
        ),
        (
            "[io]\ninside_addresses = [\"10.0.0.1/8\"]",
            vec![
                "21: io.inside_addresses: a bridge has no addresses of its own; set mode = \"routed\", or remove it",
            ],
        ),
        (
            "[io]\nmode = \"routed\"\ninside_addresses = [\"10.0.0.1\"]",
            vec![
                "22: io.inside_addresses[0]: the string \"10.0.0.1\" is not what is expected; write an address with the length of its network's prefix, such as 192.0.2.1/24",
                "21: io.inside_addresses: a router needs an address on each side; add inside_addresses = [\"ADDRESS/PREFIX\"]",
                "21: io.outside_addresses: a router needs an address on each side; add outside_addresses = [\"ADDRESS/PREFIX\"]",
            ],
        ),
        (
            "[api]\nlisten = \"192.0.2.1:80\"",
            vec![
                "21: api.listen: \"192.0.2.1:80\" is no loopback address with a port; write listen = \"127.0.0.1:9180\"",
            ],
        ),
        (
            "[api]\ntoken_file = \"t\"",
            vec!["21: api.token_file: a token is for HTTP, and there is none; add listen, or remove it"],
        ),
    ] {
        let mut expected: Vec<String> = expected.iter().map(|line| format!("chain.toml:{line}")).collect();
        let mut found = appended(text);
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{text}");
    }
    for (gateways, expected) in [
        ("\"198.51.100.1\"", "is on neither side's wire"),
        ("\"192.0.2.2\"", "is the router's own"),
        ("\"192.0.2.1\", \"192.0.2.3\"", "is the second gateway of its family"),
    ] {
        let found = appended(&format!("{routed}gateways = [{gateways}]"));
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn roots_share_no_host() {
    let two = "[root]\ninstances = 2\n";
    for (hosts, expected) in [
        ("[[\"10.0.0.0/9\"], [\"10.128.0.0/9\", \"fd00::/8\"]]", None),
        (
            "[[\"10.0.0.0/8\"], [\"10.128.0.0/9\"]]",
            Some("root.hosts[1][0]: 10.128.0.0/9 overlaps 10.0.0.0/8 of root 0; give every host to one root"),
        ),
        (
            "[[\"10.1.2.3/32\"], [\"192.0.2.0/24\", \"10.0.0.0/8\"]]",
            Some("root.hosts[1][1]: 10.0.0.0/8 overlaps 10.1.2.3/32 of root 0; give every host"),
        ),
        ("[[\"10.0.0.0/8\"]]", Some("root.hosts: 1 list(s) of networks for 2 root(s); give 2 list(s)")),
        ("[\"10.0.0.0/8\", []]", Some("root.hosts[0]: expected a list, found the string")),
        ("[[\"10.0.0.0\"], []]", Some("root.hosts[0][0]: \"10.0.0.0\": the length of the prefix is missing")),
        ("[[8], []]", Some("root.hosts[0][0]: expected a string, found the integer 8")),
    ] {
        let found = appended(&format!("{two}hosts = {hosts}"));
        let fits = match expected {
            None => found.is_empty(),
            Some(expected) => found.len() == 1 && found[0].contains(expected),
        };
        assert!(fits, "{hosts}: {found:?}");
    }
    assert!(appended("[root]\ninstances = 17")[0].contains("from 1 to 16"));
}

#[test]
fn what_is_not_available_yet_is_refused_with_what_is() {
    for (text, expected) in [
        ("[store]\nreplicas = 3", "21: store.replicas: 3 is not available yet; use 1"),
        (
            "[store]\ncheckpoint_ms = 100",
            r#"21: store.checkpoint_ms: "checkpoint_ms" is not available yet; remove it"#,
        ),
        (
            "[egress]\ndelete = \"sync\"",
            r#"21: egress.delete: "sync" loses a packet if its last function dies before it has left, and chc-bench delete alone has it; use "egress""#,
        ),
        (
            "[vertex.portscan.policy]\nstraggler = \"cpu > 0.5\"",
            r#"21: vertex.portscan.policy.straggler: "straggler" is not available yet; remove it; scale_up, scale_down and imbalance are obeyed"#,
        ),
    ] {
        assert_eq!(appended(text), [format!("chain.toml:{expected}")]);
    }
}

#[test]
fn the_values_that_work_may_be_written_out() {
    let appended = "order = 'flow'\n[root]\ninstances = 1\nlog = 'local'\n[store]\nreplicas = 1\nmode = 'traditional'\n\
        placement = 'spread'\n[egress]\ndelete = 'egress'\n[io]\nbackend = 'auto'\ninput = 'in.pcap'";
    let chain = toml(&format!("{CHAIN}{}", appended.replace('\'', "\""))).unwrap();
    assert_eq!((chain.store.mode, chain.io.input.as_deref()), (StoreMode::Traditional, Some("in.pcap")));
    let edge = toml(&CHAIN.replace("[\"portscan\"]", "[{ to = \"portscan\" }]")).unwrap();
    assert_eq!(edge, toml(CHAIN).unwrap());
}

#[test]
fn a_vertex_cannot_have_the_name_of_an_actor_or_an_odd_one() {
    for (name, remedy) in [
        ("root", "choose a name other than root, store, egress, node, the actors' own"),
        ("\"a/b\"", "use 1 to 64 letters, digits, '_' and '-'"),
    ] {
        let bare = name.trim_matches('"');
        let text = CHAIN
            .replace("[vertex.portscan]", &format!("[vertex.{name}]"))
            .replace("[\"portscan\"]", &format!("[\"{bare}\"]"));
        assert_eq!(
            lines(toml(&text)),
            [format!("chain.toml:17: vertex.{bare}: \"{bare}\" cannot name a vertex; {remedy}")]
        );
    }
}

#[test]
fn a_policy_is_read_and_every_mistake_in_it_reported() {
    let policy = |text: &str| toml(&format!("{CHAIN}\n[vertex.portscan.policy]\n{text}"));
    let chain = policy("scale_up = \"cpu > 0.8\"\nperiod_ms = 50").unwrap();
    let read = chain.vertices.iter().find_map(|vertex| vertex.policy.clone()).unwrap();
    assert_eq!((read.scale_up.as_deref(), read.scale_down, read.period_ms), (Some("cpu > 0.8"), None, 50));
    let wrong = "scale_up = \"cpus > 0.8\"\nscale_down = \"cpu <\"\nperiod_ms = 9\ninstances_max = 65\nimbalance = 1\nscale = 1";
    let found = policy(wrong).unwrap_err().0;
    let keys: Vec<&str> = found.iter().filter_map(|d| d.key.rsplit('.').next()).collect();
    assert_eq!(keys, ["scale_up", "scale_down", "period_ms", "instances_max", "imbalance", "scale"]);
    let [unknown, ..] = found.as_slice() else { panic!("{found:?}") };
    assert!(unknown.to_string().contains("no variable \"cpus\"; use instances, rate_pps"), "{unknown}");
}

#[test]
fn every_mistake_is_reported_at_once_by_line() {
    let text = r#"[chain]
name = 7
entry = ["nat"]
[vertex.nat]
nf = "natt"
instances = 100
next = ["portscn"]
colour = "red"
[vertex.portscan]
nf = "portscan"
[vertex.lost]
nf = "portscan"
next = ["lost"]
[vertex.lost.config]
pick = "none"
[store]
epoch = 8192
mode = "cached"
[root]
windw = 4096
"#;
    let found = toml(text).unwrap_err().0;
    let places: Vec<_> = found.iter().map(|d| (d.line.unwrap_or(0), d.key.as_str())).collect();
    assert_eq!(
        places,
        [
            (2, "chain.name"),
            (5, "vertex.nat.nf"),
            (6, "vertex.nat.instances"),
            (7, "vertex.nat.next[0]"),
            (8, "vertex.nat.colour"),
            (11, "vertex.lost"),
            (13, "vertex.lost.next[0]"),
            (15, "vertex.lost.config.pick"),
            (17, "store.epoch"),
            (18, "store.mode"),
            (20, "root.windw"),
        ]
    );
    assert!(found.iter().all(|d| d.file == "chain.toml" && !d.problem.is_empty() && !d.remedy.is_empty()));
}

#[test]
fn an_empty_file_lacks_a_name_an_entry_and_a_vertex() {
    let keys: Vec<String> = toml("").unwrap_err().0.into_iter().map(|diagnostic| diagnostic.key).collect();
    assert_eq!(keys, ["chain.name", "chain.entry", "vertex"]);
}

#[test]
fn a_syntax_error_has_its_line() {
    let found = toml("[chain]\nname = \"x\"\nentry = [\"a\"\n[vertex.a]\n").unwrap_err().0;
    assert_eq!((found.len(), found[0].line, found[0].remedy.as_str()), (1, Some(4), "correct this line"));
    let found = toml("[chain]\nname = 'x'\nname = 'y'\n").unwrap_err().0;
    assert_eq!((found.len(), found[0].line), (1, Some(3)));
    for (format, text) in [(Format::Yaml, "chain: [a"), (Format::Json, "{\"chain\": ")] {
        let found = load_text("chain", format, text, &[], &Registry).unwrap_err().0;
        assert_eq!((found.len(), found[0].line, found[0].remedy.as_str()), (1, None, "correct the syntax"));
    }
}

#[test]
fn lines_are_counted_alike_with_either_line_ending() {
    let text = CHAIN.replace("instances = 2", "instances = 99");
    let line = |text: &str| toml(text).unwrap_err().0[0].line;
    assert_eq!((line(&text), line(&text.replace('\n', "\r\n"))), (Some(7), Some(7)));
}
