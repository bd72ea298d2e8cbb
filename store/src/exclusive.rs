//! The exclusive cache of an instance: values of cross-flow objects while no other instance operates on them.
//!
//! ```text
//!            first operation: sent,            its result and what it left          applied here, sent along
//!   unknown ─────────────────────────► asked ──────────────────────────────► held ──────────────────────────►
//!      ▲                                 ▲      something lower may still come      │
//!      │                                 └──────────────────────────────────────────┤
//!      └──────────── the slots of the vertex are shared from here on ───────────────┘
//! ```
//!
//! A value is held from the first operation on it. Then operations are applied here, whose results nobody has to wait
//! for, and go to the shard with the next batch as before. So the shard has everything, and nothing is to be written
//! back when another instance comes in. The shard compares its results with those of the cache.
//!
//! Only objects whose operations take effect in position order are held, and only an operation below which nothing can
//! come any more is applied here: so both apply them in the same order. An operation that was applied before, as in a
//! replay, brings no value along, and one below the last that a held value has in it was.
//!
//! Cost: a look-up an operation. Memory: a table entry for each key, and at most as many as configured; then all are
//! forgotten. Paper: section 4.3, Table 1, the last row.

use crate::batch::{Answer, OpItem, OpName};
use crate::object_table::{hash_of, is_same};
use crate::objects::{Single, is_ordered};
use chc_api::state::{ObjectKind, ObjectSpec};
use chc_api::{Clock, CustomOp, ObjectId, ObjectKey, OpValue, Protection, Protections};
use hashbrown::HashTable;
use std::marker::PhantomData;
use std::ops::Range;
use std::task::Poll;

/// Most values an instance holds.
pub const VALUES_MAX: usize = 1 << 16;

/// What is known of the value of one key.
struct Known {
    object: ObjectId,
    key: ObjectKey,
    entry: Entry,
}

impl Known {
    #[inline]
    fn is_of(&self, object: ObjectId, key: &ObjectKey) -> bool {
        self.object == object && is_same(&self.key, key)
    }
}

/// Where it is.
enum Entry {
    /// It is what this operation leaves, the highest so far, which may bring it along.
    Asked(OpName),
    /// It is here, as this operation left it.
    Held(OpName, Single),
}

/// The cache of one instance.
pub struct ExclusiveCache<P> {
    specs: Vec<ObjectSpec>,
    /// By object: whether its values may be held.
    cached: Vec<bool>,
    values: HashTable<Known>,
    values_max: usize,
    /// The clocks for which no other instance operates on the objects.
    term: Range<Clock>,
    /// The highest operation that was left to the shard, and the highest that was forgotten.
    highest: Option<OpName>,
    forgotten: Option<OpName>,
    on: PhantomData<fn() -> P>,
}

/// Whether values of an object can be held: what an operation does to them is known here as well as in the store.
fn can_be_held(spec: &ObjectSpec) -> bool {
    let is_known = match &spec.kind {
        ObjectKind::Value { ops, .. } => !ops.iter().any(CustomOp::is_drawn),
        ObjectKind::Int { .. } => true,
        _ => false,
    };
    // Whether one more value may be set depends on the keys that others have set.
    is_known && is_ordered(spec) && spec.keys_max.is_none()
}

impl<P: Protections> ExclusiveCache<P> {
    /// An empty cache for at most `values_max` values; `None` if the vertex has no objects to hold.
    #[must_use]
    pub fn new(specs: &[ObjectSpec], values_max: usize) -> Option<Self> {
        let cached: Vec<bool> = specs.iter().map(can_be_held).collect();
        let term = if P::on(Protection::CacheTerms) { Clock(0)..Clock(0) } else { Clock(0)..Clock(u64::MAX) };
        cached.contains(&true).then(|| Self {
            specs: specs.to_vec(),
            cached,
            values: HashTable::new(),
            values_max,
            term,
            highest: None,
            forgotten: None,
            on: PhantomData,
        })
    }

    /// Whether an object's values may be held.
    #[must_use]
    pub fn holds(&self, object: ObjectId) -> bool {
        self.cached.get(usize::from(object.0)) == Some(&true)
    }

    /// Forgets everything; values are held again for operations in `term`.
    pub fn begin_term(&mut self, term: Range<Clock>) {
        if P::on(Protection::CacheTerms) {
            self.term = term;
            self.values.clear();
        }
    }

    /// From this boundary on other instances may operate on the objects.
    pub fn end_term(&mut self, boundary: Clock) {
        if P::on(Protection::CacheTerms) {
            self.term.end = self.term.end.min(boundary);
        }
    }

    /// Whether values may be held for operations of this clock.
    #[inline]
    #[must_use]
    pub fn is_open(&self, clock: Clock) -> bool {
        self.term.contains(&clock)
    }

