//! Slots change hands while packets flow, instances die in the middle of it, and nothing differs from the ideal chain.

use chc_actors::chain::compile::ChainPlan;
use chc_actors::chain::run::{RunOptions, RunOutcome, Turn};
use chc_actors::chain::verify::verify;
use chc_actors::routing::Repartition;
use chc_e2e::chain::{Mix, assert_balanced, kill, mix, plan};
use std::path::Path;
use std::sync::OnceLock;

const PACKETS: u64 = 20_000;
const NONE: [&str; 0] = [];

/// One capture for all tests of this process.
fn input() -> &'static Path {
    static MIX: OnceLock<Mix> = OnceLock::new();
    &MIX.get_or_init(|| mix(PACKETS, 11)).path
}

fn at(percent: u64) -> u64 {
    PACKETS * percent / 100
}

/// A chain whose vertices have four instances at most.
fn roomy(name: &str) -> ChainPlan {
    let mut plan = plan(name, &NONE);
    plan.vertices.iter_mut().for_each(|vertex| vertex.route.instances = 4);
    plan
}

fn turn(plan: &ChainPlan, vertex: &str, how: Repartition, percent: u64) -> Turn {
    let vertex = plan.vertices.iter().find(|v| v.name == vertex).unwrap().route.vertex;
    Turn { vertex, how, after: at(percent) }
}

fn moved(from: u16, to: u16, share: f64) -> Repartition {
    Repartition::Move { from, to, share }
}

/// Runs both chains and finds no difference.
#[track_caller]
fn assert_equivalent(plan: &ChainPlan, turns: Vec<Turn>, kills: &[(&str, u64)]) -> RunOutcome {
    let kills = kills.iter().map(|(actor, percent)| kill(actor, at(*percent))).collect();
    let options = RunOptions { kills, turns, record: true, ..RunOptions::default() };
    let (outcome, comparison) = verify(plan, input(), &options, |_| {}).unwrap();
    assert_eq!(comparison.first_difference, None, "{options:?}");
    assert_balanced(&outcome);
    assert_eq!(outcome.root.counts.handovers, options.turns.len() as u64, "each was made");
    outcome
}

#[test]
fn vertices_are_scaled_up_and_down() {
    let plan = roomy("quickstart");
    let scale = |vertex, n, percent| turn(&plan, vertex, Repartition::Scale(n), percent);
    let turns = vec![
        scale("nat", 4, 10),
        scale("portscan", 3, 30),
        scale("nat", 1, 50),
        scale("portscan", 1, 51),
        scale("nat", 3, 80),
    ];
    let outcome = assert_equivalent(&plan, turns, &[]);
    assert_eq!(outcome.root.instances, [3, 1]);
    let took_part: u64 = outcome.instances.iter().map(|counts| counts.handovers).sum();
    assert!(took_part >= 12, "old and new owners: {took_part}");
    assert_eq!(outcome.instances[0].duplicates, 0, "nothing ran twice");
}

#[test]
fn slots_go_there_and_back_again() {
    let plan = roomy("quickstart");
    let turns = (0..10).map(|n| {
        let (from, to) = if n % 2 == 0 { (0, 1) } else { (1, 0) };
        turn(&plan, if n % 4 < 2 { "nat" } else { "portscan" }, moved(from, to, 0.5), 5 + 9 * n)
    });
    assert_equivalent(&plan, turns.collect(), &[]);
}

#[test]
fn old_and_new_owners_may_die_in_the_middle() {
    let plan = roomy("quickstart");
    for (vertex, upstream) in [("nat", "nat"), ("portscan", "nat")] {
        let turns = vec![
            turn(&plan, vertex, moved(0, 1, 1.0), 20),
            turn(&plan, vertex, moved(1, 2, 0.5), 45),
            turn(&plan, vertex, Repartition::Scale(4), 70),
        ];
        let actor = |vertex: &str, index: u16| format!("{vertex}/{index}");
        let [old, new, third] = [0, 1, 2].map(|index| actor(vertex, index));
        let splitter = actor(upstream, 0);
        let kills =
            [(&old, 20), (&new, 20), (&new, 45), (&splitter, 45), (&old, 70), (&new, 70), (&third, 70)];
        let kills: Vec<(&str, u64)> = kills.iter().map(|(actor, at)| (actor.as_str(), *at)).collect();
        assert_equivalent(&plan, turns, &kills);
    }
}

#[test]
fn branches_and_what_is_off_the_path_turn_as_well() {
    let plan = roomy("trojan");
    let names: Vec<String> = plan.vertices.iter().map(|vertex| vertex.name.clone()).collect();
    let turns = names.iter().zip([10, 25, 40, 55, 70, 85]);
    let turns: Vec<Turn> =
        turns.map(|(name, percent)| turn(&plan, name, Repartition::Scale(4), percent)).collect();
    let last = format!("{}/3", names[names.len() - 1]);
    assert_equivalent(&plan, turns, &[(&last, 90)]);
}

/// How many instances there are is a question of time; that there are as many as the policy wants in the end, and that
/// nothing differs, is not.
#[test]
fn instances_follow_the_policy() {
    let up = "vertex.nat.policy.scale_up=instances < 4.0";
    let down = "vertex.portscan.policy.scale_down=instances > 1.0";
    let period = ["nat", "portscan"].map(|vertex| format!("vertex.{vertex}.policy.period_ms=10"));
    let plan = plan("quickstart", &[up, down, &period[0], &period[1]]);
    // Two turns of the manager of each take five periods apiece.
    let rate = Some(PACKETS as f64 / 0.4);
    let options = RunOptions { rate, record: true, ..RunOptions::default() };
    let (outcome, comparison) = verify(&plan, input(), &options, |_| {}).unwrap();
    assert_eq!(comparison.first_difference, None);
    assert_eq!((outcome.root.instances, outcome.root.counts.handovers), (vec![4, 1], 3));
}
