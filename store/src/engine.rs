//! One store shard: a pure state machine.
//!
//! ```text
//!   Batch ──► session: its turn? ──► ledger: applied before? ──yes──► logged result
//!                                        │ no
//!                                        ├─ unordered object ──► apply, log, reply
//!                                        └─ ordered object ──► queue until every instance's
//!                                                              frontier has passed, then apply
//! ```
//!
//! Invariants: an operation of a given name is applied at most once and every later request for it
//! gets the logged result; operations on an ordered object are applied in order of (position,
//! operation index); a version is accepted from the owner of its slot only; nothing from a replaced
//! generation is accepted.
//!
//! Memory: ledgers and count maps hold what lies above the cut, at most a window of clocks; versions
//! grow with the records that exist. Paper: section 4.3 (offloading, metadata), 5.3 (duplicate
//! updates), 5.4 (failover).

use crate::active::{Active, InstanceSet};
use crate::batch::{Answer, Batch, Change, Changes, Fetched, Load, Loaded, OpItem, OpName, Reply};
use crate::counts::CountLedger;
use crate::ledger::{Entry, Known, Ledger, OpKind, Waiter};
use crate::object_table::hash_of;
use crate::objects::{Objects, Shown, is_ordered};
use crate::packet_log::{LogBatch, PacketLog};
use crate::pool::Acquired;
use crate::replicas::Publisher;
use crate::session::{Admission, Session};
use crate::versions::SlotVersions;
use chc_api::state::ObjectSpec;
use chc_api::{
    Clock, FlowKey, Generation, InstanceId, ObjectId, ObjectKey, Op, OpValue, Position, Protection,
    Protections, ShardId, Slot, Time, VertexId,
};
use hashbrown::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a shard must know of a vertex.
#[derive(Clone)]
pub struct VertexSpec {
    /// Its declarations.
    pub objects: Vec<ObjectSpec>,
    /// How many instances it has.
    pub instances: u16,
    /// The instance that owns each slot.
    pub owners: Vec<u16>,
    /// How many packets of one clock come to it at most.
    pub per_clock: u64,
}

/// What a shard is told at its start.
#[derive(Clone)]
pub struct ShardConfig {
    /// Which shard this is.
    pub shard: ShardId,
    /// The root's window, in clocks.
    pub window: u64,
    /// The vertices of the chain, by [`VertexId`].
    pub vertices: Vec<VertexSpec>,
    /// Keep every choice made for a `serial` object, for a later proof of equivalence.
    pub record_choices: bool,
    /// Where the random numbers begin that operations need.
    pub seed: u64,
}

/// What a shard wants done.
#[derive(Debug)]
pub enum ShardEffect {
    /// Results for an instance.
    Reply(Reply),
    /// Everything of the session up to this batch is in the shard's log.
    Acknowledge {
        /// The session's instance.
        to: InstanceId,
        /// Its generation.
        generation: Generation,
        /// The batch.
        number: u64,
    },
    /// Records for a new generation.
    Loaded(Loaded),
    /// Changes of replicated values, for an instance.
    Changed(Changes),
    /// For the root: clocks below this one are reserved.
    Reserved(Clock),
    /// For the root: packets up to this batch are in the log.
    Logged {
        /// The root.
        root: u16,
        /// The batch.
        number: u64,
    },
    /// A network function broke the rules of replay; the chain cannot go on.
    Defect(String),
}

/// Counts of what a shard did and refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardCounts {
    /// Operations and counter pairs applied.
    pub applied: u64,
    /// Operations and counter pairs that had been applied before.
    pub suppressed: u64,
    /// Batches and loads from replaced generations.
    pub fenced: u64,
    /// Batches that came before their turn.
    pub early: u64,
    /// Batches that had been applied before.
    pub repeated: u64,
    /// Versions from instances that do not own the slot.
    pub not_owner: u64,
}

/// A choice made for a `serial` object or a pool: what the named operation returned. For an operation that needs a
/// random number, that number.
pub type Choice = (VertexId, OpName, OpValue);