    /// An operation is issued: says in it what the shard has to answer. Returns the result, if it is not the shard's to
    /// say; `is_lowest` tells whether nothing below it can operate on the objects any more.
    #[inline]
    pub fn issue(&mut self, item: &mut OpItem, is_lowest: bool) -> Poll<OpValue> {
        let OpItem { name, object, ref key, ref op, now, ref mut answer } = *item;
        if !(self.holds(object) && self.is_open(name.position.clock)) {
            return Poll::Pending;
        }
        let is_lowest = is_lowest || !P::on(Protection::CacheOrder);
        let hash = hash_of(key);
        match self.values.find_mut(hash, |known| known.is_of(object, key)).map(|known| &mut known.entry) {
            // In a replay: the value has it already.
            Some(Entry::Held(last, _)) if name < *last => return Poll::Pending,
            Some(Entry::Held(last, value)) if is_lowest => {
                *last = name;
                let result = value.apply(&self.specs[usize::from(object.0)], op, now);
                *answer = Answer::Known(result.fingerprint());
                return Poll::Ready(result);
            }
            Some(Entry::Asked(highest)) => *highest = name.max(*highest),
            Some(entry) => *entry = Entry::Asked(name),
            None => {
                if self.values.len() >= self.values_max {
                    self.forget();
                }
                let known = Known { object, key: *key, entry: Entry::Asked(name) };
                self.values.insert_unique(hash, known, |known| hash_of(&known.key));
            }
        }
        self.highest = self.highest.max(Some(name));
        if answer.is_awaited() {
            *answer = Answer::Value;
        }
        Poll::Pending
    }

    /// Makes room. What is on its way may lack what a forgotten operation is going to do.
    fn forget(&mut self) {
        self.values.clear();
        self.forgotten = self.highest;
    }

    /// The shard says what an operation left.
    pub fn learn(&mut self, item: &OpItem, value: &OpValue) {
        let known = self.values.find_mut(hash_of(&item.key), |known| known.is_of(item.object, &item.key));
        let is_highest = |known: &&mut Known| matches!(known.entry, Entry::Asked(name) if name == item.name);
        if let Some(known) = known.filter(is_highest)
            && Some(item.name) > self.forgotten
            && let Some(value) = Single::new(value, item.now)
        {
            known.entry = Entry::Held(item.name, value);
        }
    }

    /// How many values are held or asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::{All, Consistency, Declarations, Op, Path, Position, Scope};

    const N: ObjectId = ObjectId(0);

    fn cache(values_max: usize) -> ExclusiveCache<All> {
        let mut d = Declarations::default();
        d.basic("n", Scope::Global, Consistency::Clock, ObjectKind::Int { initial: 0 }, (1, 0));
        d.basic("s", Scope::Global, Consistency::Serial, ObjectKind::Int { initial: 0 }, (1, 0));
        d.basic("l", Scope::Global, Consistency::Clock, ObjectKind::List { len_max: 9 }, (1, 0));
        let mut cache = ExclusiveCache::new(&d.objects, values_max).unwrap();
        cache.begin_term(Clock(0)..Clock(100));
        cache
    }

    fn add(object: ObjectId, clock: u64, key: u64) -> OpItem {
        let name = OpName { position: Position::packet(Clock(clock), Path::FIRST), index: 0 };
        let (key, op) = (ObjectKey::number(key), Op::Increment(1));
        OpItem { name, object, key, op, now: chc_api::Time(0), answer: Answer::Result }
    }

    /// Issues an increment; what it returned here, and what the shard has to answer.
    fn issue(
        cache: &mut ExclusiveCache<All>,
        mut item: OpItem,
        is_lowest: bool,
    ) -> (Option<OpValue>, Answer) {
        let known = match cache.issue(&mut item, is_lowest) {
            Poll::Ready(known) => Some(known),
            Poll::Pending => None,
        };
        (known, item.answer)
    }

    #[test]
    fn a_value_is_held_from_its_first_operation_on() {
        let mut cache = cache(8);
        let first = add(N, 1, 7);
        assert_eq!(issue(&mut cache, first, true), (None, Answer::Value));
        cache.learn(&first, &OpValue::Int(41));
        let known = OpValue::Int(42);
        let answer = Answer::Known(known.fingerprint());
        assert_eq!(issue(&mut cache, add(N, 2, 7), true), (Some(known), answer));
        assert_eq!(issue(&mut cache, add(N, 3, 8), true), (None, Answer::Value), "another key");
    }

