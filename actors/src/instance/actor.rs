//! The wiring of an instance and its splitter.

use super::core::{Instance, InstanceCounts, LocalState};
use super::metrics::{Counted, Metrics};
use crate::chain::wire::{DataMessage, InstanceControl, Links, Notice, RootControl};
use crate::messages::{InstanceEffect, InstanceEvent, RootEvent, Source};
use crate::shard::actor::ShardControl;
use chc_api::{Generation, InstanceId, Position};
use chc_runtime::actor::{Actor, Cx, Progress};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What timers of the runtime are exact to.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

/// Of so many packets one is looked at for its slot.
const SAMPLED: usize = 16;

/// What outlives generations: counts of the vertex, metrics of the instance; and whether packets are counted by slot.
pub type Kept = (Arc<parking_lot::Mutex<InstanceCounts>>, Arc<Metrics>, bool);

/// The actor.
pub struct InstanceActor {
    id: InstanceId,
    generation: Generation,
    core: Box<dyn Instance>,
    links: Links,
    effects: Vec<InstanceEffect>,
    /// Pauses of packets and timers, and when they are over.
    pauses: BTreeSet<(Instant, Position)>,
    /// How long a shard may take to answer, and when what it has not answered by then is overdue.
    retransmit: Duration,
    overdue: Option<Instant>,
    published: InstanceCounts,
    totals: Arc<parking_lot::Mutex<InstanceCounts>>,
    metrics: Arc<Metrics>,
    /// Whether packets are counted by slot, and packets until one is.
    is_sampled: bool,
    unsampled: usize,
    /// When the first message of this turn was taken.
    turn: Option<Instant>,
}

impl InstanceActor {
    /// The actor of one generation. What a shard has not answered in `retransmit` is sent again.
    #[must_use]
    pub fn new(
        id: InstanceId,
        generation: Generation,
        core: Box<dyn Instance>,
        links: Links,
        retransmit: Duration,
        (totals, metrics, is_sampled): Kept,
    ) -> Self {
        Self {
            id,
            generation,
            core,
            links,
            effects: Vec::new(),
            pauses: BTreeSet::new(),
            retransmit,
            overdue: None,
            published: InstanceCounts::default(),
            totals,
            metrics,
            is_sampled,
            unsampled: 0,
            turn: None,
        }
    }

    fn execute(&mut self) {
        let (id, generation) = (self.id, self.generation);
        for effect in self.effects.drain(..) {
            match effect {
                InstanceEffect::Data(to, data) => self.links.send(to, data),
                InstanceEffect::Batch(shard, batch) => self.links.batch(shard, batch),
                InstanceEffect::Load(shard, load) => self.links.tell_shard(shard, ShardControl::Load(load)),
                InstanceEffect::Replay(Source::Root(root), boundary) => {
                    self.links
                        .tell_root(root, RootControl::Event(RootEvent::Replay(id, generation, boundary)));
                }
                InstanceEffect::Replay(Source::Instance(upstream), boundary) => {
                    let event = InstanceEvent::Replay { to: id, generation, boundary };
                    self.links.tell_instance(upstream, None, InstanceControl::Event(event));
                }
                InstanceEffect::Register => {
                    self.links.tell_first_root(RootControl::Event(RootEvent::Register(id, generation)));
                }
                InstanceEffect::Closed(boundary, records) => {
                    self.links.tell_first_root(RootControl::Event(RootEvent::Closed(
                        id, generation, boundary, records,
                    )));
                }
                InstanceEffect::Pause(position, duration) => {
                    self.pauses.insert((Instant::now() + duration, position));
                }
                InstanceEffect::Defect(reason) => self.links.notify(Notice::Defect { instance: id, reason }),
                InstanceEffect::CaughtUp { replayed } => {
                    self.links.notify(Notice::CaughtUp {
                        instance: id,
                        generation,
                        replayed,
                        at: Instant::now(),
                    });
                }
            }
        }
    }

