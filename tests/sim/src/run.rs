//! Runs of seeds.

use crate::check::compare;
use crate::weaken::switch_off;
use crate::world::{FaultCounts, Faults, TraceMode, World};
use chc_api::Protection;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What became of one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What went wrong, if anything did.
    pub failure: Option<String>,
    /// What the seed drew.
    pub chain: String,
    /// Faults injected.
    pub faults: FaultCounts,
    /// How often what is worth testing happened.
    pub reached: BTreeMap<String, u64>,
    /// Packets in.
    pub packets: u64,
    /// Steps taken.
    pub steps: u64,
    /// Hash of all messages, if it was asked for.
    pub trace: u64,
}

thread_local! {
    /// The last panic of this thread, while panics are expected.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps what a panic says instead of printing it, on threads that run seeds.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let expected = PANIC.with(|panic| match &mut *panic.borrow_mut() {
                Some(said) => {
                    *said = info.to_string();
                    true
                }
                None => false,
            });
            if !expected {
                loud(info);
            }
        }));
    });
}

/// Runs one seed and compares it with the ideal chain.
#[must_use]
pub fn run_seed(seed: u64, faults: Faults, off: Option<Protection>, trace: TraceMode) -> Outcome {
    run_world(seed, off, trace, || World::new(seed, faults, trace))
}

/// The same for a world of any kind.
pub fn run_world(
    seed: u64,
    off: Option<Protection>,
    trace: TraceMode,
    make: impl FnOnce() -> World,
) -> Outcome {
    quiet_panics();
    let guard = switch_off(off);
    let mut outcome = Outcome {
        seed,
        failure: None,
        chain: String::new(),
        faults: BTreeMap::new(),
        reached: BTreeMap::new(),
        packets: 0,
        steps: 0,
        trace: 0,
    };
    // A panic is printed as it happens only where everything is.
    let quiet = trace != TraceMode::Print;
    PANIC.with(|panic| *panic.borrow_mut() = quiet.then(String::new));
    let mut world = None;
    let run = catch_unwind(AssertUnwindSafe(|| {
        let world = world.insert(make());
        world.run()?;
        compare(world)
    }));
    let said = PANIC.with(|panic| panic.borrow_mut().take());
    outcome.failure = match run {
        Ok(result) => result.err(),
        Err(_) => Some(said.unwrap_or_default()),
    };
    if let Some(world) = world {
        outcome.chain = world.setup.describe();
        outcome.faults = world.fault_counts();
        outcome.reached = world.reached();
        outcome.packets = world.input.len() as u64;
        outcome.steps = world.steps;
        outcome.trace = world.trace_hash();
        if catch_unwind(AssertUnwindSafe(|| drop(world))).is_err() {
            outcome.failure.get_or_insert_with(|| "dropping the world panicked".into());
        }
    }
    drop(guard);
    outcome
}

/// Runs seeds on all cores; in the order of the seeds. With `until_failure` seeds above the first that
/// failed may be missing.
#[must_use]
pub fn run_seeds(
    seeds: Range<u64>,
    faults: Faults,
    off: Option<Protection>,
    until_failure: bool,
) -> Vec<Outcome> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut outcomes = Vec::new();
        while !(until_failure && failed.load(Ordering::Relaxed)) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let outcome = run_seed(seed, faults, off, TraceMode::Off);
            if outcome.failure.is_some() {
                failed.store(true, Ordering::Relaxed);
            }
            outcomes.push(outcome);
        }
        outcomes
    };
    let mut all: Vec<Outcome> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    });
    all.sort_by_key(|outcome| outcome.seed);
    all
}
