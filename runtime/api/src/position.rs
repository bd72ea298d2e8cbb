//! Clocks, positions and time steps.
//!
//! Order: positions compare by clock, then path, then timer origin. A packet has a non-zero path
//! (its first element is 1 for the packet the root stamped); a timer's path starts with 0, so timers
//! due at a clock come before that clock's packets; an all-zero path without origin is a boundary or
//! progress value and comes before both.

use crate::ids::ObjectId;
use crate::time::Time;
use std::fmt;

/// The root's stamp: a sequence number from 0. Each input packet gets its own; a stamp without a
/// packet is *void*.
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
pub struct Clock(pub u64);

impl Clock {
    /// The boundary at or below this clock, for epochs of `epoch` clocks (a power of two).
    #[must_use]
    pub fn floor(self, epoch: u64) -> Clock {
        Clock(self.0 & !(epoch - 1))
    }

    /// The boundary at or above this clock.
    #[must_use]
    pub fn ceil(self, epoch: u64) -> Clock {
        Clock((self.0 + epoch - 1) & !(epoch - 1))
    }
}

/// Which of the packets that came of one input packet: four 8-bit indices, most significant first.
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
pub struct Path(pub u32);

impl Path {
    /// The packet as the root stamped it.
    pub const FIRST: Path = Path(0x0100_0000);
    /// Boundaries, progress values and timers.
    pub const ZERO: Path = Path(0);
    /// Indices a path has room for.
    pub const PLACES: usize = 4;

    /// The path with one more index, which is not 0. What does not fit is left off: chains that need more
    /// than [`Path::PLACES`] are refused.
    #[must_use]
    pub fn append(self, index: u8) -> Path {
        // Indices are never 0, so the zero bytes are those that are free.
        let used = Path::PLACES as u32 - self.0.trailing_zeros().min(32) / 8;
        debug_assert!(index > 0 && (used as usize) < Path::PLACES, "{self:?} has no room for {index}");
        Path(self.0 | u32::from(index) << (24 - 8 * used.min(3)))
    }
}

/// What makes a timer's position unique: who armed it, on which object, which of its timers.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct TimerOrigin {
    /// Clock of the packet that armed it (of the first one when a timer armed it again).
    pub setter: Clock,
    /// Path of that packet.
    pub setter_path: Path,
    /// The object the timer belongs to.
    pub object: ObjectId,
    /// Which of the object's timers.
    pub index: u8,
}

/// The name and the place in the one total order of a packet, a timer or a progress value.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
pub struct Position {
    /// The root's stamp; for a timer the clock it became due at.
    pub clock: Clock,
    /// Which packet of that clock.
    pub path: Path,
    /// Set for timers only.
    pub origin: Option<TimerOrigin>,
}

impl Position {
    /// A packet's position.
    #[must_use]
    pub fn packet(clock: Clock, path: Path) -> Self {
        Self { clock, path, origin: None }
    }

    /// The point before everything of `clock`.
    #[must_use]
    pub const fn before(clock: Clock) -> Self {
        Self { clock, path: Path::ZERO, origin: None }
    }

    /// The position of a timer that is due at `clock`.
    #[must_use]
    pub fn timer(clock: Clock, origin: TimerOrigin) -> Self {
        Self { clock, path: Path::ZERO, origin: Some(origin) }
    }

    /// Whether this names a timer.
    #[must_use]
    pub fn is_timer(&self) -> bool {
        self.origin.is_some()
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.clock.0)?;
        if self.path != Path::ZERO {
            write!(f, ".{:x}", self.path.0)?;
        }
        if let Some(o) = self.origin {
            write!(f, "@t{}.{:x}:{}.{}", o.setter.0, o.setter_path.0, o.object.0, o.index)?;
        }
        Ok(())
    }
}

/// Packet time reached `time` at `clock`. Steps reach every instance in front of the packets they
/// precede and are what timers become due by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// The clock whose packet (or void stamp) carries this time.
    pub clock: Clock,
    /// Packet time at that clock.
    pub time: Time,
    /// 1-based number of the input packet with that clock, 0 for a void clock.
    pub number: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_before_packets_and_after_the_boundary_of_their_clock() {
        let origin =
            TimerOrigin { setter: Clock(3), setter_path: Path::FIRST, object: ObjectId(0), index: 0 };
        let boundary = Position::before(Clock(7));
        let timer = Position::timer(Clock(7), origin);
        let packet = Position::packet(Clock(7), Path::FIRST);
        assert!(boundary < timer && timer < packet && packet < Position::before(Clock(8)));
    }

    #[test]
    fn what_comes_of_a_packet_follows_it() {
        let copy = Path::FIRST.append(7);
        assert_eq!((copy, copy.append(255)), (Path(0x0107_0000), Path(0x0107_ff00)));
        assert!(Path::FIRST < copy && copy < copy.append(1) && copy.append(255) < Path::FIRST.append(8));
        assert_eq!(Path::FIRST.append(0x80).append(0x40).append(0x10), Path(0x0180_4010));
    }

    #[test]
    fn boundaries_enclose_their_clock() {
        assert_eq!(Clock(1023).floor(1024), Clock(0));
        assert_eq!(Clock(1024).floor(1024), Clock(1024));
        assert_eq!(Clock(1024).ceil(1024), Clock(1024));
        assert_eq!(Clock(1025).ceil(1024), Clock(2048));
    }
}
