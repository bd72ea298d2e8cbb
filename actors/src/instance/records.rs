//! The per-flow records an instance caches, with their timers and boundary versions.
//!
//! Every write first makes sure that the value as of the last boundary is not lost: the first write
//! past a boundary queues the old value as a version, then changes the record. Timers live in the
//! record; the sets here are an index rebuilt from it.

use super::deadlines::Deadlines;
use super::index::SecondaryIndex;
use super::lanes::LaneId;
use crate::routing::Route;
use crate::steps::{Steps, is_at_end};
use chc_api::state::{ArmedTimer, FlowIndexFn, ObjectKind, ObjectSpec, Plain};
use chc_api::{Clock, FlowKey, ObjectId, Position, Protection, Protections, Slot, Time, TimerOrigin};
use chc_runtime::block::BlockRef;
use chc_store::record::{Record, RecordShape, TIMER_WORDS, read_timer, timer_words, write_timer};
use chc_store::table::{FlowTable, Hint, Row, Written};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;
use zerocopy::IntoBytes;

/// Versions on their way to the store: (object, connection, last write, record).
pub type Versions = Vec<(ObjectId, FlowKey, Clock, Option<Record>)>;

/// Where a timer is: object, row, which of the record's. Rows are stable, so who armed it and whose it is can be
/// read there.
type TimerAt = (ObjectId, Row, u8);

/// What all records of an object have in common.
#[derive(Clone, Copy)]
struct Spec {
    shape: RecordShape,
    timeout_min: Duration,
    index_of: Option<FlowIndexFn>,
}

/// An object's records of one part.
#[derive(Clone)]
struct FlowObject {
    spec: Spec,
    table: FlowTable,
    index: SecondaryIndex,
    /// Rows written since they were last flushed.
    unflushed: Vec<Row>,
}

impl FlowObject {
    fn new(spec: Spec) -> Self {
        Self {
            spec,
            table: FlowTable::new(spec.shape),
            index: SecondaryIndex::default(),
            unflushed: Vec::new(),
        }
    }
}

/// The lane of a connection, by its key and hash.
pub type LaneFn = Box<dyn Fn(&FlowKey, u64) -> LaneId>;

/// A timer that is due.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Its connection.
    pub key: FlowKey,
    /// What it runs in order with.
    pub lane: LaneId,
}

/// Timers of one part that are not due by any known step.
#[derive(Clone, Default)]
struct Armed {
    /// By deadline, where they are.
    by_deadline: Deadlines<TimerAt>,
    /// Among them those that the end of the input makes due, and when they are otherwise.
    at_end: BTreeMap<TimerAt, Time>,
}

impl Armed {
    fn due_from(&self) -> Option<Time> {
        self.by_deadline.first()
    }

    fn add(&mut self, at: TimerAt, timer: &ArmedTimer) {
        self.by_deadline.insert((timer.deadline, at));
        if timer.at_end && !is_at_end(timer.deadline) {
            self.at_end.insert(at, timer.deadline);
        }
    }
}

/// All records of one part. Those of a slot are moved as they are, from the instance that owned it to the one that does;
/// everything in them is in the store, too.
#[derive(Clone, Default)]
pub struct SlotRecords {
    /// By object; nothing while none has been written.
    objects: Box<[Option<FlowObject>]>,
    armed: Armed,
}

impl fmt::Debug for SlotRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records: usize = self.objects.iter().flatten().map(|object| object.table.len()).sum();
        write!(f, "{records} records")
    }
}

/// Which part a connection's records are in, and where the first object's may be.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub(super) part: u32,
    hint: Hint,
}

impl Default for Spot {
    fn default() -> Self {
        Self::of(0)
    }
}

impl Spot {
    /// Somewhere in a part.
    #[inline]
    #[must_use]
    pub fn of(part: u32) -> Self {
        Self { part, hint: Hint::NONE }
    }
}

