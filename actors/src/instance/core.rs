//! The state machine of an instance.
//!
//! ```text
//!            Register            Go                 Loaded from every shard
//!   created ─────────► registered ────► loading ───────────────────────────► running
//!                                        (traditional: no shards, running at once)
//! ```
//!
//! While running, packets of an edge are checked against what the edge has delivered, wait behind
//! lower ones of their lane, and run as futures; one that has to wait for the store is parked in its
//! slot. Progress out is the lowest of input progress, parked and waiting packets and due timers.
//!
//! Invariants: within a lane positions run in order; a due timer runs before the next packet of its
//! flow and not before the input progress passed it or that packet is there; a boundary is reported
//! closed only when everything below it is finished and every shard has acknowledged what was written
//! below it. Memory is bounded by the root's window. Paper: sections 4.2, 4.3, 5.3, 5.4.

mod handover;
mod loading;
mod progress;
mod running;

pub use super::config::{InstanceConfig, InstanceCounts, Running};

use self::handover::Handover;
use self::running::{packet_hint, place};
use super::context::{Cx, Env, State};
use super::lanes::{LaneId, Lanes};
use super::records::{LaneFn, Records, SlotRecords, Spot};
use crate::messages::{Data, InstanceEffect, InstanceEvent, Source};
use crate::order::{Held, Order};
use crate::routing::Change;
use crate::seen::SeenSet;
use crate::splitter::Splitter;
use chc_api::{
    Clock, Direction, FlowKey, Generation, Identity, InstanceId, NetworkFunction, ObjectId, Output, Path,
    Position, Protection, Protections, ShardId, Slot, TimerEvent, Verdict,
};
use chc_runtime::block::{BLOCK_PACKETS_MAX, BlockRef, Desc};
use chc_store::client::Client;
use chc_store::objects::Objects;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

struct Sender {
    source: Source,
    generation: Generation,
    progress: Position,
}

struct InEdge {
    seen: SeenSet,
    senders: Vec<Sender>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Created,
    Registered,
    /// Waits for the records of its slots.
    Loading,
    Running,
    /// Its function did what it had not declared.
    Defective,
}

/// A packet that waits behind another of its lane.
struct Waiting {
    block: BlockRef,
    at: usize,
}

/// Makes the future of a job.
pub trait Spawn<N, P: 'static>: 'static {
    /// Its type.
    type Future: Future<Output = Verdict> + 'static;
    /// Makes one: for a packet, or for a timer.
    fn spawn(&self, nf: Rc<N>, cx: Cx<P>, timer: Option<TimerEvent>) -> Self::Future;
}

impl<N, P: 'static, F, S> Spawn<N, P> for S
where
    S: Fn(Rc<N>, Cx<P>, Option<TimerEvent>) -> F + 'static,
    F: Future<Output = Verdict> + 'static,
{
    type Future = F;
    fn spawn(&self, nf: Rc<N>, cx: Cx<P>, timer: Option<TimerEvent>) -> F {
        self(nf, cx, timer)
    }
}

/// An instance, whatever its network function.
pub trait Instance {
    /// Takes an event.
    fn on_event(&mut self, event: InstanceEvent, out: &mut Vec<InstanceEffect>);
    /// Sends what was gathered since the last call: outputs, progress, batches, closing reports.
    fn flush(&mut self, out: &mut Vec<InstanceEffect>);
    /// What it counted so far.
    fn counts(&self) -> InstanceCounts;
    /// The state it holds itself (traditional mode): cross-flow objects and records.
    fn show(&self) -> LocalState;
    /// Whether nothing waits and everything was sent.
    fn is_idle(&self) -> bool;
    /// Whether a shard has something of it to answer.
    fn awaits_store(&self) -> bool;
    /// Checks what must always hold.
    fn check_invariants(&self);
}

/// The state an instance holds itself.
#[derive(Default)]
pub struct LocalState {
    /// Cross-flow objects.
    pub objects: Vec<(ObjectId, chc_api::ObjectKey, chc_store::objects::Shown)>,
    /// Per-flow records.
    pub records: Vec<(ObjectId, FlowKey, chc_store::record::Record)>,
}

