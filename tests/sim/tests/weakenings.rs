//! Every protection is needed: without it some seed goes wrong that passes with it.

use chc_api::state::FlowOptions;
use chc_api::{
    Clock, Declarations, FlowKey, Generation, InstanceId, ObjectId, Protection, ShardId, Slot, VertexId,
};
use chc_sim::run::{run_seed, run_seeds};
use chc_sim::weaken::{WEAKENINGS, Weakened, by_name, switch_off};
use chc_sim::world::{Faults, TraceMode};
use chc_store::batch::{Batch, Load, VersionItem};
use chc_store::engine::{ShardConfig, ShardEffect, ShardEngine, VertexSpec};
use chc_store::record::Record;
use std::sync::Arc;

/// Seeds that are tried; it ends with the first that fails, and the rarest failures are one in some hundreds.
const SEEDS: u64 = 2000;

/// The first of the seeds that fails without a protection passes with it.
fn assert_needed(name: &str) {
    let off = by_name(name);
    assert!(off.is_some(), "{name} is listed");
    let outcomes = run_seeds(0..SEEDS, Faults::ALL, off, true);
    let failed = outcomes.iter().find(|o| o.failure.is_some()).map(|o| o.seed);
    let Some(seed) = failed else { panic!("without {name} no seed of {SEEDS} fails") };
    let with = run_seed(seed, Faults::ALL, None, TraceMode::Off);
    assert_eq!(with.failure, None, "seed {seed} fails with {name} on, too");
}

#[test]
fn update_suppression_is_needed() {
    assert_needed("update-suppression");
}

#[test]
fn output_suppression_is_needed() {
    assert_needed("output-suppression");
}

#[test]
fn boundary_versions_are_needed() {
    assert_needed("boundary-versions");
}

#[test]
fn replays_that_hold_progress_are_needed() {
    assert_needed("replay-holds-progress");
}

#[test]
fn acknowledged_closing_is_needed() {
    assert_needed("acknowledged-closing");
}

#[test]
fn the_pinned_cut_is_needed() {
    assert_needed("pinned-cut");
}

#[test]
fn logged_observations_are_needed() {
    assert_needed("observed-values");
}

#[test]
fn timers_in_versions_are_needed() {
    assert_needed("timers-in-version");
}

#[test]
fn steps_before_packets_are_needed() {
    assert_needed("steps-first");
}

#[test]
fn the_release_quarantine_is_needed() {
    assert_needed("release-quarantine");
}

#[test]
fn paths_in_positions_are_needed() {
    assert_needed("path-positions");
}

#[test]
fn an_egress_that_closes_is_needed() {
    assert_needed("egress-closing");
}

#[test]
fn progress_off_the_path_is_needed() {
    assert_needed("off-path-progress");
}

#[test]
fn retained_outputs_are_needed() {
    assert_needed("retained-outputs");
}

#[test]
fn batches_in_order_are_needed() {
    assert_needed("batch-order");
}

#[test]
fn logged_draws_are_needed() {
    assert_needed("logged-draws");
}

#[test]
fn owned_releases_are_needed() {
    assert_needed("owned-releases");
}

#[test]
fn new_owners_that_wait_are_needed() {
    assert_needed("buffered-handover");
}

#[test]
fn old_owners_that_flush_are_needed() {
    assert_needed("flushed-release");
}

#[test]
fn holding_downstream_is_needed() {
    assert_needed("held-downstream");
}

#[test]
fn routing_by_clock_is_needed() {
    assert_needed("routed-by-clock");
}

#[test]
fn flushed_state_is_needed() {
    assert_needed("flushed-state");
}

