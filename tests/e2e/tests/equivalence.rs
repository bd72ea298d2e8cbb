//! Chain output equivalence: whatever dies in the real chain, outputs, events, drops and state are the
//! ideal chain's; and the comparison that says so notices what differs.

use chc_actors::chain::compile::ChainPlan;
use chc_actors::chain::run::{Kill, RunOptions, RunOutcome};
use chc_actors::chain::sinks::Everything;
use chc_actors::chain::verify::{Comparison, compare, verify};
use chc_actors::ideal::{StateValue, StateWord};
use chc_api::packet::parse;
use chc_api::{Direction, EventKind, ObjectKey, OpValue, VertexId};
use chc_e2e::chain::{Mix, assert_balanced, capture, keep, kill, mix, plan};
use chc_e2e::trw::shared;
use chc_runtime::capture::CaptureReader;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

const PACKETS: u64 = 20_000;
const INSTANCES: [&str; 4] = ["nat/0", "nat/1", "portscan/0", "portscan/1"];
const NONE: [&str; 0] = [];

/// One capture for all tests of this process.
fn input() -> &'static Path {
    static MIX: OnceLock<Mix> = OnceLock::new();
    &MIX.get_or_init(|| mix(PACKETS, 7)).path
}

fn at(percent: u64) -> u64 {
    PACKETS * percent / 100
}

/// Runs both chains; returns what the real one did, after checking that nothing differs.
#[track_caller]
fn assert_equivalent(plan: &ChainPlan, input: &Path, kills: &[Kill]) -> (RunOutcome, Comparison) {
    let options = RunOptions { kills: kills.to_vec(), record: true, ..RunOptions::default() };
    let (outcome, comparison) = verify(plan, input, &options, |_| {}).unwrap();
    assert_eq!(comparison.first_difference, None, "{kills:?}");
    assert_balanced(&outcome);
    assert_eq!(comparison.outputs, outcome.root.counts.packets);
    assert_eq!(comparison.events, outcome.egress.events);
    let recovered: Vec<&str> = outcome.recoveries.iter().map(|recovery| recovery.actor.as_str()).collect();
    for kill in kills {
        let actor = format!("{}/{}", kill.vertex, kill.child);
        assert!(recovered.contains(&actor.as_str()), "{actor} is not among {recovered:?}");
    }
    assert_eq!(recovered.len(), kills.len());
    (outcome, comparison)
}

fn suppressed(outcome: &RunOutcome) -> (u64, u64) {
    let at_queues: u64 = outcome.instances.iter().map(|instance| instance.duplicates).sum();
    (at_queues + outcome.egress.duplicates, outcome.updates_suppressed())
}

/// Packets that were certainly above the cut when an instance was killed and are its to handle: those of
/// the epoch that was not complete. An epoch that had its bytes was: then the next packet has a later one's clock.
fn certainly_replayed(plan: &ChainPlan, outcome: &RunOutcome, kill: &Kill) -> usize {
    let stamps = &outcome.root.stamps;
    let last = stamps.iter().rfind(|s| (1..=kill.after).contains(&s.step.number));
    let Some(next) = last.map(|stamp| stamp.step.clock.0 + 1) else { return 0 };
    let boundary = next & !(plan.epoch - 1);
    let following = stamps.iter().find(|s| s.step.number == kill.after + 1);
    if following.is_some_and(|stamp| stamp.step.clock.0 >= boundary + plan.epoch) {
        return 0;
    }
    let above = stamps.iter().filter(|s| s.step.number > 0 && (boundary..next).contains(&s.step.clock.0));
    let numbers: Vec<u64> = above.map(|stamp| stamp.step.number).collect();
    let route = &plan.vertices.iter().find(|vertex| vertex.name == kill.vertex).unwrap().route;
    let mut reader = CaptureReader::open(input()).unwrap();
    let mut replayed = 0;
    while let Some(record) = reader.next().unwrap() {
        // Fragments get the identity of their first: left out, to be certain.
        let parsed = parse(record.link, record.data);
        if parsed.reason.is_none() && !parsed.key.is_none() && numbers.contains(&record.number) {
            let slot = route.slot(&parsed.identity(), parsed.key.hash(route.seed));
            replayed += usize::from(route.owners[usize::from(slot.0)].to_string() == kill.child);
        }
    }
    replayed
}