    #[test]
    fn only_the_highest_operation_brings_the_value_along() {
        let mut cache = cache(8);
        let (high, low) = (add(N, 5, 7), add(N, 3, 7));
        issue(&mut cache, high, false);
        issue(&mut cache, low, false);
        cache.learn(&low, &OpValue::Int(1));
        assert_eq!(issue(&mut cache, add(N, 6, 7), true), (None, Answer::Value), "clock 5 is on its way");
        cache.learn(&high, &OpValue::Int(2));
        assert_eq!(issue(&mut cache, add(N, 7, 7), true), (None, Answer::Value), "clock 6 is on its way");
    }

    #[test]
    fn an_operation_that_lower_ones_may_follow_is_left_to_the_shard() {
        let mut cache = cache(8);
        issue(&mut cache, add(N, 1, 7), true);
        cache.learn(&add(N, 1, 7), &OpValue::Int(1));
        assert_eq!(issue(&mut cache, add(N, 5, 7), false), (None, Answer::Value));
        assert_eq!(issue(&mut cache, add(N, 6, 7), true), (None, Answer::Value));
    }

    #[test]
    fn an_operation_nobody_waits_for_brings_no_value_along() {
        let mut cache = cache(8);
        let silent = |clock| OpItem { answer: Answer::Nothing, ..add(N, clock, 7) };
        issue(&mut cache, add(N, 1, 7), true);
        assert_eq!(issue(&mut cache, silent(2), true), (None, Answer::Nothing));
        cache.learn(&add(N, 1, 7), &OpValue::Int(1));
        assert_eq!(issue(&mut cache, add(N, 3, 7), true), (None, Answer::Value), "clock 2 is missing in it");
        cache.learn(&add(N, 3, 7), &OpValue::Int(3));
        assert!(matches!(issue(&mut cache, silent(4), true), (Some(OpValue::Int(4)), Answer::Known(_))));
        assert_eq!(issue(&mut cache, add(N, 5, 7), true).0, Some(OpValue::Int(5)));
    }

    #[test]
    fn a_value_below_an_operation_nobody_waits_for_is_not_held() {
        let mut cache = cache(8);
        assert_eq!(issue(&mut cache, OpItem { answer: Answer::Nothing, ..add(N, 9, 7) }, false).0, None);
        issue(&mut cache, add(N, 3, 7), true);
        cache.learn(&add(N, 3, 7), &OpValue::Int(1));
        assert_eq!(issue(&mut cache, add(N, 10, 7), true), (None, Answer::Value), "clock 9 is missing in it");
    }

    #[test]
    fn a_value_that_may_lack_a_forgotten_operation_is_not_held() {
        let mut cache = cache(2);
        issue(&mut cache, add(N, 9, 7), false);
        issue(&mut cache, add(N, 1, 1), true);
        issue(&mut cache, add(N, 2, 2), true);
        issue(&mut cache, add(N, 3, 7), true);
        cache.learn(&add(N, 3, 7), &OpValue::Int(1));
        assert_eq!(issue(&mut cache, add(N, 10, 7), true), (None, Answer::Value), "clock 9 is missing in it");
        cache.learn(&add(N, 10, 7), &OpValue::Int(3));
        assert_eq!(issue(&mut cache, add(N, 11, 7), true).0, Some(OpValue::Int(4)));
    }

    #[test]
    fn an_operation_the_held_value_has_already_is_left_to_the_shard() {
        let mut cache = cache(8);
        issue(&mut cache, add(N, 9, 7), false);
        cache.learn(&add(N, 9, 7), &OpValue::Int(3));
        assert_eq!(issue(&mut cache, add(N, 5, 7), true), (None, Answer::Result), "it ran before");
        assert_eq!(issue(&mut cache, add(N, 10, 7), true).0, Some(OpValue::Int(4)));
    }

    #[test]
    fn nothing_is_held_beyond_the_term_and_of_objects_in_no_order() {
        let mut cache = cache(8);
        assert_eq!(issue(&mut cache, add(ObjectId(1), 1, 7), true), (None, Answer::Result));
        assert_eq!(issue(&mut cache, add(ObjectId(2), 1, 7), true), (None, Answer::Result));
        issue(&mut cache, add(N, 1, 7), true);
        cache.learn(&add(N, 1, 7), &OpValue::Int(1));
        cache.end_term(Clock(50));
        assert_eq!(issue(&mut cache, add(N, 50, 7), true), (None, Answer::Result));
        cache.begin_term(Clock(60)..Clock(100));
        assert_eq!(issue(&mut cache, add(N, 60, 7), true), (None, Answer::Value), "it was forgotten");
    }

    #[test]
    fn an_entry_takes_what_is_said_of_it() {
        assert_eq!(size_of::<Known>(), 176, "ARCHITECTURE.md has this figure");
    }

    #[test]
    fn it_holds_no_more_values_than_it_may() {
        let mut cache = cache(4);
        for clock in 0..50 {
            issue(&mut cache, add(N, clock, clock), true);
            assert!(cache.len() <= 4);
        }
    }
}
