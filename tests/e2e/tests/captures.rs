//! Real captures, odd and damaged ones among them: none panics the chain, none loses a packet.

use chc_actors::chain::run::RunOutcome;
use chc_actors::chain::sinks::{CaptureSource, Everything};
use chc_e2e::chain::{assert_balanced, keep, plan};
use chc_e2e::trw::{captures, shared};
use chc_runtime::capture::{CaptureError, CaptureReader};
use std::path::Path;

/// Readable packets of a capture, and why reading ended early.
fn readable(path: &Path) -> Result<(u64, Option<String>), CaptureError> {
    let mut reader = CaptureReader::open(path)?;
    let mut packets = 0;
    loop {
        match reader.next() {
            Ok(Some(_)) => packets += 1,
            Ok(None) => return Ok((packets, None)),
            Err(error) => return Ok((packets, Some(error.to_string()))),
        }
    }
}

/// Checks that every packet of a run left once, unless it was dropped, and that nobody died.
fn assert_nothing_lost(file: &str, outcome: &RunOutcome, everything: &Everything) {
    assert_balanced(outcome);
    let drops: u64 = outcome.egress.drops.values().sum();
    let mut clocks: Vec<_> = everything.packets.iter().map(|kept| kept.position.clock).collect();
    clocks.extend(everything.drops.iter().map(|(_, record)| record.position.clock));
    clocks.sort();
    let stamped: Vec<_> = outcome
        .root
        .stamps
        .iter()
        .filter(|stamp| stamp.step.number > 0)
        .map(|stamp| stamp.step.clock)
        .collect();
    assert_eq!(clocks, stamped, "{file}");
    assert_eq!((everything.drops.len() as u64, outcome.recoveries.len()), (drops, 0), "{file}");
}

#[test]
fn every_capture_passes_through_the_quickstart_without_a_death_or_a_loss() {
    assert_all_pass("quickstart");
}

#[test]
fn every_capture_passes_through_four_functions_without_a_death_or_a_loss() {
    assert_all_pass("enterprise");
}

#[test]
fn every_capture_passes_through_branches_without_a_death_or_a_loss() {
    assert_all_pass("trojan");
}

fn assert_all_pass(chain: &str) {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let traces = shared.join("traces");
    let plan = plan(chain, &[""; 0]);
    let (mut files, mut packets, mut damaged) = (0, 0, 0);
    for path in captures(&traces).unwrap() {
        let file = path.strip_prefix(&traces).unwrap().to_string_lossy().into_owned();
        let Ok((expected, error)) = readable(&path) else {
            damaged += 1;
            continue;
        };
        let source = CaptureSource(CaptureReader::open(&path).unwrap());
        let (outcome, everything) =
            keep(&plan, source, Vec::new()).unwrap_or_else(|e| panic!("{file}: {e:#}"));
        assert_eq!(outcome.root.counts.packets, expected, "{file}");
        assert_eq!(outcome.root.input_error, error, "{file}");
        assert_nothing_lost(&file, &outcome, &everything);
        files += 1;
        packets += expected;
        damaged += u64::from(error.is_some());
    }
    assert!(files >= 300 && packets >= 200_000, "{files} captures, {packets} packets");
    assert!((7..20).contains(&damaged), "{damaged} captures are damaged");
}