#[test]
fn any_instance_may_die_at_any_time() {
    let plan = plan("quickstart", &NONE);
    let (mut outputs, mut updates, mut certain) = (0, 0, 0);
    for actor in INSTANCES {
        for percent in [1, 20, 40, 60, 80, 99] {
            let kill = kill(actor, at(percent));
            let (outcome, _) = assert_equivalent(&plan, input(), std::slice::from_ref(&kill));
            let [recovery] = outcome.recoveries.as_slice() else { panic!("{:?}", outcome.recoveries) };
            assert_eq!(recovery.kind, "kill");
            if certainly_replayed(&plan, &outcome, &kill) > 0 {
                assert!(recovery.replayed > 0, "{actor} at {percent} %: nothing ran again");
                certain += 1;
            }
            let suppressed = suppressed(&outcome);
            outputs += suppressed.0;
            updates += suppressed.1;
        }
    }
    assert!(certain >= 8, "only {certain} deaths were certain to need a replay");
    assert!(outputs > 0 && updates > 0, "{outputs} outputs and {updates} updates were suppressed");
}

#[test]
fn neighbours_may_die_in_one_burst() {
    let plan = plan("quickstart", &NONE);
    for (upstream, downstream) in [("nat/0", "portscan/1"), ("nat/1", "portscan/0")] {
        assert_equivalent(&plan, input(), &[kill(upstream, at(50)), kill(downstream, at(50))]);
        assert_equivalent(&plan, input(), &[kill(upstream, at(50)), kill(downstream, at(50) + 100)]);
    }
}

#[test]
fn all_instances_may_die_at_once_and_again() {
    let plan = plan("quickstart", &NONE);
    let all = |percent| INSTANCES.map(|actor| kill(actor, at(percent)));
    assert_equivalent(&plan, input(), &all(50));
    assert_equivalent(&plan, input(), &[all(20), all(21), all(80)].concat());
}

#[test]
fn a_manager_may_die_and_its_instances_go_on() {
    let plan = plan("quickstart", &NONE);
    let (outcome, _) = assert_equivalent(&plan, input(), &[kill("nat/manager", at(30))]);
    assert_eq!(suppressed(&outcome), (0, 0));
}

#[test]
fn nobody_dies_and_nothing_is_suppressed() {
    let (outcome, comparison) = assert_equivalent(&plan("quickstart", &NONE), input(), &[]);
    assert_eq!(suppressed(&outcome), (0, 0));
    assert_eq!(comparison.outputs, PACKETS);
    assert!(comparison.events > 100 && comparison.state_objects > 100, "{comparison:?}");
    assert!(comparison.relations.iter().any(|relation| relation.contains("free_ports")), "{comparison:?}");
}

#[test]
fn results_are_known_where_no_other_instance_operates_on_the_state() {
    let known = |instances: &str| {
        let block =
            ["vertex.portscan.config.action=block", &format!("vertex.portscan.instances={instances}")];
        let (outcome, _) = assert_equivalent(&plan("portscan", &block), input(), &[]);
        (outcome.instances[0].known, outcome.instances[0].round_trips)
    };
    let (hits, waits) = known("1");
    assert!(hits > 0 && waits > 0, "{hits} of {}", hits + waits);
    assert_eq!(known("2").0, 0);
}

#[test]
fn single_functions_are_equivalent() {
    assert_equivalent(&plan("nat", &NONE), input(), &[kill("nat/0", at(50))]);
    assert_equivalent(&plan("portscan", &NONE), input(), &[kill("portscan/0", at(50))]);
}

#[test]
fn every_configuration_is_equivalent() {
    let deaths = [kill("nat/0", at(40)), kill("portscan/0", at(60))];
    let cases: &[&[&str]] = &[
        &["vertex.portscan.config.action=block"],
        &["vertex.portscan.config.action=isolate", "vertex.portscan.instances=3"],
        &["vertex.portscan.config.action=isolate", "root.window=128", "store.epoch=64"],
        &["vertex.portscan.config.pick=first_per_host"],
        &["vertex.portscan.config.pick=first_per_service", "vertex.portscan.config.fail_pending_at_end=true"],
        &["vertex.portscan.config.walk=restart"],
        &["vertex.nat.config.port_order=clock"],
        &["vertex.nat.instances=1", "vertex.portscan.instances=1"],
        &["vertex.nat.instances=3", "vertex.portscan.instances=3"],
        &["vertex.nat.instances=1", "vertex.portscan.instances=3"],
        &["runtime.arbiters=2"],
        &["runtime.arbiters=3", "vertex.nat.instances=3", "vertex.portscan.instances=3"],
        &["root.log=store"],
        &["vertex.nat.order=chain"],
        &["root.tick_us=0"],
        &["root.window=128", "store.epoch=64"],
        &["root.window=1024", "store.epoch=64", "runtime.burst=1", "store.shards=1"],
        &["vertex.nat.config.idle_s=2"],
        &["vertex.nat.config.mapping=endpoint_independent", "vertex.nat.instances=3"],
        &[
            "vertex.nat.config.mapping=endpoint_independent",
            "vertex.nat.config.filtering=address_dependent",
            "vertex.nat.config.idle_s=2",
        ],
    ];
    for overrides in cases {
        println!("{overrides:?}");
        let plan = plan("quickstart", overrides);
        assert_equivalent(&plan, input(), &deaths);
    }
}