/// Builds the instance of a network function.
pub fn build<N: NetworkFunction, P: Protections>(nf: N, config: InstanceConfig) -> Box<dyn Instance> {
    let mode = config.mode;
    let spawn = move |nf: Rc<N>, cx: Cx<P>, timer: Option<TimerEvent>| async move {
        if mode.is_uncached() {
            cx.fetch().await;
        }
        let handle = cx.clone();
        let verdict = match timer {
            None => nf.packet(handle).await,
            Some(timer) => {
                nf.timer(handle, timer).await;
                Verdict::Forward
            }
        };
        if mode.awaits_acknowledgement() {
            cx.settle().await;
        }
        verdict
    };
    Box::new(InstanceCore::new(nf, spawn, config))
}

/// The state machine.
pub struct InstanceCore<N, P: 'static, S: Spawn<N, P>> {
    config: InstanceConfig,
    nf: Rc<N>,
    spawn: S,
    env: Rc<Env<P>>,
    /// Whether packets come in position order: an instance upstream sends those that waited for the
    /// store behind others.
    in_order: bool,
    /// Whether a packet runs only when nothing below it can come any more.
    holds: bool,
    /// Packets that wait for that.
    order: Order,
    ready: Vec<Held>,
    /// Slots that change hands, in the order of their boundaries.
    handovers: VecDeque<Handover>,
    /// Boundaries at which flows come from other senders, until all senders have passed them.
    barriers: Vec<Clock>,
    /// Changes of routing tables below this boundary are known.
    changes_from: Clock,
    /// Boundaries at which the slots this instance gains were let go, and what came along of their records.
    granted: Vec<(Clock, Vec<(Slot, SlotRecords)>)>,
    phase: Phase,
    /// Shards whose records have not come yet.
    loads: Vec<ShardId>,
    futures: Vec<Pin<Box<Option<S::Future>>>>,
    free: Vec<usize>,
    /// Jobs that wait for a result, by position.
    parked: BTreeMap<Position, usize>,
    lane_of: Vec<LaneId>,
    lanes: Lanes<Waiting>,
    stalled: bool,
    /// Whether packets are at hand below which none can come any more.
    is_in_order: bool,
    /// Whether cross-flow values may be held.
    caches: bool,
    edges: Vec<InEdge>,
    inbox: VecDeque<Data>,
    input: Position,
    splitter: Splitter<P>,
    floor: Clock,
    stamped: Clock,
    closed: Clock,
    closing: Option<(Clock, Vec<u64>)>,
    spots: Vec<Spot>,
    /// Which packets of the block at hand are new here; kept for its memory.
    admitted: Vec<bool>,
    frontier: Vec<(ObjectId, Position)>,
    replay_asked: Vec<(InstanceId, Generation)>,
    replayed: Option<u64>,
    /// Packets and timers begun: tells whether a pass over what waits was of use.
    begun: u64,
    counts: InstanceCounts,
}

