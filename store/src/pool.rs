//! Pools of owned resources: members are acquired, have an owner, and only the owner can give them
//! back.
//!
//! A member released at clock `r` may be acquired from clock `r + W` on, in the ideal chain too: when
//! a packet is that far behind, everything about the release is settled. An acquire can be decided
//! before its position is reached if more members are eligible than acquires could still come before
//! it; otherwise it waits for its place in the order, and "none left" is exact.
//!
//! Cost: O(log members) an operation; eight bytes a member up to the highest ever used, and an entry for each that
//! was given back and not taken again.

use chc_api::Clock;
use std::collections::BTreeSet;
use std::ops::Range;

/// How a pool picks among eligible members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Any, as early as possible; the longest unused first.
    Any,
    /// The lowest, strictly in position order.
    LowestInOrder,
}

/// One pool.
#[derive(Clone, Debug)]
pub struct PoolState {
    window: u64,
    /// Most acquisitions of one clock: packets of it that can come to the vertex.
    per_clock: u64,
    pick: Pick,
    /// Members never used yet.
    fresh: Range<u64>,
    /// Members that are free and eligible at the settled clock.
    ready: BTreeSet<(u64, u64)>,
    /// Released later than that: (release clock, member).
    resting: BTreeSet<(u64, u64)>,
    /// The clock of each member's owner, or [`FREE`], from the first member on.
    owners: Vec<u64>,
    first: u64,
    uses: u64,
}

/// In place of an owner.
const FREE: u64 = u64::MAX;

/// What became of an acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// This member is the caller's.
    Member(u64),
    /// No member is free at that position.
    None,
    /// It cannot be decided before more is known of lower positions.
    Undecided,
}

impl PoolState {
    /// A pool with all members free.
    #[must_use]
    pub fn new(members: Range<u64>, window: u64, per_clock: u64, pick: Pick) -> Self {
        Self {
            window,
            per_clock,
            pick,
            first: members.start,
            fresh: members,
            ready: BTreeSet::new(),
            resting: BTreeSet::new(),
            owners: Vec::new(),
            uses: 0,
        }
    }

    /// Tries to acquire a member for the packet with clock `at`, when everything below `settled` is
    /// known; `reached` says that everything below the packet's own position is.
    pub fn acquire(&mut self, at: Clock, settled: Clock, reached: bool) -> Acquired {
        // What rests until after this packet is not there for it, however far others are.
        let settled = settled.min(at);
        self.settle(settled);
        let eligible = self.ready.len() as u64 + (self.fresh.end - self.fresh.start);
        let before = (at.0.saturating_sub(settled.0) + 1) * self.per_clock - 1;
        let early = self.pick == Pick::Any && eligible > before;
        if !early && !reached {
            return Acquired::Undecided;
        }
        let member = match self.pick {
            Pick::Any => self.fresh.next().or_else(|| self.ready.pop_first().map(|(_, m)| m)),
            Pick::LowestInOrder => {
                self.settle(at);
                let lowest = self.ready.iter().min_by_key(|(_, m)| *m).copied();
                match lowest {
                    Some(entry) if entry.1 < self.fresh.start => {
                        self.ready.remove(&entry);
                        Some(entry.1)
                    }
                    _ => self.fresh.next(),
                }
            }
        };
        let Some(member) = member else { return Acquired::None };
        let place = self.place(member);
        if place >= self.owners.len() {
            self.owners.resize(place + 1, FREE);
        }
        self.owners[place] = at.0;
        Acquired::Member(member)
    }

    /// Gives a member back at clock `at`. False if `owner` does not own it.
    pub fn release(&mut self, member: u64, owner: u64, at: Clock) -> bool {
        let place = self.place(member);
        match self.owners.get_mut(place) {
            Some(taken) if *taken == owner && owner != FREE => *taken = FREE,
            _ => return false,
        }
        self.resting.insert((at.0, member));
        true
    }

    /// The clock of a member's owner, if it is taken.
    #[must_use]
    pub fn owner(&self, member: u64) -> Option<u64> {
        self.owners.get(self.place(member)).copied().filter(|owner| *owner != FREE)
    }

