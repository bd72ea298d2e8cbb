//! What an instance tells about itself while it runs: counted by it, read by its vertex manager.

use chc_api::Slot;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest turn that is told from longer ones, in microseconds.
const TURN_US_MAX: u64 = 60_000_000;

/// The metrics of one instance, over its generations.
pub struct Metrics {
    packets: AtomicU64,
    drops: AtomicU64,
    busy_ns: AtomicU64,
    known: AtomicU64,
    waits: AtomicU64,
    /// Lengths of turns, in microseconds, since they were taken.
    turns: Mutex<Histogram<u32>>,
    /// Packets of each slot among those that were looked at, since they were taken.
    slots: Mutex<Vec<u64>>,
}

impl Metrics {
    /// Metrics of an instance of a vertex with so many slots.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        // The bounds are constants that fit.
        let turns = Histogram::new_with_bounds(1, TURN_US_MAX, 2).expect("the bounds are in order");
        Self {
            packets: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            known: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            turns: Mutex::new(turns),
            slots: Mutex::new(vec![0; slots]),
        }
    }
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets taken.
    pub packets: u64,
    /// Packets its function dropped.
    pub drops: u64,
    /// Time it was busy, in nanoseconds.
    pub busy_ns: u64,
    /// Results of operations that a packet needed and the instance knew.
    pub known: u64,
    /// How often one waited for the store instead.
    pub waits: u64,
}

impl Metrics {
    /// A turn is over, from the first message it took to having sent what came of it, with what was counted in it.
    pub fn turn(&self, took: Duration, counted: &Counted) {
        self.packets.fetch_add(counted.packets, Ordering::Relaxed);
        self.drops.fetch_add(counted.drops, Ordering::Relaxed);
        self.busy_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        self.known.fetch_add(counted.known, Ordering::Relaxed);
        self.waits.fetch_add(counted.waits, Ordering::Relaxed);
        if counted.packets > 0 {
            self.turns.lock().saturating_record((took.as_micros() as u64).max(1));
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn counted(&self) -> Counted {
        Counted {
            packets: self.packets.load(Ordering::Relaxed),
            drops: self.drops.load(Ordering::Relaxed),
            busy_ns: self.busy_ns.load(Ordering::Relaxed),
            known: self.known.load(Ordering::Relaxed),
            waits: self.waits.load(Ordering::Relaxed),
        }
    }

    /// Counts packets of slots.
    pub fn look_at(&self, slots: impl Iterator<Item = Slot>) {
        let mut counts = self.slots.lock();
        for slot in slots {
            if let Some(count) = counts.get_mut(usize::from(slot.0)) {
                *count += 1;
            }
        }
    }

    /// Adds the packets of each slot since this was last called.
    pub fn take_slots(&self, into: &mut [u64]) {
        for (sum, count) in into.iter_mut().zip(self.slots.lock().iter_mut()) {
            *sum += std::mem::take(count);
        }
    }

    /// Adds the lengths of the turns since this was last called.
    pub fn take_turns(&self, into: &mut Histogram<u32>) {
        let mut turns = self.turns.lock();
        // Both have the same bounds.
        let _ = into.add(&*turns);
        turns.reset();
    }
}