impl<N: NetworkFunction, P: Protections, S: Spawn<N, P>> InstanceCore<N, P, S> {
    fn new(nf: N, spawn: S, config: InstanceConfig) -> Self {
        let nf = Rc::new(nf);
        let stored = config.mode.is_stored();
        let seed = config.own.seed;
        let state = if stored {
            State::Store(Box::new(Client::new(
                config.id,
                config.generation,
                config.epoch,
                config.placement,
                &config.specs,
            )))
        } else {
            State::Local(Box::new(Objects::new(config.specs.clone(), config.window, 1, seed)))
        };
        // Nothing changes hands where there is one instance.
        let route = (stored && config.own.instances > 1).then(|| config.own.clone());
        let lanes = N::TRANSLATES.then(|| {
            let (nf, own) = (nf.clone(), config.own.clone());
            let identity = |key: &FlowKey| Identity { key: *key, direction: Direction::LowToHigh };
            Box::new(move |key: &FlowKey, hash| running::lane(&*nf, &own, &identity(key), hash)) as LaneFn
        });
        let records = Records::new(&config.specs, (route, lanes), seed, config.epoch, stored);
        let slots = config.parking.max(2);
        let sender = |source: &Source| Sender {
            source: *source,
            generation: Generation(0),
            progress: Position::before(Clock(0)),
        };
        let edges = config.upstream.iter().map(|senders| InEdge {
            seen: SeenSet::new(config.window),
            senders: senders.iter().map(sender).collect(),
        });
        let from = Source::Instance(config.id);
        let senders: Vec<&Source> = config.upstream.iter().flatten().collect();
        let in_order = matches!(senders.as_slice(), [Source::Root(_)]);
        let env = Env::new(records, state, slots, &config);
        let caches = env.inner().cache.is_some();
        Self {
            edges: edges.collect(),
            splitter: Splitter::new(
                from,
                config.generation,
                &config.ways,
                &config.pool,
                stored && P::on(Protection::RetainedOutputs),
            ),
            in_order,
            // A slot's packets run in the order of the input, whatever addresses they carry: a mapping may
            // be made, used or ended by a lower packet that has not come yet.
            holds: (config.joins && P::on(Protection::JoinedOrder)) || (N::TRANSLATES && !in_order),
            order: Order::default(),
            ready: Vec::new(),
            handovers: VecDeque::new(),
            barriers: Vec::new(),
            changes_from: Clock(0),
            granted: Vec::new(),
            env,
            nf,
            spawn,
            phase: Phase::Created,
            loads: Vec::new(),
            futures: (0..slots).map(|_| Box::pin(None)).collect(),
            free: (0..slots).rev().collect(),
            parked: BTreeMap::new(),
            lane_of: vec![0; slots],
            lanes: Lanes::default(),
            stalled: false,
            is_in_order: false,
            caches,
            inbox: VecDeque::new(),
            input: Position::before(Clock(0)),
            floor: Clock(0),
            stamped: Clock(0),
            closed: Clock(0),
            closing: None,
            spots: Vec::new(),
            admitted: Vec::new(),
            frontier: Vec::new(),
            replay_asked: Vec::new(),
            replayed: (config.generation > Generation(1)).then_some(0),
            begun: 0,
            counts: InstanceCounts::default(),
            config,
        }
    }

    fn start(
        &mut self,
        (cut, stamped): (Clock, Clock),
        downstream: &[(InstanceId, Generation)],
        changes: &[Arc<Change>],
        out: &mut Vec<InstanceEffect>,
    ) {
        for change in changes {
            if change.boundary <= cut {
                self.begin_with_tables(change);
            } else {
                self.learn(change);
            }
        }
        self.floor = cut;
        self.closed = cut;
        self.stamped = stamped;
        self.input = Position::before(cut);
        let asked = std::mem::take(&mut self.replay_asked);
        for (to, generation) in downstream.iter().chain(&asked) {
            self.splitter.connect(*to, *generation, cut);
        }
        for edge in &mut self.edges {
            edge.seen.trim(cut);
            for sender in &mut edge.senders {
                sender.progress = Position::before(cut);
                out.push(InstanceEffect::Replay(sender.source, cut));
            }
        }
        if !self.config.mode.is_stored() {
            return self.begin();
        }
        self.phase = Phase::Loading;
        self.loads = (0..self.config.placement.shards).map(ShardId).collect();
        self.load(out);
    }

