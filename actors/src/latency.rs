//! How long packets took: counts in buckets, so that what was counted between two looks can be told.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 19] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000,
    500_000, 1_000_000,
];

/// Packets by how long they took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Packets in each bucket of [`BOUNDS_US`] and above the last; missing ones at the end are empty.
    pub counts: Vec<u64>,
    /// All times together, in seconds.
    pub sum_s: f64,
}

impl Latencies {
    /// Counts a packet.
    pub fn record(&mut self, took: Duration) {
        let us = took.as_nanos().div_ceil(1000) as u64;
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.sum_s += took.as_secs_f64();
    }

    /// How many packets there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Those that an earlier look had not.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let old = |bucket: usize| before.counts.get(bucket).copied().unwrap_or(0);
        let counts = self.counts.iter().enumerate().map(|(at, count)| count.saturating_sub(old(at)));
        Self { counts: counts.collect(), sum_s: (self.sum_s - before.sum_s).max(0.0) }
    }

    /// A bound, in microseconds, that this share of the packets keeps; `None` if there are none, or they took longer than
    /// the greatest.
    #[must_use]
    pub fn quantile_us(&self, share: f64) -> Option<u64> {
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        BOUNDS_US.get(bucket?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(us: &[u64]) -> Latencies {
        let mut all = Latencies::default();
        us.iter().for_each(|us| all.record(Duration::from_micros(*us)));
        all
    }

    #[test]
    fn a_quantile_is_a_bound_that_its_share_keeps() {
        let all = of(&[1, 3, 3, 900]);
        assert_eq!(
            [0.25, 0.5, 0.75, 1.0].map(|share| all.quantile_us(share)),
            [Some(1), Some(5), Some(5), Some(1000)]
        );
        assert_eq!((of(&[]).quantile_us(0.5), of(&[2_000_000]).quantile_us(0.5)), (None, None));
        assert_eq!(of(&[0]).quantile_us(1.0), Some(1));
    }

    #[test]
    fn only_what_came_since_counts() {
        let (before, mut now) = (of(&[900, 900]), of(&[900, 900]));
        now.record(Duration::from_nanos(1_001));
        let recent = now.since(&before);
        assert_eq!((recent.count(), recent.quantile_us(1.0)), (1, Some(2)));
    }
}
