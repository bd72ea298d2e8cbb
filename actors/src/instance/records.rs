//! The per-flow records an instance caches, with their timers and boundary versions.
//!
//! Every write first makes sure that the value as of the last boundary is not lost: the first write
//! past a boundary queues the old value as a version, then changes the record. Timers live in the
//! record; the sets here are an index rebuilt from it.

use super::index::SecondaryIndex;
use crate::steps::{Steps, is_at_end};
use chc_api::state::{ArmedTimer, FlowIndexFn, ObjectKind, ObjectSpec, Plain};
use chc_api::{Clock, FlowKey, ObjectId, Position, Protection, Protections, Time, TimerOrigin};
use chc_store::record::{Record, RecordShape, TIMER_WORDS, read_timer, timer_words, write_timer};
use chc_store::table::{FlowTable, Hint, Row, Written};
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::time::Duration;
use zerocopy::IntoBytes;

/// Versions on their way to the store: (object, connection, last write, record).
pub type Versions = Vec<(ObjectId, FlowKey, Clock, Option<Record>)>;

/// Where a timer is: object, row, which of the record's. Rows are stable, so who armed it and whose it is can be
/// read there.
type TimerAt = (ObjectId, Row, u8);

struct FlowObject {
    table: FlowTable,
    shape: RecordShape,
    timeout_min: Duration,
    index_of: Option<FlowIndexFn>,
    index: SecondaryIndex,
    /// Rows written since they were last flushed.
    unflushed: Vec<Row>,
}

/// All per-flow records of an instance.
pub struct Records<P> {
    objects: Vec<Option<FlowObject>>,
    first: Option<usize>,
    seed: u64,
    epoch: u64,
    /// Versions are kept (the state lives in the store).
    versioned: bool,
    /// What the next batch must carry.
    pub versions: Versions,
    /// Timers that are not due by any known step: by deadline, where they are.
    armed: BTreeSet<(Time, TimerAt)>,
    /// Among them those that the end of the input makes due, and when they are otherwise.
    at_end: BTreeMap<TimerAt, Time>,
    /// Timers that are due, by position.
    due: BTreeMap<Position, FlowKey>,
    protections: PhantomData<P>,
}

impl<P: Protections> Records<P> {
    /// Empty records of the declared per-flow objects.
    #[must_use]
    pub fn new(specs: &[ObjectSpec], seed: u64, epoch: u64, versioned: bool) -> Self {
        let objects: Vec<Option<FlowObject>> = specs
            .iter()
            .map(|spec| {
                let shape = RecordShape::of(&spec.kind)?;
                let ObjectKind::Flow { timeout_min, index, .. } = spec.kind else { return None };
                Some(FlowObject {
                    table: FlowTable::new(shape),
                    shape,
                    timeout_min,
                    index_of: index,
                    index: SecondaryIndex::default(),
                    unflushed: Vec::new(),
                })
            })
            .collect();
        Self {
            first: objects.iter().position(Option::is_some),
            objects,
            seed,
            epoch,
            versioned,
            versions: Vec::new(),
            armed: BTreeSet::new(),
            at_end: BTreeMap::new(),
            due: BTreeMap::new(),
            protections: PhantomData,
        }
    }

    /// Starts the look-up of a burst in the first per-flow object.
    pub fn hint(&self, hashes: impl Iterator<Item = u64>, hints: &mut Vec<Hint>) {
        match self.first.and_then(|at| self.objects[at].as_ref()) {
            Some(object) => object.table.hint(hashes, hints),
            None => hints.clear(),
        }
    }

    #[inline]
    fn object(&self, id: ObjectId) -> &FlowObject {
        self.objects[usize::from(id.0)].as_ref().expect("handles exist for declared per-flow objects only")
    }

    fn object_mut(&mut self, id: ObjectId) -> &mut FlowObject {
        self.objects[usize::from(id.0)].as_mut().expect("handles exist for declared per-flow objects only")
    }

