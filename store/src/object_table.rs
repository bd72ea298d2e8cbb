//! The table of the values of a cross-flow object, by key.
//!
//! Extendible hashing: a directory, indexed by the high bits of a key's hash, of segments with open addressing.
//! A full segment is split in two, so growing never touches more than one segment, and the directory, of four
//! bytes a segment, is doubled at times: there is no pause however many keys there are. Key and value lie
//! together on whole cache lines. [`ObjectTable::touch`] reads a key's line without waiting for it, so that the
//! cache misses of a batch overlap.
//!
//! Cost: O(1) an operation; 64 bytes a slot for integers and 128 for values, and segments are between three
//! eighths and three quarters full.

use chc_api::ObjectKey;
use chc_api::state::{Touched, ValueBytes};
use std::time::Duration;

/// Slots of a segment that is split rather than doubled: splitting it takes some tens of microseconds.
const SEGMENT_SLOTS_MAX: usize = 1024;
const SEGMENT_SLOTS_MIN: usize = 8;
/// Slots [`ObjectTable::sweep`] looks at: with segments at least three eighths full, more than a value each.
const SWEPT_SLOTS: usize = 4;
/// Most bits of a hash that tell segments apart. Keys that are equal in all of these share a segment, which
/// is doubled then.
const DEPTH_MAX: u32 = 28;
/// The seed of the keys' hash. Not that of the hash that spreads keys over shards: those of one shard are alike
/// in its high bits.
const SEED: u64 = 0x5851_f42d_4c95_7f2d;

/// Values of one object.
pub struct ObjectTable<V> {
    /// The segment of each possible value of the first `depth` bits of a hash.
    directory: Vec<u32>,
    depth: u32,
    segments: Vec<Segment<V>>,
    len: usize,
    /// Where to look next for values to forget: segment and slot.
    swept: (usize, usize),
}

struct Segment<V> {
    /// How many bits of their hash all keys in it have in common.
    depth: u32,
    len: usize,
    slots: Vec<Slot<V>>,
}

#[derive(Clone)]
#[repr(align(64))]
struct Slot<V> {
    key: ObjectKey,
    value: Option<V>,
    touched: Touched,
}

impl<V> Default for ObjectTable<V> {
    fn default() -> Self {
        let segments = vec![Segment::new(0, SEGMENT_SLOTS_MIN)];
        Self { directory: vec![0], depth: 0, segments, len: 0, swept: (0, 0) }
    }
}

impl<V> Segment<V> {
    fn new(depth: u32, slots: usize) -> Self {
        let slot = || Slot { key: ObjectKey::GLOBAL, value: None, touched: Touched::default() };
        Self { depth, len: 0, slots: std::iter::repeat_with(slot).take(slots).collect() }
    }

    /// The slot of a key, or the free one where it belongs.
    #[inline]
    fn place(&self, key: &ObjectKey, hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at].value.is_some() && !is_same(&self.slots[at].key, key) {
            at = (at + 1) & mask;
        }
        at
    }

    /// Empties a slot and moves those behind it up, so that no search ends too early.
    fn remove(&mut self, at: usize) {
        let mask = self.slots.len() - 1;
        let (mut free, mut next) = (at, (at + 1) & mask);
        while self.slots[next].value.is_some() {
            let home = hash_of(&self.slots[next].key) as usize & mask;
            // Whether its way from home leads past the free slot.
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(free) & mask) {
                self.slots.swap(free, next);
                free = next;
            }
            next = (next + 1) & mask;
        }
        self.slots[free].value = None;
        self.len -= 1;
    }

    fn is_full(&self) -> bool {
        (self.len + 1) * 4 > self.slots.len() * 3
    }

    fn put(&mut self, slot: Slot<V>) {
        let at = self.place(&slot.key, hash_of(&slot.key));
        self.slots[at] = slot;
        self.len += 1;
    }
}