/// All per-flow records of an instance. Where slots may change hands, those of a slot lie apart, so that a slot can be
/// given away whatever the number of its connections.
pub struct Records<P> {
    parts: Vec<SlotRecords>,
    /// Of one part.
    specs: Vec<Option<Spec>>,
    /// No armed timer is due before this time.
    due_from: Time,
    /// How slots are told apart; all records are one part without.
    route: Option<Route>,
    first: Option<usize>,
    seed: u64,
    epoch: u64,
    /// Versions are kept (the state lives in the store).
    versioned: bool,
    /// What the next batch must carry.
    pub versions: Versions,
    /// Timers that are due, by position.
    due: BTreeMap<Position, Due>,
    /// Those below this position have been tried, and could not run.
    untried: Position,
    /// What the timers of a connection run in order with, if that is more than the connection.
    lanes: Option<LaneFn>,
    protections: PhantomData<P>,
}

impl<P: Protections> Records<P> {
    /// Empty records of the declared per-flow objects; with a route, those of a slot lie apart, and with `lanes` timers
    /// run in order with others than those of their connection.
    #[must_use]
    pub fn new(
        specs: &[ObjectSpec],
        (route, lanes): (Option<Route>, Option<LaneFn>),
        seed: u64,
        epoch: u64,
        versioned: bool,
    ) -> Self {
        let specs: Vec<Option<Spec>> = specs
            .iter()
            .map(|spec| {
                let shape = RecordShape::of(&spec.kind)?;
                let ObjectKind::Flow { timeout_min, index: index_of, .. } = spec.kind else { return None };
                Some(Spec { shape, timeout_min, index_of })
            })
            .collect();
        let parts = route.as_ref().map_or(1, |route| route.owners.len());
        Self {
            parts: (0..parts).map(|_| SlotRecords::default()).collect(),
            due_from: Time::END,
            first: specs.iter().position(Option::is_some),
            specs,
            route,
            seed,
            epoch,
            versioned,
            versions: Vec::new(),
            due: BTreeMap::new(),
            untried: Position::before(Clock(0)),
            lanes,
            protections: PhantomData,
        }
    }

    /// What the timers of a connection run in order with.
    #[must_use]
    pub fn lane(&self, key: &FlowKey, hash: u64) -> LaneId {
        self.lanes.as_ref().map_or(hash, |lane| lane(key, hash))
    }

    /// The part a packet's records are in, of which the block may know the slot.
    #[inline(always)]
    pub fn part(&self, block: &BlockRef, at: usize) -> u32 {
        let Some(route) = &self.route else { return 0 };
        let by_identity = || {
            let desc = &block.descs[at];
            route.packet_slot(desc.hash, || block.meta(desc).parsed.identity())
        };
        block.slot(at).unwrap_or_else(by_identity).0.into()
    }

    /// Where a connection's records are.
    #[inline]
    #[must_use]
    pub fn spot(&self, key: &FlowKey, hash: u64) -> Spot {
        Spot::of(self.route.as_ref().map_or(0, |route| route.slot_of(key, hash).0.into()))
    }

    /// Starts the look-up of a burst, of which the hashes and parts are given, in the first per-flow object. The rows are
    /// read, so that they are in the cache when they are wanted; what is in them does not matter.
    pub fn look_ahead(&self, packets: impl Iterator<Item = (u64, u32)>, spots: &mut Vec<Spot>) {
        spots.clear();
        let Some(first) = self.first else {
            return spots.extend(packets.map(|(_, part)| Spot::of(part)));
        };
        if self.route.is_none() {
            // One table for all.
            let Some(FlowObject { table, .. }) = self.object(0, ObjectId(first as u16)) else {
                return spots.extend(packets.map(|(_, part)| Spot::of(part)));
            };
            spots.extend(packets.map(|(hash, part)| Spot { part, hint: table.hint(hash) }));
            std::hint::black_box(spots.iter().fold(0, |all, spot| all ^ table.touch(spot.hint)));
            return;
        }
        let table = |part: u32| self.object(part, ObjectId(first as u16));
        let hint = |hash, part| table(part).map_or(Hint::NONE, |object| object.table.hint(hash));
        spots.extend(packets.map(|(hash, part)| Spot { part, hint: hint(hash, part) }));
        let touch = |spot: &Spot| table(spot.part).map_or(0, |object| object.table.touch(spot.hint));
        std::hint::black_box(spots.iter().fold(0, |all, spot| all ^ touch(spot)));
    }

