//! One store shard: a pure state machine.
//!
//! ```text
//!   Batch ──► fence by generation ──► ledger: applied before? ──yes──► logged result
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

use crate::batch::{Batch, Load, Loaded, OpItem, OpName, Reply};
use crate::counts::CountLedger;
use crate::objects::{Objects, Shown, is_ordered};
use crate::pool::Acquired;
use crate::versions::SlotVersions;
use chc_api::state::ObjectSpec;
use chc_api::{
    Clock, Consistency, FlowKey, Generation, InstanceId, ObjectId, ObjectKey, Op, OpValue, Position,
    Protection, Protections, ShardId, Slot, VertexId,
};
use hashbrown::HashMap;
use std::collections::BTreeMap;

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
    /// Versions from instances that do not own the slot.
    pub not_owner: u64,
}

/// A choice made for a `serial` object or a pool: what the named operation returned.
pub type Choice = (VertexId, OpName, OpValue);

struct Logged {
    object: ObjectId,
    key: ObjectKey,
    op: Op,
    result: Option<OpValue>,
    waiter: Option<(InstanceId, Generation)>,
}

struct Vertex<P> {
    objects: Objects,
    owners: Vec<u16>,
    generations: Vec<Generation>,
    /// Ordered objects, each with a frontier per instance.
    frontiers: BTreeMap<ObjectId, Vec<Position>>,
    queues: BTreeMap<ObjectId, BTreeMap<OpName, (ObjectKey, Op)>>,
    ledger: BTreeMap<Clock, HashMap<OpName, Logged>>,
    counts: HashMap<(ObjectId, u16), CountLedger<P>>,
    slots: BTreeMap<Slot, SlotVersions>,
}

