//! Several roots: a chain does with them what it does with one, whatever dies.

use chc_actors::chain::run::{RunOptions, RunOutcome, Turn};
use chc_actors::chain::verify::verify;
use chc_actors::routing::Repartition;
use chc_e2e::chain::{Mix, assert_balanced, capture, keep, kill, mix, plan};
use std::path::Path;
use std::sync::OnceLock;

const PACKETS: u64 = 20_000;

/// One capture for all tests of this process.
fn input() -> &'static Path {
    static MIX: OnceLock<Mix> = OnceLock::new();
    &MIX.get_or_init(|| mix(PACKETS, 5)).path
}

/// Both chains do the same with these settings while instances die and slots move.
#[track_caller]
fn assert_equivalent(name: &str, settings: &[&str]) -> RunOutcome {
    let mut plan = plan(name, settings);
    plan.vertices.iter_mut().for_each(|vertex| vertex.route.instances = 3);
    let kills = [("nat/0", 20), ("portscan/1", 20), ("nat/1", 55), ("nat/0", 56), ("portscan/0", 90)];
    let kills = kills.map(|(actor, percent)| kill(actor, PACKETS * percent / 100)).to_vec();
    let turns = [(3, 40), (1, 55), (2, 75)].map(|(instances, percent)| Turn {
        vertex: plan.vertices[0].route.vertex,
        how: Repartition::Scale(instances),
        after: PACKETS * percent / 100,
    });
    let options = RunOptions { kills, turns: turns.to_vec(), record: true, ..RunOptions::default() };
    let (outcome, comparison) = verify(&plan, input(), &options, |_| {}).unwrap();
    assert_eq!(comparison.first_difference, None, "{settings:?}");
    assert_balanced(&outcome);
    assert_eq!((outcome.recoveries.len(), outcome.root.counts.handovers), (5, 3));
    assert_eq!(outcome.root.counts.packets, PACKETS);
    outcome
}

#[test]
fn instances_die_and_slots_move_under_several_roots() {
    let hosts = "root.hosts=[[\"10.0.0.0/9\"], [\"10.128.0.0/9\", \"203.0.113.0/24\"]]";
    assert_equivalent("quickstart", &["root.instances=2", hosts]);
    let outcome = assert_equivalent("quickstart", &["root.instances=3"]);
    let held: u64 = outcome.instances.iter().map(|counts| counts.held).sum();
    assert!(held > 0, "packets were put into the order of the input");
    assert_equivalent("enterprise", &["root.instances=2", "runtime.arbiters=1"]);
}

#[test]
fn each_root_has_its_packets_in_the_log_of_the_store_before_it_sends_them() {
    assert_equivalent("quickstart", &["root.instances=3", "root.log=store"]);
}

#[test]
fn several_roots_take_packets_in_the_order_of_one() {
    let told = |roots: u16| {
        let plan = plan("portscan", &[format!("root.instances={roots}")]);
        let (outcome, everything) = keep(&plan, capture(input()), Vec::new()).unwrap();
        assert_balanced(&outcome);
        let mut events: Vec<_> =
            everything.events.iter().map(|(_, e)| (e.time, e.number, format!("{:?}", e.event))).collect();
        events.sort();
        let times: Vec<_> =
            outcome.root.stamps.iter().filter(|s| s.step.number > 0).map(|s| s.step.time).collect();
        (events, times, outcome.root.counts.reasons)
    };
    let one = told(1);
    assert!(!one.0.is_empty());
    for roots in [2, 3, 16] {
        assert!(told(roots) == one, "{roots} roots");
    }
}