    /// Members that are taken, with the clock of their owner.
    #[must_use]
    pub fn owners(&self) -> Vec<(u64, u64)> {
        let owned = (self.first..).zip(&self.owners).filter(|(_, owner)| **owner != FREE);
        owned.map(|(member, owner)| (member, *owner)).collect()
    }

    /// Where a member's owner lies; beyond the end for what is no member.
    fn place(&self, member: u64) -> usize {
        member.checked_sub(self.first).map_or(usize::MAX, |place| place as usize)
    }

    fn settle(&mut self, clock: Clock) {
        while let Some(&(released, member)) = self.resting.first() {
            if released + self.window > clock.0 {
                break;
            }
            self.resting.pop_first();
            self.uses += 1;
            self.ready.insert((self.uses, member));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_member_rests_for_a_window() {
        let mut pool = PoolState::new(5..6, 10, 1, Pick::Any);
        assert_eq!(pool.acquire(Clock(1), Clock(1), true), Acquired::Member(5));
        assert!(pool.release(5, 1, Clock(3)));
        assert_eq!(pool.acquire(Clock(12), Clock(12), true), Acquired::None);
        assert_eq!(pool.acquire(Clock(13), Clock(13), true), Acquired::Member(5));
    }

    #[test]
    fn only_the_owner_releases() {
        let mut pool = PoolState::new(5..6, 0, 1, Pick::Any);
        assert_eq!(pool.acquire(Clock(7), Clock(7), true), Acquired::Member(5));
        assert!(!pool.release(5, 8, Clock(9)), "another clock does not own it");
        assert!(pool.release(5, 7, Clock(9)));
        assert!(!pool.release(5, 7, Clock(9)), "nothing is freed twice");
    }

    #[test]
    fn scarcity_waits_for_the_order() {
        let mut pool = PoolState::new(0..2, 10, 1, Pick::Any);
        assert_eq!(
            pool.acquire(Clock(9), Clock(0), false),
            Acquired::Undecided,
            "nine lower clocks could take two"
        );
        assert_eq!(
            pool.acquire(Clock(9), Clock(8), false),
            Acquired::Member(0),
            "one lower clock cannot take both"
        );
        assert_eq!(pool.acquire(Clock(10), Clock(9), false), Acquired::Undecided);
        assert_eq!(pool.acquire(Clock(10), Clock(10), true), Acquired::Member(1));
        assert_eq!(pool.acquire(Clock(11), Clock(11), true), Acquired::None);
    }

    #[test]
    fn a_late_acquire_gets_what_was_free_at_its_clock() {
        for pick in [Pick::Any, Pick::LowestInOrder] {
            let mut pool = PoolState::new(0..1, 10, 1, pick);
            assert_eq!(pool.acquire(Clock(1), Clock(1), true), Acquired::Member(0));
            assert!(pool.release(0, 1, Clock(5)));
            assert_eq!(pool.acquire(Clock(13), Clock(20), true), Acquired::None, "it rests until 15");
            assert_eq!(pool.acquire(Clock(15), Clock(20), true), Acquired::Member(0));
        }
    }

    #[test]
    fn where_a_clock_has_several_packets_each_may_acquire_before() {
        for (per_clock, want) in [(1, Acquired::Member(0)), (2, Acquired::Undecided)] {
            // Two members, and one clock between: one acquisition can come before this one, or three.
            let mut pool = PoolState::new(0..2, 10, per_clock, Pick::Any);
            assert_eq!(pool.acquire(Clock(6), Clock(5), false), want);
        }
    }

    #[test]
    fn the_lowest_member_is_taken_in_order() {
        let mut pool = PoolState::new(0..4, 0, 1, Pick::LowestInOrder);
        assert_eq!(pool.acquire(Clock(1), Clock(0), false), Acquired::Undecided);
        assert_eq!(pool.acquire(Clock(1), Clock(1), true), Acquired::Member(0));
        assert_eq!(pool.acquire(Clock(2), Clock(2), true), Acquired::Member(1));
        assert!(pool.release(0, 1, Clock(3)));
        assert_eq!(pool.acquire(Clock(4), Clock(4), true), Acquired::Member(0));
    }
}