    #[inline]
    fn object(&self, part: u32, id: ObjectId) -> Option<&FlowObject> {
        self.parts.get(part as usize)?.objects.get(usize::from(id.0))?.as_ref()
    }

    #[inline]
    fn object_mut(&mut self, part: u32, id: ObjectId) -> &mut FlowObject {
        let at = usize::from(id.0);
        let objects = &mut self.parts[part as usize].objects;
        if objects.is_empty() {
            *objects = self.specs.iter().map(|_| None).collect();
        }
        objects[at].get_or_insert_with(|| {
            let spec = self.specs[at].expect("handles exist for declared per-flow objects only");
            FlowObject::new(spec)
        })
    }

    /// What may be used of a spot to find a record of this object.
    #[inline]
    fn hint_for(&self, id: ObjectId, spot: Spot) -> Hint {
        if self.first == Some(usize::from(id.0)) { spot.hint } else { Hint::NONE }
    }

    #[inline]
    fn row(&self, id: ObjectId, key: &FlowKey, hash: u64, spot: Spot) -> Option<Row> {
        let object = self.object(spot.part, id)?;
        let row = object.table.find(key, hash, self.hint_for(id, spot))?;
        (!object.table.written(row).removed).then_some(row)
    }

    /// A record's value.
    #[inline]
    pub fn get<T: Plain>(&self, id: ObjectId, key: &FlowKey, hash: u64, spot: Spot) -> Option<T> {
        let words = self.object(spot.part, id)?.table.look(key, hash, self.hint_for(id, spot))?;
        T::read_from_prefix(words.as_bytes()).ok().map(|(value, _)| value)
    }

    /// A record's value and when one of its timers is due.
    #[inline(always)]
    pub fn get_with_timer<T: Plain>(
        &self,
        id: ObjectId,
        key: &FlowKey,
        hash: u64,
        spot: Spot,
        index: u8,
    ) -> Option<(T, Option<Time>)> {
        let object = self.object(spot.part, id)?;
        let words = object.table.look(key, hash, self.hint_for(id, spot))?;
        let (value, _) = T::read_from_prefix(words.as_bytes()).ok()?;
        let timer = read_timer(timer_words(words, object.spec.shape, usize::from(index)));
        Some((value, timer.map(|t| t.deadline)))
    }

    /// The connection in a part whose record has this secondary key.
    pub fn find(&self, part: u32, id: ObjectId, index: u64) -> Option<FlowKey> {
        let object = self.object(part, id)?;
        object.index.get(index).map(|row| object.table.key(row))
    }

    /// Keeps the value as of the last boundary and notes the write.
    fn touch(&mut self, part: u32, id: ObjectId, row: Row, at: Clock, removed: bool) {
        let (epoch, versioned) = (self.epoch, self.versioned);
        let object =
            self.parts[part as usize].objects[usize::from(id.0)].as_mut().expect("checked by the caller");
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
        spot: Spot,
        at: Clock,
        value: &T,
    ) {
        let (part, hint) = (spot.part, self.hint_for(id, spot));
        let table = &mut self.object_mut(part, id).table;
        let row = match table.find(key, hash, hint) {
            Some(row) => row,
            None => table.insert(key, hash),
        };
        let was_removed = table.written(row).removed;
        self.touch(part, id, row, at, false);
        let object = self.object_mut(part, id);
        if was_removed {
            object.table.record_mut(row).fill(0);
        }
        object.unindex(row, key);
        let words = object.spec.shape.value_words();
        let cells = &mut object.table.record_mut(row)[..words];
        cells[words - 1] = 0;
        cells.as_mut_bytes()[..size_of::<T>()].copy_from_slice(value.as_bytes());
        object.reindex(row, key);
    }

    /// Removes a record and its timers.
    pub fn remove(&mut self, id: ObjectId, key: &FlowKey, hash: u64, spot: Spot, at: Clock, steps: &Steps) {
        let Some(row) = self.row(id, key, hash, spot) else { return };
        // First what the record was at the boundary, timers included.
        self.touch(spot.part, id, row, at, true);
        for index in 0..self.object_mut(spot.part, id).spec.shape.timers {
            self.set_timer(spot.part, (id, row, index as u8), key, None, steps);
        }
        let versioned = self.versioned;
        let object = self.object_mut(spot.part, id);
        object.unindex(row, key);
        if !versioned {
            object.table.remove(row, hash);
        }
    }