struct Vertex<P> {
    objects: Objects,
    /// The owners of each slot, each from a clock on.
    terms: Vec<Vec<(Clock, u16)>>,
    /// Slots that have more than one.
    moved: BTreeSet<Slot>,
    /// Of each instance.
    sessions: Vec<Session>,
    /// Those that own slots.
    active: Active,
    /// By object: the queue of an ordered one.
    queues: Vec<Option<Queue>>,
    ledger: Ledger,
    counts: HashMap<(ObjectId, u16), CountLedger<P>>,
    slots: BTreeMap<Slot, SlotVersions>,
    /// Those that have versions the cut has not passed.
    unsettled: Vec<Slot>,
    /// Replicated values, if it has any.
    publisher: Option<Publisher<P>>,
    /// Hashes of the keys of a batch; kept for its memory.
    hashes: Vec<u64>,
}

/// Operations on an ordered object that wait for their place in the order.
struct Queue {
    /// What each instance has promised.
    frontier: Vec<Position>,
    waiting: BTreeMap<OpName, Waiting>,
}

struct Waiting {
    entry: Entry,
    key: ObjectKey,
    op: Op,
    now: Time,
    answer: Answer,
}

/// One shard's state machine.
pub struct ShardEngine<P> {
    shard: ShardId,
    window: u64,
    floor: Clock,
    /// Clocks below this may have been stamped (the first shard).
    reserved: Clock,
    /// Packets in flight, if the root has them logged here.
    packets: PacketLog,
    vertices: Vec<Vertex<P>>,
    record_choices: bool,
    choices: Vec<Choice>,
    /// What has been done and refused.
    pub tally: ShardCounts,
}

impl<P: Protections> ShardEngine<P> {
    /// A shard with every object in its initial state.
    #[must_use]
    pub fn new(config: ShardConfig) -> Self {
        let rest = if P::on(Protection::ReleaseQuarantine) { config.window } else { 0 };
        let window = config.window;
        let vertices =
            config.vertices.into_iter().map(|v| Vertex::new(v, window, rest, config.seed)).collect();
        Self {
            shard: config.shard,
            window: config.window,
            floor: Clock(0),
            reserved: Clock(0),
            packets: PacketLog::default(),
            vertices,
            record_choices: config.record_choices,
            choices: Vec::new(),
            tally: ShardCounts::default(),
        }
    }

    /// Takes a batch: applies it, and those that came before their turn, in the order of the session.
    pub fn on_batch(&mut self, batch: Arc<Batch>, out: &mut Vec<ShardEffect>) {
        let (from, generation) = (batch.from, batch.generation);
        let Some(session) = self.session(from) else { return };
        let mut next = None;
        match session.admit::<P>(&batch) {
            Admission::Next => next = Some(batch),
            Admission::Fenced => return self.tally.fenced += 1,
            Admission::Early => return self.tally.early += 1,
            // Its acknowledgement was lost, or late, or it waits for confirmations of changes.
            Admission::Repeated => {
                self.tally.repeated += 1;
                self.publisher(from).into_iter().for_each(Publisher::repeat);
            }
        }
        while let Some(batch) = next {
            if let Err(defect) = self.apply(&batch, out) {
                return out.push(ShardEffect::Defect(defect));
            }
            next = self.session(from).and_then(Session::take_next);
        }
        let number = self.session(from).map_or(0, |session| session.applied());
        match self.publisher(from) {
            None => out.push(ShardEffect::Acknowledge { to: from, generation, number }),
            Some(publisher) => {
                publisher.acknowledge((from.index, generation, number));
                self.publish(from.vertex, out);
            }
        }
    }

    fn publisher(&mut self, of: InstanceId) -> Option<&mut Publisher<P>> {
        self.vertices.get_mut(usize::from(of.vertex.0))?.publisher.as_mut()
    }

    /// Sends what was written of a vertex's replicated values, and the acknowledgements that waited for nothing else.
    fn publish(&mut self, id: VertexId, out: &mut Vec<ShardEffect>) {
        let vertex = &mut self.vertices[usize::from(id.0)];
        let Some(publisher) = &mut vertex.publisher else { return };
        for (index, generation, number) in publisher.take_acknowledgements() {
            out.push(ShardEffect::Acknowledge { to: InstanceId { vertex: id, index }, generation, number });
        }
        let generation = |index: u16| vertex.sessions[usize::from(index)].generation();
        out.extend(
            publisher.take_changes((id, self.shard), generation).into_iter().map(ShardEffect::Changed),
        );
    }