    fn publish(&mut self) {
        let counts = self.core.counts();
        let last = std::mem::replace(&mut self.published, counts);
        if let Some(begun) = self.turn.take() {
            let counted = Counted {
                packets: counts.packets - last.packets,
                drops: counts.drops - last.drops,
                known: counts.known - last.known,
                waits: counts.round_trips - last.round_trips,
                busy_ns: 0,
            };
            self.metrics.turn(begun.elapsed(), &counted);
        }
        let mut totals = self.totals.lock();
        totals.held += counts.held - last.held;
        totals.packets += counts.packets - last.packets;
        totals.duplicates += counts.duplicates - last.duplicates;
        totals.parked += counts.parked - last.parked;
        totals.timers += counts.timers - last.timers;
        totals.fenced += counts.fenced - last.fenced;
        totals.drops += counts.drops - last.drops;
        totals.handovers += counts.handovers - last.handovers;
        totals.round_trips += counts.round_trips - last.round_trips;
        totals.known += counts.known - last.known;
        totals.retransmitted += counts.retransmitted - last.retransmitted;
    }
}

impl Actor for InstanceActor {
    type Control = InstanceControl;
    type Data = DataMessage;

    fn started(&mut self, _cx: &mut Cx) {
        self.core.flush(&mut self.effects);
        self.execute();
    }

    fn on_control(&mut self, message: InstanceControl, _cx: &mut Cx) {
        self.turn.get_or_insert_with(Instant::now);
        match message {
            InstanceControl::Event(event) => self.core.on_event(event, &mut self.effects),
            InstanceControl::Inspect(reply) => {
                let state: LocalState = self.core.show();
                // Nobody may be waiting any more.
                let _ = reply.send(state);
            }
        }
        self.execute();
    }

    fn on_data(&mut self, DataMessage(data): DataMessage, _cx: &mut Cx) {
        self.turn.get_or_insert_with(Instant::now);
        if let Some(block) = data.block.as_ref().filter(|_| self.is_sampled) {
            let len = block.descs.len();
            if self.unsampled < len {
                // Where there is load to be balanced there are several instances.
                let looked_at = (self.unsampled..len).step_by(SAMPLED);
                self.metrics.look_at(looked_at.filter_map(|at| block.slot(at)));
                self.unsampled += (len - self.unsampled).div_ceil(SAMPLED) * SAMPLED;
            }
            self.unsampled -= len;
        }
        self.core.on_event(InstanceEvent::Data(data), &mut self.effects);
    }

    /// Ends pauses that are over. They are shorter than a timer can tell: while one is about to end, the actor
    /// stays busy.
    fn poll_work(&mut self, _cx: &mut Cx) -> Progress {
        let Some((first, _)) = self.pauses.first() else { return Progress::Idle };
        let now = Instant::now();
        if *first > now + TIMER_GRAIN {
            return Progress::Idle;
        }
        while self.pauses.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, position)) = self.pauses.pop_first() {
                self.core.on_event(InstanceEvent::PauseOver(position), &mut self.effects);
            }
        }
        Progress::Worked
    }

    fn next_deadline(&self) -> Option<Instant> {
        let pause = self.pauses.first().and_then(|(at, _)| at.checked_sub(TIMER_GRAIN));
        pause.into_iter().chain(self.overdue).min()
    }

    fn on_deadline(&mut self, now: Instant, _cx: &mut Cx) {
        if self.overdue.is_some_and(|at| at <= now) {
            self.overdue = None;
            self.core.on_event(InstanceEvent::Overdue, &mut self.effects);
        }
    }

    fn drained(&mut self, _cx: &mut Cx) {
        self.core.flush(&mut self.effects);
        self.execute();
        // It stays set when everything is answered: to set a timer anew for every batch would cost more than the batch.
        if self.overdue.is_none() && self.core.awaits_store() {
            self.overdue = Some(Instant::now() + self.retransmit);
        }
        self.publish();
    }
}
