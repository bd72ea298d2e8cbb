//! Slots change hands while packets flow, instances die in the middle of it, and nothing differs from the ideal chain.

use chc_actors::chain::compile::{ChainPlan, compile};
use chc_actors::chain::run::{RunOptions, RunOutcome, Shared, Turn};
use chc_actors::chain::verify::verify;
use chc_actors::config::{ChainBuilder, PolicyConfig};
use chc_actors::functions::Catalog;
use chc_actors::routing::{Repartition, active, imbalance};
use chc_api::packet::{LinkType, parse};
use chc_e2e::chain::{Mix, assert_balanced, kill, mix, plan};
use chc_runtime::capture::{CaptureReader, CaptureWriter, Format};
use serde_json::json;
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

/// How many instances of each vertex have slots at the end.
fn instances(outcome: &RunOutcome) -> Vec<u16> {
    outcome.root.owners.iter().map(|owners| active(owners)).collect()
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
    assert_eq!(instances(&outcome), [3, 1]);
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

#[test]
fn instances_follow_code_of_the_operators_own() {
    let policy = || PolicyConfig { period_ms: 10, instances_max: 4, ..PolicyConfig::default() };
    let chain = ChainBuilder::new("coded")
        .vertex("nat", "nat", |v| {
            let v = v.config(json!({ "external": ["203.0.113.1"] })).policy(policy());
            v.scale_up_when(|load| load.instances < 3.0)
        })
        .next("portscan")
        .vertex("portscan", "portscan", |v| {
            v.instances(3).policy(policy()).scale_down_when(|load| load.instances > 2.0)
        })
        .build(&Catalog);
    let plan = compile(&chain.unwrap(), &Catalog).unwrap();
    let rate = Some(PACKETS as f64 / 0.4);
    let options = RunOptions { rate, record: true, ..RunOptions::default() };
    let (outcome, comparison) = verify(&plan, input(), &options, |_| {}).unwrap();
    assert_eq!(comparison.first_difference, None);
    assert_eq!(instances(&outcome), [3, 2]);
}

/// How many instances there are is a question of time; that there are as many as the policy wants in the end, and that
/// nothing differs, is not.
#[test]
fn instances_follow_the_policy() {
    let up = "vertex.nat.policy.scale_up=instances < 4.0";
    let down = "vertex.portscan.policy.scale_down=instances > 1.0";
    let period = ["nat", "portscan"].map(|vertex| format!("vertex.{vertex}.policy.period_ms=10"));
    let plan = plan("quickstart", &[up, down, &period[0], &period[1], "vertex.nat.policy.imbalance=64"]);
    // Two turns of the manager of each take five periods apiece.
    let rate = Some(PACKETS as f64 / 0.4);
    let options = RunOptions { rate, record: true, ..RunOptions::default() };
    let (outcome, comparison) = verify(&plan, input(), &options, |_| {}).unwrap();
    assert_eq!(comparison.first_difference, None);
    assert_eq!((instances(&outcome), outcome.root.counts.handovers), (vec![4, 1], 3));
}

/// Hosts of a capture, of which the first send four fifths of the packets: no four instances have as much to do as each
/// other without sharing one of these.
const HOSTS: u32 = 60;
const BUSY: u32 = HOSTS / 10;

/// A capture in which a tenth of the hosts send four fifths of the packets.
fn skewed(path: &Path) {
    let mut writer = CaptureWriter::create(path, Format::Pcap, LinkType::RAW).unwrap();
    for n in 0..60_000u32 {
        // A linear congruence: any fixed spread will do.
        let draw = n.wrapping_mul(2_654_435_761) >> 8;
        let host = if draw % 5 > 0 { draw / 5 % BUSY } else { BUSY + draw / 5 % (HOSTS - BUSY) };
        let mut frame = Vec::new();
        let source = [10, 0, (host >> 8) as u8, host as u8];
        let builder = etherparse::PacketBuilder::ipv4(source, [198, 51, 100, 1], 64);
        builder.tcp(2000 + (n % 7) as u16, 80, 1, 1024).syn().write(&mut frame, &[]).unwrap();
        let time_ns = 1_000_000_000 + u64::from(n) * 10_000;
        writer.write(time_ns, LinkType::RAW, frame.len() as u32, &[&frame]).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn an_uneven_load_is_evened_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("skewed.pcap");
    skewed(&path);
    let four = ["vertex.portscan.instances=4", "vertex.portscan.policy.imbalance=1.25"];
    let plan = plan("portscan", &[four[0], four[1], "vertex.portscan.policy.period_ms=80"]);
    let route = &plan.vertices[0].route;
    let mut packets = vec![0; route.owners.len()];
    let mut reader = CaptureReader::open(&path).unwrap();
    while let Some(record) = reader.next().unwrap() {
        let parsed = parse(record.link, record.data);
        let slot = route.slot(&parsed.identity(), parsed.key.hash(route.seed));
        packets[usize::from(slot.0)] += 1;
    }
    assert!(imbalance(&route.owners, &packets) > 1.25, "the capture is skewed");
    let options = RunOptions { rate: Some(80_000.0), record: true, ..RunOptions::default() };
    let (outcome, comparison) = verify(&plan, &path, &options, |_| {}).unwrap();
    assert_eq!(comparison.first_difference, None);
    let after = imbalance(&outcome.root.owners[0], &packets);
    assert!(after <= 1.25, "{after} after {} changes", outcome.root.counts.handovers);
    // Hosts are split up only where they have to be.
    let owners = &outcome.root.owners[0];
    let whole = |owners: &[u16]| owners.chunks(usize::from(route.fine)).filter(|g| active(g) == 1).count();
    assert_eq!(whole(&route.owners), route.owners.len() / usize::from(route.fine));
    let groups = owners.len() / usize::from(route.fine);
    assert!((groups / 2..groups).contains(&whole(owners)), "{owners:?}");
    let [Shared { before: 0, after }] = outcome.shared[..] else { panic!("{:?}", outcome.shared) };
    assert!((1..u64::from(HOSTS) / 2).contains(&after), "{after} of {HOSTS}");
}

#[test]
fn the_hosts_of_split_groups_are_shared_and_counted() {
    let scale = "vertex.portscan.instances=2";
    let plan = plan("portscan", &[scale]);
    let route = &plan.vertices[0].route;
    let mut to = route.owners.clone();
    // Half of the slots of every second group.
    for group in to.chunks_mut(usize::from(route.fine)).step_by(2) {
        let (half, other) = (group.len() / 2, 1 - group[0]);
        group[..half].fill(other);
    }
    let how = Repartition::Owners { from: route.owners.clone(), to };
    let turns = vec![Turn { vertex: route.vertex, how, after: PACKETS / 2 }];
    let outcome = assert_equivalent(&plan, turns, &[("portscan/0", 51)]);
    let [Shared { before, after }] = outcome.shared[..] else { panic!("{:?}", outcome.shared) };
    let all = outcome.state.keys().filter(|(_, name, _)| *name == "likelihood").count() as u64;
    assert!(before == 0 && after > all / 4 && after < all * 3 / 4, "{after} of {all}");
}
