//! The three notations, overrides, files and the builder against each other.

use super::*;

#[test]
fn yaml_and_json_give_the_model_of_the_toml_file() {
    let yaml = "
chain: {name: enterprise, entry: [nat]}
vertex:
  nat:
    nf: nat
    instances: 2
    next: [portscan]
    config:
      internal: [10.0.0.0/8]
      external: [203.0.113.1, 203.0.113.2]
  portscan:
    nf: portscan
";
    let json = json!({
        "chain": {"name": "enterprise", "entry": ["nat"]},
        "vertex": {
            "nat": {"nf": "nat", "instances": 2, "next": ["portscan"],
                "config": {"internal": ["10.0.0.0/8"], "external": ["203.0.113.1", "203.0.113.2"]}},
            "portscan": {"nf": "portscan"},
        },
    });
    let expected = toml(CHAIN).unwrap();
    assert_eq!(load_text("c.yaml", Format::Yaml, yaml, &[], &Registry).unwrap(), expected);
    assert_eq!(load_text("c.json", Format::Json, &json.to_string(), &[], &Registry).unwrap(), expected);
}

#[test]
fn yaml_and_json_mistakes_are_reported_by_key_path() {
    let yaml = "chain: {name: c, entry: [n]}\nvertex: {n: {nf: portscan, instances: many}}\n";
    let found = load_text("c.yaml", Format::Yaml, yaml, &[], &Registry);
    let remedy = "use a whole number from 1 to 64";
    let problem = "vertex.n.instances: expected a whole number, found the string \"many\"";
    assert_eq!(lines(found), [format!("c.yaml: {problem}; {remedy}")]);
    let json = r#"{"chain": {"name": "c", "entry": ["n"]}, "vertex": {"n": {"nf": "nat", "config": {"external": ["a", "a"]}}}}"#;
    let found = load_text("c.json", Format::Json, json, &[], &Registry);
    assert_eq!(
        lines(found),
        ["c.json: vertex.n.config.external[1]: the address is listed twice; list it once"]
    );
}

#[test]
fn the_effective_configuration_reads_back_as_the_same_chain() {
    let chain = with_overrides(&["root.window=4096", "io.input=in.pcap", "runtime.pins=[3]"]).unwrap();
    let text = chain.to_json().to_string();
    assert!(text.contains("\"clock_lease\":100000"), "defaults are written out: {text}");
    assert_eq!(load_text("effective.json", Format::Json, &text, &[], &Registry).unwrap(), chain);
}

#[test]
fn an_override_replaces_or_adds_one_key() {
    let chain = with_overrides(&[
        "vertex.portscan.config.pick=every",
        "vertex.nat.instances = 3",
        "root.window=4096",
        "store.mode=\"traditional\"",
        "vertex.nat.config.external=[\"198.51.100.7\"]",
        "vertex.nat.config.ports=1024-65535",
        "root.window=2048",
    ])
    .unwrap();
    assert_eq!(chain.vertices[1].config, json!({"pick": "every"}));
    assert_eq!((chain.vertices[0].instances, chain.root.window), (3, 2048));
    assert_eq!(chain.store.mode, StoreMode::Traditional);
    assert_eq!(chain.vertices[0].config["external"], json!(["198.51.100.7"]));
    assert_eq!(chain.vertices[0].config["ports"], json!("1024-65535"));
}

#[test]
fn an_override_repairs_a_mistake_of_the_file() {
    let text = CHAIN.replace("instances = 2", "instances = 99");
    assert!(
        load_text("chain.toml", Format::Toml, &text, &["vertex.nat.instances=4".to_owned()], &Registry)
            .is_ok()
    );
}