/// One shard's state machine.
pub struct ShardEngine<P> {
    shard: ShardId,
    window: u64,
    floor: Clock,
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
        let vertices = config.vertices.into_iter().map(|v| Vertex::new(v, rest)).collect();
        Self {
            shard: config.shard,
            window: config.window,
            floor: Clock(0),
            vertices,
            record_choices: config.record_choices,
            choices: Vec::new(),
            tally: ShardCounts::default(),
        }
    }

    /// Takes a batch.
    pub fn on_batch(&mut self, batch: Batch, out: &mut Vec<ShardEffect>) {
        let vertex_id = batch.from.vertex;
        let Some(vertex) = self.vertices.get_mut(usize::from(vertex_id.0)) else { return };
        let index = usize::from(batch.from.index);
        if vertex.generations[index] > batch.generation {
            self.tally.fenced += 1;
            return;
        }
        let newest = batch.ops.iter().map(|o| o.name.position.clock).max();
        if let Some(clock) = newest {
            // A stamped clock proves that the cut is less than a window behind it.
            self.trim(Clock((clock.0 + 1).saturating_sub(self.window)), out);
        }
        let floor = self.floor;
        let vertex = &mut self.vertices[usize::from(vertex_id.0)];
        let mut replies = Replies::default();
        for item in &batch.ops {
            if let Err(defect) = vertex.submit(item, &batch, floor, &mut self.tally, &mut replies) {
                out.push(ShardEffect::Defect(defect));
                return;
            }
        }
        for count in &batch.counts {
            let ledger = vertex.counts.entry((count.object, count.cell)).or_default();
            let (fresh, repeated) = ledger.take(count, floor);
            vertex.objects.count(count.object, count.cell, fresh);
            self.tally.applied += fresh;
            self.tally.suppressed += repeated;
        }
        for version in batch.versions {
            if vertex.owners.get(usize::from(version.slot.0)) != Some(&batch.from.index) {
                self.tally.not_owner += 1;
                continue;
            }
            let slot = vertex.slots.entry(version.slot).or_default();
            slot.store(version.object, version.key, version.written, version.record);
        }
        for (object, position) in batch.frontier {
            if let Some(frontier) = vertex.frontiers.get_mut(&object) {
                frontier[index] = frontier[index].max(position);
            }
        }
        vertex.serve(&mut self.tally, &mut replies);
        self.record(vertex_id, &replies);
        replies.send(out);
        out.push(ShardEffect::Acknowledge {
            to: batch.from,
            generation: batch.generation,
            number: batch.number,
        });
    }

    /// Gives a new generation the records of its slots and refuses older ones from now on.
    pub fn on_load(&mut self, load: &Load, out: &mut Vec<ShardEffect>) {
        let Some(vertex) = self.vertices.get_mut(usize::from(load.from.vertex.0)) else { return };
        let generation = &mut vertex.generations[usize::from(load.from.index)];
        if *generation > load.generation {
            self.tally.fenced += 1;
            return;
        }
        *generation = load.generation;
        let below = if P::on(Protection::BoundaryVersions) { load.boundary } else { Clock(u64::MAX) };
        let mine = |slot: &Slot| vertex.owners.get(usize::from(slot.0)) == Some(&load.from.index);
        let records =
            vertex.slots.iter().filter(|(slot, _)| mine(slot)).flat_map(|(_, v)| v.load(below)).collect();
        out.push(ShardEffect::Loaded(Loaded {
            to: load.from,
            generation: load.generation,
            shard: self.shard,
            records,
        }));
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
        for (i, vertex) in self.vertices.iter_mut().enumerate() {
            // Below the cut every operation has been issued, whoever still has to say so.
            for frontier in vertex.frontiers.values_mut().flatten() {
                *frontier = (*frontier).max(Position::before(cut));
            }
            let mut replies = Replies::default();
            vertex.serve(&mut self.tally, &mut replies);
            if self.record_choices {
                self.choices.extend(replies.chosen(VertexId(i as u16)));
            }
            replies.send(out);
            vertex.ledger = vertex.ledger.split_off(&cut);
            for counts in vertex.counts.values_mut() {
                counts.trim(cut);
            }
            for slot in vertex.slots.values_mut() {
                slot.trim(cut);
            }
        }
    }

    fn record(&mut self, vertex: VertexId, replies: &Replies) {
        if self.record_choices {
            self.choices.extend(replies.chosen(vertex));
        }
    }

    /// The choices recorded so far.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        &self.choices
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
        self.vertices.iter().flat_map(|v| v.queues.values()).map(BTreeMap::len).sum()
    }

    /// Checks what must always hold.
    ///
    /// # Panics
    /// If an invariant is broken: a defect of this code.
    pub fn check_invariants(&self) {
        for vertex in &self.vertices {
            if let (Some((low, _)), Some((high, _))) =
                (vertex.ledger.first_key_value(), vertex.ledger.last_key_value())
            {
                assert!(
                    high.0 - low.0 < self.window,
                    "the ledger holds clocks {low:?} to {high:?}, over a window"
                );
            }
            for (object, queue) in &vertex.queues {
                for name in queue.keys() {
                    let logged = vertex.ledger.get(&name.position.clock).and_then(|l| l.get(name));
                    assert!(
                        logged.is_some_and(|l| l.result.is_none()),
                        "{object:?} {name:?} waits but is not logged"
                    );
                }
            }
        }
    }
}

impl<P: Protections> Vertex<P> {
    fn new(spec: VertexSpec, rest: u64) -> Self {
        let start = vec![Position::before(Clock(0)); usize::from(spec.instances)];
        let ordered = spec.objects.iter().enumerate().filter(|(_, o)| is_ordered(o));
        let frontiers: BTreeMap<_, _> = ordered.map(|(i, _)| (ObjectId(i as u16), start.clone())).collect();
        Self {
            queues: frontiers.keys().map(|id| (*id, BTreeMap::new())).collect(),
            frontiers,
            objects: Objects::new(spec.objects, rest, spec.per_clock),
            owners: spec.owners,
            generations: vec![Generation(0); usize::from(spec.instances)],
            ledger: BTreeMap::new(),
            counts: HashMap::new(),
            slots: BTreeMap::new(),
        }
    }

