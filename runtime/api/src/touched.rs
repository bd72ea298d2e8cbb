//! When a value was used last, in few bytes.

use crate::time::Time;
use std::time::Duration;

/// When the last operation on a value was, in units of 2^15 ns (33 us) of packet time. Six bytes, so that it fits
/// behind a key and a short value on a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Touched([u8; 6]);

impl Touched {
    /// Now, or at the last packet where the input has ended.
    #[must_use]
    pub fn at(now: Time) -> Self {
        let [a, b, c, d, e, f, ..] = (now.of_packet().0 >> 15).to_le_bytes();
        Self([a, b, c, d, e, f])
    }

    fn units(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// Whether a value that was touched `before` is forgotten by now.
    #[must_use]
    pub fn has_forgotten(self, before: Self, idle: Duration) -> bool {
        u128::from(self.units().saturating_sub(before.units())) > idle.as_nanos().div_ceil(1 << 15)
    }
}