    #[inline]
    fn row(&self, id: ObjectId, key: &FlowKey, hash: u64, hint: Hint) -> Option<Row> {
        let hint = if self.first == Some(usize::from(id.0)) { hint } else { Hint::NONE };
        let object = self.object(id);
        let row = object.table.find(key, hash, hint)?;
        (!object.table.written(row).removed).then_some(row)
    }

    /// A record's value.
    #[inline]
    pub fn get<T: Plain>(&self, id: ObjectId, key: &FlowKey, hash: u64, hint: Hint) -> Option<T> {
        let words = self.object(id).table.look(key, hash, hint_for(self.first, id, hint))?;
        T::read_from_prefix(words.as_bytes()).ok().map(|(value, _)| value)
    }

    /// A record's value and when one of its timers is due.
    #[inline(always)]
    pub fn get_with_timer<T: Plain>(
        &self,
        id: ObjectId,
        key: &FlowKey,
        hash: u64,
        hint: Hint,
        index: u8,
    ) -> Option<(T, Option<Time>)> {
        let object = self.object(id);
        let words = object.table.look(key, hash, hint_for(self.first, id, hint))?;
        let (value, _) = T::read_from_prefix(words.as_bytes()).ok()?;
        let timer = read_timer(timer_words(words, object.shape, usize::from(index)));
        Some((value, timer.map(|t| t.deadline)))
    }

    /// The connection whose record has this secondary key.
    pub fn find(&self, id: ObjectId, index: u64) -> Option<FlowKey> {
        let object = self.object(id);
        object.index.get(index).map(|row| object.table.key(row))
    }

    /// Keeps the value as of the last boundary and notes the write.
    fn touch(&mut self, id: ObjectId, row: Row, at: Clock, removed: bool) {
        let (epoch, versioned) = (self.epoch, self.versioned);
        let object = self.objects[usize::from(id.0)].as_mut().expect("checked by the caller");
        let written = object.table.written(row);
        if versioned {
            if written.dirty && written.clock.floor(epoch) < at.floor(epoch) {
                let image = (!written.removed).then(|| versioned_image::<P>(object, row));
                self.versions.push((id, object.table.key(row), written.clock, image));
            }
            if object.table.enlist(row) {
                object.unflushed.push(row);
            }
        }
        object.table.set_written(row, Written { clock: at, dirty: versioned, removed });
    }

    /// Writes a record, creating it if need be.
    pub fn put<T: Plain>(
        &mut self,
        id: ObjectId,
        key: &FlowKey,
        hash: u64,
        hint: Hint,
        at: Clock,
        value: &T,
    ) {
        let row = match self.object(id).table.find(key, hash, hint_for(self.first, id, hint)) {
            Some(row) => row,
            None => self.object_mut(id).table.insert(key, hash),
        };
        let was_removed = self.object(id).table.written(row).removed;
        self.touch(id, row, at, false);
        let object = self.object_mut(id);
        if was_removed {
            object.table.record_mut(row).fill(0);
        }
        object.unindex(row, key);
        let words = object.shape.value_words();
        let cells = &mut object.table.record_mut(row)[..words];
        cells[words - 1] = 0;
        cells.as_mut_bytes()[..size_of::<T>()].copy_from_slice(value.as_bytes());
        object.reindex(row, key);
    }

    /// Removes a record and its timers.
    pub fn remove(&mut self, id: ObjectId, key: &FlowKey, hash: u64, hint: Hint, at: Clock, steps: &Steps) {
        let Some(row) = self.row(id, key, hash, hint) else { return };
        // First what the record was at the boundary, timers included.
        self.touch(id, row, at, true);
        for index in 0..self.object(id).shape.timers {
            self.set_timer(id, row, key, index, None, steps);
        }
        let versioned = self.versioned;
        let object = self.object_mut(id);
        object.unindex(row, key);
        if !versioned {
            object.table.remove(row, hash);
        }
    }

