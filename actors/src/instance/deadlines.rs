//! The timers of one part that are not due yet, by deadline.
//!
//! A set in order, in chunks of up to [`CHUNK_MAX`] entries that lie in a row. Most timers are armed for a time behind that
//! of all others, which leaves the nodes of an ordinary B-tree half empty; here the last chunk is filled up before another
//! one begins, so that an entry takes little more than its own bytes. Adding one and taking one away cost a search
//! among the chunks and a move of part of one; the first is at hand. Chunks that become small are put together, so
//! memory follows the number of entries.

use chc_api::Time;
use std::collections::VecDeque;

/// Most entries of a chunk.
const CHUNK_MAX: usize = 256;
/// A chunk with fewer entries goes to one beside it that has room.
const CHUNK_SMALL: usize = CHUNK_MAX / 4;

/// A set of timers by deadline; `T` says which.
#[derive(Clone)]
pub struct Deadlines<T> {
    /// None is empty.
    chunks: VecDeque<VecDeque<(Time, T)>>,
}

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Self { chunks: VecDeque::new() }
    }
}

impl<T: Copy + Ord> Deadlines<T> {
    /// The first deadline.
    #[inline]
    pub fn first(&self) -> Option<Time> {
        Some(self.chunks.front()?.front()?.0)
    }

    /// The first chunk that ends with an entry or behind it: it is there, if anywhere.
    fn chunk_of(&self, entry: &(Time, T)) -> usize {
        self.chunks.partition_point(|chunk| chunk.back().is_some_and(|last| last < entry))
    }

    /// Adds a timer.
    pub fn insert(&mut self, entry: (Time, T)) {
        let mut at = self.chunk_of(&entry);
        if at == self.chunks.len() {
            // Behind all others.
            return match self.chunks.back_mut().filter(|last| last.len() < CHUNK_MAX) {
                Some(last) => last.push_back(entry),
                None => self.chunks.push_back(VecDeque::from([entry])),
            };
        }
        if self.chunks[at].len() == CHUNK_MAX {
            let upper = self.chunks[at].split_off(CHUNK_MAX / 2);
            self.chunks.insert(at + 1, upper);
            at += usize::from(self.chunks[at].back().is_some_and(|last| *last < entry));
        }
        let chunk = &mut self.chunks[at];
        if let Err(place) = chunk.binary_search(&entry) {
            chunk.insert(place, entry);
        }
    }

    /// Takes a timer away, if it is there.
    pub fn remove(&mut self, entry: &(Time, T)) {
        let at = self.chunk_of(entry);
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        let Ok(place) = chunk.binary_search(entry) else { return };
        chunk.remove(place);
        if chunk.len() < CHUNK_SMALL {
            self.dissolve(at);
        }
    }

    /// Gives the entries of a small chunk to the one before or behind it, if that has room to spare.
    fn dissolve(&mut self, at: usize) {
        let len = self.chunks[at].len();
        let has_room = |chunk: &VecDeque<_>| chunk.len() + len <= CHUNK_MAX - CHUNK_SMALL;
        if at > 0 && has_room(&self.chunks[at - 1]) {
            let small = self.chunks.remove(at).unwrap_or_default();
            self.chunks[at - 1].extend(small);
        } else if self.chunks.get(at + 1).is_some_and(has_room) {
            let next = self.chunks.remove(at + 1).unwrap_or_default();
            self.chunks[at].extend(next);
        } else if len == 0 {
            self.chunks.remove(at);
        }
    }

    /// Takes the first timer.
    pub fn pop_first(&mut self) -> Option<(Time, T)> {
        let chunk = self.chunks.front_mut()?;
        let first = chunk.pop_front();
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    impl Deadlines<u32> {
        /// Room for so many entries is taken.
        fn capacity(&self) -> usize {
            self.chunks.iter().map(VecDeque::capacity).sum()
        }
    }

    proptest! {
        #[test]
        fn deadlines_are_a_set_in_order(ops in proptest::collection::vec((0u8..8, 0u64..700, 0u32..3), 1..3000)) {
            let (mut deadlines, mut model) = (Deadlines::default(), BTreeSet::new());
            for (op, time, which) in ops {
                let entry = (Time(time), which);
                match op {
                    0..5 => {
                        deadlines.insert(entry);
                        model.insert(entry);
                    }
                    5 | 6 => {
                        deadlines.remove(&entry);
                        model.remove(&entry);
                    }
                    _ => prop_assert_eq!(deadlines.pop_first(), model.pop_first()),
                }
                prop_assert_eq!(deadlines.first(), model.first().map(|(time, _)| *time));
                prop_assert!(deadlines.chunks.iter().all(|chunk| (1..=CHUNK_MAX).contains(&chunk.len())));
            }
            let all: Vec<_> = std::iter::from_fn(|| deadlines.pop_first()).collect();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_armed_in_order_takes_little_more_than_its_own_bytes() {
        let mut deadlines = Deadlines::default();
        (0..100_000).for_each(|n| deadlines.insert((Time(u64::from(n)), n)));
        assert!(deadlines.capacity() < 101_000, "{}", deadlines.capacity());
    }

    #[test]
    fn a_few_that_are_never_moved_do_not_keep_the_room_of_all_that_were() {
        let mut deadlines = Deadlines::default();
        let (timers, rounds) = (20_000u32, 16);
        // One of 64 stays where it is; the others are armed anew, round by round.
        for round in 0..rounds {
            for timer in 0..timers {
                let at = |round: u32| (Time(u64::from(round * timers + timer)), timer);
                if round == 0 {
                    deadlines.insert(at(0));
                } else if timer % 64 != 0 {
                    deadlines.remove(&at(round - 1));
                    deadlines.insert(at(round));
                }
            }
        }
        assert!(deadlines.capacity() < 4 * timers as usize, "{}", deadlines.capacity());
    }
}
