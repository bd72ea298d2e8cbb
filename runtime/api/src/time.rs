//! Packet time: the running maximum of arrival times in root order. Network functions never see
//! any other clock.

use std::ops::Add;
use std::time::Duration;

/// Nanoseconds since the Unix epoch, as captures count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The end of the input. It is later than every packet; only timers armed to fire at the end of
    /// the input become due by it.
    pub const END: Time = Time(u64::MAX);

    /// Whole microseconds since the epoch.
    #[must_use]
    pub fn micros(self) -> u64 {
        self.0 / 1_000
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    // The lint does not expect the bound that keeps a sum below the end.
    #[allow(clippy::suspicious_arithmetic_impl)]
    /// Saturates below [`Time::END`], which no sum reaches.
    fn add(self, by: Duration) -> Time {
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(ns).min(Time::END.0 - 1))
    }
}