    /// A record's timer.
    pub fn timer(&self, id: ObjectId, key: &FlowKey, hash: u64, hint: Hint, index: u8) -> Option<ArmedTimer> {
        let row = self.row(id, key, hash, hint)?;
        let object = self.object(id);
        read_timer(timer_words(object.table.record(row), object.shape, usize::from(index)))
    }

    /// Arms or disarms a record's timer. A deadline earlier than the declared minimum after `now` is
    /// moved there: a timer is never due at the clock that arms it.
    #[allow(clippy::too_many_arguments)]
    pub fn arm(
        &mut self,
        id: ObjectId,
        key: &FlowKey,
        hash: u64,
        index: u8,
        at: Clock,
        now: Time,
        timer: Option<ArmedTimer>,
        steps: &Steps,
    ) {
        let Some(row) = self.row(id, key, hash, Hint::NONE) else { return };
        let soonest = now + self.object(id).timeout_min.max(Duration::from_nanos(1));
        let timer = timer.map(|t| ArmedTimer { deadline: t.deadline.max(soonest), ..t });
        self.touch(id, row, at, false);
        self.set_timer(id, row, key, usize::from(index), timer, steps);
    }

    fn set_timer(
        &mut self,
        id: ObjectId,
        row: Row,
        key: &FlowKey,
        index: usize,
        timer: Option<ArmedTimer>,
        steps: &Steps,
    ) {
        let object = self.object_mut(id);
        let old = read_timer(timer_words(object.table.record(row), object.shape, index));
        let words = object.shape.value_words() + index * TIMER_WORDS;
        object.table.record_mut(row)[words..words + TIMER_WORDS].copy_from_slice(&write_timer(timer));
        if let Some(old) = old {
            let at = (id, row, index as u8);
            self.armed.remove(&(old.deadline, at));
            self.at_end.remove(&at);
            if let Some(clock) = steps.due(old.deadline, old.at_end) {
                self.due.remove(&Position::timer(clock, origin(id, index, &old)));
            }
        }
        if let Some(new) = timer {
            self.index_timer((id, row, index as u8), key, &new, steps);
        }
    }

    fn index_timer(&mut self, at: TimerAt, key: &FlowKey, timer: &ArmedTimer, steps: &Steps) {
        if let Some(clock) = steps.due(timer.deadline, timer.at_end) {
            let (id, _, index) = at;
            self.due.insert(Position::timer(clock, origin(id, usize::from(index), timer)), *key);
            return;
        }
        self.armed.insert((timer.deadline, at));
        if timer.at_end && !is_at_end(timer.deadline) {
            self.at_end.insert(at, timer.deadline);
        }
    }

    /// A timer that was armed, as it is in its record.
    fn armed_at(&self, (id, row, index): TimerAt) -> Option<(TimerOrigin, FlowKey)> {
        let object = self.object(id);
        let index = usize::from(index);
        let timer = read_timer(timer_words(object.table.record(row), object.shape, index))?;
        Some((origin(id, index, &timer), object.table.key(row)))
    }

    /// New steps are known: finds the timers they make due.
    pub fn advance(&mut self, steps: &Steps) {
        let Some(newest) = steps.newest() else { return self.end(steps) };
        while self.armed.first().is_some_and(|(deadline, ..)| *deadline <= newest) {
            let Some((deadline, at)) = self.armed.pop_first() else { break };
            let at_end = self.at_end.remove(&at).is_some();
            if let Some(clock) = steps.due(deadline, at_end)
                && let Some((origin, key)) = self.armed_at(at)
            {
                self.due.insert(Position::timer(clock, origin), key);
            }
        }
        self.end(steps);
    }

    fn end(&mut self, steps: &Steps) {
        let Some(end) = steps.end() else { return };
        for (at, deadline) in std::mem::take(&mut self.at_end) {
            self.armed.remove(&(deadline, at));
            if let Some((origin, key)) = self.armed_at(at) {
                self.due.insert(Position::timer(end.clock, origin), key);
            }
        }
    }

