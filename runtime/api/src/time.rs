//! Packet time: the running maximum of arrival times in root order. Network functions never see
//! any other clock.

use std::ops::Add;
use std::time::Duration;

/// Nanoseconds since the Unix epoch, as captures count them.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Time(pub u64);

impl Time {
    /// The end of an input without packets. It is later than every packet; only timers armed to fire at the end of
    /// the input become due by it.
    pub const END: Time = Time(1 << 63);
    /// The latest time a packet can have, in the year 2262.
    pub const LAST: Time = Time(Time::END.0 - 1);

    /// The end of an input whose packets end at this time.
    #[must_use]
    pub fn end_after(last: Time) -> Time {
        Time(Time::END.0 | last.0)
    }

    /// Whether it is the end of an input.
    #[must_use]
    pub fn is_end(self) -> bool {
        self >= Time::END
    }

    /// The time of the last packet, for the end of the input; any other time as it is.
    #[must_use]
    pub fn of_packet(self) -> Time {
        Time(self.0 & Time::LAST.0)
    }

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
    /// Saturates at [`Time::LAST`].
    fn add(self, by: Duration) -> Time {
        let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(ns)).min(Time::LAST)
    }
}