#[test]
fn a_mistake_in_an_override_is_reported_at_the_override() {
    for (text, expected) in [
        (
            "vertex.nat.instances=99",
            "vertex.nat.instances: 99 is out of range; use a whole number from 1 to 64",
        ),
        ("root.windw=4096", "root.windw: unknown key; did you mean \"window\"?"),
        (
            "vertex.portscn.config.pick=every",
            "vertex.portscn.config.pick: there is no vertex \"portscn\"; did you mean \"portscan\"?",
        ),
        ("vertex.portscan.config.pick=all", "vertex.portscan.config.pick: unknown value; use every"),
        (
            "vertex.nat.config.external=['a', 'a']",
            "vertex.nat.config.external[1]: the address is listed twice; list it once",
        ),
        (
            "chain.name.first=x",
            "chain.name.first: \"chain.name\" is the string \"enterprise\", not a table; set the whole value",
        ),
        ("root.window", "no value is given; write --set KEY=VALUE, e.g. --set root.window=4096"),
        ("=4096", ": \"\" is not a key; write the path of one key, e.g. vertex.nat.instances"),
        (
            "vertex.nat.next=[\"portscan\"",
            "vertex.nat.next: \"[\\\"portscan\\\"\" is not a value; close the quotes or brackets, as in a TOML file",
        ),
    ] {
        let expected = expected.strip_prefix(": ").unwrap_or(expected);
        assert_eq!(lines(with_overrides(&[text])), [format!("--set {text}: {expected}")]);
    }
}

#[test]
fn the_builder_gives_the_chain_of_the_file() {
    let builder = || {
        ChainBuilder::new("enterprise")
            .vertex("nat", "nat", |v| {
                let config = json!({"internal": ["10.0.0.0/8"], "external": ["203.0.113.1", "203.0.113.2"]});
                v.instances(2).config(config)
            })
            .next("portscan")
            .vertex("portscan", "portscan", |v| v)
    };
    assert_eq!(builder().build(&Registry).unwrap(), toml(CHAIN).unwrap());
    let set = builder()
        .root(RootConfig { window: 4096, ..RootConfig::default() })
        .store(StoreConfig { mode: StoreMode::Traditional, ..StoreConfig::default() })
        .runtime(RuntimeConfig { burst: 32, ..RuntimeConfig::default() })
        .io(IoConfig { input: Some("in.pcap".to_owned()), ..IoConfig::default() });
    let overrides = ["root.window=4096", "store.mode=traditional", "runtime.burst=32", "io.input=in.pcap"];
    assert_eq!(set.build(&Registry).unwrap(), with_overrides(&overrides).unwrap());
}

#[test]
fn a_condition_is_given_in_code_or_in_cel() {
    let with = |text: Option<&str>| {
        let policy = PolicyConfig { scale_up: text.map(str::to_owned), ..PolicyConfig::default() };
        ChainBuilder::new("c")
            .vertex("a", "portscan", |v| v.policy(policy).scale_up_when(|load| load.rate_pps > 1e6))
            .build(&Registry)
    };
    assert!(with(None).unwrap().vertices[0].policy_code.scale_up.is_some());
    let found = with(Some("rate_pps > 1e6")).unwrap_err().to_string();
    assert!(found.contains("vertex.a.policy.scale_up: a condition in code and one in CEL"), "{found}");
}

#[test]
fn the_builder_is_checked_like_a_file() {
    let built = ChainBuilder::new("c")
        .next("b")
        .vertex("a", "portscan", |v| v.instances(9).slots(8).config(json!({"pick": "none"})))
        .vertex("a", "portscan", |v| v.slots(0))
        .vertex("b", "natt", |v| v)
        .next("c")
        .build(&Registry);
    let found = built.unwrap_err().0;
    assert!(found.iter().all(|d| d.file == "chain c" && d.line.is_none()));
    let text = Diagnostics(found).to_string();
    for part in [
        "vertex.a: two vertices have this name",
        "vertex.a.slots: 0 is out of range",
        "vertex.b.nf: there is no network function \"natt\"",
        "vertex.b.next[0]: there is no vertex \"c\"",
        "vertex.a: no packet reaches this vertex",
    ] {
        assert!(text.contains(part), "{part:?} in:\n{text}");
    }
}

#[test]
fn files_are_read_by_their_extension() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("chain.toml");
    std::fs::write(&good, CHAIN).unwrap();
    assert_eq!(load(&good, &[], &Registry).unwrap(), toml(CHAIN).unwrap());
    let bad = dir.path().join("chain.ini");
    let found = load(&bad, &[], &Registry).unwrap_err().to_string();
    assert!(
        found.ends_with(
            "chain.ini: the notation is unknown; give a file ending in .toml, .yaml, .yml or .json"
        )
    );
    let absent = load(&dir.path().join("absent.toml"), &[], &Registry).unwrap_err().to_string();
    assert!(absent.contains("absent.toml: cannot be read: "), "{absent}");
}