/// What the new owner of a slot wrote last, as its next generation loads it, when versions of the old owner come that
/// it wrote above its term.
fn after_an_overdue_version(weakened: Option<Protection>) -> Vec<u64> {
    let _off = switch_off(weakened);
    let mut declared = Declarations::default();
    declared.flow::<u64>("flows", FlowOptions::default());
    let vertex = VertexSpec { objects: declared.objects, instances: 2, owners: vec![0], per_clock: 1 };
    let config =
        ShardConfig { shard: ShardId(0), window: 32, vertices: vec![vertex], record_choices: false, seed: 1 };
    let mut shard = ShardEngine::<Weakened>::new(config);
    let mut out = Vec::new();
    let instance = |index| InstanceId { vertex: VertexId(0), index };
    let load = |generation, boundary| Load {
        from: instance(1),
        generation: Generation(generation),
        boundary: Clock(boundary),
        slots: vec![Slot(0)],
        held: Vec::new(),
        begins: true,
    };
    let version = |clock| VersionItem {
        object: ObjectId(0),
        slot: Slot(0),
        key: FlowKey::NONE,
        written: Clock(clock),
        record: Some(Record::new(&[clock])),
    };
    shard.on_load(&load(1, 8), &mut out);
    for (index, clock) in [(0, 5), (1, 9), (0, 10)] {
        let session = u64::from(index == 0 && clock > 5) + 1;
        let batch = Batch::empty(instance(index), Generation(1), session);
        shard.on_batch(Arc::new(Batch { versions: vec![version(clock)], ..batch }), &mut out);
    }
    out.clear();
    shard.on_load(&load(2, 16), &mut out);
    let [ShardEffect::Loaded(loaded)] = out.as_slice() else { panic!("{out:?}") };
    loaded.records.iter().map(|(.., record)| record.words()[0]).collect()
}

#[test]
fn terms_that_fence_are_needed() {
    assert_eq!(after_an_overdue_version(None), [9]);
    assert_eq!(after_an_overdue_version(Some(Protection::TermFences)), [10]);
}

#[test]
fn waiting_downstream_for_who_gets_its_first_slots_is_needed() {
    assert_needed("awaited-senders");
}

#[test]
fn waiting_at_the_shards_for_who_gets_its_first_slots_is_needed() {
    assert_needed("awaited-issuers");
}

#[test]
fn operations_that_wait_for_their_clock_are_needed() {
    assert_needed("clock-parking");
}

#[test]
fn values_that_are_held_by_sole_owners_alone_are_needed() {
    assert_needed("cache-terms");
}

#[test]
fn values_that_are_used_in_order_alone_are_needed() {
    assert_needed("cache-order");
}

#[test]
fn changes_that_have_reached_all_copies_are_needed() {
    assert_needed("acknowledged-changes");
}

#[test]
fn reads_of_what_was_a_window_ago_are_needed() {
    assert_needed("delayed-reads");
}

#[test]
fn progress_below_what_waits_for_a_root_is_needed() {
    assert_needed("waiting-progress");
}

#[test]
fn the_order_of_the_input_is_needed_where_ways_join() {
    assert_needed("joined-order");
}

#[test]
fn every_protection_has_one_weakening_named_after_it() {
    // A protection that is added must be added here, too.
    let count = |protection| match protection {
        Protection::UpdateSuppression
        | Protection::OutputSuppression
        | Protection::BoundaryVersions
        | Protection::ReplayHoldsProgress
        | Protection::AcknowledgedClosing
        | Protection::PinnedCut
        | Protection::ObservedValues
        | Protection::TimersInVersion
        | Protection::StepsFirst
        | Protection::ReleaseQuarantine
        | Protection::PathPositions
        | Protection::EgressClosing
        | Protection::OffPathProgress
        | Protection::RetainedOutputs
        | Protection::BatchOrder
        | Protection::LoggedDraws
        | Protection::OwnedReleases
        | Protection::BufferedHandover
        | Protection::FlushedRelease
        | Protection::HeldDownstream
        | Protection::AwaitedSenders
        | Protection::AwaitedIssuers
        | Protection::RoutedByClock
        | Protection::FlushedState
        | Protection::TermFences
        | Protection::ClockParking
        | Protection::CacheTerms
        | Protection::CacheOrder
        | Protection::AcknowledgedChanges
        | Protection::DelayedReads
        | Protection::WaitingProgress
        | Protection::JoinedOrder => 32,
    };
    assert_eq!(WEAKENINGS.len(), count(Protection::PinnedCut));
    for (name, protection, _) in WEAKENINGS {
        let mut kebab = String::new();
        for letter in format!("{protection:?}").chars() {
            if letter.is_uppercase() && !kebab.is_empty() {
                kebab.push('-');
            }
            kebab.push(letter.to_ascii_lowercase());
        }
        assert_eq!(name, kebab);
        assert_eq!(by_name(name), Some(protection));
    }
}
