//! Edges, matches, outputs and copies, and what is wrong with them.

use super::*;

#[test]
fn an_edge_to_nowhere_a_cycle_and_an_unreachable_vertex_are_reported() {
    for (from, to, expected) in [
        (
            r#"["portscan"]"#,
            r#"["portscn"]"#,
            r#"8: vertex.nat.next[0]: there is no vertex "portscn"; did you mean "portscan"?"#,
        ),
        (
            r#"entry = ["nat"]"#,
            r#"entry = ["nut"]"#,
            r#"3: chain.entry[0]: there is no vertex "nut"; did you mean "nat"?"#,
        ),
        (
            "next = [\"portscan\"]\n",
            "",
            "16: vertex.portscan: no packet reaches this vertex; name it in entry or in next, copy or copy_in of a vertex that is reached, or remove it",
        ),
        (
            "entry = [\"nat\"]\n",
            "",
            r#"1: chain.entry: missing; add entry = ["VERTEX"] to [chain], the first vertex after the root"#,
        ),
        (
            r#"entry = ["nat"]"#,
            "entry = []",
            "3: chain.entry: the list is empty; name the first vertex after the root",
        ),
        ("name = \"enterprise\"\n", "", r#"1: chain.name: missing; add name = "..." to [chain]"#),
        (r#""enterprise""#, r#""""#, "2: chain.name: the name is empty; name the chain"),
    ] {
        assert_eq!(edited(from, to), [format!("chain.toml:{expected}")]);
    }
    for (text, expected) in [
        (
            r#"next = ["nat"]"#,
            "20: vertex.portscan.next[0]: nat -> portscan -> nat is a cycle; remove this edge; packets pass a vertex once",
        ),
        (
            r#"next = ["portscan"]"#,
            "20: vertex.portscan.next[0]: portscan -> portscan is a cycle; remove this edge; packets pass a vertex once",
        ),
    ] {
        assert_eq!(appended(text), [format!("chain.toml:{expected}")]);
    }
}

#[test]
fn edges_have_matches_and_outputs_and_there_are_copies() {
    let text = CHAIN.replacen(r#"["nat"]"#, r#"[{ to = "x", match = "udp/53" }, "nat"]"#, 1).replacen(
        r#"["portscan"]"#,
        r#"{ out = [{ to = "x", match = "tcp/21" }, "portscan"] }"#,
        1,
    ) + "copy = [\"x\"]\ncopy_in = [{ to = \"y\", match = \"tcp\" }]\n\
           [vertex.x]\nnf = \"portscan\"\n[vertex.y]\nnf = \"portscan\"";
    let chain = toml(&text).unwrap();
    let edges = |edges: &[Edge]| -> Vec<String> {
        let show = |e: &Edge| e.matching.as_ref().map_or(e.to.clone(), |m| format!("{} if {m}", e.to));
        edges.iter().map(show).collect()
    };
    assert_eq!(edges(&chain.entry), ["x if udp/53", "nat"]);
    let (_, nat) = chain.vertex("nat").unwrap();
    assert_eq!(edges(nat.next.on("out")), ["x if tcp/21", "portscan"]);
    assert!(nat.next.on("reset").is_empty());
    let (_, portscan) = chain.vertex("portscan").unwrap();
    assert_eq!(
        (edges(&portscan.copy), edges(&portscan.copy_in)),
        (vec!["x".into()], vec!["y if tcp".into()])
    );
}

#[test]
fn what_is_wrong_with_an_edge_is_said_at_the_edge() {
    let more = "[vertex.x]\nnf = \"portscan\"";
    for (to, expected) in [
        (
            r#"["portscan", "x"]"#,
            "vertex.nat.next[1]: no packet takes this edge: the one to \"portscan\" takes all; \
             give the edges before it a match, or use copy for copies",
        ),
        (
            r#"[{ to = "x", match = "tpc/21" }, "portscan"]"#,
            "vertex.nat.next[0].match: \"tpc/21\" is no match: unknown protocol \"tpc\"; \
             write a protocol and ports, e.g. \"tcp/21\" or \"tcp/80,443 udp/6000-6100\"",
        ),
        (
            r#"{ out = ["portscan"], pass = ["x"] }"#,
            "vertex.nat.next.pass[0]: \"nat\" has no output \"pass\"; use one of out",
        ),
        (
            r#"{ out = ["portscan"], pass = "x" }"#,
            "vertex.nat.next.pass: expected a list, found the string \"x\"; write pass = [\"VERTEX\"]",
        ),
    ] {
        let text = format!("{}\n{more}", CHAIN.replacen(r#"["portscan"]"#, to, 1));
        let found = lines(toml(&text));
        assert!(found.contains(&format!("chain.toml:8: {expected}")), "{to}: {found:#?}");
    }
}

#[test]
fn copies_that_could_not_be_told_apart_are_refused() {
    let copies = |from: &str, to: &str| format!("[vertex.{from}]\nnf = \"portscan\"\ncopy = [\"{to}\"]\n");
    let text = format!(
        "[chain]\nname = \"c\"\nentry = [\"a\"]\n{}{}{}{}[vertex.e]\nnf = \"portscan\"\ncopy = [\"f\"]\n\
         [vertex.f]\nnf = \"portscan\"",
        copies("a", "b"),
        copies("b", "c"),
        copies("c", "d"),
        copies("d", "e"),
    );
    let found = lines(toml(&text));
    assert_eq!(
        found,
        [
            "chain.toml:16: vertex.e: behind vertex 4 a packet can have been multiplied more than 3 times on its \
          way; make fewer copies on the way there"
        ]
    );
}
