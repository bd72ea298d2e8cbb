//! Replicated values: what packets read often and write rarely, with a copy in every instance.
//!
//! ```text
//!            write of clock c            change, numbered                  "I have all up to n"
//!  instance ─────────────────► shard ─┬───────────────────► instance 0 ─┬─────────────────────► shard
//!                                     └───────────────────► instance 1 ─┘    (with its batches)
//!                                     acknowledgements of batches wait until all instances have said so
//! ```
//!
//! A packet of clock r reads what was written by clock r - W. It was stamped when the cut was above r - W. Boundaries
//! below the cut were closed, and none is closed before its batches are acknowledged, which the shard does when the
//! copies have what was written up to then. So the copy has what the packet reads, and what was written later is
//! passed over: the same in the ideal chain, in every instance and in a replay.
//!
//! A new generation gets all values with its records, as they may be read from the cut on. Changes a link has lost are
//! sent again when a batch is repeated, as it is when its acknowledgement does not come.
//!
//! Cost: a read is one look-up, a write one message an instance. Memory: each value once in the shard and in each
//! instance, and what was written within the last two windows. Paper: section 4.3, Table 1, the third row: caching with
//! callbacks.

use crate::batch::{Change, Changes};
use crate::object_table::hash_of;
use chc_api::state::{ObjectSpec, ValueBytes};
use chc_api::{
    Clock, Consistency, Generation, InstanceId, ObjectId, ObjectKey, Protection, Protections, ShardId,
    VertexId,
};
use hashbrown::HashTable;
use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;

/// Whether every instance has a copy of an object's values.
#[must_use]
pub fn is_replicated(spec: &ObjectSpec) -> bool {
    spec.consistency == Consistency::Delayed
}

/// What the values of one key were, by the clock they were written at, oldest first; `None` is the initial one.
struct Entry {
    object: ObjectId,
    key: ObjectKey,
    writes: Vec<(Clock, Option<ValueBytes>)>,
}

impl Entry {
    fn is_of(&self, object: ObjectId, key: &ObjectKey) -> bool {
        self.object == object && self.key == *key
    }
}

/// The values of all keys, as far back as somebody may read.
#[derive(Default)]
struct History {
    entries: HashTable<Entry>,
    /// The writes that may have others behind them some time, oldest first.
    young: VecDeque<(Clock, ObjectId, ObjectKey)>,
}

impl History {
    /// Notes a write; those of one key come in the order of their clocks.
    fn write(&mut self, change: &Change) {
        let Change { object, key, clock, value } = *change;
        let hash = hash_of(&key);
        let found = self.entries.find_mut(hash, |entry| entry.is_of(object, &key));
        let writes = match found {
            Some(entry) => &mut entry.writes,
            None => {
                let entry = Entry { object, key, writes: Vec::with_capacity(1) };
                let rehash = |entry: &Entry| hash_of(&entry.key);
                &mut self.entries.insert_unique(hash, entry, rehash).into_mut().writes
            }
        };
        match writes.last_mut() {
            Some(last) if last.0 == clock => last.1 = value,
            _ => {
                writes.push((clock, value));
                self.young.push_back((clock, object, key));
            }
        }
    }

    /// The value of a key as it was after all writes up to a clock.
    #[inline]
    fn at(&self, object: ObjectId, key: &ObjectKey, clock: Clock) -> Option<ValueBytes> {
        if self.entries.is_empty() {
            return None;
        }
        let entry = self.entries.find(hash_of(key), |entry| entry.is_of(object, key))?;
        entry.writes.iter().rev().find(|(written, _)| *written <= clock)?.1
    }

    /// Forgets what nobody asks for who asks for this clock or later ones.
    fn trim(&mut self, clock: Clock) {
        while let Some((_, object, key)) =
            self.young.front().filter(|(written, ..)| *written <= clock).copied()
        {
            self.young.pop_front();
            let Ok(mut found) = self.entries.find_entry(hash_of(&key), |entry| entry.is_of(object, &key))
            else {
                continue;
            };
            let writes = &mut found.get_mut().writes;
            let last = writes.iter().rposition(|(written, _)| *written <= clock).unwrap_or(0);
            writes.drain(..last);
            if matches!(writes.as_slice(), [(written, None)] if *written <= clock) {
                found.remove();
            }
        }
    }

    /// All of it, in the order of the writes.
    fn all(&self) -> Vec<Change> {
        let of = |entry: &Entry| {
            let (object, key) = (entry.object, entry.key);
            let change = move |(clock, value): &(Clock, Option<ValueBytes>)| Change {
                object,
                key,
                clock: *clock,
                value: *value,
            };
            entry.writes.iter().map(change).collect::<Vec<_>>()
        };
        let mut all: Vec<Change> = self.entries.iter().flat_map(of).collect();
        all.sort_unstable_by_key(|change| (change.clock, change.object, change.key));
        all
    }
}

