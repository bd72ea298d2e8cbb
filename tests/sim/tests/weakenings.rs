//! Every protection is needed: without it some seed goes wrong that passes with it.

use chc_api::Protection;
use chc_sim::run::{run_seed, run_seeds};
use chc_sim::weaken::{WEAKENINGS, by_name};
use chc_sim::world::{Faults, TraceMode};

/// The first of the seeds that fails without a protection passes with it.
fn assert_needed(name: &str) {
    let off = by_name(name);
    assert!(off.is_some(), "{name} is listed");
    let outcomes = run_seeds(0..500, Faults::ALL, off, true);
    let failed = outcomes.iter().find(|o| o.failure.is_some()).map(|o| o.seed);
    let Some(seed) = failed else { panic!("without {name} no seed of 500 fails") };
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
        | Protection::RoutedByClock
        | Protection::FlushedState => 22,
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
