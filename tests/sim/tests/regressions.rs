//! Chains of the kinds that once went wrong, each with the story of what did.

use chc_sim::rng::Rng;
use chc_sim::run::run_world;
use chc_sim::setup::{Function, Setup};
use chc_sim::world::{Faults, TraceMode, World};

const SEEDS: u64 = 1_000;
const RUNS: usize = 25;

/// Runs seeds whose setup is of a kind, after a change to it.
fn assert_pass(faults: Faults, is_wanted: impl Fn(&Setup) -> bool, change: impl Fn(&mut Setup)) {
    let wanted = |seed: &u64| is_wanted(&Setup::draw(&mut Rng::new(*seed)));
    let seeds: Vec<u64> = (0..SEEDS).filter(wanted).take(RUNS).collect();
    assert_eq!(seeds.len(), RUNS, "enough seeds are of that kind");
    for seed in seeds {
        let outcome = run_world(seed, None, TraceMode::Off, || {
            let mut rng = Rng::new(seed);
            let mut setup = Setup::draw(&mut rng);
            change(&mut setup);
            World::of(setup, rng, faults, TraceMode::Off)
        });
        assert_eq!(outcome.failure, None, "seed {seed}: {}", outcome.chain);
    }
}

fn is_nat(function: &Function) -> bool {
    matches!(function, Function::Catalog("nat", _))
}

fn is_probe(function: &Function) -> bool {
    matches!(function, Function::Probe(..))
}

/// A due timer waited for a slot while packets in all slots waited for the frontier that this timer
/// held; and a packet that the timer had kept from the last slot was not tried again when the timer was
/// done.
#[test]
fn two_slots_are_enough() {
    assert_pass(
        Faults::NONE,
        |s| s.vertices.iter().any(|v| is_probe(&v.function)),
        |s| s.vertices.iter_mut().for_each(|v| v.parking = 2),
    );
}

/// A packet in front of which a timer of another flow of its slot was due ran first and waited for a
/// port; the timer waited for the packet's slot and held the frontier of the ports.
#[test]
fn timers_of_a_slot_run_before_its_next_packet() {
    assert_pass(
        Faults::NONE,
        |s| is_nat(&s.vertices[0].function),
        |s| {
            s.vertices[0].slots = 4;
            s.vertices[0].instances = 1;
        },
    );
}

/// A packet from outside and one from inside of the same connection take different ways to a translator
/// behind another vertex, and even one sender sends what waited for the store behind later packets.
#[test]
fn a_translator_behind_another_vertex_handles_a_slot_in_order() {
    for instances in [1, 2] {
        assert_pass(
            Faults::RELIABLE_LINKS,
            |s| s.vertices.iter().skip(1).any(|v| is_nat(&v.function)),
            |s| s.vertices.iter_mut().for_each(|v| v.instances = instances),
        );
    }
}

/// A pop was decided together with the news that the frontier had passed it, and got a member that had
/// rested long enough for the frontier but not for the pop.
#[test]
fn a_late_pop_gets_what_was_free_at_its_position() {
    assert_pass(
        Faults::RELIABLE_LINKS,
        |s| s.vertices.iter().any(|v| is_nat(&v.function)) && s.window <= 64,
        |s| s.burst_max = 16,
    );
}

/// A handler that armed its timer at the end of the input was due again at once, for ever, and held the
/// frontier below itself.
#[test]
fn what_the_end_arms_is_never_due() {
    assert_pass(
        Faults::NONE,
        |s| s.vertices.len() == 1 && is_probe(&s.vertices[0].function),
        |s| s.traffic.idle = 0.02,
    );
}

/// What the translator does in a call went by the direction of the connection, what it does in a future by the
/// packet's addresses. They differ where a function in front of it sends packets of its own the other way.
#[test]
fn a_translator_behind_others_goes_by_the_addresses_a_packet_has() {
    assert_pass(
        Faults::NONE,
        |s| is_probe(&s.vertices[0].function) && s.vertices.last().is_some_and(|v| is_nat(&v.function)),
        |_| (),
    );
}

/// What the load balancer does in a call looked at the address a packet from a server has, what decides whose
/// packet it is at the connection's. They differ likewise.
#[test]
fn a_load_balancer_behind_others_goes_by_the_connection() {
    let outcome =
        run_world(847, None, TraceMode::Off, || World::new(847, Faults::RELIABLE_LINKS, TraceMode::Off));
    assert_eq!(outcome.failure, None, "{}", outcome.chain);
}