    fn on_data(&mut self, data: Data) {
        if data.to_generation != self.config.generation {
            self.counts.fenced += 1;
            return;
        }
        let Some((at, sender)) = self.edges.iter_mut().enumerate().find_map(|(at, edge)| {
            edge.senders.iter_mut().find(|s| s.source == data.from).map(|sender| (at, sender))
        }) else {
            return;
        };
        if sender.generation > data.from_generation {
            self.counts.fenced += 1;
            return;
        }
        sender.generation = data.from_generation;
        if !data.steps.is_empty() {
            let inner = &mut *self.env.inner();
            inner.steps.extend(&data.steps);
            inner.records.advance(&inner.steps);
        }
        if !(data.changes.is_empty() || self.is_asleep()) {
            data.changes.iter().for_each(|change| self.learn(change));
        }
        let input = self.promised(Some((&data.from, data.progress)));
        let input = input.map(|input| self.input_max().map_or(input, |max| max.min(input)));
        if let Some(block) = &data.block {
            // A stamped clock proves that the cut is less than a window behind it.
            self.trim(Clock((block.highest().0 + 1).saturating_sub(self.config.window)));
            let holds = self.holds || self.is_turning();
            let is_in_order = (holds || self.caches) && self.is_in_order(block, input);
            if holds && !is_in_order {
                self.hold(at, block, data.from);
            } else {
                self.is_in_order = is_in_order || self.in_order;
                self.on_block(at, block, data.from);
                self.is_in_order = false;
            }
        }
        if let Some(sender) = self.edges[at].senders.iter_mut().find(|s| s.source == data.from) {
            sender.progress = sender.progress.max(data.progress);
        }
        self.advance_input();
        self.run_waiting();
    }

    /// A block's packets: suppresses what was delivered before, runs or queues the rest.
    fn on_block(&mut self, edge: usize, block: &BlockRef, from: Source) {
        if self.passes_whole(block) {
            return self.forward_whole(edge, block, from);
        }
        {
            let mut inner = self.env.inner();
            if N::LOOKS_UP {
                let places = (0..block.descs.len()).map(|at| place(&inner.records, block, at));
                inner.records.look_ahead(places, &mut self.spots);
            }
            inner.current = Some(block.clone());
        }
        let mut quiet = self.is_quiet();
        let is_new = self.admit_all(edge, block, from);
        for (at, desc) in block.descs.iter().enumerate() {
            if !is_new && !self.admit(edge, desc, from) {
                continue;
            }
            let spot = self.spots.get(at).copied();
            quiet = self.take(block, at, spot, quiet);
        }
        self.env.inner().current = None;
    }

    /// Takes a packet that is new here, `quiet` telling whether nothing waits; returns whether nothing waits now.
    #[inline(always)]
    fn take(&mut self, block: &BlockRef, at: usize, spot: Option<Spot>, mut quiet: bool) -> bool {
        let position = block.descs[at].position();
        if self.is_due_below(&position) {
            if (N::TRANSLATES || self.caches) && self.is_in_order {
                // Nothing below this packet will come: timers are due before it runs.
                self.input = self.input.max(position);
                self.fire_due();
            }
            quiet = self.is_quiet() && !self.is_due_below(&position);
        }
        if quiet && self.run_at_once(block, at, spot) {
            return true;
        }
        self.accept(block, at, spot, quiet);
        self.is_quiet()
    }

    /// Whether a timer is due before a position.
    #[inline(always)]
    fn is_due_below(&self, position: &Position) -> bool {
        self.env.inner().records.due().first_key_value().is_some_and(|(first, _)| first < position)
    }

    /// Whether the packets of a block are in order, and no lower ones wait or can come any more, with the input
    /// progress behind the block.
    fn is_in_order(&self, block: &BlockRef, input: Option<Position>) -> bool {
        self.order.is_empty()
            && block.descs.last().is_none_or(|last| input.is_some_and(|input| last.position() <= input))
            && block.descs.is_sorted_by_key(|desc| (desc.clock, desc.path))
    }

    /// Keeps the packets of a block that are new here.
    fn hold(&mut self, edge: usize, block: &BlockRef, from: Source) {
        let mut order = std::mem::take(&mut self.order);
        order.add(block, (0..block.descs.len()).filter(|at| self.admit(edge, &block.descs[*at], from)));
        self.order = order;
    }