    /// A record's timer.
    pub fn timer(&self, id: ObjectId, key: &FlowKey, hash: u64, spot: Spot, index: u8) -> Option<ArmedTimer> {
        let row = self.row(id, key, hash, spot)?;
        self.object(spot.part, id)?.timer(row, index)
    }

    /// Arms or disarms a record's timer. A deadline earlier than the declared minimum after `now` is
    /// moved there: a timer is never due at the clock that arms it.
    #[allow(clippy::too_many_arguments)]
    pub fn arm(
        &mut self,
        id: ObjectId,
        key: &FlowKey,
        hash: u64,
        spot: Spot,
        index: u8,
        (at, now): (Clock, Time),
        timer: Option<ArmedTimer>,
        steps: &Steps,
    ) {
        let Some(row) = self.row(id, key, hash, spot) else { return };
        let soonest = now + self.object_mut(spot.part, id).spec.timeout_min.max(Duration::from_nanos(1));
        let timer = timer.map(|t| ArmedTimer { deadline: t.deadline.max(soonest), ..t });
        self.touch(spot.part, id, row, at, false);
        self.set_timer(spot.part, (id, row, index), key, timer, steps);
    }

    fn set_timer(&mut self, part: u32, at: TimerAt, key: &FlowKey, timer: Option<ArmedTimer>, steps: &Steps) {
        let (id, row, index) = at;
        let object = self.object_mut(part, id);
        let old = object.timer(row, index);
        let words = object.spec.shape.value_words() + usize::from(index) * TIMER_WORDS;
        object.table.record_mut(row)[words..words + TIMER_WORDS].copy_from_slice(&write_timer(timer));
        if let Some(old) = old {
            let armed = &mut self.parts[part as usize].armed;
            armed.by_deadline.remove(&(old.deadline, at));
            armed.at_end.remove(&at);
            if let Some(clock) = steps.due(old.deadline, old.at_end) {
                self.due.remove(&Position::timer(clock, origin(id, index, &old)));
            }
        }
        if let Some(new) = timer {
            self.index_timer(part, at, key, &new, steps);
        }
    }

    fn index_timer(&mut self, part: u32, at: TimerAt, key: &FlowKey, timer: &ArmedTimer, steps: &Steps) {
        match steps.due(timer.deadline, timer.at_end) {
            Some(clock) => {
                self.insert_due(Position::timer(clock, origin(at.0, at.2, timer)), *key);
            }
            None => {
                self.parts[part as usize].armed.add(at, timer);
                self.due_from = self.due_from.min(timer.deadline);
            }
        }
    }

    /// A timer that was armed, as it is in its record.
    fn armed_at(&self, part: u32, (id, row, index): TimerAt) -> Option<(TimerOrigin, FlowKey)> {
        let object = self.object(part, id)?;
        Some((origin(id, index, &object.timer(row, index)?), object.table.key(row)))
    }

    /// New steps are known: finds the timers they make due. O(1) while there are none, O(parts) besides.
    pub fn advance(&mut self, steps: &Steps) {
        if steps.end().is_none() && steps.newest().is_none_or(|newest| newest < self.due_from) {
            return;
        }
        (0..self.parts.len() as u32).for_each(|part| self.advance_part(part, steps));
        self.due_from = self.parts.iter().filter_map(|part| part.armed.due_from()).min().unwrap_or(Time::END);
    }

    fn advance_part(&mut self, part: u32, steps: &Steps) {
        let newest = steps.newest();
        let is_due = |armed: &Armed| armed.due_from().is_some_and(|at| Some(at) <= newest);
        while is_due(&self.parts[part as usize].armed) {
            let armed = &mut self.parts[part as usize].armed;
            let Some((deadline, at)) = armed.by_deadline.pop_first() else { break };
            let at_end = armed.at_end.remove(&at).is_some();
            if let Some(clock) = steps.due(deadline, at_end)
                && let Some((origin, key)) = self.armed_at(part, at)
            {
                self.insert_due(Position::timer(clock, origin), key);
            }
        }
        let Some(end) = steps.end() else { return };
        for (at, deadline) in std::mem::take(&mut self.parts[part as usize].armed.at_end) {
            self.parts[part as usize].armed.by_deadline.remove(&(deadline, at));
            if let Some((origin, key)) = self.armed_at(part, at) {
                self.insert_due(Position::timer(end.clock, origin), key);
            }
        }
    }