/// What can be read ahead of a value.
pub trait Touch {
    /// Reads what will be needed of it and is not in the first line of its slot.
    #[inline]
    fn touch(&self) -> u64 {
        0
    }
}

impl Touch for i64 {}

impl Touch for ValueBytes {
    #[inline]
    fn touch(&self) -> u64 {
        u64::from(self.as_slice().last().copied().unwrap_or_default())
    }
}

/// Compares word by word: a comparison of arrays is a call.
#[inline]
#[must_use]
pub fn is_same(a: &ObjectKey, b: &ObjectKey) -> bool {
    let (ObjectKey(a), ObjectKey(b)) = (a, b);
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) == 0
}

/// The hash of a key, as this table wants it.
#[inline]
#[must_use]
pub fn hash_of(key: &ObjectKey) -> u64 {
    key.hash(SEED)
}

impl<V> ObjectTable<V> {
    /// Reads the line a key is most likely in; the caller must use what this returns.
    #[inline]
    #[must_use]
    pub fn touch(&self, hash: u64) -> u64 {
        self.likely(hash).key.0[0]
    }

    /// Continues where the line touched before leads: to the slot behind, if another key is in that one, and to what
    /// lies in a second line of the value.
    #[inline]
    #[must_use]
    pub fn touch_further(&self, key: &ObjectKey, hash: u64) -> u64
    where
        V: Touch,
    {
        let Segment { slots, .. } = &self.segments[self.segment(hash)];
        let (at, mask) = (hash as usize, slots.len() - 1);
        let is_other = slots[at & mask].value.is_some() & !is_same(&slots[at & mask].key, key);
        let slot = &slots[(at + usize::from(is_other)) & mask];
        slot.key.0[0] ^ slot.value.as_ref().map_or(0, V::touch)
    }

    #[inline]
    fn likely(&self, hash: u64) -> &Slot<V> {
        let segment = &self.segments[self.segment(hash)];
        &segment.slots[hash as usize & (segment.slots.len() - 1)]
    }
}