    fn session(&mut self, of: InstanceId) -> Option<&mut Session> {
        self.vertices.get_mut(usize::from(of.vertex.0))?.sessions.get_mut(usize::from(of.index))
    }

    fn apply(&mut self, batch: &Batch, out: &mut Vec<ShardEffect>) -> Result<(), String> {
        let newest = batch.ops.iter().map(|o| o.name.position.clock).max();
        if let Some(clock) = newest {
            // A stamped clock proves that the cut is less than a window behind it.
            self.trim(Clock((clock.0 + 1).saturating_sub(self.window)), out);
        }
        let floor = self.floor;
        let InstanceId { vertex: id, index } = batch.from;
        let vertex = &mut self.vertices[usize::from(id.0)];
        let mut replies = Replies::new(self.record_choices, batch.ops.len());
        for fetch in &batch.fetches {
            let slot = vertex.slots.get(&fetch.slot);
            let record = |(object, written): &(ObjectId, Option<Clock>)| {
                Some((*object, slot?.written_at(*object, &fetch.key, (*written)?)?))
            };
            let records = fetch.written.iter().filter_map(record).collect();
            replies.fetched((batch.from, batch.generation), fetch.position, records);
        }
        for (boundary, set) in &batch.active {
            let known =
                if P::on(Protection::AwaitedIssuers) { *set } else { set.within(vertex.active.last()) };
            vertex.active.change(*boundary, known);
        }
        // In front of the operations: whoever reads a counter sees what it has added itself.
        for count in &batch.counts {
            let ledger = vertex.counts.entry((count.object, count.cell)).or_default();
            let taken = ledger.take(count, floor);
            vertex.objects.count(count.object, count.cell, taken.sum);
            self.tally.applied += taken.fresh;
            self.tally.suppressed += taken.repeated;
        }
        vertex.submit_all(batch, floor, &mut self.tally, &mut replies)?;
        for version in &batch.versions {
            if vertex.owner_at(version.slot, version.written) != Some(index) && P::on(Protection::TermFences)
            {
                self.tally.not_owner += 1;
                continue;
            }
            let slot = vertex.slots.entry(version.slot).or_default();
            if slot.is_settled() {
                vertex.unsettled.push(version.slot);
            }
            slot.store(version.object, version.key, version.written, version.record.clone());
        }
        for (object, position) in &batch.frontier {
            if let Some(Some(queue)) = vertex.queues.get_mut(usize::from(object.0)) {
                let frontier = &mut queue.frontier[usize::from(index)];
                *frontier = (*frontier).max(*position);
            }
        }
        vertex.serve(&mut self.tally, &mut replies)?;
        if let Some(publisher) = &mut vertex.publisher {
            publisher.on_seen(index, batch.changes_seen);
        }
        self.choices.extend(replies.send(id, out));
        Ok(())
    }

    /// Gives an instance the records of slots it owns from a boundary on, and refuses older generations of it from now
    /// on.
    pub fn on_load(&mut self, load: &Load, out: &mut Vec<ShardEffect>) {
        let Some(session) = self.session(load.from) else { return };
        if !session.begin(load.generation) {
            self.tally.fenced += 1;
            return;
        }
        let vertex = &mut self.vertices[usize::from(load.from.vertex.0)];
        for slot in &load.slots {
            vertex.begin_term(*slot, load.boundary, load.from.index);
        }
        let below = if P::on(Protection::BoundaryVersions) { load.boundary } else { Clock(u64::MAX) };
        let mut held = vec![false; vertex.terms.len()];
        for slot in &load.held {
            held.get_mut(usize::from(slot.0)).into_iter().for_each(|held| *held = true);
        }
        let wanted = load.slots.iter().filter(|slot| held.get(usize::from(slot.0)) == Some(&false));
        let mine = wanted.filter_map(|slot| vertex.slots.get(slot));
        let records = mine.flat_map(|versions| versions.load(below)).collect();
        let publisher = vertex.publisher.as_mut().filter(|_| load.begins);
        let (changes, changes_known) = publisher.map(|of| of.load(load.from.index)).unwrap_or_default();
        out.push(ShardEffect::Loaded(Loaded {
            to: load.from,
            generation: load.generation,
            shard: self.shard,
            boundary: load.boundary,
            records,
            changes,
            changes_known,
        }));
    }

