//! Which instances of a vertex own slots, and from which boundary on.
//!
//! From an instance without slots nothing comes, so nobody waits for it and it need not be told how far others are:
//! spare instances cost nothing until they get slots. Who gets its first ones is waited for from that boundary on, by
//! everyone who knows of it; and everyone does before anything at or above the boundary reaches them. Memory: an
//! entry a change above the cut.

use chc_api::{Clock, Position};

/// Instances of a vertex: a bit each, for there are at most [`INSTANCES_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct InstanceSet(u64);

/// Most instances of a vertex.
pub const INSTANCES_MAX: u16 = 64;

impl InstanceSet {
    /// Those that own slots by this table.
    #[must_use]
    pub fn owners(table: &[u16]) -> Self {
        Self(table.iter().fold(0, |all, owner| all | Self::bit(*owner)))
    }

    fn bit(index: u16) -> u64 {
        debug_assert!(index < INSTANCES_MAX, "instance {index} of a vertex");
        1u64.checked_shl(index.into()).unwrap_or(0)
    }

    /// Whether an instance is among them.
    #[inline]
    #[must_use]
    pub fn has(self, index: u16) -> bool {
        self.0 & Self::bit(index) != 0
    }

    /// Those that are in another set, too.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The instances that own slots, by clock.
#[derive(Clone, Debug)]
pub struct Active {
    first: InstanceSet,
    /// Others, each from a boundary on, in their order.
    later: Vec<(Clock, InstanceSet)>,
}

impl Active {
    /// These, whatever the clock.
    #[must_use]
    pub fn new(first: InstanceSet) -> Self {
        Self { first, later: Vec::new() }
    }

    /// Others from a boundary on, unless what holds there is known.
    pub fn change(&mut self, boundary: Clock, set: InstanceSet) {
        if self.later.last().is_none_or(|(from, _)| *from < boundary) {
            self.later.push((boundary, set));
        }
    }

    /// Those at the cut.
    #[must_use]
    pub fn first(&self) -> InstanceSet {
        self.first
    }

    /// Those at a clock.
    #[inline]
    #[must_use]
    pub fn at(&self, clock: Clock) -> InstanceSet {
        self.later.iter().rev().find(|(from, _)| *from <= clock).map_or(self.first, |(_, set)| *set)
    }

    /// Those from the last boundary on.
    #[must_use]
    pub fn last(&self) -> InstanceSet {
        self.later.last().map_or(self.first, |(_, set)| *set)
    }

    /// Forgets what holds for clocks below the cut alone.
    pub fn trim(&mut self, cut: Clock) {
        if let Some(last) = self.later.iter().rposition(|(from, _)| *from <= cut) {
            self.first = self.later[last].1;
            self.later.drain(..=last);
        }
    }

    /// The position below which nothing comes any more of an instance that has come to `progress`: that, or if it owns
    /// no slots there the boundary from which on it does; none if it owns none from there on, as far as is known.
    #[inline]
    #[must_use]
    pub fn next(&self, index: u16, progress: Position) -> Option<Position> {
        if self.at(progress.clock).has(index) {
            return Some(progress);
        }
        let next = self.later.iter().find(|(from, set)| *from > progress.clock && set.has(index));
        next.map(|(from, _)| Position::before(*from))
    }

    /// The same, with the last position there is in place of none.
    #[inline]
    #[must_use]
    pub fn reach(&self, index: u16, progress: Position) -> Position {
        self.next(index, progress).unwrap_or(Position::before(Clock(u64::MAX)))
    }

    /// Whether others than this instance own slots at some clock.
    #[must_use]
    pub fn others(&self, index: u16) -> bool {
        let alone = InstanceSet::owners(&[index]);
        self.first.within(alone) != self.first || self.later.iter().any(|(_, set)| set.within(alone) != *set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::Path;

    const END: Position = Position::before(Clock(u64::MAX));

    fn of(indices: &[u16]) -> InstanceSet {
        InstanceSet::owners(indices)
    }

    #[test]
    fn nothing_comes_of_who_owns_no_slots_until_it_does() {
        let at = |clock| Position::packet(Clock(clock), Path::FIRST);
        let mut active = Active::new(of(&[0, 63]));
        assert_eq!((active.reach(63, at(5)), active.reach(1, at(5))), (at(5), END));
        active.change(Clock(16), of(&[0, 1]));
        active.change(Clock(16), of(&[2]));
        active.change(Clock(32), of(&[0]));
        assert_eq!(active.reach(1, at(5)), Position::before(Clock(16)), "from there on it owns slots");
        assert_eq!((active.reach(1, at(16)), active.reach(1, at(31))), (at(16), at(31)));
        assert_eq!(active.reach(1, Position::before(Clock(32))), END, "it has come to its end");
        assert_eq!((active.reach(63, at(15)), active.reach(63, Position::before(Clock(16)))), (at(15), END));
        assert_eq!((active.reach(0, at(99)), active.reach(2, at(5))), (at(99), END));
        assert_eq!((active.next(2, at(5)), active.next(1, at(5))), (None, Some(Position::before(Clock(16)))));
    }

    #[test]
    fn what_holds_below_the_cut_alone_is_forgotten() {
        let mut active = Active::new(of(&[0]));
        active.change(Clock(16), of(&[1]));
        active.change(Clock(32), of(&[0]));
        active.trim(Clock(31));
        assert_eq!((active.later.len(), active.first, active.last()), (1, of(&[1]), of(&[0])));
        active.trim(Clock(32));
        assert_eq!(
            (active.later.len(), active.first, active.others(0), active.others(1)),
            (0, of(&[0]), false, true)
        );
        assert_eq!(active.reach(1, Position::before(Clock(0))), END);
    }
}