#[test]
fn instances_of_a_vertex_have_an_arbiter_each_as_far_as_there_are_some() {
    let mut plan = plan("nat", &["vertex.nat.instances=4", "runtime.arbiters=3"]);
    let homes: Arc<Mutex<BTreeMap<u16, String>>> = Arc::default();
    let (make, built) = (plan.vertices[0].function.factory.clone(), homes.clone());
    plan.vertices[0].function.factory = Arc::new(move |config| {
        let home = std::thread::current().name().expect("arbiters have names").to_owned();
        built.lock().unwrap().insert(config.id.index, home);
        make(config)
    });
    keep(&plan, capture(input()), Vec::new()).expect("it ends");
    let homes = homes.lock().unwrap();
    let expected = ["arbiter-0", "arbiter-1", "arbiter-2", "arbiter-0"];
    assert_eq!(homes.values().collect::<Vec<_>>(), expected);
}

#[test]
fn blocked_packets_and_exhausted_ports_are_dropped_as_in_the_ideal_chain() {
    let few = ["vertex.nat.config.ports=1024-1087", "vertex.portscan.config.action=block"];
    let (outcome, _) = assert_equivalent(&plan("quickstart", &few), input(), &[kill("nat/0", at(50))]);
    let drops = &outcome.egress.drops;
    assert!(drops.len() >= 2 && drops.contains_key("portscan_blocked"), "{drops:?}");
}

#[test]
fn isolated_hosts_are_cut_off_in_every_instance_as_in_the_ideal_chain() {
    let isolate = [
        "vertex.portscan.config.action=isolate",
        "vertex.portscan.instances=3",
        "root.window=256",
        "store.epoch=64",
    ];
    let deaths = [kill("portscan/1", at(30)), kill("portscan/0", at(31)), kill("nat/1", at(60))];
    let (outcome, _) = assert_equivalent(&plan("quickstart", &isolate), input(), &deaths);
    let drops = &outcome.egress.drops;
    assert!(drops.contains_key("portscan_isolated"), "{drops:?}");
}

#[test]
fn a_vertex_in_chain_order_sends_all_packets_in_the_order_of_the_input() {
    let falls = |order: &str| {
        let plan =
            plan("quickstart", &[&format!("vertex.portscan.order={order}"), "vertex.portscan.instances=3"]);
        assert_equivalent(&plan, input(), &[kill("portscan/0", at(50)), kill("nat/1", at(51))]);
        let (_, everything) = keep(&plan, capture(input()), Vec::new()).unwrap();
        everything.packets.windows(2).filter(|pair| pair[1].position < pair[0].position).count()
    };
    assert!(falls("flow") > 0, "instances are not equally fast");
    assert_eq!(falls("chain"), 0);
}

#[test]
fn real_captures_are_equivalent() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let captures = [
        "composed/trojan11_mix.pcap",
        "a-mixed/mercury__emix.pcap",
        "c-scan-brute-flood/SUWtHEh-__nmap_script_vuln_ms17-010.pcap",
    ];
    let plan = plan("quickstart", &NONE);
    for name in captures {
        let path = shared.join("traces").join(name);
        let packets = {
            let mut reader = CaptureReader::open(&path).unwrap();
            let mut packets = 0;
            while reader.next().unwrap().is_some() {
                packets += 1;
            }
            packets
        };
        assert!(packets >= 5_000, "{name}: {packets}");
        let deaths = [kill("nat/1", packets / 4), kill("portscan/0", packets * 3 / 4)];
        assert_equivalent(&plan, &path, &deaths);
        assert_equivalent(&plan, &path, &[kill("portscan/1", packets / 4), kill("nat/0", packets * 3 / 4)]);
    }
}

type Tamper<'a> = &'a dyn Fn(&mut RunOutcome, &mut Everything);

/// Runs the real chain, changes its record, and compares.
fn difference(plan: &ChainPlan, input: &Path, tamper: Tamper<'_>) -> Option<String> {
    let (mut outcome, mut everything) = keep(plan, capture(input), Vec::new()).unwrap();
    tamper(&mut outcome, &mut everything);
    compare(plan, input, &outcome, &everything).unwrap().first_difference
}