/// An acknowledgement that waits until all instances have the changes up to a number.
struct Held {
    after: u64,
    to: u16,
    generation: Generation,
    number: u64,
}

/// What an instance has of the changes.
#[derive(Clone, Copy, Default)]
struct Reader {
    /// All up to this one were sent to it.
    sent: u64,
    /// All up to this one it has.
    seen: u64,
    /// How often somebody has waited for it in vain since then.
    waits: u32,
}

/// An acknowledgement: the instance's number in the vertex, its generation, the batch.
pub type Acknowledgement = (u16, Generation, u64);

/// The shard's end, for one vertex.
pub struct Publisher<P> {
    history: History,
    /// Changes that not all instances have, the last one with number `last`.
    unseen: VecDeque<Change>,
    last: u64,
    readers: Vec<Reader>,
    held: VecDeque<Held>,
    on: PhantomData<fn() -> P>,
}

impl<P: Protections> Publisher<P> {
    /// For a vertex with so many instances; `None` if it has no replicated objects.
    #[must_use]
    pub fn new(specs: &[ObjectSpec], instances: u16) -> Option<Self> {
        specs.iter().any(is_replicated).then(|| Self {
            history: History::default(),
            unseen: VecDeque::new(),
            last: 0,
            readers: vec![Reader::default(); usize::from(instances)],
            held: VecDeque::new(),
            on: PhantomData,
        })
    }

    /// An object was written.
    pub fn write(&mut self, change: Change) {
        self.history.write(&change);
        self.unseen.push_back(change);
        self.last += 1;
    }

    /// What a new generation of an instance has to know: all values, and the number of the last change in them.
    pub fn load(&mut self, index: u16) -> (Vec<Change>, u64) {
        if let Some(reader) = self.readers.get_mut(usize::from(index)) {
            reader.sent = self.last;
        }
        (self.history.all(), self.last)
    }

    /// An instance has all changes up to this one.
    pub fn on_seen(&mut self, index: u16, number: u64) {
        let Some(reader) = self.readers.get_mut(usize::from(index)) else { return };
        if number > reader.seen {
            (reader.seen, reader.waits) = (number.min(self.last), 0);
        }
        let seen = self.seen();
        let unseen = (self.last - seen) as usize;
        self.unseen.drain(..self.unseen.len() - unseen);
    }

    /// All instances have the changes up to this one.
    fn seen(&self) -> u64 {
        self.readers.iter().map(|reader| reader.seen).min().unwrap_or(self.last)
    }

    /// A batch is to be acknowledged, once all instances have what was written so far.
    pub fn acknowledge(&mut self, (to, generation, number): Acknowledgement) {
        let after = if P::on(Protection::AcknowledgedChanges) { self.last } else { 0 };
        let same = |held: &&mut Held| (held.after, held.to, held.generation) == (after, to, generation);
        match self.held.iter_mut().rev().take_while(|held| held.after == after).find(same) {
            Some(held) => held.number = held.number.max(number),
            None => self.held.push_back(Held { after, to, generation, number }),
        }
    }

    /// The acknowledgements that can be given now.
    pub fn take_acknowledgements(&mut self) -> Vec<Acknowledgement> {
        let seen = self.seen();
        let ready = self.held.iter().take_while(|held| held.after <= seen).count();
        self.held.drain(..ready).map(|held| (held.to, held.generation, held.number)).collect()
    }

    /// Somebody waited in vain for an acknowledgement: changes may have been lost on the way, and what an instance has not
    /// confirmed is sent again, ever more seldom, for it may as well be slow.
    pub fn repeat(&mut self) {
        for reader in self.readers.iter_mut().filter(|reader| reader.seen < self.last) {
            reader.waits = reader.waits.saturating_add(1);
            if reader.waits.is_power_of_two() {
                reader.sent = reader.seen;
            }
        }
    }

    /// What is to be sent to the instances of a vertex, of which those in no generation get it when they load.
    pub fn take_changes(
        &mut self,
        (vertex, shard): (VertexId, ShardId),
        generation: impl Fn(u16) -> Generation,
    ) -> Vec<Changes> {
        let mut all = Vec::new();
        let first = self.last - self.unseen.len() as u64 + 1;
        for (index, reader) in (0..).zip(&mut self.readers) {
            let generation = generation(index);
            if reader.sent >= self.last || generation == Generation::default() {
                continue;
            }
            // It has the first `seen`, so these are among those kept.
            let from = (reader.sent + 1).max(first);
            let changes = self.unseen.range((from - first) as usize..).copied().collect();
            reader.sent = self.last;
            all.push(Changes { to: InstanceId { vertex, index }, generation, shard, first: from, changes });
        }
        all
    }

