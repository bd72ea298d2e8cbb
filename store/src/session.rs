//! The shard's end of a session: an instance in one generation, whose batches are numbered from 1.
//!
//! A link may lose batches, repeat them and change their order. They are applied in the order of their
//! numbers, each once: what comes early waits, what was applied before is acknowledged again, and what was lost is
//! sent again by the client. Memory: at most [`AHEAD_MAX`] batches a session, none on a link that keeps the order.

use crate::batch::Batch;
use chc_api::{Generation, Protection, Protections};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Batches of a session that may wait for an earlier one. More are dropped, as if they had been lost.
pub const AHEAD_MAX: usize = 1024;

/// One session; the next generation of the instance takes its place.
#[derive(Default)]
pub struct Session {
    generation: Generation,
    applied: u64,
    ahead: BTreeMap<u64, Arc<Batch>>,
}

/// What is to be done with a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// Refuse it: its sender was replaced.
    Fenced,
    /// It is next: apply it.
    Next,
    /// It waits for an earlier one, or was dropped for lack of room.
    Early,
    /// It was applied before.
    Repeated,
}

impl Session {
    /// A generation begins, unless a later one has. The same may begin repeatedly.
    pub fn begin(&mut self, generation: Generation) -> bool {
        if generation > self.generation {
            *self = Self { generation, ..Self::default() };
        }
        generation == self.generation
    }

    /// Looks at a batch's number. What is next counts as applied from now on.
    pub fn admit<P: Protections>(&mut self, batch: &Arc<Batch>) -> Admission {
        if !self.begin(batch.generation) {
            return Admission::Fenced;
        }
        if !P::on(Protection::BatchOrder) {
            self.applied = self.applied.max(batch.number);
            return Admission::Next;
        }
        if batch.number <= self.applied {
            return Admission::Repeated;
        }
        if batch.number > self.applied + 1 {
            if self.ahead.len() < AHEAD_MAX {
                self.ahead.insert(batch.number, batch.clone());
            }
            return Admission::Early;
        }
        self.applied = batch.number;
        Admission::Next
    }

    /// The next batch, if it came early.
    pub fn take_next(&mut self) -> Option<Arc<Batch>> {
        let batch = self.ahead.remove(&(self.applied + 1))?;
        self.applied = batch.number;
        Some(batch)
    }

    /// The generation; 0 before the first begins.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The last batch applied: all of the session up to it are.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::{All, InstanceId, VertexId};
    use proptest::prelude::*;

    fn batch(generation: u32, number: u64) -> Arc<Batch> {
        let from = InstanceId { vertex: VertexId(0), index: 0 };
        Arc::new(Batch::empty(from, Generation(generation), number))
    }

    proptest! {
        #[test]
        fn batches_are_applied_once_and_in_order_whatever_the_link_does(
            numbers in proptest::collection::vec(1u64..12, 0..200),
        ) {
            let (mut session, mut applied) = (Session::default(), Vec::new());
            // Sooner or later everything is sent again.
            for number in numbers.into_iter().chain(1..12) {
                if session.admit::<All>(&batch(1, number)) == Admission::Next {
                    applied.push(number);
                    applied.extend(std::iter::from_fn(|| session.take_next().map(|batch| batch.number)));
                }
                prop_assert_eq!(session.applied(), applied.len() as u64);
            }
            prop_assert_eq!(applied, (1..12).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_later_generation_begins_anew_and_an_older_one_is_refused() {
        let mut session = Session::default();
        assert_eq!(session.admit::<All>(&batch(1, 1)), Admission::Next);
        assert_eq!(session.admit::<All>(&batch(1, 3)), Admission::Early);
        assert!(session.begin(Generation(2)) && session.begin(Generation(2)));
        assert_eq!(session.admit::<All>(&batch(1, 2)), Admission::Fenced);
        assert_eq!(session.admit::<All>(&batch(2, 1)), Admission::Next);
        assert!(!session.begin(Generation(1)) && session.take_next().is_none());
    }

    #[test]
    fn what_comes_early_is_bounded() {
        let mut session = Session::default();
        for number in 2..AHEAD_MAX as u64 * 2 {
            assert_eq!(session.admit::<All>(&batch(1, number)), Admission::Early);
        }
        assert_eq!(session.ahead.len(), AHEAD_MAX);
    }
}