    /// Runs the packets that were held below a position, `is_in_order` telling whether no lower ones can come any more.
    fn release(&mut self, input: Position, is_in_order: bool) {
        if self.order.is_empty() {
            return;
        }
        let (mut order, mut ready) = (std::mem::take(&mut self.order), std::mem::take(&mut self.ready));
        order.take_ready(input, &mut ready);
        self.counts.held += ready.len() as u64;
        self.is_in_order = is_in_order;
        let mut quiet = self.is_quiet();
        for some in ready.chunks(BLOCK_PACKETS_MAX) {
            if N::LOOKS_UP {
                let records = &self.env.inner().records;
                let places = some.iter().map(|held| place(records, order.block(held), held.at as usize));
                records.look_ahead(places, &mut self.spots);
            }
            let mut current = None;
            for (nth, held) in some.iter().enumerate() {
                let block = order.block(held);
                if current.replace(held.block) != Some(held.block) {
                    self.env.inner().current = Some(block.clone());
                }
                let spot = self.spots.get(nth).copied();
                quiet = self.take(block, held.at as usize, spot, quiet);
                order.done(held);
            }
        }
        self.env.inner().current = None;
        self.is_in_order = false;
        ready.clear();
        (self.order, self.ready) = (order, ready);
    }

    /// Whether it is known of all packets of a block at once that an edge delivers them for the first time. If not,
    /// nothing has been done.
    fn admit_all(&mut self, edge: usize, block: &BlockRef, from: Source) -> bool {
        let is_new = if !self.config.mode.is_stored() {
            true
        } else if !(P::on(Protection::PathPositions) && P::on(Protection::OutputSuppression)) {
            false
        } else {
            // While it catches up, those that were there before are counted.
            self.replayed.is_none()
                && block.descs.first().is_some_and(|first| first.clock >= self.floor)
                && self.edges[edge].seen.insert_all(block.descs.iter().map(|desc| (desc.clock, desc.path)))
        };
        if is_new {
            self.counts.packets += block.descs.len() as u64;
            block.descs.first().into_iter().for_each(|desc| self.assert_promise(edge, desc, from));
        }
        is_new
    }

    /// What a sender has said will not come any more does not come.
    #[inline(always)]
    fn assert_promise(&self, edge: usize, desc: &Desc, from: Source) {
        if cfg!(debug_assertions) && self.config.mode.is_stored() && P::on(Protection::OutputSuppression) {
            let progress = self.edges[edge].senders.iter().find(|s| s.source == from).map(|s| s.progress);
            let late = progress.is_some_and(|p| desc.position() < p);
            assert!(
                !late || !P::on(Protection::ReplayHoldsProgress),
                "{from:?} promised no {desc:?} any more"
            );
        }
    }

    /// Whether an edge delivers this packet for the first time.
    #[inline(always)]
    fn admit(&mut self, edge: usize, desc: &Desc, from: Source) -> bool {
        if self.config.mode.is_stored() {
            let path = if P::on(Protection::PathPositions) { desc.path } else { Path::FIRST };
            let suppress = P::on(Protection::OutputSuppression);
            if desc.clock < self.floor || suppress && !self.edges[edge].seen.insert(desc.clock, path) {
                self.counts.duplicates += 1;
                return false;
            }
            self.assert_promise(edge, desc, from);
        }
        self.counts.packets += 1;
        if desc.clock < self.stamped
            && let Some(replayed) = &mut self.replayed
        {
            *replayed += 1;
        }
        true
    }

    /// Whether nothing waits and all packets of a block pass unchanged to the same receiver.
    fn passes_whole(&self, block: &BlockRef) -> bool {
        self.is_quiet()
            && !self.is_due_below(&Position::before(Clock(block.highest().0 + 1)))
            && self.splitter.has_one_receiver()
            && block.descs.iter().all(|desc| self.nf.passes(packet_hint(desc)))
    }

    /// Sends a block on as it is, unless some of its packets had been delivered before.
    fn forward_whole(&mut self, edge: usize, block: &BlockRef, from: Source) {
        if self.admit_all(edge, block, from) {
            return self.splitter.forward_whole(block);
        }
        let mut admitted = std::mem::take(&mut self.admitted);
        admitted.clear();
        admitted.extend(block.descs.iter().map(|desc| self.admit(edge, desc, from)));
        if admitted.iter().all(|fresh| *fresh) {
            self.splitter.forward_whole(block);
        } else {
            for (desc, _) in block.descs.iter().zip(&admitted).filter(|(_, fresh)| **fresh) {
                self.splitter.forward(Output::FIRST, block, desc);
                self.splitter.enter(block, desc);
            }
        }
        self.admitted = admitted;
    }

