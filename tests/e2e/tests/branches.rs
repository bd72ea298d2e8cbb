//! Chains that branch and copy: whatever dies, on the path or off it, they equal the ideal chain; a slow branch
//! changes no verdict; and a function's own packets leave once.

use chc_actors::chain::compile::{ChainPlan, compile};
use chc_actors::chain::run::{Kill, RunOptions, RunOutcome};
use chc_actors::chain::verify::verify;
use chc_actors::config::{Format, load_text};
use chc_actors::functions::Catalog;
use chc_api::{EventKind, packet::LinkType, packet::parse, packet::tcp};
use chc_e2e::chain::{Mix, assert_balanced, capture, keep, kill, mix, plan};
use chc_e2e::trw::shared;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;

const PACKETS: u64 = 20_000;
const NONE: [&str; 0] = [];

fn input() -> &'static Path {
    static MIX: OnceLock<Mix> = OnceLock::new();
    &MIX.get_or_init(|| mix(PACKETS, 11)).path
}

#[track_caller]
fn assert_equivalent(plan: &ChainPlan, input: &Path, kills: Vec<Kill>) -> RunOutcome {
    let deaths = kills.len();
    let options = RunOptions { kills, record: true, ..RunOptions::default() };
    let (outcome, comparison) = verify(plan, input, &options, |_| {}).unwrap();
    assert_eq!(comparison.first_difference, None, "{:?}", options.kills);
    assert_balanced(&outcome);
    assert_eq!(outcome.recoveries.len(), deaths);
    assert_eq!(comparison.events, outcome.egress.events);
    outcome
}

/// Kills each instance in turn, then one of every vertex at once.
fn kill_all(plan: &ChainPlan, input: &Path, packets: u64) -> u64 {
    let mut suppressed = 0;
    let mut suppress = |outcome: &RunOutcome| {
        suppressed += outcome.egress.duplicates + outcome.updates_suppressed();
        suppressed += outcome.instances.iter().map(|instance| instance.duplicates).sum::<u64>();
    };
    for (at, vertex) in plan.vertices.iter().enumerate() {
        for index in 0..vertex.route.instances {
            let after = packets * (10 + 17 * (at as u64 + u64::from(index)) % 85) / 100;
            let kills = vec![kill(&format!("{}/{index}", vertex.name), after)];
            suppress(&assert_equivalent(plan, input, kills));
        }
    }
    let together = plan.vertices.iter().map(|vertex| kill(&format!("{}/1", vertex.name), packets / 2));
    suppress(&assert_equivalent(plan, input, together.collect()));
    suppressed
}

#[test]
fn any_instance_of_four_functions_may_die_the_one_off_the_path_included() {
    assert!(kill_all(&plan("enterprise", &NONE), input(), PACKETS) > 100);
}

#[test]
fn any_instance_of_a_branch_may_die_and_the_detector_behind_all_branches() {
    assert!(kill_all(&plan("trojan", &NONE), input(), PACKETS) > 100);
}

#[test]
fn real_packets_pass_four_functions_equivalently() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let composed = shared.join("traces/composed/trojan11_mix.pcap");
    for chain in ["enterprise", "trojan"] {
        let plan = plan(chain, &NONE);
        let kills = plan.vertices.iter().map(|vertex| kill(&format!("{}/0", vertex.name), 20_000));
        assert_equivalent(&plan, &composed, kills.collect());
    }
}

/// The hosts a chain finds infected.
fn infected(plan: &ChainPlan, input: &Path) -> BTreeSet<String> {
    let (_, everything) = keep(plan, capture(input), Vec::new()).unwrap();
    let alerts = everything.events.iter().map(|(_, record)| record.event);
    let alerts = alerts.filter(|e| matches!(e.kind, EventKind::Alert { signature: "trojan", .. }));
    alerts.map(|event| event.key.source(event.direction).addr.to_string()).collect()
}

#[test]
fn slow_scrubbers_hide_no_trojan_and_make_none() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let composed = shared.join("traces/composed");
    let key = std::fs::read_to_string(composed.join("trojan11_mix.key.tsv")).unwrap();
    let positive = key.lines().filter(|line| line.contains("\tpositive\t"));
    let want: BTreeSet<String> =
        positive.filter_map(|line| Some(line.split('\t').next()?.to_owned())).collect();
    assert_eq!(want.len(), 11);
    let input = composed.join("trojan11_mix.pcap");
    let slow = |vertex: &str| format!("vertex.{vertex}.config.delay_us=\"50-100\"");
    // The paper's workloads: one of the upstream functions is slow, two, all three.
    for slow_ones in [&["ssh"][..], &["ssh", "ftp"], &["ssh", "ftp", "irc"]] {
        let slow: Vec<String> = slow_ones.iter().map(|vertex| slow(vertex)).collect();
        assert_eq!(infected(&plan("trojan", &slow), &input), want, "{slow_ones:?} are slow");
    }
    assert_eq!(
        infected(&plan("enterprise", &NONE), &input),
        want,
        "behind the translator, by their own addresses"
    );
}

/// A load balancer whose backends are full after a few connections.
fn full() -> ChainPlan {
    let text = r#"
        [chain]
        name = "full"
        entry = ["lb"]
        [vertex.lb]
        nf = "load_balancer"
        instances = 2
        next = { reset = ["log"] }
        copy = ["log"]
        [vertex.lb.config]
        services = [{ match = "tcp/80,443", backends = ["198.18.0.1", "198.18.0.2"], connections_max = 2 }]
        [vertex.log]
        nf = "portscan"
        instances = 2
    "#;
    let config = load_text("full.toml", Format::Toml, text, &[], &Catalog).unwrap_or_else(|e| panic!("{e}"));
    compile(&config, &Catalog).unwrap()
}

#[test]
fn clients_without_a_backend_get_a_reset_each_once_while_instances_die() {
    let plan = full();
    let outcome = assert_equivalent(
        &plan,
        input(),
        vec![kill("lb/0", 6_000), kill("lb/1", 9_000), kill("log/0", 9_000)],
    );
    let refused = outcome.egress.drops["lb_no_backend"];
    assert!(refused > 20, "{:?}", outcome.egress.drops);
    let (_, everything) = keep(&plan, capture(input()), vec![kill("lb/1", 9_000)]).unwrap();
    let node = &plan.topology.vertices[0];
    let [reset, copy] = [node.extra_tap(1), node.copy_tap(1, 0)].map(|tap| chc_api::Path::FIRST.append(tap));
    let count = |path| {
        let sent = everything.packets.iter().filter(move |kept| kept.position.path == path);
        let resets = sent.filter(|kept| {
            parse(LinkType::ETHERNET, everything.bytes(kept)).tcp_flags == tcp::RST | tcp::ACK
        });
        resets.count()
    };
    // Each refused SYN has a RST of its own, of which there is a copy.
    assert_eq!([count(reset), count(copy)], [everything.drops.len(); 2]);
}