    /// The cut moved: packets above it read no further back than a window below.
    pub fn trim(&mut self, cut: Clock, window: u64) {
        self.history.trim(Clock(cut.0.saturating_sub(window)));
    }
}

/// Changes that may wait for an earlier one. More are dropped, as if they had been lost.
const AHEAD_MAX: usize = 1024;

/// What an instance has of a shard's changes.
#[derive(Default)]
struct Source {
    /// The number of the last one, in an unbroken row from those that came with the load, if it has come.
    known: Option<u64>,
    ahead: BTreeMap<u64, Change>,
}

/// An instance's copy of the replicated values of its vertex.
pub struct Replica<P> {
    history: History,
    window: u64,
    /// By shard.
    sources: Vec<Source>,
    on: PhantomData<fn() -> P>,
}

impl<P: Protections> Replica<P> {
    /// A copy of values in their initial state; `None` if the vertex has no replicated objects.
    #[must_use]
    pub fn new(specs: &[ObjectSpec], shards: u16, window: u64) -> Option<Self> {
        let sources = (0..shards).map(|_| Source::default()).collect();
        let history = History::default();
        specs.iter().any(is_replicated).then_some(Self { history, window, sources, on: PhantomData })
    }

    /// The value of a key for a packet or timer of this clock; `None` if it is the initial one.
    #[inline]
    #[must_use]
    pub fn read(&self, object: ObjectId, key: &ObjectKey, clock: Clock) -> Option<ValueBytes> {
        let delay = if P::on(Protection::DelayedReads) { self.window } else { 0 };
        self.history.at(object, key, Clock(clock.0.checked_sub(delay)?))
    }

    /// A shard's values when this instance begins. Returns the number of the last change known.
    pub fn install(&mut self, shard: ShardId, changes: &[Change], known: u64) -> u64 {
        let source = &mut self.sources[usize::from(shard.0)];
        if source.known.is_none() {
            changes.iter().for_each(|change| self.history.write(change));
            source.known = Some(known);
        }
        self.go_on(shard)
    }

    /// Changes have come. Returns the number of the last one known.
    pub fn learn(&mut self, changes: &Changes) -> u64 {
        let source = &mut self.sources[usize::from(changes.shard.0)];
        for (change, number) in changes.changes.iter().zip(changes.first..) {
            if Some(number) > source.known && source.ahead.len() < AHEAD_MAX {
                source.ahead.insert(number, *change);
            }
        }
        self.go_on(changes.shard)
    }

    /// Takes the changes that are next.
    fn go_on(&mut self, shard: ShardId) -> u64 {
        let Source { known: Some(known), ahead } = &mut self.sources[usize::from(shard.0)] else { return 0 };
        while let Some(next) = ahead.first_entry().filter(|next| *next.key() <= *known + 1) {
            let (number, change) = next.remove_entry();
            if number > *known {
                self.history.write(&change);
                *known = number;
            }
        }
        *known
    }

    /// This instance has written a value that is not in the store.
    pub fn write(&mut self, change: &Change) {
        self.history.write(change);
    }

