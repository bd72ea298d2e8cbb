//! Runs of seeds: what must hold whatever a seed draws.

use chc_sim::run::{Outcome, run_seed, run_seeds};
use chc_sim::world::{Faults, TraceMode};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The seeds every test run goes through, with all faults.
fn outcomes() -> &'static [Outcome] {
    static OUTCOMES: OnceLock<Vec<Outcome>> = OnceLock::new();
    OUTCOMES.get_or_init(|| run_seeds(0..200, Faults::ALL, None, false))
}

fn assert_passes(outcomes: &[Outcome]) {
    let failed = outcomes.iter().filter_map(|o| Some((o.seed, &o.chain, o.failure.as_ref()?)));
    let failed: Vec<String> =
        failed.map(|(seed, chain, what)| format!("seed {seed}: {what}\n  {chain}")).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_chain_equals_the_ideal_one_under_all_faults() {
    assert_eq!(outcomes().len(), 200);
    assert_passes(outcomes());
}

#[test]
fn the_chain_equals_the_ideal_one_without_faults() {
    assert_passes(&run_seeds(0..100, Faults::NONE, None, false));
}

#[test]
fn one_seed_gives_one_trace() {
    let trace = |seed| run_seed(seed, Faults::ALL, None, TraceMode::Hash).trace;
    let first: Vec<u64> = (0..12).map(trace).collect();
    let second: Vec<u64> = (0..12).rev().map(trace).collect();
    assert!(first.iter().eq(second.iter().rev()));
    assert!((1..12).all(|at| first[at] != first[0]), "other seeds give other traces");
}

#[test]
fn every_run_has_hundreds_of_packets_and_all_faults_happen() {
    assert!(outcomes().iter().all(|o| o.packets >= 300));
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in outcomes().iter().take(100).flat_map(|o| &o.faults) {
        *faults.entry(kind).or_default() += count;
    }
    assert_eq!(
        faults.keys().copied().collect::<Vec<_>>(),
        ["burst-cut", "delay", "link-loss", "link-reorder", "link-repeat", "move", "nf-crash", "zombie"]
    );
    assert!(faults.values().all(|count| *count > 0), "{faults:?}");
}

#[test]
fn the_runs_reach_what_they_are_for() {
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, count) in outcomes().iter().flat_map(|o| &o.reached) {
        *reached.entry(what).or_default() += count;
    }
    let wanted = [
        "drop nat_no_mapping",
        "drop nat_ports_exhausted",
        "drop portscan_blocked",
        "drop probe",
        "translation opened",
        "translation closed",
        "portscan",
        "probe",
        "event of a timer",
        "updates suppressed",
        "outputs suppressed",
        "fenced by shards",
        "batches early",
        "batches repeated",
        "fenced by egress",
        "recovered",
        "extra packet",
        "held at a join",
        "event off the path",
        "mode External",
        "mode ExternalCache",
    ];
    for what in wanted {
        assert!(reached.get(what).is_some_and(|count| *count >= 10), "{what}: {reached:?}");
    }
}