    /// Timers that are due and have not fired.
    #[must_use]
    pub fn due(&self) -> &BTreeMap<Position, Due> {
        &self.due
    }

    fn insert_due(&mut self, position: Position, key: FlowKey) {
        let hash = key.hash(self.seed);
        let lane = self.lane(&key, hash);
        self.due.insert(position, Due { key, lane });
        self.untried = self.untried.min(position);
    }

    /// Where those begin that have not been tried since something they may have waited for was done; all below `input` are
    /// tried now.
    pub fn begin_trying(&mut self, input: Position) -> Position {
        let from = self.untried;
        self.untried = from.max(input);
        from
    }

    /// One that was tried may have to be tried again.
    pub fn try_again_from(&mut self, position: Position) {
        self.untried = self.untried.min(position);
    }

    /// The objects of a part.
    fn part_objects(&self, part: u32) -> impl Iterator<Item = (ObjectId, &FlowObject)> {
        self.parts[part as usize]
            .objects
            .iter()
            .enumerate()
            .filter_map(|(i, o)| Some((ObjectId(i as u16), o.as_ref()?)))
    }

    /// The first due timer of a connection below a position.
    #[must_use]
    pub fn due_of(&self, key: &FlowKey, hash: u64, below: &Position, steps: &Steps) -> Option<Position> {
        let spot = self.spot(key, hash);
        let objects = self.part_objects(spot.part);
        let rows = objects.filter_map(|(id, o)| Some((id, o, self.row(id, key, hash, spot)?)));
        let due = rows.flat_map(|(id, object, row)| {
            (0..object.spec.shape.timers as u8).filter_map(move |index| {
                let timer = object.timer(row, index)?;
                Some(Position::timer(steps.due(timer.deadline, timer.at_end)?, origin(id, index, &timer)))
            })
        });
        // A timer whose handler is running is not in the set any more.
        due.filter(|p| p < below && self.due.contains_key(p)).min()
    }

    /// Takes a due timer to fire it.
    pub fn take_due(&mut self, position: &Position) -> Option<Due> {
        self.due.remove(position)
    }

    /// Disarms a timer that fires now: a write at the clock it became due at.
    pub fn disarm_due(&mut self, position: &Position, key: &FlowKey, hash: u64, steps: &Steps) {
        let Some(origin) = position.origin else { return };
        let spot = self.spot(key, hash);
        let Some(row) = self.row(origin.object, key, hash, spot) else { return };
        self.touch(spot.part, origin.object, row, position.clock, false);
        self.set_timer(spot.part, (origin.object, row, origin.index), key, None, steps);
    }

    /// Gives away the records of a slot, all of which have been flushed. O(due timers).
    pub fn take_slot(&mut self, slot: Slot) -> SlotRecords {
        let part = u32::from(slot.0);
        // What is due by steps above the boundary is due for the new owner, too: it finds out by itself.
        let is_in = |key: &FlowKey| self.spot(key, key.hash(self.seed)).part == part;
        let due: Vec<Position> =
            self.due.iter().filter(|(_, due)| is_in(&due.key)).map(|(p, _)| *p).collect();
        for position in due {
            let (Some(Due { key, .. }), Some(origin)) = (self.due.remove(&position), position.origin) else {
                continue;
            };
            let hash = key.hash(self.seed);
            let spot = self.spot(&key, hash);
            if let Some(row) = self.row(origin.object, &key, hash, spot)
                && let Some(timer) = self.object_mut(part, origin.object).timer(row, origin.index)
            {
                self.parts[part as usize].armed.add((origin.object, row, origin.index), &timer);
            }
        }
        std::mem::take(&mut self.parts[part as usize])
    }