impl<V> ObjectTable<V> {
    /// The value of a key.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &ObjectKey, hash: u64) -> Option<&V> {
        let segment = &self.segments[self.segment(hash)];
        segment.slots[segment.place(key, hash)].value.as_ref()
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, key: &ObjectKey, hash: u64) -> Option<&mut V> {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        let at = segment.place(key, hash);
        segment.slots[at].value.as_mut()
    }

    /// The value of a key, which is what `initial` returns if there was none.
    #[inline]
    pub fn get_or_insert_with(&mut self, key: &ObjectKey, hash: u64, initial: impl FnOnce() -> V) -> &mut V {
        let mut segment = self.segment(hash);
        let mut at = self.segments[segment].place(key, hash);
        if self.segments[segment].slots[at].value.is_none() {
            while self.segments[segment].is_full() {
                self.grow(segment);
                segment = self.segment(hash);
            }
            at = self.segments[segment].place(key, hash);
            self.segments[segment].len += 1;
            self.segments[segment].slots[at].key = *key;
            self.len += 1;
        }
        self.segments[segment].slots[at].value.get_or_insert_with(initial)
    }

    /// Removes a value.
    pub fn remove(&mut self, key: &ObjectKey, hash: u64) {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        let at = segment.place(key, hash);
        if segment.slots[at].value.is_some() {
            segment.remove(at);
            self.len -= 1;
        }
    }

    /// Notes that a value is used now, and forgets it if it was not for longer than `idle`.
    pub fn use_now(&mut self, key: &ObjectKey, hash: u64, now: Touched, idle: Duration) {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        let at = segment.place(key, hash);
        let slot = &mut segment.slots[at];
        if slot.value.is_some() && now.has_forgotten(slot.touched, idle) {
            segment.remove(at);
            self.len -= 1;
        } else {
            slot.touched = now;
        }
    }

    /// Notes that a value, which there is, was used at this time.
    pub fn used(&mut self, key: &ObjectKey, hash: u64, now: Touched) {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        let at = segment.place(key, hash);
        segment.slots[at].touched = now;
    }

    /// Looks at a few slots and forgets the values that were not used for longer than `idle`. Called with every
    /// operation, it goes through all of them in fewer operations than there are values.
    pub fn sweep(&mut self, now: Touched, idle: Duration) {
        let (mut at, mut slot) = self.swept;
        for _ in 0..SWEPT_SLOTS {
            if slot >= self.segments[at].slots.len() {
                (at, slot) = ((at + 1) % self.segments.len(), 0);
            }
            let segment = &mut self.segments[at];
            let Slot { value, touched, .. } = &segment.slots[slot];
            if value.is_some() && now.has_forgotten(*touched, idle) {
                // Another one may be in its place now.
                segment.remove(slot);
                self.len -= 1;
            } else {
                slot += 1;
            }
        }
        self.swept = (at, slot);
    }

    /// Keys with their values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &V)> {
        let slots = self.segments.iter().flat_map(|segment| &segment.slots);
        slots.filter_map(|slot| Some((&slot.key, slot.value.as_ref()?)))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn segment(&self, hash: u64) -> usize {
        self.directory[bits(hash, self.depth)] as usize
    }

    /// Makes room in a segment.
    #[cold]
    fn grow(&mut self, at: usize) {
        let Segment { depth, slots, .. } = &mut self.segments[at];
        let (depth, old) = (*depth, std::mem::take(slots));
        if old.len() < SEGMENT_SLOTS_MAX || depth == DEPTH_MAX {
            self.segments[at] = Segment::new(depth, old.len() * 2);
            return old
                .into_iter()
                .filter(|slot| slot.value.is_some())
                .for_each(|slot| self.segments[at].put(slot));
        }
        if depth == self.depth {
            self.directory = self.directory.iter().flat_map(|segment| [*segment; 2]).collect();
            self.depth += 1;
        }
        let (mut low, mut high) = (Segment::new(depth + 1, old.len()), Segment::new(depth + 1, old.len()));
        let mut prefix = 0;
        for slot in old.into_iter().filter(|slot| slot.value.is_some()) {
            let bits = bits(hash_of(&slot.key), depth + 1);
            prefix = bits >> 1;
            if bits & 1 == 0 { low.put(slot) } else { high.put(slot) }
        }
        self.segments[at] = low;
        self.segments.push(high);
        // The half of the old segment's directory entries with the bit set leads to the new one.
        let shift = self.depth - (depth + 1);
        let from = (prefix << 1 | 1) << shift;
        self.directory[from..from + (1 << shift)].fill(self.segments.len() as u32 - 1);
    }
}

