//! Pools of owned resources: members are acquired, have an owner, and only the owner can give them
//! back.
//!
//! A member released at clock `r` may be acquired from clock `r + W` on, in the ideal chain too: when
//! a packet is that far behind, everything about the release is settled. An acquire can be decided
//! before its position is reached if more members are eligible than acquires could still come before
//! it; otherwise it waits for its place in the order, and "none left" is exact.
//!
//! Who acquires may name a member it would like: it gets that one if it is free, else one that is even or odd like it,
//! if one is.
//!
//! Cost: O(log members) an operation; eight bytes a member up to the highest ever used, and an entry for each that
//! was given back and not taken again, or was taken before its turn.

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
    members: Range<u64>,
    /// The lowest even and the lowest odd member that was never used; beyond the members if there is none.
    fresh: [u64; 2],
    /// Members above those that were used.
    early: BTreeSet<u64>,
    /// How many were never used.
    unused: u64,
    /// Even and odd members that are free and eligible at the settled clock: (rank, member), the lowest goes first.
    ready: [BTreeSet<(u64, u64)>; 2],
    /// Released later than that: (release clock, member).
    resting: BTreeSet<(u64, u64)>,
    /// What each member is, from the first on: the clock of its owner, [`FREE`], or [`READY`] and its rank.
    states: Vec<u64>,
    uses: u64,
}