    /// Timers that are due and have not fired.
    #[must_use]
    pub fn due(&self) -> &BTreeMap<Position, FlowKey> {
        &self.due
    }

    /// The first due timer of a connection below a position.
    #[must_use]
    pub fn due_of(&self, key: &FlowKey, hash: u64, below: &Position, steps: &Steps) -> Option<Position> {
        let objects =
            self.objects.iter().enumerate().filter_map(|(i, o)| Some((ObjectId(i as u16), o.as_ref()?)));
        let rows = objects.filter_map(|(id, o)| Some((id, o, self.row(id, key, hash, Hint::NONE)?)));
        let due = rows.flat_map(|(id, object, row)| {
            (0..object.shape.timers).filter_map(move |index| {
                let timer = read_timer(timer_words(object.table.record(row), object.shape, index))?;
                Some(Position::timer(steps.due(timer.deadline, timer.at_end)?, origin(id, index, &timer)))
            })
        });
        // A timer whose handler is running is not in the set any more.
        due.filter(|p| p < below && self.due.contains_key(p)).min()
    }

    /// Takes a due timer to fire it.
    pub fn take_due(&mut self, position: &Position) -> Option<FlowKey> {
        self.due.remove(position)
    }

    /// Disarms a timer that fires now: a write at the clock it became due at.
    pub fn disarm_due(&mut self, position: &Position, key: &FlowKey, hash: u64, steps: &Steps) {
        let Some(origin) = position.origin else { return };
        let Some(row) = self.row(origin.object, key, hash, Hint::NONE) else { return };
        self.touch(origin.object, row, position.clock, false);
        self.set_timer(origin.object, row, key, usize::from(origin.index), None, steps);
    }

    /// Drops the records of connections that are another instance's now; the store has them.
    pub fn forget(&mut self, is_lost: impl Fn(&FlowKey, u64) -> bool, steps: &Steps) {
        for at in 0..self.objects.len() {
            let (id, seed) = (ObjectId(at as u16), self.seed);
            let Some(object) = &self.objects[at] else { continue };
            let keys = object.table.rows().map(|row| (row, object.table.key(row)));
            let lost: Vec<(Row, FlowKey)> = keys.filter(|(_, key)| is_lost(key, key.hash(seed))).collect();
            for (row, key) in &lost {
                for index in 0..self.object(id).shape.timers {
                    self.set_timer(id, *row, key, index, None, steps);
                }
                let object = self.object_mut(id);
                object.unindex(*row, key);
                object.table.remove(*row, key.hash(seed));
            }
            let rows: std::collections::HashSet<Row> = lost.into_iter().map(|(row, _)| row).collect();
            self.object_mut(id).unflushed.retain(|row| !rows.contains(row));
        }
    }

    /// The last write of each of a connection's records, if it is there and the store has it: where a timer was
    /// just disarmed, a version of that clock would be from before a failure.
    pub fn written(&self, key: &FlowKey, hash: u64) -> impl Iterator<Item = (ObjectId, Option<Clock>)> {
        let objects =
            self.objects.iter().enumerate().filter_map(|(i, o)| Some((ObjectId(i as u16), o.as_ref()?)));
        objects.map(move |(id, object)| {
            let row = self.row(id, key, hash, Hint::NONE);
            let written = row.map(|row| object.table.written(row)).filter(|written| !written.dirty);
            (id, written.map(|written| written.clock))
        })
    }

    /// Puts a record's value there as a shard has it.
    pub fn refresh(&mut self, id: ObjectId, key: &FlowKey, hash: u64, record: &Record) {
        let Some(row) = self.row(id, key, hash, Hint::NONE) else { return };
        let object = self.object_mut(id);
        object.unindex(row, key);
        // Its timers are known here: whoever has armed them had run before.
        let words = object.shape.value_words();
        object.table.record_mut(row)[..words].copy_from_slice(&record.words()[..words]);
        object.reindex(row, key);
    }