/// The first `count` bits.
#[inline]
fn bits(hash: u64, count: u32) -> usize {
    // In two steps: a shift by all 64 bits is not defined.
    (hash >> 1 >> (63 - count)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::ShortValue;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn a_table_is_a_map(keys in proptest::collection::vec(0u64..3000, 1..6000)) {
            let (mut table, mut model) = (ObjectTable::default(), BTreeMap::new());
            for (nth, n) in keys.iter().enumerate() {
                let key = ObjectKey::number(*n);
                prop_assert_eq!(table.get(&key, hash_of(&key)), model.get(&key));
                *table.get_or_insert_with(&key, hash_of(&key), || 0) += nth;
                *model.entry(key).or_insert(0) += nth;
                prop_assert_eq!(table.get_mut(&key, hash_of(&key)).copied(), model.get(&key).copied());
            }
            prop_assert_eq!(table.len(), model.len());
            let mut all: Vec<_> = table.iter().map(|(key, value)| (*key, *value)).collect();
            all.sort_unstable();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }

    proptest! {
        #[test]
        fn a_value_is_forgotten_when_it_was_not_used_for_long_and_no_other_is(
            steps in proptest::collection::vec((0u64..400, 0u64..20), 1..3000),
        ) {
            let idle = Duration::from_millis(1000);
            let at = |ms: u64| Touched::at(chc_api::Time(ms * 1_000_000));
            let (mut table, mut model) = (ObjectTable::default(), BTreeMap::<u64, (u64, u64)>::new());
            let mut now = 0;
            for (n, later) in steps {
                now += later;
                let (key, hash) = (ObjectKey::number(n), hash_of(&ObjectKey::number(n)));
                table.use_now(&key, hash, at(now), idle);
                table.sweep(at(now), idle);
                if model.get(&n).is_some_and(|(_, used)| at(now).has_forgotten(at(*used), idle)) {
                    model.remove(&n);
                }
                *table.get_or_insert_with(&key, hash, || 0) += 1;
                table.used(&key, hash, at(now));
                let (count, used) = model.entry(n).or_default();
                (*count, *used) = (*count + 1, now);
                prop_assert_eq!(table.get(&key, hash), Some(&*count));
            }
            let all: BTreeMap<u64, u64> = table.iter().map(|(key, count)| (key.0[0], *count)).collect();
            prop_assert_eq!(all.len(), table.len());
            for (n, (count, used)) in &model {
                let is_idle = at(now).has_forgotten(at(*used), idle);
                prop_assert!(all.get(n) == Some(count) || is_idle && !all.contains_key(n), "{}", n);
            }
            prop_assert!(all.keys().all(|n| model.contains_key(n)));
        }
    }

    #[test]
    fn a_table_that_forgets_takes_the_room_of_what_is_used() {
        let mut table = ObjectTable::default();
        let idle = Duration::from_secs(1);
        for n in 0..300_000_u64 {
            // A thousand a second.
            let now = Touched::at(chc_api::Time(n * 1_000_000));
            let (key, hash) = (ObjectKey::number(n), hash_of(&ObjectKey::number(n)));
            table.use_now(&key, hash, now, idle);
            table.sweep(now, idle);
            table.get_or_insert_with(&key, hash, || n);
            table.used(&key, hash, now);
        }
        assert!(table.len() < 2_500, "{} values", table.len());
        let slots: usize = table.segments.iter().map(|segment| segment.slots.len()).sum();
        assert!(slots <= 8 * SEGMENT_SLOTS_MAX, "{slots} slots");
    }

    #[test]
    fn an_integer_or_a_short_value_lies_with_its_key_on_one_cache_line() {
        assert_eq!((size_of::<Slot<i64>>(), size_of::<Slot<ShortValue>>()), (64, 64));
    }

    #[test]
    fn growth_touches_one_segment_at_a_time() {
        let mut table = ObjectTable::default();
        let mut segments = 1;
        for n in 0..200_000 {
            let key = ObjectKey::number(n);
            table.get_or_insert_with(&key, hash_of(&key), || n);
            assert!(table.segments.len() <= segments + 1, "at most one was added");
            segments = table.segments.len();
        }
        assert!(table.segments.iter().all(|segment| segment.slots.len() <= SEGMENT_SLOTS_MAX));
        let slots = segments * SEGMENT_SLOTS_MAX;
        assert!(slots < 200_000 * 8 / 3, "{slots} slots for 200,000 keys");
    }

    #[test]
    fn keys_that_cannot_be_told_apart_stay_in_one_segment() {
        let mut table = ObjectTable::default();
        let keys: Vec<ObjectKey> = (0..5000).map(ObjectKey::number).collect();
        let mut segment = Segment::new(DEPTH_MAX, SEGMENT_SLOTS_MAX);
        // All keys of the table share the bits there are: as if it had been split as often as can be.
        std::mem::swap(&mut table.segments[0], &mut segment);
        for key in &keys {
            table.get_or_insert_with(key, hash_of(key), || key.0[0]);
        }
        assert_eq!((table.segments.len(), table.len()), (1, 5000));
        assert!(keys.iter().all(|key| table.get(key, hash_of(key)) == Some(&key.0[0])));
    }
}