    /// Whether nothing waits and packets wait for nothing but due timers.
    fn is_quiet(&self) -> bool {
        self.lanes.is_empty() && !self.config.mode.awaits_acknowledgement() && self.config.poisoned.is_empty()
    }

    /// Ends the jobs whose updates are acknowledged.
    fn resume_settled(&mut self) {
        if !self.config.mode.awaits_acknowledgement() {
            return;
        }
        loop {
            let settled = self.env.inner().settled();
            if settled.is_empty() {
                return;
            }
            for slot in settled {
                self.resume(slot);
            }
            self.run_waiting();
        }
    }

    fn trim(&mut self, cut: Clock) {
        if cut <= self.floor {
            return;
        }
        self.floor = cut;
        for edge in &mut self.edges {
            edge.seen.trim(cut);
        }
        self.splitter.trim(cut);
        self.config.own.trim(cut);
        self.granted.retain(|(boundary, _)| *boundary >= cut);
        let inner = &mut *self.env.inner();
        inner.steps.trim(cut);
        if let Some(replica) = &mut inner.replica {
            replica.trim(cut);
        }
    }
}

impl<N: NetworkFunction, P: Protections, S: Spawn<N, P>> Instance for InstanceCore<N, P, S> {
    fn on_event(&mut self, event: InstanceEvent, out: &mut Vec<InstanceEffect>) {
        match event {
            InstanceEvent::Go { cut, stamped, downstream, changes, granted } => {
                if self.phase == Phase::Registered {
                    granted.into_iter().for_each(|boundary| self.on_granted(boundary, Vec::new()));
                    self.start((cut, stamped), &downstream, &changes, out);
                }
            }
            InstanceEvent::Granted { boundary, records } => {
                self.on_granted(boundary, records);
                self.hand_over(out);
            }
            InstanceEvent::Loaded(loaded) => {
                self.on_loaded(&loaded);
                self.hand_over(out);
            }
            InstanceEvent::Data(data) => self.receive(data),
            InstanceEvent::Awake(changes) => {
                if matches!(self.phase, Phase::Loading | Phase::Running) {
                    self.on_awake(&changes);
                }
            }
            InstanceEvent::Reply(reply) => {
                if reply.generation != self.config.generation {
                    return;
                }
                self.env.inner().observe(&reply.results);
                for (position, records) in &reply.records {
                    let slot = self.env.inner().fetched(position, records);
                    if let Some(slot) = slot {
                        self.resume(slot);
                    }
                }
                for (name, value) in &reply.values {
                    self.env.inner().learn(name, value);
                }
                for (name, result) in reply.results {
                    let slot = self.env.inner().deliver(&name, result);
                    if let Some(slot) = slot {
                        self.resume(slot);
                    }
                }
                self.run_waiting();
            }
            InstanceEvent::Changed(changes) => self.on_changed(&changes),
            InstanceEvent::Acknowledged { shard, number } => {
                if let State::Store(client) = &mut self.env.inner().state {
                    client.acknowledged(shard, number);
                }
                self.resume_settled();
                self.report_closing(out);
                self.hand_over(out);
            }
            InstanceEvent::Overdue => self.on_overdue(out),
            InstanceEvent::PauseOver(position) => {
                let slot = self.parked.get(&position).copied();
                if let Some(slot) = slot.filter(|slot| self.env.inner().pause_over(*slot)) {
                    self.resume(slot);
                    self.run_waiting();
                }
            }
            InstanceEvent::Cut(cut) => self.trim(cut),
            InstanceEvent::Replay { to, generation, boundary } => match self.phase {
                Phase::Created | Phase::Registered => self.replay_asked.push((to, generation)),
                _ => {
                    let inner = self.env.inner();
                    let mut send = |to, data| out.push(InstanceEffect::Data(to, data));
                    self.splitter.replay(to, generation, boundary, &inner.steps, &mut send);
                }
            },
        }
    }