    /// The root will stamp clocks below this one. A reservation is never taken back.
    pub fn on_reserve(&mut self, until: Clock, out: &mut Vec<ShardEffect>) {
        self.reserved = self.reserved.max(until);
        out.push(ShardEffect::Reserved(self.reserved));
    }

    /// The root has stamped packets.
    pub fn on_log(&mut self, batch: LogBatch, out: &mut Vec<ShardEffect>) {
        out.push(ShardEffect::Logged { root: batch.root, number: batch.number });
        self.packets.add(batch);
    }

    /// Clocks below this may have been stamped.
    #[must_use]
    pub fn reserved(&self) -> Clock {
        self.reserved
    }

    /// The chain's cut moved: nothing below it can be asked for again.
    pub fn on_cut(&mut self, cut: Clock, out: &mut Vec<ShardEffect>) {
        self.trim(cut, out);
    }

    fn trim(&mut self, cut: Clock, out: &mut Vec<ShardEffect>) {
        if cut <= self.floor {
            return;
        }
        self.floor = cut;
        self.packets.trim(cut);
        for i in 0..self.vertices.len() {
            let vertex = &mut self.vertices[i];
            // Below the cut every operation has been issued, whoever still has to say so.
            for frontier in vertex.queues.iter_mut().flatten().flat_map(|queue| &mut queue.frontier) {
                *frontier = (*frontier).max(Position::before(cut));
            }
            let mut replies = Replies::new(self.record_choices, 0);
            if let Err(defect) = vertex.serve(&mut self.tally, &mut replies) {
                return out.push(ShardEffect::Defect(defect));
            }
            self.choices.extend(replies.send(VertexId(i as u16), out));
            vertex.trim_terms(cut);
            vertex.active.trim(cut);
            vertex.ledger.trim(cut);
            for counts in vertex.counts.values_mut() {
                counts.trim(cut);
            }
            let Vertex { slots, unsettled, .. } = vertex;
            unsettled.retain(|slot| {
                slots.get_mut(slot).is_some_and(|slot| {
                    slot.trim(cut);
                    !slot.is_settled()
                })
            });
            if let Some(publisher) = &mut vertex.publisher {
                publisher.trim(cut, self.window);
                self.publish(VertexId(i as u16), out);
            }
        }
    }

    /// The choices recorded so far.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// The keys of a vertex's cross-flow values; see [`Objects::keys`].
    pub fn keys(&self, vertex: VertexId) -> impl Iterator<Item = (ObjectId, &ObjectKey)> {
        self.vertices.get(usize::from(vertex.0)).into_iter().flat_map(|vertex| vertex.objects.keys())
    }

    /// Cross-flow objects that are not in their initial state.
    pub fn show_objects(&self) -> impl Iterator<Item = (VertexId, ObjectId, ObjectKey, Shown)> + '_ {
        self.vertices.iter().enumerate().flat_map(|(i, v)| {
            v.objects
                .show()
                .into_iter()
                .map(move |(object, key, shown)| (VertexId(i as u16), object, key, shown))
        })
    }

    /// Per-flow records in their newest version.
    pub fn show_records(
        &self,
    ) -> impl Iterator<Item = (VertexId, ObjectId, FlowKey, crate::record::Record)> + '_ {
        self.vertices.iter().enumerate().flat_map(|(i, v)| {
            v.slots
                .values()
                .flat_map(|s| s.load(Clock(u64::MAX)))
                .map(move |(object, key, _, record)| (VertexId(i as u16), object, key, record))
        })
    }

    /// Operations waiting for their place in the order.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.vertices.iter().flat_map(|v| v.queues.iter().flatten()).map(|queue| queue.waiting.len()).sum()
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    /// If an invariant is broken: a defect of this code.
    pub fn check_invariants(&self) {
        for vertex in &self.vertices {
            if let Some((low, high)) = vertex.ledger.span() {
                assert!(
                    high.0 - low.0 < self.window,
                    "the ledger holds clocks {low:?} to {high:?}, over a window"
                );
            }
            for (name, waiting) in vertex.queues.iter().flatten().flat_map(|queue| &queue.waiting) {
                let entry = vertex.ledger.find(name);
                let logged = entry.map(|entry| vertex.ledger.get(entry));
                assert!(
                    logged.is_some_and(|logged| logged.result.is_none()),
                    "{name:?} waits with {:?} but is not logged",
                    waiting.op
                );
            }
        }
    }
}