    /// Queues versions of everything written below `boundary` that the store does not have.
    pub fn flush(&mut self, boundary: Clock) {
        for (i, object) in self.objects.iter_mut().enumerate() {
            let Some(object) = object else { continue };
            let id = ObjectId(i as u16);
            let mut later = Vec::new();
            for row in std::mem::take(&mut object.unflushed) {
                let written = object.table.written(row);
                if written.clock >= boundary {
                    later.push(row);
                    continue;
                }
                object.table.delist(row);
                let key = object.table.key(row);
                if written.dirty {
                    let image = (!written.removed).then(|| versioned_image::<P>(object, row));
                    self.versions.push((id, key, written.clock, image));
                }
                if written.removed {
                    object.table.remove(row, key.hash(self.seed));
                } else {
                    object.table.set_written(row, Written { dirty: false, ..written });
                }
            }
            object.unflushed = later;
        }
    }

    /// Installs a record a shard sent.
    pub fn install(&mut self, id: ObjectId, key: &FlowKey, written: Clock, record: &Record, steps: &Steps) {
        let hash = key.hash(self.seed);
        let object = self.object_mut(id);
        let row = object.table.insert(key, hash);
        object.table.record_mut(row).copy_from_slice(record.words());
        object.table.set_written(row, Written { clock: written, dirty: false, removed: false });
        object.reindex(row, key);
        let shape = object.shape;
        for index in 0..shape.timers {
            if let Some(timer) = record.timer(shape, index) {
                self.index_timer((id, row, index as u8), key, &timer, steps);
            }
        }
    }

    /// The shortest delay any timer of this vertex is armed with; `None` without timers.
    #[must_use]
    pub fn timeout_min(&self) -> Option<Duration> {
        self.objects.iter().flatten().filter(|o| o.shape.timers > 0).map(|o| o.timeout_min).min()
    }

    /// Every record there is.
    pub fn show(&self) -> impl Iterator<Item = (ObjectId, FlowKey, Record)> + '_ {
        self.objects.iter().enumerate().filter_map(|(i, o)| Some((i, o.as_ref()?))).flat_map(|(i, object)| {
            let live = object.table.rows().filter(|r| !object.table.written(*r).removed);
            live.map(move |row| (ObjectId(i as u16), object.table.key(row), object.table.image(row)))
        })
    }
}

#[inline]
fn hint_for(first: Option<usize>, id: ObjectId, hint: Hint) -> Hint {
    if first == Some(usize::from(id.0)) { hint } else { Hint::NONE }
}

fn origin(object: ObjectId, index: usize, timer: &ArmedTimer) -> TimerOrigin {
    TimerOrigin { setter: timer.setter.clock, setter_path: timer.setter.path, object, index: index as u8 }
}

fn versioned_image<P: Protections>(object: &FlowObject, row: Row) -> Record {
    if P::on(Protection::TimersInVersion) {
        return object.table.image(row);
    }
    let mut words = object.table.record(row).to_vec();
    words[object.shape.value_words()..].fill(0);
    Record::new(&words)
}

impl FlowObject {
    fn secondary(&self, row: Row, key: &FlowKey) -> Option<u64> {
        let index_of = self.index_of?;
        index_of(key, &self.table.record(row).as_bytes()[..self.shape.value_len])
    }

    fn unindex(&mut self, row: Row, key: &FlowKey) {
        if let Some(index) = self.secondary(row, key) {
            self.index.remove(index, key, row);
        }
    }

    fn reindex(&mut self, row: Row, key: &FlowKey) {
        if let Some(index) = self.secondary(row, key) {
            let table = &self.table;
            self.index.insert(index, *key, row, |row| table.key(row));
        }
    }
}