    fn flush(&mut self, out: &mut Vec<InstanceEffect>) {
        match self.phase {
            Phase::Running => {}
            Phase::Created => {
                self.phase = Phase::Registered;
                return out.push(InstanceEffect::Register);
            }
            _ => return,
        }
        self.resume_settled();
        if let Some(defect) = self.env.inner().defect.take() {
            // Nothing of it reaches others: not the outputs, nor the operations.
            self.phase = Phase::Defective;
            return out.push(InstanceEffect::Defect(defect));
        }
        for (position, duration) in self.env.inner().pauses.drain(..) {
            out.push(InstanceEffect::Pause(position, duration));
        }
        let progress = self.progress();
        let closing = self.begin_closing();
        self.find_frontier();
        let config = &self.config;
        let own = &config.own;
        {
            let inner = &mut *self.env.inner();
            if let State::Store(client) = &mut inner.state {
                for (object, key, written, record) in inner.records.versions.drain(..) {
                    let slot: Slot = own.slot_of(&key, key.hash(own.seed));
                    client.version(object, slot, key, written, record);
                }
                // Others wait for this frontier, or operations of this instance do, or what was written to replicated
                // values below the boundary has to be with all others before it is closed.
                let due = self.splitter.awaited().others(config.id)
                    || !self.parked.is_empty()
                    || client.has_ops()
                    || closing.is_some() && inner.replica.is_some();
                let frontier = if due { Some(self.frontier.as_slice()) } else { None };
                client.flush(frontier, |shard, batch| out.push(InstanceEffect::Batch(shard, batch)));
                if let Some(boundary) = closing {
                    let mut needs = Vec::new();
                    client.issued(&mut needs);
                    self.closing = Some((boundary, needs));
                }
                inner.written_through();
            } else if let Some(boundary) = closing {
                self.closing = Some((boundary, Vec::new()));
            }
            let mut send = |to, data| out.push(InstanceEffect::Data(to, data));
            self.splitter.flush(&inner.steps, progress, &mut send);
        }
        self.report_closing(out);
        let reached = self.splitter.awaited().reach(self.config.id, self.input);
        if reached >= Position::before(self.stamped)
            && let Some(replayed) = self.replayed.take()
        {
            out.push(InstanceEffect::CaughtUp { replayed });
        }
        if self.hand_over(out) {
            // Nothing was waited for: what ran then is sent, too.
            self.flush(out);
        }
    }

    fn counts(&self) -> InstanceCounts {
        let (round_trips, known) = {
            let inner = self.env.inner();
            (inner.round_trips, inner.known)
        };
        InstanceCounts { round_trips, known, drops: self.splitter.drops(), ..self.counts }
    }

    fn show(&self) -> LocalState {
        let inner = self.env.inner();
        match &inner.state {
            State::Local(objects) => {
                LocalState { objects: objects.show(), records: inner.records.show().collect() }
            }
            State::Store(_) => LocalState::default(),
        }
    }

    fn is_idle(&self) -> bool {
        self.phase == Phase::Running
            && self.parked.is_empty()
            && self.lanes.is_empty()
            && self.order.is_empty()
            && self.closing.is_none()
    }

    fn awaits_store(&self) -> bool {
        let inner = self.env.inner();
        let State::Store(client) = &inner.state else { return false };
        !self.loads.is_empty() || self.awaits_gained() || client.awaits_acknowledgement() || inner.waits() > 0
    }

    fn check_invariants(&self) {
        assert_eq!(
            self.free.len() + self.parked.len(),
            self.futures.len(),
            "every slot is free or parked between events"
        );
        assert!(
            self.order.lowest().is_none_or(|lowest| lowest >= self.input),
            "what is held has the input progress to wait for"
        );
        assert!(self.progress() <= self.input, "outputs cannot be ahead of inputs");
        assert!(self.closed <= self.progress().clock, "nothing below a closed boundary is unfinished");
        let inner = self.env.inner();
        assert_eq!(inner.waits(), self.parked.len(), "a parked job waits for one operation or a pause");
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