    /// No packet below this boundary runs any more.
    pub fn trim(&mut self, cut: Clock) {
        self.history.trim(Clock(cut.0.saturating_sub(self.window)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::{All, Declarations, Scope};
    use proptest::prelude::*;
    use std::collections::HashMap;

    const WINDOW: u64 = 10;
    const SHARD: ShardId = ShardId(0);
    const AT: ObjectId = ObjectId(0);

    fn ends(instances: u16) -> (Publisher<All>, Replica<All>) {
        let mut d = Declarations::default();
        d.replicated("n", Scope::Global, 0_u64, &[], 9, (1, 0));
        let replica = Replica::new(&d.objects, 1, WINDOW).unwrap();
        (Publisher::new(&d.objects, instances).unwrap(), replica)
    }

    fn change(clock: u64, key: u64, value: u64) -> Change {
        let value = (value != 0).then(|| ValueBytes::of(&value));
        Change { object: AT, key: ObjectKey::number(key), clock: Clock(clock), value }
    }

    fn read(replica: &Replica<All>, key: u64, clock: u64) -> u64 {
        let value = replica.read(AT, &ObjectKey::number(key), Clock(clock));
        value.map_or(0, |value| value.read().unwrap())
    }

    fn taken(publisher: &mut Publisher<All>) -> Vec<Changes> {
        publisher.take_changes((VertexId(0), SHARD), |_| Generation(1))
    }

    #[test]
    fn a_write_is_read_a_window_later_until_the_next_one_is() {
        let (mut publisher, mut replica) = ends(1);
        replica.install(SHARD, &[], 0);
        for (clock, value) in [(5, 1), (7, 2), (7, 3), (9, 0)] {
            publisher.write(change(clock, 4, value));
        }
        taken(&mut publisher).iter().for_each(|changes| assert_eq!(replica.learn(changes), 4));
        assert_eq!([14, 15, 16, 17, 18, 19].map(|clock| read(&replica, 4, clock)), [0, 1, 1, 3, 3, 0]);
        assert_eq!(read(&replica, 5, 17), 0, "another key");
        replica.trim(Clock(17));
        assert_eq!([17, 18, 19].map(|clock| read(&replica, 4, clock)), [3, 3, 0]);
        replica.trim(Clock(19));
        assert!(replica.history.entries.is_empty() && replica.history.young.is_empty());
    }

    #[test]
    fn an_acknowledgement_waits_for_all_instances_and_no_later_change() {
        let (mut publisher, _) = ends(2);
        publisher.acknowledge((0, Generation(1), 1));
        assert_eq!(publisher.take_acknowledgements(), [(0, Generation(1), 1)], "nothing was written");
        publisher.write(change(1, 1, 1));
        publisher.acknowledge((0, Generation(1), 2));
        publisher.acknowledge((0, Generation(1), 3));
        publisher.write(change(2, 1, 2));
        publisher.acknowledge((1, Generation(1), 7));
        publisher.on_seen(0, 2);
        assert_eq!(publisher.take_acknowledgements(), []);
        publisher.on_seen(1, 1);
        assert_eq!(publisher.take_acknowledgements(), [(0, Generation(1), 3)]);
        publisher.on_seen(1, 9);
        assert_eq!(publisher.take_acknowledgements(), [(1, Generation(1), 7)]);
        assert!(publisher.unseen.is_empty());
    }

    #[test]
    fn what_was_not_confirmed_is_sent_again_ever_more_seldom() {
        let (mut publisher, _) = ends(1);
        publisher.write(change(1, 1, 1));
        assert_eq!(taken(&mut publisher).len(), 1);
        let again = |publisher: &mut Publisher<All>| {
            publisher.repeat();
            !taken(publisher).is_empty()
        };
        let sent: Vec<u32> = (1..20).filter(|_| again(&mut publisher)).collect();
        assert_eq!(sent, [1, 2, 4, 8, 16]);
        publisher.on_seen(0, 1);
        assert!(!again(&mut publisher));
    }

    proptest! {
        #[test]
        fn whatever_the_link_does_a_copy_reads_what_was_written(
            writes in proptest::collection::vec((0u64..3, 0u64..4, any::<bool>()), 1..60),
            loaded_after in any::<prop::sample::Index>(),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let (mut publisher, mut replica) = ends(1);
            let loaded_after = loaded_after.index(writes.len());
            let (mut sent, mut load, mut clock) = (Vec::new(), (Vec::new(), 0), 0);
            let mut written: Vec<(u64, u64, u64)> = Vec::new();
            for (nth, (key, value, moves)) in writes.into_iter().enumerate() {
                if nth == loaded_after {
                    load = publisher.load(0);
                }
                clock += u64::from(moves);
                publisher.write(change(clock, key, value));
                written.push((clock, key, value));
                sent.extend(taken(&mut publisher));
            }
            // They come as they like, some before the values, some never; what is missing comes at last.
            let (before, after) = order.split_at(order.len() / 2);
            before.iter().for_each(|at| { replica.learn(&sent[at.index(sent.len())]); });
            replica.install(SHARD, &load.0, load.1);
            after.iter().for_each(|at| { replica.learn(&sent[at.index(sent.len())]); });
            publisher.repeat();
            let known = taken(&mut publisher).iter().map(|changes| replica.learn(changes)).max();
            prop_assert_eq!(known, Some(written.len() as u64));
            for at in 0..=clock {
                let mut values = HashMap::new();
                for (_, key, value) in written.iter().filter(|(clock, ..)| *clock <= at) {
                    values.insert(*key, *value);
                }
                for key in 0..3 {
                    let expected = values.get(&key).copied().unwrap_or(0);
                    prop_assert_eq!(read(&replica, key, at + WINDOW), expected);
                }
            }
        }
    }
}