    /// One operation: looks it up in the ledger, queues or applies it.
    fn submit(
        &mut self,
        item: &OpItem,
        batch: &Batch,
        floor: Clock,
        tally: &mut ShardCounts,
        replies: &mut Replies,
    ) -> Result<(), String> {
        let clock = item.name.position.clock;
        let suppress = P::on(Protection::UpdateSuppression);
        if clock < floor && suppress {
            tally.suppressed += 1;
            return Ok(());
        }
        let waiter = item.reply.then_some((batch.from, batch.generation));
        let ledger = self.ledger.entry(clock).or_default();
        if let Some(logged) = ledger.get_mut(&item.name) {
            if (logged.object, logged.key, logged.op) != (item.object, item.key, item.op) {
                return Err(format!(
                    "{} issued {:?} as {:?} on {:?}, and {:?} when it ran again: the network function is not \
                     deterministic",
                    batch.from, item.name, logged.op, logged.object, item.op
                ));
            }
            tally.suppressed += 1;
            if suppress || logged.result.is_none() {
                match (logged.result, waiter) {
                    (Some(result), Some(to)) => replies.add(to, item.name, result),
                    (None, Some(_)) => logged.waiter = waiter,
                    _ => {}
                }
                return Ok(());
            }
        }
        let logged = Logged { object: item.object, key: item.key, op: item.op, result: None, waiter };
        ledger.insert(item.name, logged);
        let ordered = self.queues.get_mut(&item.object);
        // A release is found out by clock, not by place in the order.
        match (ordered, &item.op) {
            (Some(queue), op) if !matches!(op, Op::Release { .. }) => {
                queue.insert(item.name, (item.key, item.op));
            }
            _ => {
                let result = self.objects.apply(item.object, &item.key, &item.op, clock);
                tally.applied += 1;
                self.finish(item.name, result, replies);
            }
        }
        Ok(())
    }

    fn finish(&mut self, name: OpName, result: OpValue, replies: &mut Replies) {
        let logged = self.ledger.get_mut(&name.position.clock).and_then(|l| l.get_mut(&name));
        let Some(logged) = logged else { return };
        logged.result = Some(result);
        if let Some(to) = logged.waiter.take() {
            replies.add(to, name, result);
        }
        let spec = self.objects.specs().get(usize::from(logged.object.0));
        if spec.is_some_and(|s| s.consistency == Consistency::Serial)
            && !matches!(logged.op, Op::Release { .. })
        {
            replies.chosen.push((name, result));
        }
    }

    /// Applies whatever has its place in the order.
    fn serve(&mut self, tally: &mut ShardCounts, replies: &mut Replies) {
        for (object, frontier) in &self.frontiers {
            let Some(queue) = self.queues.get_mut(object).filter(|q| !q.is_empty()) else { continue };
            let frontier = frontier.iter().min().copied().unwrap_or(Position::before(Clock(0)));
            let mut done = Vec::new();
            for (name, (key, op)) in queue.iter() {
                let reached = name.position <= frontier;
                let at = name.position.clock;
                let result = if *op == Op::Acquire {
                    match self.objects.acquire(*object, key.0[0], at, frontier.clock, reached) {
                        Acquired::Member(member) => OpValue::Int(member as i64),
                        Acquired::None => OpValue::Empty,
                        // No later acquire of this pool can be decided before this one.
                        Acquired::Undecided => continue,
                    }
                } else if reached {
                    self.objects.apply(*object, key, op, at)
                } else {
                    break;
                };
                done.push((*name, result));
            }
            for (name, _) in &done {
                queue.remove(name);
            }
            tally.applied += done.len() as u64;
            for (name, result) in done {
                let logged = self.ledger.get_mut(&name.position.clock).and_then(|l| l.get_mut(&name));
                let Some(logged) = logged else { continue };
                logged.result = Some(result);
                if let Some(to) = logged.waiter.take() {
                    replies.add(to, name, result);
                }
                if logged.op == Op::Acquire {
                    replies.chosen.push((name, result));
                }
            }
        }
    }
}

/// Results on their way out, gathered by session.
#[derive(Default)]
struct Replies {
    to: BTreeMap<(InstanceId, Generation), Vec<(OpName, OpValue)>>,
    /// Results that were a choice.
    chosen: Vec<(OpName, OpValue)>,
}

impl Replies {
    fn add(&mut self, to: (InstanceId, Generation), name: OpName, result: OpValue) {
        self.to.entry(to).or_default().push((name, result));
    }

    fn chosen(&self, vertex: VertexId) -> impl Iterator<Item = Choice> + '_ {
        self.chosen.iter().map(move |(name, result)| (vertex, *name, *result))
    }

    fn send(self, out: &mut Vec<ShardEffect>) {
        for ((to, generation), results) in self.to {
            out.push(ShardEffect::Reply(Reply { to, generation, results }));
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