impl<P: Protections> Vertex<P> {
    fn new(spec: VertexSpec, window: u64, rest: u64, seed: u64) -> Self {
        let frontier = vec![Position::before(Clock(0)); usize::from(spec.instances)];
        let queue = |object: &ObjectSpec| {
            is_ordered(object).then(|| Queue { frontier: frontier.clone(), waiting: BTreeMap::new() })
        };
        Self {
            active: Active::new(InstanceSet::owners(&spec.owners)),
            queues: spec.objects.iter().map(queue).collect(),
            publisher: Publisher::new(&spec.objects, spec.instances),
            objects: Objects::new(spec.objects, rest, spec.per_clock, seed),
            terms: spec.owners.iter().map(|owner| vec![(Clock(0), *owner)]).collect(),
            moved: BTreeSet::new(),
            sessions: (0..spec.instances).map(|_| Session::default()).collect(),
            ledger: Ledger::new(window),
            counts: HashMap::new(),
            slots: BTreeMap::new(),
            unsettled: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// The instance that owns a slot at a clock.
    fn owner_at(&self, slot: Slot, clock: Clock) -> Option<u16> {
        let terms = self.terms.get(usize::from(slot.0))?;
        terms.iter().rev().find(|(from, _)| *from <= clock).map(|(_, owner)| *owner)
    }

    /// An instance owns a slot from a boundary on.
    fn begin_term(&mut self, slot: Slot, boundary: Clock, owner: u16) {
        if self.owner_at(slot, boundary) == Some(owner) {
            return;
        }
        let Some(terms) = self.terms.get_mut(usize::from(slot.0)) else { return };
        match terms.binary_search_by_key(&boundary, |(from, _)| *from) {
            Ok(at) => terms[at].1 = owner,
            Err(at) => {
                terms.insert(at, (boundary, owner));
                self.moved.insert(slot);
            }
        }
    }

    /// Forgets terms that ended below the cut.
    fn trim_terms(&mut self, cut: Clock) {
        let Self { terms, moved, .. } = self;
        moved.retain(|slot| {
            let Some(terms) = terms.get_mut(usize::from(slot.0)) else { return false };
            let last = terms.iter().rposition(|(from, _)| *from <= cut).unwrap_or(0);
            terms.drain(..last);
            terms.len() > 1
        });
    }

    /// A batch's operations, in the order of their issue.
    fn submit_all(
        &mut self,
        batch: &Batch,
        floor: Clock,
        tally: &mut ShardCounts,
        replies: &mut Replies,
    ) -> Result<(), String> {
        self.hashes.clear();
        self.hashes.extend(batch.ops.iter().map(|item| hash_of(&item.key)));
        // All look-ups begin before the first one is waited for: as many at once as a loop of nothing else can have.
        let mut touched = 0;
        let objects = &self.objects;
        for (item, hash) in batch.ops.iter().zip(&self.hashes) {
            touched ^= objects.touch(item.object, *hash);
        }
        // By now the lines are there that say where the rest lies.
        for (item, hash) in batch.ops.iter().zip(&self.hashes) {
            touched ^= objects.touch_further(item.object, &item.key, *hash);
        }
        // The loads must happen; their values do not matter.
        std::hint::black_box(touched);
        let waiter = (batch.from, batch.generation);
        for (at, item) in batch.ops.iter().enumerate() {
            let hash = self.hashes[at];
            self.submit(item, hash, waiter, floor, tally, replies)?;
        }
        Ok(())
    }

    /// One operation: looks it up in the ledger, queues or applies it.
    #[inline]
    fn submit(
        &mut self,
        item: &OpItem,
        hash: u64,
        waiter: Waiter,
        floor: Clock,
        tally: &mut ShardCounts,
        replies: &mut Replies,
    ) -> Result<(), String> {
        let clock = item.name.position.clock;
        let suppress = P::on(Protection::UpdateSuppression)
            && (P::on(Protection::LoggedDraws) || !self.objects.is_drawn(item.object, &item.op));
        if clock < floor && suppress {
            tally.suppressed += 1;
            return Ok(());
        }
        let entry = match self.ledger.note(item, hash) {
            Known::New(entry) => entry,
            Known::Differs => {
                return Err(format!(
                    "{} issued {:?} on {:?} as {:?}, which was another operation when it ran before: the \
                     network function is not deterministic",
                    waiter.0, item.op, item.object, item.name
                ));
            }
            Known::Before(entry) => {
                tally.suppressed += 1;
                let logged = self.ledger.get_mut(entry);
                if let Some(result) = logged.result.filter(|result| !item.answer.admits(result)) {
                    return Err(differs(&item.name, item.object, &result));
                }
                match (logged.result.filter(|_| suppress), item.answer.is_awaited()) {
                    (Some(result), true) => replies.add(waiter, item.name, result),
                    (None, true) => logged.waiter = Some(waiter),
                    _ => {}
                }
                if suppress || logged.result.is_none() {
                    return Ok(());
                }
                entry
            }
        };
        let queue = self.queues.get_mut(usize::from(item.object.0)).and_then(Option::as_mut);
        // A release is found out by clock, not by place in the order.
        match queue.filter(|_| !matches!(item.op, Op::Release { .. })) {
            Some(queue) => {
                let logged = self.ledger.get_mut(entry);
                logged.waiter = item.answer.is_awaited().then_some(waiter);
                logged.result = None;
                let OpItem { key, op, now, answer, .. } = *item;
                queue.waiting.insert(item.name, Waiting { entry, key, op, now, answer });
            }
            None => {
                let op = match item.op {
                    Op::Release { member, .. } if !P::on(Protection::OwnedReleases) => {
                        let owner = self.objects.owner(item.object, &item.key, member);
                        owner.map(|owner| Op::Release { member, owner })
                    }
                    _ => None,
                };
                let op = op.as_ref().unwrap_or(&item.op);
                let result = self.objects.apply_hashed(item.object, &item.key, hash, op, (clock, item.now));
                let draw = self.objects.take_draw();
                tally.applied += 1;
                let logged = self.ledger.get_mut(entry);
                logged.result = Some(result);
                logged.waiter = None;
                if item.answer.is_awaited() {
                    replies.add(waiter, item.name, result);
                }
                if let Some(draw) = draw {
                    replies.choose(item.name, OpValue::Int(draw as i64));
                } else if logged.kind != OpKind::Release && self.objects.is_serial(item.object) {
                    replies.choose(item.name, result);
                }
            }
        }
        Ok(())
    }

    /// Applies whatever has its place in the order.
    fn serve(&mut self, tally: &mut ShardCounts, replies: &mut Replies) -> Result<(), String> {
        for (object, queue) in self.queues.iter_mut().enumerate() {
            let Some(queue) = queue.as_mut().filter(|queue| !queue.waiting.is_empty()) else { continue };
            let object = ObjectId(object as u16);
            let promised = (0..).zip(&queue.frontier).map(|(index, said)| self.active.reach(index, *said));
            let frontier = promised.min().unwrap_or(Position::before(Clock(0)));
            let mut done = Vec::new();
            for (name, Waiting { entry, key, op, now, answer }) in &queue.waiting {
                let reached = name.position <= frontier || !P::on(Protection::ClockParking);
                let at = name.position.clock;
                let result = if let Op::Acquire(near) = *op {
                    match self.objects.acquire(object, (key.0[0], near), at, frontier.clock, reached) {
                        Acquired::Member(member) => OpValue::Int(member as i64),
                        Acquired::None => OpValue::Empty,
                        // No later acquire of this pool can be decided before this one.
                        Acquired::Undecided => continue,
                    }
                } else if !reached {
                    break;
                } else if *op == Op::Disown {
                    let acquired = self.ledger.acquired(&name.position, object);
                    self.objects.disown(object, &acquired, at);
                    OpValue::Empty
                } else {
                    self.objects.apply(object, key, op, (at, *now))
                };
                if !answer.admits(&result) {
                    return Err(differs(name, object, &result));
                }
                if let Some(publisher) =
                    self.publisher.as_mut().filter(|_| self.objects.is_replicated(object))
                    && *op != Op::Get
                {
                    let value = self.objects.differing(object, key);
                    publisher.write(Change { object, key: *key, clock: at, value });
                }
                let draw = self.objects.take_draw();
                let read = |objects: &mut Objects| objects.apply(object, key, &Op::Get, (at, *now));
                let left = (*answer == Answer::Value).then(|| read(&mut self.objects));
                done.push((*name, *entry, result, draw, left));
            }
            tally.applied += done.len() as u64;
            for (name, entry, result, draw, left) in done {
                queue.waiting.remove(&name);
                let logged = self.ledger.get_mut(entry);
                logged.result = Some(result);
                if let Some(to) = logged.waiter.take() {
                    replies.add(to, name, result);
                    if let Some(left) = left {
                        replies.left(to, name, left);
                    }
                }
                if let Some(draw) = draw {
                    replies.choose(name, OpValue::Int(draw as i64));
                } else if logged.kind == OpKind::Acquire {
                    replies.choose(name, result);
                }
            }
        }
        Ok(())
    }
}

/// An instance went on with a result it did not get.
fn differs(name: &OpName, object: ObjectId, result: &OpValue) -> String {
    format!(
        "{name:?} on {object:?} returns {result:?}, but the instance that issued it went on with another result"
    )
}

/// Results on their way out, gathered by session.
struct Replies {
    to: Vec<(Waiter, Vec<(OpName, OpValue)>)>,
    /// Values left by operations whose results are among these.
    left: Vec<(Waiter, OpName, OpValue)>,
    records: Vec<(Waiter, Vec<(Position, Fetched)>)>,
    /// As many as there may be of one session.
    expected: usize,
    /// Results that were a choice, if they are to be recorded.
    chosen: Option<Vec<(OpName, OpValue)>>,
}

impl Replies {
    fn new(record_choices: bool, expected: usize) -> Self {
        Self {
            to: Vec::new(),
            left: Vec::new(),
            records: Vec::new(),
            expected,
            chosen: record_choices.then(Vec::new),
        }
    }

    #[inline(always)]
    fn add(&mut self, to: Waiter, name: OpName, result: OpValue) {
        // There are few: as a rule all are of the batch at hand.
        match self.to.iter_mut().find(|(other, _)| *other == to) {
            Some((_, results)) => results.push((name, result)),
            None => {
                let mut results = Vec::with_capacity(self.expected);
                results.push((name, result));
                self.to.push((to, results));
            }
        }
    }

    fn left(&mut self, to: Waiter, name: OpName, value: OpValue) {
        self.left.push((to, name, value));
    }

    fn fetched(&mut self, to: Waiter, position: Position, records: Fetched) {
        match self.records.last_mut().filter(|(other, _)| *other == to) {
            Some((_, all)) => all.push((position, records)),
            None => self.records.push((to, vec![(position, records)])),
        }
    }

    #[inline]
    fn choose(&mut self, name: OpName, result: OpValue) {
        if let Some(chosen) = &mut self.chosen {
            chosen.push((name, result));
        }
    }

    /// Sends the results; returns the choices.
    fn send(self, vertex: VertexId, out: &mut Vec<ShardEffect>) -> impl Iterator<Item = Choice> {
        for (to, results) in self.to {
            let of = self.left.iter().filter(|(waiter, ..)| *waiter == to);
            let values = of.map(|(_, name, value)| (*name, *value)).collect();
            out.push(ShardEffect::Reply(Reply { results, values, ..Reply::empty(to) }));
        }
        for (to, records) in self.records {
            out.push(ShardEffect::Reply(Reply { records, ..Reply::empty(to) }));
        }
        self.chosen.into_iter().flatten().map(move |(name, result)| (vertex, name, result))
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