/// Never used, or resting. Clocks are below [`READY`].
const FREE: u64 = u64::MAX;
/// With its rank: free and eligible.
const READY: u64 = 1 << 63;

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
        let first = |odd: u64| members.start + ((members.start % 2) ^ odd);
        Self {
            window,
            per_clock,
            pick,
            fresh: [first(0), first(1)],
            early: BTreeSet::new(),
            unused: members.end.saturating_sub(members.start),
            members,
            ready: Default::default(),
            resting: BTreeSet::new(),
            states: Vec::new(),
            uses: 0,
        }
    }

    /// Tries to acquire a member, `near` this one, for the packet with clock `at`, when everything below `settled` is
    /// known; `reached` says that everything below the packet's own position is.
    pub fn acquire(&mut self, near: Option<u64>, at: Clock, settled: Clock, reached: bool) -> Acquired {
        // What rests until after this packet is not there for it, however far others are.
        let settled = settled.min(at);
        self.settle(settled);
        let eligible = self.ready.iter().map(BTreeSet::len).sum::<usize>() as u64 + self.unused;
        let before = (at.0.saturating_sub(settled.0) + 1) * self.per_clock - 1;
        let early = self.pick == Pick::Any && eligible > before;
        if !early && !reached {
            return Acquired::Undecided;
        }
        if self.pick == Pick::LowestInOrder {
            self.settle(at);
        }
        let wanted = near.filter(|near| self.is_eligible(*near));
        let alike = || near.and_then(|near| self.next(near % 2));
        let Some(member) = wanted.or_else(alike).or_else(|| self.next_of_all()) else {
            return Acquired::None;
        };
        self.take(member, at);
        Acquired::Member(member)
    }

    fn is_eligible(&self, member: u64) -> bool {
        let is_fresh = member >= self.fresh[(member % 2) as usize] && !self.early.contains(&member);
        self.members.contains(&member) && (is_fresh || self.rank(member).is_some())
    }

    /// The rank of a member that is ready.
    fn rank(&self, member: u64) -> Option<u64> {
        let state = self.states.get(self.place(member)).copied().filter(|state| *state != FREE)?;
        (state & READY != 0).then_some(state & !READY)
    }

    /// The next in turn of the even or the odd members.
    fn next(&self, parity: u64) -> Option<u64> {
        let fresh = Some(self.fresh[parity as usize]).filter(|member| *member < self.members.end);
        let ready = self.ready[parity as usize].first().map(|(_, member)| *member);
        match self.pick {
            Pick::Any => fresh.or(ready),
            Pick::LowestInOrder => [fresh, ready].into_iter().flatten().min(),
        }
    }

    /// The next in turn.
    fn next_of_all(&self) -> Option<u64> {
        let both = [0, 1].map(|parity| self.next(parity));
        // Fresh ones come first, for any pick.
        let rank = |member: u64| (self.pick == Pick::Any).then(|| self.rank(member)).flatten();
        both.into_iter().flatten().min_by_key(|member| (rank(*member), *member))
    }

    fn take(&mut self, member: u64, at: Clock) {
        let (place, parity) = (self.place(member), (member % 2) as usize);
        if let Some(rank) = self.rank(member) {
            self.ready[parity].remove(&(rank, member));
        } else {
            self.unused -= 1;
            if member == self.fresh[parity] {
                self.fresh[parity] += 2;
                while self.early.remove(&self.fresh[parity]) {
                    self.fresh[parity] += 2;
                }
            } else {
                self.early.insert(member);
            }
        }
        if place >= self.states.len() {
            self.states.resize(place + 1, FREE);
        }
        self.states[place] = at.0;
    }

    /// Gives a member back at clock `at`. False if `owner` does not own it.
    pub fn release(&mut self, member: u64, owner: u64, at: Clock) -> bool {
        let place = self.place(member);
        match self.states.get_mut(place) {
            Some(taken) if *taken == owner && owner < READY => *taken = FREE,
            _ => return false,
        }
        self.resting.insert((at.0, member));
        true
    }

    /// The clock of a member's owner, if it is taken.
    #[must_use]
    pub fn owner(&self, member: u64) -> Option<u64> {
        self.states.get(self.place(member)).copied().filter(|owner| *owner < READY)
    }

    /// Members that are taken, with the clock of their owner.
    #[must_use]
    pub fn owners(&self) -> Vec<(u64, u64)> {
        let owned = (self.members.start..).zip(&self.states).filter(|(_, owner)| **owner < READY);
        owned.map(|(member, owner)| (member, *owner)).collect()
    }

    /// Where a member's state lies; beyond the end for what is no member.
    fn place(&self, member: u64) -> usize {
        member.checked_sub(self.members.start).map_or(usize::MAX, |place| place as usize)
    }

    fn settle(&mut self, clock: Clock) {
        while let Some(&(released, member)) = self.resting.first() {
            if released + self.window > clock.0 {
                break;
            }
            self.resting.pop_first();
            self.uses += 1;
            // In order the lowest goes first, otherwise that which was not used for longest.
            let rank = if self.pick == Pick::Any { self.uses } else { 0 };
            let place = self.place(member);
            self.states[place] = READY | rank;
            self.ready[(member % 2) as usize].insert((rank, member));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_released_member_rests_for_a_window() {
        let mut pool = PoolState::new(5..6, 10, 1, Pick::Any);
        assert_eq!(pool.acquire(None, Clock(1), Clock(1), true), Acquired::Member(5));
        assert!(pool.release(5, 1, Clock(3)));
        assert_eq!(pool.acquire(None, Clock(12), Clock(12), true), Acquired::None);
        assert_eq!(pool.acquire(None, Clock(13), Clock(13), true), Acquired::Member(5));
    }

    #[test]
    fn only_the_owner_releases() {
        let mut pool = PoolState::new(5..6, 0, 1, Pick::Any);
        assert_eq!(pool.acquire(None, Clock(7), Clock(7), true), Acquired::Member(5));
        assert!(!pool.release(5, 8, Clock(9)), "another clock does not own it");
        assert!(pool.release(5, 7, Clock(9)));
        assert!(!pool.release(5, 7, Clock(9)), "nothing is freed twice");
    }

    #[test]
    fn scarcity_waits_for_the_order() {
        let mut pool = PoolState::new(0..2, 10, 1, Pick::Any);
        assert_eq!(
            pool.acquire(None, Clock(9), Clock(0), false),
            Acquired::Undecided,
            "nine lower clocks could take two"
        );
        assert_eq!(
            pool.acquire(None, Clock(9), Clock(8), false),
            Acquired::Member(0),
            "one lower clock cannot take both"
        );
        assert_eq!(pool.acquire(None, Clock(10), Clock(9), false), Acquired::Undecided);
        assert_eq!(pool.acquire(None, Clock(10), Clock(10), true), Acquired::Member(1));
        assert_eq!(pool.acquire(None, Clock(11), Clock(11), true), Acquired::None);
    }

    #[test]
    fn a_late_acquire_gets_what_was_free_at_its_clock() {
        for pick in [Pick::Any, Pick::LowestInOrder] {
            let mut pool = PoolState::new(0..1, 10, 1, pick);
            assert_eq!(pool.acquire(None, Clock(1), Clock(1), true), Acquired::Member(0));
            assert!(pool.release(0, 1, Clock(5)));
            assert_eq!(pool.acquire(None, Clock(13), Clock(20), true), Acquired::None, "it rests until 15");
            assert_eq!(pool.acquire(None, Clock(15), Clock(20), true), Acquired::Member(0));
        }
    }

    #[test]
    fn where_a_clock_has_several_packets_each_may_acquire_before() {
        for (per_clock, want) in [(1, Acquired::Member(0)), (2, Acquired::Undecided)] {
            // Two members, and one clock between: one acquisition can come before this one, or three.
            let mut pool = PoolState::new(0..2, 10, per_clock, Pick::Any);
            assert_eq!(pool.acquire(None, Clock(6), Clock(5), false), want);
        }
    }

    #[test]
    fn the_lowest_member_is_taken_in_order() {
        let mut pool = PoolState::new(0..4, 0, 1, Pick::LowestInOrder);
        assert_eq!(pool.acquire(None, Clock(1), Clock(0), false), Acquired::Undecided);
        assert_eq!(pool.acquire(None, Clock(1), Clock(1), true), Acquired::Member(0));
        assert_eq!(pool.acquire(None, Clock(2), Clock(2), true), Acquired::Member(1));
        assert!(pool.release(0, 1, Clock(3)));
        assert_eq!(pool.acquire(None, Clock(4), Clock(4), true), Acquired::Member(0));
    }

    #[test]
    fn a_member_that_is_wished_for_is_given_if_it_is_free_and_else_one_that_is_odd_or_even_like_it() {
        for pick in [Pick::Any, Pick::LowestInOrder] {
            let mut pool = PoolState::new(11..17, 10, 1, pick);
            let near =
                |pool: &mut PoolState, member, at| pool.acquire(Some(member), Clock(at), Clock(at), true);
            assert_eq!(near(&mut pool, 14, 1), Acquired::Member(14));
            assert_eq!(near(&mut pool, 14, 2), Acquired::Member(12), "an even one");
            assert_eq!(near(&mut pool, 99, 3), Acquired::Member(11), "no member, but odd");
            assert_eq!(near(&mut pool, 12, 4), Acquired::Member(16));
            assert_eq!(near(&mut pool, 12, 5), Acquired::Member(13), "no even one is left");
            assert!(pool.release(12, 2, Clock(6)));
            assert_eq!(near(&mut pool, 12, 7), Acquired::Member(15), "it rests");
            assert_eq!(near(&mut pool, 12, 8), Acquired::None);
            assert_eq!(near(&mut pool, 12, 16), Acquired::Member(12));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_wished_for_nothing_is_given_twice_or_too_soon_and_none_is_left_only_if_none_is_free(
            steps in proptest::collection::vec((any::<bool>(), 0u64..14, any::<bool>()), 1..200),
            in_order in any::<bool>(),
        ) {
            const WINDOW: u64 = 5;
            let pick = if in_order { Pick::LowestInOrder } else { Pick::Any };
            let mut pool = PoolState::new(3..11, WINDOW, 1, pick);
            // When each member is free from.
            let mut free: BTreeMap<u64, u64> = (3..11).map(|member| (member, 0)).collect();
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (at, (releases, member, wishes)) in (1..).zip(steps) {
                if releases && !taken.is_empty() {
                    let (member, owner) = taken.swap_remove(member as usize % taken.len());
                    prop_assert!(pool.release(member, owner, Clock(at)));
                    prop_assert!(!pool.release(member, owner, Clock(at)), "it is free already");
                    free.insert(member, at + WINDOW);
                    continue;
                }
                let is_free = |(_, from): &(&u64, &u64)| **from <= at;
                let eligible: Vec<u64> = free.iter().filter(is_free).map(|(member, _)| *member).collect();
                let near = wishes.then_some(member);
                match pool.acquire(near, Clock(at), Clock(at), true) {
                    Acquired::Member(given) => {
                        prop_assert!(eligible.contains(&given), "{} of {:?}", given, eligible);
                        if let Some(near) = near {
                            let alike = eligible.iter().find(|member| **member % 2 == near % 2);
                            let fits = given == near || !eligible.contains(&near);
                            prop_assert!(fits && (alike.is_none() || given % 2 == near % 2));
                            if in_order && given != near {
                                prop_assert_eq!(given, *alike.unwrap_or(&eligible[0]));
                            }
                        } else if in_order {
                            prop_assert_eq!(given, eligible[0]);
                        }
                        free.remove(&given);
                        taken.push((given, at));
                    }
                    other => {
                        prop_assert_eq!(other, Acquired::None);
                        prop_assert!(eligible.is_empty());
                    }
                }
                let mut owners = taken.clone();
                owners.sort_unstable();
                prop_assert_eq!(pool.owners(), owners);
            }
        }
    }
}