/// Checks that of each changed record the comparison says what stands beside it.
#[track_caller]
fn assert_noticed(cases: &[(&str, Tamper<'_>)]) {
    let (plan, mix) = dropping();
    assert_eq!(difference(&plan, &mix.path, &|_, _| {}), None);
    for (expected, tamper) in cases {
        let found = difference(&plan, &mix.path, tamper);
        assert!(
            found.as_ref().is_some_and(|f| f.contains(expected)),
            "expected {expected:?}, found {found:?}"
        );
    }
}

/// A chain that drops packets for two reasons, and its input.
fn dropping() -> (ChainPlan, Mix) {
    (plan("quickstart", &["vertex.portscan.config.action=block"]), mix(4_000, 3))
}

#[test]
fn the_comparison_notices_a_changed_packet() {
    let cases: &[(&str, Tamper<'_>)] = &[
        ("differs at byte", &|_, real| real.bytes[50_000] ^= 1),
        ("left out of order", &|_, real| {
            let key = |at: usize| real.packets[at].identity.key;
            let first =
                (0..).find(|at| !key(*at).is_none() && (at + 1..at + 200).any(|b| key(b) == key(*at)));
            let second = (first.unwrap() + 1..).find(|at| key(*at) == key(first.unwrap())).unwrap();
            real.packets.swap(first.unwrap(), second);
        }),
        ("belongs to", &|_, real| {
            let direction = &mut real.packets[1_000].identity.direction;
            *direction = match *direction {
                Direction::LowToHigh => Direction::HighToLow,
                Direction::HighToLow => Direction::LowToHigh,
            };
        }),
        ("did not leave", &|_, real| {
            real.packets.remove(1_000);
        }),
        ("left twice", &|_, real| real.packets.push(real.packets[1_000])),
        ("left, and should not have", &|_, real| {
            let mut extra = *real.packets.last().unwrap();
            extra.position.path.0 += 1;
            real.packets.push(extra);
        }),
    ];
    assert_noticed(cases);
}

#[test]
fn the_comparison_notices_a_changed_drop() {
    let cases: &[(&str, Tamper<'_>)] = &[
        ("by the ideal chain, here Some(\"other\")", &|_, real| {
            real.drops[0].1.reason = "other";
        }),
        ("by the ideal chain, here None", &|_, real| {
            real.drops.remove(0);
        }),
        ("was dropped twice", &|_, real| real.drops.push(real.drops[0])),
        ("should not have been", &|_, real| {
            let mut extra = real.drops[0];
            extra.1.position = real.packets[0].position;
            real.drops.push(extra);
        }),
    ];
    assert_noticed(cases);
}

#[test]
fn the_comparison_notices_a_changed_event() {
    let cases: &[(&str, Tamper<'_>)] = &[
        ("is missing", &|_, real| {
            real.events.pop();
        }),
        ("was reported twice", &|_, real| real.events.push(real.events[0])),
        ("was reported and should not have been", &|_, real| {
            let mut extra = real.events[0];
            extra.1.index = 9;
            real.events.push(extra);
        }),
        ("ideally Event", &|_, real| real.events[0].1.number += 1),
        ("ideally Event", &|_, real| {
            let alert = real.events.iter_mut().find(|e| matches!(e.1.event.kind, EventKind::Alert { .. }));
            alert.unwrap().1.event.kind = EventKind::Alert { signature: "other", category: "", severity: 2 };
        }),
    ];
    assert_noticed(cases);
}

#[test]
fn the_comparison_notices_changed_state_and_choices_that_were_not_legal() {
    let is_record = |value: &StateValue| matches!(value, StateValue::Record { .. });
    let cases: &[(&str, Tamper<'_>)] = &[
        ("ideally Int", &|outcome, _| {
            let total = outcome.state.values_mut().find_map(|value| match value {
                StateValue::Int(total) => Some(total),
                _ => None,
            });
            *total.unwrap() += 1;
        }),
        ("is None, ideally Record", &|outcome, _| {
            let key = *outcome.state.iter().find(|(_, value)| is_record(value)).unwrap().0;
            outcome.state.remove(&key);
        }),
        ("ideally it does not exist", &|outcome, _| {
            let key = StateWord::Object(ObjectKey::number(1));
            outcome.state.insert((VertexId(1), "nothing", key), StateValue::Int(1));
        }),
        ("ideally Record", &|outcome, _| {
            let timers = outcome.state.values_mut().find_map(|value| match value {
                StateValue::Record { timers, .. } if !timers.is_empty() => Some(timers),
                _ => None,
            });
            timers.unwrap().values_mut().for_each(|timer| timer.deadline.0 += 1);
        }),
        // The second connection is said to have got the port of the first.
        ("", &|outcome, _| {
            let mut ports = outcome.choices.iter_mut().filter(|choice| matches!(choice.2, OpValue::Int(_)));
            let first = ports.next().unwrap().2;
            ports.next().unwrap().2 = first;
        }),
    ];
    assert_noticed(cases);
}