    /// Takes over the records of a slot; what was known of it is dropped.
    pub fn put_slot(&mut self, slot: Slot, records: SlotRecords, steps: &Steps) {
        self.parts[usize::from(slot.0)] = records;
        self.advance_part(slot.0.into(), steps);
        let due_from = self.parts[usize::from(slot.0)].armed.due_from();
        self.due_from = self.due_from.min(due_from.unwrap_or(Time::END));
    }

    /// The last write of each of a connection's records, if it is there and the store has it: where a timer was
    /// just disarmed, a version of that clock would be from before a failure.
    pub fn written(&self, key: &FlowKey, hash: u64) -> impl Iterator<Item = (ObjectId, Option<Clock>)> {
        let spot = self.spot(key, hash);
        self.part_objects(spot.part).map(move |(id, object)| {
            let row = self.row(id, key, hash, spot);
            let written = row.map(|row| object.table.written(row)).filter(|written| !written.dirty);
            (id, written.map(|written| written.clock))
        })
    }

    /// Puts a record's value there as a shard has it.
    pub fn refresh(&mut self, id: ObjectId, key: &FlowKey, hash: u64, record: &Record) {
        let spot = self.spot(key, hash);
        let Some(row) = self.row(id, key, hash, spot) else { return };
        let object = self.object_mut(spot.part, id);
        object.unindex(row, key);
        // Its timers are known here: whoever has armed them had run before.
        let words = object.spec.shape.value_words();
        object.table.record_mut(row)[..words].copy_from_slice(&record.words()[..words]);
        object.reindex(row, key);
    }

    /// Queues versions of everything written below `boundary` that the store does not have.
    pub fn flush(&mut self, boundary: Clock) {
        let all = self.parts.iter_mut().flat_map(|part| part.objects.iter_mut().enumerate());
        let there = all.filter_map(|(i, object)| Some((ObjectId(i as u16), object.as_mut()?)));
        for (id, object) in there.filter(|(_, object)| !object.unflushed.is_empty()) {
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
        let part = self.spot(key, hash).part;
        let object = self.object_mut(part, id);
        let row = object.table.insert(key, hash);
        object.table.record_mut(row).copy_from_slice(record.words());
        object.table.set_written(row, Written { clock: written, dirty: false, removed: false });
        object.reindex(row, key);
        let shape = object.spec.shape;
        for index in 0..shape.timers {
            if let Some(timer) = record.timer(shape, index) {
                self.index_timer(part, (id, row, index as u8), key, &timer, steps);
            }
        }
    }

    /// The shortest delay any timer of this vertex is armed with; `None` without timers.
    #[must_use]
    pub fn timeout_min(&self) -> Option<Duration> {
        self.specs.iter().flatten().filter(|spec| spec.shape.timers > 0).map(|spec| spec.timeout_min).min()
    }

    /// Every record there is.
    pub fn show(&self) -> impl Iterator<Item = (ObjectId, FlowKey, Record)> + '_ {
        let parts = 0..self.parts.len() as u32;
        parts.flat_map(|part| self.part_objects(part)).flat_map(|(id, object)| {
            let live = object.table.rows().filter(|r| !object.table.written(*r).removed);
            live.map(move |row| (id, object.table.key(row), object.table.image(row)))
        })
    }
}

fn origin(object: ObjectId, index: u8, timer: &ArmedTimer) -> TimerOrigin {
    TimerOrigin { setter: timer.setter.clock, setter_path: timer.setter.path, object, index }
}

fn versioned_image<P: Protections>(object: &FlowObject, row: Row) -> Record {
    if P::on(Protection::TimersInVersion) {
        return object.table.image(row);
    }
    let mut words = object.table.record(row).to_vec();
    words[object.spec.shape.value_words()..].fill(0);
    Record::new(&words)
}

impl FlowObject {
    fn timer(&self, row: Row, index: u8) -> Option<ArmedTimer> {
        read_timer(timer_words(self.table.record(row), self.spec.shape, usize::from(index)))
    }

    fn secondary(&self, row: Row, key: &FlowKey) -> Option<u64> {
        let index_of = self.spec.index_of?;
        index_of(key, &self.table.record(row).as_bytes()[..self.spec.shape.value_len])
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
